//! How fast a disk is for a guest: next to QEMU, and next to the same requests without a machine.
//!
//! `cargo bench --bench disk`. Needs KVM. The guest is the sample `disk-bench`, which offers and awaits requests in ring 3, at full speed
//! on every KVM, without interrupts; it counts cycles of the time stamp counter. QEMU boots the same file on its machine `microvm`,
//! with an I/O thread and `aio=io_uring`. Without a machine (`native.rs`) the same requests go through one io_uring. All run in
//! turn, on one file. Of what goes through the page cache the shortest runs are compared, which nothing makes too short. Past it the
//! disk decides how long a run is, and a disk that others use too varies by two times within seconds: there runs are short and many,
//! and what is told is the median of the ratios of neighbours, beside the range of the middle half of them.
//! Where it is permitted all have real-time priority (chrt), for they are threads that wait for each other, and whatever else a host
//! does comes between them. Not so what writes past the page cache: such a write is over when a worker of the kernel has noted that
//! down, which has no such priority, and a guest that looks at its rings without end would keep it from the processor.

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
use std::sync::LazyLock;

/// The guest as a file: what Hostel boots by name, QEMU by path.
const GUEST: &str = concat!(env!("OUT_DIR"), "/disk-bench");
/// Bytes of the disk.
const DISK_MIB: usize = 256;
/// Bytes that are written at a time when the disk is filled. Linux keeps in one piece what was written so, and a later write of a block
/// to ext4 walks along all blocks of its piece, which takes longer than the write.
const PAGE: usize = 4096;
/// Runs of each program, through the page cache and past it.
const ROUNDS: [usize; 2] = [5, 15];

/// Requests to measure: words of the guest, and bounds for page cache and O_DIRECT.
struct Row {
    what: &'static str,
    depth: u32,
    kib: u32,
    /// Requests through the page cache and past it, so that a run takes tenths of a second or some hundredths.
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
    row("randread", 1, 4, [20_000, 600]),
    row("randwrite", 1, 4, [20_000, 600]),
    row("randread", 32, 4, [60_000, 4_000]),
    row("randwrite", 32, 4, [40_000, 4_000]),
    row("read", 4, 1024, [500, 60]),
    row("write", 4, 1024, [300, 60]),
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
        println!("\n{medium}: cycles a request, the shortest of {} runs", ROUNDS[usize::from(direct)]);
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
    let mut runs = [(); 3].map(|()| Vec::new());
    for _ in 0..ROUNDS[side] {
        runs[0].push(with_hostel(hostel, disk, direct, &words)?);
        runs[1].push(without_machine(disk, direct, &words)?);
        if has_qemu {
            runs[2].push(qemu(disk, direct, &words)?);
        }
    }
    let shortest = |runs: &[u64]| runs.iter().min().map_or(0.0, |cycles| *cycles as f64 / f64::from(count));
    let name = format!("{} {} KiB, depth {}, {medium}", row.what, row.kib, row.depth);
    let [ours, native, qemu] = [0, 1, 2].map(|index| shortest(&runs[index]));
    println!("  {name}: Hostel {ours:.0}, without a machine {native:.0}, QEMU {qemu:.0}");
    let mut check = |to: &str, theirs: &[u64], least: f64| {
        let ratio = if direct { paired(theirs, &runs[0]) } else { shortest(theirs) / ours };
        bounds.at_least(&format!("{name}, to {to}"), ratio, least, "");
    };
    if has_qemu {
        check("QEMU", &runs[2], row.to_qemu[side]);
    }
    if let Some(share) = row.to_native {
        check("no machine", &runs[1], share[side]);
    }
    Ok(())
}

/// The median of the ratios of neighbouring runs; prints the range of the middle half of them.
fn paired(theirs: &[u64], ours: &[u64]) -> f64 {
    let mut ratios: Vec<_> = theirs.iter().zip(ours).map(|(theirs, ours)| *theirs as f64 / *ours as f64).collect();
    ratios.sort_by(f64::total_cmp);
    let [low, median, high] = [1, 2, 3].map(|quarter| ratios[ratios.len() * quarter / 4]);
    println!("           of {} pairs the middle half: {low:.2} to {high:.2}", ratios.len());
    median
}

/// Writes the disk: bytes that are nowhere all the same, and on the medium.
fn fill(disk: &str) -> Result<()> {
    let mut file = File::create(disk).with_context(|| format!("create {disk}"))?;
    for page in 0..(DISK_MIB << 20) / PAGE {
        file.write_all(&(0..PAGE).map(|at| (at * 31 + page) as u8).collect::<Vec<_>>())?;
    }
    Ok(file.sync_all()?)
}

/// Cycles that the guest counts under Hostel.
fn with_hostel(hostel: &str, disk: &str, direct: bool, words: &str) -> Result<u64> {
    let disk = format!("{disk}{}", if direct { ",direct" } else { "" });
    let mut command = prioritized(hostel, direct, words);
    command.args(["run", "disk-bench", "--mem", "128M", "--transport", "mmio", "--disk", &disk, "--"]);
    told(command.args(words.split(' ')), 0)
}

/// Cycles that the guest counts under QEMU. `benches/startup/programs.rs` says what of this machine is left out and why.
fn qemu(disk: &str, direct: bool, words: &str) -> Result<u64> {
    let drive =
        format!("if=none,id=d,file={disk},format=raw,aio=io_uring,cache={}", if direct { "none" } else { "writeback" });
    let mut command = prioritized("qemu-system-x86_64", direct, words);
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
    let mut command = prioritized(program.to_str().context("its path is text")?, direct, words);
    told(command.args(["native", disk, &direct.to_string()]).args(words.split(' ')), 0)
}

/// A command for these requests, with real-time priority if they go with it and this user may give it.
fn prioritized(program: &str, direct: bool, words: &str) -> Command {
    /// Found out once: the runs stand close together.
    static MAY: LazyLock<bool> = LazyLock::new(|| {
        let tried = Command::new("chrt").args(["-r", "5", "true"]).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    });
    if !*MAY {
        return Command::new(program);
    }
    let policy = if direct && words.contains("write") { ["-o", "0"] } else { ["-r", "5"] };
    let mut command = Command::new("chrt");
    command.args(policy).arg(program);
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
