//! Where RAM lies: ranges around the hole below 4 GiB, and the map that the guest is told. Pure.
//!
//! The addresses are [`crate::arch::layout`]'s. Source: ACPI 6.5 §15 (address range types).

use crate::arch::layout::{ACPI_END, ACPI_TABLES, HIGH_RAM, HOLE_END, HOLE_START, LOW_RAM_END, MIN_RAM, PAGE_SIZE};

/// A guest-physical range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestRange {
    /// First address.
    pub start: u64,
    /// Bytes; never 0, and the range never wraps.
    pub size: u64,
}

impl GuestRange {
    /// First address after the range.
    pub const fn end(&self) -> u64 {
        self.start + self.size
    }
}

/// Address range type of the map that the guest is told: usable RAM (ACPI 6.5 table 15.1).
pub const RANGE_RAM: u32 = 1;
/// Address range type: reserved (ACPI 6.5 table 15.1).
pub const RANGE_RESERVED: u32 = 2;

/// An entry of the memory map that the guest is told (e820, PVH and Multiboot all use these types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// The addresses.
    pub range: GuestRange,
    /// [`RANGE_RAM`] or [`RANGE_RESERVED`].
    pub kind: u32,
}

/// The guest's RAM, as ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    ram: Vec<GuestRange>,
}

/// A RAM size that no machine can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MapError {
    /// Below 1 MiB.
    #[error("{0} bytes of RAM: a machine needs at least 1 MiB")]
    TooSmall(u64),
    /// Beyond [`RAM_MAX`].
    #[error("{0} bytes of RAM: a machine has at most {max} GiB", max = RAM_MAX >> 30)]
    TooLarge(u64),
    /// Not whole pages.
    #[error("{0} bytes of RAM: not a multiple of the page size 4096")]
    Unaligned(u64),
}

/// Most RAM, in bytes. KVM keeps up to ten bytes for each page of a slot, used or not (Linux kvm_page_track.c,
/// `kvm_rmap_head`): 2.5 GiB of the host's memory at this size.
const RAM_MAX: u64 = 1 << 40;

impl MemoryMap {
    /// Lays `size` bytes of RAM out: from 0 to the hole, the rest from 4 GiB on.
    ///
    /// # Errors
    /// The size is below 1 MiB, not whole pages, or beyond [`RAM_MAX`].
    pub fn new(size: u64) -> Result<MemoryMap, MapError> {
        if size < MIN_RAM {
            return Err(MapError::TooSmall(size));
        }
        if size > RAM_MAX {
            return Err(MapError::TooLarge(size));
        }
        if !size.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Unaligned(size));
        }
        let low = size.min(HOLE_START);
        let mut ram = vec![GuestRange { start: 0, size: low }];
        if size > low {
            ram.push(GuestRange { start: HOLE_END, size: size - low });
        }
        Ok(MemoryMap { ram })
    }

    /// RAM in two ranges that touch, the first up to `border`: two memory slots, of which one can be logged. For machines without
    /// the devices and tables of a PC.
    ///
    /// # Errors
    /// As [`MemoryMap::new`], or the border is not inside, not at a page, or above the hole.
    pub fn divided(size: u64, border: u64) -> Result<MemoryMap, MapError> {
        let whole = MemoryMap::new(size)?;
        if !border.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Unaligned(border));
        }
        if border == 0 || border >= whole.low_end() {
            return Err(MapError::TooSmall(size));
        }
        let mut ram = whole.ram;
        let high = GuestRange { start: border, size: ram[0].size - border };
        ram[0].size = border;
        ram.insert(1, high);
        Ok(MemoryMap { ram })
    }

    /// The ranges that are backed by RAM, ascending: one memory slot each.
    pub fn ram(&self) -> &[GuestRange] {
        &self.ram
    }

    /// First address after the RAM below the hole.
    pub fn low_end(&self) -> u64 {
        self.ram[0].end()
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        self.ram.iter().map(|range| range.size).sum()
    }

    /// The map that the guest is told. The ACPI area is backed by RAM and reserved; the area of the extended BIOS data and
    /// of video memory does not appear.
    pub fn entries(&self) -> Vec<MapEntry> {
        let ram = |start, end| MapEntry { range: GuestRange { start, size: end - start }, kind: RANGE_RAM };
        let acpi = GuestRange { start: ACPI_TABLES, size: ACPI_END - ACPI_TABLES };
        let mut entries = vec![ram(0, LOW_RAM_END), MapEntry { range: acpi, kind: RANGE_RESERVED }];
        if self.low_end() > HIGH_RAM {
            entries.push(ram(HIGH_RAM, self.low_end()));
        }
        entries.extend(self.ram[1..].iter().map(|range| MapEntry { range: *range, kind: RANGE_RAM }));
        entries
    }

    /// Whether `start..start + size` is RAM throughout, in one range.
    pub fn contains(&self, start: u64, size: u64) -> bool {
        let Some(end) = start.checked_add(size) else { return false };
        self.ram.iter().any(|range| range.start <= start && end <= range.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::{GIB, MIB};

    #[test]
    fn ram_goes_around_the_hole() {
        assert_eq!(MemoryMap::new(128 * MIB).unwrap().ram(), [GuestRange { start: 0, size: 128 * MIB }]);
        let big = MemoryMap::new(5 * GIB).unwrap();
        assert_eq!(big.ram()[1], GuestRange { start: 4 * GIB, size: 2 * GIB });
        assert_eq!(big.size(), 5 * GIB);
        assert_eq!(MemoryMap::new(3 * GIB).unwrap().ram().len(), 1);
    }

    #[test]
    fn the_guest_is_told_ascending_ranges_that_are_ram() {
        for size in [MIB, MIB + PAGE_SIZE, 3 * GIB, 3 * GIB + PAGE_SIZE, 64 * GIB] {
            let map = MemoryMap::new(size).unwrap();
            let entries = map.entries();
            for pair in entries.windows(2) {
                assert!(pair[0].range.end() <= pair[1].range.start);
            }
            assert!(entries.iter().all(|entry| map.contains(entry.range.start, entry.range.size)));
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert_eq!(MemoryMap::new(0), Err(MapError::TooSmall(0)));
        assert_eq!(MemoryMap::new(MIB + 1), Err(MapError::Unaligned(MIB + 1)));
        assert_eq!(MemoryMap::new(u64::MAX), Err(MapError::TooLarge(u64::MAX)));
    }

    #[test]
    fn sec15_a_range_that_wraps_is_not_ram() {
        let map = MemoryMap::new(4 * GIB).unwrap();
        assert!(map.contains(HOLE_START - 1, 1));
        assert!(!map.contains(HOLE_START - 1, 2));
        assert!(!map.contains(u64::MAX, 2));
        assert!(!map.contains(GIB, u64::MAX));
    }
}
