//! Page tables of an address space, in frames of the machine, written by Hostel.
//!
//! A KVM that shadows page tables watches what the *guest* writes to them, not what its host writes. What it cannot notice never happens:
//! an entry that leads to another table never changes, and a table never becomes anything else. So a tree that is no longer used is kept
//! whole, its last level empty, and the next address space takes it over. An entry that maps a page may be filled or given more
//! rights at any time: the fault that the old one causes has KVM look again. One that loses rights has KVM told (`frames.rs`).
//! Sources: Intel SDM vol. 3A §4.5 (4-level paging), §4.10.2.3 (entries that are not present are not cached); Linux
//! `Documentation/virt/kvm/x86/mmu.rst`.

use super::frames::Frames;
use super::stub;
use crate::arch::paging::{ACCESSED, DIRTY, NO_EXECUTE, PRESENT, USER, WRITABLE};
use crate::bus::bus::lock;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// First address that no program can map: a page below the end of the lower half, as Linux has it.
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// Software's bit 9: a frame belongs to the page, even where the entry is not present since no access is allowed.
const RESIDENT: u64 = 1 << 9;
/// Guest-physical address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// An entry that leads to a table.
const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;

/// What a page may be used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// PROT_READ.
    pub read: bool,
    /// PROT_WRITE, which x86 cannot give without reading.
    pub write: bool,
    /// PROT_EXEC, which cannot be had without reading either.
    pub execute: bool,
}

/// What an entry of the last level says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The frame.
    pub frame: u64,
    /// What the processor lets a program do.
    pub rights: Rights,
}

/// The frames of the pages in ring 0, and trees that wait for an address space.
pub struct Trees {
    frames: Arc<Frames>,
    /// Entry of each PML4 for ring 0's pages.
    kernel: u64,
    unused: Mutex<Vec<u64>>,
}

impl Trees {
    /// Writes ring 0's pages; `None` when there is no memory for them.
    pub fn new(frames: Arc<Frames>) -> Option<Trees> {
        let trees = Trees { frames, kernel: 0, unused: Mutex::default() };
        let [pdpt, directory, table] = [trees.frames.allocate()?, trees.frames.allocate()?, trees.frames.allocate()?];
        let below = |gpa: u64| gpa | TABLE & !USER;
        trees.write(pdpt, below(directory));
        trees.write(directory, below(table));
        for index in 0..stub::PAGES {
            let gpa = trees.frames.allocate()?;
            trees.frames.ram().write(gpa, &stub::page(index)).expect("a frame is RAM");
            trees.write(table + index * 8, stub::entry(index, gpa));
        }
        Some(Trees { kernel: below(pdpt), ..trees })
    }

    /// Guest-physical address of a page in ring 0.
    pub fn kernel_page(&self, index: u64) -> u64 {
        let follow = |entry: u64| self.read(entry & ADDRESS) & ADDRESS;
        self.read(follow(follow(self.kernel)) + index * 8) & ADDRESS
    }

    /// An empty address space; `None` when there is no memory.
    pub fn tables(self: &Arc<Trees>) -> Option<Tables> {
        let unused = lock(&self.unused).pop();
        let root = match unused {
            Some(root) => root,
            None => {
                let root = self.frames.allocate()?;
                self.write(root + stub::PML4_INDEX * 8, self.kernel);
                root
            }
        };
        Some(Tables { trees: self.clone(), root })
    }

    fn read(&self, gpa: u64) -> u64 {
        self.frames.ram().read_u64(gpa).expect("a table is RAM")
    }

    fn write(&self, gpa: u64, entry: u64) {
        self.frames.ram().write(gpa, &entry.to_le_bytes()).expect("a table is RAM");
    }
}

/// The page tables of one address space. Whoever drops them has emptied them.
pub struct Tables {
    trees: Arc<Trees>,
    root: u64,
}

impl Tables {
    /// What goes into CR3.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Whose they are.
    pub fn trees(&self) -> &Arc<Trees> {
        &self.trees
    }

    /// The page at `address`.
    pub fn get(&self, address: u64) -> Option<Page> {
        page(self.trees.read(self.entry(address)?))
    }

    /// Maps a page; false when there is no memory for the tables.
    pub fn set(&self, address: u64, page: Page) -> bool {
        let Some(entry) = self.make_entry(address) else { return false };
        self.trees.write(entry, self::entry(page));
        true
    }

    /// Unmaps the pages of `start..end`, shows each, and returns their frames.
    pub fn clear(&self, start: u64, end: u64) -> Vec<u64> {
        let mut frames = Vec::new();
        self.for_each(start, end, |trees, at, _, page| {
            trees.write(at, 0);
            frames.push(page.frame);
        });
        frames
    }

    /// Gives each page of `start..end` the rights that `decide` gives for its address; returns the frames that lost some, sorted.
    pub fn protect(&self, start: u64, end: u64, mut decide: impl FnMut(u64, Page) -> Rights) -> Vec<u64> {
        let mut lost = Vec::new();
        self.for_each(start, end, |trees, at, address, page| {
            let rights = decide(address, page);
            let less = |old: bool, new: bool| old && !new;
            let Rights { read, write, execute } = page.rights;
            if less(read, rights.read) || less(write, rights.write) || less(execute, rights.execute) {
                lost.push(page.frame);
            }
            trees.write(at, self::entry(Page { rights, ..page }));
        });
        lost.sort_unstable();
        lost
    }

    /// Shows each page of `start..end`, with where its entry stands and its address.
    pub fn for_each(&self, start: u64, end: u64, mut seen: impl FnMut(&Trees, u64, u64, Page)) {
        self.descend(self.root, 39, 0, &(start..end), &mut seen);
    }

    /// Shows the pages of `range` below a table for the addresses from `base` on, of which an entry stands for `1 << shift`. A table is read
    /// in one piece, for most entries of most tables say nothing.
    fn descend(
        &self,
        table: u64,
        shift: u32,
        base: u64,
        range: &Range<u64>,
        seen: &mut impl FnMut(&Trees, u64, u64, Page),
    ) {
        let end = range.end.min(base + (512 << shift));
        let Some(bytes) = end.checked_sub(base) else { return };
        let first = range.start.saturating_sub(base) >> shift;
        let mut entries = [[0; 8]; 512];
        let Some(entries) = entries.get_mut(first as usize..bytes.div_ceil(1 << shift) as usize) else { return };
        self.trees.frames.ram().read(table + first * 8, entries.as_flattened_mut()).expect("a table is RAM");
        for (index, entry) in (first..).zip(entries.iter().map(|bytes| u64::from_le_bytes(*bytes))) {
            let address = base + (index << shift);
            if shift > 12 {
                if entry & PRESENT != 0 {
                    self.descend(entry & ADDRESS, shift - 9, address, range, seen);
                }
            } else if let Some(page) = page(entry) {
                seen(&self.trees, table + index * 8, address, page);
            }
        }
    }

    fn entry(&self, address: u64) -> Option<u64> {
        let mut table = self.root;
        for shift in [39, 30, 21] {
            let entry = self.trees.read(table + (address >> shift & 0x1ff) * 8);
            table = (entry & PRESENT != 0).then_some(entry & ADDRESS)?;
        }
        Some(table + (address >> 12 & 0x1ff) * 8)
    }

    fn make_entry(&self, address: u64) -> Option<u64> {
        let mut table = self.root;
        for shift in [39, 30, 21] {
            let at = table + (address >> shift & 0x1ff) * 8;
            let entry = self.trees.read(at);
            table = entry & ADDRESS;
            if entry & PRESENT == 0 {
                table = self.trees.frames.allocate()?;
                self.trees.write(at, table | TABLE);
            }
        }
        Some(table + (address >> 12 & 0x1ff) * 8)
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        lock(&self.trees.unused).push(self.root);
    }
}

fn page(entry: u64) -> Option<Page> {
    let present = entry & PRESENT != 0;
    let execute = present && entry & NO_EXECUTE == 0;
    let rights = Rights { read: present, write: present && entry & WRITABLE != 0, execute };
    (entry & RESIDENT != 0).then_some(Page { frame: entry & ADDRESS, rights })
}

fn entry(page: Page) -> u64 {
    let Rights { read, write, execute } = page.rights;
    let bit = |set: bool, bit: u64| if set { bit } else { 0 };
    let rights = bit(read || write || execute, PRESENT) | bit(write, WRITABLE) | bit(!execute, NO_EXECUTE);
    page.frame | RESIDENT | USER | ACCESSED | DIRTY | rights
}

#[cfg(test)]
mod tests {
    use super::super::frames::tests::frames;
    use super::*;
    use crate::arch::cpu_state::CpuState;
    use crate::arch::layout::MIB;
    use crate::arch::paging::walk;

    const READ: Rights = Rights { read: true, write: false, execute: false };

    #[test]
    fn the_processors_walk_finds_what_was_set_and_ring_0() {
        let frames = frames(2 * MIB);
        let trees = Arc::new(Trees::new(frames.clone()).unwrap());
        let tables = trees.tables().unwrap();
        let frame = frames.allocate().unwrap();
        assert!(tables.set(0x7fff_0000_1000, Page { frame, rights: READ }));
        let state = CpuState { cr3: tables.root(), ..CpuState::long_mode(0) };
        let mut read = |gpa| frames.ram().read_u64(gpa);
        assert_eq!(walk(&state, 0x7fff_0000_1234, &mut read).gpa, Some(frame + 0x234));
        assert_eq!(walk(&state, 0x7fff_0000_2000, &mut read).gpa, None);
        let code = walk(&state, stub::BASE, &mut read).gpa;
        assert_eq!(code, Some(trees.kernel_page(0)));
        assert_eq!(frames.ram().read_u64(code.unwrap()).unwrap().to_le_bytes()[..2], [0xe6, 0x10]);
        tables.clear(0, USER_END);
    }

    #[test]
    fn a_tree_is_used_again_with_its_tables() {
        let frames = frames(2 * MIB);
        let trees = Arc::new(Trees::new(frames.clone()).unwrap());
        let frame = frames.allocate().unwrap();
        let tables = trees.tables().unwrap();
        assert!(tables.set(0x40_0000, Page { frame, rights: READ }));
        assert_eq!(tables.clear(0, USER_END), [frame]);
        let (root, used) = (tables.root(), frames.count().0);
        drop(tables);
        let again = trees.tables().unwrap();
        assert_eq!((again.root(), again.get(0x40_0000)), (root, None));
        assert!(again.set(0x40_0000, Page { frame, rights: READ }));
        assert_eq!(frames.count().0, used, "no new table");
    }

    #[test]
    fn rights_that_go_are_told_and_a_page_without_any_keeps_its_frame() {
        let frames = frames(2 * MIB);
        let tables = Arc::new(Trees::new(frames.clone()).unwrap()).tables().unwrap();
        let frame = frames.allocate().unwrap();
        let all = Rights { read: true, write: true, execute: true };
        tables.set(0x1000, Page { frame, rights: all });
        assert_eq!(tables.protect(0, 0x10_0000, |_, _| Rights::default()), [frame]);
        assert_eq!(tables.get(0x1000), Some(Page { frame, rights: Rights::default() }));
        assert!(tables.protect(0, 0x10_0000, |_, _| all).is_empty());
        assert_eq!(tables.get(0x1000), Some(Page { frame, rights: all }));
    }
}
