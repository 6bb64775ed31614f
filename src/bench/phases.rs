//! Where the time of a start goes: this program runs itself with the sample `hello`, which tells when each phase ended
//! (`--result`). It loads before it asks for KVM.

use super::report::BenchError;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::env;
use std::process::{Command, Stdio};

/// Starts that are measured, after one that warms the caches.
pub const STARTS: usize = 20;

/// The phases, each with the key of its end in the file that `--result` writes; the last ends with the process.
const PHASES: [(&str, Option<&str>); 6] = [
    ("process start", Some("process_start")),
    ("load", Some("load")),
    ("KVM", Some("kvm")),
    ("first entry", Some("first_entry")),
    ("guest", Some("guest")),
    ("teardown", None),
];

/// How long a phase took, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// The shortest.
    pub min_us: u64,
    /// The median.
    pub median_us: u64,
}

/// Measures the phases, and all of them together.
///
/// # Errors
/// The program cannot be started, or does not end as it should.
pub fn measure() -> Result<Vec<Phase>, BenchError> {
    once()?;
    let starts = (0..STARTS).map(|_| once()).collect::<Result<Vec<_>, _>>()?;
    Ok(sum_up(&starts))
}

/// Ends of the phases of each start, its begin first, become phases.
fn sum_up(starts: &[[u64; PHASES.len() + 1]]) -> Vec<Phase> {
    let phase = |name, duration: &dyn Fn(&[u64; PHASES.len() + 1]) -> u64| {
        let mut durations: Vec<u64> = starts.iter().map(duration).collect();
        durations.sort_unstable();
        Phase { name, min_us: durations[0], median_us: durations[durations.len() / 2] }
    };
    let names = PHASES.iter().enumerate();
    let mut phases: Vec<_> =
        names.map(|(at, (name, _))| phase(name, &|ends| ends[at + 1].saturating_sub(ends[at]))).collect();
    phases.push(phase("in all", &|ends| ends[PHASES.len()].saturating_sub(ends[0])));
    phases
}

/// One start: when it began, and the ends of its phases.
fn once() -> Result<[u64; PHASES.len() + 1], BenchError> {
    let mut command = Command::new(env::current_exe().map_err(BenchError::Start)?);
    command.args(["run", "hello", "--console", "none", "--result", "/dev/stdout"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = now_us();
    let output = command.spawn().and_then(|child| child.wait_with_output()).map_err(BenchError::Start)?;
    let end = now_us();
    let result: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
    let told = || BenchError::Failed(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    let result = result.filter(|_| output.status.success()).ok_or_else(told)?;
    let mut ends = [start; PHASES.len() + 1];
    for ((_, key), at) in PHASES.iter().zip(&mut ends[1..]) {
        *at = match key {
            Some(key) => result["phases_us"][key].as_u64().ok_or_else(told)?,
            None => end,
        };
    }
    Ok(ends)
}

/// The clock of `--result`.
fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_become_durations() {
        let phases = sum_up(&[[10, 11, 13, 16, 20, 25, 31], [0, 1, 2, 3, 4, 5, 6], [0, 3, 6, 9, 12, 15, 18]]);
        assert_eq!(phases[1], Phase { name: "load", min_us: 1, median_us: 2 });
        assert_eq!(phases[6], Phase { name: "in all", min_us: 6, median_us: 18 });
    }
}
