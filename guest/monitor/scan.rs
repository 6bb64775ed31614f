//! Code is looked at before it runs, and what is sensitive but does not trap is made to.
//!
//! Trap-and-emulate needs every sensitive instruction to trap outside ring 0 (Popek and Goldberg, theorem 1), and x86 has some
//! that do not. So a page cannot be executed before the code in it has been followed from the address that is entered: along
//! jumps and calls, as far as their targets are known. The first byte of each sensitive instruction becomes a HLT, which traps
//! in ring 3; what was there is kept, and emulated. A page so treated cannot be written: the first write puts its bytes back
//! and makes it one that has not been looked at.
//!
//! What only an indirect jump reaches, in a page that was entered elsewhere, is not seen. It harms the guest that does so and no
//! other one: the window, the tables and the ports are out of ring 3's reach in any case.
//! Sources: Popek and Goldberg; Robin and Irvine; Intel SDM vol. 2 (each instruction).

use core::ptr::addr_of_mut;
use core::slice;

use guest::memory::{read8, write8};

use crate::decode::{Instruction, LONGEST};
use crate::machine::RAM_BYTES;
use crate::paging::{FETCH, PAGE};
use crate::vm::Vm;

/// Most instructions that are patched in one guest; a kernel of 4,000 instructions has about twenty.
const PATCHES: usize = 256;
/// Most branches that wait to be followed.
const BRANCHES: usize = 256;
/// HLT: one byte, so it fits in the place of any instruction.
const HLT: u8 = 0xf4;
const PAGES: usize = (RAM_BYTES / PAGE) as usize;

/// A byte that was replaced: where in the guest's RAM, and which.
#[derive(Clone, Copy)]
struct Patch {
    address: u32,
    byte: u8,
}

pub struct Scan {
    /// By the word `noscan`: to show what goes wrong without.
    pub disabled: bool,
    /// One bit a byte of RAM: an instruction begins here that was looked at.
    seen: [u8; (RAM_BYTES / 8) as usize],
    pages: [bool; PAGES],
    patches: [Patch; PATCHES],
    patched: usize,
    branches: [u64; BRANCHES],
    waiting: usize,
    /// The page that was looked at last, linear and in the guest's RAM.
    linear_page: u64,
    page: u64,
}

/// Where control goes after an instruction.
enum Flow {
    Next,
    /// There only.
    Jump(u64),
    /// There and to the next.
    Branch(u64),
    /// Nobody knows.
    Unknown,
}

impl Scan {
    pub const fn new() -> Scan {
        Scan {
            disabled: false,
            seen: [0; (RAM_BYTES / 8) as usize],
            pages: [false; PAGES],
            patches: [Patch { address: 0, byte: 0 }; PATCHES],
            patched: 0,
            branches: [0; BRANCHES],
            waiting: 0,
            linear_page: 0,
            page: 0,
        }
    }

    /// Whether the code in a page of RAM has been looked at.
    pub fn is_scanned(&self, page: u64) -> bool {
        self.pages.get(page as usize).is_some_and(|scanned| *scanned)
    }

    /// The byte that the guest has at `address`, where `byte` is.
    pub fn original(&self, address: u64, byte: u8) -> u8 {
        if byte != HLT {
            return byte;
        }
        let here = |patch: &&Patch| u64::from(patch.address) == address;
        self.patches[..self.patched].iter().find(here).map_or(byte, |patch| patch.byte)
    }

    /// Instructions patched.
    pub fn patched(&self) -> u64 {
        self.patched as u64
    }

    /// Marks the instruction at `address`; says whether it is new.
    fn mark(&mut self, address: u64) -> bool {
        let (byte, bit) = (&mut self.seen[(address / 8) as usize], 1 << (address % 8));
        let new = *byte & bit == 0;
        *byte |= bit;
        new
    }

    /// Keeps a branch to be followed; says whether there was room.
    fn keep(&mut self, target: u64) -> bool {
        if self.waiting == BRANCHES {
            return false;
        }
        self.branches[self.waiting] = target;
        self.waiting += 1;
        true
    }
}

impl Vm {
    /// Looks at the code of the guest's kernel that is reached from `linear`.
    pub fn scan_from(&mut self, linear: u64) {
        if self.user || self.scan.disabled {
            return;
        }
        let patched = self.scan.patched;
        static mut INSTRUCTION: Instruction = Instruction::new();
        // SAFETY: one scan at a time, with interrupts off.
        let instruction = unsafe { &mut *addr_of_mut!(INSTRUCTION) };
        self.scan.waiting = 0;
        self.scan.linear_page = u64::MAX;
        let mut next = Some(linear);
        let mut new_pages = false;
        while let Some(mut at) = next {
            while let Some(page) = self.look_at(at, instruction) {
                new_pages |= !self.scan.pages[page];
                self.scan.pages[page] = true;
                self.counts.scanned += 1;
                let after = at.wrapping_add(instruction.length);
                at = match flow(instruction, after, self.long) {
                    Flow::Next => after,
                    Flow::Jump(target) => target,
                    Flow::Branch(target) => {
                        if !self.scan.keep(target) {
                            self.end("ended by the monitor: its code branches more than the scan can follow");
                        }
                        after
                    }
                    Flow::Unknown => break,
                };
            }
            self.scan.waiting = self.scan.waiting.wrapping_sub(1);
            next = self.scan.branches.get(self.scan.waiting).copied();
        }
        if new_pages || self.scan.patched != patched {
            self.forget(); // pages that are mapped may be writable
        }
    }

    /// Takes the instruction at `linear` apart, and patches it if it is sensitive. Returns its page of RAM; `None`: there is none, or it
    /// has been looked at.
    fn look_at(&mut self, linear: u64, instruction: &mut Instruction) -> Option<usize> {
        if linear & !(PAGE - 1) != self.scan.linear_page {
            let cr2 = self.cr2;
            if self.translate(linear, FETCH, self.user).is_err() {
                self.cr2 = cr2; // nobody fetched: the guest shall not see it
                return None;
            }
            self.ram_at(self.found.address, 1)?;
            self.scan.linear_page = linear & !(PAGE - 1);
            self.scan.page = self.found.address & !(PAGE - 1);
        }
        let address = self.scan.page + linear % PAGE;
        let machine = self.ram + address;
        if !self.scan.mark(address) {
            return None;
        }
        // SAFETY: these bytes are in the guest's RAM, and the guest does not run.
        let code =
            unsafe { slice::from_raw_parts(machine as *const u8, (PAGE - linear % PAGE).min(LONGEST as u64) as usize) };
        if instruction.decode(code, self.long).is_none() {
            // It goes on in the next page, or is none.
            let available = self.fetch(linear).ok()?;
            instruction.decode(&self.code[..available], self.long)?;
        }
        if is_sensitive(instruction, self.long) && read8(machine) != HLT {
            if self.scan.patched == PATCHES {
                self.end("ended by the monitor: more sensitive instructions than it can patch");
                return None;
            }
            self.scan.patches[self.scan.patched] = Patch { address: address as u32, byte: read8(machine) };
            self.scan.patched += 1;
            write8(machine, HLT);
        }
        Some((address / PAGE) as usize)
    }

    /// Makes a page one that has not been looked at: it is about to be written.
    pub fn unscan(&mut self, page: u64) {
        let mut kept = 0;
        for index in 0..self.scan.patched {
            let patch = self.scan.patches[index];
            if u64::from(patch.address) / PAGE == page {
                write8(self.ram + u64::from(patch.address), patch.byte);
            } else {
                self.scan.patches[kept] = patch;
                kept += 1;
            }
        }
        self.scan.patched = kept;
        self.scan.pages[page as usize] = false;
        let first = (page * PAGE / 8) as usize;
        self.scan.seen[first..first + PAGE as usize / 8].fill(0);
        self.forget();
    }
}

/// Whether an instruction tells or changes what belongs to the monitor, in ring 3 and without a trap; or with a trap only as long as
/// the real tables hold nothing that fits (far transfers and loads of segment registers); or, CPUID, tells of the machine; or leads
/// to where nobody has looked.
fn is_sensitive(instruction: &Instruction, long: bool) -> bool {
    let (reg, memory) = (instruction.reg(), instruction.names_memory());
    match instruction.opcode {
        0x9c | 0x9d => true,                                     // PUSHF, POPF
        0xca..=0xcd | 0xcf => true,                              // RETF, INT3, INT n, IRET
        0x8c | 0x8e | 0x0fa0 | 0x0fa1 | 0x0fa8 | 0x0fa9 => true, // moves, pushes and pops of segment registers
        0x06 | 0x07 | 0x0e | 0x16 | 0x17 | 0x1e | 0x1f => !long,
        0xff => matches!(reg, 2..=5),            // CALL and JMP, indirect or far
        0x0f00 | 0x0f02 | 0x0f03 => true,        // SLDT, STR, VERR, VERW, LAR, LSL
        0x0f01 => memory && reg < 2 || reg == 4, // SGDT, SIDT, SMSW
        0x0fa2 => true,
        _ => false,
    }
}

/// Where control goes after an instruction that ends at `after`.
fn flow(instruction: &Instruction, after: u64, long: bool) -> Flow {
    let target = after.wrapping_add(instruction.immediate);
    let target = if long { target } else { target & 0xffff_ffff };
    match instruction.opcode {
        // Zeros: behind a call that does not return there may be data.
        0x00 if instruction.modrm == 0 => Flow::Unknown,
        0x70..=0x7f | 0x0f80..=0x0f8f | 0xe0..=0xe3 | 0xe8 => Flow::Branch(target),
        0xe9 | 0xeb => Flow::Jump(target),
        0xc2 | 0xc3 | 0xca | 0xcb | 0xcf | 0xea | 0x0f07 | 0x0f0b => Flow::Unknown,
        0xff if matches!(instruction.reg(), 4 | 5) => Flow::Unknown,
        _ => Flow::Next,
    }
}
