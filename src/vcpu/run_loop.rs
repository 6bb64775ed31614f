//! The run loop: enter the guest, take its exit, have it answered, enter again.

use super::cpu::{Cpu, CpuError};
use super::handler::{ExitHandler, ExitObserver, StopReason};
use crate::kvm::exit::{Exit, Reply};
use std::ops::ControlFlow;

/// What the machine wants of a vCPU that was interrupted.
pub trait Control {
    /// Called after [`Exit::Interrupted`], at an instruction boundary: returns when the vCPU may go on, or says why it may
    /// not. A pause is waited out in here.
    fn interrupted(&mut self, cpu: &mut dyn Cpu) -> ControlFlow<StopReason>;
}

/// Runs `cpu` until the handler or the control ends it.
///
/// # Errors
/// The host refuses to run the vCPU.
pub fn run_loop(
    cpu: &mut dyn Cpu,
    handler: &mut dyn ExitHandler,
    mut observer: Option<&mut dyn ExitObserver>,
    control: &mut dyn Control,
) -> Result<StopReason, CpuError> {
    let mut reply = Reply::Resume;
    loop {
        let exit = cpu.run(reply)?;
        if exit == Exit::Interrupted {
            if let ControlFlow::Break(reason) = control.interrupted(cpu) {
                return Ok(reason);
            }
            reply = Reply::Resume;
            continue;
        }
        if let Some(observer) = &mut observer {
            observer.exited(exit, cpu);
        }
        reply = match handler.handle(exit, cpu) {
            ControlFlow::Continue(reply) => reply,
            ControlFlow::Break(reason) => return Ok(reason),
        };
        if let Some(observer) = &mut observer {
            observer.answered(exit, reply);
        }
    }
}
