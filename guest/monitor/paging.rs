//! The guest's memory through its own page tables: what a linear address means, and how the monitor reads and writes there.
//!
//! 4-level paging, or none. Entries outside of the guest's RAM have reserved bits set, as what hardware reads from nowhere: ones. Left
//! out: paging without long mode, pages of 1 GiB, protection keys, SMEP and SMAP, which CPUID does not offer the guest.
//! Source: Intel SDM vol. 3A §4.5 (4-level paging), §4.6 (access rights), §4.7 (error code), §4.8 (accessed and dirty flags).

use guest::interrupt::PAGE_FAULT;
use guest::memory::{read8, read64, write64};

use crate::decode::LONGEST;
use crate::vm::{CR0_PG, CR0_WP, EFER, EFER_NXE, Fault, Vm};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bits of an entry.
pub const PRESENT: u64 = 1 << 0;
pub const WRITABLE: u64 = 1 << 1;
pub const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
pub const LARGE: u64 = 1 << 7;
pub const NO_EXECUTE: u64 = 1 << 63;
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bytes that an entry of the root, of a page directory and of the lowest table map, as powers of two.
pub const ROOT_SHIFT: u32 = 39;
pub const LARGE_SHIFT: u32 = 21;
pub const PAGE_SHIFT: u32 = 12;

/// What an access wants, in the bits of a page fault's error code, and the others there.
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
        self.found.address = linear & 0xffff_ffff;
        self.found.rights = WRITABLE | USER;
        if self.cr[0] & CR0_PG == 0 {
            return Ok(());
        }
        let code = access | if user { CODE_USER } else { 0 };
        let no_execute = if self.msrs[EFER] & EFER_NXE != 0 { NO_EXECUTE } else { 0 };
        let (mut table, mut rights) = (self.cr[3] & ADDRESS, WRITABLE | USER);
        let (mut shift, mut levels) = (ROOT_SHIFT, 0);
        loop {
            let Some(machine) = self.ram_at(table + (linear >> shift & 511) * 8, 8) else {
                return self.page_fault(linear, code | CODE_PRESENT | CODE_RESERVED);
            };
            let entry = read64(machine);
            if entry & PRESENT == 0 {
                return self.page_fault(linear, code);
            }
            if entry & LARGE != 0 && shift > LARGE_SHIFT {
                return self.page_fault(linear, code | CODE_PRESENT | CODE_RESERVED);
            }
            self.entries[levels] = machine;
            levels += 1;
            rights = rights & (entry | !(WRITABLE | USER)) | entry & no_execute;
            if shift == PAGE_SHIFT || entry & LARGE != 0 {
                let within = (1u64 << shift) - 1;
                self.found.address = entry & ADDRESS & !within | linear & within;
                break;
            }
            table = entry & ADDRESS;
            shift -= 9;
        }
        if !user && self.cr[0] & CR0_WP == 0 {
            rights |= WRITABLE;
        }
        let forbidden = user && rights & USER == 0
            || access & WRITE != 0 && rights & WRITABLE == 0
            || access & FETCH != 0 && rights & NO_EXECUTE != 0;
        if forbidden {
            return self.page_fault(linear, code | CODE_PRESENT);
        }
        // Marks the entries. A clean page is not writable yet, so that its first write is seen.
        for level in 0..levels {
            let entry = read64(self.entries[level]);
            let last = level + 1 == levels;
            let marked = entry | ACCESSED | if last && access & WRITE != 0 { DIRTY } else { 0 };
            if marked != entry {
                write64(self.entries[level], marked);
            }
            if last && marked & DIRTY == 0 {
                rights &= !WRITABLE;
            }
        }
        self.found.rights = rights;
        Ok(())
    }

    /// #PF at `linear`. The flag for fetches is there only with NXE (Intel SDM vol. 3A §4.7).
    fn page_fault(&mut self, linear: u64, code: u32) -> Result<(), Fault> {
        self.cr[2] = linear;
        Err(Fault { vector: PAGE_FAULT, code: if self.msrs[EFER] & EFER_NXE != 0 { code } else { code & !FETCH } })
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
        self.translate(rip, FETCH, self.user)?;
        let mut length = 0;
        while let Some(machine) = self.ram_at(self.found.address, 1) {
            let here = (LONGEST - length).min((PAGE - self.found.address % PAGE) as usize);
            if here == LONGEST {
                let (code, last) = (self.code.as_mut_ptr() as u64, LONGEST as u64 - 8);
                write64(code, read64(machine)); // two words that overlap: quicker than bytes
                write64(code + last, read64(machine + last));
            } else {
                (0..here).for_each(|index| self.code[length + index] = read8(machine + index as u64));
            }
            if length == 0 {
                self.code[0] = self.scan.original(self.found.address, self.code[0]);
                self.is_patched = self.code[0] != read8(machine);
            }
            length += here;
            let cr2 = self.cr[2];
            if length == LONGEST || self.translate(rip.wrapping_add(length as u64), FETCH, self.user).is_err() {
                self.cr[2] = cr2; // an instruction that is shorter does not fault
                break;
            }
        }
        Ok(length)
    }
}
