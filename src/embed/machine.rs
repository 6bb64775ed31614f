//! A machine built from code: what `hostel run` does, as values instead of options, without a terminal and without signals of the
//! process.
//!
//! Several machines live in one process beside each other: nothing of one is shared. Its vCPUs run on threads of their own; whoever
//! holds it is its control thread, and decides its end by waiting for it or by dropping it, which joins the threads. The only thing that is
//! the process's is the handler of SIGRTMIN, by which a vCPU is got out of the guest.
//! Leaves out virtio devices, whose threads last as long as the process, the debugger, and what is watched on a console.

use super::console::{Captured, Console};
use crate::arch::cpu_state::CpuState;
use crate::arch::layout::MAX_CPUS;
use crate::boot::image::Image;
use crate::config::{FormatChoice, RunConfig};
use crate::event_loop::Waker;
use crate::kvm::exit::{Exit, Reply};
use crate::kvm::kick;
use crate::machine::build::{self, Blueprint, BuildError, Machine as Parts, Watched};
use crate::machine::cpus::Cpus;
use crate::machine::devices::Host;
use crate::machine::events::{MachineEvent, Reporter};
use crate::machine::io::IoHandler;
use crate::machine::lifecycle;
use crate::machine::outcome::{Outcome, Stopped};
use crate::memory::map::{MapError, MemoryMap};
use crate::memory::ram::{GuestRam, RamError};
use crate::vcpu::cpu::{Cpu, CpuError};
use crate::vcpu::handler::{ExitHandler, ExitObserver};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often typed bytes are offered that the guest had no room for.
const OFFER_AGAIN: Duration = Duration::from_millis(5);

/// Told each exit on its vCPU's thread: which vCPU, the exit, and its answer, `None` for one that ends the vCPU's run.
type OnExit = Arc<dyn Fn(u32, Exit, Option<Reply>) + Send + Sync>;

/// What a machine is made of.
pub struct MachineBuilder {
    config: RunConfig,
    /// Name and bytes of an image that is no sample and no file.
    bytes: Option<(String, Vec<u8>)>,
    memory: Result<MemoryMap, MapError>,
    on_exit: Option<OnExit>,
}

/// A machine. Its vCPUs stand still until [`Machine::start`].
///
/// ```no_run
/// use hostel::embed::machine::Machine;
/// use std::time::Duration;
///
/// let mut machine = Machine::builder("hello").memory(64 << 20).build()?;
/// machine.start();
/// let end = machine.wait(Duration::from_secs(10))?;
/// println!("{end:?}: {}", String::from_utf8_lossy(&machine.console()));
/// # Ok::<(), hostel::embed::machine::MachineError>(())
/// ```
pub struct Machine {
    cpus: Cpus,
    events: Receiver<MachineEvent>,
    console: Console,
    ram: Arc<GuestRam>,
    notes: Vec<String>,
    ended: Option<Outcome>,
    /// Kept as long as the vCPUs.
    parts: Parts,
}

/// Why a machine cannot be had, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No machine has this much memory.
    #[error(transparent)]
    Memory(#[from] MapError),
    /// No machine has so many vCPUs.
    #[error("{0} vCPUs: a machine has 1 to {MAX_CPUS}")]
    Cpus(u32),
    /// The image cannot be booted, or the host refuses the machine.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The host ran out of something.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The host's KVM refuses to run a vCPU.
    #[error(transparent)]
    Cpu(#[from] CpuError),
}

fn host(what: &'static str) -> impl Fn(io::Error) -> MachineError {
    move |source| MachineError::Host { what, source }
}

impl MachineBuilder {
    /// So many vCPUs, up to 16; one, or what the sample shows, unless told otherwise.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> MachineBuilder {
        self.config.machine.cpus = Some(cpus);
        self
    }

    /// So many bytes of RAM, whole pages from 1 MiB; 512 MiB unless told otherwise. What the guest does not touch costs nothing.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> MachineBuilder {
        self.memory = MemoryMap::new(bytes);
        self
    }

    /// Arguments of a sample guest, or words at the end of a kernel's command line.
    #[must_use]
    pub fn arguments(mut self, words: &[&str]) -> MachineBuilder {
        self.config.args = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Takes the image as this format instead of detecting it: code by itself.
    #[must_use]
    pub fn format(mut self, format: FormatChoice) -> MachineBuilder {
        self.config.boot.format = Some(format);
        self
    }

    /// Is told each exit, on its vCPU's thread, which waits for it: which vCPU, the exit, and its answer (`None` where the vCPU's run ends).
    #[must_use]
    pub fn on_exit(mut self, told: impl Fn(u32, Exit, Option<Reply>) + Send + Sync + 'static) -> MachineBuilder {
        self.on_exit = Some(Arc::new(told));
        self
    }

    /// Builds the machine: writes its memory, creates it in KVM, and starts its threads, which stand still.
    ///
    /// # Errors
    /// The image cannot be booted, or the host refuses.
    pub fn build(mut self) -> Result<Machine, MachineError> {
        self.config.machine.mem = self.memory?;
        if let Some(cpus) = self.config.machine.cpus.filter(|cpus| !(1..=MAX_CPUS).contains(cpus)) {
            return Err(MachineError::Cpus(cpus));
        }
        let blueprint = match self.bytes {
            Some((name, bytes)) => build::prepare_image(&self.config, None, Image::from_vec(&name, bytes))?,
            None => build::prepare(&self.config)?,
        };
        Machine::start_paused(&blueprint, self.on_exit)
    }
}

impl Machine {
    /// What a machine is made of that boots `image`: the name of a sample guest (`hostel guests`), or a file in one of the formats that
    /// `hostel run` boots.
    pub fn builder(image: impl AsRef<Path>) -> MachineBuilder {
        let config = RunConfig::of(image.as_ref());
        let memory = Ok(config.machine.mem.clone());
        MachineBuilder { config, bytes: None, memory, on_exit: None }
    }

    /// The same for an image in memory, which messages call `name`.
    pub fn builder_of(name: &str, image: Vec<u8>) -> MachineBuilder {
        MachineBuilder { bytes: Some((name.to_owned(), image)), ..Machine::builder(name) }
    }

    fn start_paused(blueprint: &Blueprint, on_exit: Option<OnExit>) -> Result<Machine, MachineError> {
        kick::install_handler().map_err(host("install the vCPU kick"))?;
        let waker = Waker::new().map_err(host("create a waker"))?;
        let (reporter, events) = Reporter::new(waker);
        let notes = reporter.clone();
        let note = Box::new(move |text| notes.report(MachineEvent::Note(text)));
        let captured = Captured::default();
        let ends =
            Host { serial: Box::new(captured.clone()), debug_console: Box::new(captured.clone()), virtio: Vec::new() };
        let mut parts = blueprint.build(ends, note, Watched::default())?;
        let vcpus = std::mem::take(&mut parts.vcpus);
        let handler = || Box::new(IoHandler(parts.io.clone())) as Box<dyn ExitHandler>;
        let observer = |vcpu| {
            let told = on_exit.clone()?;
            Some(Box::new(Told { vcpu, told }) as Box<dyn ExitObserver>)
        };
        let cpus = Cpus::start(vcpus, parts.io.clone(), reporter, &handler, &observer);
        let cpus = cpus.map_err(host("start the vCPU threads"))?;
        let console = Console::new(captured, parts.serial.clone());
        Ok(Machine { cpus, events, console, ram: blueprint.ram.clone(), notes: Vec::new(), ended: None, parts })
    }

    /// Lets the vCPUs run; after [`Machine::pause`], on.
    pub fn start(&self) {
        self.cpus.resume();
    }

    /// Stops the vCPUs at an instruction boundary, soon.
    pub fn pause(&self) {
        self.cpus.pause();
    }

    /// Waits until the machine ends, `limit` at most, and says how; `None`: it runs on. An end stays the end.
    ///
    /// # Errors
    /// The host's KVM refuses to run a vCPU.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<Outcome>, MachineError> {
        let until = Instant::now().checked_add(limit);
        while self.ended.is_none() {
            let now = Instant::now();
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(now));
            if left.is_zero() && limit > Duration::ZERO {
                break;
            }
            self.console.offer();
            let typed = if self.console.waits_for_room() { OFFER_AGAIN } else { Duration::MAX };
            let look = self.cpus.look_at().saturating_duration_since(now);
            match self.events.recv_timeout(left.min(typed).min(look)) {
                Ok(event) => self.told(event)?,
                Err(RecvTimeoutError::Timeout) if limit.is_zero() => break,
                // The machine holds a sender itself.
                Err(_) => {}
            }
            let now = Instant::now();
            if self.cpus.look_at() <= now {
                self.cpus.look(now);
            }
        }
        if self.ended.is_some() {
            self.cpus.join();
        }
        Ok(self.ended.clone())
    }

    fn told(&mut self, event: MachineEvent) -> Result<(), MachineError> {
        let end = match event {
            MachineEvent::Ended { vcpu, result, state } => {
                lifecycle::ended(result?, Stopped { vcpu, state: state.map(|state| *state) })
            }
            MachineEvent::Looked { vcpu, activity } => self.cpus.answered(vcpu, activity).then_some(Outcome::Halted),
            MachineEvent::Note(text) => {
                self.notes.push(text);
                None
            }
            MachineEvent::Command(_) | MachineEvent::Killed => None,
        };
        if self.ended.is_none() {
            self.ended = end;
        }
        Ok(())
    }

    /// What the guest has printed on its serial port since the last call. A guest that has printed 1 MiB waits until it is taken.
    pub fn console(&mut self) -> Vec<u8> {
        self.console.take()
    }

    /// Types on the guest's serial port. How many of the bytes, from the front, there was room for: 64 KiB wait for the guest.
    pub fn type_in(&mut self, bytes: &[u8]) -> usize {
        self.console.type_in(bytes)
    }

    /// What the user should read of the guest, each thing once: MSRs that KVM does not know, and the like. In the order of the waits.
    pub fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// The registers of each vCPU that tells them within half a second, by its number. None after the end.
    pub fn registers(&self) -> Vec<(u32, CpuState)> {
        if self.ended.is_some() { Vec::new() } else { self.cpus.states() }
    }

    /// Copies `bytes` into the guest's RAM at the guest-physical address `gpa`, whether it runs or not.
    ///
    /// # Errors
    /// That is not RAM throughout.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), RamError> {
        self.ram.write(gpa, bytes)
    }

    /// Fills `bytes` from the guest's RAM.
    ///
    /// # Errors
    /// That is not RAM throughout.
    pub fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), RamError> {
        self.ram.read(gpa, bytes)
    }

    /// Presses the power button (ACPI).
    pub fn press_power_button(&self) {
        crate::bus::bus::lock(&self.parts.acpi).press_power_button();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cpus.join();
    }
}

/// Tells exits.
struct Told {
    vcpu: u32,
    told: OnExit,
}

impl ExitObserver for Told {
    fn attached(&mut self, _cpu: &mut dyn Cpu) {}

    fn exited(&mut self, _exit: Exit, _cpu: &mut dyn Cpu) {}

    fn answered(&mut self, exit: Exit, reply: Option<Reply>) {
        (self.told)(self.vcpu, exit, reply);
    }
}
