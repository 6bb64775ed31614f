//! The guest's memory through its own page tables: what a linear address means, and how the monitor reads and writes there.
//!
//! 4-level paging, or none. Entries outside of the guest's RAM have reserved bits set, as what hardware reads from nowhere: ones. Left
//! out: paging without long mode, pages of 1 GiB, protection keys, SMEP and SMAP, which CPUID does not offer the guest.
//! Source: Intel SDM vol. 3A §4.5 (4-level paging), §4.6 (access rights), §4.7 (error code), §4.8 (accessed and dirty flags).

use core::ptr::copy_nonoverlapping;

use guest::{cpu::*, interrupt::PAGE_FAULT, memory::*};

use crate::{decode::LONGEST, vm::*};

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

impl Vm {
    /// Translates `linear` into `self.found` and `self.rights` for an access by ring 3 (`user`) or 0, and marks the entries as the
    /// processor does.
    ///
    /// # Errors
    /// #PF, with CR2 set.
    pub fn translate(&mut self, linear: u64, access: u32, user: bool) -> Result<(), Fault> {
        self.found = linear & 0xffff_ffff;
        self.rights = WRITABLE | USER;
        if self.cr[0] & CR0_PG == 0 {
            return Ok(());
        }
        let code = access | if user { CODE_USER } else { 0 };
        let no_execute = if self.msrs[EFER] & EFER_NXE != 0 { NO_EXECUTE } else { 0 };
        let (mut table, mut rights, mut shift) = (self.cr[3] & ADDRESS, WRITABLE | USER, ROOT_SHIFT);
        let (machine, entry) = loop {
            let machine = self.ram_at(table + (linear >> shift & 511) * 8, 8);
            let entry = machine.map_or(u64::MAX, read64);
            if entry & PRESENT == 0 {
                return self.page_fault(linear, code);
            }
            let is_last = shift == PAGE_SHIFT || entry & LARGE != 0;
            let Some(machine) = machine.filter(|_| !is_last || shift <= LARGE_SHIFT) else {
                return self.page_fault(linear, code | CODE_PRESENT | CODE_RESERVED);
            };
            rights = rights & (entry | !(WRITABLE | USER)) | entry & no_execute;
            if is_last {
                break (machine, entry);
            }
            write64(machine, entry | ACCESSED);
            (table, shift) = (entry & ADDRESS, shift - 9);
        };
        if !user && self.cr[0] & CR0_WP == 0 {
            rights |= WRITABLE;
        }
        let forbidden = user && rights & USER == 0
            || access & WRITE != 0 && rights & WRITABLE == 0
            || access & FETCH != 0 && rights & NO_EXECUTE != 0;
        if forbidden {
            return self.page_fault(linear, code | CODE_PRESENT);
        }
        let marked = entry | ACCESSED | if access & WRITE != 0 { DIRTY } else { 0 };
        write64(machine, marked);
        // A clean page is not writable yet, so that its first write is seen.
        self.rights = if marked & DIRTY == 0 { rights & !WRITABLE } else { rights };
        let within = (1u64 << shift) - 1;
        self.found = entry & ADDRESS & !within | linear & within;
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
        let low = self.read_physical(self.found, first);
        if first == size {
            return Ok(low);
        }
        self.translate(linear.wrapping_add(first), READ, user)?;
        Ok(low | self.read_physical(self.found, size - first) << (first * 8))
    }

    /// Writes `size` bytes, eight at most, at `linear`.
    ///
    /// # Errors
    /// #PF, with CR2 set; nothing is written then.
    pub fn write(&mut self, linear: u64, size: u64, value: u64, user: bool) -> Result<(), Fault> {
        let first = size.min(PAGE - linear % PAGE);
        self.translate(linear, WRITE, user)?;
        let address = self.found;
        if first != size {
            self.translate(linear.wrapping_add(first), WRITE, user)?;
            self.write_physical(self.found, size - first, value >> (first * 8));
        }
        self.write_physical(address, first, value);
        Ok(())
    }

    /// Copies the code at `rip` into `self.code`, as much as can be executed, and takes it apart; says whether it is an instruction.
    /// Where the scan has patched the first byte, the guest's comes back; a later one would be another instruction's.
    ///
    /// # Errors
    /// #PF, with CR2 set: not even the first byte.
    pub fn fetch(&mut self, rip: u64) -> Result<bool, Fault> {
        self.translate(rip, FETCH, self.user)?;
        let (mut length, cr2) = (0, self.cr[2]);
        while let Some(machine) = self.ram_at(self.found, 1) {
            let here = (LONGEST - length).min((PAGE - self.found % PAGE) as usize);
            // SAFETY: as many bytes are left in both, and the page is RAM of the guest.
            unsafe { copy_nonoverlapping(machine as *const u8, self.code[length..].as_mut_ptr(), here) };
            if length == 0 {
                let patched = self.code[0];
                self.code[0] = self.scan.original(self.found, patched);
                self.is_patched = self.code[0] != patched;
            }
            length += here;
            if length == LONGEST || self.translate(rip.wrapping_add(length as u64), FETCH, self.user).is_err() {
                break;
            }
        }
        self.cr[2] = cr2; // an instruction that is shorter does not fault
        let known = self.op.decode(&self.code[..length], self.long).is_some();
        self.code_length = if known { self.op.length as usize } else { 0 };
        Ok(known)
    }
}
