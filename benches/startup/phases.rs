//! Where the time goes: each phase of a start, from the stamps that Hostel puts into `--result` and the floor prints.

use super::paired::{Program, Times, timed};
use anyhow::{Context, Result, ensure};
use std::fs;

/// The phases; the last ends when the process has gone.
pub const PHASES: [&str; 6] = ["process start", "KVM set-up", "load", "first entry", "guest", "teardown"];
/// Their names in the file that `--result` writes; the end of the process is the bench's to see.
const RESULT_KEYS: [&str; 5] = ["process_start", "kvm", "load", "first_entry", "guest"];
/// [`PHASES`] until the first instruction of the guest.
const UNTIL_FIRST_ENTRY: usize = 4;

/// Where a program leaves the times at which its phases ended (CLOCK_MONOTONIC, microseconds).
pub enum Stamps {
    /// In the JSON file that `--result` names.
    ResultFile(String),
    /// On standard error, one a line.
    StandardError,
}

/// How long each phase took in each of the runs.
pub struct Phases {
    rounds: Vec<[f64; PHASES.len()]>,
}

impl Phases {
    /// Of one phase.
    pub fn of(&self, phase: usize) -> Times {
        Times::new(self.rounds.iter().map(|round| round[phase]).collect())
    }

    /// From the spawn to the first instruction of the guest.
    pub fn until_first_entry(&self) -> Times {
        Times::new(self.rounds.iter().map(|round| round[..UNTIL_FIRST_ENTRY].iter().sum()).collect())
    }
}

/// Runs the programs in turn and takes their phases apart. Before each there is a run of the first that is not measured: some take a
/// hundred milliseconds, and their successor would pay for the caches that they leave.
pub fn measure(programs: &[(Program, Stamps)], rounds: usize) -> Result<Vec<Phases>> {
    let mut all: Vec<_> = programs.iter().map(|_| Phases { rounds: Vec::with_capacity(rounds) }).collect();
    for round in 0..=rounds {
        for ((program, stamps), phases) in programs.iter().zip(&mut all) {
            once(&programs[0].0, &programs[0].1)?;
            let durations = once(program, stamps).with_context(|| format!("phases of {}", program.name))?;
            if round > 0 {
                phases.rounds.push(durations);
            }
        }
    }
    Ok(all)
}

fn once(program: &Program, stamps: &Stamps) -> Result<[f64; PHASES.len()]> {
    let mut command = program.command()?;
    let (spawned, ended, status, ends) = match stamps {
        Stamps::ResultFile(path) => {
            let (spawned, ended, status) = timed(command.args(["--result", path]))?;
            let result: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
            let end = |key| result["phases_us"][key].as_f64().with_context(|| format!("phases_us.{key} in {result}"));
            (spawned, ended, status, RESULT_KEYS.iter().map(end).collect::<Result<Vec<_>>>()?)
        }
        Stamps::StandardError => {
            let (reader, writer) = std::io::pipe()?;
            let (spawned, ended, status) = timed(command.stderr(writer))?;
            drop(command); // and with it our own copy of the writing end
            let text = std::io::read_to_string(reader)?;
            (spawned, ended, status, text.lines().map(str::parse).collect::<Result<_, _>>()?)
        }
    };
    ensure!(status.code() == Some(program.status), "{status}");
    ensure!(ends.len() == RESULT_KEYS.len(), "{} stamps", ends.len());
    // Hostel loads before it asks for KVM, the floor after: a phase lasts from the latest end before its own.
    let mut in_order: Vec<_> = ends.into_iter().chain([ended]).enumerate().collect();
    in_order.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    let mut durations = [0.0; PHASES.len()];
    let mut before = spawned;
    for (phase, end) in in_order {
        durations[phase] = end - before;
        before = end;
    }
    Ok(durations)
}
