//! What a waiting machine costs in memory, less the guest's own RAM.
//!
//! Source: Linux Documentation/filesystems/proc.rst, `/proc/PID/status` and `/proc/PID/smaps`.

use super::paired::Program;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io::Read;
use std::process::{Child, Stdio};

/// Overheads in MiB.
pub struct Overhead {
    /// The most that was ever resident, less what the guest's RAM has resident.
    pub peak: f64,
    /// Resident anonymous memory.
    pub anonymous: f64,
    /// Resident memory that is changed and nobody else's.
    pub private_dirty: f64,
}

/// Size of the machine's RAM, by which its mapping is recognized.
const RAM_KIB: u64 = 128 << 10;
/// What the guest prints when it waits for input.
const PROMPT: &[u8] = b"> ";

/// Starts a program that shows a prompt and then waits for input, measures it there, and ends it.
pub fn of_waiting(program: &Program) -> Result<Overhead> {
    let mut command = program.command()?;
    if program.stdin.is_none() {
        command.stdin(Stdio::piped()); // open and silent until the child is killed
    }
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let overhead = wait_for_prompt(&mut child).and_then(|()| read(child.id()));
    child.kill()?;
    child.wait()?;
    overhead.with_context(|| format!("memory of {}", program.name))
}

fn wait_for_prompt(child: &mut Child) -> Result<()> {
    let mut output = child.stdout.take().context("its output is ours")?;
    let mut seen = Vec::new();
    let mut bytes = [0; 512];
    while !seen.ends_with(PROMPT) {
        match output.read(&mut bytes)? {
            0 => bail!("no prompt in {:?}", String::from_utf8_lossy(&seen)),
            count => seen.extend(&bytes[..count]),
        }
    }
    child.stdout = Some(output); // a closed pipe would end some programs
    Ok(())
}

fn read(process: u32) -> Result<Overhead> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let peak_kib = status.lines().find_map(|line| field(line, "VmHWM")).context("VmHWM")?;
    let smaps = fs::read_to_string(format!("/proc/{process}/smaps"))?;
    let mappings = mappings(&smaps);
    let (guest, own): (Vec<_>, Vec<_>) = mappings.into_iter().partition(|mapping| mapping.size == RAM_KIB);
    ensure!(guest.len() == 1, "{} mappings of the size of the guest's RAM", guest.len());
    let mib = |kib: u64| kib as f64 / 1024.0;
    Ok(Overhead {
        peak: mib(peak_kib.saturating_sub(guest[0].resident)),
        anonymous: mib(own.iter().map(|mapping| mapping.anonymous).sum()),
        private_dirty: mib(own.iter().map(|mapping| mapping.private_dirty).sum()),
    })
}

/// A mapping of a process; sizes in KiB.
#[derive(Default)]
struct Mapping {
    size: u64,
    resident: u64,
    anonymous: u64,
    private_dirty: u64,
}

/// The mappings in an `smaps` file, in each of which `Size` is the first field.
fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some(size) = field(line, "Size") {
            mappings.push(Mapping { size, ..Mapping::default() });
        } else if let Some(mapping) = mappings.last_mut() {
            for (name, value) in [
                ("Rss", &mut mapping.resident),
                ("Anonymous", &mut mapping.anonymous),
                ("Private_Dirty", &mut mapping.private_dirty),
            ] {
                *value = field(line, name).unwrap_or(*value);
            }
        }
    }
    mappings
}

/// The value in a line `name:   123 kB`.
fn field(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse().ok()
}
