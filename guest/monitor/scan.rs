//! Code is looked at before it runs, and what is sensitive but does not trap is made to.
//!
//! Trap-and-emulate needs every sensitive instruction to trap outside ring 0 (Popek and Goldberg, theorem 1), and x86 has some
//! that do not. So a page cannot be executed by a guest's kernel before the code has been followed from the address that is entered, along
//! jumps and calls. The first byte of each sensitive instruction becomes a HLT, which traps in ring 3; what was there is kept, and
//! emulated. So does that of indirect jumps and calls: where they lead is known when they trap, and the code there is followed then.
//! A page so treated cannot be written: the first write puts all patched bytes back, and all begins anew.
//!
//! What a kernel reaches by a RET to an address that no CALL left is not seen, and data that lies behind a call without return may be
//! taken for code and patched. It harms the guest that does so and no other one: the window, the tables and the ports are out of
//! ring 3's reach in any case. Programs in a guest's ring 3 are not looked at.
//! Sources: Popek and Goldberg; Robin and Irvine; Intel SDM vol. 2 (each instruction).

use core::slice;

use guest::memory::{read8, write8};

use crate::decode::{self, Instruction, LONGEST};
use crate::machine::RAM_BYTES;
use crate::paging::{FETCH, PAGE};
use crate::vm::Vm;

/// Most instructions that are patched in one guest (a kernel of 600 instructions has twenty), and branches that wait to be followed.
const PATCHES: usize = 256;
const BRANCHES: usize = 256;
/// Most instructions that are looked at at once: the other guest waits meanwhile.
const AT_ONCE: u64 = 50_000;
/// Most addresses from which code was followed.
const ROOTS: usize = 128;
/// HLT: one byte, so it fits in the place of any instruction.
const HLT: u8 = 0xf4;

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
    /// Pages of RAM whose code has been looked at.
    pub pages: [bool; (RAM_BYTES / PAGE) as usize],
    patches: [Patch; PATCHES],
    pub patched: usize,
    branches: [u64; BRANCHES],
    waiting: usize,
    /// Where code was followed from, and whether as 64-bit code; and whether it is to be followed from there again.
    roots: [(u64, bool); ROOTS],
    rooted: usize,
    is_stale: bool,
    /// How many instructions may have been looked at before it is too much.
    most: u64,
    /// The page that was looked at last, linear and in the guest's RAM.
    linear_page: u64,
    page: u64,
}

impl Scan {
    /// The byte that the guest has at `address`, where `byte` is.
    pub fn original(&self, address: u64, byte: u8) -> u8 {
        let here = |patch: &&Patch| u64::from(patch.address) == address;
        let patch = if byte == HLT { self.patches[..self.patched].iter().find(here) } else { None };
        patch.map_or(byte, |patch| patch.byte)
    }
}

impl Vm {
    /// Looks at the code of the guest's kernel that is reached from `linear`; and once more at all code, if it may have changed.
    pub fn scan_from(&mut self, linear: u64) {
        if self.user || self.scan.disabled {
            return;
        }
        let scanned = self.counts.scanned;
        self.scan.most = scanned + AT_ONCE;
        self.follow(linear);
        if self.counts.scanned > scanned && !self.scan.is_stale {
            if self.scan.rooted == ROOTS {
                return self.end("ended by the monitor: its code is entered at more places than the scan can keep");
            }
            self.scan.roots[self.scan.rooted] = (linear, self.long);
            self.scan.rooted += 1;
        }
        if core::mem::take(&mut self.scan.is_stale) {
            for index in 0..self.scan.rooted {
                let (root, long) = self.scan.roots[index];
                if long == self.long {
                    self.follow(root);
                }
            }
        }
        if self.counts.scanned == self.scan.most {
            self.end("ended by the monitor: more code than it can look at");
        }
    }

    /// Looks at the code that is reached from `linear`, as far as nobody has.
    fn follow(&mut self, linear: u64) {
        let instruction = decode::room(decode::SCANNED);
        (self.scan.waiting, self.scan.linear_page) = (0, u64::MAX);
        let (mut next, mut changed) = (Some(linear), false);
        while let Some(mut at) = next {
            while self.counts.scanned < self.scan.most && self.look_at(at, instruction, &mut changed) {
                let after = at.wrapping_add(instruction.length);
                let target = after.wrapping_add(instruction.immediate);
                let target = if self.long { target } else { target & 0xffff_ffff };
                at = match instruction.opcode {
                    0x70..=0x7f | 0x0f80..=0x0f8f | 0xe0..=0xe3 | 0xe8 => {
                        self.keep(target);
                        after
                    }
                    0xe9 | 0xeb => target,
                    // Returns, far and indirect jumps, UD2. And zeros: behind a call that does not return there may be data.
                    0xc2 | 0xc3 | 0xca | 0xcb | 0xcf | 0xea | 0x0f07 | 0x0f0b => break,
                    0xff if matches!(instruction.reg(), 4 | 5) => break,
                    0x00 if instruction.modrm == 0 => break,
                    _ => after,
                };
            }
            self.scan.waiting = self.scan.waiting.wrapping_sub(1);
            next = self.scan.branches.get(self.scan.waiting).copied();
        }
        if changed {
            self.forget(); // pages that are mapped may be writable
        }
    }

    /// Keeps a branch to be followed.
    fn keep(&mut self, target: u64) {
        match self.scan.branches.get_mut(self.scan.waiting) {
            Some(slot) => *slot = target,
            None => return self.end("ended by the monitor: its code branches more than the scan can follow"),
        }
        self.scan.waiting += 1;
    }

    /// Takes the instruction at `linear` apart, and patches it if it is sensitive. False: there is none, or it has been looked at.
    fn look_at(&mut self, linear: u64, instruction: &mut Instruction, changed: &mut bool) -> bool {
        if linear & !(PAGE - 1) != self.scan.linear_page {
            let cr2 = self.cr[2];
            if self.translate(linear, FETCH, false).is_err() || self.ram_at(self.found.address, 1).is_none() {
                self.cr[2] = cr2; // nobody fetched: the guest shall not see it
                return false;
            }
            self.scan.linear_page = linear & !(PAGE - 1);
            self.scan.page = self.found.address & !(PAGE - 1);
        }
        let address = self.scan.page + linear % PAGE;
        let (seen, bit) = (&mut self.scan.seen[(address / 8) as usize], 1 << (address % 8));
        if *seen & bit != 0 {
            return false;
        }
        *seen |= bit;
        let page = &mut self.scan.pages[(address / PAGE) as usize];
        *changed |= !*page;
        *page = true;
        let machine = self.ram + address;
        let here = (PAGE - linear % PAGE).min(LONGEST as u64) as usize;
        // SAFETY: these bytes are in the guest's RAM, and the guest does not run.
        let code = unsafe { slice::from_raw_parts(machine as *const u8, here) };
        if instruction.decode(code, self.long).is_none() {
            // It goes on in the next page, or is none.
            let available = self.fetch(linear).unwrap_or(0);
            if instruction.decode(&self.code[..available], self.long).is_none() {
                return false;
            }
        }
        if is_sensitive(instruction, self.long) {
            if self.scan.patched == PATCHES {
                self.end("ended by the monitor: more sensitive instructions than it can patch");
                return false;
            }
            self.scan.patches[self.scan.patched] = Patch { address: address as u32, byte: read8(machine) };
            self.scan.patched += 1;
            write8(machine, HLT);
        }
        self.counts.scanned += 1;
        true
    }

    /// Forgets what was looked at, for a page of it is about to be written: code elsewhere may lead to what is there then, and calls that
    /// were made will return. So all is looked at again, before code in such a page runs next.
    pub fn unscan(&mut self) {
        for patch in &self.scan.patches[..self.scan.patched] {
            write8(self.ram + u64::from(patch.address), patch.byte);
        }
        self.scan.patched = 0;
        self.scan.is_stale = true;
        for (page, scanned) in self.scan.pages.iter_mut().enumerate().filter(|(_, scanned)| **scanned) {
            let first = page * PAGE as usize / 8;
            self.scan.seen[first..first + PAGE as usize / 8].fill(0);
            *scanned = false;
        }
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
        0xca..=0xcd | 0xcf | 0xea => true,                       // RETF, INT3, INT n, IRET, JMP far
        0x8c | 0x8e | 0x0fa0 | 0x0fa1 | 0x0fa8 | 0x0fa9 => true, // moves, pushes and pops of segment registers
        0x06 | 0x07 | 0x0e | 0x16 | 0x17 | 0x1e | 0x1f => !long,
        0xff => matches!(reg, 2..=5),            // CALL and JMP, indirect or far
        0x0f00 | 0x0f02 | 0x0f03 => true,        // SLDT, STR, VERR, VERW, LAR, LSL
        0x0f01 => memory && reg < 2 || reg == 4, // SGDT, SIDT, SMSW
        0x0fa2 => true,
        _ => false,
    }
}
