//! What `hostel bench` measured, as text and as JSON, with the command that repeats each part.

use super::exits::{self, ExitCost};
use super::memory::{self, Memory};
use super::phases::{self, Phase, STARTS};
use crate::doctor::measure::MeasureError;
use crate::kvm::system::{KvmError, System};
use clap::ValueEnum;
use serde::Serialize;
use std::fmt::Write;
use std::io;

/// A part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Phases of a start
    Phases,
    /// Exits by kind
    Exits,
    /// Memory beside the guest's own
    Memory,
}

/// A measurement that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Hostel could not be started.
    #[error("start this program again: {0}")]
    Start(io::Error),
    /// It did not do what it should.
    #[error("this program, started again, ended without its result: {0}")]
    Failed(String),
    /// KVM gives no machine.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A guest did not run.
    #[error(transparent)]
    Measure(#[from] MeasureError),
}

/// What was measured; a part that was not asked for is left out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Bench {
    /// Phases of a start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phases: Option<Vec<Phase>>,
    /// Exits by kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exits: Option<Vec<ExitCost>>,
    /// Memory of a machine that waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

impl Bench {
    /// Measures all, or only one part.
    ///
    /// # Errors
    /// A part cannot be measured.
    pub fn measure(only: Option<Part>) -> Result<Bench, BenchError> {
        let asked = |part| only.is_none_or(|only| only == part);
        // First of all, for what it says where there is no KVM.
        let system = System::open()?;
        Ok(Bench {
            phases: asked(Part::Phases).then(phases::measure).transpose()?,
            exits: asked(Part::Exits).then(|| exits::measure(&system)).transpose()?,
            memory: asked(Part::Memory).then(memory::measure).transpose()?,
        })
    }

    /// As JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data with string keys")
    }

    /// As text.
    pub fn text(&self) -> String {
        let parts = [
            self.phases.as_deref().map(phases_text),
            self.exits.as_deref().map(exits_text),
            self.memory.as_ref().map(memory_text),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
    }
}

fn phases_text(phases: &[Phase]) -> String {
    let mut text = format!("start of the sample hello, {STARTS} times, in ms           min   median\n");
    for Phase { name, min_us, median_us } in phases {
        let [min, median] = [min_us, median_us].map(|us| *us as f64 / 1e3);
        writeln!(text, "  {name:48} {min:8.2} {median:8.2}").expect("strings take all");
    }
    text + "  again: hostel bench --only phases; of one start: hostel run hello --result FILE\n"
}

fn exits_text(exits: &[ExitCost]) -> String {
    let mut text = String::from("exits, in ns                  seen by Hostel      without recorder     with\n");
    for ExitCost { what, exit, ns, recorded_ns } in exits {
        let exit = exit.unwrap_or("no, KVM answers");
        writeln!(text, "  {what:28} {exit:18} {ns:16.0} {recorded_ns:8.0}").expect("strings take all");
    }
    text + "  again: hostel bench --only exits\n"
}

fn memory_text(memory: &Memory) -> String {
    let Memory { guest_kib, beyond_kib, private_dirty_kib } = memory;
    format!(
        "resident memory of the sample shell, waiting, in KiB\n  the guest's RAM {guest_kib:36}\n  beyond it {beyond_kib:42}\n  \
         of that changed and its own {private_dirty_kib:24}\n  again: hostel bench --only memory\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_told_with_its_command() {
        let bench = Bench {
            phases: Some(vec![Phase { name: "load", min_us: 120, median_us: 1500 }]),
            exits: Some(vec![ExitCost { what: "CPUID", exit: None, ns: 1234.4, recorded_ns: 1240.6 }]),
            memory: Some(Memory { guest_kib: 300, beyond_kib: 2100, private_dirty_kib: 400 }),
        };
        let expected = "\
start of the sample hello, 20 times, in ms           min   median
  load                                                 0.12     1.50
  again: hostel bench --only phases; of one start: hostel run hello --result FILE

exits, in ns                  seen by Hostel      without recorder     with
  CPUID                        no, KVM answers                1234     1241
  again: hostel bench --only exits

resident memory of the sample shell, waiting, in KiB
  the guest's RAM                                  300
  beyond it                                       2100
  of that changed and its own                      400
  again: hostel bench --only memory
";
        assert_eq!(bench.text(), expected);
        let json: serde_json::Value = serde_json::from_str(&bench.json()).unwrap();
        assert_eq!(
            (&json["exits"][0]["exit"], &json["memory"]["beyond_kib"]),
            (&serde_json::Value::Null, &2100.into())
        );
        assert_eq!(Bench::default().json(), "{}");
    }
}
