//! Emulation: what an instruction that trapped does to the virtual machine instead of the real one.
//!
//! Ring 0 of a guest gets what the manual says; ring 3 of a guest gets the exception that it would get on a machine of its own.
//! What is patched and not here ends the guest: far calls and returns, pushes and pops of segment registers. Debug registers read as
//! zero and forget. Left out too: a single-step trap behind an emulated instruction.
//! Sources: Intel SDM vol. 2 (each instruction), vol. 3A §2.5, §5.9 (privileged instructions), vol. 4 table 2-2 (MSRs).

use guest::cpu;
use guest::interrupt::Frame;

use crate::decode::{Instruction, R11, RAX, RBX, RCX, RDI, RDX, RSI, register, set_register};
use crate::report::Kind;
use crate::vm::*;

/// Elements of a string that one trap does; the instruction traps again for the next ones.
const STRING_ELEMENTS: u32 = 256;
/// CR4: what a guest may set. PAE must be; TSD and PGE are kept without effect; the rest concerns what CPUID does not offer.
const CR4_ALLOWED: u64 = 0x6fc;
const CR4_PAE: u64 = 1 << 5;
const FLAG_ZF: u64 = 1 << 6;
const FLAG_DF: u64 = 1 << 10;
/// Leaves of CPUID, from and to, and what of EAX, EBX, ECX and EDX is shown. Hidden are MONITOR, VMX, FMA, PCID, x2APIC, the timer's TSC
/// deadline, XSAVE, OSXSAVE, AVX, F16C; all but the fast string instructions; the sizes of AVX' registers; what KVM offers; SVM, pages
/// of 1 GiB, RDTSCP.
static HIDDEN: [(u32, u32, [u32; 4]); 5] = [
    (1, 1, [!0, !0, !(1 << 3 | 1 << 5 | 1 << 12 | 1 << 17 | 1 << 21 | 1 << 24 | 0xf << 26), !0]),
    (7, 7, [!0, 1 << 9, 0, 0]),
    (0xd, 0xd, [0; 4]),
    (0x4000_0000, 0x4000_ffff, [0; 4]),
    (0x8000_0001, 0x8000_0001, [!0, !0, !(1 << 2), !(1 << 26 | 1 << 27)]),
];
const MSR_FS_BASE: u32 = 0xc000_0100;
const MSR_GS_BASE: u32 = 0xc000_0101;

impl Vm {
    /// Emulates `i`, which raised `real` in the processor. Says what it was.
    ///
    /// # Errors
    /// The guest is to get this exception instead.
    pub fn emulate(&mut self, frame: &mut Frame, i: &Instruction, real: Fault) -> Result<Kind, Fault> {
        let after = frame.rip.wrapping_add(i.length);
        let kind = match i.opcode {
            0xe4..=0xe7 | 0xec..=0xef => self.port(frame, i),
            0x6c..=0x6f => return self.port_string(frame, i),
            0xfa | 0xfb => self.interrupt_flag(i.opcode == 0xfb),
            0xf4 => self.halt(),
            0x9c => self.push(frame, i.size, self.flags(frame)).map(|()| Kind::Pushf),
            0x9d => self.pop_flags(frame, i.size),
            0x8c | 0x8e => self.segment_register(frame, i),
            0xcc => return self.software_interrupt(frame, 3, after),
            0xcd => return self.software_interrupt(frame, i.immediate as u8, after),
            0xcf => return self.interrupt_return(frame, i.size),
            0xea => return self.far_jump(frame, i),
            0xff if matches!(i.reg(), 2 | 4) => return self.indirect(frame, i),
            0x0f00 => self.system_selector(frame, i),
            0x0f01 => self.system_table(frame, i),
            0x0f02 | 0x0f03 => self.inspect(frame, i),
            0x0f06 => self.privileged(Kind::Control).inspect(|_| self.cr[0] &= !CR0_TS),
            0x0f07 => return self.system_return(frame, i),
            0x0f08 | 0x0f09 => self.privileged(Kind::Cache),
            0x0f20 | 0x0f22 => self.control_register(frame, i),
            0x0f21 => self.privileged(Kind::Control).inspect(|_| *register(frame, i.other()) = 0),
            0x0f23 => self.privileged(Kind::Control),
            0x0f30 => self.write_msr(frame),
            0x0f32 => self.read_msr(frame),
            0x0fa2 => self.identify(frame),
            _ if self.is_patched => {
                self.end("ended by the monitor: a sensitive instruction that it does not emulate");
                return Ok(Kind::Far);
            }
            _ => Err(real),
        }?;
        frame.rip = if self.long { after } else { after & 0xffff_ffff };
        Ok(kind)
    }

    /// Nothing else than being in ring 0.
    fn privileged(&self, kind: Kind) -> Result<Kind, Fault> {
        if self.user { Err(PROTECTION) } else { Ok(kind) }
    }

    /// Whether IOPL lets this ring use ports, CLI and STI.
    fn has_ports(&self) -> Result<(), Fault> {
        if self.user && self.flags & FLAG_IOPL != FLAG_IOPL { Err(PROTECTION) } else { Ok(()) }
    }

    fn interrupt_flag(&mut self, on: bool) -> Result<Kind, Fault> {
        self.has_ports()?;
        self.shadowed = on && !self.accepts_interrupts();
        self.flags = if on { self.flags | FLAG_IF } else { self.flags & !FLAG_IF };
        Ok(if on { Kind::Sti } else { Kind::Cli })
    }

    fn halt(&mut self) -> Result<Kind, Fault> {
        self.privileged(Kind::Hlt)?;
        if self.accepts_interrupts() {
            self.state = State::Halted;
        } else {
            self.end("halted for good");
        }
        Ok(Kind::Hlt)
    }

    fn push(&mut self, frame: &mut Frame, size: u8, value: u64) -> Result<(), Fault> {
        let top = frame.rsp.wrapping_sub(size.into());
        self.write(top, size.into(), value, self.user)?;
        frame.rsp = top;
        Ok(())
    }

    /// The word of `size` bytes that lies `index` words above the stack pointer.
    fn on_stack(&mut self, frame: &Frame, size: u8, index: u64) -> Result<u64, Fault> {
        self.read(frame.rsp.wrapping_add(u64::from(size) * index), size.into(), self.user)
    }

    /// The flags as POPF and IRET load them: ring 3 may change neither IOPL nor, unless IOPL is 3, IF.
    fn load_flags(&mut self, frame: &mut Frame, flags: u64, from_user: bool) {
        let kept =
            if from_user { FLAG_IOPL | if self.flags & FLAG_IOPL == FLAG_IOPL { 0 } else { FLAG_IF } } else { 0 };
        self.set_flags(frame, flags & !kept | self.flags & kept);
    }

    fn pop_flags(&mut self, frame: &mut Frame, size: u8) -> Result<Kind, Fault> {
        let kept = if size == 2 { self.flags(frame) & !0xffff } else { 0 };
        let flags = self.on_stack(frame, size, 0)? | kept;
        self.load_flags(frame, flags, self.user);
        frame.rsp = frame.rsp.wrapping_add(size.into());
        Ok(Kind::Popf)
    }

    /// IN and OUT.
    fn port(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        self.has_ports()?;
        let port = if i.opcode < 0xe8 { i.immediate as u8 as u16 } else { *register(frame, RDX) as u16 };
        let size = if i.opcode & 1 == 0 { 1 } else { i.size.min(4) };
        if i.opcode & 2 != 0 {
            self.write_port(port, size, *register(frame, RAX));
            return Ok(Kind::Out);
        }
        let value = self.read_port(port, size);
        set_register(frame, RAX, size, value);
        Ok(Kind::In)
    }

    /// INS and OUTS, with and without REP: RIP stays where elements are left.
    fn port_string(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        self.has_ports()?;
        let (port, out) = (*register(frame, RDX) as u16, i.opcode & 2 != 0);
        let size = if i.opcode & 1 == 0 { 1 } else { i.size.min(4) };
        let pointer = if out { RSI } else { RDI };
        let mut left = if i.repeat == 0 { 1 } else { *register(frame, RCX) };
        for _ in 0..left.min(STRING_ELEMENTS.into()) {
            let at = *register(frame, pointer);
            if out {
                let value = self.read(at, size.into(), self.user)?;
                self.write_port(port, size, value);
            } else {
                let value = self.read_port(port, size);
                self.write(at, size.into(), value, self.user)?;
            }
            let step = u64::from(size);
            *register(frame, pointer) =
                at.wrapping_add(if frame.rflags & FLAG_DF == 0 { step } else { step.wrapping_neg() });
            left -= 1;
            if i.repeat != 0 {
                *register(frame, RCX) = left;
            }
        }
        frame.rip = frame.rip.wrapping_add(if left == 0 { i.length } else { 0 });
        Ok(Kind::PortString)
    }

    /// Moves of segment registers.
    fn segment_register(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        let number = usize::from(i.reg());
        if number > GS || i.opcode == 0x8e && number == CS {
            return Err(UNDEFINED);
        }
        if i.opcode == 0x8c {
            self.store_16(frame, i, self.selectors[number].into())?;
        } else {
            let selector = self.operand_16(frame, i)?;
            self.load_segment(number, selector)?;
            self.shadowed = number == SS;
        }
        Ok(Kind::Segment)
    }

    /// The address of the memory operand.
    fn address(&self, frame: &mut Frame, i: &Instruction) -> u64 {
        let base = match i.segment {
            0x64 => self.msrs[FS_BASE],
            0x65 => self.msrs[GS_BASE],
            _ => 0,
        };
        i.offset(frame, self.long).wrapping_add(base)
    }

    /// The operand of 16 bits that ModRM names.
    fn operand_16(&mut self, frame: &mut Frame, i: &Instruction) -> Result<u16, Fault> {
        let at = self.address(frame, i);
        let value = if i.names_memory() { self.read(at, 2, self.user)? } else { *register(frame, i.other()) };
        Ok(value as u16)
    }

    /// Stores a value of 16 bits in memory, or of the operand's size in a register.
    fn store_16(&mut self, frame: &mut Frame, i: &Instruction, value: u64) -> Result<(), Fault> {
        if i.names_memory() {
            let at = self.address(frame, i);
            return self.write(at, 2, value, self.user);
        }
        set_register(frame, i.other(), i.size, value);
        Ok(())
    }

    /// IRET (Intel SDM vol. 2): in 64-bit code it always loads five words.
    fn interrupt_return(&mut self, frame: &mut Frame, size: u8) -> Result<Kind, Fault> {
        let (rip, selector) = (self.on_stack(frame, size, 0)?, self.on_stack(frame, size, 1)? as u16);
        let (flags, was_user) = (self.on_stack(frame, size, 2)?, self.user);
        if selector & 3 < self.ring() {
            return Err(protection(selector));
        }
        let (mut rsp, mut ss) = (frame.rsp.wrapping_add(u64::from(size) * 3), self.selectors[SS]);
        if self.long || selector & 3 > self.ring() {
            (rsp, ss) = (self.on_stack(frame, size, 3)?, self.on_stack(frame, size, 4)? as u16);
        }
        self.jump(frame, selector, rip)?;
        self.load_segment(SS, ss).inspect_err(|_| self.user = was_user)?;
        self.load_flags(frame, flags, was_user);
        frame.rsp = rsp;
        Ok(Kind::Iret)
    }

    /// A far jump within a ring, to a segment and an offset that the instruction holds.
    fn far_jump(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        let selector = (i.immediate >> (8 * i.size)) as u16;
        if selector & 3 != self.ring() {
            return Err(protection(selector));
        }
        self.jump(frame, selector, i.immediate & 0xffff_ffff)?;
        Ok(Kind::Far)
    }

    /// Indirect calls and jumps: they trap for the code that they lead to to be looked at.
    fn indirect(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        let at = self.address(frame, i);
        let target =
            if i.names_memory() { self.read(at, i.size.into(), self.user)? } else { *register(frame, i.other()) };
        if !is_canonical(target) {
            return Err(PROTECTION);
        }
        if i.reg() == 2 {
            self.push(frame, i.size, frame.rip.wrapping_add(i.length))?;
        }
        frame.rip = target;
        self.scan_from(target);
        Ok(Kind::Indirect)
    }

    /// SLDT, STR, LLDT, LTR, VERR, VERW. There is no local table.
    fn system_selector(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        match i.reg() {
            0 => self.store_16(frame, i, 0)?,
            1 => self.store_16(frame, i, self.task.into())?,
            2 | 3 => {
                self.privileged(Kind::Table)?;
                let selector = self.operand_16(frame, i)?;
                if i.reg() == 2 {
                    return if selector & !3 == 0 { Ok(Kind::Table) } else { Err(protection(selector)) };
                }
                let descriptor = self.descriptor(selector)?;
                let high = self.read(self.tables[GDT].0.wrapping_add(u64::from(selector & !7) + 8), 4, false)?;
                if descriptor >> 40 & 0x9f != 0x89 {
                    return Err(protection(selector)); // not an available 64-bit TSS that is present
                }
                (self.task, self.tss) = (selector, base(descriptor) | high << 32);
            }
            4 | 5 => return self.inspect(frame, i),
            _ => return Err(UNDEFINED),
        }
        Ok(Kind::Table)
    }

    /// SGDT, SIDT, LGDT, LIDT, SMSW, INVLPG, SWAPGS.
    fn system_table(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        let bytes = if self.long { 8 } else { 4 };
        let at = self.address(frame, i);
        match (i.reg(), i.names_memory()) {
            (4, _) => self.store_16(frame, i, self.cr[0])?,
            (0 | 1, true) => {
                let (base, limit) = self.tables[usize::from(i.reg())];
                self.write(at, 2, limit, self.user)?;
                self.write(at.wrapping_add(2), bytes, base, self.user)?;
            }
            (2 | 3, true) => {
                self.privileged(Kind::Table)?;
                let (limit, base) = (self.read(at, 2, false)?, self.read(at.wrapping_add(2), bytes, false)?);
                self.tables[usize::from(i.reg() - 2)] = (base, limit);
            }
            (7, true) => {
                self.privileged(Kind::Table)?;
                self.forget_page(at);
                return Ok(Kind::Invlpg);
            }
            (7, false) if i.modrm == 0xf8 && self.long => {
                self.privileged(Kind::Table)?;
                self.msrs.swap(GS_BASE, KERNEL_GS_BASE);
                self.load_bases();
                return Ok(Kind::Swapgs);
            }
            _ => return Err(UNDEFINED),
        }
        Ok(Kind::Table)
    }

    /// LAR, LSL, VERR, VERW: look into the guest's table, and tell by ZF whether there is something.
    fn inspect(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        let selector = self.operand_16(frame, i)?;
        let descriptor = self.descriptor(selector).unwrap_or(0);
        let (kind, ring) = (descriptor >> 40 & 0x1f, (descriptor >> 45 & 3) as u16); // S and type
        let (code, second) = (kind & 8 != 0, kind & 2 != 0); // the second bit: code may be read, data written
        let fits = match (i.opcode, i.reg()) {
            (0x0f00, 4) => kind >= 0x10 && (!code || second),
            (0x0f00, _) => kind >= 0x10 && !code && second,
            _ => kind >= 0x10 || matches!(kind, 2 | 9 | 0xb),
        };
        let found = fits && (kind & 0x1c == 0x1c || ring >= self.ring().max(selector & 3));
        frame.rflags = frame.rflags & !FLAG_ZF | if found { FLAG_ZF } else { 0 };
        let limit = descriptor & 0xffff | descriptor >> 32 & 0xf_0000;
        match i.opcode {
            0x0f02 if found => set_register(frame, i.register(), i.size, descriptor >> 32 & 0xf0_ff00),
            0x0f03 if found && descriptor >> 55 & 1 != 0 => {
                set_register(frame, i.register(), i.size, limit << 12 | 0xfff)
            }
            0x0f03 if found => set_register(frame, i.register(), i.size, limit),
            _ => {}
        }
        Ok(Kind::Inspect)
    }

    /// Moves from and to control registers.
    fn control_register(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        self.privileged(Kind::Control)?;
        let number = usize::from(i.register());
        if number > 4 && number != 8 || number == 1 {
            return Err(UNDEFINED);
        }
        if i.opcode == 0x0f20 {
            let value = if number == 8 { self.devices.lapic.priority() >> 4 } else { self.cr[number] };
            *register(frame, i.other()) = value;
            return Ok(Kind::Control);
        }
        let value = *register(frame, i.other());
        let long_mode = self.msrs[EFER] & EFER_LME != 0 && self.cr[4] & CR4_PAE != 0;
        match number {
            0 if value & CR0_PE == 0 || value & CR0_PG != 0 && !long_mode || value >> 32 != 0 => {
                self.end("ended by the monitor: real mode, and paging without long mode, are not supported");
            }
            0 => self.msrs[EFER] = self.msrs[EFER] & !EFER_LMA | if value & CR0_PG != 0 { EFER_LMA } else { 0 },
            4 if value & !CR4_ALLOWED != 0 || value & CR4_PAE == 0 && self.msrs[EFER] & EFER_LMA != 0 => {
                return Err(PROTECTION);
            }
            8 if value > 15 => return Err(PROTECTION),
            8 => {
                self.devices.lapic.set_priority(value << 4);
                return Ok(Kind::Control);
            }
            _ => {}
        }
        self.cr[number] = value;
        if number != 2 {
            self.forget();
        }
        Ok(Kind::Control)
    }

    fn read_msr(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        self.privileged(Kind::Msr)?;
        let value = self.msrs[msr(*register(frame, RCX) as u32).ok_or(PROTECTION)?];
        set_register(frame, RAX, 4, value);
        set_register(frame, RDX, 4, value >> 32);
        Ok(Kind::Msr)
    }

    fn write_msr(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        self.privileged(Kind::Msr)?;
        let place = msr(*register(frame, RCX) as u32).ok_or(PROTECTION)?;
        let mut value = *register(frame, RDX) << 32 | *register(frame, RAX) & 0xffff_ffff;
        let fits = match place {
            EFER => value & !(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE) == 0,
            LSTAR | CSTAR | FS_BASE | GS_BASE | KERNEL_GS_BASE => is_canonical(value),
            APIC_BASE => value == self.msrs[APIC_BASE],
            _ => true,
        };
        if !fits {
            return Err(PROTECTION);
        }
        if place == EFER {
            value = value & !EFER_LMA | self.msrs[EFER] & EFER_LMA;
        }
        self.msrs[place] = value;
        match place {
            EFER => self.forget(),
            _ => self.load_bases(),
        }
        Ok(Kind::Msr)
    }

    /// Gives the processor the guest's bases of FS and GS.
    pub fn load_bases(&self) {
        // SAFETY: canonical addresses; ring 0 does not use these segments.
        unsafe {
            cpu::write_msr(MSR_FS_BASE, self.msrs[FS_BASE]);
            cpu::write_msr(MSR_GS_BASE, self.msrs[GS_BASE]);
        }
    }

    /// SYSRET.
    fn system_return(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        self.privileged(Kind::Sysret)?;
        if self.msrs[EFER] & EFER_SCE == 0 || !self.long {
            return Err(UNDEFINED);
        }
        let (base, long) = ((self.msrs[STAR] >> 48) as u16 | 3, i.size == 8);
        self.enter_code(frame, base.wrapping_add(if long { 16 } else { 0 }), long);
        self.selectors[SS] = base.wrapping_add(8);
        frame.rip = if long { *register(frame, RCX) } else { *register(frame, RCX) & 0xffff_ffff };
        let flags = *register(frame, R11);
        self.set_flags(frame, flags);
        Ok(Kind::Sysret)
    }

    /// CPUID: the machine's, without what the monitor does not virtualize.
    fn identify(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        let (leaf, subleaf) = (*register(frame, RAX) as u32, *register(frame, RCX) as u32);
        let answer = cpu::cpuid(leaf, subleaf);
        let shown =
            HIDDEN.iter().find(|(first, last, _)| (*first..=*last).contains(&leaf)).map_or(&[!0; 4], |row| &row.2);
        set_register(frame, RAX, 4, u64::from(answer.eax & shown[0]));
        set_register(frame, RBX, 4, u64::from(answer.ebx & shown[1]));
        set_register(frame, RCX, 4, u64::from(answer.ecx & shown[2]));
        set_register(frame, RDX, 4, u64::from(answer.edx & shown[3]));
        Ok(Kind::Cpuid)
    }

    /// An access to memory that is not RAM, or lies in the monitor's window: moves only, which is what drivers use.
    ///
    /// # Errors
    /// #PF, when the tables do not allow it.
    pub fn access(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        let at = self.address(frame, i);
        let (user, size, number) = (self.user, u64::from(i.size), i.register());
        let (byte_number, shift) = i.byte_register();
        match i.opcode {
            0x88 => self.write(at, 1, *register(frame, byte_number) >> shift, user)?,
            0x89 => self.write(at, size, *register(frame, number), user)?,
            0xc6 => self.write(at, 1, i.immediate, user)?,
            0xc7 => self.write(at, size, i.immediate, user)?,
            0x8a => {
                let value = self.read(at, 1, user)?;
                let register = register(frame, byte_number);
                *register = *register & !(0xff << shift) | value << shift;
            }
            0x8b => set_register(frame, number, i.size, self.read(at, size, user)?),
            0x0fb6 | 0x0fb7 => set_register(frame, number, i.size, self.read(at, u64::from(i.opcode & 1) + 1, user)?),
            _ => self.end("ended by the monitor: it does not emulate this instruction where no memory is"),
        }
        frame.rip = frame.rip.wrapping_add(i.length);
        Ok(Kind::Device)
    }
}
