//! Exceptions, interrupts and system calls: into the guest's ring 0, through the guest's own tables.
//!
//! The processor delivers all of them to the monitor. What belongs to the guest is delivered a second time, by the steps of the
//! manual on the guest's IDT, TSS and stack. Left out: 32-bit gates (in 32-bit code without paging nobody has an IDT yet), and a second
//! exception that may follow the first (a page fault on the way to a handler): each makes a double fault.
//! Sources: Intel SDM vol. 3A §6.13, §6.14 (64-bit mode), §6.15 (double faults), §5.8.8, vol. 2 SYSCALL.

use guest::{cpu::*, interrupt::Frame};

use crate::{decode::*, report::Kind, vm::*};

const DOUBLE_FAULT: Fault = Fault { vector: 8, code: 0 };
/// Vectors with an error code.
const WITH_CODE: u32 = 0x6022_7d00;
/// Flags that a handler starts without: TF, NT; and IF behind an interrupt gate.
const CLEARED: u64 = 1 << 8 | 1 << 14;

impl Vm {
    /// Has the guest get an exception, or a double fault if that cannot be delivered, or ends the machine.
    pub fn raise(&mut self, frame: &mut Frame, fault: Fault) {
        if self.enter(frame, fault).is_err() && self.enter(frame, DOUBLE_FAULT).is_err() {
            self.end("triple fault");
        }
    }

    /// Delivers the interrupt that the guest's LAPIC has for it, if the guest lets it in.
    pub fn interrupt(&mut self, frame: &mut Frame) {
        if self.accepts_interrupts()
            && !self.shadowed
            && let Some(vector) = self.devices.lapic.accept()
        {
            self.is_halted = false;
            self.raise(frame, Fault { vector, code: 0 });
            self.counts.add(Kind::Interrupt, 0);
        }
    }

    /// Enters the handler of an event.
    fn enter(&mut self, frame: &mut Frame, event: Fault) -> Result<(), Fault> {
        let denied = Fault { code: u32::from(event.vector) << 3 | 1 << 1, ..PROTECTION };
        let ((base, limit), offset) = (self.tables[IDT], u64::from(event.vector) * 16);
        if self.msrs[EFER] & EFER_LMA == 0 || offset + 15 > limit {
            return Err(denied);
        }
        let gate = self.read(base.wrapping_add(offset), 8, false)?;
        let high = self.read(base.wrapping_add(offset + 8), 4, false)?;
        // Present; an interrupt gate or a trap gate.
        if gate >> 47 & 1 == 0 || gate >> 40 & 0x1e != 0x0e {
            return Err(denied);
        }
        let (flags, was_user) = (self.flags(frame), self.user);
        // A stack of its own, by its number in the TSS; or that of ring 0; or the one in use.
        let mut top = match gate >> 32 & 7 {
            0 if !was_user => frame.rsp,
            0 => self.read(self.tss.wrapping_add(4), 8, false)?,
            number => self.read(self.tss.wrapping_add(0x1c + 8 * number), 8, false)?,
        } & !15;
        let (ss, cs) = (self.selectors[SS].into(), self.selectors[CS].into());
        let words = [ss, frame.rsp, flags, cs, frame.rip, event.code.into()];
        let has_code = event.vector < 32 && 1 << event.vector & WITH_CODE != 0;
        for &word in &words[..if has_code { 6 } else { 5 }] {
            top = top.wrapping_sub(8);
            self.write(top, 8, word, false)?;
        }
        self.jump(frame, (gate >> 16) as u16 & !3, gate & 0xffff | gate >> 32 & 0xffff_0000 | high << 32)?;
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
        frame.rflags = *register(frame, R11);
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
