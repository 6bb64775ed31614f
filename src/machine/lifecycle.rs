//! The life of a machine: its vCPUs start, everyone reports to the control loop, and the control loop alone decides when it
//! ends.

use super::build::{Blueprint, BuildError, Machine};
use super::console::{self, Console, ConsoleError, ConsoleEvent, ConsoleSide, say};
use super::cpus::Cpus;
use super::devices::Host;
use super::events::{MachineEvent, Reporter};
use super::io::{IoHandler, MachineIo};
use super::outcome::{Outcome, Stopped};
use super::phases::{Phases, now_us};
use super::root::{CommandNews, StatusPort};
use super::root_archive::RootError;
use super::storing::Storing;
use super::tracing::TracingError;
use super::virtio::{self, DeviceError, Opened};
use super::watch::Watch;
use crate::arch::cpu_state::CpuState;
use crate::backend::balloon::BalloonControl;
use crate::backend::console_port::ConsolePort;
use crate::backend::expect::Event;
use crate::backend::kernel_cache::StoreJob;
use crate::backend::monitor::Command;
use crate::backend::signals::Signals;
use crate::bus::bus::lock;
use crate::bus::request::GuestRequest;
use crate::config::{OnPanic, RunConfig};
use crate::debug::counters::{Counted, Counters};
use crate::debug::gdb::stub::{News, Stub, StubError};
use crate::debug::recorder::Moment;
use crate::debug::registers;
use crate::event_loop::{self, Interest, Waker};
use crate::kvm::kick;
use crate::vcpu::cpu::CpuError;
use crate::vcpu::handler::{ExitHandler, StopReason};
use crate::virtio::console::Console as VirtioConsole;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// How long a kernel that said it panicked may go on printing what it knows.
const PANIC_GRACE: Duration = Duration::from_millis(300);
/// How often the registers are looked at when the deadline passed: enough to tell a loop.
const LOOKS: usize = 16;
/// How long a guest may take to send statistics of its memory.
const BALLOON_PATIENCE: Duration = Duration::from_secs(1);

/// A run that is over.
pub struct Finished {
    /// How it ended.
    pub outcome: Outcome,
    /// From the start of the vCPUs to the end.
    pub ran: Duration,
    /// When each phase of it ended.
    pub phases: Phases,
    /// The console's last lines, where it was watched.
    pub last_lines: Vec<String>,
    /// Those of the serial port, where that is not the console.
    pub serial_lines: Vec<String>,
    /// Expectations that were met.
    pub expectations_met: usize,
    /// Each vCPU's registers when the deadline or a panic ended the run, at one or more looks.
    pub looks: Vec<(u32, CpuState)>,
    /// What KVM and Hostel counted; nothing where the run was not traced.
    pub counted: Counted,
    /// When the end was decided.
    pub ended: Moment,
    /// The machine's devices, to name what was accessed.
    pub io: Arc<MachineIo>,
    /// Bytes of the console that reached nobody.
    pub console_bytes_lost: u64,
}

/// A run that could not be.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The machine could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The root could not be had.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The console could not be opened.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// A virtio device could not be opened.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The trace could not be started.
    #[error(transparent)]
    Tracing(#[from] TracingError),
    /// There is no debugger to wait for.
    #[error(transparent)]
    Debugger(#[from] StubError),
    /// The host ran out of something.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A vCPU that the host's KVM refused to run.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// A signal came while the machine was built, and a call to KVM failed for it.
    #[error("ended by signal {0}")]
    Signal(i32),
}

fn host(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Host { what, source }
}

/// Runs the machine until it ends. `store` is done beside it, once it runs; `watch` watches it; `phases` has the phases that
/// are over.
///
/// # Errors
/// The machine cannot be built, or the host fails it.
pub fn run(
    blueprint: &Blueprint,
    store: Option<StoreJob>,
    config: &RunConfig,
    watch: &Watch,
    mut phases: Phases,
) -> Result<Finished, RunError> {
    let waker = Waker::new().map_err(host("create the control loop's waker"))?;
    let signals = Signals::catch(waker.clone()).map_err(host("catch signals"))?;
    kick::install_handler().map_err(host("install the vCPU kick"))?;
    let watcher = console::watcher(config, blueprint.is_linux)?;
    let (console, ends) = Console::open(config, watcher, waker.clone())?;
    let (reporter, events) = Reporter::new(waker.clone());
    let mut debugger = config.gdb.as_ref().map(|at| Stub::listen(at, blueprint.ram.clone())).transpose()?;
    let notes = reporter.clone();
    let note = Box::new(move |text| notes.report(MachineEvent::Note(text)));
    let balloon = config.devices.balloon.map(|size| BalloonControl::new(size, blueprint.map.size()));
    let balloon = balloon.transpose().map_err(host("create the balloon's waker"))?;
    let name = config.machine.name.as_deref().unwrap_or(&blueprint.name);
    // The socket's name goes with the machine, however it ends.
    let Opened { devices: mut virtio, socket: _socket } =
        virtio::open(&config.devices, name, blueprint.cpus, balloon.as_ref())?;
    if let Some((port, device)) = ends.virtio {
        let mut ports: Vec<Box<dyn ConsolePort>> = vec![Box::new(port)];
        if config.root.is_some() {
            ports.push(Box::new(StatusPort::new(reporter.clone())));
        }
        virtio.insert(0, Box::new(VirtioConsole::new(ports, device)));
        signals.catch_resizes().map_err(host("catch changes of the terminal's size"))?;
    }
    let host_ends = Host { serial: Box::new(ends.serial.clone()), debug_console: Box::new(ends.serial), virtio };
    let watched = watch.tracing.map(|tracing| tracing.watched()).unwrap_or_default();
    let mut machine = blueprint.build(host_ends, note, watched).map_err(|error| match signals.came() {
        Some(signal) => RunError::Signal(signal),
        None => error.into(),
    })?;
    phases.kvm = now_us();
    let vcpus = std::mem::take(&mut machine.vcpus);
    let counters = watch.tracing.and_then(|tracing| tracing.counters(&machine.vm, &vcpus));
    let observer = |vcpu| watch.observer(vcpu, &machine.io);
    let handler = || {
        let io = Box::new(IoHandler(machine.io.clone()));
        debugger.as_ref().map_or_else(|| io.clone() as Box<dyn ExitHandler>, |stub| stub.gate(io.clone()))
    };
    let cpus = Cpus::start(vcpus, machine.io.clone(), reporter.clone(), &handler, &observer)
        .map_err(host("start the vCPU threads"))?;
    match &mut debugger {
        Some(stub) => stub.serve(cpus.handles(), Arc::new(move |news| reporter.report(news.into())))?,
        None => cpus.resume(),
    }
    let started = Instant::now();
    let (panicked, looks) = (None, Vec::new());
    let mut control = Control {
        config,
        watch,
        machine,
        balloon,
        cpus,
        debugger,
        console,
        signals,
        waker,
        events,
        started,
        panicked,
        looks,
        counters,
    };
    let storing = store.map(Storing::start);
    let outcome = control.decide()?;
    phases.guest = now_us();
    phases.first_entry = control.cpus.first_entry_us();
    let finished = control.finish(outcome, phases);
    match storing {
        Some(storing) if finished.outcome.is_orderly() => storing.finish(),
        _ => {}
    }
    Ok(finished)
}

/// The control loop's state.
struct Control<'a> {
    config: &'a RunConfig,
    watch: &'a Watch<'a>,
    machine: Machine,
    balloon: Option<BalloonControl>,
    cpus: Cpus,
    debugger: Option<Stub>,
    console: Console,
    signals: Signals,
    waker: Waker,
    events: Receiver<MachineEvent>,
    started: Instant,
    /// Set when the guest's kernel has said that it panicked: what it said, and when the run ends for it.
    panicked: Option<(String, Instant)>,
    looks: Vec<(u32, CpuState)>,
    counters: Option<Counters>,
}

/// What the control loop waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Waker,
    Console(ConsoleSide),
}

impl Control<'_> {
    /// Runs the machine until something decides its end.
    fn decide(&mut self) -> Result<Outcome, RunError> {
        loop {
            let input_ready = self.wait()?.contains(&Token::Console(ConsoleSide::Input));
            let now = Instant::now();
            if self.signals.continued() {
                self.console.continued();
            }
            if self.signals.resized() {
                self.console.resized();
            }
            let mut outcome = self.signals.came().map(Outcome::Signal);
            let mut decided = |other: Outcome| {
                outcome = Some(match outcome.take() {
                    Some(first) => first.or_worse(other),
                    None => other,
                });
            };
            for event in self.console.turn(now, input_ready, &self.machine.serial) {
                let end = match event {
                    ConsoleEvent::Seen(event) => self.seen(event, now),
                    ConsoleEvent::Asked(command) => self.obey(command),
                };
                end.into_iter().for_each(&mut decided);
            }
            while let Ok(event) = self.events.try_recv() {
                self.told(event)?.into_iter().for_each(&mut decided);
            }
            self.clock(now).into_iter().for_each(&mut decided);
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
        }
    }

    fn wait(&mut self) -> Result<Vec<Token>, RunError> {
        let mut interests = vec![Interest { token: Token::Waker, fd: self.waker.fd(), output: false }];
        interests.extend(self.console.interests().map(|side| Interest {
            token: Token::Console(side.token),
            fd: side.fd,
            output: side.output,
        }));
        let due =
            [self.console.due(), Some(self.cpus.look_at()), self.deadline(), self.panicked.as_ref().map(|(_, at)| *at)];
        let next = due.into_iter().flatten().min().map(|at| at.saturating_duration_since(Instant::now()));
        let ready = event_loop::wait(&interests, next).map_err(host("wait for the machine"))?;
        if ready.contains(&Token::Waker) {
            self.waker.reset();
        }
        Ok(ready)
    }

    fn deadline(&self) -> Option<Instant> {
        self.started.checked_add(self.config.ends.timeout?)
    }

    /// What the guest's output means for the run.
    fn seen(&mut self, event: Event, now: Instant) -> Option<Outcome> {
        match event {
            Event::AllMet if !self.config.ends.wait_exit => Some(Outcome::ExpectationsMet),
            Event::AllMet | Event::Matched { .. } => None,
            Event::Rejected { pattern, line } => Some(Outcome::Rejected { pattern, line }),
            Event::Panicked { line } => {
                if self.config.ends.on_panic == OnPanic::Exit {
                    self.panicked.get_or_insert((line, now + PANIC_GRACE));
                }
                None
            }
        }
    }

    /// What another thread's report means for the run.
    fn told(&mut self, event: MachineEvent) -> Result<Option<Outcome>, RunError> {
        match event {
            MachineEvent::Killed => Ok(Some(Outcome::Quit)),
            MachineEvent::Command(CommandNews::Ended(end)) => Ok(Some(Outcome::Command(end))),
            MachineEvent::Command(CommandNews::Starts) => {
                self.console.release_input();
                Ok(None)
            }
            MachineEvent::Note(text) => {
                say(&text);
                Ok(None)
            }
            MachineEvent::Looked { vcpu, activity } => {
                Ok(self.cpus.answered(vcpu, activity).then_some(Outcome::Halted))
            }
            MachineEvent::Ended { vcpu, result, state } => {
                let state = state.map(|state| *state);
                self.looks.extend(state.map(|state| (vcpu, state)));
                Ok(ended(result?, Stopped { vcpu, state }))
            }
        }
    }

    /// What the passing of time means for the run.
    fn clock(&mut self, now: Instant) -> Option<Outcome> {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.looks = self.cpus.looks(LOOKS);
            return Some(Outcome::Deadline);
        }
        if let Some((line, at)) = &self.panicked
            && *at <= now
        {
            self.looks = self.cpus.states();
            return Some(Outcome::Panicked { line: Some(line.clone()) });
        }
        if self.cpus.look_at() <= now {
            self.cpus.look(now);
        }
        None
    }

    /// Does what the user asked for at the command prompt.
    fn obey(&mut self, command: Command) -> Option<Outcome> {
        match command {
            Command::Quit => return Some(Outcome::Quit),
            Command::Reset => return Some(Outcome::Reset),
            Command::Pause | Command::Resume if self.debugger.is_some() => console::answer("gdb says when vCPUs run\n"),
            Command::Pause => self.cpus.pause(),
            Command::Resume => self.cpus.resume(),
            Command::PowerDown => lock(&self.machine.acpi).press_power_button(),
            Command::SysRq(key) => self.console.send_break(key, &self.machine.serial),
            Command::Nmi => self.cpus.inject_nmi(),
            Command::Regs | Command::Dump | Command::Balloon(_) | Command::Help => {}
        }
        let text = match command {
            Command::Regs => registers::describe_all(&self.cpus.states()),
            Command::Dump => self.watch.dump(&self.cpus.states(), &self.machine.io),
            Command::Balloon(size) => self.about_balloon(size),
            _ => String::new(),
        };
        console::answer(&text);
        None
    }

    /// Gives the balloon a size, or tells of it.
    fn about_balloon(&self, size: Option<u64>) -> String {
        match (&self.balloon, size) {
            (None, _) => "this machine has no balloon: --balloon\n".into(),
            (Some(balloon), None) => balloon.describe(BALLOON_PATIENCE),
            (Some(balloon), Some(size)) => {
                balloon.set_target(size).map_or_else(|error| format!("{error}\n"), |()| String::new())
            }
        }
    }

    /// Stops the vCPUs, writes out what they printed, and says how the run ended in view of all that.
    fn finish(mut self, mut outcome: Outcome, phases: Phases) -> Finished {
        let (ran, ended, io) = (self.started.elapsed(), Moment::now(), self.machine.io.clone());
        self.cpus.stop();
        let mut panicked = self.panicked.map(|(line, _)| line);
        for event in self.console.drain(&self.machine.serial) {
            match event {
                Event::Rejected { pattern, line } => outcome = outcome.or_worse(Outcome::Rejected { pattern, line }),
                // Met before the guest ended itself: that it was noticed after makes no difference.
                Event::AllMet if !self.config.ends.wait_exit => outcome = Outcome::ExpectationsMet.or_worse(outcome),
                Event::Panicked { line } if self.config.ends.on_panic == OnPanic::Exit => panicked = Some(line),
                _ => {}
            }
        }
        if panicked.is_some() {
            outcome = outcome.or_worse(Outcome::Panicked { line: None });
        }
        if let Outcome::Panicked { line } = &mut outcome {
            *line = line.take().or(panicked);
        }
        let watcher = self.console.output().watcher();
        if let Some(unmet) = watcher.and_then(|watcher| watcher.unmet()) {
            outcome = outcome.or_worse(Outcome::ExpectationUnmet { pattern: unmet.pattern.clone() });
        }
        if let Some(stub) = &mut self.debugger {
            stub.end(outcome.status(self.config.ends.ok_exit));
        }
        let finished = Finished {
            outcome,
            ran,
            phases,
            last_lines: watcher.map(|watcher| watcher.last_lines()).unwrap_or_default(),
            serial_lines: self.console.serial_lines(),
            expectations_met: watcher.map_or(0, |watcher| watcher.met()),
            looks: self.looks,
            counted: self.counters.map(|counters| counters.read()).unwrap_or_default(),
            ended,
            io,
            console_bytes_lost: self.console.output().lost() + lock(&self.machine.serial).lost(),
        };
        // The end of the process takes a machine apart, and needs nobody to close or unmap it first.
        std::mem::forget(self.machine);
        finished
    }
}

impl From<News> for MachineEvent {
    fn from(news: News) -> MachineEvent {
        match news {
            News::Said(text) => MachineEvent::Note(text),
            News::Killed => MachineEvent::Killed,
        }
    }
}

/// What the end of a vCPU's run means for the machine's.
pub fn ended(reason: StopReason, stopped: Stopped) -> Option<Outcome> {
    match reason {
        StopReason::Request(GuestRequest::PowerOff) => Some(Outcome::PoweredOff),
        StopReason::Request(GuestRequest::Reset) => Some(Outcome::Reset),
        StopReason::Request(GuestRequest::DebugExit(value)) => Some(Outcome::DebugExit(value)),
        StopReason::Request(GuestRequest::Panicked) => Some(Outcome::Panicked { line: None }),
        StopReason::Halted => Some(Outcome::Halted),
        StopReason::TripleFault => Some(Outcome::TripleFault(stopped)),
        StopReason::Failed(failure) => Some(Outcome::Failed(failure, stopped)),
        StopReason::Request(GuestRequest::CrashLoaded) | StopReason::Told => None,
    }
}
