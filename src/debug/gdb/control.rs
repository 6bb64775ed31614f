//! Stopping and resuming the vCPUs for gdb: all stop when one stops, and each goes on as gdb wants it.
//!
//! A breakpoint under the next instruction is stepped over first, all other vCPUs resting: gdb does so itself where it knows of
//! it, which it does not in segmented code, whose RIP is no linear address.

use super::gate::{Desk, Pace, Why};
use super::hardware::{DebugRegisters, Point};
use crate::arch::cpu_state::CpuState;
use crate::arch::fpu::FpuState;
use crate::kvm::debug::GuestDebug;
use crate::vcpu::cpu::Cpu;
use crate::vcpu::thread::VcpuHandle;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::channel;

/// What a vCPU does when gdb resumes the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Runs.
    #[default]
    Go,
    /// Does one instruction.
    Step,
    /// Rests.
    Rest,
}

/// A vCPU that stopped, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Which one.
    pub vcpu: u32,
    /// Why; `None`: because gdb asked.
    pub why: Option<Why>,
}

/// The vCPUs under gdb's control.
pub struct Control {
    /// The way to the vCPUs.
    pub desk: Arc<Desk>,
    /// Hardware breakpoints and watchpoints, of all vCPUs alike.
    pub registers: DebugRegisters,
    /// What the debug registers of each vCPU hold: these and, where INT3 does not stop it, breakpoints.
    in_use: Vec<DebugRegisters>,
    /// What gdb is to be told now.
    pub report: Option<Stop>,
    /// What each vCPU does.
    actions: Vec<Action>,
    /// Stops that came while another was being told.
    waiting: VecDeque<Stop>,
    /// Where the vCPUs stand at a breakpoint that gdb was told of: linear address.
    told_at: Vec<Option<u64>>,
    /// The vCPU that steps over a breakpoint, all others resting.
    stepping_over: Option<u32>,
    /// Registers of stopped vCPUs, as far as they were asked for.
    states: Vec<Option<CpuState>>,
}

impl Control {
    /// Control of the vCPUs behind `desk`, which do not run yet.
    pub fn new(desk: Arc<Desk>) -> Control {
        let count = desk.handles.get().map_or(0, |handles| handles.len());
        desk.rules().paces = vec![Pace::default(); count];
        Control {
            desk,
            registers: DebugRegisters::default(),
            in_use: vec![DebugRegisters::default(); count],
            actions: vec![Action::Rest; count],
            report: None,
            waiting: VecDeque::new(),
            told_at: vec![None; count],
            stepping_over: None,
            states: vec![None; count],
        }
    }

    /// Number of vCPUs.
    pub fn count(&self) -> usize {
        self.states.len()
    }

    fn handles(&self) -> &[VcpuHandle] {
        self.desk.handles.get().expect("filled before the first vCPU runs")
    }

    /// Has a vCPU answer a question on its own thread. `None`: it has ended its run, or there is no such vCPU.
    pub fn ask<T: Send + 'static>(
        &self,
        vcpu: usize,
        question: impl FnOnce(&mut dyn Cpu) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, answer) = channel();
        self.handles().get(vcpu)?.send(Box::new(move |cpu| {
            let _ = sender.send(question(cpu));
        }));
        answer.recv().ok()
    }

    /// Registers of a stopped vCPU.
    pub fn state(&mut self, vcpu: usize) -> Option<CpuState> {
        if self.states.get(vcpu)?.is_none() {
            self.states[vcpu] = self.ask(vcpu, |cpu| cpu.state().ok()).flatten();
        }
        self.states[vcpu]
    }

    /// x87 and SSE registers of a stopped vCPU.
    pub fn fpu(&self, vcpu: usize) -> Option<FpuState> {
        self.ask(vcpu, |cpu| cpu.fpu().ok()).flatten()
    }

    /// Sets the registers of a stopped vCPU. False: it does not take them.
    pub fn set(&mut self, vcpu: usize, state: CpuState, fpu: FpuState) -> bool {
        self.states[vcpu] = None;
        self.ask(vcpu, move |cpu| cpu.set_state(&state).is_ok() && cpu.set_fpu(&fpu).is_ok()).unwrap_or(false)
    }

    /// Takes the machine under control: all vCPUs stop.
    pub fn attach(&mut self) {
        self.desk.rules().attached = true;
        self.interrupt();
        self.report = None;
    }

    /// Lets the machine run as if nobody had been there.
    pub fn detach(&mut self) {
        self.stop_all();
        self.registers = DebugRegisters::default();
        {
            let mut rules = self.desk.rules();
            rules.breakpoints.clear(&self.desk.ram);
            rules.attached = false;
        }
        (self.report, self.stepping_over) = (None, None);
        self.waiting.clear();
        self.told_at.fill(None);
        for vcpu in 0..self.count() {
            self.set_pace(vcpu, Pace::default());
            self.handles()[vcpu].resume();
        }
    }

    /// Stops all because gdb asked.
    pub fn interrupt(&mut self) {
        self.stop_all();
        self.report = Some(Stop { vcpu: 0, why: None });
    }

    /// Takes a vCPU's stop. What gdb is to hear is in [`Control::report`] then.
    pub fn stopped(&mut self, vcpu: u32, why: Why) {
        let stop = Stop { vcpu, why: Some(why) };
        let all_rest = self.actions.iter().all(|action| *action == Action::Rest);
        if self.report.is_some() || all_rest {
            self.waiting.push_back(stop);
        } else if self.stepping_over == Some(vcpu) && why == Why::Step && self.actions[vcpu as usize] == Action::Go {
            self.end_stepping_over();
            self.go_on();
        } else {
            self.stop_all();
            self.tell(stop);
        }
    }

    /// Lets the vCPUs go on, each by its action.
    pub fn resume(&mut self, actions: Vec<Action>) {
        self.actions = actions;
        self.go_on();
    }

    fn go_on(&mut self) {
        while let Some(stop) = self.waiting.pop_front() {
            if self.still_holds(&stop) {
                self.actions.fill(Action::Rest);
                return self.tell(stop);
            }
        }
        let runs = |vcpu: &usize| self.actions[*vcpu] != Action::Rest;
        let running: Vec<_> = (0..self.count()).filter(runs).collect();
        if let Some(vcpu) = running.iter().copied().find(|vcpu| self.rests_on_breakpoint(*vcpu)) {
            self.step_over(vcpu);
            return;
        }
        let paces: Vec<_> = running.iter().map(|vcpu| (*vcpu, self.pace(*vcpu))).collect();
        // One that runs meets INT3; one that crawls has to look where it begins.
        if let Some((vcpu, _)) = paces.iter().find(|(vcpu, pace)| pace.crawls && self.stands_at_breakpoint(*vcpu)) {
            self.actions.fill(Action::Rest);
            return self.tell(Stop { vcpu: *vcpu as u32, why: Some(Why::Breakpoint) });
        }
        self.told_at.fill(None);
        self.states.fill(None);
        for (vcpu, pace) in paces {
            self.set_pace(vcpu, pace);
            self.handles()[vcpu].resume();
        }
    }

    /// Stops all, and returns when they are.
    fn stop_all(&mut self) {
        self.handles().iter().for_each(VcpuHandle::pause);
        for vcpu in 0..self.count() {
            // One that has ended its run stands still as well.
            let _ = self.ask(vcpu, |_| ());
        }
        self.end_stepping_over();
        self.states.fill(None);
        self.actions.fill(Action::Rest);
    }

    fn tell(&mut self, stop: Stop) {
        let at_breakpoint = matches!(stop.why, Some(Why::Breakpoint | Why::Hardware { .. }));
        let state = if at_breakpoint { self.state(stop.vcpu as usize) } else { None };
        self.told_at[stop.vcpu as usize] = state.map(|state| state.linear_rip());
        self.report = Some(stop);
    }

    /// What in the debug registers stopped a vCPU, if gdb still wants it there.
    pub fn met(&self, vcpu: usize, dr6: u64) -> Option<Point> {
        let point = self.in_use[vcpu].met(dr6)?;
        let wanted = self.registers.contains(point)
            || self.desk.rules().breakpoints.addresses().any(|address| address == point.address);
        wanted.then_some(point)
    }

    /// Whether a stop that waited is still worth telling.
    fn still_holds(&mut self, stop: &Stop) -> bool {
        match stop.why {
            Some(Why::Breakpoint) => self.stands_at_breakpoint(stop.vcpu as usize),
            Some(Why::Hardware { dr6 }) => self.met(stop.vcpu as usize, dr6).is_some(),
            Some(Why::Died(_)) => true,
            Some(Why::Step) | None => false,
        }
    }

    fn stands_at_breakpoint(&mut self, vcpu: usize) -> bool {
        self.state(vcpu).is_some_and(|state| self.desk.breaks_at(&state, &self.desk.rules()))
    }

    /// Whether the vCPU stands where gdb was told that a breakpoint is, and it is still there.
    fn rests_on_breakpoint(&mut self, vcpu: usize) -> bool {
        let here = self.state(vcpu).map(|state| state.linear_rip());
        self.told_at[vcpu].is_some_and(|told| {
            here == Some(told) && (self.registers.breaks_at(told) || self.stands_at_breakpoint(vcpu))
        })
    }

    fn step_over(&mut self, vcpu: usize) {
        self.stepping_over = Some(vcpu as u32);
        self.told_at[vcpu] = None;
        self.desk.rules().breakpoints.lift(&self.desk.ram);
        let from = self.states[vcpu].take().unwrap_or_default().linear_rip();
        let mut debug = self.stepping();
        self.in_use[vcpu] = self.registers.watchpoints();
        self.in_use[vcpu].apply(&mut debug);
        self.set_pace(vcpu, Pace { debug, crawls: false, from });
        self.handles()[vcpu].resume();
    }

    fn end_stepping_over(&mut self) {
        if self.stepping_over.take().is_some() {
            self.desk.rules().breakpoints.lay(&self.desk.ram);
        }
    }

    /// How a vCPU is to run now.
    fn pace(&mut self, vcpu: usize) -> Pace {
        let steps = self.actions[vcpu] == Action::Step;
        let state = self.state(vcpu).unwrap_or_default();
        let int3_stops = self.desk.abilities.stops_at_int3(&state);
        let rules = self.desk.rules();
        let broken = !rules.breakpoints.is_empty();
        let instead = broken && !steps && !int3_stops;
        let able = instead && self.desk.abilities.hardware_breakpoints;
        let both = able.then(|| self.registers.with(rules.breakpoints.addresses())).flatten();
        drop(rules);
        let crawls = instead && both.is_none();
        let mut debug = if steps { self.stepping() } else { GuestDebug { step: crawls, ..GuestDebug::default() } };
        debug.int3 = broken;
        self.in_use[vcpu] = both.unwrap_or(self.registers);
        self.in_use[vcpu].apply(&mut debug);
        Pace { debug, crawls, from: state.linear_rip() }
    }

    fn stepping(&self) -> GuestDebug {
        let step_without_interrupts = self.desk.abilities.step_without_interrupts;
        GuestDebug { step: true, step_without_interrupts, ..GuestDebug::default() }
    }

    fn set_pace(&self, vcpu: usize, pace: Pace) {
        let old = std::mem::replace(&mut self.desk.rules().paces[vcpu], pace);
        if old.debug != pace.debug || pace.debug.step {
            // What this KVM cannot do was found out before and is not asked for.
            let _ = self.ask(vcpu, move |cpu| cpu.debug(&pace.debug).is_ok());
        }
    }
}
