//! The driver's side of a split queue, on plain RAM: for tests, fuzzing and benches of devices. It keeps the rules only as far as
//! it is asked to.
//!
//! Source: virtio 1.2 §2.7.

use super::function::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, VirtioFunction};
use super::rings::{Descriptor, NEXT, QueueSetup, WRITE};
use crate::memory::ram::GuestRam;
use std::sync::Arc;

/// A queue as its driver holds it.
pub struct DriverQueue {
    ram: Arc<GuestRam>,
    setup: QueueSetup,
    /// Where the next chain's descriptors go, and how many chains were made available and found used.
    free: u16,
    available: u16,
    seen: u16,
}

/// Starts a device that was reset: accepts `features` and sets its first queues up (virtio 1.2 §3.1.1). Whether the device takes
/// that is for the caller to look at.
pub fn start<'a>(function: &mut VirtioFunction, features: u64, queues: impl IntoIterator<Item = &'a DriverQueue>) {
    function.set_driver_features(features);
    function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    for (index, queue) in (0..).zip(queues) {
        function.set_up_queue(index, |setup| *setup = queue.setup());
    }
    function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

impl DriverQueue {
    /// A queue of `size` entries whose rings lie from `base` on, in at most 26 bytes an entry and 64 more.
    pub fn new(ram: Arc<GuestRam>, base: u64, size: u16) -> DriverQueue {
        let available = base + 16 * u64::from(size);
        let used = (available + 6 + 2 * u64::from(size)).next_multiple_of(4);
        let setup = QueueSetup { size, enabled: true, descriptors: base, available, used };
        DriverQueue { ram, setup, free: 0, available: 0, seen: 0 }
    }

    /// What to tell the device.
    pub fn setup(&self) -> QueueSetup {
        self.setup
    }

    /// Writes descriptor `index`.
    pub fn write_descriptor(&self, index: u16, descriptor: Descriptor) {
        self.write_table_entry(self.setup.descriptors, index, descriptor);
    }

    /// Writes entry `index` of a table of descriptors at `table`.
    pub fn write_table_entry(&self, table: u64, index: u16, descriptor: Descriptor) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&descriptor.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&descriptor.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&descriptor.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&descriptor.next.to_le_bytes());
        self.ram.write(table + 16 * u64::from(index), &bytes).expect("the table is in RAM");
    }

    /// Makes the chain that begins at descriptor `head` available.
    pub fn offer(&mut self, head: u16) {
        let entry = self.setup.available + 4 + 2 * u64::from(self.available % self.setup.size);
        self.ram.write(entry, &head.to_le_bytes()).expect("the ring is in RAM");
        self.set_available(self.available.wrapping_add(1));
    }

    /// Sets the available ring's index, to whatever value.
    pub fn set_available(&mut self, index: u16) {
        self.available = index;
        self.ram.write(self.setup.available + 2, &index.to_le_bytes()).expect("the ring is in RAM");
    }

    /// Makes a whole chain available: readable buffers, then writable ones, each an address and a length. Returns its head.
    pub fn send(&mut self, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> u16 {
        let head = self.free;
        let buffers = readable.iter().map(|buffer| (buffer, 0)).chain(writable.iter().map(|buffer| (buffer, WRITE)));
        let count = readable.len() + writable.len();
        for (at, (&(address, length), flag)) in buffers.enumerate() {
            let index = self.free;
            self.free = (self.free + 1) % self.setup.size;
            let flags = flag | if at + 1 < count { NEXT } else { 0 };
            self.write_descriptor(index, Descriptor { address, length, flags, next: self.free });
        }
        self.offer(head);
        head
    }

    /// The next chain that the device has used: its head, and the bytes that were written.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        let mut index = [0; 2];
        self.ram.read(self.setup.used + 2, &mut index).expect("the ring is in RAM");
        if u16::from_le_bytes(index) == self.seen {
            return None;
        }
        let entry = self.ram.read_u64(self.setup.used + 4 + 8 * u64::from(self.seen % self.setup.size));
        let entry = entry.expect("the ring is in RAM");
        self.seen = self.seen.wrapping_add(1);
        Some((entry as u16, (entry >> 32) as u32))
    }
}
