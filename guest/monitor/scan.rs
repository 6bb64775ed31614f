//! Code is looked at before it runs, and what is sensitive but does not trap is made to.
//!
//! Trap-and-emulate needs every sensitive instruction to trap outside ring 0 (Popek and Goldberg, theorem 1), and x86 has some
//! that do not. So a page cannot be executed by a guest's kernel before the code has been followed from the address that is entered, along
//! jumps and calls. The first byte of each sensitive instruction becomes a HLT, which traps in ring 3; what was there is kept, and
//! emulated. So does that of indirect jumps and calls: where they lead is known when they trap, and the code there is followed then.
//! A page so treated is read-only: what a guest writes there is written for it, and if that is code, it ends.
//!
//! What a kernel reaches by a RET to an address that no CALL left is not seen, and data that lies behind a call without return may be
//! taken for code and patched. It harms the guest that does so and no other one: the window, the tables and the ports are out of
//! ring 3's reach in any case. Programs in a guest's ring 3 are not looked at.
//! Sources: Popek and Goldberg; Robin and Irvine; Intel SDM vol. 2 (each instruction).

use core::{mem::replace, slice};

use guest::memory::*;

use crate::{decode::*, machine::RAM_BYTES, paging::*, vm::*};

/// Most instructions that are patched in one guest (a kernel of 600 instructions has twenty), and branches that wait to be followed.
const PATCHES: usize = 256;
const BRANCHES: usize = 256;
/// HLT: one byte, so it fits in the place of any instruction.
const HLT: u8 = 0xf4;

pub struct Scan {
    /// By the word `noscan`: to show what goes wrong without.
    pub disabled: bool,
    /// One bit a byte of RAM: an instruction begins here that was looked at.
    seen: [u8; (RAM_BYTES / 8) as usize],
    /// Pages of RAM whose code has been looked at.
    pub pages: [bool; (RAM_BYTES / PAGE) as usize],
    /// Bytes that were replaced: where in the guest's RAM, and which.
    patches: [(u64, u8); PATCHES],
    pub patched: usize,
    branches: [u64; BRANCHES],
    waiting: usize,
    /// The page that was looked at last, linear and in the guest's RAM.
    linear_page: u64,
    page: u64,
}

impl Scan {
    /// The byte that the guest has at `address`, where `byte` is.
    pub fn original(&self, address: u64, byte: u8) -> u8 {
        let is_here = |patch: &&(u64, u8)| byte == HLT && patch.0 == address;
        self.patches[..self.patched].iter().find(is_here).map_or(byte, |patch| patch.1)
    }
}

impl Vm {
    /// Looks at the code of the guest's kernel that is reached from `linear`, as far as nobody has.
    pub fn scan_from(&mut self, linear: u64) {
        if self.user || self.scan.disabled {
            return;
        }
        (self.scan.branches[0], self.scan.waiting, self.scan.linear_page) = (linear, 1, u64::MAX);
        while self.scan.waiting > 0 {
            self.scan.waiting -= 1;
            let mut at = self.scan.branches[self.scan.waiting];
            while self.look_at(at) {
                let after = at.wrapping_add(self.op.length);
                let target = after.wrapping_add(self.op.immediate) & if self.long { !0 } else { 0xffff_ffff };
                at = match self.op.opcode {
                    0x70..=0x7f | 0x0f80..=0x0f8f | 0xe0..=0xe3 | 0xe8 => {
                        if self.scan.waiting == BRANCHES {
                            return self.end("ended by the monitor: its code branches more than the scan can follow");
                        }
                        self.scan.branches[self.scan.waiting] = target;
                        self.scan.waiting += 1;
                        after
                    }
                    0xe9 | 0xeb => target,
                    // Returns, far and indirect jumps, UD2. And zeros: behind a call that does not return there may be data.
                    0xc2 | 0xc3 | 0xca | 0xcb | 0xcf | 0xea | 0x0f07 | 0x0f0b => break,
                    0xff if matches!(self.op.reg(), 4 | 5) => break,
                    0x00 if self.op.modrm == 0 => break,
                    _ => after,
                };
            }
        }
    }

    /// Takes the instruction at `linear` apart, and patches it if it is sensitive. False: there is none, or it has been looked at.
    fn look_at(&mut self, linear: u64) -> bool {
        if linear & !(PAGE - 1) != self.scan.linear_page {
            let cr2 = self.cr[2];
            if self.translate(linear, FETCH, false).is_err() || self.ram_at(self.found, 1).is_none() {
                self.cr[2] = cr2; // nobody fetched: the guest shall not see it
                return false;
            }
            self.scan.linear_page = linear & !(PAGE - 1);
            self.scan.page = self.found & !(PAGE - 1);
            if !replace(&mut self.scan.pages[(self.scan.page / PAGE) as usize], true) {
                self.forget(); // it may be mapped and writable
            }
        }
        let address = self.scan.page + linear % PAGE;
        let (seen, bit) = (&mut self.scan.seen[(address / 8) as usize], 1 << (address % 8));
        if *seen & bit != 0 {
            return false;
        }
        *seen |= bit;
        let machine = self.ram + address;
        let here = (PAGE - linear % PAGE).min(LONGEST as u64) as usize;
        // SAFETY: these bytes are in the guest's RAM, and the guest does not run.
        let code = unsafe { slice::from_raw_parts(machine as *const u8, here) };
        // Otherwise it goes on in the next page, or is none.
        if self.op.decode(code, self.long).is_none() && !self.fetch(linear).unwrap_or(false) {
            return false;
        }
        if is_sensitive(&self.op, self.long) {
            let Some(patch) = self.scan.patches.get_mut(self.scan.patched) else {
                self.end("ended by the monitor: more sensitive instructions than it can patch");
                return false;
            };
            *patch = (address, read8(machine));
            self.scan.patched += 1;
            write8(machine, HLT);
        }
        true
    }

    /// Ends the guest if it changes code that was looked at.
    pub fn changes(&mut self, address: u64, bytes: u64) {
        let mut nearby = address.saturating_sub(LONGEST as u64 - 1)..address + bytes;
        let is_seen = |at: u64| self.scan.seen[(at / 8) as usize] & 1 << (at % 8) != 0;
        if self.scan.pages[(address / PAGE) as usize] && nearby.any(is_seen) {
            self.end("ended by the monitor: it writes to its kernel's code");
        }
    }
}

/// Whether an instruction tells or changes what belongs to the monitor, in ring 3 and without a trap; or with a trap only as long as
/// the real tables hold nothing that fits (far transfers and loads of segment registers); or, CPUID, tells of the machine; or leads
/// to where nobody has looked.
fn is_sensitive(instruction: &Instruction, long: bool) -> bool {
    match instruction.opcode {
        // PUSHF, POPF; RETF, INT3, INT n, IRET, JMP far; moves of segment registers, SLDT, STR, VERR, VERW, LAR, LSL; CPUID.
        0x9c | 0x9d | 0xca..=0xcd | 0xcf | 0xea | 0x8c | 0x8e | 0x0f00 | 0x0f02 | 0x0f03 | 0x0fa2 => true,
        // Pushes and pops of segment registers.
        0x0fa0 | 0x0fa1 | 0x0fa8 | 0x0fa9 => true,
        0x06 | 0x07 | 0x0e | 0x16 | 0x17 | 0x1e | 0x1f => !long,
        0xff => matches!(instruction.reg(), 2..=5), // CALL and JMP, indirect or far
        0x0f01 => instruction.names_memory() && instruction.reg() < 2 || instruction.reg() == 4, // SGDT, SIDT, SMSW
        _ => false,
    }
}
