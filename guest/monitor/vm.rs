//! A virtual machine: what a guest believes to be its processor, its memory and its devices.
//!
//! General registers, RIP, RSP and most flags are in the [`Frame`] of the trap while the guest runs. What the processor does not
//! hold in a guest's place is here: the control registers, the descriptor tables, the ring, IF.
//! Sources: Intel SDM vol. 3A §2.1 to §2.5 (system registers), §3.4.5 (descriptors), vol. 4 table 2-2 (MSRs); Popek and Goldberg.

use core::arch::asm;

use guest::{cpu::*, interrupt::*, ring3::*};

use crate::{decode::*, devices::Devices, machine::*, report::Counts, scan::Scan, shadow::Space};

/// EFER: what a guest may set.
pub const EFER_ALLOWED: u64 = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
/// Flags that ring 3 changes by itself. IF and IOPL are not among them.
const SHARED_FLAGS: u64 = 0x24_0dd5;

/// Segment registers by their number in instructions: ES is 0, DS 3.
pub const CS: usize = 1;
pub const SS: usize = 2;

/// Descriptor tables by their place in [`Vm::tables`].
pub const GDT: usize = 0;
pub const IDT: usize = 1;

/// MSRs that a guest has, page attributes the last; and the others by their place here and in [`Vm::msrs`].
pub static MSRS: [u32; 6] = [0xc000_0080, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0x277];
pub const EFER: usize = 0;
pub const STAR: usize = 1;
pub const LSTAR: usize = 2;
pub const FLAG_MASK: usize = 4;

/// An exception that a guest is to get: vector, and error code or 0.
pub struct Fault {
    pub vector: u8,
    pub code: u32,
}

/// #UD, and #GP with the code 0.
pub const UNDEFINED: Fault = Fault { vector: INVALID_OPCODE, code: 0 };
pub const PROTECTION: Fault = Fault { vector: GENERAL_PROTECTION, code: 0 };

/// #GP for a selector.
pub const fn protection(selector: u16) -> Fault {
    Fault { code: (selector & !3) as u32, ..PROTECTION }
}

/// FPU and SSE registers, as FXSAVE has them (Intel SDM vol. 1 §10.5.1).
#[repr(align(16))]
pub struct Vectors([u64; 64]);

/// All zeros are a machine that is off.
pub struct Vm {
    /// 1 or 2; 0: the machine is off.
    pub number: u64,
    pub name: Option<&'static str>,
    /// In HLT, until an interrupt.
    pub is_halted: bool,
    /// How it ended, and after how many cycles of the time stamp counter.
    pub end: Option<&'static str>,
    pub alive: u64,
    /// The machine address of its RAM.
    pub ram: u64,
    /// Its registers while it does not run.
    pub frame: Frame,
    pub vectors: Vectors,
    /// The code that trapped last, and how long the instruction is.
    pub code: [u8; LONGEST],
    pub code_length: usize,
    /// Whether the scan had patched it.
    pub is_patched: bool,
    /// The instruction that is emulated, or scanned then. Kept here as the last translation is: on the stack they would be cleared by
    /// vector registers, which are the guest's.
    pub op: Instruction,
    /// What the last translation found: the guest-physical address; and `WRITABLE`, `USER` and `NO_EXECUTE` as all levels together have
    /// them, `WRITABLE` only once the page is marked dirty.
    pub found: u64,
    pub rights: u64,
    /// Control registers by their number.
    pub cr: [u64; 5],
    pub msrs: [u64; MSRS.len()],
    /// Whether it is in its ring 3.
    pub user: bool,
    /// Whether its code segment is one of 64 bits; otherwise of 32.
    pub long: bool,
    /// IF and IOPL.
    pub flags: u64,
    /// STI was the last instruction: no interrupt before the next one.
    pub shadowed: bool,
    pub selectors: [u16; 6],
    /// Base and limit of the global table and of the interrupt table.
    pub tables: [(u64, u64); 2],
    /// The task register's base.
    pub tss: u64,
    /// The tables of ring 0 and of ring 3.
    pub shadow: [Space; 2],
    pub scan: Scan,
    pub devices: Devices,
    pub counts: Counts,
}

impl Vm {
    /// Switches machine `index` on, in 32-bit protected mode without paging, as PVH enters (Xen pvh.pandoc).
    pub fn switch_on(&mut self, index: usize, name: &'static str) {
        let index = index as u64;
        (self.number, self.name, self.ram) = (index + 1, Some(name), RAMS + index * RAM_BYTES);
        self.cr[0] = CR0_PE;
        self.msrs[MSRS.len() - 1] = 0x0007_0406_0007_0406; // as after reset
        (self.frame.rflags, self.frame.ss, self.frame.cs) = (1 << 1 | FLAG_IF, DATA_3, CODE_32_3);
        // The FPU's control word and MXCSR mask all exceptions, as after FNINIT and reset (Intel SDM vol. 1 §8.1.5, §10.2.3).
        (self.vectors.0[0], self.vectors.0[3]) = (0x37f, 0x1f80);
    }

    /// Gives it the processor: its vector registers; and flat data in DS and ES, which the other may have emptied, for 32-bit code.
    pub fn take_processor(&mut self) {
        self.counts.turns += 1;
        // SAFETY: what FXSAVE wrote, or the state of a new machine; ring 0 in 64-bit code uses none of these registers.
        unsafe {
            asm!("fxrstor [{}]", "mov ds, {1:e}", "mov es, {1:e}", in(reg) &raw const self.vectors, in(reg) DATA_3);
        }
    }

    /// Ends the machine: it does not run again.
    pub fn end(&mut self, how: &'static str) {
        self.end = self.end.or(Some(how));
    }

    /// Whether it is on and has not ended.
    pub fn is_alive(&self) -> bool {
        self.number != 0 && self.end.is_none()
    }

    /// Whether it has something to do: it runs, or an interrupt wakes it.
    pub fn can_run(&self) -> bool {
        self.is_alive() && (!self.is_halted || self.devices.lapic.pending().is_some())
    }

    /// Its ring.
    pub fn ring(&self) -> u16 {
        if self.user { 3 } else { 0 }
    }

    /// The flags as the guest has them.
    pub fn flags(&self, frame: &Frame) -> u64 {
        frame.rflags & SHARED_FLAGS | 1 << 1 | self.flags
    }

    /// Sets the flags, IF and IOPL among them. The real IF stays set: the monitor's timer must come through.
    pub fn set_flags(&mut self, frame: &mut Frame, flags: u64) {
        frame.rflags = flags & SHARED_FLAGS | FLAG_IF | 1 << 1;
        self.flags = flags & (FLAG_IF | FLAG_IOPL);
    }

    /// Whether interrupts are let in.
    pub fn accepts_interrupts(&self) -> bool {
        self.flags & FLAG_IF != 0
    }

    /// Loads CS from the guest's descriptor table and goes to `rip`.
    ///
    /// # Errors
    /// #GP: there is no such code segment, or not for the ring that the selector asks for, or no such address.
    pub fn jump(&mut self, frame: &mut Frame, selector: u16, rip: u64) -> Result<(), Fault> {
        if !is_canonical(rip) {
            return Err(PROTECTION);
        }
        let descriptor = self.descriptor(selector)?;
        let ring = (descriptor >> 45 & 3) as u16;
        // Present and code. A conforming segment has the ring of who enters it; none of the guests' tables has one.
        if descriptor >> 43 & 0b10011 != 0b10011 || ring != selector & 3 || ring == 1 || ring == 2 {
            return Err(protection(selector));
        }
        let (long, wide) = (descriptor >> 53 & 1 != 0, descriptor >> 54 & 1 != 0);
        if !long && (!wide || base(descriptor) != 0) {
            self.end("ended by the monitor: 16-bit code, or code with a base, is not supported");
        }
        self.enter_code(frame, selector, long);
        frame.rip = if long { rip } else { rip & 0xffff_ffff };
        self.scan_from(frame.rip);
        Ok(())
    }

    /// Is in a code segment from now on, and so in its ring.
    pub fn enter_code(&mut self, frame: &mut Frame, selector: u16, long: bool) {
        (self.long, self.user) = (long, selector & 3 == 3);
        self.selectors[CS] = selector;
        frame.cs = if long { CODE_3 } else { CODE_32_3 };
    }

    /// The first eight bytes of a descriptor in the guest's global table.
    ///
    /// # Errors
    /// #GP: the selector is null, lies beyond the table or is one of a local table.
    pub fn descriptor(&mut self, selector: u16) -> Result<u64, Fault> {
        let offset = u64::from(selector & !7);
        if offset == 0 || selector & 4 != 0 || offset + 7 > self.tables[GDT].1 {
            return Err(protection(selector));
        }
        self.read(self.tables[GDT].0.wrapping_add(offset), 8, false)
    }

    /// Loads a data segment register. All bases are 0, those of FS and GS, too: a guest has no MSRs for them.
    ///
    /// # Errors
    /// #GP: there is no such segment, or not for this ring.
    pub fn load_segment(&mut self, register: usize, selector: u16) -> Result<(), Fault> {
        if selector & !3 != 0 {
            let descriptor = self.descriptor(selector)?;
            let (present, segment) = (descriptor >> 47 & 1 != 0, descriptor >> 44 & 1 != 0);
            if !present || !segment || (descriptor >> 45 & 3) < u64::from(self.ring()) {
                return Err(protection(selector));
            }
        } else if register == SS && (self.user || !self.long) {
            return Err(PROTECTION);
        }
        self.selectors[register] = selector;
        Ok(())
    }

    /// Where `bytes` bytes of guest-physical memory lie on the machine; `None`: not all of them are RAM.
    pub fn ram_at(&self, address: u64, bytes: u64) -> Option<u64> {
        (address < RAM_BYTES && bytes <= RAM_BYTES - address).then(|| self.ram + address)
    }
}

/// Whether bits 47 to 63 are the same.
pub fn is_canonical(address: u64) -> bool {
    (address << 16) as i64 >> 16 == address as i64
}

/// The base in the first eight bytes of a descriptor.
pub fn base(descriptor: u64) -> u64 {
    descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000
}
