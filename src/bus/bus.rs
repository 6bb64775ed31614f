//! An address space with devices in it: ports or memory. Immutable once built; each device has its own lock.

use super::device::{ALL_ONES, BusDevice};
use std::sync::{Arc, Mutex};

/// A device that several parts of a machine hold: the bus, and whoever feeds it from outside.
pub type Shared<D> = Arc<Mutex<D>>;

/// A device's range on a bus.
struct Range {
    base: u64,
    /// Last address of the range.
    last: u64,
    name: &'static str,
    device: Shared<dyn BusDevice>,
}

/// Devices by address, sorted. Build it with [`Bus::insert`], then share it.
#[derive(Default)]
pub struct Bus {
    ranges: Vec<Range>,
}

/// A range that cannot be put on a bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// Size 0, or the range wraps around the end of the address space.
    #[error("place {name} at {base:#x}: {size} bytes do not fit there")]
    BadRange {
        /// Name of the device.
        name: &'static str,
        /// First address wanted.
        base: u64,
        /// Bytes wanted.
        size: u64,
    },
    /// Another device stands there.
    #[error("place {name} at {base:#x}: {other} stands there")]
    Overlap {
        /// Name of the device.
        name: &'static str,
        /// First address wanted.
        base: u64,
        /// Name of the device in the way.
        other: &'static str,
    },
}

impl Bus {
    /// Puts `device` at `base..base + size`.
    ///
    /// # Errors
    /// The range is empty, wraps, or overlaps another.
    pub fn insert(
        &mut self,
        name: &'static str,
        base: u64,
        size: u64,
        device: Shared<dyn BusDevice>,
    ) -> Result<(), BusError> {
        let last = match size.checked_sub(1).and_then(|less| base.checked_add(less)) {
            Some(last) => last,
            None => return Err(BusError::BadRange { name, base, size }),
        };
        let at = self.ranges.partition_point(|range| range.base < base);
        let before = at.checked_sub(1).map(|i| &self.ranges[i]).filter(|range| range.last >= base);
        let after = self.ranges.get(at).filter(|range| range.base <= last);
        if let Some(other) = before.or(after) {
            return Err(BusError::Overlap { name, base, other: other.name });
        }
        self.ranges.insert(at, Range { base, last, name, device });
        Ok(())
    }

    /// Reads `size` bytes at `address`: all ones, cut to the size, where no device stands or the access leaves its range.
    pub fn read(&self, address: u64, size: u8) -> u64 {
        let value = match self.find(address, size) {
            Some((range, offset)) => lock(&range.device).read(offset, size),
            None => ALL_ONES,
        };
        cut(value, size)
    }

    /// Writes `size` bytes at `address`; without effect where no device stands or the access leaves its range.
    pub fn write(&self, address: u64, size: u8, value: u64) {
        if let Some((range, offset)) = self.find(address, size) {
            lock(&range.device).write(offset, size, cut(value, size));
        }
    }

    /// Names of the device and of the register that an access reaches; `None` where no device stands.
    pub fn names(&self, address: u64, write: bool) -> Option<(&'static str, &'static str)> {
        let (range, offset) = self.find(address, 1)?;
        Some((range.name, lock(&range.device).register_name(offset, write)))
    }

    fn find(&self, address: u64, size: u8) -> Option<(&Range, u64)> {
        let at = self.ranges.partition_point(|range| range.base <= address).checked_sub(1)?;
        let range = &self.ranges[at];
        let end = address.checked_add(u64::from(size.max(1)) - 1)?;
        (end <= range.last).then(|| (range, address - range.base))
    }
}

/// Locks a device. A device that panicked is a bug of ours, and the process ends there; so no lock is ever poisoned.
pub fn lock<D: ?Sized>(device: &Mutex<D>) -> std::sync::MutexGuard<'_, D> {
    device.lock().expect("a device that panics ends the process")
}

/// The low `size` bytes of `value`.
fn cut(value: u64, size: u8) -> u64 {
    if size >= 8 { value } else { value & ((1 << (8 * size)) - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with its offset, remembers the last write.
    #[derive(Default)]
    struct Probe(Option<(u64, u8, u64)>);

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, _size: u8) -> u64 {
            0xabcd_0000 + offset
        }
        fn write(&mut self, offset: u64, size: u8, value: u64) {
            self.0 = Some((offset, size, value));
        }
        fn register_name(&self, _offset: u64, _write: bool) -> &'static str {
            "PROBE"
        }
    }

    fn bus() -> (Bus, Shared<Probe>) {
        let probe = Arc::new(Mutex::new(Probe::default()));
        let mut bus = Bus::default();
        bus.insert("a", 0x100, 8, probe.clone()).unwrap();
        bus.insert("top", u64::MAX - 3, 4, probe.clone()).unwrap();
        (bus, probe)
    }

    #[test]
    fn an_access_reaches_its_device_by_offset_and_is_cut_to_size() {
        let (bus, probe) = bus();
        assert_eq!(bus.read(0x103, 1), 0x03);
        assert_eq!(bus.read(0x104, 4), 0xabcd_0004);
        bus.write(0x107, 1, 0x1234);
        assert_eq!(probe.lock().unwrap().0, Some((7, 1, 0x34)));
        assert_eq!(bus.names(0x100, true), Some(("a", "PROBE")));
    }

    #[test]
    fn sec22_what_no_device_answers_reads_as_all_ones() {
        let (bus, probe) = bus();
        for size in 1..=8u8 {
            assert_eq!(bus.read(0x200, size), cut(u64::MAX, size));
            assert_eq!(bus.read(0xff, size), cut(u64::MAX, size));
        }
        assert_eq!(bus.read(0x106, 4), 0xffff_ffff, "an access that leaves the range");
        bus.write(0x106, 4, 1);
        assert_eq!(probe.lock().unwrap().0, None);
    }

    #[test]
    fn sec24_lookups_at_the_end_of_the_address_space_do_not_wrap() {
        let (bus, _) = bus();
        assert_eq!(bus.read(u64::MAX, 1), 0x03);
        assert_eq!(bus.read(u64::MAX, 2), 0xffff);
        assert_eq!(bus.read(u64::MAX - 3, 4), 0xabcd_0000);
    }

    #[test]
    fn ranges_neither_overlap_nor_wrap() {
        let (mut bus, probe) = bus();
        let overlap = |base| BusError::Overlap { name: "b", base, other: "a" };
        assert_eq!(bus.insert("b", 0x107, 1, probe.clone()), Err(overlap(0x107)));
        assert_eq!(bus.insert("b", 0xf8, 9, probe.clone()), Err(overlap(0xf8)));
        assert!(matches!(bus.insert("b", 5, 0, probe.clone()), Err(BusError::BadRange { .. })));
        assert!(matches!(bus.insert("b", u64::MAX, 2, probe), Err(BusError::BadRange { .. })));
    }
}
