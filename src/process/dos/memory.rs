//! The program's memory as DOS sees it: by segment and offset, one megabyte, everything copied.
//!
//! An offset wraps at 64 KiB, as the processor's do. What lies above one megabyte (segments from F001h on reach there) is no memory: it
//! reads as ones, and what is written there is lost, as for the program's own instructions.
//! Source: Intel SDM vol. 3B §21.1 (addresses in real mode).

use crate::arch::layout::MIB;
use crate::memory::map::MemoryMap;
use crate::memory::ram::{GuestRam, RamError};
use std::ops::Range;
use std::sync::Arc;

/// Bytes that a segment has.
pub const SEGMENT: usize = 0x1_0000;

/// One megabyte of RAM.
#[derive(Clone)]
pub struct Memory(pub Arc<GuestRam>);

/// A place in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Far {
    /// Its segment, in units of 16 bytes.
    pub segment: u16,
    /// How far behind the segment's beginning.
    pub offset: u16,
}

impl std::fmt::Display for Far {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(out, "{:04X}:{:04X}", self.segment, self.offset)
    }
}

impl Far {
    /// The linear address so far behind it, in the same segment.
    fn linear(self, more: usize) -> u64 {
        (u64::from(self.segment) << 4) + (usize::from(self.offset) + more) as u64 % SEGMENT as u64
    }
}

/// The pieces of `size` bytes from `at` on, at most a segment, that lie in memory in one piece: linear address, and which of the bytes.
fn pieces(at: Far, size: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let before_wrap = (SEGMENT - usize::from(at.offset)).min(size);
    [0..before_wrap, before_wrap..size].into_iter().filter_map(move |part| {
        let start = at.linear(part.start);
        let there = MIB.saturating_sub(start).min(part.len() as u64) as usize;
        (there > 0).then(|| (start, part.start..part.start + there))
    })
}

impl Memory {
    /// A megabyte of zeros.
    ///
    /// # Errors
    /// The host refuses it.
    pub fn new() -> Result<Memory, RamError> {
        let map = MemoryMap::new(MIB).expect("a machine may have one megabyte");
        GuestRam::new(&map).map(|ram| Memory(Arc::new(ram)))
    }

    /// `size` bytes from `at` on; at most a segment.
    pub fn read(&self, at: Far, size: usize) -> Vec<u8> {
        let mut bytes = vec![0xff; size.min(SEGMENT)];
        for (start, part) in pieces(at, bytes.len()) {
            self.0.read(start, &mut bytes[part]).expect("it lies below one megabyte");
        }
        bytes
    }

    /// Writes `bytes`, at most a segment, from `at` on.
    pub fn write(&self, at: Far, bytes: &[u8]) {
        for (start, part) in pieces(at, bytes.len().min(SEGMENT)) {
            self.0.write(start, &bytes[part]).expect("it lies below one megabyte");
        }
    }

    /// The word at `at`.
    pub fn word(&self, at: Far) -> u16 {
        let bytes = self.read(at, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    /// What stands from `at` on before `end`; `None`: no `end` among the first `max` bytes.
    pub fn text(&self, at: Far, end: u8, max: usize) -> Option<Vec<u8>> {
        let mut text = self.read(at, max);
        let size = text.iter().position(|byte| *byte == end)?;
        text.truncate(size);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_wrap_and_nothing_lies_above_one_megabyte() {
        let memory = Memory::new().unwrap();
        memory.write(Far { segment: 0x1000, offset: 0xfffe }, b"abcd");
        assert_eq!(memory.read(Far { segment: 0x1000, offset: 0 }, 2), b"cd");
        assert_eq!(memory.read(Far { segment: 0x1fff, offset: 0xe }, 2), b"ab");
        assert_eq!(memory.read(Far { segment: 0x1000, offset: 0xffff }, SEGMENT).len(), SEGMENT);
        let end = Far { segment: 0xffff, offset: 0xe };
        memory.write(end, b"abcd");
        assert_eq!(
            (memory.read(end, 4), memory.word(Far { segment: 0xffff, offset: 0x10 })),
            (b"ab\xff\xff".to_vec(), 0xffff)
        );
        assert_eq!(memory.read(Far { segment: 0xffff, offset: 0xffff }, SEGMENT)[1..15], [0; 14]);
    }

    #[test]
    fn a_text_ends_where_it_says() {
        let memory = Memory::new().unwrap();
        let at = Far { segment: 0, offset: 0x500 };
        memory.write(at, b"text$more");
        assert_eq!((memory.text(at, b'$', 5), memory.text(at, b'$', 4)), (Some(b"text".to_vec()), None));
    }
}
