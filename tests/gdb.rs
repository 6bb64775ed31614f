//! The gdb stub: spoken to packet by packet, which needs nothing but KVM, and by gdb itself where it is installed.
//!
//! What a KVM may lack (watchpoints where guest code is interpreted) is asked of the stub first, and its refusal is tested then.
//! Source: GDB manual "Remote Protocol".

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{PROGRAM, finish, hostel};
use common::kvm;
use common::lab_image::find_program;
use common::scratch::Scratch;
use common::session::Session;
use hostel::boot::image::Image;
use hostel::boot::samples;
use hostel::debug::symbols::Symbols;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Long enough for every answer that comes at all, also under software emulation.
const DEADLINE: Duration = Duration::from_secs(120);

/// Hostel, waiting for gdb.
struct Debuggee {
    scratch: Scratch,
    session: Session,
}

impl Debuggee {
    /// Runs a sample guest under `--gdb`, and waits until gdb can come.
    fn start(guest: &str, arguments: &[&str]) -> Debuggee {
        let scratch = Scratch::new(&format!("gdb-{}", std::thread::current().name().unwrap()));
        let mut command = Command::new(PROGRAM);
        command.args(["run", guest, "--gdb", &format!("unix:{}", scratch.join("s"))]).args(arguments);
        let mut session = Session::on_pipes(command);
        session.wait_for("the guest waits before its first instruction");
        Debuggee { scratch, session }
    }

    fn connect(&self) -> Client {
        Client::new(UnixStream::connect(self.scratch.join("s")).unwrap())
    }

    /// Waits for the end; the status and all that was said and printed.
    fn end(self) -> (i32, String) {
        self.session.end()
    }
}

/// The other end of the protocol, as short as it can be.
struct Client(UnixStream);

impl Client {
    fn new(stream: UnixStream) -> Client {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut client = Client(stream);
        client.send("QStartNoAckMode");
        assert_eq!(client.byte(), b'+');
        assert_eq!(client.receive(), "OK");
        client.0.write_all(b"+").unwrap();
        client
    }

    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        self.0.write_all(format!("${packet}#{sum:02x}").as_bytes()).unwrap();
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.0.read_exact(&mut byte).unwrap();
        byte[0]
    }

    /// The next packet, with runs written out (GDB manual "Overview": a count behind `*`, 29 less).
    fn receive(&mut self) -> String {
        assert_eq!(self.byte(), b'$');
        let mut text = String::new();
        loop {
            match self.byte() {
                b'#' => break,
                b'*' => {
                    let last = text.chars().last().unwrap();
                    let count = self.byte() - 29;
                    text.extend((0..count).map(|_| last));
                }
                byte => text.push(byte.into()),
            }
        }
        let _checksum = [self.byte(), self.byte()];
        text
    }

    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive()
    }

    /// Register `number` of 8 bytes in the order of the `g` packet: RAX is 0, RIP 16.
    fn register(&mut self, number: usize) -> u64 {
        let all = self.ask("g");
        u64::from_str_radix(&all[16 * number..][..16], 16).unwrap().swap_bytes()
    }

    fn rip(&mut self) -> u64 {
        self.register(16)
    }

    /// What a monitor command answers.
    fn monitor(&mut self, line: &str) -> String {
        let hex: String = line.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.send(&format!("qRcmd,{hex}"));
        let mut text = String::new();
        loop {
            match self.receive().as_str() {
                "OK" => return text,
                output => text.push_str(&text_of(output.strip_prefix('O').unwrap())),
            }
        }
    }
}

fn text_of(hex: &str) -> String {
    let bytes = (0..hex.len() / 2).map(|index| u8::from_str_radix(&hex[2 * index..][..2], 16).unwrap());
    bytes.map(char::from).collect()
}

/// The address of a symbol of a sample guest.
fn address_of(guest: &str, symbol: &str) -> u64 {
    let sample = samples::find(guest).unwrap();
    let symbols = Symbols::read(&Image::from_bytes(guest, sample.image)).unwrap();
    (0x10_0000..0x11_0000)
        .find(|at| symbols.find(*at).is_some_and(|(name, past)| past == 0 && name.contains(symbol)))
        .unwrap()
}

#[test]
fn only_this_host_may_debug() {
    let refused = hostel(&["run", "hello", "--gdb", "0.0.0.0:1234"], "");
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.contains("reached by other hosts"), "{}", refused.stderr);
}

#[test]
fn a_breakpoint_is_met_stepped_over_and_unseen() {
    if !kvm::available() {
        return;
    }
    let main = address_of("hello", "guest_main");
    let debuggee = Debuggee::start("hello", &[]);
    let mut gdb = debuggee.connect();
    assert_eq!(gdb.ask("?"), "T05thread:01;");
    assert_eq!(gdb.rip(), address_of("hello", "pvh_start"));
    let code = gdb.ask(&format!("m{main:x},4"));
    assert_eq!(gdb.ask(&format!("Z0,{main:x},1")), "OK");
    assert_eq!(gdb.ask(&format!("m{main:x},4")), code, "the guest's own bytes");
    assert_eq!(gdb.ask("vCont;c"), "T05thread:01;swbreak:;");
    assert_eq!(gdb.rip(), main);
    // The first instruction is `push rax`, one byte.
    assert_eq!(gdb.ask("vCont;s:1;c"), "T05thread:01;", "with the breakpoint still there");
    assert_eq!(gdb.rip(), main + 1);
    let answer = gdb.ask("vCont;c");
    assert_eq!(answer, "W00", "no second visit");
    drop(gdb);
    let (status, said) = debuggee.end();
    assert_eq!(status, 0);
    assert!(said.contains("Hello from a guest") && said.contains("powering off"), "{said}");
}

#[test]
fn registers_and_memory_are_read_and_written() {
    if !kvm::available() {
        return;
    }
    let main = address_of("hello", "guest_main");
    let debuggee = Debuggee::start("hello", &[]);
    let mut gdb = debuggee.connect();
    assert_eq!(gdb.ask(&format!("Z0,{main:x},1")), "OK");
    assert_eq!(gdb.ask("vCont;c"), "T05thread:01;swbreak:;");
    let registers = gdb.ask("g");
    let written = format!("{}{}", "efcdab8967452301", &registers[16..]);
    assert_eq!(gdb.ask(&format!("G{written}")), "OK");
    assert_eq!(gdb.register(0), 0x0123_4567_89ab_cdef);
    assert_eq!(gdb.ask(&format!("G{registers}")), "OK");
    assert_eq!(gdb.ask("M8000,3:616263"), "OK");
    assert_eq!(gdb.ask("m8000,4"), "61626300");
    assert_eq!(gdb.monitor("xp 0x8000 3"), "0x8000: 61 62 63\n");
    assert!(gdb.monitor("walk 0x8000").ends_with("0x8000 is at guest-physical 0x8000\n"));
    assert!(gdb.monitor("regs").contains("efer"));
    assert_eq!(gdb.monitor("msr 0xc0000080"), "0xc0000080 (IA32_EFER) = 0x500\n");
    assert_eq!(gdb.monitor("msr 0x12345678"), "KVM does not tell 0x12345678\n");
    assert!(gdb.monitor("help").contains("walk ADDRESS"));
    assert!(gdb.monitor("nonsense").contains("not understood"));
    assert_eq!(gdb.ask("m8000000000,4"), "E0e", "not mapped");
    assert_eq!(gdb.monitor("physical on"), "addresses are guest-physical ones\n");
    assert_eq!(gdb.ask("m8000000000,4"), "E0e", "no RAM");
    assert_eq!(gdb.ask("D"), "OK");
    let (status, said) = debuggee.end();
    assert_eq!(status, 0);
    assert!(said.contains("the guest goes on") && said.contains("powering off"), "{said}");
}

#[test]
fn ctrl_c_stops_a_guest_that_runs_and_a_kill_ends_it() {
    if !kvm::available() {
        return;
    }
    let mut debuggee = Debuggee::start("shell", &[]);
    let mut gdb = debuggee.connect();
    gdb.send("vCont;c");
    debuggee.session.wait_for("> ");
    gdb.0.write_all(&[3]).unwrap();
    assert_eq!(gdb.receive(), "T02thread:01;");
    assert_ne!(gdb.rip(), 0);
    // It leaves, the guest runs on, and the next one stops it again.
    drop(gdb);
    debuggee.session.wait_for("the guest goes on");
    let mut gdb = debuggee.connect();
    assert_eq!(gdb.ask("?"), "T05thread:01;");
    gdb.send("k");
    let (status, said) = debuggee.end();
    assert_eq!(status, 130);
    assert!(said.contains("ended by the user"), "{said}");
}

#[test]
fn each_vcpu_is_a_thread() {
    if !kvm::available() {
        return;
    }
    let second = address_of("smp", "introduce_and_count");
    let debuggee = Debuggee::start("smp", &[]);
    let mut gdb = debuggee.connect();
    assert_eq!(gdb.ask("qfThreadInfo"), "m01,02");
    assert_eq!(text_of(&gdb.ask("qThreadExtraInfo,2")), "vCPU 1, 16 bit");
    assert_eq!(gdb.ask(&format!("Z0,{second:x},1")), "OK");
    assert_eq!(gdb.ask("vCont;c"), "T05thread:02;swbreak:;");
    assert_eq!(gdb.rip(), second);
    assert_eq!(gdb.ask("Hg1"), "OK");
    let first = gdb.rip();
    assert_ne!(first, second);
    assert_eq!(gdb.ask(&format!("z0,{second:x},1")), "OK");
    assert_eq!(gdb.ask("vCont;s:2"), "T05thread:02;");
    assert_eq!(gdb.ask("Hg1"), "OK");
    assert_eq!(gdb.rip(), first, "the other one rests");
    assert_eq!(gdb.ask("vCont;c"), "W00");
    drop(gdb);
    assert_eq!(debuggee.end().0, 0);
}

#[test]
fn hardware_breakpoints_and_watchpoints_work_or_are_refused() {
    if !kvm::available() {
        return;
    }
    let main = address_of("hello", "guest_main");
    let debuggee = Debuggee::start("hello", &[]);
    let mut gdb = debuggee.connect();
    let abilities = gdb.monitor("abilities");
    let able = |name: &str| abilities.lines().any(|line| line.starts_with(name) && line.ends_with("yes"));
    assert!(able("single step"), "{abilities}");
    let inserted = gdb.ask(&format!("Z1,{main:x},1"));
    if able("hardware breakpoints") {
        assert_eq!(inserted, "OK");
        assert_eq!(gdb.ask("vCont;c"), "T05thread:01;hwbreak:;");
        assert_eq!(gdb.rip(), main);
    } else {
        assert_eq!(inserted, "E16");
    }
    // Without a breakpoint it is still where it began, and has no stack.
    let below_stack = gdb.register(7).wrapping_sub(8);
    let inserted = gdb.ask(&format!("Z2,{below_stack:x},8"));
    if able("watchpoints") {
        assert_eq!(inserted, "OK");
        assert_eq!(gdb.ask("vCont;c"), format!("T05thread:01;watch:{below_stack:x};"), "`push rax`");
        assert_eq!(gdb.rip(), main + 1);
        assert_eq!(gdb.ask(&format!("z2,{below_stack:x},8")), "OK");
    } else {
        assert_eq!(inserted, "E16");
    }
    assert_eq!(gdb.ask("vCont;c"), "W00");
    drop(gdb);
    let (status, said) = debuggee.end();
    assert_eq!((status, said.contains("can-use-hw-watchpoints 0")), (0, !able("watchpoints")));
}

#[test]
fn real_mode_has_breakpoints_too() {
    if !kvm::available() {
        return;
    }
    let debuggee = Debuggee::start("real", &[]);
    let mut gdb = debuggee.connect();
    assert_eq!(gdb.rip(), 0x7c00);
    // Behind the first call of `print`, which is six bytes long.
    assert_eq!(gdb.ask("Z0,7c13,1"), "OK");
    assert_eq!(gdb.ask("vCont;c"), "T05thread:01;swbreak:;");
    assert_eq!(gdb.rip(), 0x7c13);
    // More than there are debug registers: where INT3 does not stop real mode, it is stepped through.
    let more = ["7c19", "7c1f", "7c21", "7c24"];
    for address in more {
        assert_eq!(gdb.ask(&format!("Z0,{address},1")), "OK");
    }
    assert_eq!(gdb.ask("vCont;c"), "T05thread:01;swbreak:;");
    assert_eq!(gdb.rip(), 0x7c19);
    for address in more.iter().chain(&["7c13"]) {
        assert_eq!(gdb.ask(&format!("z0,{address},1")), "OK");
    }
    assert_eq!(gdb.ask("vCont;c"), "W00");
    drop(gdb);
    let (status, said) = debuggee.end();
    assert_eq!(status, 0);
    assert!(said.contains("INT 0x40 went through the vector table"), "{said}");
}

#[test]
fn an_instruction_that_leaves_the_guest_is_one_step() {
    if !kvm::available() {
        return;
    }
    let main = address_of("hello", "guest_main");
    let debuggee = Debuggee::start("hello", &[]);
    let mut gdb = debuggee.connect();
    assert_eq!(gdb.ask(&format!("Z0,{main:x},1")), "OK");
    assert_eq!(gdb.ask("vCont;c"), "T05thread:01;swbreak:;");
    let (mut outs, mut ins) = (0, 0);
    for _ in 0..80 {
        let rip = gdb.rip();
        let code = gdb.ask(&format!("m{rip:x},1"));
        assert_eq!(gdb.ask("vCont;s:1"), "T05thread:01;");
        // IN and OUT with DX are one byte long.
        if code == "ee" || code == "ec" {
            assert_eq!(gdb.rip(), rip + 1, "{code}");
            (outs, ins) = (outs + i32::from(code == "ee"), ins + i32::from(code == "ec"));
        }
    }
    assert!(outs > 1 && ins > 0, "{outs} OUTs, {ins} INs");
    assert_eq!(gdb.ask("vCont;c"), "W00");
    drop(gdb);
    let (status, said) = debuggee.end();
    assert_eq!((status, said.contains("Hello from a guest: 64-bit code in ring 0.")), (0, true));
}

#[test]
fn a_triple_fault_is_shown_before_it_ends_the_run() {
    if !kvm::available() {
        return;
    }
    let debuggee = Debuggee::start("crash", &[]);
    let mut gdb = debuggee.connect();
    assert_eq!(gdb.ask("vCont;c"), "T0bthread:01;");
    assert_eq!(gdb.ask("vCont;c"), "W0e");
    drop(gdb);
    let (status, said) = debuggee.end();
    assert_eq!(status, 14);
    assert!(said.contains("vCPU 0 cannot go on") && said.contains("triple fault (KVM_EXIT_SHUTDOWN)"), "{said}");
}

#[test]
fn the_deadline_passes_for_a_guest_that_waits() {
    if !kvm::available() {
        return;
    }
    let debuggee = Debuggee::start("hello", &["--timeout", "300ms"]);
    let path = debuggee.scratch.join("s");
    let (status, said) = debuggee.session.end();
    assert_eq!(status, 124, "{said}");
    assert!(!Path::new(&path).exists(), "the socket's file is removed");
}

#[test]
fn malformed_packets_end_at_most_the_session() {
    if !kvm::available() {
        return;
    }
    let debuggee = Debuggee::start("shell", &[]);
    for packet in [
        "",
        "g0",
        "G",
        "G00",
        "m",
        "m,",
        "mffffffffffffffff,ffff",
        "mfffffffffffff000,1000",
        "m0,100000",
        "M0,4:00",
        "Mffffffffffffffff,2:0000",
        "X0,4:",
        "Z0",
        "Z0,",
        "Z9,0,0",
        "Z0,ffffffffffffffff,1",
        "Z2,3,8",
        "z0,1234,1",
        "z1,0,0",
        "z2,0,1",
        "vCont",
        "vCont;",
        "vCont;x",
        "vCont;s:99",
        "vCont;c:99",
        "vCont;s",
        "H",
        "Hg99",
        "Hgp0.0",
        "T99",
        "qRcmd,",
        "qRcmd,zz",
        "qRcmd,ff00",
        "qThreadExtraInfo,99",
        "qXfer:features:read:target.xml:ffffffff,ffff",
        "qXfer:features:read::0,1",
        "vKill",
        "P0=0",
        "p0",
        "s",
        "c",
        "D;",
        "vFile:open:",
        "!",
        "R00",
    ] {
        let mut gdb = debuggee.connect();
        gdb.send(packet);
        // Ctrl-C, for those that let the guest run; then what is no packet at all.
        let _ = gdb.0.write_all(b"\x03$#00}$}#*+-\xff\xfe$m\x00#zz");
        gdb.0.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        let _ = gdb.0.read_to_end(&mut rest);
    }
    let mut gdb = debuggee.connect();
    assert!(gdb.ask("?").starts_with("T05"));
    gdb.send("k");
    assert_eq!(debuggee.end().0, 130);
}

#[test]
fn linux_is_stopped_looked_at_and_let_go() {
    let Some(kernel) = kvm::lab_kernel() else { return };
    let mut debuggee = Debuggee::start(&kernel, &["--cmdline=quiet", "--cpus", "2"]);
    let mut gdb = debuggee.connect();
    gdb.send("vCont;c");
    debuggee.session.wait_for("# ");
    gdb.0.write_all(&[3]).unwrap();
    assert_eq!(gdb.receive(), "T02thread:01;");
    for thread in [1, 2] {
        assert_eq!(gdb.ask(&format!("Hg{thread}")), "OK");
        let rip = gdb.rip();
        assert!(rip >= 0xffff_8000_0000_0000, "idle in the kernel, at {rip:#x}");
        let code = gdb.ask(&format!("m{rip:x},8"));
        assert_eq!(code.len(), 16, "through the kernel's own tables: {code}");
        let walk = gdb.monitor(&format!("walk {rip:#x}"));
        assert!(walk.contains("PML4") && walk.contains("is at guest-physical"), "{walk}");
        assert_eq!(gdb.ask(&format!("vCont;s:{thread}")), format!("T05thread:0{thread};"));
        assert_ne!(gdb.rip(), rip);
    }
    assert_eq!(gdb.ask("D"), "OK");
    debuggee.session.wait_for("the guest goes on");
    debuggee.session.type_in("poweroff\n");
    assert_eq!(debuggee.end().0, 0);
}

/// What gdb prints when it is connected to a sample guest and given these commands.
fn gdb(debuggee: &Debuggee, guest: &str, commands: &[&str]) -> Option<String> {
    if find_program("gdb").is_none() {
        // The lab has no gdb; the packets are spoken there all the same.
        if std::env::var_os("HOSTEL_LAB_KERNEL").is_none() {
            kvm::skip("gdb is not installed");
        }
        return None;
    }
    let elf = debuggee.scratch.file("guest.elf", samples::find(guest).unwrap().image);
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch", &elf, "-ex", &format!("target remote {}", debuggee.scratch.join("s"))]);
    command.args(commands.iter().flat_map(|line| ["-ex", line]));
    let finished = finish(command, "");
    // Monitor commands are answered on standard error.
    Some(finished.stdout + &finished.stderr)
}

/// Asserts that `text` has these parts, one after the other.
#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let Some(at) = rest.find(part) else { panic!("no {part:?} in {rest:?}") };
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn gdb_breaks_steps_and_shows() {
    if !kvm::available() {
        return;
    }
    let debuggee = Debuggee::start("hello", &[]);
    let commands = [
        "info registers rip cr0",
        "break guest_main",
        "continue",
        "x/i $pc",
        "info registers cr0 efer",
        "stepi",
        "backtrace 1",
        "set var $rax = 0x1234",
        "print/x $rax + 1",
        "print/x *(unsigned char *) guest_main",
        "print $xmm0.uint128",
        "monitor walk 0x100000",
        "delete",
        "continue",
    ];
    let Some(shown) = gdb(&debuggee, "hello", &commands) else {
        drop(debuggee.connect());
        return assert_eq!(debuggee.end().0, 0);
    };
    assert_has(
        &shown,
        &[
            "in pvh_start ()",
            "<pvh_start>",
            "[ PE ET ]",
            "Breakpoint 1, ",
            "in guest_main ()",
            "push   %rax",
            "PG ]",
            "[ LME LMA ]",
            "#0  ",
            "in guest_main ()",
            "= 0x1235",
            "= 0x50",
            "exited normally]",
            "PML4",
            "0x100000 is at guest-physical 0x100000",
        ],
    );
    assert_eq!(debuggee.end().0, 0);
}

#[test]
fn gdb_follows_two_threads() {
    if !kvm::available() {
        return;
    }
    let debuggee = Debuggee::start("smp", &[]);
    let commands = ["rbreak introduce_and_count", "continue", "info threads", "thread 1", "stepi", "detach"];
    let Some(shown) = gdb(&debuggee, "smp", &commands) else {
        drop(debuggee.connect());
        return assert_eq!(debuggee.end().0, 0);
    };
    assert_has(
        &shown,
        &[
            "Thread 2 hit Breakpoint 1",
            "(vCPU 0, 64 bit)",
            "* 2 ",
            "(vCPU 1, 64 bit)",
            "[Switching to thread 1",
            "detached]",
        ],
    );
    let (status, said) = debuggee.end();
    assert_eq!(status, 0);
    assert!(said.contains("counted under the lock: 200"), "{said}");
}

#[test]
fn a_guest_outlives_a_gdb_that_is_gone() {
    if !kvm::available() {
        return;
    }
    let debuggee = Debuggee::start("hello", &[]);
    drop(debuggee.connect());
    let (status, said) = debuggee.end();
    assert_eq!(status, 0);
    // One comes by standard error and one by standard output, in either order.
    assert_has(&said, &["has left, the guest goes on"]);
    assert_has(&said, &["powering off"]);
}
