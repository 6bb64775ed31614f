//! Memory that programs allocate: blocks of paragraphs, 16 bytes each, below 640 KiB.
//!
//! The program owns the block that it lies in, which at first is all there is. Leaves out the chain of headers in front of the blocks (no
//! function tells where it begins) and strategies: the first block that is large enough is given.
//! Source: Interrupt List, INT 21h functions 48h, 49h and 4Ah.

use super::program::{MEMORY_END, PSP};
use std::collections::BTreeMap;

/// Most blocks.
const BLOCKS_MAX: usize = 256;

/// Why a block cannot be had or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// It would have at most so many paragraphs.
    TooLarge(u16),
    /// There is no such block.
    NoBlock,
}

/// The blocks by their first paragraph, with the paragraph behind their last.
#[derive(Debug)]
pub struct Blocks(BTreeMap<u16, u16>);

impl Default for Blocks {
    fn default() -> Blocks {
        Blocks(BTreeMap::from([(PSP, MEMORY_END)]))
    }
}

impl Blocks {
    /// A new block of so many paragraphs; its first.
    ///
    /// # Errors
    /// Nowhere is so much free.
    pub fn allocate(&mut self, paragraphs: u16) -> Result<u16, BlockError> {
        let starts = std::iter::once(PSP).chain(self.0.values().copied());
        let free: Vec<_> = starts.map(|start| (start, self.free_from(start))).collect();
        let largest = free.iter().map(|(_, size)| *size).max().unwrap_or(0);
        if self.0.len() == BLOCKS_MAX {
            return Err(BlockError::TooLarge(0));
        }
        // A block of nothing would lie where another begins.
        let wanted = paragraphs.max(1);
        let (start, _) = free.into_iter().find(|(_, size)| *size >= wanted).ok_or(BlockError::TooLarge(largest))?;
        self.0.insert(start, start + wanted);
        Ok(start)
    }

    /// Gives a block back.
    ///
    /// # Errors
    /// There is none.
    pub fn free(&mut self, start: u16) -> Result<(), BlockError> {
        self.0.remove(&start).map(|_| ()).ok_or(BlockError::NoBlock)
    }

    /// Gives a block another size.
    ///
    /// # Errors
    /// There is none, or too little is free behind it.
    pub fn resize(&mut self, start: u16, paragraphs: u16) -> Result<(), BlockError> {
        let before = self.0.remove(&start).ok_or(BlockError::NoBlock)?;
        let room = self.free_from(start);
        let result = if paragraphs <= room { Ok(start + paragraphs.max(1)) } else { Err(BlockError::TooLarge(room)) };
        self.0.insert(start, result.unwrap_or(before));
        result.map(|_| ())
    }

    /// Paragraphs from `start` on to the next block or the end; 0 where a block begins there.
    fn free_from(&self, start: u16) -> u16 {
        let next = self.0.range(start..).next().map_or(MEMORY_END, |(next, _)| *next);
        next - start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_gives_back_what_it_does_not_need() {
        let mut blocks = Blocks::default();
        assert_eq!(blocks.allocate(1), Err(BlockError::TooLarge(0)));
        assert_eq!(blocks.resize(PSP, MEMORY_END), Err(BlockError::TooLarge(MEMORY_END - PSP)));
        assert_eq!(blocks.resize(PSP, 0x1000), Ok(()));
        assert_eq!(blocks.allocate(0x100), Ok(PSP + 0x1000));
        assert_eq!(blocks.allocate(0), Ok(PSP + 0x1100));
        assert_eq!((blocks.free(PSP + 0x1000), blocks.free(PSP + 0x1000)), (Ok(()), Err(BlockError::NoBlock)));
        assert_eq!(blocks.allocate(0x101), Ok(PSP + 0x1101), "behind the hole, which is too small");
        assert_eq!(blocks.allocate(0xffff), Err(BlockError::TooLarge(MEMORY_END - PSP - 0x1202)));
        assert_eq!(blocks.resize(PSP, 0x1101), Err(BlockError::TooLarge(0x1100)));
        assert_eq!(blocks.resize(1, 1), Err(BlockError::NoBlock));
    }

    #[test]
    fn blocks_are_bounded() {
        let mut blocks = Blocks::default();
        blocks.resize(PSP, 1).unwrap();
        let taken = (0..).take_while(|_| blocks.allocate(1).is_ok()).count();
        assert_eq!(taken, BLOCKS_MAX - 1);
    }
}
