//! How fast a disk is for a guest: next to QEMU, and next to the same requests without a machine.
//!
//! `cargo bench --bench disk`. Needs KVM. The guest is the sample `disk-bench`, which offers and awaits requests in ring 3, at full speed
//! on every KVM, without interrupts; it counts cycles of the time stamp counter. QEMU boots the same file on its machine `microvm`,
//! with an I/O thread and `aio=io_uring`. Without a machine (`native.rs`) the same requests go through one io_uring. All run in
//! turn, on one file, and the shortest runs are compared. Where it is permitted they have real-time priority (chrt), for they are
//! threads that wait for each other, and whatever else a host does comes between them.

#[path = "../report/bounds.rs"]
mod bounds;
mod native;
#[path = "../report/release.rs"]
mod release;

use anyhow::{Context, Result, ensure};
use bounds::Bounds;
use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};

/// The guest as a file: what Hostel boots by name, QEMU by path.
const GUEST: &str = concat!(env!("OUT_DIR"), "/disk-bench");
/// Bytes of the disk.
const DISK_MIB: usize = 256;
/// Runs of each program.
const ROUNDS: usize = 5;

/// Requests to measure: words of the guest, and bounds for page cache and O_DIRECT.
struct Row {
    what: &'static str,
    depth: u32,
    kib: u32,
    /// Requests through the page cache and past it, so that a run takes some tenths of a second.
    counts: [u32; 2],
    /// At least as fast as QEMU, times this, through the page cache and past it.
    to_qemu: [f64; 2],
    /// At least this share of what the same requests reach without a machine.
    to_native: Option<[f64; 2]>,
}

const fn row(what: &'static str, depth: u32, kib: u32, counts: [u32; 2]) -> Row {
    let to_qemu = if kib == 4 { [1.2, 0.98] } else { [0.98, 0.98] };
    let to_native = if depth == 32 { Some([0.7, 0.85]) } else { None };
    Row { what, depth, kib, counts, to_qemu, to_native }
}

const ROWS: &[Row] = &[
    row("randread", 1, 4, [20_000, 3_000]),
    row("randwrite", 1, 4, [20_000, 3_000]),
    row("randread", 32, 4, [60_000, 15_000]),
    row("randwrite", 32, 4, [40_000, 15_000]),
    row("read", 4, 1024, [500, 150]),
    row("write", 4, 1024, [300, 150]),
];

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "native") {
        println!("{}", native::cycles(&words[1..])?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        println!("skipped: /dev/kvm: {error}");
        return Ok(ExitCode::SUCCESS);
    }
    let hostel = release::default_build()?;
    let disk = format!("{}/disk.img", release::BUILT);
    fill(&disk)?;
    let has_qemu =
        qemu(&disk, false, "randread 1 4 10").inspect_err(|why| println!("QEMU is not measured: {why:#}")).is_ok();
    let mut bounds = Bounds::default();
    for (direct, medium) in [(false, "page cache"), (true, "O_DIRECT")] {
        println!("\n{medium}: cycles a request, the shortest of {ROUNDS} runs");
        for row in ROWS {
            measure(row, direct, medium, &hostel, &disk, has_qemu, &mut bounds)?;
        }
    }
    fs::remove_file(&disk)?;
    Ok(bounds.finish())
}

/// Measures one row.
fn measure(
    row: &Row,
    direct: bool,
    medium: &str,
    hostel: &str,
    disk: &str,
    has_qemu: bool,
    bounds: &mut Bounds,
) -> Result<()> {
    let side = usize::from(direct);
    let count = row.counts[side];
    let words = format!("{} {} {} {count}", row.what, row.depth, row.kib);
    let mut shortest = [u64::MAX; 3];
    for _ in 0..ROUNDS {
        shortest[0] = shortest[0].min(with_hostel(hostel, disk, direct, &words)?);
        shortest[1] = shortest[1].min(without_machine(disk, direct, &words)?);
        if has_qemu {
            shortest[2] = shortest[2].min(qemu(disk, direct, &words)?);
        }
    }
    let each = shortest.map(|cycles| cycles as f64 / f64::from(count));
    let name = format!("{} {} KiB, depth {}, {medium}", row.what, row.kib, row.depth);
    println!("  {name}: Hostel {:.0}, without a machine {:.0}, QEMU {:.0}", each[0], each[1], each[2]);
    if has_qemu {
        bounds.at_least(&format!("{name}, to QEMU"), each[2] / each[0], row.to_qemu[side], "");
    }
    if let Some(share) = row.to_native {
        bounds.at_least(&format!("{name}, to no machine"), each[1] / each[0], share[side], "");
    }
    Ok(())
}

/// Writes the disk: bytes that are nowhere all the same, and on the medium.
fn fill(disk: &str) -> Result<()> {
    let mut file = File::create(disk).with_context(|| format!("create {disk}"))?;
    for mib in 0..DISK_MIB {
        file.write_all(&(0..1 << 20).map(|at| (at * 31 + mib) as u8).collect::<Vec<_>>())?;
    }
    Ok(file.sync_all()?)
}

/// Cycles that the guest counts under Hostel.
fn with_hostel(hostel: &str, disk: &str, direct: bool, words: &str) -> Result<u64> {
    let disk = format!("{disk}{}", if direct { ",direct" } else { "" });
    let mut command = prioritized(hostel);
    command.args(["run", "disk-bench", "--mem", "128M", "--transport", "mmio", "--disk", &disk, "--"]);
    told(command.args(words.split(' ')), 0)
}

/// Cycles that the guest counts under QEMU. `benches/startup/programs.rs` says what of this machine is left out and why.
fn qemu(disk: &str, direct: bool, words: &str) -> Result<u64> {
    let drive =
        format!("if=none,id=d,file={disk},format=raw,aio=io_uring,cache={}", if direct { "none" } else { "writeback" });
    let mut command = prioritized("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-accel", "kvm", "-m", "128"]);
    command.args(["-M", "microvm,acpi=off,pic=off,pit=off,rtc=off", "-cpu", "host,-arch-capabilities"]);
    command.args(["-serial", "stdio", "-device", "isa-debug-exit,iobase=0x600,iosize=4"]);
    command.args(["-global", "virtio-mmio.force-legacy=false", "-object", "iothread,id=io", "-drive", &drive]);
    command.args(["-device", "virtio-blk-device,drive=d,iothread=io", "-kernel", GUEST, "-append", words]);
    told(&mut command, 0x34 << 1 | 1)
}

/// Cycles of the same requests from this process.
fn without_machine(disk: &str, direct: bool, words: &str) -> Result<u64> {
    let program = std::env::current_exe()?;
    let mut command = prioritized(program.to_str().context("its path is text")?);
    told(command.args(["native", disk, &direct.to_string()]).args(words.split(' ')), 0)
}

/// A command, with real-time priority if this user may give it.
fn prioritized(program: &str) -> Command {
    let may = Command::new("chrt").args(["-r", "5", "true"]).stderr(Stdio::null()).status();
    if !may.is_ok_and(|status| status.success()) {
        return Command::new(program);
    }
    let mut command = Command::new("chrt");
    command.args(["-r", "5", program]);
    command
}

/// What the program tells in its line `... in CYCLES cycles`.
fn told(command: &mut Command, status: i32) -> Result<u64> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(status), "{command:?}: {}\n{text}{errors}", output.status);
    let cycles = text.split(" in ").nth(1).and_then(|rest| rest.split(' ').next());
    cycles.and_then(|cycles| cycles.parse().ok()).with_context(|| format!("{command:?} tells no cycles: {text}"))
}
