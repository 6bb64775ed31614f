//! A function's configuration space: 256 bytes, of which the driver may write some bits.
//!
//! Header type 0 with one 64-bit memory BAR and a list of capabilities. Leaves out expansion ROMs, INTx, power management.
//! Source: PCI 3.0 §6.1 (organization), §6.2.5 (base addresses), §6.7 (capabilities).

use crate::bus::device::read_by_bytes;

/// Bytes of the space.
pub const SIZE: usize = 256;

/// Command register: answers memory accesses.
const COMMAND_MEMORY: u8 = 1 << 1;
/// Command register: may send messages and reach memory.
const COMMAND_BUS_MASTER: u8 = 1 << 2;
/// Command register: INTx disabled; there is none.
const COMMAND_NO_INTX: u8 = 1 << 2;
/// Status register: there is a list of capabilities.
const STATUS_CAPABILITIES: u8 = 1 << 4;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
/// First byte behind the header.
const HEADER_END: usize = 0x40;
/// Type bits of a BAR: memory, 64 bits wide, not prefetchable.
const BAR_MEMORY_64: u8 = 0b100;

/// Who a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor and device.
    pub id: (u16, u16),
    /// Base class, subclass, programming interface.
    pub class: (u8, u8, u8),
    /// Revision.
    pub revision: u8,
    /// Subsystem vendor and subsystem.
    pub subsystem: (u16, u16),
}

/// Configuration space of a function.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    /// Bits that the driver may change.
    writable: [u8; SIZE],
    /// Bytes of the BAR; 0: there is none.
    bar_size: u64,
    /// Where the next capability goes, and the byte that shall point to it.
    next: (usize, usize),
}

impl ConfigSpace {
    /// The space of a function without BAR and capabilities.
    pub fn new(identity: Identity) -> ConfigSpace {
        let mut space =
            ConfigSpace { bytes: [0; SIZE], writable: [0; SIZE], bar_size: 0, next: (HEADER_END, CAPABILITIES) };
        let (base, sub, interface) = identity.class;
        space.set(0x00, &identity.id.0.to_le_bytes());
        space.set(0x02, &identity.id.1.to_le_bytes());
        space.set(0x08, &[identity.revision, interface, sub, base]);
        space.set(0x2c, &identity.subsystem.0.to_le_bytes());
        space.set(0x2e, &identity.subsystem.1.to_le_bytes());
        space.writable[COMMAND] = COMMAND_MEMORY | COMMAND_BUS_MASTER;
        space.writable[COMMAND + 1] = COMMAND_NO_INTX;
        space.writable[0x3c] = 0xff; // interrupt line: a note of the system to itself
        space
    }

    /// Gives the function a BAR of `size` bytes, a power of two, at `base`, and lets it answer there.
    pub fn place_bar(&mut self, base: u64, size: u64) {
        assert!(size.is_power_of_two() && base.is_multiple_of(size), "a BAR of {size:#x} bytes at {base:#x}");
        self.bar_size = size;
        self.set(BAR0, &base.to_le_bytes());
        self.bytes[BAR0] |= BAR_MEMORY_64;
        self.writable[BAR0..BAR0 + 8].copy_from_slice(&(!(size - 1)).to_le_bytes());
        self.bytes[COMMAND] |= COMMAND_MEMORY;
    }

    /// Adds a capability: `body` stands behind its identifier and link; in it the driver may change the bits of `writable`.
    /// Returns its offset.
    ///
    /// # Panics
    /// The space is full: a mistake in the device.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let (at, link) = self.next;
        self.bytes[link] = at as u8;
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.bytes[at] = id;
        self.set(at + 2, body);
        self.writable[at + 2..][..writable.len()].copy_from_slice(writable);
        self.next = ((at + 2 + body.len()).next_multiple_of(4), at + 1);
        at
    }

    /// Reads `size` bytes at `offset`; all ones beyond the end.
    pub fn read(&self, offset: usize, size: u8) -> u32 {
        read_by_bytes(offset as u64, size.min(4), |at| self.bytes.get(at as usize).copied().unwrap_or(0xff)) as u32
    }

    /// The driver writes the low `size` bytes of `value` at `offset`.
    pub fn write(&mut self, offset: usize, size: u8, value: u32) {
        let places = offset..offset.saturating_add(usize::from(size.min(4))).min(SIZE);
        for (at, new) in places.zip(value.to_le_bytes()) {
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | new & mask;
        }
    }

    /// Where the BAR is, while the function answers memory accesses.
    pub fn bar(&self) -> Option<u64> {
        let base = u64::from_le_bytes(self.bytes[BAR0..BAR0 + 8].try_into().expect("eight bytes")) & !0xf;
        let decodes = self.bar_size > 0 && self.bytes[COMMAND] & COMMAND_MEMORY != 0;
        (decodes && base.checked_add(self.bar_size).is_some()).then_some(base)
    }

    /// Offset in the BAR of `address`, if the function answers there.
    pub fn bar_offset(&self, address: u64) -> Option<u64> {
        address.checked_sub(self.bar()?).filter(|offset| *offset < self.bar_size)
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity =
        Identity { id: (0x1af4, 0x1042), class: (1, 0, 0), revision: 1, subsystem: (0x1af4, 0x42) };

    #[test]
    fn a_bar_tells_its_size_and_moves() {
        let mut space = ConfigSpace::new(IDENTITY);
        assert_eq!(space.bar(), None);
        space.place_bar(0xd000_8000, 0x8000);
        assert_eq!((space.bar(), space.bar_offset(0xd000_ffff)), (Some(0xd000_8000), Some(0x7fff)));
        space.write(BAR0, 4, u32::MAX);
        space.write(BAR0 + 4, 4, u32::MAX);
        assert_eq!((space.read(BAR0, 4), space.read(BAR0 + 4, 4)), (0xffff_8004, 0xffff_ffff));
        assert_eq!((space.bar(), space.bar_offset(u64::MAX)), (None, None), "it would wrap");
        space.write(BAR0, 4, 0x1234_ffff);
        space.write(BAR0 + 4, 4, 2);
        assert_eq!(space.bar(), Some(0x2_1234_8000));
        space.write(COMMAND, 2, 0);
        assert_eq!(space.bar(), None, "memory accesses are off");
    }

    #[test]
    fn capabilities_are_linked_and_only_their_writable_bits_change() {
        let mut space = ConfigSpace::new(IDENTITY);
        let first = space.add_capability(0x09, &[1, 2, 3], &[]);
        let second = space.add_capability(0x11, &[0, 0], &[0, 0xc0]);
        assert_eq!(
            (space.read(CAPABILITIES, 1), space.read(first, 4)),
            (first as u32, 0x0201_0009 | (second as u32) << 8)
        );
        assert_eq!((second, space.read(STATUS, 2)), (0x48, 0x10));
        space.write(second, 4, u32::MAX);
        assert_eq!(space.read(second, 4), 0xc000_0011);
    }

    #[test]
    fn sec17_any_offset_and_width_is_answered() {
        let mut space = ConfigSpace::new(IDENTITY);
        for offset in (0..SIZE + 16).chain([usize::MAX - 8]) {
            for size in 1..=8 {
                space.write(offset, size, u32::MAX);
                if offset < SIZE + 16 {
                    space.read(offset, size);
                }
            }
        }
        assert_eq!((space.read(0, 4), space.read(SIZE, 4)), (0x1042_1af4, u32::MAX));
    }
}
