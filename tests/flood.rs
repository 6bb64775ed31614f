//! More console than anybody reads: 1 GiB of input to a guest that never reads and of output to a reader that stopped
//! neither grow memory nor stop a vCPU. (security.md rows 48 and 49; the limits themselves are tested beside the code.)

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::PROGRAM;
use common::kvm;
use common::scratch::Scratch;
use hostel::backend::console_output::ConsoleOutput;
use hostel::backend::console_ring::{RING_BYTES, console_ring};
use hostel::backend::console_sink::ConsoleSink;
use hostel::bus::bus::Bus;
use hostel::bus::irq::Unconnected;
use hostel::bus::request::GuestRequests;
use hostel::devices::serial::Serial;
use hostel::kvm::exit::Exit;
use hostel::machine::io::{IoHandler, MachineIo};
use hostel::machine::notices::Notices;
use hostel::vcpu::cpu::Cpu;
use hostel::vcpu::handler::StopReason;
use hostel::vcpu::run_loop::{Control, run_loop};
use hostel::vcpu::scripted::ScriptedCpu;
use rustix::io::ioctl_fionread;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How much memory may grow while any amount passes.
const GROWTH_MAX_KIB: u64 = 1 << 10;

/// Memory of its own that a process has touched, in KiB (proc_pid_status(5)); `None` once it has ended. Pages of files are left
/// out: a debug build's code comes in by the megabyte where it runs for the first time, as on the way out.
fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?.trim().strip_suffix(" kB")?.parse().ok()
}

/// Waits for something that is bound to happen.
#[track_caller]
fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(120), "{what} did not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Starts machine code in 64-bit mode on a machine without interrupts, all standard streams piped.
fn start(scratch: &Scratch, code: &[&[u8]]) -> Child {
    let image = scratch.file("image", &code.concat());
    let mut command = Command::new(PROGRAM);
    command.args(["run", &image, "--format", "flat64", "--irqchip", "none", "--mem", "16M"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the program can be started");
    // The smaller the pipe, the sooner it is full.
    let stdout = child.stdout.as_ref().expect("a pipe");
    rustix::pipe::fcntl_setpipe_size(stdout, 4096).expect("pipes have a size");
    child
}

/// Ends a run with status 11: `mov edx, 0xf4; mov eax, 5; out dx, eax`.
const EXIT_5: &[u8] = b"\xba\xf4\0\0\0\xb8\x05\0\0\0\xef";

#[test]
fn sec49_a_guest_that_ignores_the_line_status_floods_a_reader_that_stopped() {
    if !kvm::available() {
        return;
    }
    const PAGES: u32 = 20;
    // mov edx, 0x3f8; mov ebx, PAGES; then PAGES times: mov esi, 0x10000; mov ecx, 4096; rep outsb; dec ebx; jnz
    let code = [
        &b"\xba\xf8\x03\0\0\xbb"[..],
        &PAGES.to_le_bytes(),
        b"\xbe\0\0\x01\0\xb9\0\x10\0\0\xf3\x6e\xff\xcb\x75\xf0",
        EXIT_5,
    ];
    let scratch = Scratch::new("flood-out");
    let mut child = start(&scratch, &code);
    let mut stdout = child.stdout.take().expect("a pipe");
    until("the first output", || ioctl_fionread(&stdout).expect("a pipe") > 0);
    let before = resident_kib(child.id()).expect("it runs");
    let mut most = before;
    // The guest ends although nobody reads; Hostel waits two seconds for the reader, and then ends too.
    until("the end", || {
        most = most.max(resident_kib(child.id()).unwrap_or(0));
        child.try_wait().expect("a child can be waited for").is_some()
    });
    assert!(most - before <= GROWTH_MAX_KIB, "from {before} to {most} KiB");
    let status = child.wait().expect("it has ended");
    let (mut read, mut said) = (Vec::new(), String::new());
    stdout.read_to_end(&mut read).expect("a pipe");
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    let lost = u64::from(PAGES) * 4096 - read.len() as u64;
    assert_eq!(status.code(), Some(11), "{said}");
    assert!(said.starts_with(&format!("hostel: {lost} bytes of the console reached no reader\n")), "{lost}: {said}");
}

#[test]
fn sec49_a_guest_that_heeds_the_line_status_loses_nothing_when_the_reader_returns() {
    if !kvm::available() {
        return;
    }
    const BYTES: u32 = 80_000;
    // xor ebx, ebx; mov edx, 0x3fa; mov al, 1; out dx, al: FIFOs on
    // again: mov edx, 0x3fd; poll: in al, dx; test al, 0x20; jz poll; mov edx, 0x3f8; mov ecx, 16
    // byte: mov eax, ebx; out dx, al; inc ebx; dec ecx; jnz byte; cmp ebx, BYTES; jne again
    let code = [
        &b"\x31\xdb\xba\xfa\x03\0\0\xb0\x01\xee"[..],
        b"\xba\xfd\x03\0\0\xec\xa8\x20\x74\xfb\xba\xf8\x03\0\0\xb9\x10\0\0\0",
        b"\x89\xd8\xee\xff\xc3\xff\xc9\x75\xf7\x81\xfb",
        &BYTES.to_le_bytes(),
        b"\x75\xdb",
        EXIT_5,
    ];
    let scratch = Scratch::new("flood-wait");
    let mut child = start(&scratch, &code);
    let mut stdout = child.stdout.take().expect("a pipe");
    // The pipe is full when it takes no more; how many bytes that are depends on the sizes of the writes.
    let (mut waiting, mut since) = (0, Instant::now());
    until("a full pipe", || {
        let now = ioctl_fionread(&stdout).expect("a pipe");
        if now != waiting {
            (waiting, since) = (now, Instant::now());
        }
        waiting > 0 && since.elapsed() > Duration::from_millis(300)
    });
    let mut read = Vec::new();
    stdout.read_to_end(&mut read).expect("a pipe");
    assert!(read.iter().zip(0..BYTES).all(|(byte, number)| *byte == number as u8));
    assert_eq!((read.len(), child.wait().expect("a child").code()), (BYTES as usize, Some(11)));
}

#[test]
fn sec48_input_for_a_guest_that_never_reads_stays_with_the_writer() {
    if !kvm::available() {
        return;
    }
    // mov ecx, 40000; then as often: out 0x80, al; dec ecx; jnz
    let scratch = Scratch::new("flood-in");
    let mut child = start(&scratch, &[b"\xb9\x40\x9c\0\0\xe6\x80\xff\xc9\x75\xfa", EXIT_5]);
    let mut stdin = child.stdin.take().expect("a pipe");
    until("the start", || resident_kib(child.id()).is_some());
    let writer = thread::spawn(move || {
        let mut accepted = 0;
        while accepted < 1 << 30
            && let Ok(count) = stdin.write(&[b'x'; 4096])
        {
            accepted += count;
        }
        accepted
    });
    let mut most = 0;
    until("the end", || {
        most = most.max(resident_kib(child.id()).unwrap_or(0));
        child.try_wait().expect("a child can be waited for").is_some()
    });
    assert_eq!(child.wait().expect("it has ended").code(), Some(11));
    // Our buffer, the pipe, the receiver's FIFO, and a write that was cut short.
    let accepted = writer.join().expect("the writer only writes");
    assert!(accepted <= (64 << 10) + (64 << 10) + 8192, "{accepted} bytes");
    assert!(most < 64 << 10, "{most} KiB");
}

/// Takes no orders.
struct NoOrders;

impl Control for NoOrders {
    fn interrupted(&mut self, _cpu: &mut dyn Cpu) -> ControlFlow<StopReason> {
        ControlFlow::Break(StopReason::Told)
    }
}

/// The whole way of a byte, from the exit to a pipe that nobody reads, for 1 GiB; without optimization, which takes ten times
/// as long, for less.
#[test]
fn sec49_a_gibibyte_of_exits_passes_a_reader_that_stopped() {
    const BYTES: u64 = if cfg!(debug_assertions) { 8 << 20 } else { 1 << 30 };
    const BURST: u64 = 1 << 16;
    let (_reader, writer) = rustix::pipe::pipe().expect("there are descriptors left");
    let (ring, end) = console_ring(false, Arc::new(|| ()));
    let mut output = ConsoleOutput::new(end, ConsoleSink::over(writer), None);
    let mut ports = Bus::default();
    let serial = Arc::new(Mutex::new(Serial::new(Box::new(Unconnected), Box::new(ring))));
    ports.insert("COM1", 0x3f8, 8, serial.clone()).expect("the bus is empty");
    let io = MachineIo {
        ports,
        mmio: Bus::default(),
        ioapic: None,
        requests: GuestRequests::default(),
        exits: AtomicU64::new(0),
        ends_on_panic: true,
        notices: Notices::new(Box::new(|_| {})),
    };
    let mut handler = IoHandler(Arc::new(io));
    let mut exits = vec![Exit::PioWrite { port: 0x3f8, size: 1, value: b'x'.into() }; BURST as usize];
    exits.push(Exit::Halt);
    for _ in 0..BYTES / BURST {
        let mut cpu = ScriptedCpu::new(exits.clone());
        let end = run_loop(&mut cpu, &mut handler, None, &mut NoOrders);
        assert!(matches!(end, Ok(StopReason::Halted)), "{end:?}");
        output.turn(Instant::now() + Duration::from_secs(1));
    }
    let kept = BYTES - serial.lock().expect("nobody panicked").lost();
    // The ring and the pipe; that of a system with large pages holds more.
    assert!(kept >= RING_BYTES as u64 && kept <= RING_BYTES as u64 + (1 << 20), "{kept} of {BYTES} bytes");
}
