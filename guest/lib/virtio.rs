//! A driver for virtio devices: registers in memory, split queues.
//!
//! A device is a window of registers and some queues in the guest's own memory. The driver puts buffers into a queue and writes the
//! queue's number to a register, the *kick*; the device takes them, does its work and gives them back. Only what these guests
//! need: the modern interface, no indirect descriptors. A real kernel finds the windows in the ACPI tables; these guests know
//! where Hostel puts them (`--transport mmio`).
//! Source: virtio 1.2 §2.7 (split virtqueues), §3.1.1 (initialization), §4.2 (virtio over MMIO).

use core::cell::UnsafeCell;
use core::ptr::{addr_of, addr_of_mut};
use core::sync::atomic::{AtomicU16, Ordering};

use crate::memory::{map_gib, read32, write32};

/// Device types (§5): network card, disk.
pub const NETWORK: u32 = 1;
/// See [`NETWORK`].
pub const BLOCK: u32 = 2;

/// Feature: the interface is that of virtio 1.0 and later (§6).
pub const VERSION_1: u64 = 1 << 32;

/// Feature: each side says at which index it wants to hear of the other's progress (§2.7.7, §2.7.10).
pub const EVENT_IDX: u64 = 1 << 29;

/// Where Hostel puts the first window, from one to the next, how many there may be.
const WINDOWS: u64 = 0xd000_0000;
const WINDOW_STEP: u64 = 0x1000;
const WINDOWS_MAX: u64 = 8;
/// Where QEMU's machine `microvm` has its windows, for comparisons (hw/i386/microvm.c).
const MICROVM_WINDOWS: u64 = 0xfeb0_0000;
const MICROVM_STEP: u64 = 0x200;
const MICROVM_MAX: u64 = 24;
/// The IOAPIC input of the first window's device; the next has the next.
const FIRST_INPUT: u32 = 16;

/// Registers (§4.2.2).
const MAGIC: u64 = 0x00;
const DEVICE_ID: u64 = 0x08;
const DEVICE_FEATURES: u64 = 0x10;
const DEVICE_FEATURES_SELECT: u64 = 0x14;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SELECT: u64 = 0x24;
const QUEUE_SELECT: u64 = 0x30;
const QUEUE_SIZE: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
const STATUS: u64 = 0x70;
const QUEUE_DESCRIPTORS: u64 = 0x80;
const QUEUE_AVAILABLE: u64 = 0x90;
const QUEUE_USED: u64 = 0xa0;
const CONFIG: u64 = 0x100;
/// [`MAGIC`]: "virt".
const VIRT: u32 = 0x7472_6976;

/// [`STATUS`] (§2.1): the guest has seen the device, has a driver, agrees on features, is ready.
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;

/// Descriptor flags (§2.7.5): another one follows; the device writes to this buffer.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A device's window of registers.
#[derive(Clone, Copy)]
pub struct Device {
    window: u64,
}

impl Device {
    /// The first device of this type.
    pub fn find(kind: u32) -> Option<Device> {
        // One GiB holds the windows of both.
        assert!(map_gib(WINDOWS), "no page table left for the devices");
        let among = |first: u64, step: u64, count: u64| {
            let mut windows = (0..count).map(move |index| first + index * step);
            // Where no device is, a read gives ones.
            windows.find(|window| read32(window + MAGIC) == VIRT && read32(window + DEVICE_ID) == kind)
        };
        let window =
            among(WINDOWS, WINDOW_STEP, WINDOWS_MAX).or_else(|| among(MICROVM_WINDOWS, MICROVM_STEP, MICROVM_MAX))?;
        Some(Device { window })
    }

    /// Begins with the device: what it did before is forgotten, and of the features that it offers those in `wanted` are
    /// agreed upon, [`VERSION_1`] among them. Returns them.
    pub fn begin(self, wanted: u64) -> u64 {
        self.write(STATUS, 0);
        self.write(STATUS, ACKNOWLEDGE);
        self.write(STATUS, ACKNOWLEDGE | DRIVER);
        let features = self.half_of_features(0, wanted) | self.half_of_features(1, wanted | VERSION_1);
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert!(self.read(STATUS) & FEATURES_OK != 0, "the device does not agree on the features");
        features
    }

    /// Agrees on the features among the 32 of half `half`.
    fn half_of_features(self, half: u32, wanted: u64) -> u64 {
        self.write(DEVICE_FEATURES_SELECT, half);
        let agreed = self.read(DEVICE_FEATURES) & (wanted >> (32 * half)) as u32;
        self.write(DRIVER_FEATURES_SELECT, half);
        self.write(DRIVER_FEATURES, agreed);
        u64::from(agreed) << (32 * half)
    }

    /// Tells the device where queue `index` is.
    pub fn set_queue<const SIZE: usize>(self, index: u32, queue: &Queue<SIZE>) {
        self.write(QUEUE_SELECT, index);
        self.write(QUEUE_SIZE, SIZE as u32);
        for (register, address) in [
            (QUEUE_DESCRIPTORS, addr_of!(queue.descriptors) as u64),
            (QUEUE_AVAILABLE, addr_of!(queue.available) as u64),
            (QUEUE_USED, addr_of!(queue.used) as u64),
        ] {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(QUEUE_READY, 1);
    }

    /// Lets the device begin.
    pub fn ready(self) {
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Four bytes of the device's configuration, whose meaning is its type's.
    pub fn config(self, offset: u64) -> u32 {
        self.read(CONFIG + offset)
    }

    /// Tells the device that queue `index` has new buffers.
    pub fn kick(self, index: u32) {
        self.write(QUEUE_NOTIFY, index);
    }

    /// The register that is written for a kick.
    pub fn kick_address(self) -> u64 {
        self.window + QUEUE_NOTIFY
    }

    /// The input of the IOAPIC that the device raises when it has given buffers back.
    pub fn input(self) -> u32 {
        FIRST_INPUT + ((self.window - WINDOWS) / WINDOW_STEP) as u32
    }

    /// Says that the interrupt has been seen: the device lowers its line.
    pub fn acknowledge(self) {
        self.write(INTERRUPT_ACKNOWLEDGE, self.read(INTERRUPT_STATUS));
    }

    fn read(self, register: u64) -> u32 {
        read32(self.window + register)
    }

    fn write(self, register: u64, value: u32) {
        write32(self.window + register, value);
    }
}

/// One buffer, as the device finds it (§2.7.5).
#[repr(C)]
#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    bytes: u32,
    flags: u16,
    next: u16,
}

/// What is available to the device: heads of chains of descriptors, in a ring (§2.7.6).
#[repr(C)]
struct Available<const SIZE: usize> {
    flags: u16,
    /// Where the next head will be put; counts on without end.
    index: AtomicU16,
    heads: [u16; SIZE],
    /// With VIRTIO_F_EVENT_IDX: interrupt when the device's index passes this.
    used_event: u16,
}

/// What the device has used: heads and how many bytes it wrote, in a ring (§2.7.8).
#[repr(C, align(4))]
struct Used<const SIZE: usize> {
    flags: u16,
    /// Where the device will put the next; counts on without end.
    index: AtomicU16,
    chains: [[u32; 2]; SIZE],
    /// With VIRTIO_F_EVENT_IDX: kick when the driver's index passes this.
    available_event: u16,
}

/// A queue of `SIZE` descriptors, a power of two.
#[repr(C, align(16))]
pub struct Queue<const SIZE: usize> {
    descriptors: [Descriptor; SIZE],
    available: Available<SIZE>,
    used: Used<SIZE>,
    /// How many used chains have been seen.
    seen: u16,
}

impl<const SIZE: usize> Queue<SIZE> {
    /// An empty queue.
    pub const fn new() -> Queue<SIZE> {
        Queue {
            descriptors: [Descriptor { address: 0, bytes: 0, flags: 0, next: 0 }; SIZE],
            available: Available { flags: 0, index: AtomicU16::new(0), heads: [0; SIZE], used_event: 0 },
            used: Used { flags: 0, index: AtomicU16::new(0), chains: [[0; 2]; SIZE], available_event: 0 },
            seen: 0,
        }
    }

    /// Describes buffer `index`: `bytes` at `address`, which the device reads.
    pub fn describe(&mut self, index: u16, address: u64, bytes: u32) {
        self.set(index, Descriptor { address, bytes, flags: 0, next: 0 });
    }

    /// Describes buffer `index`, which the device writes.
    pub fn describe_writable(&mut self, index: u16, address: u64, bytes: u32) {
        self.set(index, Descriptor { address, bytes, flags: WRITE, next: 0 });
    }

    /// Has buffer `index` followed by `next` in its chain.
    pub fn chain(&mut self, index: u16, next: u16) {
        let mut descriptor = self.descriptors[usize::from(index) % SIZE];
        descriptor.flags |= NEXT;
        descriptor.next = next;
        self.set(index, descriptor);
    }

    fn set(&mut self, index: u16, descriptor: Descriptor) {
        // SAFETY: an element of the table. Volatile: somebody else reads it.
        unsafe { addr_of_mut!(self.descriptors[usize::from(index) % SIZE]).write_volatile(descriptor) };
    }

    /// Makes the chain that begins with `head` available to the device.
    pub fn offer(&mut self, head: u16) {
        let index = self.available.index.load(Ordering::Relaxed);
        // SAFETY: an element of the ring; the device does not look at it before the index has passed.
        unsafe { addr_of_mut!(self.available.heads[usize::from(index) % SIZE]).write_volatile(head) };
        // After all that was written so far, and before what is read next: the device may have gone to sleep meanwhile.
        self.available.index.swap(index.wrapping_add(1), Ordering::SeqCst);
    }

    /// How many chains have been made available, without end.
    pub fn offered(&self) -> u16 {
        self.available.index.load(Ordering::Relaxed)
    }

    /// With [`EVENT_IDX`]: whether the device wants a kick, now that there are more chains than the `before` that it may have
    /// been kicked for.
    pub fn wants_kick(&self, before: u16) -> bool {
        // SAFETY: a field of the ring, which the device writes.
        let event = unsafe { addr_of!(self.used.available_event).read_volatile() };
        let now = self.offered();
        now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
    }

    /// With [`EVENT_IDX`]: no interrupt, please, for the next 2^15 chains.
    pub fn keep_quiet(&mut self) {
        // SAFETY: a field of the ring, which the device reads.
        unsafe { addr_of_mut!(self.available.used_event).write_volatile(self.seen.wrapping_sub(1)) };
    }

    /// With [`EVENT_IDX`]: an interrupt, please, for the next chain.
    pub fn listen(&mut self) {
        // SAFETY: a field of the ring, which the device reads.
        unsafe { addr_of_mut!(self.available.used_event).write_volatile(self.seen) };
    }

    /// Whether the device has used a chain that was not seen yet.
    pub fn has_used(&self) -> bool {
        self.used.index.load(Ordering::Acquire) != self.seen
    }

    /// The next chain that the device has used: its head, and how many bytes were written.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        if self.used.index.load(Ordering::Acquire) == self.seen {
            return None;
        }
        // SAFETY: an element of the ring, written before the index passed it.
        let [head, bytes] = unsafe { addr_of!(self.used.chains[usize::from(self.seen) % SIZE]).read_volatile() };
        self.seen = self.seen.wrapping_add(1);
        Some((head as u16, bytes))
    }
}

impl<const SIZE: usize> Default for Queue<SIZE> {
    fn default() -> Self {
        Self::new()
    }
}

/// Memory that guest and device share: a static that one place of the program takes, once.
pub struct Shared<T>(UnsafeCell<T>);

// SAFETY: `take` is called by one processor.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// `value`, to be taken.
    pub const fn new(value: T) -> Shared<T> {
        Shared(UnsafeCell::new(value))
    }

    /// The value. Call once for each.
    #[expect(clippy::mut_from_ref, reason = "the first and only borrow")]
    pub fn take(&'static self) -> &'static mut T {
        // SAFETY: the caller takes it once.
        unsafe { &mut *self.0.get() }
    }
}
