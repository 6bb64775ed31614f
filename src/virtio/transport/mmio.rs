//! Virtio over memory-mapped registers: one window of 512 bytes and a level-triggered interrupt a device.
//!
//! Only the modern interface (version 2). Source: virtio 1.2 §4.2.

use super::halves::{half, with_half};
use crate::bus::bus::{Shared, lock};
use crate::bus::device::{ALL_ONES, BusDevice};
use crate::bus::irq::IrqLine;
use crate::event_loop::{Doorbells, Waker};
use crate::virtio::function::{Transport, VirtioFunction};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of the window.
pub const WINDOW: u64 = 0x200;
/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "HSTL".
const VENDOR: u32 = 0x4c54_5348;
/// Offset of the device's configuration.
const CONFIG: u64 = 0x100;
/// Offset of the register that is written to kick a queue.
const NOTIFY: u64 = 0x50;

/// Interrupt status: used chains.
const USED: u32 = 1;
/// Interrupt status: the configuration changed.
const CHANGED: u32 = 2;

/// The driver's way to one device.
pub struct MmioTransport {
    function: Shared<VirtioFunction>,
    wire: Arc<MmioWire>,
    features_select: u32,
    driver_features_select: u32,
    queue_select: u16,
}

/// The device's way out.
struct MmioWire {
    status: AtomicU32,
    line: Box<dyn IrqLine>,
    doorbells: Box<dyn Doorbells>,
    /// Where the window is.
    base: u64,
}

impl MmioWire {
    fn raise(&self, cause: u32) {
        self.status.fetch_or(cause, Ordering::SeqCst);
        self.line.set_level(true);
    }
}

impl Transport for MmioWire {
    fn interrupt_queue(&self, _index: usize) {
        self.raise(USED);
    }

    fn interrupt_config(&self) {
        self.raise(CHANGED);
    }

    fn arm(&self, index: usize, kick: &Waker) {
        self.doorbells.arm(self.base + NOTIFY, Some(index as u32), kick);
    }

    fn disarm(&self) {
        self.doorbells.disarm();
    }
}

impl MmioTransport {
    /// Registers at `base` for `function`, which interrupts by `line` and is kicked by `doorbells`.
    pub fn new(
        function: Shared<VirtioFunction>,
        base: u64,
        line: Box<dyn IrqLine>,
        doorbells: Box<dyn Doorbells>,
    ) -> MmioTransport {
        let wire = Arc::new(MmioWire { status: AtomicU32::new(0), line, doorbells, base });
        lock(&function).connect(wire.clone());
        MmioTransport { function, wire, features_select: 0, driver_features_select: 0, queue_select: 0 }
    }

    fn read_register(&self, offset: u64) -> u32 {
        let function = lock(&self.function);
        let max = function.device().queue_sizes().get(usize::from(self.queue_select)).copied().unwrap_or(0);
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => function.device().kind() as u32,
            0x0c => VENDOR,
            0x10 => half(function.features(), self.features_select),
            0x34 => max.into(),
            0x44 => function.queue_setup(self.queue_select).enabled.into(),
            0x60 => self.wire.status.load(Ordering::SeqCst),
            0x70 => function.status().into(),
            // Registers that are only written, and those of shared memory regions, which no device has (length -1).
            0xb0..=0xbc => u32::MAX,
            0xfc => function.config_generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let mut function = lock(&self.function);
        // Of a ring's address: its second register.
        let (queue, high) = (self.queue_select, (offset >> 2 & 1) as u32);
        match offset {
            0x14 => self.features_select = value,
            0x20 => {
                let features = with_half(function.driver_features(), self.driver_features_select, value);
                function.set_driver_features(features);
            }
            0x24 => self.driver_features_select = value,
            0x30 => self.queue_select = u16::try_from(value).unwrap_or(u16::MAX),
            // A size that no queue has is refused when the queue goes live.
            0x38 => function.set_up_queue(queue, |setup| setup.size = u16::try_from(value).unwrap_or(0)),
            0x44 => function.set_up_queue(queue, |setup| setup.enabled = value & 1 != 0),
            NOTIFY => function.kick(value as usize),
            0x64 => {
                let left = self.wire.status.fetch_and(!value, Ordering::SeqCst) & !value;
                if left == 0 {
                    self.wire.line.set_level(false);
                }
            }
            0x70 => {
                function.set_status(value as u8);
                if value == 0 {
                    self.wire.status.store(0, Ordering::SeqCst);
                    self.wire.line.set_level(false);
                }
            }
            0x80 | 0x84 => {
                function.set_up_queue(queue, |setup| setup.descriptors = with_half(setup.descriptors, high, value))
            }
            0x90 | 0x94 => {
                function.set_up_queue(queue, |setup| setup.available = with_half(setup.available, high, value))
            }
            0xa0 | 0xa4 => function.set_up_queue(queue, |setup| setup.used = with_half(setup.used, high, value)),
            _ => {}
        }
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        match offset {
            CONFIG.. => lock(&self.function).read_config(offset - CONFIG, size),
            // Registers are read whole (§4.2.2.2).
            _ if size == 4 && offset.is_multiple_of(4) => self.read_register(offset).into(),
            _ => ALL_ONES,
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        match offset {
            CONFIG.. => lock(&self.function).write_config(offset - CONFIG, size, value),
            _ if size == 4 && offset.is_multiple_of(4) => self.write_register(offset, value as u32),
            _ => {}
        }
    }

    fn register_name(&self, offset: u64, _write: bool) -> &'static str {
        match offset {
            0x00 => "MagicValue",
            0x04 => "Version",
            0x08 => "DeviceID",
            0x0c => "VendorID",
            0x10 => "DeviceFeatures",
            0x14 => "DeviceFeaturesSel",
            0x20 => "DriverFeatures",
            0x24 => "DriverFeaturesSel",
            0x30 => "QueueSel",
            0x34 => "QueueSizeMax",
            0x38 => "QueueSize",
            0x44 => "QueueReady",
            NOTIFY => "QueueNotify",
            0x60 => "InterruptStatus",
            0x64 => "InterruptACK",
            0x70 => "Status",
            0x80 | 0x84 => "QueueDesc",
            0x90 | 0x94 => "QueueDriver",
            0xa0 | 0xa4 => "QueueDevice",
            0xfc => "ConfigGeneration",
            CONFIG.. => "Config",
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_wires::NotedDoorbells;
    use super::*;
    use crate::arch::layout::MIB;
    use crate::bus::irq::RecordedLine;
    use crate::memory::map::MemoryMap;
    use crate::memory::ram::GuestRam;
    use crate::virtio::driver::DriverQueue;
    use crate::virtio::rng::Rng;
    use std::sync::Mutex;

    const BASE: u64 = 0xd000_0000;

    fn transport() -> (MmioTransport, Arc<RecordedLine>, NotedDoorbells, DriverQueue) {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let function = VirtioFunction::new(Box::new(Rng), ram.clone(), Waker::new().unwrap()).unwrap();
        let (line, doorbells) = (Arc::new(RecordedLine::default()), NotedDoorbells::default());
        let function = Arc::new(Mutex::new(function));
        let transport = MmioTransport::new(function, BASE, Box::new(line.clone()), Box::new(doorbells.clone()));
        (transport, line, doorbells, DriverQueue::new(ram, 0x1000, 8))
    }

    #[test]
    fn a_driver_sets_the_device_up_and_is_interrupted_until_it_says_so() {
        let (mut transport, line, doorbells, mut queue) = transport();
        assert_eq!([0, 4, 8].map(|offset| transport.read(offset, 4)), [MAGIC.into(), 2, 4]);
        transport.write(0x70, 4, 3);
        for half in [0, 1] {
            transport.write(0x14, 4, half);
            let features = transport.read(0x10, 4);
            transport.write(0x24, 4, half);
            transport.write(0x20, 4, features);
        }
        transport.write(0x70, 4, 11);
        let setup = queue.setup();
        let rings = [(0x80, setup.descriptors), (0x90, setup.available), (0xa0, setup.used)];
        for (offset, value) in [(0x30, 0), (0x38, 8)].into_iter().chain(rings).chain([(0x44, 1), (0x70, 15)]) {
            transport.write(offset, 4, value);
        }
        assert_eq!((transport.read(0x70, 4), transport.read(0x44, 4), transport.read(0x34, 4)), (15, 1, 64));
        assert_eq!(*doorbells.0.lock().unwrap(), [(BASE + NOTIFY, Some(0))]);
        queue.send(&[], &[(0x8000, 16)]);
        lock(&transport.function).serve(Some(0));
        assert_eq!((queue.used(), line.level(), transport.read(0x60, 4)), (Some((0, 16)), true, 1));
        transport.write(0x64, 4, 1);
        assert_eq!((line.level(), transport.read(0x60, 4)), (false, 0));
        transport.write(0x70, 4, 0);
        assert!(doorbells.0.lock().unwrap().is_empty());
    }

    #[test]
    fn sec17_any_offset_width_and_value_is_answered() {
        let (mut transport, ..) = transport();
        for value in [0, 1, 0xffff, u64::MAX] {
            for offset in (0..WINDOW + 8).chain([u64::MAX]) {
                for size in 1..=8 {
                    transport.write(offset, size, value);
                    transport.read(offset, size);
                }
                transport.register_name(offset, true);
            }
        }
        assert_eq!(transport.read(0, 1), ALL_ONES, "registers are read whole");
    }
}
