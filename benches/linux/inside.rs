//! The part that runs in the lab: boots the kernel by Hostel and by QEMU in turn, and holds the shortest times against the
//! bounds.

use super::QEMU;
use super::bounds::Bounds;
use anyhow::{Context, Result, bail};
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The initramfs that Hostel embeds, as a file for QEMU.
pub const INITRAMFS: &str = concat!(env!("OUT_DIR"), "/initramfs");

/// Boots of each kind.
const ROUNDS: usize = 3;
/// Where Hostel keeps decompressed kernels in this bench.
const CACHE: &str = "/tmp/cache";
/// A guest's kernel is cached beside the running guest, within this time.
const CACHED_WITHIN: Duration = Duration::from_secs(120);
/// What a boot uses of the lab's memory, and the one before it left, with room to spare.
const WRITTEN: usize = 1 << 30;
/// Console output that is more than any boot writes.
const OUTPUT_MAX: usize = 1 << 20;
/// Bytes that init's greeting does not reach.
const GREETING_MAX: usize = 256;

/// What is booted, and how.
struct Kind {
    name: &'static str,
    command: fn(&str, &str) -> Command,
    /// Whether the cache is emptied before each boot.
    cold: bool,
}

/// In this order, so that a cold boot fills the cache of the warm one. QEMU goes without PIC and PIT, which Hostel's machine
/// does not have either: it starts faster so.
const KINDS: [Kind; 6] = [
    Kind { name: "hostel, cold cache", command: |program, kernel| hostel(program, kernel, &[]), cold: true },
    Kind { name: "hostel, warm cache", command: |program, kernel| hostel(program, kernel, &[]), cold: false },
    Kind {
        name: "hostel --share-pages",
        command: |program, kernel| hostel(program, kernel, &["--share-pages"]),
        cold: false,
    },
    Kind {
        name: "hostel --no-host-decompress",
        command: |program, kernel| hostel(program, kernel, &["--no-host-decompress"]),
        cold: false,
    },
    Kind { name: "QEMU microvm", command: |_, kernel| qemu(kernel, "microvm,acpi=on,pic=off,pit=off"), cold: false },
    Kind { name: "QEMU q35", command: |_, kernel| qemu(kernel, "q35,pic=off,pit=off"), cold: false },
];

/// One boot: seconds from the spawn to user space, and of these the kernel's own.
#[derive(Clone, Copy)]
struct Boot {
    total: f64,
    kernel: f64,
}

/// Measures and judges the Hostel in the file `program`, booting `kernel`.
pub fn measure(program: &str, kernel: &str) -> Result<ExitCode> {
    let mut boots = [Boot { total: f64::INFINITY, kernel: f64::INFINITY }; KINDS.len()];
    for _ in 0..ROUNDS {
        for (kind, shortest) in KINDS.iter().zip(&mut boots) {
            if kind.cold && Path::new(CACHE).exists() {
                std::fs::remove_dir_all(CACHE)?;
            }
            write_free_memory();
            let boot = boot(&mut (kind.command)(program, kernel), kind.cold).with_context(|| kind.name)?;
            println!("{:28} {:6.2} s, of which the kernel {:6.2} s", kind.name, boot.total, boot.kernel);
            shortest.total = shortest.total.min(boot.total);
            shortest.kernel = shortest.kernel.min(boot.kernel);
        }
    }
    println!("the shortest of {ROUNDS}");
    for (kind, shortest) in KINDS.iter().zip(&boots) {
        println!("{:28} {:6.2} s, of which the kernel {:6.2} s", kind.name, shortest.total, shortest.kernel);
    }
    let [cold, warm, shared, plain, microvm, q35] = boots;
    println!("warm: --share-pages takes {:.2} times as long as the default", shared.total / warm.total);
    let mut bounds = Bounds::default();
    bounds.at_most("spawn to user space, warm to --no-host-decompress", warm.total / plain.total, 0.62, "");
    bounds.at_most("spawn to user space, cold to --no-host-decompress", cold.total / plain.total, 0.95, "");
    bounds.at_most("spawn to user space, warm to QEMU microvm", warm.total / microvm.total, 1.0, "");
    bounds.at_most("spawn to user space, warm to QEMU q35", warm.total / q35.total, 1.0, "");
    bounds.at_most("the kernel's own uptime, warm to QEMU microvm", warm.kernel / microvm.kernel, 1.0, "");
    Ok(bounds.finish())
}

fn hostel(program: &str, kernel: &str, options: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["run", kernel, "--mem", "256M"]).args(options).env("XDG_CACHE_HOME", CACHE);
    command
}

fn qemu(kernel: &str, machine: &str) -> Command {
    let mut command = Command::new(QEMU);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    command.args(["-accel", "kvm", "-cpu", "host", "-m", "256", "-M", machine]);
    command.args(["-kernel", kernel, "-initrd", INITRAMFS, "-append", "console=ttyS0"]);
    command
}

/// Writes the memory that the boots before have left. The lab's processor is emulated, by translated code: the first writes to
/// memory that held code, another guest's kernel as it may be, take it twenty to fifty times as long as others, 200 to 400 ms for
/// 2 MiB, and would fall to whichever guest gets that memory next.
fn write_free_memory() {
    std::hint::black_box(vec![1_u8; WRITTEN]);
}

/// Boots until init's greeting, waits for the kernel to be cached if it is to be, and kills the machine.
fn boot(command: &mut Command, caches: bool) -> Result<Boot> {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut output = child.stdout.take().context("its output is ours")?;
    let mut console = Vec::new();
    let mut bytes = [0; 4096];
    let boot = loop {
        let count = output.read(&mut bytes)?;
        // Only where the greeting can be: what this program does takes the processor from the guest.
        let from = console.len().saturating_sub(GREETING_MAX);
        console.extend(&bytes[..count]);
        if let Some(kernel) = uptime(&String::from_utf8_lossy(&console[from..])) {
            break Boot { total: start.elapsed().as_secs_f64(), kernel };
        }
        if count == 0 || console.len() > OUTPUT_MAX {
            bail!("no user space: {}", String::from_utf8_lossy(&console));
        }
    };
    while caches && !is_cached() && start.elapsed() < CACHED_WITHIN {
        sleep(Duration::from_millis(100));
    }
    child.kill()?;
    child.wait()?;
    Ok(boot)
}

/// Whether the cache leads to a kernel: its index is written last.
fn is_cached() -> bool {
    let files = std::fs::read_dir(format!("{CACHE}/hostel/kernels")).into_iter().flatten().flatten();
    files.map(|file| file.path()).any(|path| path.extension().is_some_and(|extension| extension == "index"))
}

/// The kernel's uptime in init's greeting: `... initramfs on Linux 6.1, up 1.23 s`, once the line is complete.
fn uptime(console: &str) -> Option<f64> {
    let greeting = &console[console.find("embedded initramfs")?..];
    let (line, _) = greeting.split_once('\n')?;
    let (_, seconds) = line.trim_end().strip_suffix(" s")?.split_once(", up ")?;
    seconds.parse().ok()
}
