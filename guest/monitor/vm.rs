//! A virtual machine: what a guest believes to be its processor, its memory and its devices.
//!
//! General registers, RIP, RSP and most flags are in the [`Frame`] of the trap while the guest runs. What the processor does not
//! hold in a guest's place is here: the control registers, the descriptor tables, the ring, IF.
//! Sources: Intel SDM vol. 3A §2.1 to §2.5 (system registers), §3.4.5 (descriptors), vol. 4 table 2-2 (MSRs); Popek and Goldberg.

use guest::interrupt::{self, Frame};
use guest::ring3::{CODE_3, CODE_32_3, DATA_3};

use crate::decode::LONGEST;
use crate::devices::Devices;
use crate::machine::{LAPIC, RAM_BYTES, ram};
use crate::paging::Translation;
use crate::report::Counts;
use crate::scan::Scan;
use crate::shadow::Shadow;

/// CR0: protection, SSE traps, writes of ring 0 obey the tables, paging.
pub const CR0_PE: u64 = 1 << 0;
pub const CR0_TS: u64 = 1 << 3;
pub const CR0_WP: u64 = 1 << 16;
pub const CR0_PG: u64 = 1 << 31;
/// EFER: SYSCALL, long mode wanted, long mode active, entries may forbid execution.
pub const EFER_SCE: u64 = 1 << 0;
pub const EFER_LME: u64 = 1 << 8;
pub const EFER_LMA: u64 = 1 << 10;
pub const EFER_NXE: u64 = 1 << 11;
/// Flags: those that the guest cannot have for itself in ring 3, IF and IOPL, and the others that it may.
pub const FLAG_IF: u64 = 1 << 9;
pub const FLAG_IOPL: u64 = 3 << 12;
pub const OWN_FLAGS: u64 = FLAG_IF | FLAG_IOPL;
const SHARED_FLAGS: u64 = 0x25_0dd5;
pub const FLAG_RF: u64 = 1 << 16;

/// Segment registers by their number in instructions: ES is 0, DS 3.
pub const CS: usize = 1;
pub const SS: usize = 2;
pub const GS: usize = 5;

/// Descriptor tables by their place in [`Vm::tables`].
pub const GDT: usize = 0;
pub const IDT: usize = 1;

/// MSRs by their place in [`Vm::msrs`].
pub const EFER: usize = 0;
pub const STAR: usize = 1;
pub const LSTAR: usize = 2;
pub const CSTAR: usize = 3;
pub const FLAG_MASK: usize = 4;
pub const FS_BASE: usize = 5;
pub const GS_BASE: usize = 6;
pub const KERNEL_GS_BASE: usize = 7;
const PAGE_ATTRIBUTES: usize = 8;
pub const APIC_BASE: usize = 9;

/// The place of an MSR; `None`: the guest has no such register.
pub fn msr(number: u32) -> Option<usize> {
    match number {
        0xc000_0080..=0xc000_0084 => Some(EFER + (number - 0xc000_0080) as usize),
        0xc000_0100..=0xc000_0102 => Some(FS_BASE + (number - 0xc000_0100) as usize),
        0x277 => Some(PAGE_ATTRIBUTES),
        0x1b => Some(APIC_BASE),
        _ => None,
    }
}

/// An exception that a guest is to get: vector, and error code or 0.
#[derive(Clone, Copy)]
pub struct Fault {
    pub vector: u8,
    pub code: u32,
}

/// #UD, and #GP with the code 0.
pub const UNDEFINED: Fault = Fault { vector: interrupt::INVALID_OPCODE, code: 0 };
pub const PROTECTION: Fault = Fault { vector: interrupt::GENERAL_PROTECTION, code: 0 };

/// #GP for a selector.
pub const fn protection(selector: u16) -> Fault {
    Fault { vector: interrupt::GENERAL_PROTECTION, code: (selector & !3) as u32 }
}

/// How a machine is, or ended.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum State {
    #[default]
    Off,
    Running,
    /// In HLT, until an interrupt.
    Halted,
    /// Ended; why is in [`Vm::end`].
    Ended,
}

/// All zeros are a machine that is off.
pub struct Vm {
    /// 1 or 2.
    pub number: u64,
    pub name: Option<&'static str>,
    pub state: State,
    /// How it ended, and when, by the time stamp counter.
    pub end: Option<&'static str>,
    pub ended: u64,
    /// The machine address of its RAM.
    pub ram: u64,
    /// Its registers while it does not run.
    pub frame: Frame,
    /// The code that trapped last, and how long the instruction is.
    pub code: [u8; LONGEST],
    pub code_length: usize,
    /// Whether the scan had patched it.
    pub is_patched: bool,
    /// The last translation, and the machine addresses of the entries that it came by.
    pub found: Translation,
    pub entries: [u64; 4],
    /// Control registers by their number.
    pub cr: [u64; 5],
    pub msrs: [u64; 10],
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
    /// The task register's selector and base.
    pub task: u16,
    pub tss: u64,
    pub shadow: Shadow,
    pub scan: Scan,
    pub devices: Devices,
    pub counts: Counts,
}

impl Vm {
    /// Switches machine `index` on, in 32-bit protected mode without paging, as PVH enters (Xen pvh.pandoc).
    pub fn switch_on(&mut self, index: usize, name: &'static str) {
        self.number = index as u64 + 1;
        self.name = Some(name);
        self.ram = ram(index);
        self.state = State::Running;
        self.cr[0] = CR0_PE;
        self.msrs[PAGE_ATTRIBUTES] = 0x0007_0406_0007_0406; // as after reset
        self.msrs[APIC_BASE] = LAPIC | 1 << 11 | 1 << 8; // on, and this is the first processor
        self.frame.rflags = 1 << 1 | FLAG_IF;
        self.frame.ss = DATA_3;
        self.frame.cs = CODE_32_3;
    }

    /// Ends the machine: it does not run again.
    pub fn end(&mut self, how: &'static str) {
        if self.state != State::Ended {
            self.state = State::Ended;
            self.end = Some(how);
        }
    }

    /// Whether it has something to do: it runs, or an interrupt wakes it.
    pub fn can_run(&self) -> bool {
        self.state == State::Running || self.state == State::Halted && self.devices.lapic.pending().is_some()
    }

    /// Its ring.
    pub fn ring(&self) -> u16 {
        if self.user { 3 } else { 0 }
    }

    /// The flags as the guest has them.
    pub fn flags(&self, frame: &Frame) -> u64 {
        frame.rflags & !OWN_FLAGS & !FLAG_RF | self.flags
    }

    /// Sets the flags, IF and IOPL among them. The real IF stays set: the monitor's timer must come through.
    pub fn set_flags(&mut self, frame: &mut Frame, flags: u64) {
        frame.rflags = flags & SHARED_FLAGS & !FLAG_RF | FLAG_IF | 1 << 1;
        self.flags = flags & OWN_FLAGS;
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

    /// Loads a data segment register. FS and GS keep their bases: in 64-bit code they come from MSRs.
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
