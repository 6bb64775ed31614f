//! The trace of a run: which sinks its options ask for, what watches each vCPU, and the trace's end.

use super::build::{Blueprint, Watched};
use super::facts;
use super::io::MachineIo;
use super::names::Names;
use super::phases::{Phases, now_us};
use super::report::Run;
use super::{trace_checked, trace_shown};
use crate::config::{ReportChoice, RunConfig, TraceConfig};
use crate::debug::counters::Counters;
use crate::debug::event::DeviceRegister;
use crate::debug::golden::GoldenError;
use crate::debug::kvm_calls::KvmCalls;
use crate::debug::page::Page;
use crate::debug::sink::{Milestone, TraceEnd, TraceSink, Verdict};
use crate::debug::step::{Stepper, Steps};
use crate::debug::symbols::Symbols;
use crate::debug::timeline::Timeline;
use crate::debug::trace_thread::Trace;
use crate::debug::tracer::{TraceClock, Tracer};
use crate::kvm::calls::CallWatcher;
use crate::kvm::exit::Exit;
use crate::kvm::msr_filter::MsrFilter;
use crate::kvm::vcpu::Vcpu;
use crate::kvm::vm::Vm;
use crate::memory::ram::GuestRam;
use std::fs::File;
use std::io::{self, BufWriter, Write, stderr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The trace of a run.
pub struct Tracing {
    /// Of exits, where anything shows them.
    exits: Option<Trace>,
    /// Where steps are shown instead.
    steps: Option<Steps>,
    /// Of KVM calls.
    calls: Option<Arc<KvmCalls>>,
    msrs: Option<MsrFilter>,
    ram_mapped_us: u64,
    /// What the reports say of the machine; they add what they say of the host.
    machine: Vec<(&'static str, String)>,
}

/// A trace that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    /// A file that it writes.
    #[error("create {path}: {source}")]
    Create {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// What is to be shown.
    #[error("{0}")]
    Filter(String),
    /// What it is compared with.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// What is counted.
    #[error("{0}")]
    Budget(String),
    /// Its thread.
    #[error("start the trace's thread: {0}")]
    Thread(io::Error),
}

impl TracingError {
    /// Whether the options are wrong, and not the host.
    pub fn is_usage(&self) -> bool {
        matches!(self, TracingError::Filter(_) | TracingError::Budget(_))
    }
}

impl Tracing {
    /// Opens what the options ask for and starts the trace's thread; `None` if they ask for no trace. `process_start_us`
    /// is the trace's time 0.
    ///
    /// # Errors
    /// A file cannot be created, or the host gives no thread.
    pub fn start(
        run: &RunConfig,
        trace: Option<&TraceConfig>,
        blueprint: &Blueprint,
        names: &Names,
        process_start_us: u64,
    ) -> Result<Option<Tracing>, TracingError> {
        if let Some(vcpu) = trace.and_then(|trace| trace.vcpu.iter().find(|vcpu| **vcpu >= blueprint.cpus)) {
            return Err(TracingError::Filter(format!(
                "--vcpu {vcpu}: the last vCPU of this machine is {}",
                blueprint.cpus - 1
            )));
        }
        let steps = trace.map(|trace| trace_shown::steps(trace, names)).transpose()?.flatten();
        let sinks = if steps.is_some() { Vec::new() } else { sinks(run, trace)? };
        let clock = TraceClock::starting_at((now_us() - process_start_us) * 1000);
        let shows_calls = trace.is_some_and(|config| config.kvm_calls);
        let calls = shows_calls.then(|| Arc::new(KvmCalls::new(clock, Box::new(stderr()))));
        if sinks.is_empty() && calls.is_none() && steps.is_none() {
            return Ok(None);
        }
        let exits = if sinks.is_empty() { None } else { Some(Trace::start(clock, sinks, Symbols::clone(names))) };
        let exits = exits.transpose().map_err(TracingError::Thread)?;
        let msrs = trace.and_then(|config| config.msr.clone());
        Ok(Some(Tracing {
            exits,
            steps,
            calls,
            msrs,
            ram_mapped_us: blueprint.ram_mapped_us,
            machine: facts::of_machine(blueprint),
        }))
    }

    /// What is to be watched of the machine besides its exits.
    pub fn watched(&self) -> Watched {
        Watched { calls: self.calls.clone().map(|calls| calls as Arc<dyn CallWatcher>), msrs: self.msrs.clone() }
    }

    /// The counters of a machine whose exits are shown.
    pub fn counters(&self, vm: &Vm, vcpus: &[Vcpu]) -> Option<Counters> {
        self.exits.as_ref().map(|_| Counters::open(vm, vcpus))
    }

    /// What watches the exits of one vCPU.
    pub fn observer(&self, io: &Arc<MachineIo>, ram: &Arc<GuestRam>) -> Option<Tracer> {
        let (io, ram) = (io.clone(), ram.clone());
        let name = move |exit: &Exit| register(&io, exit);
        Some(self.exits.as_ref()?.tracer(Box::new(name), Box::new(move |gpa| ram.read_u64(gpa))))
    }

    /// What steps one vCPU, where steps are shown instead of exits.
    pub fn stepper(&self, io: &Arc<MachineIo>, ram: &Arc<GuestRam>) -> Option<Stepper> {
        let (io, ram) = (io.clone(), ram.clone());
        let name = move |exit: &Exit| register(&io, exit);
        Some(self.steps.as_ref()?.stepper(Box::new(name), Box::new(move |gpa| ram.read_u64(gpa))))
    }

    /// Ends the trace of a run that is over, and returns what each sink found.
    pub fn finish(self, run: &Run) -> Vec<io::Result<Verdict>> {
        let origin_us = run.phases.process_start;
        let since = |at_us: u64| at_us.saturating_sub(origin_us) * 1000;
        let Phases { process_start, load, kvm, first_entry, guest } = run.phases;
        let milestones = [
            (Milestone::ProcessStart, process_start),
            (Milestone::RamMapped, self.ram_mapped_us),
            (Milestone::ImageLoaded, load),
            (Milestone::KvmReady, kvm),
            (Milestone::FirstEntry, first_entry),
            (Milestone::End, guest),
        ];
        let counted = ("exits in all", run.counted.sentence());
        let end = TraceEnd {
            ended_ns: since(guest),
            reason: run.reason(),
            dropped: 0,
            milestones: milestones.into_iter().filter(|(_, at)| *at > 0).map(|(name, at)| (name, since(at))).collect(),
            counted: run.counted.clone(),
            facts: self.machine.into_iter().chain(facts::of_host()).chain([counted]).collect(),
        };
        let mut found = self.exits.map_or_else(Vec::new, |exits| exits.finish(end));
        found.extend(self.steps.map(|steps| steps.finish().map(|()| Verdict::Fine)));
        found.extend(self.calls.map(|calls| calls.finish().map(|()| Verdict::Fine)));
        found
    }
}

/// What the options ask for.
fn sinks(run: &RunConfig, trace: Option<&TraceConfig>) -> Result<Vec<Box<dyn TraceSink>>, TracingError> {
    let mut sinks: Vec<Box<dyn TraceSink>> = Vec::new();
    if let Some(config) = trace {
        sinks.extend(trace_shown::sinks(config)?);
        sinks.extend(trace_checked::sinks(config)?);
        if let Some(path) = &config.export {
            sinks.push(Box::new(Timeline::new(create(path)?)));
        }
    }
    for report in &run.ends.report {
        match report {
            ReportChoice::Html(path) => sinks.push(Box::new(Page::new(create(path)?))),
            ReportChoice::Junit(_) => {}
        }
    }
    Ok(sinks)
}

/// Creates a file that the trace writes.
pub(super) fn create(path: &Path) -> Result<Box<dyn Write + Send>, TracingError> {
    let file = File::create(path).map_err(|source| TracingError::Create { path: path.to_owned(), source })?;
    Ok(Box::new(BufWriter::new(file)))
}

/// The register that an access reaches.
pub fn register(io: &MachineIo, exit: &Exit) -> Option<DeviceRegister> {
    let (device, register) = match *exit {
        Exit::PioRead { port, .. } => io.ports.names(port.into(), false),
        Exit::PioWrite { port, .. } => io.ports.names(port.into(), true),
        Exit::MmioRead { addr, .. } => io.mmio.names(addr, false),
        Exit::MmioWrite { addr, .. } => io.mmio.names(addr, true),
        _ => None,
    }?;
    Some(DeviceRegister { device, register })
}
