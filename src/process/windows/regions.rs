//! What lies where in the program's memory, and what may be done there: for `VirtualQuery` and `VirtualProtect`.
//!
//! Ranges of pages that were made together, cut where their protection differs. Leaves out memory that is reserved and not yet
//! committed: it is both at once.
//! Sources: Microsoft "VirtualAlloc function", "VirtualQuery function", "Memory Protection Constants".

use super::pe::{Access, PAGE};
use std::collections::BTreeMap;

/// Most pieces: a program may cut its memory as it likes. Fewer than there may be mappings, so that each can be one.
const REGIONS_MAX: usize = 1 << 15;

const PAGE_NOACCESS: u32 = 0x01;
const PAGE_READONLY: u32 = 0x02;
const PAGE_READWRITE: u32 = 0x04;
const PAGE_WRITECOPY: u32 = 0x08;
const PAGE_EXECUTE: u32 = 0x10;
const PAGE_EXECUTE_READ: u32 = 0x20;
const PAGE_EXECUTE_READWRITE: u32 = 0x40;

/// Pages with one protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Bytes.
    pub size: u64,
    /// The first address of what they were made with.
    pub base: u64,
    /// What may be done.
    pub access: Access,
    /// Whether they are the program's image.
    pub image: bool,
}

/// All of them, by their address.
#[derive(Debug, Default)]
pub struct Regions(BTreeMap<u64, Region>);

/// The protection that a constant names.
pub fn access(protection: u32) -> Option<Access> {
    let (read, write, execute) = match protection {
        PAGE_NOACCESS => (false, false, false),
        PAGE_READONLY => (true, false, false),
        PAGE_READWRITE | PAGE_WRITECOPY => (true, true, false),
        // x86-64 pages that can be executed can be read.
        PAGE_EXECUTE | PAGE_EXECUTE_READ => (true, false, true),
        PAGE_EXECUTE_READWRITE => (true, true, true),
        _ => return None,
    };
    Some(Access { read, write, execute })
}

/// The constant that names a protection.
pub fn constant(access: Access) -> u32 {
    match (access.read || access.write, access.write, access.execute) {
        (false, _, false) => PAGE_NOACCESS,
        (_, false, true) => PAGE_EXECUTE_READ,
        (_, true, true) => PAGE_EXECUTE_READWRITE,
        (_, true, false) => PAGE_READWRITE,
        (true, false, false) => PAGE_READONLY,
    }
}

impl Regions {
    /// Notes pages that were made; false: there are too many pieces.
    pub fn add(&mut self, start: u64, region: Region) -> bool {
        self.0.len() < REGIONS_MAX && self.0.insert(start, region).is_none()
    }

    /// The region that an address lies in.
    pub fn find(&self, address: u64) -> Option<(u64, Region)> {
        let (start, region) = self.0.range(..=address).next_back()?;
        Some((*start, *region)).filter(|(start, region)| address - start < region.size)
    }

    /// Where the next region above an address begins.
    pub fn next(&self, address: u64) -> Option<u64> {
        self.0.range(address..).next().map(|(start, _)| *start)
    }

    /// A free range between two addresses, from a multiple of 64 KiB on.
    pub fn gap(&self, size: u64, mut start: u64, end: u64) -> Option<u64> {
        for (at, region) in self.0.range(start..end) {
            if at.saturating_sub(start) >= size {
                break;
            }
            start = (at + region.size).next_multiple_of(0x1_0000);
        }
        (start.checked_add(size)? <= end).then_some(start)
    }

    /// Whether a range is all there.
    fn is_whole(&self, mut start: u64, end: u64) -> bool {
        while start < end {
            let Some((at, region)) = self.find(start) else { return false };
            start = at + region.size;
        }
        true
    }

    /// Cuts the region around an address in two, so that one begins there.
    fn cut(&mut self, at: u64) {
        if let Some((start, region)) = self.find(at).filter(|(start, _)| *start < at) {
            self.0.insert(start, Region { size: at - start, ..region });
            self.0.insert(at, Region { size: region.size - (at - start), ..region });
        }
    }

    /// Changes the protection of the pages that a range touches: those pages, and the first's protection before. `None`: they are
    /// not all there, or in too many pieces.
    pub fn protect(&mut self, start: u64, size: u64, access: Access) -> Option<(u64, u64, Access)> {
        let end = start.checked_add(size)?.checked_next_multiple_of(PAGE)?;
        let start = start - start % PAGE;
        if end <= start || !self.is_whole(start, end) || self.0.len() + 2 > REGIONS_MAX {
            return None;
        }
        let before = self.find(start)?.1.access;
        self.cut(start);
        self.cut(end);
        self.0.range_mut(start..end).for_each(|(_, region)| region.access = access);
        Some((start, end - start, before))
    }

    /// Takes away all that was made at `base`; its bytes.
    pub fn remove(&mut self, base: u64) -> Option<u64> {
        let pieces: Vec<u64> =
            self.0.range(base..).take_while(|(_, region)| region.base == base).map(|(at, _)| *at).collect();
        let sizes = pieces.iter().filter_map(|at| self.0.remove(at)).map(|region| region.size);
        Some(sizes.sum()).filter(|size| *size > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(base: u64, size: u64) -> Region {
        Region { size, base, access: Access::DATA, image: false }
    }

    #[test]
    fn protection_cuts_and_removal_takes_all() {
        let mut regions = Regions::default();
        assert!(regions.add(0x1_0000, region(0x1_0000, 0x4000)));
        let changed = regions.protect(0x1_1fff, 2, Access::CONSTANT).unwrap();
        assert_eq!(changed, (0x1_1000, 0x2000, Access::DATA));
        let found = |address| regions.find(address).map(|(start, region)| (start, region.size, region.access));
        assert_eq!(found(0x1_0fff), Some((0x1_0000, 0x1000, Access::DATA)));
        assert_eq!(found(0x1_2abc), Some((0x1_1000, 0x2000, Access::CONSTANT)));
        assert_eq!(found(0x1_3000), Some((0x1_3000, 0x1000, Access::DATA)));
        assert_eq!((found(0x1_4000), regions.next(0x1_3001)), (None, None));
        assert_eq!(regions.protect(0x1_3000, 0x1001, Access::DATA), None);
        assert_eq!(regions.protect(0x1_3000, u64::MAX, Access::DATA), None);
        assert_eq!((regions.remove(0x1_0000), regions.remove(0x1_0000)), (Some(0x4000), None));
    }

    #[test]
    fn gaps_lie_between() {
        let mut regions = Regions::default();
        regions.add(0x2_0000, region(0x2_0000, 0x1000));
        assert_eq!(regions.gap(0x1_0000, 0x1_0000, 0x10_0000), Some(0x1_0000));
        assert_eq!(regions.gap(0x1_1000, 0x1_0000, 0x10_0000), Some(0x3_0000));
        assert_eq!(regions.gap(u64::MAX, 0x1_0000, 0x10_0000), None);
    }

    #[test]
    fn constants_and_protections_are_the_same() {
        for value in [PAGE_NOACCESS, PAGE_READONLY, PAGE_READWRITE, PAGE_EXECUTE_READ, PAGE_EXECUTE_READWRITE] {
            assert_eq!(access(value).map(constant), Some(value));
        }
        assert_eq!(access(0x1234), None);
    }
}
