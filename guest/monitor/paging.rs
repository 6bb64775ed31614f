//! The guest's memory through its own page tables: what a linear address means, and how the monitor reads and writes there.
//!
//! 4-level paging, or none. Entries outside of the guest's RAM read as ones, as from hardware that is not there. Left out: paging
//! without long mode, protection keys, SMEP and SMAP, which CPUID does not offer the guest.
//! Source: Intel SDM vol. 3A §4.5 (4-level paging), §4.6 (access rights), §4.7 (error code), §4.8 (accessed and dirty flags).

use guest::memory::{read8, read64, write64};

use crate::decode::LONGEST;
use crate::fault::Fault;
use crate::vm::{CR0_PG, CR0_WP, EFER_NXE, Vm};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
pub const PRESENT: u64 = 1 << 0;
pub const WRITABLE: u64 = 1 << 1;
pub const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
pub const LARGE: u64 = 1 << 7;
pub const NO_EXECUTE: u64 = 1 << 63;
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What an access wants, in the bits of a page fault's error code.
pub const READ: u32 = 0;
pub const WRITE: u32 = 1 << 1;
pub const FETCH: u32 = 1 << 4;
const CODE_PRESENT: u32 = 1 << 0;
const CODE_USER: u32 = 1 << 2;
const CODE_RESERVED: u32 = 1 << 3;

/// What a linear address means. The last one is kept in the machine: such a structure on the stack is cleared by vector registers.
pub struct Translation {
    /// Guest-physical.
    pub address: u64,
    /// [`WRITABLE`], [`USER`] and [`NO_EXECUTE`] as all levels together have them; `WRITABLE` only once the page is marked dirty.
    pub rights: u64,
}

impl Vm {
    /// Translates `linear` into `self.found` for an access by ring 3 (`user`) or 0, and marks the entries as the processor does.
    ///
    /// # Errors
    /// #PF, with CR2 set.
    pub fn translate(&mut self, linear: u64, access: u32, user: bool) -> Result<(), Fault> {
        if self.cr0 & CR0_PG == 0 {
            self.found.address = linear & 0xffff_ffff;
            self.found.rights = WRITABLE | USER;
            return Ok(());
        }
        let base = access | if user { CODE_USER } else { 0 };
        let mut table = self.cr3 & ADDRESS;
        let mut rights = WRITABLE | USER;
        let mut shift = 39;
        let mut levels = 0;
        loop {
            let slot = table + (linear >> shift & 511) * 8;
            let Some(machine) = self.ram_at(slot, 8) else {
                return self.page_fault(linear, base | CODE_PRESENT | CODE_RESERVED);
            };
            let entry = read64(machine);
            if entry & PRESENT == 0 {
                return self.page_fault(linear, base);
            }
            self.entries[levels] = machine;
            levels += 1;
            rights &= entry | !(WRITABLE | USER);
            if self.efer & EFER_NXE != 0 {
                rights |= entry & NO_EXECUTE;
            }
            if entry & LARGE != 0 && shift > 21 {
                return self.page_fault(linear, base | CODE_PRESENT | CODE_RESERVED); // CPUID offers no pages of 1 GiB
            }
            if shift == 12 || entry & LARGE != 0 {
                let within = (1u64 << shift) - 1;
                self.found.address = entry & ADDRESS & !within | linear & within;
                break;
            }
            table = entry & ADDRESS;
            shift -= 9;
        }
        let obeys = user || self.cr0 & CR0_WP != 0;
        let forbidden = user && rights & USER == 0
            || access & WRITE != 0 && obeys && rights & WRITABLE == 0
            || access & FETCH != 0 && rights & NO_EXECUTE != 0;
        if forbidden {
            return self.page_fault(linear, base | CODE_PRESENT);
        }
        if !obeys {
            rights |= WRITABLE;
        }
        self.found.rights = self.mark(levels, access, rights);
        Ok(())
    }

    /// Sets the accessed flags of the last translation's entries, and the dirty flag for a write. A clean page is not writable yet, so
    /// that its first write is seen: what is left of `rights` is returned.
    fn mark(&mut self, levels: usize, access: u32, rights: u64) -> u64 {
        let mut left = rights;
        for level in 0..levels {
            let slot = self.entries[level];
            let last = level + 1 == levels;
            let entry = read64(slot);
            let dirty = if last && access & WRITE != 0 { DIRTY } else { 0 };
            let marked = entry | ACCESSED | dirty;
            if marked != entry {
                write64(slot, marked);
            }
            if last && marked & DIRTY == 0 {
                left &= !WRITABLE;
            }
        }
        left
    }

    /// #PF at `linear`.
    fn page_fault(&mut self, linear: u64, code: u32) -> Result<(), Fault> {
        self.cr2 = linear;
        // Ring 3 or no NX: the flag for fetches is there only with NXE (Intel SDM vol. 3A §4.7).
        Err(Fault::page(if self.efer & EFER_NXE != 0 { code } else { code & !FETCH }))
    }

    /// Reads `size` bytes, eight at most, at `linear`.
    ///
    /// # Errors
    /// #PF, with CR2 set.
    pub fn read(&mut self, linear: u64, size: u64, user: bool) -> Result<u64, Fault> {
        let first = size.min(PAGE - linear % PAGE);
        self.translate(linear, READ, user)?;
        let low = self.read_physical(self.found.address, first);
        if first == size {
            return Ok(low);
        }
        self.translate(linear.wrapping_add(first), READ, user)?;
        Ok(low | self.read_physical(self.found.address, size - first) << (first * 8))
    }

    /// Writes `size` bytes, eight at most, at `linear`.
    ///
    /// # Errors
    /// #PF, with CR2 set; nothing is written then.
    pub fn write(&mut self, linear: u64, size: u64, value: u64, user: bool) -> Result<(), Fault> {
        let first = size.min(PAGE - linear % PAGE);
        self.translate(linear, WRITE, user)?;
        let address = self.found.address;
        if first != size {
            self.translate(linear.wrapping_add(first), WRITE, user)?;
            self.write_physical(self.found.address, size - first, value >> (first * 8));
        }
        self.write_physical(address, first, value);
        Ok(())
    }

    /// Copies the code at `rip` into `self.code`, as much as can be executed. Returns how much it is. Where the scan has patched the
    /// first byte, the guest's comes back; a later one would be another instruction's.
    ///
    /// # Errors
    /// #PF, with CR2 set: not even the first byte.
    pub fn fetch(&mut self, rip: u64) -> Result<usize, Fault> {
        let (user, mut length) = (self.user, 0);
        self.translate(rip, FETCH, user)?;
        while let Some(machine) = self.ram_at(self.found.address, 1) {
            let here = (LONGEST - length).min((PAGE - self.found.address % PAGE) as usize);
            if here == LONGEST {
                let code = self.code.as_mut_ptr() as u64; // two words that overlap: quicker than 15 bytes
                write64(code, read64(machine));
                write64(code + LONGEST as u64 - 8, read64(machine + LONGEST as u64 - 8));
            } else {
                for index in 0..here {
                    self.code[length + index] = read8(machine + index as u64);
                }
            }
            if length == 0 {
                self.code[0] = self.scan.original(self.found.address, self.code[0]);
            }
            length += here;
            let (next, cr2) = (rip.wrapping_add(length as u64), self.cr2);
            if length == LONGEST || self.translate(next, FETCH, user).is_err() {
                self.cr2 = cr2; // an instruction that is shorter does not fault
                break;
            }
        }
        Ok(length)
    }
}
