//! A part of RAM that is found once and accessed often: a ring of a queue.
//!
//! As for all RAM no reference into it is handed out: words are loaded and stored, small values copied, each access checked against
//! the part's end. What is spared is the look for the range of RAM in which it lies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use vm_memory::{ByteValued, MmapRegion, VolatileMemory};

/// The part. It keeps the memory behind it mapped.
pub struct Window {
    memory: Arc<MmapRegion>,
    /// Bytes of that before it.
    start: usize,
    size: usize,
}

impl Window {
    /// `size` bytes of `memory`, which has so many from `start` on.
    pub(super) fn new(memory: Arc<MmapRegion>, start: usize, size: usize) -> Window {
        assert!(start.checked_add(size).is_some_and(|end| end <= memory.size()), "a part of it");
        Window { memory, start, size }
    }

    /// Loads the word at `at`, bytes from the part's beginning; at an even address.
    pub fn load(&self, at: usize, order: Ordering) -> u16 {
        u16::from_le(self.word(at).load(order))
    }

    /// Stores the word at `at`.
    pub fn store(&self, at: usize, word: u16, order: Ordering) {
        self.word(at).store(word.to_le(), order);
    }

    /// A copy of what is at `at`.
    pub fn read<T: ByteValued>(&self, at: usize) -> T {
        self.memory.get_ref(self.place::<T>(at)).expect("inside the memory").load()
    }

    /// Copies `value` to `at`.
    pub fn write<T: ByteValued>(&self, at: usize, value: T) {
        self.memory.get_ref(self.place::<T>(at)).expect("inside the memory").store(value);
    }

    fn word(&self, at: usize) -> &AtomicU16 {
        self.memory.get_atomic_ref(self.place::<u16>(at)).expect("inside the memory, at an even address")
    }

    /// Where in the memory a `T` at `at` lies.
    fn place<T>(&self, at: usize) -> usize {
        assert!(at.checked_add(size_of::<T>()).is_some_and(|end| end <= self.size), "inside the part");
        self.start + at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::{GIB, HOLE_START, MIB};
    use crate::memory::map::{GuestRange, MemoryMap};
    use crate::memory::ram::GuestRam;

    fn ram(size: u64) -> GuestRam {
        GuestRam::new(&MemoryMap::new(size).unwrap()).unwrap()
    }

    #[test]
    fn what_is_written_is_in_ram() {
        let ram = ram(4 * GIB);
        let window = ram.window(GuestRange { start: 4 * GIB + 0x1000, size: 12 }).unwrap();
        window.store(2, 0x1234, Ordering::Release);
        window.write(4, 0x1122_3344_5566_7788_u64);
        assert_eq!(ram.read_u64(4 * GIB + 0x1000), Some(0x5566_7788_1234_0000));
        assert_eq!(
            (window.load(10, Ordering::Acquire), window.read::<[u32; 2]>(4)),
            (0x1122, [0x5566_7788, 0x1122_3344])
        );
        drop(ram);
        assert_eq!(window.load(2, Ordering::Relaxed), 0x1234, "it keeps the RAM");
    }

    #[test]
    fn sec15_what_leaves_ram_is_no_window() {
        let ram = ram(4 * GIB);
        for (start, size) in
            [(HOLE_START - 4, 8), (HOLE_START, 1), (5 * GIB, 1), (u64::MAX, 1), (0, u64::MAX), (MIB, HOLE_START)]
        {
            assert!(ram.window(GuestRange { start, size }).is_err(), "{start:#x} {size:#x}");
        }
    }

    #[test]
    fn nothing_beyond_its_end_is_reached() {
        let ram = ram(MIB);
        let window = ram.window(GuestRange { start: 0x1000, size: 10 }).unwrap();
        for at in [3, 10, usize::MAX, usize::MAX - 7] {
            let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| window.read::<u64>(at)));
            assert!(read.is_err(), "{at}");
        }
        assert_eq!(window.read::<u64>(2), 0);
    }
}
