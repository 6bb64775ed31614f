//! The vCPUs of a running machine, as the control loop holds them: orders to all, questions to each.

use super::events::{MachineEvent, Reporter};
use super::io::MachineIo;
use super::phases::now_us;
use crate::arch::cpu_state::CpuState;
use crate::bus::request::GuestRequest;
use crate::kvm::vcpu::{Activity, Vcpu};
use crate::vcpu::cpu::{Cpu, CpuError};
use crate::vcpu::handler::{ExitHandler, ExitObserver, StopReason};
use crate::vcpu::thread::{VcpuHandle, VcpuThread};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// When no vCPU has exited for this long, the vCPUs are asked whether one can ever run again.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// How long a vCPU may take to tell its registers.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// The vCPUs.
pub struct Cpus {
    handles: Arc<[VcpuHandle]>,
    io: Arc<MachineIo>,
    reporter: Reporter,
    /// When vCPU 0 entered the guest for the first time, as [`super::phases::Phases`] have it; 0 before.
    first_entry_us: Arc<AtomicU64>,
    /// Exits when the clock was looked at last.
    exits: u64,
    /// When to look next whether the guest moves.
    look_at: Instant,
    /// What each vCPU answered since the last look.
    answers: Vec<Option<Activity>>,
}

impl Cpus {
    /// Starts a thread for each of `vcpus`, paused; their ends are reported to `reporter`. `handler` gives what answers the exits
    /// of one, `observer` what watches those of the vCPU with a number.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn start(
        vcpus: Vec<Vcpu>,
        io: Arc<MachineIo>,
        reporter: Reporter,
        handler: &dyn Fn() -> Box<dyn ExitHandler>,
        observer: &dyn Fn(u32) -> Option<Box<dyn ExitObserver>>,
    ) -> io::Result<Cpus> {
        let first_entry_us = Arc::new(AtomicU64::new(0));
        let spawn = |vcpu: Vcpu| {
            let observer = observer(vcpu.id());
            thread(vcpu, handler(), &reporter, &first_entry_us, observer).spawn()
        };
        let handles = vcpus.into_iter().map(spawn).collect::<io::Result<Arc<[_]>>>()?;
        let (look_at, answers) = (Instant::now() + LOOK_AFTER, vec![None; handles.len()]);
        Ok(Cpus { handles, io, reporter, first_entry_us, exits: 0, look_at, answers })
    }

    /// The handles of all, for a debugger.
    pub fn handles(&self) -> Arc<[VcpuHandle]> {
        self.handles.clone()
    }

    /// Lets all go on.
    pub fn resume(&self) {
        self.handles.iter().for_each(VcpuHandle::resume);
    }

    /// Stops all at an instruction boundary.
    pub fn pause(&self) {
        self.handles.iter().for_each(VcpuHandle::pause);
    }

    /// Ends the run of all and waits until no vCPU runs.
    pub fn stop(self) {
        self.handles.iter().for_each(VcpuHandle::stop);
        self.handles.iter().for_each(VcpuHandle::wait);
    }

    /// Ends the run of all and waits until their threads are gone.
    pub fn join(&self) {
        self.handles.iter().for_each(VcpuHandle::stop);
        self.handles.iter().for_each(VcpuHandle::join);
    }

    /// Sends a non-maskable interrupt to all.
    pub fn inject_nmi(&self) {
        for handle in self.handles.iter() {
            let reporter = self.reporter.clone();
            handle.send(Box::new(move |cpu| {
                if let Err(error) = cpu.inject_nmi() {
                    reporter.report(MachineEvent::Note(error.to_string()));
                }
            }));
        }
    }

    /// The registers of all that tell them in time, by number.
    pub fn states(&self) -> Vec<(u32, CpuState)> {
        let (sender, answers) = channel();
        for handle in self.handles.iter() {
            let sender = sender.clone();
            handle.send(Box::new(move |cpu| {
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

    /// The registers of all at up to `times` looks, one after the other; no further look when a vCPU does not tell in time.
    pub fn looks(&self, times: usize) -> Vec<(u32, CpuState)> {
        let mut looks = Vec::new();
        for _ in 0..times {
            let states = self.states();
            let all = states.len() == self.handles.len();
            looks.extend(states);
            if !all {
                break;
            }
        }
        looks
    }

    /// When vCPU 0 entered the guest for the first time, in µs of the monotonic clock; 0 before.
    pub fn first_entry_us(&self) -> u64 {
        self.first_entry_us.load(Ordering::Relaxed)
    }

    /// When to call [`Cpus::look`].
    pub fn look_at(&self) -> Instant {
        self.look_at
    }

    /// Asks the vCPUs whether they can ever run again, if none has exited since the last time.
    pub fn look(&mut self, now: Instant) {
        let exits = self.io.exits.load(Ordering::Relaxed);
        let moved = std::mem::replace(&mut self.exits, exits) != exits;
        self.look_at = now + LOOK_AFTER;
        self.answers.fill(None);
        if moved {
            return;
        }
        for handle in self.handles.iter() {
            let reporter = self.reporter.clone();
            handle.send(Box::new(move |cpu| {
                // A vCPU that cannot be asked is held to be alive.
                let activity = cpu.activity().unwrap_or(Activity::Alive);
                reporter.report(MachineEvent::Looked { vcpu: cpu.id(), activity });
            }));
        }
    }

    /// Takes a vCPU's answer to [`Cpus::look`]. True: all have answered, at least one has halted for good, and none can wake
    /// it.
    pub fn answered(&mut self, vcpu: u32, activity: Activity) -> bool {
        self.answers[vcpu as usize] = Some(activity);
        let dead = |answer: &Option<Activity>| matches!(answer, Some(Activity::HaltedForGood | Activity::NotStarted));
        self.answers.iter().all(dead) && self.answers.contains(&Some(Activity::HaltedForGood))
    }
}

fn thread(
    vcpu: Vcpu,
    handler: Box<dyn ExitHandler>,
    reporter: &Reporter,
    first_entry_us: &Arc<AtomicU64>,
    observer: Option<Box<dyn ExitObserver>>,
) -> VcpuThread {
    let (reporter, first_entry_us) = (reporter.clone(), first_entry_us.clone());
    let boots = vcpu.id() == 0;
    let entering = move || {
        if boots {
            first_entry_us.store(now_us(), Ordering::Relaxed);
        }
    };
    let ended = move |result: Result<StopReason, CpuError>, cpu: &mut dyn Cpu| {
        let panicked = GuestRequest::Panicked;
        let failed = matches!(&result, Ok(StopReason::TripleFault | StopReason::Failed(_)))
            || matches!(&result, Ok(StopReason::Request(request)) if *request == panicked);
        let state = if failed { cpu.state().ok().map(Box::new) } else { None };
        reporter.report(MachineEvent::Ended { vcpu: cpu.id(), result, state });
    };
    VcpuThread { cpu: Box::new(vcpu), handler, observer, entering: Box::new(entering), ended: Box::new(ended) }
}
