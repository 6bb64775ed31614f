//! Exceptions, interrupts and system calls: into the guest's ring 0, through the guest's own tables.
//!
//! The processor delivers all of them to the monitor. What belongs to the guest is delivered a second time, by the steps of the
//! manual on the guest's IDT, TSS and stack. Left out: 32-bit gates (in 32-bit code without paging nobody has an IDT yet).
//! Sources: Intel SDM vol. 3A §6.14 (64-bit mode), §6.15 and table 6-5 (double faults), §5.8.8, vol. 2 SYSCALL, SYSRET.

use guest::interrupt::Frame;

use crate::decode::{Instruction, RCX, register};
use crate::fault::{DOUBLE_FAULT, Fault};
use crate::machine::{CODE_32, CODE_64};
use crate::report::Kind;
use crate::vm::{CS, EFER_LMA, EFER_SCE, FLAG_IF, FLAG_NT, FLAG_RF, FLAG_TF, SS, State, Vm};

/// Where a gate leads.
struct Gate {
    selector: u16,
    offset: u64,
    /// Number of a stack in the TSS, or 0.
    stack: u64,
    /// The outermost ring that may use it by INT n.
    ring: u8,
    /// Whether it leaves IF alone.
    is_trap: bool,
}

impl Vm {
    /// Has the guest get an exception, or the one that its delivery raises; a third one in a row ends the machine.
    pub fn raise(&mut self, frame: &mut Frame, fault: Fault) {
        let mut fault = fault;
        loop {
            let Err(next) = self.enter(frame, &fault, frame.rip) else { return };
            if fault.vector == DOUBLE_FAULT || self.state == State::Ended {
                self.end("triple fault");
                return;
            }
            // Table 6-5: a fault at the delivery of #DE, #TS, #NP, #SS, #GP or #PF is a double fault. But a #PF after all but #PF is not.
            let contributes = |vector: u8| matches!(vector, 0 | 10..=13);
            let double = match fault.vector {
                14 => contributes(next.vector) || next.vector == 14,
                vector => contributes(vector) && contributes(next.vector),
            };
            fault = if double { Fault { vector: DOUBLE_FAULT, code: 0 } } else { next };
        }
    }

    /// INT n: as an exception, but the gate must be open to the ring, and it returns behind the instruction.
    pub fn software_interrupt(&mut self, frame: &mut Frame, vector: u8, after: u64) -> Result<Kind, Fault> {
        let denied = Fault { vector: 13, code: u32::from(vector) << 3 | 1 << 1 };
        if self.gate(vector)?.ring < self.ring() {
            return Err(denied);
        }
        // A fault at the delivery is told of the instruction itself.
        self.enter(frame, &Fault { vector, code: 0 }, after)?;
        Ok(Kind::Int)
    }

    /// Delivers the interrupt that the guest's LAPIC has for it, if the guest lets it in. Says whether.
    pub fn interrupt(&mut self, frame: &mut Frame) -> bool {
        if !self.accepts_interrupts() || self.shadowed {
            return false;
        }
        let Some(vector) = self.devices.lapic.accept() else { return false };
        if self.state == State::Halted {
            self.state = State::Running;
        }
        self.raise(frame, Fault { vector, code: 0 });
        true
    }

    /// The gate of a vector.
    fn gate(&mut self, vector: u8) -> Result<Gate, Fault> {
        let denied = Fault { vector: 13, code: u32::from(vector) << 3 | 1 << 1 };
        let at = u64::from(vector) * 16;
        if self.efer & EFER_LMA == 0 || at + 15 > self.idt.limit {
            return Err(denied);
        }
        let low = self.read(self.idt.base.wrapping_add(at), 8, false)?;
        let high = self.read(self.idt.base.wrapping_add(at + 8), 4, false)?;
        // Present; an interrupt gate or a trap gate.
        if low >> 47 & 1 == 0 || low >> 40 & 0x1e != 0x0e {
            return Err(denied);
        }
        Ok(Gate {
            selector: (low >> 16) as u16,
            offset: low & 0xffff | low >> 32 & 0xffff_0000 | high << 32,
            stack: low >> 32 & 7,
            ring: (low >> 45 & 3) as u8,
            is_trap: low >> 40 & 1 != 0,
        })
    }

    /// Enters a handler, which returns to `back`.
    fn enter(&mut self, frame: &mut Frame, event: &Fault, back: u64) -> Result<(), Fault> {
        let gate = self.gate(event.vector)?;
        let flags = self.flags(frame) & !FLAG_RF;
        let (cs, ss, rsp, was_user) = (self.selectors[CS], self.selectors[SS], frame.rsp, self.user);
        let mut top = match gate.stack {
            0 if was_user => self.read(self.tss.wrapping_add(4), 8, false)?,
            0 => rsp,
            number => self.read(self.tss.wrapping_add(0x1c + 8 * number), 8, false)?,
        } & !15;
        let mut push = |vm: &mut Vm, value: u64| {
            top = top.wrapping_sub(8);
            vm.write(top, 8, value, false)
        };
        push(self, ss.into())?;
        push(self, rsp)?;
        push(self, flags)?;
        push(self, cs.into())?;
        push(self, back)?;
        if event.has_code() {
            push(self, event.code.into())?;
        }
        self.jump(frame, gate.selector & !3, gate.offset)?;
        if was_user {
            self.selectors[SS] = 0;
        }
        frame.rsp = top;
        let cleared = FLAG_TF | FLAG_NT | FLAG_RF | if gate.is_trap { 0 } else { FLAG_IF };
        self.set_flags(frame, flags & !cleared);
        Ok(())
    }

    /// SYSCALL in the guest's program: the processor has put RIP and the flags aside, and went to the monitor.
    pub fn system_call(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        if self.efer & EFER_SCE == 0 || !self.long {
            frame.rip = frame.rip.wrapping_sub(2);
            return Err(Fault::undefined());
        }
        let flags = self.flags(frame);
        frame.registers[4] = flags & !FLAG_RF; // R11
        self.load_fixed(frame, (self.star >> 32) as u16 & !3, 8, 0);
        self.set_flags(frame, flags & !self.sfmask & !FLAG_RF);
        frame.rip = self.lstar;
        self.scan_from(self.lstar);
        Ok(Kind::Syscall)
    }

    /// SYSRET.
    pub fn system_return(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        if self.efer & EFER_SCE == 0 || !self.long {
            return Err(Fault::undefined());
        }
        if self.user {
            return Err(Fault::protection(0));
        }
        let base = (self.star >> 48) as u16;
        let flags = frame.registers[4];
        frame.rip = *register(frame, RCX);
        if i.size == 8 {
            self.load_fixed(frame, base.wrapping_add(16), 0u16.wrapping_sub(8), 3);
        } else {
            self.load_fixed(frame, base, 8, 3);
            self.long = false;
            frame.cs = CODE_32;
            frame.rip &= 0xffff_ffff;
        }
        self.set_flags(frame, flags & !FLAG_RF);
        Ok(Kind::Sysret)
    }

    /// CS and SS as SYSCALL and SYSRET load them, without a look into the table: SS is `beside` CS.
    fn load_fixed(&mut self, frame: &mut Frame, code: u16, beside: u16, ring: u16) {
        self.selectors[CS] = code & !3 | ring;
        self.selectors[SS] = code.wrapping_add(beside) & !3 | ring;
        self.user = ring == 3;
        self.long = true;
        frame.cs = CODE_64;
    }
}
