//! Single steps as lines: each instruction that a vCPU executes, the registers that it changed, and between them the exits to
//! user space that it took.
//!
//! An instruction is decoded before it runs, since it may overwrite itself. One that leaves the guest gives its exit first and
//! its step when it is completed, which may be seen at the exit already: for a write that KVM interpreted, RIP stands behind the
//! instruction then, and KVM does not stop for it again. MOV SS and what follows it are one step to hardware. Leaves out memory
//! that an instruction changed. A vCPU that another one starts shows its second instruction first: where it begins is known only
//! when it has begun.
//! Sources: KVM API KVM_SET_GUEST_DEBUG (KVM_GUESTDBG_SINGLESTEP); `arch/x86/kvm/x86.c` (x86_emulate_instruction).

use super::decode::{self, INSTRUCTION_BYTES_MAX};
use super::event::{ExitEvent, ExitKind};
use super::registers::{CR0, CR4, EFER, RFLAGS, with_bits};
use super::symbols::Symbols;
use super::tracer::{NameRegister, ReadWord};
use crate::arch::cpu_state::CpuState;
use crate::arch::paging::read_linear;
use crate::kvm::debug::GuestDebug;
use crate::kvm::exit::{Exit, Reply};
use crate::kvm::vcpu::Synced;
use crate::vcpu::cpu::Cpu;
use crate::vcpu::handler::ExitObserver;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard};

/// Width of the columns for address, symbol and instruction.
const COLUMNS: (usize, usize, usize) = (10, 32, 30);

/// What is asked of a vCPU.
const STEP: GuestDebug = GuestDebug {
    step: true,
    step_without_interrupts: false,
    int3: false,
    addresses: [0; 4],
    dr7: 0,
    inject_int3: false,
};

/// The steps of a machine, as far as they are shown.
pub struct Steps {
    shared: Arc<Mutex<Shown>>,
    symbols: Arc<Symbols>,
}

/// What the vCPUs' threads share.
struct Shown {
    out: Box<dyn Write + Send>,
    /// Steps shown, and how many shall be.
    done: u64,
    wanted: u64,
    /// The first line that could not be written.
    failed: Option<io::Error>,
}

impl Steps {
    /// The first `wanted` steps, to be written to `out`.
    pub fn new(out: Box<dyn Write + Send>, wanted: u64, symbols: Symbols) -> Steps {
        let shared = Arc::new(Mutex::new(Shown { out, done: 0, wanted, failed: None }));
        Steps { shared, symbols: Arc::new(symbols) }
    }

    /// What steps one vCPU. `name` names the register that an access reaches, `read` reads guest RAM.
    pub fn stepper(&self, name: NameRegister, read: ReadWord) -> Stepper {
        let (shared, symbols) = (self.shared.clone(), self.symbols.clone());
        Stepper { shared, symbols, name, read, next: None, open: None, ended: false }
    }

    /// Ends it: whether all lines could be written.
    ///
    /// # Errors
    /// The first that could not.
    pub fn finish(self) -> io::Result<()> {
        let mut shown = lock(&self.shared);
        shown.failed.take().map_or_else(|| shown.out.flush(), Err)
    }
}

/// Steps one vCPU and shows what it does.
pub struct Stepper {
    shared: Arc<Mutex<Shown>>,
    symbols: Arc<Symbols>,
    name: NameRegister,
    read: ReadWord,
    /// Registers before the next instruction, and that instruction.
    next: Option<(CpuState, String)>,
    /// The exit that is being answered, and the registers of its instruction, if that is complete.
    open: Option<(ExitEvent, Option<CpuState>)>,
    ended: bool,
}

impl ExitObserver for Stepper {
    fn attached(&mut self, cpu: &mut dyn Cpu) {
        cpu.sync(Synced::All);
        if let Err(error) = cpu.debug(&STEP) {
            lock(&self.shared).write(&format!("{error}\n"));
        }
        // Only the first vCPU begins where it stands; the others wait to be started.
        if cpu.id() == 0 {
            self.next = cpu.state().ok().map(|state| (state, self.instruction(&state)));
        }
    }

    fn exited(&mut self, exit: Exit, cpu: &mut dyn Cpu) {
        if lock(&self.shared).is_over() {
            return self.end(cpu);
        }
        // Behind an instruction that it emulated, KVM steps on only when it is told so again.
        let _ = cpu.debug(&STEP);
        let now = cpu.synced_state().or_else(|| cpu.state().ok());
        if !matches!(exit, Exit::Debug { .. }) {
            let complete =
                now.filter(|now| self.next.as_ref().is_some_and(|(before, _)| before.regs.rip != now.regs.rip));
            let (vcpu, register) = (cpu.id(), (self.name)(&exit));
            let (at_ns, guest_ns, host_ns, reply, code) = (0, 0, 0, None, None);
            let event = ExitEvent { vcpu, at_ns, guest_ns, host_ns, exit, reply, register, code };
            self.open = Some((event, complete));
            return;
        }
        let Some(now) = now else { return };
        self.stepped(cpu.id(), now);
        if self.next.is_none() {
            self.end(cpu);
        }
    }

    fn answered(&mut self, _exit: Exit, reply: Option<Reply>) {
        let Some((event, complete)) = self.open.take() else { return };
        let mut shown = lock(&self.shared);
        if !shown.is_over() {
            shown.write(&exit_line(&ExitEvent { reply, ..event }));
        }
        drop(shown);
        if let Some(now) = complete {
            self.stepped(event.vcpu, now);
        }
    }
}

impl Stepper {
    fn end(&mut self, cpu: &mut dyn Cpu) {
        if !std::mem::replace(&mut self.ended, true) {
            // It was possible to begin; what cannot end only shows nothing any more.
            let _ = cpu.debug(&GuestDebug::default());
        }
    }

    /// Takes the registers behind an instruction. There is no next one when enough are shown.
    fn stepped(&mut self, vcpu: u32, now: CpuState) {
        let over = match self.next.take() {
            Some((before, instruction)) => self.show(vcpu, &before, &instruction, &now),
            None => lock(&self.shared).is_over(),
        };
        if !over {
            self.next = Some((now, self.instruction(&now)));
        }
    }

    /// Shows one step. True: it was the last one.
    fn show(&self, vcpu: u32, before: &CpuState, instruction: &str, now: &CpuState) -> bool {
        let mut shown = lock(&self.shared);
        if !shown.is_over() {
            shown.done += 1;
            let (rip, (address, name, text)) = (before.linear_rip(), COLUMNS);
            let symbol = self.symbols.describe(rip).unwrap_or_default();
            let (done, rip, changed) = (shown.done, format!("{rip:#x}"), changes(before, now));
            let line = format!("{done:6} {vcpu:2}  {rip:address$} {symbol:name$} {instruction:text$} {changed}");
            shown.write(&format!("{}\n", line.trim_end()));
        }
        shown.is_over()
    }

    /// The instruction where a vCPU in `state` stands.
    fn instruction(&mut self, state: &CpuState) -> String {
        let mut bytes = [0; INSTRUCTION_BYTES_MAX];
        let count = read_linear(state, state.linear_rip(), &mut bytes, &mut self.read);
        let decoded = decode::decode(state.code_bits(), state.regs.rip, &bytes[..count]);
        decoded.map_or_else(|| "not decoded".to_owned(), |(text, _)| text)
    }
}

impl Shown {
    fn is_over(&self) -> bool {
        self.done >= self.wanted
    }

    fn write(&mut self, line: &str) {
        if self.failed.is_none() {
            self.failed = self.out.write_all(line.as_bytes()).err();
        }
    }
}

fn lock(shown: &Mutex<Shown>) -> MutexGuard<'_, Shown> {
    shown.lock().expect("a panic ends the process")
}

/// An exit between two steps: "exit pio-write COM1 THR 0x48".
fn exit_line(event: &ExitEvent) -> String {
    let value = event.value().map(|value| format!(" {value:#x}")).unwrap_or_default();
    let line = format!("       {:2}  exit {} {}{value}", event.vcpu, ExitKind::of(&event.exit).name(), event.target());
    format!("{}\n", line.trim_end())
}

/// The registers that differ, with their new values: "rax=0x10 rflags=46 (PF ZF)". Not RIP, which the next line shows.
fn changes(before: &CpuState, now: &CpuState) -> String {
    let general = |state: &CpuState| {
        let r = &state.regs;
        [
            ("rax", r.rax),
            ("rbx", r.rbx),
            ("rcx", r.rcx),
            ("rdx", r.rdx),
            ("rsi", r.rsi),
            ("rdi", r.rdi),
            ("rbp", r.rbp),
            ("rsp", r.rsp),
            ("r8", r.r8),
            ("r9", r.r9),
            ("r10", r.r10),
            ("r11", r.r11),
            ("r12", r.r12),
            ("r13", r.r13),
            ("r14", r.r14),
            ("r15", r.r15),
            ("cs", state.cs.selector.into()),
            ("ss", state.ss.selector.into()),
            ("ds", state.ds.selector.into()),
            ("es", state.es.selector.into()),
            ("fs", state.fs.selector.into()),
            ("gs", state.gs.selector.into()),
            ("tr", state.tr.selector.into()),
            ("fs.base", state.fs.base),
            ("gs.base", state.gs.base),
            ("gdt", state.gdt.base),
            ("idt", state.idt.base),
            ("cr2", state.cr2),
            ("cr3", state.cr3),
        ]
    };
    let flags = |state: &CpuState| {
        [
            ("rflags", state.regs.rflags, RFLAGS),
            ("cr0", state.cr0, CR0),
            ("cr4", state.cr4, CR4),
            ("efer", state.efer, EFER),
        ]
    };
    let values = general(before).into_iter().zip(general(now)).filter(|(old, new)| old.1 != new.1);
    let values = values.map(|(_, (name, value))| format!("{name}={value:#x}"));
    let bits = flags(before).into_iter().zip(flags(now)).filter(|(old, new)| old.1 != new.1);
    let bits = bits.map(|(_, (name, value, bits))| format!("{name}={}", with_bits(value, bits)));
    values.chain(bits).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Written;
    use super::*;
    use crate::arch::cpu_state::EFER_LMA;
    use crate::debug::event::DeviceRegister;
    use crate::vcpu::scripted::ScriptedCpu;

    /// Code at 0x7c00: mov al, 1; out 0x80, al; hlt.
    fn read(gpa: u64) -> Option<u64> {
        (gpa == 0x7c00).then_some(u64::from_le_bytes([0xb0, 0x01, 0xe6, 0x80, 0xf4, 0, 0, 0]))
    }

    const STEPPED: Exit = Exit::Debug { vector: 1, rip: 0, dr6: 0 };
    const OUT: Exit = Exit::PioWrite { port: 0x80, size: 1, value: 1 };

    #[test]
    fn steps_and_exits_stand_in_their_order_until_enough_are_shown() {
        let written = Written::default();
        let steps = Steps::new(Box::new(written.clone()), 3, Symbols::default());
        let name = |exit: &Exit| (*exit == OUT).then_some(DeviceRegister { device: "post", register: "CODE" });
        let mut stepper = steps.stepper(Box::new(name), Box::new(read));
        let mut cpu = ScriptedCpu::new(vec![]).in_state(CpuState::real_mode(0, 0x7c00));
        stepper.attached(&mut cpu);
        assert!(cpu.debugged().step);
        // Where KVM interprets, RIP stands behind OUT at its exit, and the step would be that of the next instruction.
        for (exit, rip) in [(STEPPED, 0x7c02), (OUT, 0x7c04), (STEPPED, 0x7c05), (OUT, 0x7c05)] {
            let mut state = CpuState::real_mode(0, rip);
            (state.regs.rax, state.regs.rsp) = (1, 0x7c00);
            cpu.set_state(&state).unwrap();
            stepper.exited(exit, &mut cpu);
            stepper.answered(exit, Some(Reply::Resume));
        }
        assert!(!cpu.debugged().step);
        steps.finish().unwrap();
        let text = written.text();
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "1 0 0x7c00 mov al, 1 rax=0x1",
                "0 exit pio-write post CODE 0x1",
                "2 0 0x7c02 out 0x80, al",
                "3 0 0x7c04 hlt"
            ]
        );
    }

    #[test]
    fn changed_registers_have_their_new_values_and_flags_their_names() {
        let before = CpuState::long_mode(0x1000);
        let mut now = before;
        (now.regs.rip, now.regs.r9, now.gs.base, now.cs.selector) = (0x1003, 7, 1 << 47, 8);
        (now.regs.rflags, now.efer) = (0x46, now.efer & !EFER_LMA);
        assert_eq!(changes(&before, &now), "r9=0x7 cs=0x8 gs.base=0x800000000000 rflags=46 (PF ZF) efer=100 (LME)");
        assert_eq!(changes(&before, &before), "");
    }
}
