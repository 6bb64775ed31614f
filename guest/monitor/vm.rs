//! A virtual machine: what a guest believes to be its processor, its memory and its devices.
//!
//! General registers, RIP, RSP and most flags are in the [`Frame`] of the trap while the guest runs. What the processor does not
//! hold in a guest's place is here: the control registers, the descriptor tables, the ring, IF.
//! Sources: Intel SDM vol. 3A §2.1 to §2.5 (system registers), §9.1.1 (after reset); Popek and Goldberg.

use guest::interrupt::Frame;

use crate::decode::LONGEST;
use crate::devices::Devices;
use crate::fault::Fault;
use crate::machine::{CODE_32, CODE_64, DATA, RAM_BYTES, ram};
use crate::paging::Translation;
use crate::report::Counts;
use crate::scan::Scan;
use crate::shadow::Shadow;

/// CR0: protection, paging, writes of ring 0 obey the tables.
pub const CR0_PE: u64 = 1 << 0;
pub const CR0_TS: u64 = 1 << 3;
pub const CR0_WP: u64 = 1 << 16;
pub const CR0_PG: u64 = 1 << 31;
/// EFER: SYSCALL, long mode wanted, long mode active, entries may forbid execution.
pub const EFER_SCE: u64 = 1 << 0;
pub const EFER_LME: u64 = 1 << 8;
pub const EFER_LMA: u64 = 1 << 10;
pub const EFER_NXE: u64 = 1 << 11;
/// Flags: those that the guest cannot have for itself in ring 3, IF and IOPL, and the others that ring 0 may load.
pub const FLAG_IF: u64 = 1 << 9;
pub const OWN_FLAGS: u64 = FLAG_IF | 3 << 12;
const SHARED_FLAGS: u64 = 0x25_0dd5;
pub const FLAG_TF: u64 = 1 << 8;
pub const FLAG_NT: u64 = 1 << 14;
pub const FLAG_RF: u64 = 1 << 16;

/// Segment registers by their number in instructions: ES is 0, DS 3.
pub const CS: usize = 1;
pub const SS: usize = 2;
pub const FS: usize = 4;
pub const GS: usize = 5;

/// A descriptor table as its register has it.
#[derive(Clone, Copy)]
pub struct Table {
    pub base: u64,
    pub limit: u64,
}

/// How a machine is, or ended.
#[derive(Clone, Copy, PartialEq)]
pub enum State {
    Off,
    Running,
    /// In HLT, until an interrupt.
    Halted,
    /// Ended; why is in [`Vm::end`].
    Ended,
}

pub struct Vm {
    /// 1 or 2.
    pub number: u64,
    pub name: Option<&'static str>,
    pub state: State,
    /// How it ended.
    pub end: Option<&'static str>,
    /// When, by the time stamp counter.
    pub ended: u64,
    /// The machine address of its RAM.
    pub ram: u64,
    /// Its registers while it does not run.
    pub frame: Frame,
    /// The code that trapped last, and how long the instruction is.
    pub code: [u8; LONGEST],
    pub code_length: usize,
    /// The last translation, and the machine addresses of the entries that it came by.
    pub found: Translation,
    pub entries: [u64; 4],
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    /// Whether it is in its ring 3.
    pub user: bool,
    /// Whether its code segment is one of 64 bits; otherwise of 32.
    pub long: bool,
    /// IF and IOPL.
    pub flags: u64,
    /// STI was the last instruction: no interrupt before the next one.
    pub shadowed: bool,
    pub selectors: [u16; 6],
    pub gdt: Table,
    pub idt: Table,
    pub task: u16,
    pub tss: u64,
    pub local_table: u16,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub page_attributes: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub kernel_gs_base: u64,
    pub shadow: Shadow,
    pub scan: Scan,
    pub devices: Devices,
    pub counts: Counts,
}

/// The state after reset where it is not zero (Intel SDM vol. 4 table 2-2, IA32_PAT).
const PAGE_ATTRIBUTES: u64 = 0x0007_0406_0007_0406;

impl Vm {
    /// A machine that is off.
    pub const fn new() -> Vm {
        Vm {
            number: 0,
            name: None,
            state: State::Off,
            end: None,
            ended: 0,
            ram: 0,
            frame: Frame { registers: [0; 15], vector: 0, error_code: 0, rip: 0, cs: 0, rflags: 0, rsp: 0, ss: 0 },
            code: [0; LONGEST],
            code_length: 0,
            found: Translation { address: 0, rights: 0 },
            entries: [0; 4],
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            user: false,
            long: false,
            flags: 0,
            shadowed: false,
            selectors: [0; 6],
            gdt: Table { base: 0, limit: 0 },
            idt: Table { base: 0, limit: 0 },
            task: 0,
            tss: 0,
            local_table: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            page_attributes: 0,
            fs_base: 0,
            gs_base: 0,
            kernel_gs_base: 0,
            shadow: Shadow::new(),
            scan: Scan::new(),
            devices: Devices::new(),
            counts: Counts::new(),
        }
    }

    /// Switches machine `index` on, in 32-bit protected mode without paging, as PVH enters (Xen pvh.pandoc).
    pub fn switch_on(&mut self, index: usize, name: &'static str) {
        self.number = index as u64 + 1;
        self.name = Some(name);
        self.ram = ram(index);
        self.state = State::Running;
        self.cr0 = CR0_PE;
        self.page_attributes = PAGE_ATTRIBUTES;
        self.frame.rflags = 1 << 1 | FLAG_IF;
        self.frame.ss = DATA;
        self.frame.cs = CODE_32;
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
        match self.state {
            State::Running => true,
            State::Halted => self.devices.lapic.pending().is_some(),
            State::Off | State::Ended => false,
        }
    }

    /// Its ring.
    pub fn ring(&self) -> u8 {
        if self.user { 3 } else { 0 }
    }

    /// The flags as the guest has them.
    pub fn flags(&self, frame: &Frame) -> u64 {
        frame.rflags & !OWN_FLAGS | self.flags
    }

    /// Sets the flags, IF and IOPL among them. The real IF stays set: the monitor's timer must come through.
    pub fn set_flags(&mut self, frame: &mut Frame, flags: u64) {
        frame.rflags = flags & SHARED_FLAGS | FLAG_IF | 1 << 1;
        self.flags = flags & OWN_FLAGS;
    }

    /// Whether interrupts are let in.
    pub fn accepts_interrupts(&self) -> bool {
        self.flags & FLAG_IF != 0
    }

    /// Loads CS from the guest's descriptor table and goes to `rip`.
    ///
    /// # Errors
    /// #GP: there is no such code segment, or not for the ring that the selector asks for.
    pub fn jump(&mut self, frame: &mut Frame, selector: u16, rip: u64) -> Result<(), Fault> {
        let descriptor = self.descriptor(selector)?;
        let (present, code) = (descriptor >> 47 & 1 != 0, descriptor >> 43 & 3 == 3);
        let ring = (descriptor >> 45 & 3) as u16;
        // A conforming segment has the ring of who enters it; none of the guests' tables has one.
        if !present || !code || ring != selector & 3 || ring == 1 || ring == 2 {
            return Err(Fault::protection(selector));
        }
        let (long, wide) = (descriptor >> 53 & 1 != 0, descriptor >> 54 & 1 != 0);
        let base = descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000;
        if !long && (!wide || base != 0) {
            self.end("ended by the monitor: 16-bit code, or code with a base, is not supported");
            return Err(Fault::protection(selector));
        }
        self.long = long;
        self.user = ring == 3;
        self.selectors[CS] = selector;
        frame.cs = if long { CODE_64 } else { CODE_32 };
        frame.rip = if long { rip } else { rip & 0xffff_ffff };
        self.scan_from(frame.rip);
        Ok(())
    }

    /// The first eight bytes of a descriptor in the guest's global table.
    ///
    /// # Errors
    /// #GP: the selector is null, lies beyond the table or is one of a local table.
    pub fn descriptor(&mut self, selector: u16) -> Result<u64, Fault> {
        let offset = u64::from(selector & !7);
        if offset == 0 || selector & 4 != 0 || offset + 7 > self.gdt.limit {
            return Err(Fault::protection(selector));
        }
        self.read(self.gdt.base.wrapping_add(offset), 8, false)
    }

    /// Loads a data segment register. FS and GS keep their bases: in 64-bit code they come from MSRs.
    ///
    /// # Errors
    /// #GP: there is no such segment, or not for this ring.
    pub fn load_segment(&mut self, register: usize, selector: u16) -> Result<(), Fault> {
        if selector & !3 != 0 {
            let descriptor = self.descriptor(selector)?;
            let is_segment = descriptor >> 44 & 1 != 0;
            if !is_segment || (descriptor >> 45 & 3) < u64::from(self.ring()) || descriptor >> 47 & 1 == 0 {
                return Err(Fault::protection(selector));
            }
        } else if register == SS && (self.user || !self.long) {
            return Err(Fault::protection(0));
        }
        self.selectors[register] = selector;
        Ok(())
    }

    /// Where `bytes` bytes of guest-physical memory lie on the machine; `None`: not all of them are RAM.
    pub fn ram_at(&self, address: u64, bytes: u64) -> Option<u64> {
        (address < RAM_BYTES && bytes <= RAM_BYTES - address).then(|| self.ram + address)
    }
}
