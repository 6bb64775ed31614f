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
        let answer = handler.handle(exit, cpu);
        if let Some(observer) = &mut observer {
            observer.answered(exit, answer.continue_value());
        }
        reply = match answer {
            ControlFlow::Continue(reply) => reply,
            ControlFlow::Break(reason) => return Ok(reason),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::scripted::ScriptedCpu;

    /// Answers reads with their port, ends at HLT.
    struct Ports;

    impl ExitHandler for Ports {
        fn handle(&mut self, exit: Exit, _cpu: &mut dyn Cpu) -> ControlFlow<StopReason, Reply> {
            match exit {
                Exit::PioRead { port, .. } => ControlFlow::Continue(Reply::Value(port.into())),
                Exit::Halt => ControlFlow::Break(StopReason::Halted),
                _ => ControlFlow::Continue(Reply::Resume),
            }
        }
    }

    /// Counts interruptions, ends the run at the second.
    struct TwoInterrupts(u32);

    impl Control for TwoInterrupts {
        fn interrupted(&mut self, _cpu: &mut dyn Cpu) -> ControlFlow<StopReason> {
            self.0 += 1;
            if self.0 == 2 { ControlFlow::Break(StopReason::Told) } else { ControlFlow::Continue(()) }
        }
    }

    #[derive(Default)]
    struct Log(Vec<String>);

    impl ExitObserver for Log {
        fn attached(&mut self, _cpu: &mut dyn Cpu) {}
        fn exited(&mut self, exit: Exit, _cpu: &mut dyn Cpu) {
            self.0.push(format!("{exit:?}"));
        }
        fn answered(&mut self, _exit: Exit, reply: Option<Reply>) {
            self.0.push(format!("{reply:?}"));
        }
    }

    const READ: Exit = Exit::PioRead { port: 0x60, size: 1 };

    #[test]
    fn each_exit_is_answered_before_the_next_entry() {
        let mut cpu = ScriptedCpu::new(vec![READ, Exit::PioWrite { port: 1, size: 1, value: 2 }, Exit::Halt]);
        let mut log = Log::default();
        let end = run_loop(&mut cpu, &mut Ports, Some(&mut log), &mut TwoInterrupts(0)).unwrap();
        assert_eq!(end, StopReason::Halted);
        assert_eq!(cpu.replies(), [Reply::Resume, Reply::Value(0x60), Reply::Resume]);
        assert_eq!(log.0[1], "Some(Value(96))");
        assert_eq!((log.0.len(), log.0[5].as_str()), (6, "None"), "two answered exits, and one that ends the run");
    }

    #[test]
    fn an_interruption_asks_the_control() {
        let mut cpu = ScriptedCpu::new(vec![Exit::Interrupted, READ, Exit::Interrupted, Exit::Halt]);
        let end = run_loop(&mut cpu, &mut Ports, None, &mut TwoInterrupts(0)).unwrap();
        assert_eq!(end, StopReason::Told);
        assert_eq!(cpu.replies().last(), Some(&Reply::Value(0x60)));
    }
}
