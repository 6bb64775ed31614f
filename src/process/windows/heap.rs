//! The program's heap: which parts of it are in use, best fit.
//!
//! What is known of the blocks stands here and not between them, where the program could overwrite it: a block freed twice, or one
//! that never was, is told and changes nothing. Leaves out several heaps: `HeapCreate` is not offered.
//! Source: Microsoft "Heap Functions", "malloc".

use super::pe::{Access, PAGE};
use super::user::Memory;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Most blocks in use at a time: what Hostel keeps of one is about 100 bytes.
const BLOCKS_MAX: usize = 1 << 20;
/// Blocks begin at multiples of this (Microsoft "malloc").
const ALIGN: u64 = 16;
/// Least by which the heap grows.
const GROWTH: u64 = 1 << 20;

/// A heap that grows upwards from its base.
#[derive(Debug)]
pub struct Heap {
    base: u64,
    end: u64,
    limit: u64,
    /// What lies from here on was in no block yet, and so is zero.
    untouched: u64,
    /// Blocks in use: their bytes, rounded up, and as they were asked for.
    used: BTreeMap<u64, (u64, u64)>,
    /// Free ranges by address; two never touch.
    free: BTreeMap<u64, u64>,
    /// The same by size.
    by_size: BTreeSet<(u64, u64)>,
}

impl Heap {
    /// An empty heap between two addresses.
    pub fn new(base: u64, limit: u64) -> Heap {
        Heap {
            base,
            end: base,
            limit,
            untouched: base,
            used: BTreeMap::new(),
            free: BTreeMap::new(),
            by_size: BTreeSet::new(),
        }
    }

    /// The addresses that it has taken so far.
    pub fn range(&self) -> Range<u64> {
        self.base..self.end
    }

    /// The first address that was in no block yet: from there on memory is zero.
    pub fn untouched(&self) -> u64 {
        self.untouched
    }

    /// A block of `size` bytes; `None`: there is no memory left.
    pub fn allocate(&mut self, size: u64, memory: &mut dyn Memory) -> Option<u64> {
        let room = size.max(1).checked_next_multiple_of(ALIGN)?;
        if self.used.len() == BLOCKS_MAX {
            return None;
        }
        let fitting = |heap: &Heap| heap.by_size.range((room, 0)..).next().copied();
        let (free, start) = match fitting(self) {
            Some(found) => found,
            None => {
                self.grow(room, memory)?;
                fitting(self)?
            }
        };
        self.take(start, free);
        if free > room {
            self.give(start + room, free - room);
        }
        self.used.insert(start, (room, size));
        self.untouched = self.untouched.max(start + room);
        Some(start)
    }

    fn grow(&mut self, room: u64, memory: &mut dyn Memory) -> Option<()> {
        let size = room.max(GROWTH).checked_next_multiple_of(PAGE)?;
        let size = if self.end.checked_add(size)? > self.limit { room.next_multiple_of(PAGE) } else { size };
        if self.end.checked_add(size)? > self.limit || !memory.map(self.end, size, Access::DATA) {
            return None;
        }
        self.give(self.end, size);
        self.end += size;
        Some(())
    }

    /// Takes a free range out of both lists.
    fn take(&mut self, start: u64, size: u64) {
        self.free.remove(&start);
        self.by_size.remove(&(size, start));
    }

    /// Makes a range free, as one with those that it touches.
    fn give(&mut self, mut start: u64, mut size: u64) {
        if let Some((&before, &bytes)) =
            self.free.range(..start).next_back().filter(|(before, bytes)| **before + **bytes == start)
        {
            self.take(before, bytes);
            (start, size) = (before, size + bytes);
        }
        if let Some(&after) = self.free.get(&(start + size)) {
            self.take(start + size, after);
            size += after;
        }
        self.free.insert(start, size);
        self.by_size.insert((size, start));
    }

    /// The bytes that a block was asked for with; `None`: it is none.
    pub fn size(&self, block: u64) -> Option<u64> {
        self.used.get(&block).map(|(_, size)| *size)
    }

    /// Frees a block; false: it is none.
    pub fn release(&mut self, block: u64) -> bool {
        let Some((room, _)) = self.used.remove(&block) else { return false };
        self.give(block, room);
        true
    }

    /// Gives a block another size where it lies; false: that needs another place.
    pub fn resize(&mut self, block: u64, size: u64) -> bool {
        match self.used.get_mut(&block) {
            Some((room, asked)) if size <= *room => {
                *asked = size;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeMemory;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_freed_is_used_again() {
        let (mut heap, mut memory) = (Heap::new(0x1_0000, 0x100_0000), FakeMemory::default());
        let blocks = [10, 20, 30].map(|size| heap.allocate(size, &mut memory).unwrap());
        assert_eq!(blocks, [0x1_0000, 0x1_0010, 0x1_0030]);
        assert!(heap.release(blocks[1]) && !heap.release(blocks[1]) && !heap.release(0x1_0031));
        assert_eq!(heap.allocate(32, &mut memory), Some(blocks[1]));
        assert!(heap.resize(blocks[1], 5) && !heap.resize(blocks[1], 33));
        assert_eq!(heap.size(blocks[1]), Some(5));
    }

    #[test]
    fn more_than_there_is_is_refused() {
        let (mut heap, mut memory) = (Heap::new(0x1_0000, 0x3_0000), FakeMemory::default());
        for size in [u64::MAX, u64::MAX - 15, 0x2_0001] {
            assert_eq!(heap.allocate(size, &mut memory), None);
        }
        assert_eq!(heap.allocate(0x2_0000, &mut memory), Some(0x1_0000));
        assert_eq!(heap.allocate(0, &mut memory), None);
    }

    proptest! {
        #[test]
        fn blocks_never_overlap(sizes in prop::collection::vec((0u64..5000, any::<bool>()), 1..60)) {
            let (mut heap, mut memory) = (Heap::new(0x1_0000, 0x100_0000), FakeMemory::default());
            let mut live: Vec<(u64, u64)> = Vec::new();
            for (size, drop) in sizes {
                if drop && let Some((block, _)) = live.pop() {
                    prop_assert!(heap.release(block));
                }
                let block = heap.allocate(size, &mut memory).unwrap();
                prop_assert!(live.iter().all(|(other, bytes)| block + size <= *other || block >= other + bytes.max(&1)));
                live.push((block, size));
                let half = live.len() / 2;
                live.rotate_left(half);
            }
            for (block, _) in live {
                prop_assert!(heap.release(block));
            }
            prop_assert_eq!(heap.free.len(), 1, "all is one range again");
        }
    }
}
