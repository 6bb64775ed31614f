//! The trace of a run: which sinks its options ask for, what watches each vCPU, and the trace's end.

use super::build::Blueprint;
use super::facts;
use super::io::MachineIo;
use super::phases::{Phases, now_us};
use super::report::Run;
use super::trace_shown;
use crate::config::{ReportChoice, RunConfig, TraceConfig};
use crate::debug::event::DeviceRegister;
use crate::debug::page::Page;
use crate::debug::sink::{Milestone, TraceEnd, TraceSink, Verdict};
use crate::debug::symbols::Symbols;
use crate::debug::timeline::Timeline;
use crate::debug::trace_thread::Trace;
use crate::debug::tracer::TraceClock;
use crate::kvm::exit::Exit;
use crate::memory::ram::GuestRam;
use crate::vcpu::handler::ExitObserver;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The trace of a run.
pub struct Tracing {
    trace: Trace,
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
    /// Its thread.
    #[error("start the trace's thread: {0}")]
    Thread(io::Error),
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
        symbols: &Symbols,
        process_start_us: u64,
    ) -> Result<Option<Tracing>, TracingError> {
        let sinks = sinks(run, trace)?;
        if sinks.is_empty() {
            return Ok(None);
        }
        let clock = TraceClock::starting_at((now_us() - process_start_us) * 1000);
        let trace = Trace::start(clock, sinks, symbols.clone()).map_err(TracingError::Thread)?;
        Ok(Some(Tracing { trace, machine: facts::of_machine(blueprint) }))
    }

    /// What watches one vCPU.
    pub fn observer(&self, io: &Arc<MachineIo>, ram: &Arc<GuestRam>) -> Box<dyn ExitObserver> {
        let (io, ram) = (io.clone(), ram.clone());
        let name = move |exit: &Exit| register(&io, exit);
        Box::new(self.trace.tracer(Box::new(name), Box::new(move |gpa| ram.read_u64(gpa))))
    }

    /// Ends the trace of a run that is over, and returns what each sink found.
    pub fn finish(self, run: &Run) -> Vec<io::Result<Verdict>> {
        let origin_us = run.phases.process_start;
        let since = |at_us: u64| at_us.saturating_sub(origin_us) * 1000;
        let Phases { process_start, load, kvm, first_entry, guest } = run.phases;
        let milestones = [
            (Milestone::ProcessStart, process_start),
            (Milestone::ImageLoaded, load),
            (Milestone::KvmReady, kvm),
            (Milestone::FirstEntry, first_entry),
            (Milestone::End, guest),
        ];
        self.trace.finish(TraceEnd {
            ended_ns: since(guest),
            reason: run.reason(),
            dropped: 0,
            milestones: milestones.into_iter().filter(|(_, at)| *at > 0).map(|(name, at)| (name, since(at))).collect(),
            facts: self.machine.into_iter().chain(facts::of_host()).collect(),
        })
    }
}

/// What the options ask for.
fn sinks(run: &RunConfig, trace: Option<&TraceConfig>) -> Result<Vec<Box<dyn TraceSink>>, TracingError> {
    let mut sinks: Vec<Box<dyn TraceSink>> = Vec::new();
    if let Some(config) = trace {
        sinks.extend(trace_shown::sinks(config)?);
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
fn register(io: &MachineIo, exit: &Exit) -> Option<DeviceRegister> {
    let (device, register) = match *exit {
        Exit::PioRead { port, .. } => io.ports.names(port.into(), false),
        Exit::PioWrite { port, .. } => io.ports.names(port.into(), true),
        Exit::MmioRead { addr, .. } => io.mmio.names(addr, false),
        Exit::MmioWrite { addr, .. } => io.mmio.names(addr, true),
        _ => None,
    }?;
    Some(DeviceRegister { device, register })
}
