//! Which pages of a range were written: what KVM's dirty log tells of the guest, and what this process wrote itself, which no log
//! of KVM's has. Pure.
//!
//! Source: KVM API KVM_GET_DIRTY_LOG (a bit a page, lowest address first).

use super::map::GuestRange;
use crate::arch::layout::PAGE_SIZE;

/// Pages in one word of the bitmap.
const WORD_PAGES: u64 = 64;

/// A set of pages of one range of guest-physical memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSet {
    range: GuestRange,
    /// A bit a page, lowest address first.
    words: Vec<u64>,
}

impl PageSet {
    /// No pages of `range`, which is whole pages.
    pub fn new(range: GuestRange) -> PageSet {
        let pages = range.size / PAGE_SIZE;
        PageSet { range, words: vec![0; pages.div_ceil(WORD_PAGES) as usize] }
    }

    /// The range of which pages can be in the set.
    pub fn range(&self) -> GuestRange {
        self.range
    }

    /// Adds the pages whose bits are set in a dirty log of the same range.
    pub fn insert_bits(&mut self, bits: &[u64]) {
        self.words.iter_mut().zip(bits).for_each(|(word, bits)| *word |= bits);
    }

    /// Adds the pages that `written` touches; what lies outside the range is left out.
    pub fn insert(&mut self, written: GuestRange) {
        let (start, end) = (written.start.max(self.range.start), written.end().min(self.range.end()));
        if start >= end {
            return;
        }
        let page = |gpa: u64| (gpa - self.range.start) / PAGE_SIZE;
        for page in page(start)..=page(end - 1) {
            self.words[(page / WORD_PAGES) as usize] |= 1 << (page % WORD_PAGES);
        }
    }

    /// Takes all pages out of the set: gives each one's guest-physical address to `page`, ascending. How many there were.
    pub fn drain(&mut self, mut page: impl FnMut(u64)) -> u64 {
        let mut count = 0;
        for (index, word) in (0u64..).zip(&mut self.words) {
            while *word != 0 {
                let bit = u64::from(word.trailing_zeros());
                *word &= *word - 1;
                page(self.range.start + (index * WORD_PAGES + bit) * PAGE_SIZE);
                count += 1;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const RANGE: GuestRange = GuestRange { start: 0x40_0000, size: 130 * PAGE_SIZE };

    fn drained(set: &mut PageSet) -> Vec<u64> {
        let mut pages = Vec::new();
        let count = set.drain(|gpa| pages.push((gpa - RANGE.start) / PAGE_SIZE));
        assert_eq!(count as usize, pages.len());
        pages
    }

    #[test]
    fn pages_come_out_once_and_ascending() {
        let mut set = PageSet::new(RANGE);
        set.insert_bits(&[1 << 63 | 1, 1, 2]);
        set.insert(GuestRange { start: RANGE.start + 64 * PAGE_SIZE - 1, size: 2 });
        assert_eq!(drained(&mut set), [0, 63, 64, 129]);
        assert_eq!(set, PageSet::new(RANGE));
    }

    #[test]
    fn what_lies_outside_is_left_out() {
        let mut set = PageSet::new(RANGE);
        set.insert(GuestRange { start: 0, size: RANGE.start + 1 });
        set.insert(GuestRange { start: RANGE.end() - 1, size: 1 << 40 });
        set.insert(GuestRange { start: RANGE.end(), size: PAGE_SIZE });
        assert_eq!(drained(&mut set), [0, 129]);
        set.insert_bits(&[0, 0, 0, u64::MAX]);
        assert_eq!(drained(&mut set), [] as [u64; 0], "a log longer than the range");
    }

    #[test]
    fn a_set_is_what_a_set_of_numbers_is() {
        let mut set = PageSet::new(RANGE);
        let mut model = BTreeSet::new();
        let mut state = 1u64;
        for _ in 0..1000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (page, pages) = ((state >> 33) % 130, (state >> 60) + 1);
            set.insert(GuestRange { start: RANGE.start + page * PAGE_SIZE, size: pages * PAGE_SIZE });
            model.extend(page..(page + pages).min(130));
            if state >> 62 == 0 {
                assert_eq!(drained(&mut set), std::mem::take(&mut model).into_iter().collect::<Vec<_>>());
            }
        }
    }
}
