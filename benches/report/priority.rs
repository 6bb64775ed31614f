//! Real-time priorities for machines that are measured: a guest that looks at its rings without end would else keep the processor from
//! the threads that serve it, for as long as the host's scheduler pleases.
//!
//! Whatever serves comes before virtual processors, and this program, which sets that, before both. Sources: sched(7), chrt(1).

use anyhow::{Context, Result, ensure};
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Priorities (SCHED_FIFO).
const BENCH: &str = "30";
const SERVES: &str = "20";
const VCPU: &str = "10";
/// How the thread of a virtual processor is named by Hostel and by a QEMU with `debug-threads=on`.
const NAMES: [&str; 2] = ["vcpu0", "CPU 0/KVM"];
/// How long a machine takes to have one, at most, and how often that is looked for.
const APPEARS_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// Whether this user may give priorities, and this program has its own.
#[derive(Clone, Copy, Debug)]
pub struct Priority {
    may: bool,
}

impl Priority {
    /// Takes the program's own, where that is permitted.
    pub fn take() -> Priority {
        let may = succeeds(&["-f", "-a", "-p", BENCH, &std::process::id().to_string()]);
        if !may {
            println!("without real-time priorities, which this user may not give: expect noise");
        }
        Priority { may }
    }

    /// A command whose threads come before virtual processors.
    pub fn command(self, program: &str) -> Command {
        if !self.may {
            return Command::new(program);
        }
        let mut command = Command::new("chrt");
        command.args(["-f", SERVES, program]);
        command
    }

    /// Waits until the machine that was started as process `id` has its virtual processor, and gives that its place.
    pub fn lower_vcpu(self, id: u32) -> Result<()> {
        let start = Instant::now();
        if !self.may {
            return Ok(());
        }
        loop {
            for task in fs::read_dir(format!("/proc/{id}/task")).context("the machine has ended")?.flatten() {
                let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
                if NAMES.contains(&name.trim_end()) {
                    let thread = task.file_name();
                    succeeds(&["-f", "-p", VCPU, thread.to_str().context("a number")?]);
                    return Ok(());
                }
            }
            ensure!(start.elapsed() < APPEARS_WITHIN, "no thread of a virtual processor in process {id}");
            thread::sleep(LOOK_EVERY);
        }
    }
}

fn succeeds(words: &[&str]) -> bool {
    let quiet = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet(Command::new("chrt").args(words)).is_ok_and(|status| status.success())
}
