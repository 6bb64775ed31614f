//! Shadow page tables: what the processor walks while a guest runs.
//!
//! A guest's tables map linear to guest-physical addresses; the shadow's map linear to machine addresses. They are filled by
//! page faults and used like a TLB: INVLPG forgets a page, a load of CR3 all of them, and between these a guest may not rely on a
//! change of its tables having come into effect, here or on any processor. So nobody has to watch the guest's tables.
//!
//! Guest ring 0 and ring 3 both run in the processor's ring 3, which cannot tell them apart. So each has tables of its own: those
//! of ring 3 hold only pages that the guest opened to it. Both hold the monitor's window, for the real ring 0.
//! Sources: Intel SDM vol. 3A §4.5, §4.10.2 (TLBs), §4.10.4 (invalidation).

use core::ptr::addr_of;

use guest::{apic::LAPIC, memory::*};

use crate::{machine::*, paging::*, vm::*};

/// Tables for each ring of a guest: one root, two that reach the window and are never taken away, for the monitor runs by them, and
/// the rest on demand. When these are used up, all is forgotten.
const TABLES: usize = 24;
const FIXED: usize = 3;
/// The LAPIC's registers are not memory.
const UNCACHED: u64 = 1 << 4;
/// An entry that leads to a table.
const TABLE: u64 = PRESENT | WRITABLE | USER;

/// The tables of one ring.
#[repr(C, align(4096))]
pub struct Space {
    tables: [[u64; 512]; TABLES],
    /// The entry that leads to each table.
    entries: [u64; TABLES],
    used: usize,
}

impl Space {
    fn table(&self, index: usize) -> u64 {
        addr_of!(self.tables[index]) as u64
    }

    /// Maps the window.
    fn map_window(&mut self) {
        self.used = FIXED;
        self.tables[0][0] = self.table(1) | TABLE;
        self.tables[1][0] = self.table(2) | TABLE;
        for address in (WINDOW..WINDOW + WINDOW_BYTES).step_by(LARGE_PAGE as usize) {
            let entry = if address == LAPIC_WINDOW { LAPIC | UNCACHED } else { address };
            self.tables[2][(address / LARGE_PAGE) as usize] = entry | PRESENT | WRITABLE | LARGE;
        }
    }

    /// Takes all tables but the fixed ones away.
    fn clear(&mut self) {
        for &entry in &self.entries[FIXED..self.used] {
            write64(entry, 0);
        }
        self.used = FIXED;
    }

    /// The entry of the level `lowest` for `linear`, its tables made where there are none. `None`: there is no room for one.
    fn entry(&mut self, linear: u64, lowest: u32) -> Option<u64> {
        let (mut table, mut shift) = (self.table(0), ROOT_SHIFT);
        loop {
            let slot = table + (linear >> shift & 511) * 8;
            if shift == lowest {
                return Some(slot);
            }
            if read64(slot) & PRESENT == 0 {
                let index = (self.used < TABLES).then_some(self.used)?;
                clear_page(self.table(index));
                self.entries[index] = slot;
                self.used += 1;
                write64(slot, self.table(index) | TABLE);
            }
            table = read64(slot) & ADDRESS;
            shift -= 9;
        }
    }
}

/// Whether an address is one that the monitor keeps.
fn in_window(linear: u64) -> bool {
    linear.wrapping_sub(WINDOW) < WINDOW_BYTES
}

impl Vm {
    /// The root of the tables for its ring.
    pub fn root(&self) -> u64 {
        self.shadow[usize::from(self.user)].table(0)
    }

    /// Makes tables that map the window and nothing of the guest.
    pub fn init_shadow(&mut self) {
        self.shadow.iter_mut().for_each(Space::map_window);
    }

    /// Forgets all that the shadow holds, as a load of CR3 does. For the machine that has the processor.
    pub fn forget(&mut self) {
        self.shadow.iter_mut().for_each(Space::clear);
        load_tables(self.root(), true);
    }

    /// Forgets the page at `linear`, as INVLPG does: all that a page of 2 MiB may hold, for the guest's may be one.
    pub fn forget_page(&mut self, linear: u64) {
        for space in self.shadow.iter_mut().filter(|_| !in_window(linear)) {
            if let Some(entry) = space.entry(linear, LARGE_SHIFT) {
                write64(entry, 0);
            }
        }
        load_tables(self.root(), true);
    }

    /// Answers a page fault at `linear`: maps the page as the guest's tables have it, and says whether it did. Otherwise the access is
    /// to be done for the guest: there is no RAM, or it lies in the monitor's window, or code of
    /// the page was looked at.
    ///
    /// # Errors
    /// The guest's tables do not allow the access either: the #PF is the guest's.
    pub fn fill(&mut self, linear: u64, access: u32) -> Result<bool, Fault> {
        self.translate(linear, access, self.user)?;
        let (address, allowed) = (self.found & !(PAGE - 1), self.rights);
        let is_code = |vm: &Vm| vm.scan.pages[(address / PAGE) as usize];
        let Some(machine) = self.ram_at(address, PAGE) else { return Ok(false) };
        if in_window(linear) || access & WRITE != 0 && is_code(self) {
            return Ok(false);
        }
        if access & FETCH != 0 {
            self.scan_from(linear);
        }
        // The kernel's code: either it may be written or what is in it has been looked at.
        let mut rights = allowed & (WRITABLE | NO_EXECUTE);
        if is_code(self) {
            rights &= !WRITABLE;
        } else if !self.user && !self.scan.disabled {
            rights |= NO_EXECUTE;
        }
        loop {
            if let Some(entry) = self.shadow[usize::from(self.user)].entry(linear, PAGE_SHIFT) {
                write64(entry, machine | rights | PRESENT | USER);
                return Ok(true);
            }
            self.forget();
        }
    }
}
