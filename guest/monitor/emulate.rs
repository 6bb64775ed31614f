//! Emulation: what an instruction that trapped does to the virtual machine instead of the real one.
//!
//! Ring 0 of a guest gets what the manual says; ring 3 of a guest gets the exception that it would get on a machine of its own.
//! Left out: debug registers (they read as after reset), a single-step trap behind an emulated instruction, task switches.
//! Sources: Intel SDM vol. 2 (each instruction), vol. 3A §2.5, §5.9 (privileged instructions), vol. 4 table 2-2 (MSRs).

use guest::cpu;
use guest::interrupt::Frame;

use crate::decode::{Instruction, RAX, RBX, RCX, RDI, RDX, RSI, register, set_register};
use crate::fault::Fault;
use crate::machine::{self, LAPIC};
use crate::report::Kind;
use crate::vm::{
    CR0_PE, CR0_PG, CR0_TS, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE, FLAG_IF, FLAG_RF, FS, GS, SS, State, Table, Vm,
};

/// Elements of a string that one trap does; the instruction traps again for the next ones.
const STRING_ELEMENTS: u32 = 256;
/// CR4: what a guest may set. PAE must be; TSD and PGE are kept without effect; the rest concerns what CPUID does not offer.
const CR4_ALLOWED: u64 = 0x6fc;
const CR4_PAE: u64 = 1 << 5;
const ZERO_FLAG: u64 = 1 << 6;
const APIC_BASE: u32 = 0x1b;
const PAT: u32 = 0x277;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// `APIC_BASE`: on, and this is the first processor.
const APIC_STATE: u64 = 1 << 11 | 1 << 8;

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
            0x9c => self.push(frame, i.size, self.flags(frame) & !FLAG_RF).map(|()| Kind::Pushf),
            0x9d => self.pop_flags(frame, i.size),
            0x8c | 0x8e | 0x06 | 0x07 | 0x0e | 0x16 | 0x17 | 0x1e | 0x1f | 0x0fa0 | 0x0fa1 | 0x0fa8 | 0x0fa9 => {
                self.segment_register(frame, i)
            }
            0xcc => return self.software_interrupt(frame, 3, after),
            0xcd => return self.software_interrupt(frame, i.immediate as u8, after),
            0xcf => return self.interrupt_return(frame, i.size),
            0xff if matches!(i.reg(), 2 | 4) => return self.indirect(frame, i),
            0xca | 0xcb | 0xea | 0xff => return self.far(frame, i),
            0x0f00 => self.system_selector(frame, i),
            0x0f01 => self.system_table(frame, i),
            0x0f02 | 0x0f03 => self.inspect(frame, i),
            0x0f06 => self.privileged(Kind::Control).inspect(|_| self.cr0 &= !CR0_TS),
            0x0f08 | 0x0f09 => self.privileged(Kind::Cache),
            0x0f07 => return self.system_return(frame, i),
            0x0f20 => self.read_control(frame, i),
            0x0f22 => self.write_control(frame, i),
            0x0f21 => self.privileged(Kind::Debug).inspect(|_| set_register(frame, i.other(), 8, 0)),
            0x0f23 => self.privileged(Kind::Debug),
            0x0f30 => self.write_msr(frame),
            0x0f32 => self.read_msr(frame),
            0x0fa2 => self.identify(frame),
            _ => Err(real),
        }?;
        frame.rip = if self.long { after } else { after & 0xffff_ffff };
        Ok(kind)
    }

    /// Nothing else than being in ring 0.
    fn privileged(&self, kind: Kind) -> Result<Kind, Fault> {
        if self.user { Err(Fault::protection(0)) } else { Ok(kind) }
    }

    /// Whether IOPL lets this ring use ports, CLI and STI.
    fn has_ports(&self) -> Result<(), Fault> {
        if self.user && self.flags >> 12 & 3 != 3 { Err(Fault::protection(0)) } else { Ok(()) }
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

    /// POPF: ring 0 may change all flags; ring 3 neither IOPL nor, unless IOPL is 3, IF.
    fn pop_flags(&mut self, frame: &mut Frame, size: u8) -> Result<Kind, Fault> {
        let mut flags = self.on_stack(frame, size, 0)?;
        if size == 2 {
            flags |= self.flags(frame) & !0xffff;
        }
        let kept = match (self.user, self.has_ports().is_ok()) {
            (false, _) => 0,
            (true, true) => 3 << 12,
            (true, false) => 3 << 12 | FLAG_IF,
        };
        self.set_flags(frame, flags & !kept & !FLAG_RF | self.flags & kept);
        frame.rsp = frame.rsp.wrapping_add(size.into());
        Ok(Kind::Popf)
    }

    /// IN and OUT.
    fn port(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        self.has_ports()?;
        let port = if i.opcode < 0xe8 { i.immediate as u8 as u16 } else { *register(frame, RDX) as u16 };
        let size = if i.opcode & 1 == 0 { 1 } else { i.size.min(4) };
        if i.opcode & 2 == 0 {
            let value = self.read_port(port, size);
            set_register(frame, RAX, size, value);
            Ok(Kind::In)
        } else {
            self.write_port(port, size, *register(frame, RAX));
            Ok(Kind::Out)
        }
    }

    /// INS and OUTS, with and without REP: RIP stays where elements are left.
    fn port_string(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        self.has_ports()?;
        let port = *register(frame, RDX) as u16;
        let size = if i.opcode & 1 == 0 { 1 } else { i.size.min(4) };
        let step = if frame.rflags & 1 << 10 != 0 { u64::from(size).wrapping_neg() } else { size.into() };
        let (pointer, out) = if i.opcode & 2 == 0 { (RDI, false) } else { (RSI, true) };
        for _ in 0..STRING_ELEMENTS {
            if i.repeat != 0 && *register(frame, RCX) == 0 {
                break;
            }
            let at = *register(frame, pointer);
            if out {
                let value = self.read(at, size.into(), self.user)?;
                self.write_port(port, size, value);
            } else {
                let value = self.read_port(port, size);
                self.write(at, size.into(), value, self.user)?;
            }
            *register(frame, pointer) = at.wrapping_add(step);
            if i.repeat == 0 {
                break;
            }
            *register(frame, RCX) -= 1;
        }
        if i.repeat == 0 || *register(frame, RCX) == 0 {
            frame.rip = frame.rip.wrapping_add(i.length);
        }
        Ok(Kind::PortString)
    }

    /// Moves, pushes and pops of segment registers.
    fn segment_register(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        let number = match i.opcode {
            0x8c | 0x8e => usize::from(i.reg()),
            0x06..=0x1f => usize::from(i.opcode as u8 >> 3 & 3),
            opcode => FS + usize::from(opcode as u8 >> 3 & 1),
        };
        if number > GS {
            return Err(Fault::undefined());
        }
        match i.opcode {
            0x8c => {
                let value = self.selectors[number].into();
                if i.names_memory() {
                    let at = self.address(frame, i);
                    self.write(at, 2, value, self.user)?;
                } else {
                    set_register(frame, i.other(), i.size, value);
                }
            }
            0x8e if number == 1 => return Err(Fault::undefined()), // CS
            0x8e => {
                let selector = self.operand_16(frame, i)?;
                self.load_segment(number, selector)?;
            }
            0x06 | 0x0e | 0x16 | 0x1e | 0x0fa0 | 0x0fa8 => self.push(frame, i.size, self.selectors[number].into())?,
            _ => {
                let selector = self.on_stack(frame, i.size, 0)? as u16;
                self.load_segment(number, selector)?;
                frame.rsp = frame.rsp.wrapping_add(i.size.into());
            }
        }
        self.shadowed = number == SS && i.opcode != 0x8c;
        Ok(Kind::Segment)
    }

    /// The address of the memory operand.
    pub fn address(&self, frame: &mut Frame, i: &Instruction) -> u64 {
        let base = match i.segment {
            0x64 => self.fs_base,
            0x65 => self.gs_base,
            _ => 0,
        };
        i.offset(frame, self.long).wrapping_add(base)
    }

    /// The operand of 16 bits that ModRM names.
    fn operand_16(&mut self, frame: &mut Frame, i: &Instruction) -> Result<u16, Fault> {
        if i.names_memory() {
            let at = self.address(frame, i);
            return self.read(at, 2, self.user).map(|value| value as u16);
        }
        Ok(*register(frame, i.other()) as u16)
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
        let flags = self.on_stack(frame, size, 2)?;
        let outwards = u16::from(self.ring()) < selector & 3;
        if u16::from(self.ring()) > selector & 3 {
            return Err(Fault::protection(selector));
        }
        let (mut rsp, mut ss) = (frame.rsp.wrapping_add(u64::from(size) * 3), self.selectors[SS]);
        if self.long || outwards {
            rsp = self.on_stack(frame, size, 3)?;
            ss = self.on_stack(frame, size, 4)? as u16;
        }
        let was_user = self.user;
        self.jump(frame, selector, rip)?;
        if let Err(fault) = self.load_segment(SS, ss) {
            self.user = was_user; // the fault belongs to who returned
            return Err(fault);
        }
        let kept = if was_user { 3 << 12 | FLAG_IF } else { 0 };
        self.set_flags(frame, flags & !kept | self.flags & kept);
        frame.rsp = rsp;
        Ok(Kind::Iret)
    }

    /// Indirect calls and jumps: they trap for the code that they lead to to be looked at.
    fn indirect(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        let target = if i.names_memory() {
            let at = self.address(frame, i);
            self.read(at, i.size.into(), self.user)?
        } else {
            *register(frame, i.other())
        };
        if (target << 16) as i64 >> 16 != target as i64 {
            return Err(Fault::protection(0));
        }
        if i.reg() == 2 {
            self.push(frame, i.size, frame.rip.wrapping_add(i.length))?;
        }
        frame.rip = target;
        self.scan_from(target);
        Ok(Kind::Indirect)
    }

    /// Far returns, jumps and calls within a ring, or out by a return.
    fn far(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        let (rip, selector) = match i.opcode {
            0xca | 0xcb => (self.on_stack(frame, i.size, 0)?, self.on_stack(frame, i.size, 1)? as u16),
            0xea => (i.immediate & 0xffff_ffff, (i.immediate >> 32) as u16),
            _ if i.names_memory() => {
                let at = self.address(frame, i);
                let offset = self.read(at, i.size.into(), self.user)?;
                (offset, self.read(at.wrapping_add(i.size.into()), 2, self.user)? as u16)
            }
            _ => return Err(Fault::undefined()),
        };
        if u16::from(self.ring()) != selector & 3 {
            return Err(Fault::protection(selector));
        }
        let (from, back) = (self.selectors[1], frame.rip.wrapping_add(i.length));
        self.jump(frame, selector, rip)?;
        match (i.opcode, i.reg()) {
            (0xca | 0xcb, _) => frame.rsp = frame.rsp.wrapping_add(u64::from(i.size) * 2 + i.immediate),
            (0xff, 3) => {
                self.push(frame, i.size, from.into())?;
                self.push(frame, i.size, back)?;
            }
            _ => {}
        }
        Ok(Kind::Far)
    }

    /// SLDT, STR, LLDT, LTR, VERR, VERW.
    fn system_selector(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        match i.reg() {
            0 => self.store_16(frame, i, self.local_table.into())?,
            1 => self.store_16(frame, i, self.task.into())?,
            2 => {
                self.privileged(Kind::Table)?;
                let selector = self.operand_16(frame, i)?;
                if selector & !3 != 0 {
                    return Err(Fault::protection(selector)); // there is no local table
                }
                self.local_table = selector;
            }
            3 => {
                self.privileged(Kind::Table)?;
                let selector = self.operand_16(frame, i)?;
                let descriptor = self.descriptor(selector)?;
                let high = self.read(self.gdt.base.wrapping_add(u64::from(selector & !7) + 8), 4, false)?;
                if descriptor >> 40 & 0x9f != 0x89 {
                    return Err(Fault::protection(selector)); // not an available 64-bit TSS that is present
                }
                self.task = selector;
                self.tss = descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000 | high << 32;
            }
            4 | 5 => return self.inspect(frame, i),
            _ => return Err(Fault::undefined()),
        }
        Ok(Kind::Table)
    }

    /// SGDT, SIDT, LGDT, LIDT, SMSW, LMSW, INVLPG, SWAPGS.
    fn system_table(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        let pointer = if self.long { 8 } else { 4 };
        match (i.reg(), i.names_memory()) {
            (4, _) => return self.store_16(frame, i, self.cr0 | CR0_PE).map(|()| Kind::Table),
            (0 | 1, true) => {
                let table = if i.reg() == 0 { self.gdt } else { self.idt };
                let at = self.address(frame, i);
                self.write(at, 2, table.limit, self.user)?;
                self.write(at.wrapping_add(2), pointer, table.base, self.user)?;
            }
            (2 | 3, true) => {
                self.privileged(Kind::Table)?;
                let at = self.address(frame, i);
                let limit = self.read(at, 2, false)?;
                let base = self.read(at.wrapping_add(2), pointer, false)?;
                *(if i.reg() == 2 { &mut self.gdt } else { &mut self.idt }) = Table { base, limit };
            }
            (6, _) => {
                self.privileged(Kind::Table)?; // the low four bits, and PE cannot be cleared
                self.cr0 = self.cr0 & !0xe | u64::from(self.operand_16(frame, i)?) & 0xf;
            }
            (7, true) => {
                self.privileged(Kind::Invlpg)?;
                let at = self.address(frame, i);
                self.forget_page(at);
                return Ok(Kind::Invlpg);
            }
            (7, false) if i.modrm == 0xf8 && self.long => {
                self.privileged(Kind::Swapgs)?;
                core::mem::swap(&mut self.gs_base, &mut self.kernel_gs_base);
                machine::write_msr(machine::MSR_GS_BASE, self.gs_base);
                return Ok(Kind::Swapgs);
            }
            _ => return Err(Fault::undefined()),
        }
        Ok(Kind::Table)
    }

    /// LAR, LSL, VERR, VERW: look into the guest's table, and tell by ZF whether there is something.
    fn inspect(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        let selector = self.operand_16(frame, i)?;
        let descriptor = self.descriptor(selector).unwrap_or(0);
        let kind = descriptor >> 40 & 0x1f; // S and type
        let ring = descriptor >> 45 & 3;
        let reached = kind & 0x1c == 0x1c || ring >= u64::from(self.ring()) && ring >= u64::from(selector & 3);
        let code = kind & 8 != 0;
        let found = match (i.opcode, i.reg()) {
            (0x0f00, 4) => kind & 0x10 != 0 && (!code || kind & 2 != 0),
            (0x0f00, _) => kind & 0x10 != 0 && !code && kind & 2 != 0,
            _ => kind & 0x10 != 0 || matches!(kind, 2 | 9 | 0xb),
        } && reached;
        frame.rflags = frame.rflags & !ZERO_FLAG | if found { ZERO_FLAG } else { 0 };
        if found && i.opcode == 0x0f02 {
            set_register(frame, i.register(), i.size, descriptor >> 32 & 0xf0_ff00);
        } else if found && i.opcode == 0x0f03 {
            let limit = descriptor & 0xffff | descriptor >> 32 & 0xf_0000;
            let limit = if descriptor >> 55 & 1 != 0 { limit << 12 | 0xfff } else { limit };
            set_register(frame, i.register(), i.size, limit);
        }
        Ok(Kind::Inspect)
    }

    fn read_control(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        self.privileged(Kind::Control)?;
        let value = match i.register() {
            0 => self.cr0,
            2 => self.cr2,
            3 => self.cr3,
            4 => self.cr4,
            8 => self.devices.lapic.priority() >> 4,
            _ => return Err(Fault::undefined()),
        };
        set_register(frame, i.other(), if self.long { 8 } else { 4 }, value);
        Ok(Kind::Control)
    }

    fn write_control(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        self.privileged(Kind::Control)?;
        let value = *register(frame, i.other());
        match i.register() {
            0 => {
                let paging = value & CR0_PG != 0;
                if paging && (value & CR0_PE == 0 || self.efer & EFER_LME == 0 || self.cr4 & CR4_PAE == 0)
                    || value >> 32 != 0
                {
                    self.end("ended by the monitor: paging without long mode is not supported");
                    return Err(Fault::protection(0));
                }
                if value & CR0_PE == 0 {
                    self.end("ended by the monitor: real mode is not supported");
                }
                self.cr0 = value;
                self.efer = self.efer & !EFER_LMA | if paging { EFER_LMA } else { 0 };
                self.forget();
            }
            2 => self.cr2 = value,
            3 => {
                self.cr3 = value;
                self.forget();
            }
            4 if value & !CR4_ALLOWED == 0 && (value & CR4_PAE != 0 || self.efer & EFER_LMA == 0) => {
                self.cr4 = value;
                self.forget();
            }
            8 if value < 16 => self.devices.lapic.set_priority(value << 4),
            4 | 8 => return Err(Fault::protection(0)),
            _ => return Err(Fault::undefined()),
        }
        Ok(Kind::Control)
    }

    fn read_msr(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        self.privileged(Kind::Msr)?;
        let value = match *register(frame, RCX) as u32 {
            machine::EFER => self.efer,
            machine::MSR_STAR => self.star,
            machine::MSR_LSTAR => self.lstar,
            machine::MSR_CSTAR => self.cstar,
            machine::MSR_SFMASK => self.sfmask,
            machine::MSR_FS_BASE => self.fs_base,
            machine::MSR_GS_BASE => self.gs_base,
            KERNEL_GS_BASE => self.kernel_gs_base,
            APIC_BASE => LAPIC | APIC_STATE,
            PAT => self.page_attributes,
            _ => return Err(Fault::protection(0)),
        };
        set_register(frame, RAX, 4, value);
        set_register(frame, RDX, 4, value >> 32);
        Ok(Kind::Msr)
    }

    fn write_msr(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        self.privileged(Kind::Msr)?;
        let number = *register(frame, RCX) as u32;
        let value = *register(frame, RDX) << 32 | *register(frame, RAX) & 0xffff_ffff;
        let canonical = (value << 16) as i64 >> 16 == value as i64;
        match number {
            machine::EFER if value & !(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE) == 0 => {
                self.efer = value & !EFER_LMA | self.efer & EFER_LMA;
                self.forget();
            }
            machine::MSR_STAR => self.star = value,
            machine::MSR_LSTAR if canonical => self.lstar = value,
            machine::MSR_CSTAR if canonical => self.cstar = value,
            machine::MSR_SFMASK => self.sfmask = value,
            machine::MSR_FS_BASE | machine::MSR_GS_BASE if canonical => {
                *(if number == machine::MSR_FS_BASE { &mut self.fs_base } else { &mut self.gs_base }) = value;
                machine::write_msr(number, value);
            }
            KERNEL_GS_BASE if canonical => self.kernel_gs_base = value,
            APIC_BASE if value == LAPIC | APIC_STATE => {}
            PAT => self.page_attributes = value,
            _ => return Err(Fault::protection(0)),
        }
        Ok(Kind::Msr)
    }

    /// CPUID: the machine's, without what the monitor does not virtualize. The registers of AVX are not switched.
    fn identify(&mut self, frame: &mut Frame) -> Result<Kind, Fault> {
        /// ECX of leaf 1: MONITOR, VMX, FMA, PCID, x2APIC, the timer's TSC deadline, XSAVE, OSXSAVE, AVX, F16C.
        const HIDDEN: u32 = 1 << 3 | 1 << 5 | 1 << 12 | 1 << 17 | 1 << 21 | 1 << 24 | 0xf << 26;
        /// EBX of leaf 7: fast string instructions.
        const SHOWN: u32 = 1 << 9;
        /// ECX of leaf 0x8000_0001: SVM. EDX: pages of 1 GiB, RDTSCP.
        const SVM: u32 = 1 << 2;
        const NOT_MADE: u32 = 1 << 26 | 1 << 27;
        let (leaf, subleaf) = (*register(frame, RAX) as u32, *register(frame, RCX) as u32);
        let answer = cpu::cpuid(leaf, subleaf);
        // Not by the structure: clearing it takes vector registers.
        let (mut eax, mut ebx, mut ecx, mut edx) = (answer.eax, answer.ebx, answer.ecx, answer.edx);
        let letters = |letters: &[u8; 4]| u32::from_le_bytes(*letters);
        match leaf {
            1 => ecx &= !HIDDEN,
            7 => (ebx, ecx, edx) = (ebx & SHOWN, 0, 0),
            0xd => (eax, ebx, ecx, edx) = (0, 0, 0, 0),
            0x4000_0000 => {
                (eax, ebx) = (leaf, letters(b"trap"));
                (ecx, edx) = (letters(b"&emu"), letters(b"late"));
            }
            0x4000_0001..=0x4000_ffff => (eax, ebx, ecx, edx) = (0, 0, 0, 0),
            0x8000_0001 => (ecx, edx) = (ecx & !SVM, edx & !NOT_MADE),
            _ => {}
        }
        set_register(frame, RAX, 4, eax.into());
        set_register(frame, RBX, 4, ebx.into());
        set_register(frame, RCX, 4, ecx.into());
        set_register(frame, RDX, 4, edx.into());
        Ok(Kind::Cpuid)
    }

    /// An access to memory that is not RAM, or lies in the monitor's window: moves only, which is what drivers use.
    ///
    /// # Errors
    /// #PF at the other operand.
    pub fn access(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        let at = self.address(frame, i);
        let user = self.user;
        let size = u64::from(i.size);
        match i.opcode {
            0x88 => {
                let value = i.byte_register(frame);
                self.write(at, 1, value, user)?;
            }
            0x89 => {
                let value = *register(frame, i.register());
                self.write(at, size, value, user)?;
            }
            0xc6 => self.write(at, 1, i.immediate, user)?,
            0xc7 => self.write(at, size, i.immediate, user)?,
            0x8a => {
                let value = self.read(at, 1, user)?;
                i.set_byte_register(frame, value);
            }
            0x8b => {
                let value = self.read(at, size, user)?;
                set_register(frame, i.register(), i.size, value);
            }
            0x0fb6 | 0x0fb7 => {
                let value = self.read(at, u64::from(i.opcode & 1) + 1, user)?;
                set_register(frame, i.register(), i.size, value);
            }
            0xa4 | 0xa5 | 0xaa | 0xab => return self.memory_string(frame, i),
            _ => {
                self.end("ended by the monitor: no such instruction where no memory is");
                return Ok(Kind::Device);
            }
        }
        frame.rip = frame.rip.wrapping_add(i.length);
        Ok(Kind::Device)
    }

    /// MOVS and STOS, an element a trap.
    fn memory_string(&mut self, frame: &mut Frame, i: &Instruction) -> Result<Kind, Fault> {
        if i.repeat != 0 && *register(frame, RCX) == 0 {
            frame.rip = frame.rip.wrapping_add(i.length);
            return Ok(Kind::Device);
        }
        let size = if i.opcode & 1 == 0 { 1 } else { u64::from(i.size) };
        let step = if frame.rflags & 1 << 10 != 0 { size.wrapping_neg() } else { size };
        let mut value = *register(frame, RAX);
        if i.opcode < 0xa8 {
            let from = *register(frame, RSI);
            value = self.read(from, size, self.user)?;
            *register(frame, RSI) = from.wrapping_add(step);
        }
        let to = *register(frame, RDI);
        self.write(to, size, value, self.user)?;
        *register(frame, RDI) = to.wrapping_add(step);
        if i.repeat != 0 {
            *register(frame, RCX) -= 1;
        } else {
            frame.rip = frame.rip.wrapping_add(i.length);
        }
        Ok(Kind::Device)
    }
}
