//! Which part of RAM holds what: every range that a loader fills is claimed here first, so nothing overlaps and nothing
//! leaves RAM.

use super::error::Problem;
use crate::arch::layout::PAGE_SIZE;
use crate::memory::map::{GuestRange, MemoryMap, RANGE_RAM};
use crate::memory::ram::GuestRam;
use std::borrow::Cow;

/// A range of RAM that was filled before the first entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedSegment {
    /// What it holds.
    pub what: Cow<'static, str>,
    /// Where.
    pub range: GuestRange,
}

/// The RAM of a machine being loaded. Fresh: all zero but for what is written through it.
pub struct Placement<'a> {
    ram: &'a GuestRam,
    map: &'a MemoryMap,
    segments: Vec<LoadedSegment>,
}

impl<'a> Placement<'a> {
    /// RAM that `map` describes, nothing claimed.
    pub fn new(ram: &'a GuestRam, map: &'a MemoryMap) -> Placement<'a> {
        Placement { ram, map, segments: Vec::new() }
    }

    /// The RAM.
    pub fn ram(&self) -> &'a GuestRam {
        self.ram
    }

    /// Where RAM lies.
    pub fn map(&self) -> &'a MemoryMap {
        self.map
    }

    /// Claims `size` bytes at `start` for `what`.
    ///
    /// # Errors
    /// Not RAM that the guest is told of, or taken.
    pub fn claim(&mut self, what: impl Into<Cow<'static, str>>, start: u64, size: u64) -> Result<(), Problem> {
        let what = what.into();
        let entries = self.map.entries();
        let inside =
            |range: &GuestRange| start >= range.start && start.checked_add(size).is_some_and(|end| end <= range.end());
        if size == 0 || !entries.iter().any(|entry| entry.kind == RANGE_RAM && inside(&entry.range)) {
            return Err(Problem::NotRam { what: what.into(), start, size, low_end: self.map.low_end() });
        }
        let range = GuestRange { start, size };
        if let Some(taken) = self.segments.iter().find(|taken| overlap(&taken.range, &range)) {
            let (other, other_range) = (taken.what.to_string(), taken.range);
            return Err(Problem::Overlap { what: what.into(), range, other, other_range });
        }
        self.segments.push(LoadedSegment { what, range });
        Ok(())
    }

    /// Claims `bytes.len()` bytes at `start` and writes them.
    ///
    /// # Errors
    /// As [`Placement::claim`].
    pub fn write(&mut self, what: &'static str, start: u64, bytes: &[u8]) -> Result<(), Problem> {
        self.claim(what, start, bytes.len() as u64)?;
        Ok(self.ram.write(start, bytes)?)
    }

    /// Claims `size` bytes for `what` at the highest free page below `limit` (exclusive) and below the 4 GiB hole.
    ///
    /// # Errors
    /// There is no such room.
    pub fn claim_below(&mut self, what: &'static str, size: u64, limit: u64) -> Result<u64, Problem> {
        let limit = limit.min(self.map.low_end());
        let page_down = |address: u64| address / PAGE_SIZE * PAGE_SIZE;
        // The highest place ends at the limit, or where something that is in the way begins.
        let mut ends: Vec<u64> = self.segments.iter().map(|taken| taken.range.start).chain([limit]).collect();
        ends.retain(|end| *end <= limit);
        ends.sort_unstable_by(|a, b| b.cmp(a));
        for end in ends {
            let Some(start) = end.checked_sub(size).map(page_down) else { continue };
            if self.claim(what, start, size).is_ok() {
                return Ok(start);
            }
        }
        Err(Problem::NoRoom { what: what.to_string(), size, limit })
    }

    /// What was claimed, ascending.
    pub fn into_segments(self) -> Vec<LoadedSegment> {
        let mut segments = self.segments;
        segments.sort_by_key(|segment| segment.range.start);
        segments
    }
}

fn overlap(a: &GuestRange, b: &GuestRange) -> bool {
    a.start < b.end() && b.start < a.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::{ACPI_TABLES, GIB, HIGH_RAM, LOW_RAM_END, MIB};

    fn with(size: u64, test: impl Fn(&mut Placement)) {
        let map = MemoryMap::new(size).unwrap();
        let ram = GuestRam::new(&map).unwrap();
        test(&mut Placement::new(&ram, &map));
    }

    #[test]
    fn sec62_only_free_ram_can_be_claimed() {
        with(16 * MIB, |placement| {
            for (start, size) in [
                (LOW_RAM_END - 1, 2),
                (ACPI_TABLES, 1),
                (16 * MIB - 1, 2),
                (16 * MIB, 1),
                (GIB, 1),
                (u64::MAX, 1),
                (u64::MAX, u64::MAX),
                (MIB, u64::MAX),
                (MIB, 0),
            ] {
                let refused = placement.claim("it", start, size);
                assert!(matches!(refused, Err(Problem::NotRam { .. })), "{start:#x} {size:#x}: {refused:?}");
            }
            placement.claim("first", 2 * MIB, MIB).unwrap();
            let error = placement.claim("second", 3 * MIB - 1, 1).unwrap_err().to_string();
            assert_eq!(error, "second (0x2fffff..0x300000) overlaps first (0x200000..0x300000)");
            placement.claim("third", 3 * MIB, 1).unwrap();
        });
    }

    #[test]
    fn the_highest_free_room_is_taken() {
        with(16 * MIB, |placement| {
            assert_eq!(placement.claim_below("a", PAGE_SIZE + 1, u64::MAX).unwrap(), 16 * MIB - 2 * PAGE_SIZE);
            assert_eq!(placement.claim_below("b", 1, u64::MAX).unwrap(), 16 * MIB - 3 * PAGE_SIZE);
            placement.claim("kernel", HIGH_RAM, 8 * MIB).unwrap();
            assert_eq!(placement.claim_below("c", 7 * MIB - 3 * PAGE_SIZE, u64::MAX).unwrap(), 9 * MIB);
            assert!(matches!(placement.claim_below("d", MIB, u64::MAX), Err(Problem::NoRoom { .. })));
            assert_eq!(placement.claim_below("e", PAGE_SIZE, 0x8800).unwrap(), 0x7000);
        });
    }
}
