//! How fast Hostel starts a guest and how much memory it takes, next to a bare C program and to its peers.
//!
//! `cargo bench --bench startup` builds everything, runs the programs in turn and prints ratios of one run. It fails when a
//! bound is exceeded. Bounds are held against the shortest runs, which the noise of the machine does not reach; medians
//! stand beside them. The floor is explained in `floor.c`.

#[path = "../report/bounds.rs"]
mod bounds;
mod memory;
mod paired;
mod phases;
mod programs;
#[path = "../report/release.rs"]
mod release;

use anyhow::{Result, ensure};
use bounds::Bounds;
use paired::{Program, Times};
use phases::{PHASES, Phases, Stamps};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs of each program; QEMU, which takes ten times as long, runs less often.
const ROUNDS: usize = 200;
const QEMU_ROUNDS: usize = 20;
const PHASE_ROUNDS: usize = 100;

/// Many times more than QEMU's microvm takes where it is set up well: beyond, the comparison flatters.
const QEMU_MOST: f64 = 60.0;

/// Runs of a kernel end by the deadline: only their start counts.
const DEADLINE_STATUS: i32 = 124;

fn main() -> Result<ExitCode> {
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        println!("skipped: /dev/kvm: {error}");
        return Ok(ExitCode::SUCCESS);
    }
    let builds = Builds { statically: release::static_build()?, default: release::default_build()? };
    let mut bounds = Bounds::default();
    spawn_to_exit(&builds, &mut bounds)?;
    phases(&builds, &mut bounds)?;
    memory(&builds, &mut bounds)?;
    println!("\nSize of the program");
    let bytes = std::fs::metadata(&builds.default)?.len();
    bounds.at_most("release build, stripped", bytes as f64 / f64::from(1 << 20), 5.0, " MiB");
    Ok(bounds.finish())
}

/// Hostel's program files.
struct Builds {
    /// With the C library inside.
    statically: String,
    /// As `cargo build --release` makes it.
    default: String,
}

/// A run of Hostel on `guest` with the machine that all programs here have.
fn hostel(name: &str, program: &str, guest: &str) -> Program {
    Program::new(name, &[program, "run", guest, "--mem", "128M", "--cpus", "1"])
}

/// `hello` from spawn to exit: Hostel, the floor, the peers.
fn spawn_to_exit(builds: &Builds, bounds: &mut Bounds) -> Result<()> {
    let [without, split, own_cpuid] = programs::floors()?;
    let mut all = vec![
        without,
        split,
        own_cpuid,
        hostel("hostel, static build", &builds.statically, "hello"),
        hostel("hostel, default build", &builds.default, "hello"),
    ];
    let alioth = programs::alioth(programs::HELLO);
    let _terminal = match alioth {
        Ok((alioth, terminal)) => {
            all.push(alioth);
            Some(terminal)
        }
        Err(error) => not_measured("alioth", &error),
    };
    println!("hello from spawn to exit, 128 MiB, 1 vCPU, {ROUNDS} rounds");
    let times = paired::run(&all, ROUNDS)?;
    let floor = if times[0].min() < times[1].min() { &times[0] } else { &times[1] };
    for (program, times) in all.iter().zip(&times) {
        row(&program.name, times, floor);
    }
    let ratio = |times: &Times| times.min() / floor.min();
    bounds.at_most("static build to the floor", ratio(&times[3]), 1.25, "");
    bounds.at_most("default build to the floor", ratio(&times[4]), 1.4, "");
    if let Some(alioth) = times.get(5) {
        bounds.at_most("default build to alioth", times[4].min() / alioth.min(), 1.0, "");
    }

    match programs::qemu() {
        Ok(qemu) => {
            let pair = [hostel("hostel, default build", &builds.default, "hello"), qemu];
            println!("\nthe same beside QEMU, {QEMU_ROUNDS} rounds");
            let times = paired::run(&pair, QEMU_ROUNDS)?;
            for (program, own) in pair.iter().zip(&times) {
                row(&program.name, own, &times[0]);
            }
            let ratio = times[0].min() / times[1].min();
            bounds.at_most("default build to QEMU microvm", ratio, 1.0, "");
            bounds.at_most("QEMU microvm to default build (more is no microvm)", 1.0 / ratio, QEMU_MOST, "");
        }
        Err(error) => {
            not_measured::<()>("QEMU microvm", &error);
        }
    }
    Ok(())
}

/// The phases of `hello`, and the time to the first instruction on the Linux-shaped machine.
fn phases(builds: &Builds, bounds: &mut Bounds) -> Result<()> {
    let mut programs: Vec<_> =
        programs::floors()?.into_iter().take(2).map(|floor| (floor, Stamps::StandardError)).collect();
    for (floor, _) in &mut programs {
        floor.variable = Some(("FLOOR_STAMPS", "1"));
    }
    let result = format!("{}/result.json", env!("CARGO_TARGET_TMPDIR"));
    let mut add = |program| programs.push((program, Stamps::ResultFile(result.clone())));
    add(hostel("hello, static", &builds.statically, "hello"));
    add(hostel("hello, default", &builds.default, "hello"));
    add(hostel("ELF, static", &builds.statically, programs::HELLO));
    add(hostel("ELF, default", &builds.default, programs::HELLO));
    match kernel() {
        Some(kernel) => {
            let boot = |name, program, time: &str| {
                let mut run = hostel(name, program, &kernel.display().to_string());
                run.words.extend(["--timeout", time].map(str::to_owned));
                run.status = DEADLINE_STATUS;
                run
            };
            // Beside a guest that has run for ten seconds its kernel is cached.
            let status = boot("bzImage, to be cached", &builds.default, "15s").command()?.status()?;
            ensure!(status.code() == Some(DEADLINE_STATUS), "{} did not run for 15 s", kernel.display());
            add(boot("bzImage, static", &builds.statically, "100ms"));
            add(boot("bzImage, default", &builds.default, "100ms"));
        }
        None => {
            not_measured::<()>("bzImage", &"scripts/lab-machine has not fetched a kernel");
        }
    }
    println!("\nPhases, medians in us, {PHASE_ROUNDS} rounds");
    let all = phases::measure(&programs, PHASE_ROUNDS)?;
    println!("  {:28}{}", "", PHASES.map(|phase| format!("{phase:>15}")).concat());
    for ((program, _), own) in programs.iter().zip(&all) {
        let medians = std::array::from_fn::<_, { PHASES.len() }, _>(|phase| own.of(phase).median());
        println!("  {:28}{}", program.name, medians.map(|us| format!("{us:>15.0}")).concat());
    }
    println!("to the first instruction of the guest");
    let first: Vec<Times> = all.iter().map(Phases::until_first_entry).collect();
    let floor = if first[0].min() < first[1].min() { &first[0] } else { &first[1] };
    for ((program, _), own) in programs.iter().zip(&first) {
        row(&program.name, own, floor);
    }
    for ((program, _), own) in programs.iter().zip(&first).skip(4) {
        let name = format!("{} to the floor, first instruction", program.name);
        bounds.at_most(&name, own.min() / floor.min(), 1.5, "");
    }
    Ok(())
}

/// A machine whose guest waits at a prompt.
fn memory(builds: &Builds, bounds: &mut Bounds) -> Result<()> {
    println!("\nMemory besides the guest's, in MiB: peak resident, anonymous, private and dirty");
    let mut peak = 0.0;
    for (name, program, limit) in
        [("hostel, static build", &builds.statically, 3.0), ("hostel, default build", &builds.default, 4.0)]
    {
        let own = memory::of_waiting(&hostel(name, program, "shell"))?;
        println!("  {name:28}{:8.2}{:8.2}{:8.2}", own.peak, own.anonymous, own.private_dirty);
        bounds.at_most(&format!("{name}, peak"), own.peak, limit, " MiB");
        bounds.at_most(&format!("{name}, anonymous"), own.anonymous, 1.0, " MiB");
        bounds.at_most(&format!("{name}, private and dirty"), own.private_dirty, 1.0, " MiB");
        peak = own.peak;
    }
    let own = memory::of_waiting(&with_all_devices(&builds.default)?)?;
    println!("  {:28}{:8.2}{:8.2}{:8.2}", "with devices of each kind", own.peak, own.anonymous, own.private_dirty);
    bounds.at_most("default build with devices of each kind, peak", own.peak, 8.0, " MiB");
    match programs::alioth(programs::SHELL).and_then(|(alioth, _terminal)| memory::of_waiting(&alioth)) {
        Ok(own) => {
            println!("  {:28}{:8.2}{:8.2}{:8.2}", "alioth", own.peak, own.anonymous, own.private_dirty);
            bounds.at_most("default build to alioth, peak", peak / own.peak, 1.0, "");
        }
        Err(error) => {
            not_measured::<()>("alioth", &error);
        }
    }
    Ok(())
}

/// A machine with a device of each kind that does not take the console away.
fn with_all_devices(program: &str) -> Result<Program> {
    let path = |name: &str| format!("{}/{name}", release::BUILT);
    let (disk, socket) = (path("memory.img"), path("memory.sock"));
    std::fs::File::create(&disk)?.set_len(64 << 20)?;
    // What an earlier run left.
    let _ = std::fs::remove_file(&socket);
    let mut machine = hostel("with devices of each kind", program, "shell");
    let devices = ["--disk", &disk, "--net", "switch:memory", "--share", release::BUILT, "--vsock", &socket];
    machine.words.extend(devices.iter().chain(&["--rng", "--balloon", "0"]).map(|word| (*word).to_owned()));
    Ok(machine)
}

/// The kernel that `scripts/lab-machine` keeps.
fn kernel() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")))?;
    let mut files = std::fs::read_dir(cache.join("hostel/lab/kernel/boot")).ok()?.flatten();
    files.find(|file| file.file_name().to_string_lossy().starts_with("vmlinuz")).map(|file| file.path())
}

fn row(name: &str, times: &Times, base: &Times) {
    let (min, median) = (times.min(), times.median());
    println!(
        "  {name:28} min {min:8.0} us  median {median:8.0} us   ratio {:5.2}, of medians {:5.2}",
        min / base.min(),
        median / base.median()
    );
}

/// Says that something is missing from the report, and why.
fn not_measured<T>(what: &str, reason: &dyn std::fmt::Display) -> Option<T> {
    println!("  {what}: not measured: {reason}");
    None
}
