//! What other threads tell the control loop, and their way to it.

use super::root::CommandNews;
use crate::arch::cpu_state::CpuState;
use crate::event_loop::Waker;
use crate::kvm::vcpu::Activity;
use crate::vcpu::cpu::CpuError;
use crate::vcpu::handler::StopReason;
use std::sync::mpsc::{Receiver, Sender, channel};

/// What another thread tells the control loop.
pub enum MachineEvent {
    /// A vCPU ended its run.
    Ended {
        /// Which one.
        vcpu: u32,
        /// Why.
        result: Result<StopReason, CpuError>,
        /// Its registers, where the end is a failure.
        state: Option<Box<CpuState>>,
    },
    /// The guest's init tells of the command of `--root`.
    Command(CommandNews),
    /// The user ended the machine from a debugger.
    Killed,
    /// Something about the guest that the user should read.
    Note(String),
    /// Whether a vCPU can ever run again, by its own answer.
    Looked {
        /// Which one.
        vcpu: u32,
        /// Its answer.
        activity: Activity,
    },
}

/// A thread's way to the control loop.
#[derive(Clone)]
pub struct Reporter {
    sender: Sender<MachineEvent>,
    waker: Waker,
}

impl Reporter {
    /// A way to whoever holds the receiver and is woken by `waker`.
    pub fn new(waker: Waker) -> (Reporter, Receiver<MachineEvent>) {
        let (sender, events) = channel();
        (Reporter { sender, waker }, events)
    }

    /// Tells the control loop.
    pub fn report(&self, event: MachineEvent) {
        // A control loop that is gone has decided; nobody needs to know more.
        let _ = self.sender.send(event);
        self.waker.wake();
    }
}
