//! Who answers exits and who watches them: the traits of the run loop, implemented by floors above.

use super::cpu::Cpu;
use crate::bus::request::GuestRequest;
use crate::kvm::exit::{Exit, Failure, Reply};
use std::ops::ControlFlow;

/// Why a vCPU ends its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The guest asked for it through a device.
    Request(GuestRequest),
    /// The vCPU halted and nothing can wake it.
    Halted,
    /// Triple fault.
    TripleFault,
    /// KVM could not go on.
    Failed(Failure),
    /// The machine told it to stop.
    Told,
}

/// Answers exits.
pub trait ExitHandler: Send {
    /// Answers one exit, or ends the vCPU's run. `cpu` is for reading registers; its pending access is still open.
    fn handle(&mut self, exit: Exit, cpu: &mut dyn Cpu) -> ControlFlow<StopReason, Reply>;
}

/// Watches exits: tracing, statistics, the flight recorder.
pub trait ExitObserver: Send {
    /// The vCPU is about to enter the guest for the first time; says here which registers it wants synced.
    fn attached(&mut self, cpu: &mut dyn Cpu);

    /// The guest stopped with `exit`, not yet answered.
    fn exited(&mut self, exit: Exit, cpu: &mut dyn Cpu);

    /// `exit` was answered with `reply`, and the guest is about to go on; `None`: the vCPU's run ends with it.
    fn answered(&mut self, exit: Exit, reply: Option<Reply>);
}

/// Two that watch the same exits, the first one first.
impl<A: ExitObserver, B: ExitObserver> ExitObserver for (A, B) {
    fn attached(&mut self, cpu: &mut dyn Cpu) {
        self.0.attached(cpu);
        self.1.attached(cpu);
    }

    fn exited(&mut self, exit: Exit, cpu: &mut dyn Cpu) {
        self.0.exited(exit, cpu);
        self.1.exited(exit, cpu);
    }

    fn answered(&mut self, exit: Exit, reply: Option<Reply>) {
        self.0.answered(exit, reply);
        self.1.answered(exit, reply);
    }
}
