//! Exceptions, interrupts and system calls: into the guest's ring 0, through the guest's own tables.
//!
//! The processor delivers all of them to the monitor. What belongs to the guest is delivered a second time, by the steps of the
//! manual on the guest's IDT, TSS and stack. Left out: 32-bit gates (in 32-bit code without paging nobody has an IDT yet).
//! Sources: Intel SDM vol. 3A §6.13, §6.14 (64-bit mode), §6.15 and table 6-5 (double faults), §5.8.8, vol. 2 SYSCALL.

use guest::interrupt::{Frame, PAGE_FAULT};

use crate::decode::{R11, RCX, register};
use crate::report::Kind;
use crate::vm::{
    CS, EFER, EFER_LMA, EFER_SCE, FLAG_IF, FLAG_MASK, Fault, IDT, LSTAR, PROTECTION, SS, STAR, State, UNDEFINED, Vm,
};

const DOUBLE_FAULT: u8 = 8;
/// Vectors with an error code.
const WITH_CODE: u32 = 0x6022_7d00;
/// Flags that a handler starts without: TF, NT; and IF behind an interrupt gate.
const CLEARED: u64 = 1 << 8 | 1 << 14;

impl Vm {
    /// Has the guest get an exception, or the one that its delivery raises; a third one in a row ends the machine.
    pub fn raise(&mut self, frame: &mut Frame, fault: Fault) {
        let mut fault = fault;
        while let Err(next) = self.enter(frame, &fault, frame.rip) {
            if fault.vector == DOUBLE_FAULT || self.state == State::Ended {
                return self.end("triple fault");
            }
            // Table 6-5: two of #DE, #TS, #NP, #SS and #GP make a double fault, as does any of these or #PF after #PF.
            let contributes = |vector: u8| matches!(vector, 0 | 10..=13);
            let second = contributes(next.vector) || fault.vector == PAGE_FAULT && next.vector == PAGE_FAULT;
            let double = second && (contributes(fault.vector) || fault.vector == PAGE_FAULT);
            fault = if double { Fault { vector: DOUBLE_FAULT, code: 0 } } else { next };
        }
    }

    /// INT n: as an exception, but the gate must be open to the ring, and it returns behind the instruction.
    pub fn software_interrupt(&mut self, frame: &mut Frame, vector: u8, after: u64) -> Result<Kind, Fault> {
        let (low, _) = self.gate(vector)?;
        if ((low >> 45 & 3) as u16) < self.ring() {
            return Err(Fault { code: u32::from(vector) << 3 | 1 << 1, ..PROTECTION });
        }
        self.enter(frame, &Fault { vector, code: 0 }, after)?;
        Ok(Kind::Int)
    }

    /// Delivers the interrupt that the guest's LAPIC has for it, if the guest lets it in.
    pub fn interrupt(&mut self, frame: &mut Frame) {
        if !self.accepts_interrupts() || self.shadowed {
            return;
        }
        if let Some(vector) = self.devices.lapic.accept() {
            if self.state == State::Halted {
                self.state = State::Running;
            }
            self.raise(frame, Fault { vector, code: 0 });
            self.counts.add(Kind::Interrupt, 0);
        }
    }

    /// The gate of a vector: its first word, and where it leads.
    fn gate(&mut self, vector: u8) -> Result<(u64, u64), Fault> {
        let denied = Fault { code: u32::from(vector) << 3 | 1 << 1, ..PROTECTION };
        let at = u64::from(vector) * 16;
        if self.msrs[EFER] & EFER_LMA == 0 || at + 15 > self.tables[IDT].1 {
            return Err(denied);
        }
        let low = self.read(self.tables[IDT].0.wrapping_add(at), 8, false)?;
        let high = self.read(self.tables[IDT].0.wrapping_add(at + 8), 4, false)?;
        // Present; an interrupt gate or a trap gate.
        if low >> 47 & 1 == 0 || low >> 40 & 0x1e != 0x0e {
            return Err(denied);
        }
        Ok((low, low & 0xffff | low >> 32 & 0xffff_0000 | high << 32))
    }

    /// Enters a handler, which returns to `back`.
    fn enter(&mut self, frame: &mut Frame, event: &Fault, back: u64) -> Result<(), Fault> {
        let (gate, handler) = self.gate(event.vector)?;
        let (flags, rsp, was_user) = (self.flags(frame), frame.rsp, self.user);
        // A stack of its own, by its number in the TSS; or that of ring 0; or the one in use.
        let mut top = match gate >> 32 & 7 {
            0 if !was_user => rsp,
            0 => self.read(self.tss.wrapping_add(4), 8, false)?,
            number => self.read(self.tss.wrapping_add(0x1c + 8 * number), 8, false)?,
        } & !15;
        let has_code = event.vector < 32 && 1 << event.vector & WITH_CODE != 0;
        let words = [self.selectors[SS].into(), rsp, flags, self.selectors[CS].into(), back, event.code.into()];
        for &word in &words[..if has_code { 6 } else { 5 }] {
            top = top.wrapping_sub(8);
            self.write(top, 8, word, false)?;
        }
        self.jump(frame, (gate >> 16) as u16 & !3, handler)?;
        if was_user {
            self.selectors[SS] = 0;
        }
        frame.rsp = top;
        let is_trap = gate >> 40 & 1 != 0;
        self.set_flags(frame, flags & !CLEARED & if is_trap { !0 } else { !FLAG_IF });
        Ok(())
    }

    /// SYSCALL in the guest's program: the processor has put RIP and the flags aside, and went to the monitor.
    pub fn system_call(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        let flags = *register(frame, R11);
        frame.rflags = flags;
        if self.msrs[EFER] & EFER_SCE == 0 || !self.long {
            self.enter_code(frame, self.selectors[CS], self.long);
            frame.rip = register(frame, RCX).wrapping_sub(2);
            return Err(UNDEFINED);
        }
        let flags = self.flags(frame);
        *register(frame, R11) = flags;
        let code = (self.msrs[STAR] >> 32) as u16 & !3;
        self.enter_code(frame, code, true);
        self.selectors[SS] = code.wrapping_add(8);
        self.set_flags(frame, flags & !self.msrs[FLAG_MASK]);
        frame.rip = self.msrs[LSTAR];
        self.scan_from(frame.rip);
        Ok(Kind::Syscall)
    }
}
