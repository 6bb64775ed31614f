//! What a trace to a file adds to an exit on the vCPU's thread, and how many exits a second reach the file.

use crate::bounds::Bounds;
use crate::machine::{cpu, timed};
use hostel::arch::cpu_state::CpuState;
use hostel::arch::layout::{BOOT_PML4, MIB};
use hostel::arch::paging;
use hostel::debug::event::DeviceRegister;
use hostel::debug::filter::Filter;
use hostel::debug::fold::Folding;
use hostel::debug::lines::Lines;
use hostel::debug::sink::TraceEnd;
use hostel::debug::symbols::Symbols;
use hostel::debug::trace_thread::Trace;
use hostel::debug::tracer::{TraceClock, Tracer};
use hostel::kvm::exit::Exit;
use hostel::machine::io::MachineIo;
use hostel::memory::map::MemoryMap;
use hostel::memory::ram::GuestRam;
use hostel::vcpu::handler::ExitObserver;
use std::fs::{self, File};
use std::io::BufWriter;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Exits in one run of the loop, and runs.
const EXITS: usize = 2_000;
const RUNS: usize = 200;
/// Between two runs the trace's thread catches up, so that no exit is dropped.
const BREAK: Duration = Duration::from_millis(10);
/// Exits that come faster than they can be written, and how often.
const FLOOD: usize = 400_000;
const FLOODS: usize = 5;

const LIMIT_NS: f64 = 400.0;
const EXITS_A_SECOND_MIN: f64 = 300_000.0;

/// Where the code lies that writes: `out dx, al` at 0x10_0010.
const CODE: u64 = 0x10_0000;
const RIP: u64 = CODE + 0x10;

/// Holds a trace to its bounds.
pub fn measure(bounds: &mut Bounds, io: &Arc<MachineIo>) {
    let file = concat!(env!("CARGO_TARGET_TMPDIR"), "/exits.trace");
    let (ram, state) = guest();
    let (mut unwatched, mut watched) = (f64::INFINITY, f64::INFINITY);
    let trace = to_file(file);
    for _ in 0..RUNS {
        unwatched = unwatched.min(timed(&mut cpu(EXITS, state), io, None, EXITS));
        let mut tracer = tracer(&trace, io, &ram);
        let mut cpu = cpu(EXITS, state);
        tracer.attached(&mut cpu);
        watched = watched.min(timed(&mut cpu, io, Some(&mut tracer), EXITS));
        thread::sleep(BREAK);
    }
    trace.finish(TraceEnd::default());
    assert_eq!(lines(file), RUNS * (EXITS + 1), "every exit is in the file");
    bounds.at_most("trace to a file, on the vCPU's thread", watched - unwatched, LIMIT_NS, " ns");
    let (mut best, mut written) = (0.0f64, 0);
    for _ in 0..FLOODS {
        let trace = to_file(file);
        let mut tracer = tracer(&trace, io, &ram);
        let mut cpu = cpu(FLOOD, state);
        tracer.attached(&mut cpu);
        let start = Instant::now();
        timed(&mut cpu, io, Some(&mut tracer), FLOOD);
        trace.finish(TraceEnd::default());
        let elapsed = start.elapsed().as_secs_f64();
        written = lines(file);
        best = best.max(written as f64 / elapsed);
    }
    println!(
        "{FLOOD} exits as fast as they come, {FLOODS} times: at last {written} written, the others counted as dropped"
    );
    bounds.at_least("exits a second in the file", best, EXITS_A_SECOND_MIN, "/s");
    fs::remove_file(file).expect("the file is ours");
}

/// A guest in long mode with code that can be read through its page tables.
fn guest() -> (Arc<GuestRam>, CpuState) {
    let ram = GuestRam::new(&MemoryMap::new(2 * MIB).expect("a size")).expect("the host has two MiB");
    for (index, table) in paging::identity_map(BOOT_PML4).iter().enumerate() {
        let bytes: Vec<_> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        ram.write(BOOT_PML4 + index as u64 * 4096, &bytes).expect("RAM is there");
    }
    ram.write(CODE, &[0x90; 0x40]).expect("RAM is there");
    ram.write(RIP, &[0xee]).expect("RAM is there");
    let mut state = CpuState::long_mode(RIP);
    state.regs.rdx = 0x3f8;
    (Arc::new(ram), state)
}

/// A trace whose every exit is a line in `file`.
fn to_file(file: &str) -> Trace {
    let out = Box::new(BufWriter::new(File::create(file).expect("the folder is there")));
    let lines = Lines::new(out, Filter::default(), Folding::Nothing, false);
    Trace::start(TraceClock::starting_at(0), vec![Box::new(lines)], Symbols::default()).expect("a thread")
}

/// What a machine's vCPU is watched by.
fn tracer(trace: &Trace, io: &Arc<MachineIo>, ram: &Arc<GuestRam>) -> Tracer {
    let (io, ram) = (io.clone(), ram.clone());
    let name = move |exit: &Exit| match *exit {
        Exit::PioWrite { port, .. } => {
            io.ports.names(port.into(), true).map(|(device, register)| DeviceRegister { device, register })
        }
        _ => None,
    };
    trace.tracer(Box::new(name), Box::new(move |gpa| ram.read_u64(gpa)))
}

/// Lines of exits in `file`.
fn lines(file: &str) -> usize {
    let text = fs::read_to_string(file).expect("the trace is there");
    text.lines().filter(|line| line.contains("pio-write") || line.contains("hlt")).count()
}
