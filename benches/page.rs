//! What the page and the timeline of a million exits cost: time, memory, size.
//!
//! `cargo bench --bench page`, or `cargo bench --bench page -- DIRECTORY` to keep the files. The exits are made up: two
//! vCPUs, every kind of access, thousands of instructions with symbols, a console that prints without end.
//!
//! Source: proc_pid_status(5) (VmHWM), proc_pid_clear_refs(5).

#[path = "report/bounds.rs"]
mod bounds;

use bounds::Bounds;
use hostel::debug::counters::Counted;
use hostel::debug::event::{CODE_REACH, Code, DeviceRegister, ExitEvent};
use hostel::debug::locate::Located;
use hostel::debug::page::Page;
use hostel::debug::sink::{Milestone, TraceEnd, TraceSink, Traced, Verdict};
use hostel::debug::timeline::Timeline;
use hostel::kvm::exit::{Exit, Reply};
use std::env;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

const EXITS: u64 = 1_000_000;
const INSTRUCTIONS: u64 = 5_000;

/// Bounds of the two together, and of the page.
const SECONDS: f64 = 5.0;
const MEMORY_MIB: f64 = 500.0;
const PAGE_MIB: f64 = 20.0;

fn main() -> ExitCode {
    // Cargo itself passes --bench.
    let kept = env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from);
    let directory = kept.clone().unwrap_or_else(|| env::temp_dir().join(format!("hostel-page-{}", std::process::id())));
    fs::create_dir_all(&directory).expect("the directory can be made");
    let sizes = measure(&directory).expect("the files can be written");
    if kept.is_none() {
        fs::remove_dir_all(&directory).expect("it is ours");
    }
    sizes
}

fn measure(directory: &Path) -> io::Result<ExitCode> {
    let (page, timeline) = (directory.join("page.html"), directory.join("timeline.json"));
    let begin = Instant::now();
    let mut sinks: [Box<dyn TraceSink>; 2] =
        [Box::new(Page::new(file(&page)?)), Box::new(Timeline::new(file(&timeline)?))];
    let mut random = Random(1);
    let mut at_ns = 2_000_000;
    for index in 0..EXITS {
        at_ns += 700 + random.below(3_000) + if random.below(500) == 0 { 2_000_000 } else { 0 };
        let (event, instruction, symbol) = exit(index, at_ns, &mut random);
        for sink in &mut sinks {
            sink.exit(&Traced { event: &event, instruction: Some(&instruction), symbol: Some(&symbol) })?;
        }
    }
    let end = TraceEnd {
        ended_ns: at_ns + 5_000,
        reason: "the guest powered off".to_owned(),
        dropped: 0,
        milestones: vec![
            (Milestone::ProcessStart, 0),
            (Milestone::ImageLoaded, 600_000),
            (Milestone::KvmReady, 1_500_000),
            (Milestone::FirstEntry, 1_900_000),
            (Milestone::End, at_ns + 5_000),
        ],
        counted: Counted::default(),
        facts: vec![("image", "a million made-up exits".to_owned())],
    };
    for sink in &mut sinks {
        assert_eq!(sink.finish(&end)?, Verdict::Fine);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let mib = |path: &Path| fs::metadata(path).map(|file| file.len() as f64 / f64::from(1 << 20));
    println!("a trace of {EXITS} exits as page and timeline; the timeline has {:.0} MiB", mib(&timeline)?);
    let mut bounds = Bounds::default();
    bounds.at_most("time for both", seconds, SECONDS, " s");
    bounds.at_most("peak memory", peak_mib()?, MEMORY_MIB, " MiB");
    bounds.at_most("page", mib(&page)?, PAGE_MIB, " MiB");
    Ok(bounds.finish())
}

fn file(path: &Path) -> io::Result<Box<dyn Write + Send>> {
    Ok(Box::new(BufWriter::new(File::create(path)?)))
}

/// Peak of this process's resident memory.
fn peak_mib() -> io::Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    Ok(kib / 1024.0)
}

/// An exit, its instruction and its symbol.
fn exit(index: u64, at_ns: u64, random: &mut Random) -> (ExitEvent, Located, String) {
    const TEXT: &[u8] = b"[    1.234567] a driver says <hello> & tells its version\r\n";
    let named = |device, register| Some(DeviceRegister { device, register });
    let byte = u64::from(TEXT[index as usize % TEXT.len()]);
    let (exit, register, value) = match random.below(20) {
        0..8 => (Exit::PioWrite { port: 0x3f8, size: 1, value: byte }, named("COM1", "THR"), None),
        8..13 => (Exit::PioRead { port: 0x3fd, size: 1 }, named("COM1", "LSR"), Some(0x60)),
        13..15 => (Exit::MmioRead { addr: 0xfec0_0010, size: 4 }, named("IOAPIC", "IOREDTBL"), Some(random.next())),
        15..17 => {
            let addr = 0xd000_0000 + 4 * random.below(1 << 20);
            (Exit::MmioWrite { addr, size: 8, value: random.next() }, None, None)
        }
        17 => {
            (Exit::MsrWrite { index: random.below(1 << 12) as u32, filtered: true, value: random.next() }, None, None)
        }
        18 => (Exit::IoapicEoi { vector: 0x31 }, None, None),
        _ => (Exit::Halt, None, None),
    };
    let rip = 0xffff_ffff_8100_0000 + 7 * (random.below(INSTRUCTIONS) * random.below(INSTRUCTIONS) / INSTRUCTIONS);
    let bytes = [0x90; 2 * CODE_REACH];
    let code = Code { rip, bits: 64, dx: 0, bytes, before: CODE_REACH as u8, after: CODE_REACH as u8 };
    let reply = Some(value.map_or(Reply::Resume, Reply::Value));
    let (vcpu, host_ns, guest_ns) = (random.below(2) as u32, 200 + random.below(600), 100 + random.below(300));
    let event = ExitEvent { vcpu, at_ns, guest_ns, host_ns, exit, reply, register, code: Some(code) };
    let located = Located {
        rip,
        length: 7,
        text: format!("mov dword ptr [rdi+{:#x}], eax", rip & 0xff),
        passed: true,
        is_string: false,
    };
    (event, located, format!("some_driver_function_{}+{:#x}", rip >> 8 & 0xff, rip & 0xff))
}

/// Marsaglia's xorshift64: the same exits in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
