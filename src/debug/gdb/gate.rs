//! Between a vCPU and the machine: exits that concern the debugger stop the vCPU here and are told to the stub's thread; all
//! others pass.
//!
//! Source: `arch/x86/kvm/x86.c` (__kvm_set_rflags, x86_emulate_instruction).

use super::breakpoints::{Breakpoints, INT3};
use super::hardware;
use super::memory::Space;
use super::probe::Abilities;
use crate::arch::cpu_state::CpuState;
use crate::event_loop::Waker;
use crate::kvm::debug::GuestDebug;
use crate::kvm::exit::{Exit, Failure, Reply};
use crate::memory::ram::GuestRam;
use crate::vcpu::cpu::Cpu;
use crate::vcpu::handler::{ExitHandler, StopReason};
use crate::vcpu::thread::VcpuHandle;
use std::ops::ControlFlow;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// The vector of #BP (Intel SDM vol. 3A §7.3.1).
const VECTOR_BP: u8 = 3;

/// Why a vCPU was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It did one instruction.
    Step,
    /// The next instruction has a software breakpoint.
    Breakpoint,
    /// A debug register: DR6 says which.
    Hardware {
        /// DR6.
        dr6: u64,
    },
    /// It cannot go on: triple fault, or a failure of KVM.
    Died(Exit),
}

/// What the stub's thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A vCPU stopped.
    Stopped {
        /// Which one.
        vcpu: u32,
        /// Why.
        why: Why,
    },
    /// The machine has ended, with this exit status.
    Ended {
        /// Exit status.
        status: u8,
    },
}

/// How one vCPU runs for the debugger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// What KVM was asked for.
    pub debug: GuestDebug,
    /// It steps until it meets a breakpoint: where this KVM does not stop at INT3, and the debug registers are too few.
    pub crawls: bool,
    /// Where it stands before its next step: linear address.
    pub from: u64,
}

/// What the stub's thread and the vCPUs share. A leaf in the order of locks.
#[derive(Debug, Default)]
pub struct Rules {
    /// A debugger is there.
    pub attached: bool,
    /// Software breakpoints.
    pub breakpoints: Breakpoints,
    /// One for each vCPU.
    pub paces: Vec<Pace>,
}

/// The vCPUs' way to the stub's thread.
pub struct Desk {
    /// Filled before the first vCPU runs.
    pub handles: OnceLock<Arc<[VcpuHandle]>>,
    /// Guest memory.
    pub ram: Arc<GuestRam>,
    /// What this KVM can do.
    pub abilities: Abilities,
    rules: Mutex<Rules>,
    messages: Sender<Message>,
    waker: Waker,
}

impl Desk {
    /// A desk whose messages wake `waker`.
    pub fn new(ram: Arc<GuestRam>, abilities: Abilities, messages: Sender<Message>, waker: Waker) -> Desk {
        Desk { handles: OnceLock::new(), ram, abilities, rules: Mutex::default(), messages, waker }
    }

    /// What is shared.
    pub fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().expect("a panic ends the process")
    }

    /// Tells the stub's thread.
    pub fn tell(&self, message: Message) {
        // A stub that is gone has nobody to tell.
        let _ = self.messages.send(message);
        self.waker.wake();
    }

    /// Whether the next instruction of a vCPU in `state` has a software breakpoint.
    pub fn breaks_at(&self, state: &CpuState, rules: &Rules) -> bool {
        Space::Linear(state).translate(state.linear_rip(), &self.ram).is_some_and(|gpa| rules.breakpoints.contains(gpa))
    }
}

/// One vCPU's gate.
pub struct Gate {
    /// Who answers the exits that pass.
    pub machine: Box<dyn ExitHandler>,
    /// The way to the stub.
    pub desk: Arc<Desk>,
}

impl ExitHandler for Gate {
    fn handle(&mut self, exit: Exit, cpu: &mut dyn Cpu) -> ControlFlow<StopReason, Reply> {
        match exit {
            Exit::Debug { vector, dr6, .. } => self.debugged(vector, dr6, cpu)?,
            // Where ring 0 is interpreted, the interpreter may not know INT3: that is a breakpoint met, too.
            Exit::Failure(Failure::Emulation { code: [INT3, ..], code_len: 1.. })
                if self.at_breakpoint(cpu) && cpu.drop_exception().is_ok() =>
            {
                self.park(Why::Breakpoint, cpu)?;
            }
            Exit::Shutdown | Exit::Failure(_) => {
                self.park(Why::Died(exit), cpu)?;
                return self.machine.handle(exit, cpu);
            }
            other => {
                let reply = self.machine.handle(other, cpu)?;
                self.passed(cpu)?;
                return ControlFlow::Continue(reply);
            }
        }
        ControlFlow::Continue(Reply::Resume)
    }
}

impl Gate {
    fn debugged(&mut self, vector: u8, dr6: u64, cpu: &mut dyn Cpu) -> ControlFlow<StopReason> {
        let pace = self.pace(cpu);
        if vector == VECTOR_BP {
            if self.at_breakpoint(cpu) {
                return self.park(Why::Breakpoint, cpu);
            }
            // The guest's own INT3. If it cannot be delivered, INT3 is met again and again, and the user sees where.
            return match cpu.debug(&GuestDebug { inject_int3: true, ..pace.debug }) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => self.park(Why::Breakpoint, cpu),
            };
        }
        if hardware::is_met(dr6, pace.debug.dr7) {
            return self.park(Why::Hardware { dr6 }, cpu);
        }
        self.stepped(pace, cpu)
    }

    /// Looks whether an exit that has passed was a step. A write that KVM interpreted is complete at its exit, and KVM does not stop
    /// behind it (a gap that its source names).
    fn passed(&self, cpu: &mut dyn Cpu) -> ControlFlow<StopReason> {
        let pace = self.pace(cpu);
        if !pace.debug.step {
            return ControlFlow::Continue(());
        }
        if cpu.state().is_ok_and(|state| state.linear_rip() != pace.from) {
            return self.stepped(pace, cpu);
        }
        self.step_on(&pace, cpu)
    }

    /// A step is done: stops, or takes the next one, or runs where INT3 stops the vCPU.
    fn stepped(&self, mut pace: Pace, cpu: &mut dyn Cpu) -> ControlFlow<StopReason> {
        if !pace.crawls {
            return self.park(Why::Step, cpu);
        }
        let Ok(state) = cpu.state() else { return self.park(Why::Step, cpu) };
        if self.at_breakpoint(cpu) {
            return self.park(Why::Breakpoint, cpu);
        }
        pace.from = state.linear_rip();
        pace.crawls = !self.desk.abilities.stops_at_int3(&state);
        pace.debug.step = pace.crawls;
        self.desk.rules().paces[cpu.id() as usize] = pace;
        self.step_on(&pace, cpu)
    }

    fn pace(&self, cpu: &dyn Cpu) -> Pace {
        self.desk.rules().paces.get(cpu.id() as usize).copied().unwrap_or_default()
    }

    /// Asks for the next step, or for none. Behind an instruction that it emulated, KVM steps on only when it is told so again:
    /// `__kvm_set_rflags` sets TF where KVM_SET_GUEST_DEBUG was called, and nowhere else.
    fn step_on(&self, pace: &Pace, cpu: &mut dyn Cpu) -> ControlFlow<StopReason> {
        match cpu.debug(&pace.debug) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => self.park(Why::Step, cpu),
        }
    }

    fn at_breakpoint(&self, cpu: &dyn Cpu) -> bool {
        cpu.state().is_ok_and(|state| self.desk.breaks_at(&state, &self.desk.rules()))
    }

    /// Stops the vCPU until the stub lets it go on; without a debugger it goes on at once.
    fn park(&self, why: Why, cpu: &mut dyn Cpu) -> ControlFlow<StopReason> {
        if !self.desk.rules().attached {
            return ControlFlow::Continue(());
        }
        let vcpu = cpu.id();
        let handles = self.desk.handles.get().expect("filled before the first vCPU runs");
        handles[vcpu as usize].park(cpu, || self.desk.tell(Message::Stopped { vcpu, why }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::cpu_state::CR0_PE;
    use crate::arch::layout::MIB;
    use crate::memory::map::MemoryMap;
    use crate::vcpu::scripted::ScriptedCpu;
    use std::sync::mpsc::channel;

    /// A machine that ends at a triple fault.
    struct Mortal;

    impl ExitHandler for Mortal {
        fn handle(&mut self, exit: Exit, _cpu: &mut dyn Cpu) -> ControlFlow<StopReason, Reply> {
            match exit {
                Exit::Shutdown => ControlFlow::Break(StopReason::TripleFault),
                _ => ControlFlow::Continue(Reply::Value(7)),
            }
        }
    }

    /// A gate that nobody is attached to, on a KVM that knows INT3 outside of real mode, and a vCPU in real mode.
    fn gate(pace: Pace) -> (Gate, ScriptedCpu) {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let abilities = Abilities {
            step: true,
            int3: true,
            int3_in_real_mode: false,
            hardware_breakpoints: false,
            watchpoints: false,
            step_without_interrupts: false,
        };
        let desk = Desk::new(ram, abilities, channel().0, Waker::new().unwrap());
        desk.rules().paces = vec![pace];
        let cpu = ScriptedCpu::new(vec![]).in_state(CpuState::real_mode(0, 0x7c02));
        (Gate { machine: Box::new(Mortal), desk: Arc::new(desk) }, cpu)
    }

    fn debug_exit(vector: u8) -> Exit {
        Exit::Debug { vector, rip: 0x7c02, dr6: 0 }
    }

    #[test]
    fn without_a_debugger_everything_passes() {
        let (mut gate, mut cpu) = gate(Pace::default());
        let read = Exit::PioRead { port: 1, size: 1 };
        assert_eq!(gate.handle(read, &mut cpu), ControlFlow::Continue(Reply::Value(7)));
        assert_eq!(gate.handle(debug_exit(1), &mut cpu), ControlFlow::Continue(Reply::Resume));
        assert_eq!(gate.handle(Exit::Shutdown, &mut cpu), ControlFlow::Break(StopReason::TripleFault));
    }

    #[test]
    fn the_guest_s_own_int3_is_given_back_to_it() {
        let (mut gate, mut cpu) =
            gate(Pace { debug: GuestDebug { int3: true, ..GuestDebug::default() }, ..Pace::default() });
        assert_eq!(gate.handle(debug_exit(VECTOR_BP), &mut cpu), ControlFlow::Continue(Reply::Resume));
        assert!(cpu.debugged().inject_int3 && cpu.debugged().int3);
    }

    #[test]
    fn a_vcpu_crawls_until_int3_stops_it() {
        let debug = GuestDebug { step: true, ..GuestDebug::default() };
        let (mut gate, mut cpu) = gate(Pace { debug, crawls: true, from: 0x7c00 });
        assert_eq!(gate.handle(debug_exit(1), &mut cpu), ControlFlow::Continue(Reply::Resume));
        assert!(cpu.debugged().step);
        assert_eq!(gate.desk.rules().paces[0].from, 0x7c02);
        // A write that was interpreted: RIP stands behind it, and that was a step, too.
        let mut state = CpuState::real_mode(0, 0x7c04);
        state.cr0 |= CR0_PE;
        cpu.set_state(&state).unwrap();
        let write = Exit::PioWrite { port: 1, size: 1, value: 0 };
        assert_eq!(gate.handle(write, &mut cpu), ControlFlow::Continue(Reply::Value(7)));
        assert!(!cpu.debugged().step && !gate.desk.rules().paces[0].crawls);
    }
}
