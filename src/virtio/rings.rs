//! The three parts of a split queue in guest memory: descriptor table, available ring, used ring.
//!
//! They are found, and checked to be RAM throughout, once, when the queue goes live; from then on each access is a load or store at
//! a place that cannot leave them. Nothing here judges what is found: `queue.rs` does.
//! Source: virtio 1.2 §2.7.5 (descriptors), §2.7.6 (available ring), §2.7.8 (used ring), §2.7.10 (event indices).

use crate::memory::map::GuestRange;
use crate::memory::ram::GuestRam;
use crate::memory::window::Window;
use std::sync::atomic::Ordering;

/// Flag of a descriptor: another follows.
pub const NEXT: u16 = 1;
/// Flag of a descriptor: the device writes there.
pub const WRITE: u16 = 2;
/// Flag of a descriptor: it points to a table of descriptors.
pub const INDIRECT: u16 = 4;

/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;
/// Where both rings have their flags and their index, and where their entries begin.
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;
/// Bytes of an entry of the available ring, and of the used one.
const HEAD: usize = 2;
const USED: usize = 8;

/// What a driver set up a queue with. Frozen when the queue goes live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSetup {
    /// Entries; a power of two.
    pub size: u16,
    /// Whether the driver wants the queue.
    pub enabled: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring ("driver area").
    pub available: u64,
    /// Guest-physical address of the used ring ("device area").
    pub used: u64,
}

/// A descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest-physical address of the buffer.
    pub address: u64,
    /// Bytes of it.
    pub length: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next one.
    pub next: u16,
}

/// A table of descriptors: the queue's, or one that a descriptor points to.
pub struct Table {
    window: Window,
    /// Descriptors in it.
    pub entries: u16,
}

/// The parts of a live queue. Positions in the rings count on without end.
pub struct Rings {
    /// The descriptor table.
    pub descriptors: Table,
    available: Window,
    used: Window,
    /// Entries of each ring, a power of two.
    pub size: u16,
}

impl Table {
    /// `entries` descriptors from `address` on; `None` where that is not RAM throughout.
    pub fn find(ram: &GuestRam, address: u64, entries: u16) -> Option<Table> {
        let size = DESCRIPTOR as u64 * u64::from(entries);
        Some(Table { window: ram.window(GuestRange { start: address, size }).ok()?, entries })
    }

    /// A table that a descriptor points to, which is whole descriptors.
    pub fn indirect(ram: &GuestRam, descriptor: &Descriptor) -> Option<Table> {
        let size = DESCRIPTOR as u32;
        let entries = u16::try_from(descriptor.length / size).ok().filter(|_| descriptor.length.is_multiple_of(size));
        Table::find(ram, descriptor.address, entries?)
    }

    /// A copy of the descriptor at `index`, if the table has one there.
    pub fn get(&self, index: u16) -> Option<Descriptor> {
        if index >= self.entries {
            return None;
        }
        let [address, rest] = self.window.read::<[u64; 2]>(DESCRIPTOR * usize::from(index)).map(u64::from_le);
        Some(Descriptor { address, length: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 })
    }
}

impl Rings {
    /// Where the driver says that they are; `None` where rings cannot be.
    pub fn find(setup: &QueueSetup, ram: &GuestRam) -> Option<Rings> {
        let size = usize::from(setup.size);
        if !setup.size.is_power_of_two() || !setup.descriptors.is_multiple_of(16) {
            return None;
        }
        // Behind the entries comes the index at which the other side wants to hear.
        let ring = |start: u64, alignment: u64, entry: usize| {
            let size = (ENTRIES + entry * size + 2) as u64;
            let window = start.is_multiple_of(alignment).then(|| ram.window(GuestRange { start, size }));
            window.and_then(Result::ok)
        };
        Some(Rings {
            descriptors: Table::find(ram, setup.descriptors, setup.size)?,
            available: ring(setup.available, 2, HEAD)?,
            used: ring(setup.used, 4, USED)?,
            size: setup.size,
        })
    }

    /// Up to where the driver has made chains available; what it wrote before is seen from then on.
    pub fn available_index(&self) -> u16 {
        self.available.load(INDEX, Ordering::Acquire)
    }

    /// Head of the chain at `position` of the available ring.
    pub fn head(&self, position: u16) -> u16 {
        self.available.load(ENTRIES + HEAD * self.slot(position), Ordering::Relaxed)
    }

    /// Flags that the driver set.
    pub fn driver_flags(&self) -> u16 {
        self.available.load(FLAGS, Ordering::Relaxed)
    }

    /// With event indices: the position behind which the driver wants to be interrupted.
    pub fn interrupt_at(&self) -> u16 {
        self.available.load(ENTRIES + HEAD * usize::from(self.size), Ordering::Relaxed)
    }

    /// Puts a chain, in which `written` bytes were written, at `position` of the used ring.
    pub fn set_used(&self, position: u16, head: u16, written: u32) {
        self.used.write(ENTRIES + USED * self.slot(position), (u64::from(head) | u64::from(written) << 32).to_le());
    }

    /// Gives the driver what was put before `position`.
    pub fn set_used_index(&self, position: u16) {
        self.used.store(INDEX, position, Ordering::Release);
    }

    /// Sets the flags that the driver reads.
    pub fn set_device_flags(&self, flags: u16) {
        self.used.store(FLAGS, flags, Ordering::Relaxed);
    }

    /// With event indices: asks for a kick behind `position`.
    pub fn set_kick_at(&self, position: u16) {
        self.used.store(ENTRIES + USED * usize::from(self.size), position, Ordering::Relaxed);
    }

    fn slot(&self, position: u16) -> usize {
        usize::from(position & (self.size - 1))
    }
}
