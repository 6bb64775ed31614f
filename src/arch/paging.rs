//! Page tables: the identity map that 64-bit entries start on, tables made page by page, and the walk that a diagnosis shows.
//!
//! Leaves out protection keys and rights (a walk only translates).
//! Source: Intel SDM vol. 3A §4.3 (32-bit paging), §4.4 (PAE paging), §4.5 (4-level and 5-level paging).

use super::cpu_state::{CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, CpuState, EFER_LMA};
use super::layout::{GIB, IDENTITY_PD_COUNT, PAGE_SIZE};

/// Entries of a page table.
pub const ENTRIES: usize = 512;
/// Entry: present.
pub const PRESENT: u64 = 1;
/// Entry: writable.
pub const WRITABLE: u64 = 1 << 1;
/// Entry: ring 3 may use it.
pub const USER: u64 = 1 << 2;
/// Entry: was used for a translation.
pub const ACCESSED: u64 = 1 << 5;
/// Entry that maps a page: the page was written.
pub const DIRTY: u64 = 1 << 6;
/// Entry of a PDPT or PD: maps a page itself.
pub const PAGE: u64 = 1 << 7;
/// Entry that maps a page: survives writes to CR3, where CR4.PGE is set.
pub const GLOBAL: u64 = 1 << 8;
/// Entry: nothing below may be executed, where EFER.NXE is set.
pub const NO_EXECUTE: u64 = 1 << 63;
/// Physical address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Tables that [`identity_map`] makes.
pub const IDENTITY_TABLES: usize = 2 + IDENTITY_PD_COUNT as usize;

/// Page tables that map the first 4 GiB onto themselves by 2 MiB pages, to be written one after the other from `pml4` on
/// (a page-aligned guest-physical address).
pub fn identity_map(pml4: u64) -> [[u64; ENTRIES]; IDENTITY_TABLES] {
    let mut tables = [[0; ENTRIES]; IDENTITY_TABLES];
    let table = |index: u64| (pml4 + index * PAGE_SIZE) | PRESENT | WRITABLE;
    tables[0][0] = table(1);
    for pd in 0..IDENTITY_PD_COUNT {
        tables[1][pd as usize] = table(2 + pd);
        for entry in 0..ENTRIES as u64 {
            tables[2 + pd as usize][entry as usize] = (pd * GIB + entry * (2 << 20)) | PRESENT | WRITABLE | PAGE;
        }
    }
    tables
}

/// 4-level page tables that map 4 KiB pages onto themselves, made page by page: for a machine whose memory is laid out here, and
/// not by a kernel. Entries are marked as used and written, so the processor never writes into the tables.
#[derive(Clone, Debug)]
pub struct IdentityPages {
    base: u64,
    tables: Vec<[u64; ENTRIES]>,
}

impl IdentityPages {
    /// Tables without a page, to stand from `base` on (a page-aligned guest-physical address), the PML4 first.
    pub fn new(base: u64) -> IdentityPages {
        IdentityPages { base, tables: vec![[0; ENTRIES]] }
    }

    /// Maps the pages that `start..end` touches, with these flags besides [`PRESENT`]; pages that are mapped already get these rights
    /// too. Addresses below 512 GiB.
    pub fn map(&mut self, start: u64, end: u64, flags: u64) {
        let mut page = start & !(PAGE_SIZE - 1);
        while page < end {
            let mut table = 0;
            for shift in [39, 30, 21] {
                table = self.below(table, (page >> shift) as usize % ENTRIES);
            }
            let entry = &mut self.tables[table][(page >> 12) as usize % ENTRIES];
            // What may be executed by one of two mappings may be.
            let no_execute = if *entry == 0 { flags } else { *entry & flags } & NO_EXECUTE;
            *entry = (*entry | flags) & !NO_EXECUTE | no_execute | page | PRESENT | ACCESSED | DIRTY;
            page += PAGE_SIZE;
        }
    }

    /// The entries of all tables, in the order in which they stand in memory.
    pub fn entries(&self) -> &[u64] {
        self.tables.as_flattened()
    }

    /// The number of the table that entry `index` of `table` leads to, which is made if there is none.
    fn below(&mut self, table: usize, index: usize) -> usize {
        let entry = self.tables[table][index];
        if entry & PRESENT != 0 {
            return ((entry & ADDRESS) - self.base) as usize / PAGE_SIZE as usize;
        }
        let next = self.tables.len();
        self.tables.push([0; ENTRIES]);
        self.tables[table][index] = (self.base + next as u64 * PAGE_SIZE) | PRESENT | WRITABLE | USER | ACCESSED;
        next
    }
}

/// One step of a walk: the entry of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Name of the table: "PML5", "PML4", "PDPT", "PD", "PT".
    pub table: &'static str,
    /// Guest-physical address of the entry.
    pub entry_gpa: u64,
    /// The entry; `None` where it is not in RAM.
    pub entry: Option<u64>,
}

/// How a linear address translates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The entries on the way; empty without paging.
    pub steps: Vec<Step>,
    /// The guest-physical address; `None` where an entry is missing.
    pub gpa: Option<u64>,
}

/// Translates the linear address `gva` as the vCPU in `state` would. `read` gives a 64-bit word of guest-physical memory.
pub fn walk(state: &CpuState, gva: u64, read: &mut dyn FnMut(u64) -> Option<u64>) -> Walk {
    let mut steps = Vec::new();
    let gpa = translate(state, gva, read, &mut |step| steps.push(step));
    Walk { steps, gpa }
}

/// The guest-physical address behind `gva`; each entry on the way is shown to `seen`.
fn translate(
    state: &CpuState,
    gva: u64,
    read: &mut dyn FnMut(u64) -> Option<u64>,
    seen: &mut dyn FnMut(Step),
) -> Option<u64> {
    if state.cr0 & CR0_PG == 0 {
        return Some(gva & 0xffff_ffff);
    }
    if state.cr4 & CR4_PAE == 0 {
        return translate_32(state, gva, read, seen);
    }
    let long = state.efer & EFER_LMA != 0;
    let levels: &[(&'static str, u32)] = match (long, state.cr4 & CR4_LA57 != 0) {
        (true, true) => &[("PML5", 48), ("PML4", 39), ("PDPT", 30), ("PD", 21), ("PT", 12)],
        (true, false) => &[("PML4", 39), ("PDPT", 30), ("PD", 21), ("PT", 12)],
        (false, _) => &[("PDPT", 30), ("PD", 21), ("PT", 12)],
    };
    let mut table = if long { state.cr3 & ADDRESS } else { state.cr3 & 0xffff_ffe0 };
    for &(name, shift) in levels {
        let entry_gpa = table + ((gva >> shift) & 0x1ff) * 8;
        let entry = read(entry_gpa);
        seen(Step { table: name, entry_gpa, entry });
        let entry = entry.filter(|entry| entry & PRESENT != 0)?;
        let is_page = shift == 12 || (entry & PAGE != 0 && shift < 39);
        if is_page {
            let offset = (1u64 << shift) - 1;
            return Some((entry & ADDRESS & !offset) | (gva & offset));
        }
        table = entry & ADDRESS;
    }
    None
}

/// 32-bit paging: two levels of 1024 entries of four bytes, pages of 4 KiB and, with PSE, 4 MiB.
fn translate_32(
    state: &CpuState,
    gva: u64,
    read: &mut dyn FnMut(u64) -> Option<u64>,
    seen: &mut dyn FnMut(Step),
) -> Option<u64> {
    let mut table = state.cr3 & 0xffff_f000;
    for (name, shift) in [("PD", 22), ("PT", 12)] {
        let entry_gpa = table + ((gva >> shift) & 0x3ff) * 4;
        let entry = read(entry_gpa & !7).map(|pair| pair >> (entry_gpa % 8 * 8) & 0xffff_ffff);
        seen(Step { table: name, entry_gpa, entry });
        let entry = entry.filter(|entry| entry & PRESENT != 0)?;
        if name == "PD" && entry & PAGE != 0 && state.cr4 & CR4_PSE != 0 {
            // Bits 32 to 39 of the address stand in bits 13 to 20 of the entry.
            return Some((entry & 0xffc0_0000) | ((entry >> 13 & 0xff) << 32) | (gva & 0x3f_ffff));
        }
        table = entry & 0xffff_f000;
    }
    Some(table | (gva & 0xfff))
}

/// Copies guest code or data at the linear address `gva` into `bytes` through the page tables; returns how many bytes
/// could be read.
pub fn read_linear(state: &CpuState, gva: u64, bytes: &mut [u8], read: &mut dyn FnMut(u64) -> Option<u64>) -> usize {
    let mut done = 0;
    while done < bytes.len() {
        let at = gva.wrapping_add(done as u64);
        let Some(gpa) = translate(state, at, read, &mut |_| ()) else { return done };
        let page_end = (gpa | (PAGE_SIZE - 1)).saturating_add(1);
        let in_page = bytes.len().min(done + (page_end - gpa) as usize);
        let mut gpa = gpa;
        while done < in_page {
            let Some(word) = read(gpa & !7) else { return done };
            let word = &word.to_le_bytes()[(gpa & 7) as usize..];
            let count = word.len().min(in_page - done);
            bytes[done..done + count].copy_from_slice(&word[..count]);
            done += count;
            gpa += count as u64;
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::BOOT_PML4;

    fn read(gpa: u64) -> Option<u64> {
        let index = gpa.checked_sub(BOOT_PML4)? / 8;
        identity_map(BOOT_PML4).as_flattened().get(index as usize).copied()
    }

    #[test]
    fn the_identity_map_maps_4_gib_onto_themselves() {
        let state = CpuState::long_mode(0);
        for gva in [0, 0x10_1234, GIB - 1, 3 * GIB + 5, 4 * GIB - 1] {
            let walk = walk(&state, gva, &mut read);
            assert_eq!(walk.gpa, Some(gva));
            assert_eq!(walk.steps.len(), 3);
        }
        assert_eq!(walk(&state, 4 * GIB, &mut read).gpa, None);
    }

    #[test]
    fn pages_are_mapped_one_by_one() {
        let base = 0x10_0000;
        let mut pages = IdentityPages::new(base);
        pages.map(0x40_0000, 0x40_1001, USER | NO_EXECUTE);
        pages.map(0x40_1800, 0x40_1801, WRITABLE | USER);
        pages.map(GIB - 1, GIB + 1, 0);
        let state = CpuState { cr3: base, ..CpuState::long_mode(0) };
        let mut read = |gpa: u64| pages.entries().get((gpa.checked_sub(base)? / 8) as usize).copied();
        let mut entry = |gva| {
            let walk = walk(&state, gva, &mut read);
            assert!(walk.gpa.is_none_or(|gpa| gpa == gva));
            walk.gpa.and(walk.steps.last().and_then(|step| step.entry)).map(|entry| entry & !ADDRESS)
        };
        let used = PRESENT | ACCESSED | DIRTY;
        assert_eq!(entry(0x40_0fff), Some(used | USER | NO_EXECUTE));
        assert_eq!(entry(0x40_1234), Some(used | USER | WRITABLE), "code of one segment and data of another on a page");
        assert_eq!([entry(0x40_2000), entry(0x3f_ffff), entry(GIB - 4097)], [None; 3]);
        assert_eq!([entry(GIB - 4096), entry(GIB + 4095)], [Some(used); 2]);
        assert_eq!(pages.entries().len(), 7 * ENTRIES, "PML4, two PDPT entries' PDs, three PTs");
    }

    #[test]
    fn without_paging_linear_is_physical() {
        assert_eq!(walk(&CpuState::protected_mode(0), 0x1234, &mut read).gpa, Some(0x1234));
    }

    #[test]
    fn thirty_two_bit_paging_has_two_levels() {
        let mut state = CpuState { cr0: CR0_PG, cr3: 0x1000, ..CpuState::protected_mode(0) };
        // PD: entry 0 leads to the PT at 0x2000, entry 1 maps 4 MiB. PT: entry 3 maps 0x7000.
        let mut read = |gpa: u64| match gpa {
            0x1000 => Some(0x0080_0083 << 32 | 0x2001),
            0x2008 => Some(0x7001 << 32),
            0x2000..0x3000 => Some(0),
            _ => None,
        };
        assert_eq!(walk(&state, 0x3abc, &mut read).gpa, Some(0x7abc));
        assert_eq!(walk(&state, 0x2abc, &mut read).gpa, None, "not present");
        state.cr4 = CR4_PSE;
        let large = walk(&state, 0x40_1234, &mut read);
        assert_eq!((large.gpa, large.steps.len()), (Some(0x80_1234), 1));
    }

    #[test]
    fn five_levels_begin_one_higher() {
        let state = CpuState { cr4: CR4_PAE | CR4_LA57, ..CpuState::long_mode(0) };
        let names: Vec<_> = walk(&state, 0, &mut |_| Some(PRESENT)).steps.iter().map(|step| step.table).collect();
        assert_eq!(names, ["PML5", "PML4", "PDPT", "PD", "PT"]);
    }

    #[test]
    fn hostile_tables_end_the_walk() {
        let state = CpuState { cr3: u64::MAX, ..CpuState::long_mode(0) };
        assert_eq!(walk(&state, u64::MAX, &mut |_| Some(u64::MAX)).gpa.map(|gpa| gpa & !ADDRESS), Some(0xfff));
        assert_eq!(walk(&state, u64::MAX, &mut |_| None).gpa, None);
        let mut bytes = [0; 4];
        assert_eq!(read_linear(&state, 0, &mut bytes, &mut |_| None), 0);
    }
}
