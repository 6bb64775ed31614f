//! What watches a machine's vCPUs, and what is told of them from that: flight recorders, the trace, diagnoses.

use super::build::Blueprint;
use super::io::MachineIo;
use super::lifecycle::Finished;
use super::names::Names;
use super::outcome::Outcome;
use super::tracing::{Tracing, register};
use crate::arch::cpu_state::CpuState;
use crate::config::RunConfig;
use crate::debug::crash::{self, Evidence, Stop};
use crate::debug::occasion::Occasion;
use crate::debug::recorder::{Moment, Recorded, Recorder, Recording};
use crate::memory::ram::GuestRam;
use crate::vcpu::handler::ExitObserver;
use std::sync::Arc;

/// The watch over a run.
pub struct Watch<'a> {
    /// The trace, if there is one.
    pub tracing: Option<&'a Tracing>,
    names: &'a Names,
    ram: Arc<GuestRam>,
    cpus: u32,
    /// By number of the vCPU; none without flight recorders.
    recordings: Vec<Arc<Recording>>,
}

impl Watch<'_> {
    /// Watches a machine made from `blueprint` as `config` asks for it.
    pub fn new<'a>(
        config: &RunConfig,
        blueprint: &Blueprint,
        names: &'a Names,
        tracing: Option<&'a Tracing>,
    ) -> Watch<'a> {
        let cpus = blueprint.cpus;
        let recorded = if config.ends.no_recorder { 0 } else { cpus };
        let recordings = (0..recorded).map(|_| Arc::default()).collect();
        Watch { tracing, names, ram: blueprint.ram.clone(), cpus, recordings }
    }

    /// What watches the exits of a vCPU.
    pub fn observer(&self, vcpu: u32, io: &Arc<MachineIo>) -> Option<Box<dyn ExitObserver>> {
        let recorder = self.recordings.get(vcpu as usize).map(|recording| Recorder::new(recording.clone()));
        if let Some(stepper) = self.tracing.and_then(|tracing| tracing.stepper(io, &self.ram)) {
            return Some(match recorder {
                Some(recorder) => Box::new((recorder, stepper)),
                None => Box::new(stepper),
            });
        }
        let tracer = self.tracing.and_then(|tracing| tracing.observer(io, &self.ram));
        Some(match (recorder, tracer) {
            (Some(recorder), Some(tracer)) => Box::new((recorder, tracer)),
            (Some(recorder), None) => Box::new(recorder),
            (None, Some(tracer)) => Box::new(tracer),
            (None, None) => return None,
        })
    }

    /// All that can be told of vCPUs that run, with the registers that they just had.
    pub fn dump(&self, states: &[(u32, CpuState)], io: &MachineIo) -> String {
        self.describe(Occasion::Asked, states, Moment::now(), io)
    }

    /// What is to be said of vCPUs that failed, or that ran when a deadline or a panic ended the run; else nothing.
    pub fn diagnose(&self, finished: &Finished) -> String {
        let occasion = match &finished.outcome {
            Outcome::TripleFault(_) => Occasion::TripleFault,
            Outcome::Failed(failure, _) => Occasion::Failed(*failure),
            Outcome::Panicked { .. } => Occasion::Panicked,
            Outcome::Deadline => Occasion::Deadline,
            _ => return String::new(),
        };
        match &finished.outcome {
            Outcome::TripleFault(stopped) | Outcome::Failed(_, stopped) => {
                let mut exits = self.exits(stopped.vcpu, finished.ended, &finished.io);
                // The end is the last of them, not when the control thread heard of it.
                let after_ns = exits.last().map_or(0, |last| last.ago_ns);
                exits.iter_mut().for_each(|exit| exit.ago_ns = exit.ago_ns.saturating_sub(after_ns));
                self.describe_one(occasion, stopped.vcpu, stopped.state.as_slice(), &exits)
            }
            _ => self.describe(occasion, &finished.looks, finished.ended, &finished.io),
        }
    }

    /// Each vCPU that was looked at or whose exits are known. `looks` has registers by number of the vCPU.
    fn describe(&self, occasion: Occasion, looks: &[(u32, CpuState)], end: Moment, io: &MachineIo) -> String {
        let mut text = String::new();
        for vcpu in 0..self.cpus {
            let own = looks.iter().filter(|(other, _)| *other == vcpu).map(|(_, state)| *state);
            let own: Vec<_> = own.collect();
            if !own.is_empty() || !self.recordings.is_empty() {
                text.push_str(&self.describe_one(occasion, vcpu, &own, &self.exits(vcpu, end, io)));
            }
        }
        text
    }

    /// The last exits of a vCPU before `end`.
    fn exits(&self, vcpu: u32, end: Moment, io: &MachineIo) -> Vec<Recorded> {
        let recording = self.recordings.get(vcpu as usize);
        recording.map(|recording| recording.exits(end, &|exit| register(io, exit))).unwrap_or_default()
    }

    fn describe_one(&self, occasion: Occasion, vcpu: u32, looks: &[CpuState], exits: &[Recorded]) -> String {
        let mut evidence = Evidence { symbols: self.names, read: &mut |gpa| self.ram.read_u64(gpa) };
        crash::describe(&Stop { occasion, vcpu, looks, exits }, &mut evidence)
    }
}
