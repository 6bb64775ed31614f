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

use guest::memory::{read64, write64};

use crate::fault::Fault;
use crate::machine::{self, LAPIC, LAPIC_WINDOW, LARGE_PAGE, WINDOW, WINDOW_BYTES};
use crate::paging::{ADDRESS, FETCH, LARGE, NO_EXECUTE, PAGE, PRESENT, USER, WRITABLE, WRITE};
use crate::vm::Vm;

/// Tables for each ring of a guest: one root, two that reach the window and are never taken away, for the monitor runs by them, and
/// the rest on demand. When these are used up, all is forgotten.
const TABLES: usize = 24;
const FIXED: usize = 3;
/// Bytes that an entry of each level maps, as a power of two.
const ROOT_SHIFT: u32 = 39;
const LARGE_SHIFT: u32 = 21;
const PAGE_SHIFT: u32 = 12;
/// The LAPIC's registers are not memory.
const UNCACHED: u64 = 1 << 4;

#[repr(align(4096))]
struct Tables([[u64; 512]; TABLES]);

/// The tables of one ring.
struct Space {
    tables: Tables,
    /// The entry that leads to each table.
    entries: [u64; TABLES],
    used: usize,
}

/// The tables of ring 0 and of ring 3.
pub struct Shadow {
    spaces: [Space; 2],
}

/// What came of a page fault.
pub enum Filled {
    /// The shadow has the page now: once more.
    Mapped,
    /// There is no RAM, or it lies in the monitor's window: the access is to be done for the guest.
    Elsewhere,
}

impl Space {
    const fn new() -> Space {
        Space { tables: Tables([[0; 512]; TABLES]), entries: [0; TABLES], used: 0 }
    }

    fn table(&self, index: usize) -> u64 {
        addr_of!(self.tables.0[index]) as u64
    }

    /// Maps the window.
    fn map_window(&mut self) {
        self.used = FIXED;
        let first = (WINDOW / LARGE_PAGE) as usize;
        self.tables.0[0][0] = self.table(1) | PRESENT | WRITABLE | USER;
        self.tables.0[1][0] = self.table(2) | PRESENT | WRITABLE | USER;
        for page in 0..WINDOW_BYTES / LARGE_PAGE {
            let address = WINDOW + page * LARGE_PAGE;
            let entry = if address == LAPIC_WINDOW { LAPIC | UNCACHED } else { address };
            self.tables.0[2][first + page as usize] = entry | PRESENT | WRITABLE | LARGE;
        }
    }

    /// Takes all tables but the fixed ones away.
    fn clear(&mut self) {
        for &entry in &self.entries[FIXED..self.used] {
            write64(entry, 0);
        }
        self.used = FIXED;
    }

    /// Takes the lowest table for `linear` away, if there is one.
    fn take_away(&mut self, linear: u64) {
        let mut table = self.table(0);
        for shift in [ROOT_SHIFT, ROOT_SHIFT - 9] {
            let entry = read64(table + (linear >> shift & 511) * 8);
            if entry & PRESENT == 0 {
                return;
            }
            table = entry & ADDRESS;
        }
        write64(table + (linear >> LARGE_SHIFT & 511) * 8, 0);
    }

    /// The entry for the page at `linear`, its tables made where there are none. `None`: there is no room for one.
    fn entry(&mut self, linear: u64) -> Option<u64> {
        let mut table = self.table(0);
        let mut shift = ROOT_SHIFT;
        loop {
            let slot = table + (linear >> shift & 511) * 8;
            if shift == PAGE_SHIFT {
                return Some(slot);
            }
            let entry = read64(slot);
            if entry & PRESENT != 0 {
                table = entry & ADDRESS;
            } else {
                if self.used == TABLES {
                    return None;
                }
                machine::clear_page(self.table(self.used));
                self.entries[self.used] = slot;
                table = self.table(self.used);
                self.used += 1;
                write64(slot, table | PRESENT | WRITABLE | USER);
            }
            shift -= 9;
        }
    }
}

impl Shadow {
    /// Tables that map nothing, not even the window: [`Vm::init_shadow`] comes first.
    pub const fn new() -> Shadow {
        Shadow { spaces: [const { Space::new() }; 2] }
    }

    /// The root of the tables for a ring.
    pub fn root(&self, user: bool) -> u64 {
        self.spaces[usize::from(user)].table(0)
    }
}

/// Whether an address is one that the monitor keeps.
fn in_window(linear: u64) -> bool {
    linear.wrapping_sub(WINDOW) < WINDOW_BYTES
}

impl Vm {
    /// Makes tables that map the window and nothing of the guest.
    pub fn init_shadow(&mut self) {
        for space in &mut self.shadow.spaces {
            space.map_window();
        }
    }

    /// Forgets all that the shadow holds, as a load of CR3 does. For the machine that has the processor.
    pub fn forget(&mut self) {
        self.shadow.spaces[0].clear();
        self.shadow.spaces[1].clear();
        self.counts.flushes += 1;
        machine::load_tables(self.shadow.root(self.user));
    }

    /// Forgets the page at `linear`, as INVLPG does: all that a page of 2 MiB may hold, for the guest's may be one.
    pub fn forget_page(&mut self, linear: u64) {
        if in_window(linear) {
            return;
        }
        for space in &mut self.shadow.spaces {
            space.take_away(linear);
        }
        machine::load_tables(self.shadow.root(self.user));
    }

    /// Answers a page fault at `linear`: maps the page as the guest's tables have it.
    ///
    /// # Errors
    /// The guest's tables do not allow the access either: the #PF is the guest's.
    pub fn fill(&mut self, linear: u64, access: u32) -> Result<Filled, Fault> {
        let user = self.user;
        self.translate(linear, access, user)?;
        let allowed = self.found.rights;
        let Some(machine) = self.ram_at(self.found.address & !(PAGE - 1), PAGE) else { return Ok(Filled::Elsewhere) };
        if in_window(linear) {
            return Ok(Filled::Elsewhere);
        }
        if access & FETCH != 0 {
            self.scan_from(linear);
        }
        let page = (machine - self.ram) / PAGE;
        if access & WRITE != 0 && self.scan.is_scanned(page) {
            self.unscan(page);
        }
        let mut rights = allowed & (WRITABLE | NO_EXECUTE);
        // The kernel's code: either it may be written or what is in it has been looked at.
        if self.scan.is_scanned(page) {
            rights &= !WRITABLE;
        } else if !user && !self.scan.disabled {
            rights |= NO_EXECUTE;
        }
        self.counts.fills += 1;
        loop {
            if let Some(entry) = self.shadow.spaces[usize::from(user)].entry(linear) {
                write64(entry, machine | rights | PRESENT | USER);
                return Ok(Filled::Mapped);
            }
            self.forget();
        }
    }
}
