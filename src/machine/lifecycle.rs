//! The life of a machine: its vCPUs start, everyone reports to the control loop, and the control loop alone decides when it
//! ends.

use super::build::{Blueprint, BuildError, Machine};
use super::console::{self, Console, ConsoleError, ConsoleEvent, ConsoleSide, say};
use super::devices::Host;
use super::outcome::{Outcome, Stopped};
use super::phases::{Phases, now_us};
use crate::arch::cpu_state::CpuState;
use crate::backend::expect::Event;
use crate::backend::kernel_cache::StoreJob;
use crate::backend::monitor::Command;
use crate::backend::signals::Signals;
use crate::bus::bus::lock;
use crate::bus::request::GuestRequest;
use crate::config::{OnPanic, RunConfig};
use crate::event_loop::{self, Interest, Waker};
use crate::kvm::kick;
use crate::kvm::vcpu::Activity;
use crate::vcpu::cpu::{Cpu, CpuError};
use crate::vcpu::handler::StopReason;
use crate::vcpu::thread::{VcpuHandle, VcpuThread};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// When no vCPU has exited for this long, the control loop looks whether one can ever run again.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// How long a kernel that said it panicked may go on printing what it knows.
const PANIC_GRACE: Duration = Duration::from_millis(300);
/// How long a vCPU may take to tell its registers.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// How much the thread that caches a kernel yields to the vCPUs.
const NICE_OF_STORING: i32 = 10;

/// What other threads tell the control loop.
enum MachineEvent {
    /// A vCPU ended its run. Its registers come with it where the end is a failure.
    Ended { vcpu: u32, result: Result<StopReason, CpuError>, state: Option<Box<CpuState>> },
    /// Something about the guest that the user should read.
    Note(String),
    /// Whether a vCPU can ever run again.
    Looked { vcpu: u32, activity: Activity },
}

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
    /// Expectations that were met.
    pub expectations_met: usize,
    /// Each vCPU's registers at the deadline.
    pub at_deadline: Vec<(u32, CpuState)>,
    /// Bytes of the console that reached nobody.
    pub console_bytes_lost: u64,
}

/// A run that could not be.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The machine could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The console could not be opened.
    #[error(transparent)]
    Console(#[from] ConsoleError),
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
}

fn host(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Host { what, source }
}

/// Runs the machine until it ends. `store` is done beside it, once it runs; `phases` has the phases that are over.
///
/// # Errors
/// The machine cannot be built, or the host fails it.
pub fn run(
    blueprint: &Blueprint,
    store: Option<StoreJob>,
    config: &RunConfig,
    mut phases: Phases,
) -> Result<Finished, RunError> {
    let waker = Waker::new().map_err(host("create the control loop's waker"))?;
    let signals = Signals::catch(waker.clone()).map_err(host("catch signals"))?;
    kick::install_handler().map_err(host("install the vCPU kick"))?;
    let watcher = console::watcher(config, blueprint.is_linux)?;
    let (console, ring) = Console::open(config, watcher, waker.clone())?;
    let (sender, events) = channel();
    let reporter = Reporter { sender, waker };
    let notes = reporter.clone();
    let note = Box::new(move |text| notes.report(MachineEvent::Note(text)));
    let machine = blueprint.build(Host { serial: Box::new(ring.clone()), debug_console: Box::new(ring) }, note)?;
    phases.kvm = now_us();
    let mut control = Control::start(machine, config, reporter, events, console, signals)?;
    if let Some(job) = store {
        start_storing(job);
    }
    let outcome = control.decide()?;
    phases.guest = now_us();
    phases.first_entry = control.first_entry.load(Ordering::Relaxed);
    Ok(control.finish(outcome, phases))
}

/// Caches a kernel while the guest runs, on a thread that yields to it and that the end of the process may cut short.
fn start_storing(job: StoreJob) {
    let store = move || {
        let _ = rustix::process::nice(NICE_OF_STORING);
        if let Err(error) = job.run() {
            say(&format!("{error}; the next start will unpack it again"));
        }
    };
    // Without a thread for it, the kernel is unpacked again next time.
    let _ = thread::Builder::new().name("kernel cache".into()).spawn(store);
}

/// A thread's way to the control loop.
#[derive(Clone)]
struct Reporter {
    sender: Sender<MachineEvent>,
    waker: Waker,
}

impl Reporter {
    fn report(&self, event: MachineEvent) {
        // A control loop that is gone has decided; nobody needs to know more.
        let _ = self.sender.send(event);
        self.waker.wake();
    }
}

/// The control loop's state.
struct Control<'a> {
    config: &'a RunConfig,
    machine: Machine,
    vcpus: Vec<VcpuHandle>,
    console: Console,
    signals: Signals,
    reporter: Reporter,
    events: Receiver<MachineEvent>,
    started: Instant,
    /// When vCPU 0 entered the guest for the first time, as [`Phases`] have it.
    first_entry: Arc<AtomicU64>,
    look: Look,
    /// Set when the guest's kernel has said that it panicked: what it said, and when the run ends for it.
    panicked: Option<(String, Instant)>,
    at_deadline: Vec<(u32, CpuState)>,
}

/// Looking after a guest that does not move.
struct Look {
    /// Exits at the last look at the clock.
    exits: u64,
    /// When to look next.
    at: Instant,
    /// What each vCPU answered since then.
    answers: Vec<Option<Activity>>,
}

/// What the control loop waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Waker,
    Console(ConsoleSide),
}

impl<'a> Control<'a> {
    fn start(
        mut machine: Machine,
        config: &'a RunConfig,
        reporter: Reporter,
        events: Receiver<MachineEvent>,
        console: Console,
        signals: Signals,
    ) -> Result<Control<'a>, RunError> {
        let mut vcpus = Vec::new();
        let first_entry = Arc::new(AtomicU64::new(0));
        for vcpu in std::mem::take(&mut machine.vcpus) {
            let (reporter, entry) = (reporter.clone(), first_entry.clone());
            let boots = vcpu.id() == 0;
            let entering = Box::new(move || {
                if boots {
                    entry.store(now_us(), Ordering::Relaxed);
                }
            });
            let ended = Box::new(move |result: Result<StopReason, CpuError>, cpu: &mut dyn Cpu| {
                let failed = matches!(result, Ok(StopReason::TripleFault | StopReason::Failed(_)));
                let state = if failed { cpu.state().ok().map(Box::new) } else { None };
                reporter.report(MachineEvent::Ended { vcpu: cpu.id(), result, state });
            });
            let thread = VcpuThread {
                cpu: Box::new(vcpu),
                handler: Box::new(machine.handler()),
                observer: None,
                entering,
                ended,
            };
            vcpus.push(thread.spawn().map_err(host("start a vCPU thread"))?);
        }
        vcpus.iter().for_each(VcpuHandle::resume);
        let started = Instant::now();
        let look = Look { exits: 0, at: started + LOOK_AFTER, answers: vec![None; vcpus.len()] };
        let at_deadline = Vec::new();
        let panicked = None;
        Ok(Control {
            config,
            machine,
            vcpus,
            console,
            signals,
            reporter,
            events,
            started,
            first_entry,
            look,
            panicked,
            at_deadline,
        })
    }

    /// Runs the machine until something decides its end.
    fn decide(&mut self) -> Result<Outcome, RunError> {
        loop {
            let input_ready = self.wait()?.contains(&Token::Console(ConsoleSide::Input));
            let now = Instant::now();
            if self.signals.continued() {
                self.console.continued();
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
        let waker = &self.reporter.waker;
        let mut interests = vec![Interest { token: Token::Waker, fd: waker.fd(), output: false }];
        interests.extend(self.console.interests().map(|side| Interest {
            token: Token::Console(side.token),
            fd: side.fd,
            output: side.output,
        }));
        let due = [self.console.due(), Some(self.look.at), self.deadline(), self.panicked.as_ref().map(|(_, at)| *at)];
        let next = due.into_iter().flatten().min().map(|at| at.saturating_duration_since(Instant::now()));
        let ready = event_loop::wait(&interests, next).map_err(host("wait for the machine"))?;
        if ready.contains(&Token::Waker) {
            waker.reset();
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
            MachineEvent::Note(text) => {
                say(&text);
                Ok(None)
            }
            MachineEvent::Looked { vcpu, activity } => {
                self.look.answers[vcpu as usize] = Some(activity);
                Ok(self.look.is_over().then_some(Outcome::Halted))
            }
            MachineEvent::Ended { vcpu, result, state } => {
                Ok(ended(result?, Stopped { vcpu, state: state.map(|state| *state) }))
            }
        }
    }

    /// What the passing of time means for the run.
    fn clock(&mut self, now: Instant) -> Option<Outcome> {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.at_deadline = self.states();
            return Some(Outcome::Deadline);
        }
        if let Some((line, at)) = &self.panicked
            && *at <= now
        {
            return Some(Outcome::Panicked { line: Some(line.clone()) });
        }
        if self.look.at <= now {
            self.look(now);
        }
        None
    }

    /// Asks the vCPUs whether they can ever run again, if none has exited since the last time.
    fn look(&mut self, now: Instant) {
        let exits = self.machine.io.exits.load(Ordering::Relaxed);
        let moved = exits != self.look.exits;
        self.look = Look { exits, at: now + LOOK_AFTER, answers: vec![None; self.vcpus.len()] };
        if moved {
            return;
        }
        for vcpu in &self.vcpus {
            let reporter = self.reporter.clone();
            vcpu.send(Box::new(move |cpu| {
                // A vCPU that cannot be asked is held to be alive.
                let activity = cpu.activity().unwrap_or(Activity::Alive);
                reporter.report(MachineEvent::Looked { vcpu: cpu.id(), activity });
            }));
        }
    }

    /// The registers of all vCPUs that tell them in time.
    fn states(&self) -> Vec<(u32, CpuState)> {
        let (sender, answers) = channel();
        for vcpu in &self.vcpus {
            let sender = sender.clone();
            vcpu.send(Box::new(move |cpu| {
                // The asker may have given up.
                let _ = sender.send((cpu.id(), cpu.state().ok()));
            }));
        }
        drop(sender);
        let until = Instant::now() + ANSWER_WITHIN;
        let mut states = Vec::new();
        while let Ok((vcpu, state)) = answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
            states.extend(state.map(|state| (vcpu, state)));
        }
        states.sort_by_key(|(vcpu, _)| *vcpu);
        states
    }

    /// Does what the user asked for at the command prompt.
    fn obey(&mut self, command: Command) -> Option<Outcome> {
        match command {
            Command::Quit => return Some(Outcome::Quit),
            Command::Reset => return Some(Outcome::Reset),
            Command::Pause => self.vcpus.iter().for_each(VcpuHandle::pause),
            Command::Resume => self.vcpus.iter().for_each(VcpuHandle::resume),
            Command::PowerDown => lock(&self.machine.acpi).press_power_button(),
            Command::SysRq(key) => self.console.send_break(key, &self.machine.serial),
            Command::Nmi => self.vcpus.iter().for_each(|vcpu| {
                vcpu.send(Box::new(|cpu| {
                    if let Err(error) = cpu.inject_nmi() {
                        say(&error.to_string());
                    }
                }))
            }),
            Command::Regs => self.states().iter().for_each(|(vcpu, state)| say(&format!("vCPU {vcpu}: {state:x?}"))),
            Command::Help => {}
        }
        None
    }

    /// Stops the vCPUs, writes out what they printed, and says how the run ended in view of all that.
    fn finish(mut self, mut outcome: Outcome, phases: Phases) -> Finished {
        let ran = self.started.elapsed();
        self.vcpus.iter().for_each(VcpuHandle::stop);
        self.vcpus.into_iter().for_each(VcpuHandle::join);
        let mut panicked = self.panicked.map(|(line, _)| line);
        for event in self.console.drain() {
            match event {
                Event::Rejected { pattern, line } => outcome = outcome.or_worse(Outcome::Rejected { pattern, line }),
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
        Finished {
            outcome,
            ran,
            phases,
            last_lines: watcher.map(|watcher| watcher.last_lines()).unwrap_or_default(),
            expectations_met: watcher.map_or(0, |watcher| watcher.met()),
            at_deadline: self.at_deadline,
            console_bytes_lost: self.console.output().lost() + lock(&self.machine.serial).dropped(),
        }
    }
}

impl Look {
    /// All vCPUs answered: at least one has halted for good, and none can wake it.
    fn is_over(&self) -> bool {
        let dead = |answer: &Option<Activity>| matches!(answer, Some(Activity::HaltedForGood | Activity::NotStarted));
        self.answers.iter().all(dead) && self.answers.contains(&Some(Activity::HaltedForGood))
    }
}

/// What the end of a vCPU's run means for the machine's.
fn ended(reason: StopReason, stopped: Stopped) -> Option<Outcome> {
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
