//! A device and its driver on RAM of their own, behind either transport: what tests and fuzz targets drive devices with, well or badly,
//! without KVM. Like [`super::driver`] it keeps the rules only as far as it is asked to.
//!
//! Source: virtio 1.2 §3.1.1 (the driver's path), §4.1.4.3 and §4.2.2 (registers).

use super::device::VirtioDevice;
use super::driver::DriverQueue;
use super::function::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, VirtioFunction};
use super::rings::QueueSetup;
use super::transport::mmio::MmioTransport;
use super::transport::pci::VirtioPci;
use crate::arch::layout::{MIB, PCI_WINDOW, VIRTIO_MMIO};
use crate::bus::bus::{Shared, lock};
use crate::bus::device::BusDevice;
use crate::bus::irq::{Msi, MsiSink, Unconnected};
use crate::event_loop::{self, Doorbells, Interest, Waker};
use crate::memory::map::MemoryMap;
use crate::memory::ram::GuestRam;
use crate::pci::root::PciFunction;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bytes of RAM.
pub const RAM: u64 = MIB;
/// Entries of each queue, where the device has as many.
pub const ENTRIES: u16 = 16;
/// Where the rings of queue 0 are; those of each further one [`RINGS_STEP`] behind it.
pub const RINGS: u64 = 0x1000;
/// Bytes from the rings of one queue to those of the next: as many as they take.
pub const RINGS_STEP: u64 = 0x200;
/// Where [`Rig::ask`] puts what the device reads.
pub const READABLE: u64 = 0x4_0000;
/// Where [`Rig::ask`] has the device write.
pub const WRITABLE: u64 = 0x8_0000;
/// Rounds after which a device that still has something to do would never rest. Each serves all that is ready.
const ROUNDS_MAX: usize = 10_000;

/// How the driver reaches the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// By a BAR behind PCI.
    Pci,
    /// By registers in memory.
    Mmio,
}

/// Both of them.
pub const BOTH: [Via; 2] = [Via::Pci, Via::Mmio];

enum Registers {
    Pci(Box<VirtioPci>),
    Mmio(MmioTransport),
}

/// A request that a device answers whatever its state is: what it reads, and the bytes that there are to write to.
#[derive(Clone, Debug)]
pub struct Request {
    /// Index of the queue.
    pub queue: usize,
    /// What the device reads.
    pub readable: Vec<u8>,
    /// Bytes that it may write.
    pub writable: u32,
}

/// A device, its registers and its driver.
pub struct Rig {
    /// The guest's RAM.
    pub ram: Arc<GuestRam>,
    /// The device with its driver's progress.
    pub function: Shared<VirtioFunction>,
    /// The driver's queues.
    pub queues: Vec<DriverQueue>,
    registers: Registers,
}

/// Far ends of a transport at which nothing is: kicks come by the register, interrupts go nowhere.
struct Nowhere;

impl Doorbells for Nowhere {
    fn arm(&self, _address: u64, _value: Option<u32>, _kick: &Waker) {}
    fn disarm(&self) {}
}

impl MsiSink for Nowhere {
    fn send(&self, _msi: Msi) {}
    fn watch_level_inputs(&self, _routes: &[Option<Msi>]) {}
}

impl Rig {
    /// `device`, reset, with RAM that is all zeroes.
    ///
    /// # Panics
    /// The host gives no memory or descriptors.
    pub fn new(device: Box<dyn VirtioDevice>, via: Via) -> Rig {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(RAM).expect("a size")).expect("the host has memory"));
        let changed = Waker::new().expect("the host has descriptors");
        let function = VirtioFunction::new(device, ram.clone(), changed).expect("the host has descriptors");
        let function = Arc::new(Mutex::new(function));
        let registers = match via {
            Via::Pci => Registers::Pci(Box::new(VirtioPci::new(
                function.clone(),
                PCI_WINDOW,
                Box::new(Nowhere),
                Box::new(Nowhere),
            ))),
            Via::Mmio => {
                let line = Box::new(Unconnected);
                Registers::Mmio(MmioTransport::new(function.clone(), VIRTIO_MMIO, line, Box::new(Nowhere)))
            }
        };
        let mut rig = Rig { ram, function, queues: Vec::new(), registers };
        rig.renew_queues();
        rig
    }

    /// Reads a register, at its offset in the BAR or window.
    pub fn read(&mut self, offset: u64, size: u8) -> u64 {
        match &mut self.registers {
            Registers::Pci(pci) => pci.read_bar(offset, size),
            Registers::Mmio(mmio) => mmio.read(offset, size),
        }
    }

    /// Writes a register, at its offset in the BAR or window.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        match &mut self.registers {
            Registers::Pci(pci) => pci.write_bar(offset, size, value),
            Registers::Mmio(mmio) => mmio.write(offset, size, value),
        }
    }

    /// The PCI function, where the device is one.
    pub fn pci(&mut self) -> Option<&mut VirtioPci> {
        match &mut self.registers {
            Registers::Pci(pci) => Some(pci),
            Registers::Mmio(_) => None,
        }
    }

    /// Offsets of a register over PCI and over memory, as this device is reached; and the sizes of the register there.
    fn register(&self, pci: (u64, u8), mmio: u64) -> (u64, u8) {
        match self.registers {
            Registers::Pci(_) => pci,
            Registers::Mmio(_) => (mmio, 4),
        }
    }

    /// The status, as its register has it.
    pub fn status(&mut self) -> u8 {
        let (offset, size) = self.register((0x14, 1), 0x70);
        self.read(offset, size) as u8
    }

    /// Writes the status.
    pub fn set_status(&mut self, status: u8) {
        let (offset, size) = self.register((0x14, 1), 0x70);
        self.write(offset, size, status.into());
    }

    /// Whether the device has seen a broken rule.
    pub fn needs_reset(&mut self) -> bool {
        self.status() & NEEDS_RESET != 0
    }

    /// The features that the device offers.
    pub fn offered(&mut self) -> u64 {
        let ((select, size), (value, _)) = (self.register((0x00, 4), 0x14), self.register((0x04, 4), 0x10));
        (0..2)
            .map(|half| {
                self.write(select, size, half);
                self.read(value, size) << (32 * half)
            })
            .sum()
    }

    /// Accepts features, whether offered or not.
    pub fn accept(&mut self, features: u64) {
        let ((select, size), (value, _)) = (self.register((0x08, 4), 0x24), self.register((0x0c, 4), 0x20));
        for half in 0..2 {
            self.write(select, size, half);
            self.write(value, size, features >> (32 * half) & 0xffff_ffff);
        }
    }

    /// Selects a queue: those that follow are its registers.
    pub fn select(&mut self, index: u16) {
        let (offset, size) = self.register((0x16, 2), 0x30);
        self.write(offset, size, index.into());
    }

    /// Tells the device of a queue.
    pub fn set_up(&mut self, index: u16, setup: QueueSetup) {
        self.select(index);
        let (offset, size) = self.register((0x18, 2), 0x38);
        self.write(offset, size, setup.size.into());
        for (pci, mmio, address) in
            [(0x20, 0x80, setup.descriptors), (0x28, 0x90, setup.available), (0x30, 0xa0, setup.used)]
        {
            let (offset, _) = self.register((pci, 4), mmio);
            self.write(offset, 4, address & 0xffff_ffff);
            self.write(offset + 4, 4, address >> 32);
        }
        let (offset, size) = self.register((0x1c, 2), 0x44);
        self.write(offset, size, setup.enabled.into());
    }

    /// Reads the device's configuration.
    pub fn config(&mut self, offset: u64, size: u8) -> u64 {
        let (base, _) = self.register((0x2000, 4), 0x100);
        self.read(base + offset, size)
    }

    /// Writes the device's configuration.
    pub fn set_config(&mut self, offset: u64, size: u8, value: u64) {
        let (base, _) = self.register((0x2000, 4), 0x100);
        self.write(base + offset, size, value);
    }

    /// Kicks a queue.
    pub fn kick(&mut self, index: u16) {
        match self.registers {
            Registers::Pci(_) => self.write(0x3000 + 4 * u64::from(index), 2, index.into()),
            Registers::Mmio(_) => self.write(0x50, 4, index.into()),
        }
    }

    /// Resets the device, and drives it with those of its features that are in `wanted`, on fresh queues.
    pub fn drive(&mut self, wanted: u64) {
        self.set_status(0);
        self.renew_queues();
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        let features = self.offered() & (wanted | 1 << 32);
        self.accept(features);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        for index in 0..self.queues.len() {
            self.set_up(index as u16, self.queues[index].setup());
        }
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        assert_eq!(self.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, "a good driver is accepted");
    }

    fn renew_queues(&mut self) {
        let sizes = lock(&self.function).device().queue_sizes().to_vec();
        let place = |index: usize| RINGS + index as u64 * RINGS_STEP;
        assert!(place(sizes.len()) <= READABLE, "{} queues", sizes.len());
        self.ram.write(RINGS, &vec![0; (place(sizes.len()) - RINGS) as usize]).expect("the rings are in RAM");
        let queue = |(index, size): (usize, &u16)| DriverQueue::new(self.ram.clone(), place(index), ENTRIES.min(*size));
        self.queues = sizes.iter().enumerate().map(queue).collect();
    }

    /// Serves what is ready until nothing is, without waiting for the host.
    ///
    /// # Panics
    /// The device finds something to do forever.
    pub fn settle(&mut self) {
        assert!((0..ROUNDS_MAX).any(|_| !self.turn(Duration::ZERO)), "it never rests");
    }

    /// Waits until something is ready, at most `patience`, and serves it. False: nothing was.
    pub fn turn(&mut self, patience: Duration) -> bool {
        let mut function = lock(&self.function);
        let ready = {
            let waits = function.waits_for();
            let interests: Vec<_> =
                waits.iter().map(|wait| Interest { token: wait.queue, fd: wait.fd, output: wait.output }).collect();
            event_loop::wait(&interests, Some(patience)).expect("poll(2) of valid descriptors")
        };
        ready.iter().for_each(|what| function.serve(*what));
        !ready.is_empty()
    }

    /// Makes a request and serves until it is answered; returns what was written. `None`: the device needs a reset.
    ///
    /// # Panics
    /// Neither happens within `patience`: a wedge.
    pub fn ask(&mut self, request: &Request, patience: Duration) -> Option<Vec<u8>> {
        self.ram.write(READABLE, &request.readable).expect("it is RAM");
        let readable = [(READABLE, request.readable.len() as u32)];
        let writable = [(WRITABLE, request.writable)];
        let queue = &mut self.queues[request.queue];
        let head = queue.send(
            if request.readable.is_empty() { &[] } else { &readable },
            if request.writable == 0 { &[] } else { &writable },
        );
        self.kick(request.queue as u16);
        let start = Instant::now();
        loop {
            while let Some((used, written)) = self.queues[request.queue].used() {
                if used == head {
                    let mut bytes = vec![0; written.min(request.writable) as usize];
                    self.ram.read(WRITABLE, &mut bytes).expect("it is RAM");
                    return Some(bytes);
                }
            }
            if self.needs_reset() {
                return None;
            }
            let left = patience.saturating_sub(start.elapsed());
            assert!(!left.is_zero(), "wedged: neither an answer nor a need of reset");
            self.turn(left);
        }
    }
}
