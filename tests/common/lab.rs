//! The lab: a throw-away Linux machine in QEMU whose emulated processor has SVM, so that KVM inside it is the one that real
//! AMD hardware has, whatever this machine offers.
//!
//! The first serial port carries the kernel log, the second the output of what runs. The status of that comes as a line of
//! the log; a log that ends without one means that the lab itself failed, which is never the result of a test.

use super::lab_image::{Image, STATUS_MARK, kernel_image};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The machine, with nothing but a processor and RAM; a panic resets it, which ends it.
///
/// One processor: between several QEMU switches by a timer, and when that strikes behind a VMRUN which injected an interrupt
/// (`helper_vmrun` leaves its vector in `exception_index`), QEMU 7.2 delivers the vector a second time, also to a guest that
/// has interrupts off by then. No XSAVE: a guest's XSETBV is not intercepted and changes the state that its host saves.
const MACHINE: &str = "-nodefaults -no-user-config -display none -no-reboot -M q35 -accel tcg,thread=single \
    -cpu max,xsave=off -smp 1 -m 4096";

/// Status of coreutils' `timeout` when the time is over, and ours.
const DEADLINE_STATUS: i32 = 124;
/// How often the lab may fail by itself before it gives up.
const ATTEMPTS: usize = 2;
/// Lines of the kernel log that are shown when the lab fails.
const LOG_LINES: usize = 60;

/// What to run in the lab.
pub struct Job {
    /// The machine's files.
    pub image: Image,
    /// The shell script to run.
    pub script: String,
    /// The longest time that the whole may take.
    pub deadline: Duration,
}

/// Where `scripts/lab-machine` unpacks the kernel.
pub fn kernel_directory() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    Ok(cache.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?.join("hostel/lab/kernel"))
}

/// Runs the job, its output going to our standard output, and returns its status.
pub fn run(job: Job) -> Result<i32> {
    let kernel = kernel_image(&kernel_directory()?)?;
    let directory = std::env::temp_dir().join(format!("hostel-lab-{}", std::process::id()));
    std::fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let result = attempts(&kernel, &directory, job);
    std::fs::remove_dir_all(&directory)?;
    result
}

fn attempts(kernel: &Path, directory: &Path, job: Job) -> Result<i32> {
    let initramfs = directory.join("initramfs");
    std::fs::write(&initramfs, job.image.finish(&job.script)).context("cannot write the lab's initramfs")?;
    for attempt in 1..=ATTEMPTS {
        let log = directory.join("log");
        let machine = machine(kernel, &initramfs, &log, job.deadline)?;
        if machine == Some(DEADLINE_STATUS) {
            eprintln!("lab: not done after {} s", job.deadline.as_secs());
            return Ok(DEADLINE_STATUS);
        }
        let log = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
        if let Some(status) = status_in(&log) {
            return Ok(status);
        }
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        eprintln!("{tail}\nlab: the machine itself failed (attempt {attempt} of {ATTEMPTS})");
    }
    bail!("the lab failed {ATTEMPTS} times: this says nothing about what ran in it")
}

/// Runs QEMU to its end. A terminal is handed through; without one the standard input stays here.
fn machine(kernel: &Path, initramfs: &Path, log: &Path, deadline: Duration) -> Result<Option<i32>> {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    // panic=-1: reset at once.
    let words = "console=ttyS0 quiet panic=-1";
    let command_line = if terminal { format!("{words} hostel_lab.terminal") } else { words.to_owned() };
    File::create(log)?;
    let status = Command::new("timeout")
        .args(["--foreground", "--kill-after=5", &deadline.as_secs().to_string(), "qemu-system-x86_64"])
        .args(MACHINE.split_whitespace())
        .args(["-append", &command_line])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-serial", &format!("file:{}", log.display())])
        .args(["-chardev", "stdio,id=output,signal=off", "-serial", "chardev:output"])
        .stdin(if terminal { Stdio::inherit() } else { Stdio::null() })
        .status()
        .context("cannot run timeout and qemu-system-x86_64")?;
    Ok(status.code())
}

/// The status that the lab's init wrote to the kernel log.
fn status_in(log: &str) -> Option<i32> {
    log.lines().rev().find_map(|line| line.split_once(STATUS_MARK)?.1.trim().parse().ok())
}
