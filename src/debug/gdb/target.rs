//! What gdbstub asks of a machine, answered by [`Control`]: a vCPU is a thread, number N + 1.
//!
//! Leaves out non-stop mode, range stepping and tracepoints. Source: GDB manual "Remote Protocol".

use super::breakpoints::Breakpoints;
use super::control::{Action, Control, Stop};
use super::gate::Why;
use super::hardware::{Access, Point};
use super::memory::Space;
use super::monitor;
use super::registers::{GdbRegisters, X86_64System};
use crate::debug::registers;
use crate::kvm::exit::Exit;
use crate::memory::ram::GuestRam;
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints as points;
use gdbstub::target::ext::breakpoints::WatchKind;
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use std::convert::Infallible;
use std::fmt::Write;

/// Error numbers as gdb prints them (GDB manual "Errno Values").
const EFAULT: u8 = 14;
const EINVAL: u8 = 22;

/// Says something to the user, on standard error.
pub type Say = Box<dyn Fn(String) + Send>;

/// A machine as gdbstub sees it.
pub struct Machine {
    /// Its vCPUs.
    pub control: Control,
    /// Memory is read and written by guest-physical address.
    pub physical: bool,
    /// Whether gdb waits for a stop.
    pub resumed: bool,
    /// The thread that gdb looked at last: breakpoints are set through its page tables.
    current: usize,
    /// What gdb wants each vCPU to do next; the others do `unplanned`.
    plans: Vec<Option<Action>>,
    unplanned: Action,
    say: Say,
}

impl Machine {
    /// A machine under `control`.
    pub fn new(control: Control, say: Say) -> Machine {
        let plans = vec![None; control.count()];
        Machine { control, physical: false, resumed: false, current: 0, plans, unplanned: Action::Go, say }
    }

    /// Says something to the user.
    pub fn say(&self, text: &str) {
        (self.say)(format!("gdb: {text}"));
    }

    /// Does something with memory as vCPU `vcpu` sees it. `None`: its registers are not to be had.
    pub fn with_memory<T>(
        &mut self,
        vcpu: usize,
        act: impl FnOnce(Space<'_>, &GuestRam, &mut Breakpoints) -> T,
    ) -> Option<T> {
        self.current = vcpu;
        let state = self.control.state(vcpu)?;
        let space = if self.physical { Space::Physical } else { Space::Linear(&state) };
        let desk = &self.control.desk;
        Some(act(space, &desk.ram, &mut desk.rules().breakpoints))
    }

    /// Why the machine stopped, in gdb's words; takes it.
    pub fn stop_reason(&mut self) -> Option<MultiThreadStopReason<u64>> {
        let Stop { vcpu, why } = self.control.report.take()?;
        self.current = vcpu as usize;
        self.resumed = false;
        let tid = thread(vcpu as usize);
        let signal = |signal| MultiThreadStopReason::SignalWithThread { tid, signal };
        Some(match why {
            None => signal(Signal::SIGINT),
            Some(Why::Step) => signal(Signal::SIGTRAP),
            Some(Why::Breakpoint) => MultiThreadStopReason::SwBreak(tid),
            Some(Why::Hardware { dr6 }) => match self.control.met(vcpu as usize, dr6) {
                Some(point) if point.access == Access::Execution && !self.control.registers.contains(point) => {
                    MultiThreadStopReason::SwBreak(tid)
                }
                Some(Point { access: Access::Execution, .. }) => MultiThreadStopReason::HwBreak(tid),
                Some(Point { access: Access::Data(kind, _), address }) => {
                    MultiThreadStopReason::Watch { tid, kind, addr: address }
                }
                None => signal(Signal::SIGTRAP),
            },
            Some(Why::Died(exit)) => {
                self.say(&format!("vCPU {vcpu} cannot go on ({exit:?}); `continue` ends the run"));
                signal(if exit == Exit::Shutdown { Signal::SIGSEGV } else { Signal::SIGILL })
            }
        })
    }

    /// Notes what a vCPU does next, if there is such a one.
    fn plan(&mut self, tid: Tid, action: Action) {
        if let Some(plan) = self.plans.get_mut(vcpu(tid)) {
            *plan = Some(action);
        }
    }

    /// Sets a debug register, if this KVM looks at them.
    fn insert(&mut self, point: Point, able: bool, instead: &str) -> TargetResult<bool, Self> {
        if !able {
            self.say(&format!("this KVM does not stop there; {instead}"));
        }
        Ok(able && self.control.registers.insert(point))
    }
}

/// gdb's number of a vCPU.
fn thread(vcpu: usize) -> Tid {
    Tid::MIN.saturating_add(vcpu)
}

fn vcpu(tid: Tid) -> usize {
    tid.get() - 1
}

impl Target for Machine {
    type Arch = X86_64System;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, X86_64System, Infallible> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<points::BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn guard_rail_implicit_sw_breakpoints(&self) -> bool {
        true
    }
}

impl MultiThreadBase for Machine {
    fn read_registers(&mut self, regs: &mut GdbRegisters, tid: Tid) -> TargetResult<(), Self> {
        self.current = vcpu(tid);
        let state = self.control.state(vcpu(tid)).ok_or(TargetError::NonFatal)?;
        let fpu = self.control.fpu(vcpu(tid)).ok_or(TargetError::NonFatal)?;
        *regs = GdbRegisters::of(&state, &fpu);
        Ok(())
    }

    fn write_registers(&mut self, regs: &GdbRegisters, tid: Tid) -> TargetResult<(), Self> {
        let mut state = self.control.state(vcpu(tid)).ok_or(TargetError::NonFatal)?;
        let mut fpu = self.control.fpu(vcpu(tid)).ok_or(TargetError::NonFatal)?;
        if !regs.apply(&mut state, &mut fpu) {
            self.say("a selector can be written in real mode only");
            return Err(TargetError::Errno(EINVAL));
        }
        if !self.control.set(vcpu(tid), state, fpu) {
            self.say("KVM refuses these registers");
            return Err(TargetError::Errno(EINVAL));
        }
        Ok(())
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        // gdbstub adds to the address for as long as it is given bytes: it must not wrap.
        start.checked_add(data.len() as u64).ok_or(TargetError::Errno(EFAULT))?;
        match self.with_memory(vcpu(tid), |space, ram, breakpoints| space.read(start, data, ram, breakpoints)) {
            Some(read @ 1..) => Ok(read),
            _ => Err(TargetError::Errno(EFAULT)),
        }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let written = self.with_memory(vcpu(tid), |space, ram, breakpoints| space.write(start, data, ram, breakpoints));
        if written == Some(true) { Ok(()) } else { Err(TargetError::Errno(EFAULT)) }
    }

    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), Infallible> {
        (0..self.control.count()).for_each(|vcpu| thread_is_active(thread(vcpu)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl ThreadExtraInfo for Machine {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, Infallible> {
        let state = self.control.ask(vcpu(tid), |cpu| cpu.state().ok()).flatten();
        let mode = state.map_or("ended".to_owned(), |state| format!("{} bit", state.code_bits()));
        let text = format!("vCPU {}, {mode}", vcpu(tid));
        let length = text.len().min(buf.len());
        buf[..length].copy_from_slice(&text.as_bytes()[..length]);
        Ok(length)
    }
}

impl MultiThreadResume for Machine {
    fn clear_resume_actions(&mut self) -> Result<(), Infallible> {
        self.plans.fill(None);
        self.unplanned = Action::Go;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _signal: Option<Signal>) -> Result<(), Infallible> {
        self.plan(tid, Action::Go);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Infallible> {
        self.resumed = true;
        let stepped = self.plans.iter().position(|plan| *plan == Some(Action::Step));
        if let Some(vcpu) = stepped.filter(|_| !self.control.desk.abilities.step) {
            self.say("this KVM does not step; nothing has run");
            self.control.report = Some(Stop { vcpu: vcpu as u32, why: Some(Why::Step) });
            return Ok(());
        }
        let actions = self.plans.iter().map(|plan| plan.unwrap_or(self.unplanned));
        self.control.resume(actions.collect());
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Machine {
    fn set_resume_action_step(&mut self, tid: Tid, _signal: Option<Signal>) -> Result<(), Infallible> {
        self.plan(tid, Action::Step);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Machine {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Infallible> {
        self.unplanned = Action::Rest;
        Ok(())
    }
}

impl points::Breakpoints for Machine {
    fn support_sw_breakpoint(&mut self) -> Option<points::SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<points::HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<points::HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl points::SwBreakpoint for Machine {
    fn add_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        let abilities = self.control.desk.abilities;
        if !(abilities.int3 || abilities.hardware_breakpoints || abilities.step) {
            self.say("this KVM stops at no breakpoint of any kind");
            return Ok(false);
        }
        let set = |space: Space<'_>, ram: &GuestRam, breakpoints: &mut Breakpoints| {
            space.translate(address, ram).is_some_and(|gpa| breakpoints.insert(address, gpa, ram))
        };
        Ok(self.with_memory(self.current, set) == Some(true))
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        let desk = &self.control.desk;
        Ok(desk.rules().breakpoints.remove(address, &desk.ram))
    }
}

impl points::HwBreakpoint for Machine {
    fn add_hw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        let able = self.control.desk.abilities.hardware_breakpoints;
        self.insert(Point { address, access: Access::Execution }, able, "use break")
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.control.registers.remove(Point { address, access: Access::Execution }))
    }
}

impl points::HwWatchpoint for Machine {
    fn add_hw_watchpoint(&mut self, address: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let able = self.control.desk.abilities.watchpoints;
        let instead = "`set can-use-hw-watchpoints 0` has gdb step and compare";
        self.insert(Point { address, access: Access::Data(kind, len) }, able, instead)
    }

    fn remove_hw_watchpoint(&mut self, address: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(self.control.registers.remove(Point { address, access: Access::Data(kind, len) }))
    }
}

impl MonitorCmd for Machine {
    fn handle_monitor_cmd(&mut self, line: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Infallible> {
        let answer = monitor::obey(&String::from_utf8_lossy(line), self);
        // It gathers the text and cannot fail.
        let _ = out.write_str(&answer);
        Ok(())
    }
}

/// What the monitor's commands are answered with.
impl Machine {
    /// Registers of the thread that gdb looked at last, with the names of flags.
    pub fn describe_registers(&mut self) -> String {
        let state = self.control.state(self.current);
        state.map_or("not to be had\n".to_owned(), |state| registers::describe(&state))
    }

    /// The vCPU that gdb looked at last.
    pub fn current(&self) -> usize {
        self.current
    }
}
