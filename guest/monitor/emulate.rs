//! Emulation: what an instruction that trapped does to the virtual machine instead of the real one.
//!
//! Ring 0 of a guest gets what the manual says; ring 3 of a guest gets the exception that it would get on a machine of its own.
//! What is patched and not here ends the guest: far calls and returns, INT n, LSL, pushes and pops of segment registers. Moves of debug
//! registers are #GP. Left out too: a single-step trap behind an emulated instruction.
//! Sources: Intel SDM vol. 2 (each instruction), vol. 3A §2.5, §5.9 (privileged instructions), vol. 4 table 2-2 (MSRs).

use guest::{cpu::*, interrupt::Frame};

use crate::{decode::*, report::Kind, vm::*};

/// Elements of a string that one trap does; the instruction traps again for the next ones.
const STRING_ELEMENTS: u64 = 256;
/// CR4: what a guest may set. PAE must be; TSD and PGE are kept without effect; the rest concerns what CPUID does not offer.
const CR4_ALLOWED: u64 = 0x6fc;
/// Leaves of CPUID, from and to, and what of EAX, ECX, EDX and EBX is shown. Hidden are MONITOR, VMX, FMA, PCID, x2APIC, the timer's TSC
/// deadline, XSAVE, OSXSAVE, AVX, F16C; all but the fast string instructions; the sizes of AVX' registers; what KVM offers; SVM, pages
/// of 1 GiB, RDTSCP.
static HIDDEN: [(u32, u32, [u32; 4]); 5] = [
    (1, 1, [!0, !(1 << 3 | 1 << 5 | 1 << 12 | 1 << 17 | 1 << 21 | 1 << 24 | 0xf << 26), !0, !0]),
    (7, 7, [!0, 0, 0, 1 << 9]),
    (0xd, 0xd, [0; 4]),
    (0x4000_0000, 0x4000_ffff, [0; 4]),
    (0x8000_0001, 0x8000_0001, [!0, !(1 << 2), !(1 << 26 | 1 << 27), !0]),
];

impl Vm {
    /// Emulates the instruction, which raised `real` in the processor. Says what it was.
    ///
    /// # Errors
    /// The guest is to get this exception instead.
    pub fn emulate(&mut self, frame: &mut Frame, real: Fault) -> Result<Kind, Fault> {
        let after = frame.rip.wrapping_add(self.op.length);
        let kind = match self.op.opcode {
            0xe4..=0xe7 | 0xec..=0xef => self.port(frame),
            0x6c..=0x6f => return self.port_string(frame),
            0xfa | 0xfb => self.interrupt_flag(),
            0xf4 => self.privileged(Kind::Hlt).inspect(|_| self.is_halted = true),
            0x9c => self.push(frame, self.flags(frame)).map(|()| Kind::Flags),
            0x9d => self.pop_flags(frame),
            0x8c | 0x8e => self.segment_register(frame),
            0xcf => return self.interrupt_return(frame),
            0xea => return self.far_jump(frame),
            0xff if matches!(self.op.reg(), 2 | 4) => return self.indirect(frame, after),
            0x0f00 => self.system_selector(frame),
            0x0f01 => self.system_table(frame),
            0x0f02 => self.inspect(frame),
            0x0f06 => self.privileged(Kind::Control).inspect(|_| self.cr[0] &= !CR0_TS),
            0x0f07 => return self.system_return(frame),
            0x0f08 | 0x0f09 => self.privileged(Kind::Cache),
            0x0f20 | 0x0f22 => self.control_register(frame),
            0x0f30 | 0x0f32 => self.model_specific(frame),
            0x0fa2 => self.identify(frame),
            _ if self.is_patched => Ok(self.unknown()),
            _ => Err(real),
        }?;
        frame.rip = if self.long { after } else { after & 0xffff_ffff };
        Ok(kind)
    }

    /// Ends the guest for an instruction that is not here.
    fn unknown(&mut self) -> Kind {
        self.end("ended by the monitor: it does not emulate this instruction");
        Kind::Exception
    }

    /// Nothing else than being in ring 0.
    fn privileged(&self, kind: Kind) -> Result<Kind, Fault> {
        if self.user { Err(PROTECTION) } else { Ok(kind) }
    }

    /// Whether IOPL lets this ring use ports, CLI and STI.
    fn has_ports(&self) -> Result<(), Fault> {
        if self.user && self.flags & FLAG_IOPL != FLAG_IOPL { Err(PROTECTION) } else { Ok(()) }
    }

    fn interrupt_flag(&mut self) -> Result<Kind, Fault> {
        self.has_ports()?;
        let on = self.op.opcode == 0xfb;
        self.shadowed = on && !self.accepts_interrupts();
        self.flags = self.flags & !FLAG_IF | if on { FLAG_IF } else { 0 };
        Ok(Kind::InterruptFlag)
    }

    fn push(&mut self, frame: &mut Frame, value: u64) -> Result<(), Fault> {
        let top = frame.rsp.wrapping_sub(self.op.size.into());
        self.write(top, self.op.size.into(), value, self.user)?;
        frame.rsp = top;
        Ok(())
    }

    /// The word that lies `index` words above the stack pointer.
    fn on_stack(&mut self, frame: &Frame, index: u64) -> Result<u64, Fault> {
        let size = self.op.size.into();
        self.read(frame.rsp.wrapping_add(size * index), size, self.user)
    }

    /// The flags as POPF and IRET load them: ring 3 may change neither IOPL nor, unless IOPL is 3, IF.
    fn load_flags(&mut self, frame: &mut Frame, flags: u64, from_user: bool) {
        let kept = match self.flags & FLAG_IOPL {
            _ if !from_user => 0,
            FLAG_IOPL => FLAG_IOPL,
            _ => FLAG_IOPL | FLAG_IF,
        };
        self.set_flags(frame, flags & !kept | self.flags & kept);
    }

    fn pop_flags(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        let kept = if self.op.size == 2 { self.flags(frame) & !0xffff } else { 0 };
        let flags = self.on_stack(frame, 0)? | kept;
        self.load_flags(frame, flags, self.user);
        frame.rsp = frame.rsp.wrapping_add(self.op.size.into());
        Ok(Kind::Flags)
    }

    /// Bytes of an operand that bit 0 of the opcode makes one byte.
    fn wide_or_byte(&self) -> u8 {
        if self.op.opcode & 1 == 0 { 1 } else { self.op.size }
    }

    /// IN and OUT.
    fn port(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        self.has_ports()?;
        let by_register = self.op.opcode >= 0xe8;
        let port = if by_register { *register(frame, RDX) as u16 } else { self.op.immediate as u8 as u16 };
        let size = self.wide_or_byte().min(4);
        if self.op.opcode & 2 != 0 {
            self.write_port(port, size, *register(frame, RAX));
            return Ok(Kind::Out);
        }
        set_register(frame, RAX, size, self.read_port(port, size));
        Ok(Kind::In)
    }

    /// INS and OUTS, with and without REP: RIP stays where elements are left.
    fn port_string(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        self.has_ports()?;
        let (port, out, repeat) = (*register(frame, RDX) as u16, self.op.opcode & 2 != 0, self.op.repeat != 0);
        let (size, pointer) = (self.wide_or_byte().min(4), if out { RSI } else { RDI });
        let step = if frame.rflags & FLAG_DF == 0 { size.into() } else { u64::from(size).wrapping_neg() };
        let mut left = if repeat { *register(frame, RCX) } else { 1 };
        for _ in 0..left.min(STRING_ELEMENTS) {
            let at = *register(frame, pointer);
            if out {
                let value = self.read(at, size.into(), self.user)?;
                self.write_port(port, size, value);
            } else {
                self.write(at, size.into(), self.read_port(port, size), self.user)?;
            }
            *register(frame, pointer) = at.wrapping_add(step);
            left -= 1;
            if repeat {
                *register(frame, RCX) = left;
            }
        }
        frame.rip = frame.rip.wrapping_add(if left == 0 { self.op.length } else { 0 });
        Ok(Kind::PortString)
    }

    /// Moves of segment registers.
    fn segment_register(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        let number = usize::from(self.op.reg());
        if number > 5 || self.op.opcode == 0x8e && number == CS {
            return Err(UNDEFINED);
        }
        if self.op.opcode == 0x8c {
            self.store_16(frame, self.selectors[number].into())?;
        } else {
            let selector = self.operand(frame, 2)? as u16;
            self.load_segment(number, selector)?;
            self.shadowed = number == SS;
        }
        Ok(Kind::Segment)
    }

    /// The operand of `size` bytes that ModRM names.
    fn operand(&mut self, frame: &mut Frame, size: u8) -> Result<u64, Fault> {
        if !self.op.names_memory() {
            return Ok(*register(frame, self.op.other()));
        }
        self.read(self.op.offset(frame, self.long), size.into(), self.user)
    }

    /// Stores a value of 16 bits in memory, or of the operand's size in a register.
    fn store_16(&mut self, frame: &mut Frame, value: u64) -> Result<(), Fault> {
        if self.op.names_memory() {
            return self.write(self.op.offset(frame, self.long), 2, value, self.user);
        }
        set_register(frame, self.op.other(), self.op.size, value);
        Ok(())
    }

    /// IRET (Intel SDM vol. 2): in 64-bit code it always loads five words.
    fn interrupt_return(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        let (rip, selector) = (self.on_stack(frame, 0)?, self.on_stack(frame, 1)? as u16);
        let (flags, was_user) = (self.on_stack(frame, 2)?, self.user);
        if selector & 3 < self.ring() {
            return Err(protection(selector));
        }
        let (mut rsp, mut ss) = (frame.rsp.wrapping_add(u64::from(self.op.size) * 3), self.selectors[SS]);
        if self.long || selector & 3 > self.ring() {
            (rsp, ss) = (self.on_stack(frame, 3)?, self.on_stack(frame, 4)? as u16);
        }
        self.jump(frame, selector, rip)?;
        self.load_segment(SS, ss).inspect_err(|_| self.user = was_user)?;
        self.load_flags(frame, flags, was_user);
        frame.rsp = rsp;
        Ok(Kind::Iret)
    }

    /// A far jump within a ring, to a segment and an offset that the instruction holds.
    fn far_jump(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        let selector = (self.op.immediate >> (8 * self.op.size)) as u16 & !3;
        self.jump(frame, selector | self.ring(), self.op.immediate & 0xffff_ffff)?;
        Ok(Kind::Far)
    }

    /// Indirect calls and jumps: they trap for the code that they lead to to be looked at.
    fn indirect(&mut self, frame: &mut Frame, after: u64) -> Result<Kind, Fault> {
        let target = self.operand(frame, self.op.size)?;
        if !is_canonical(target) {
            return Err(PROTECTION);
        }
        if self.op.reg() == 2 {
            self.push(frame, after)?;
        }
        frame.rip = target;
        self.scan_from(target);
        Ok(Kind::Indirect)
    }

    /// LTR, VERR, VERW.
    fn system_selector(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        match self.op.reg() {
            3 => {
                self.privileged(Kind::Table)?;
                let selector = self.operand(frame, 2)? as u16;
                let descriptor = self.descriptor(selector)?;
                let high = self.read(self.tables[GDT].0.wrapping_add(u64::from(selector & !7) + 8), 4, false)?;
                if descriptor >> 40 & 0x9f != 0x89 {
                    return Err(protection(selector)); // not an available 64-bit TSS that is present
                }
                self.tss = base(descriptor) | high << 32;
            }
            4 | 5 => return self.inspect(frame),
            _ => return self.privileged(Kind::Table).map(|_| self.unknown()),
        }
        Ok(Kind::Table)
    }

    /// SGDT, SIDT, LGDT, LIDT, SMSW, INVLPG.
    fn system_table(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        let (at, bytes) = (self.op.offset(frame, self.long), if self.long { 8 } else { 4 });
        let table = usize::from(self.op.reg() & 1);
        match (self.op.reg(), self.op.names_memory()) {
            (4, _) => self.store_16(frame, self.cr[0])?,
            (0 | 1, true) => {
                let (base, limit) = self.tables[table];
                self.write(at, 2, limit, self.user)?;
                self.write(at.wrapping_add(2), bytes, base, self.user)?;
            }
            (2 | 3, true) => {
                self.privileged(Kind::Table)?;
                let limit = self.read(at, 2, false)?;
                self.tables[table] = (self.read(at.wrapping_add(2), bytes, false)?, limit);
            }
            (7, true) => return self.privileged(Kind::Cache).inspect(|_| self.forget_page(at)),
            _ => return Err(UNDEFINED),
        }
        Ok(Kind::Table)
    }

    /// LAR, VERR, VERW: look into the guest's table, and tell by ZF whether there is something.
    fn inspect(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        let selector = self.operand(frame, 2)? as u16;
        let descriptor = self.descriptor(selector).unwrap_or(0);
        let (kind, ring) = (descriptor >> 40 & 0x1f, (descriptor >> 45 & 3) as u16); // S and type
        let fits = match (self.op.opcode, self.op.reg()) {
            (0x0f00, 4) => kind & 0x18 == 0x10 || kind & 0x1a == 0x1a, // data, or code that may be read
            (0x0f00, _) => kind & 0x1a == 0x12,                        // data that may be written
            _ => kind >= 0x10 || matches!(kind, 2 | 9 | 0xb),
        };
        let found = fits && (kind & 0x1c == 0x1c || ring >= self.ring().max(selector & 3));
        frame.rflags = frame.rflags & !FLAG_ZF | if found { FLAG_ZF } else { 0 };
        if found && self.op.opcode == 0x0f02 {
            set_register(frame, self.op.register(), self.op.size, descriptor >> 32 & 0xf0_ff00);
        }
        Ok(Kind::Inspect)
    }

    /// Moves from and to control registers.
    fn control_register(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        self.privileged(Kind::Control)?;
        let (number, value) = (usize::from(self.op.register()), *register(frame, self.op.other()));
        let long_mode = self.msrs[EFER] & EFER_LME != 0 && self.cr[4] & CR4_PAE != 0;
        match (number, self.op.opcode) {
            (0 | 2..=4, 0x0f20) => *register(frame, self.op.other()) = self.cr[number],
            (8, 0x0f20) => *register(frame, self.op.other()) = u64::from(*self.devices.lapic.priority() >> 4),
            (8, _) if value < 16 => *self.devices.lapic.priority() = (value << 4) as u32,
            // Real mode, and paging without long mode.
            (0, _) if value & CR0_PE == 0 || value & CR0_PG != 0 && !long_mode => return Ok(self.unknown()),
            (4, _) if value & !CR4_ALLOWED != 0 || value & CR4_PAE == 0 && self.msrs[EFER] & EFER_LMA != 0 => {
                return Err(PROTECTION);
            }
            (0 | 2..=4, _) => {
                self.cr[number] = value;
                let long = self.cr[0] & CR0_PG != 0;
                self.msrs[EFER] = self.msrs[EFER] & !EFER_LMA | if long { EFER_LMA } else { 0 };
                self.forget();
            }
            (8, _) => return Err(PROTECTION),
            _ => return Err(UNDEFINED),
        }
        Ok(Kind::Control)
    }

    /// RDMSR and WRMSR.
    fn model_specific(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        self.privileged(Kind::Msr)?;
        let number = *register(frame, RCX) as u32;
        let place = MSRS.iter().position(|msr| *msr == number).ok_or(PROTECTION)?;
        if self.op.opcode == 0x0f32 {
            set_register(frame, RAX, 4, self.msrs[place]);
            set_register(frame, RDX, 4, self.msrs[place] >> 32);
            return Ok(Kind::Msr);
        }
        let mut value = *register(frame, RDX) << 32 | *register(frame, RAX) & 0xffff_ffff;
        if place == EFER {
            value = value & !EFER_LMA | self.msrs[EFER] & EFER_LMA;
            self.forget();
        }
        if place == EFER && value & !EFER_ALLOWED != 0 || place == LSTAR && !is_canonical(value) {
            return Err(PROTECTION);
        }
        self.msrs[place] = value;
        Ok(Kind::Msr)
    }

    /// SYSRET to 64-bit code.
    fn system_return(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        self.privileged(Kind::Sysret)?;
        if self.msrs[EFER] & EFER_SCE == 0 || !self.long || self.op.size != 8 {
            return Err(UNDEFINED);
        }
        let base = (self.msrs[STAR] >> 48) as u16 | 3;
        self.enter_code(frame, base.wrapping_add(16), true);
        self.selectors[SS] = base.wrapping_add(8);
        frame.rip = *register(frame, RCX);
        let flags = *register(frame, R11);
        self.set_flags(frame, flags);
        Ok(Kind::Sysret)
    }

    /// CPUID: the machine's, without what the monitor does not virtualize.
    fn identify(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        let (leaf, subleaf) = (*register(frame, RAX) as u32, *register(frame, RCX) as u32);
        let answer = cpuid(leaf, subleaf);
        let row = HIDDEN.iter().find(|(first, last, _)| (*first..=*last).contains(&leaf));
        let shown = row.map_or(&[!0; 4], |row| &row.2);
        set_register(frame, RAX, 4, u64::from(answer.eax & shown[0]));
        set_register(frame, RCX, 4, u64::from(answer.ecx & shown[1]));
        set_register(frame, RDX, 4, u64::from(answer.edx & shown[2]));
        set_register(frame, RBX, 4, u64::from(answer.ebx & shown[3]));
        Ok(Kind::Cpuid)
    }

    /// An access to memory that is not RAM, or lies in the monitor's window: moves only, which is what drivers use.
    ///
    /// # Errors
    /// #PF, when the tables do not allow it.
    pub fn access(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        let (at, number) = (self.op.offset(frame, self.long), self.op.register());
        let size = if self.op.opcode == 0x0fb7 { 2 } else { self.wide_or_byte() };
        let bytes = size.into();
        match self.op.opcode {
            // Without REX the numbers 4 to 7 are second bytes.
            0x88 | 0x8a if self.op.rex == 0 && self.op.reg() > 3 => return Ok(self.unknown()),
            0x88 | 0x89 => self.write(at, bytes, *register(frame, number), self.user)?,
            0xc6 | 0xc7 => self.write(at, bytes, self.op.immediate, self.user)?,
            0x8a | 0x8b => set_register(frame, number, size, self.read(at, bytes, self.user)?),
            0x0fb6 | 0x0fb7 => set_register(frame, number, self.op.size, self.read(at, bytes, self.user)?),
            _ => return Ok(self.unknown()),
        }
        frame.rip = frame.rip.wrapping_add(self.op.length);
        Ok(Kind::Device)
    }
}
