//! Virtio over PCI: the modern interface, all structures in one BAR, interrupts by MSI-X only.
//!
//! ```text
//! BAR 0   0x0000  common configuration      0x3000  doorbells, 4 bytes a queue
//!         0x1000  ISR status                0x4000  MSI-X table
//!         0x2000  device configuration      0x5000  MSI-X pending bits
//! ```
//! Source: virtio 1.2 §4.1.

use super::halves::{half, with_half};
use crate::bus::bus::{Shared, lock};
use crate::bus::device::{ALL_ONES, read_by_bytes};
use crate::event_loop::{Doorbells, Waker};
use crate::pci::config::{ConfigSpace, Identity};
use crate::pci::msix::{self, Msix};
use crate::pci::root::PciFunction;
use crate::virtio::device::DeviceKind;
use crate::virtio::function::{Transport, VirtioFunction};
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes of the BAR.
pub const BAR_SIZE: u64 = 0x8000;
const COMMON: u64 = 0x0000;
const COMMON_SIZE: usize = 0x3c;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
/// Bytes from one queue's doorbell to the next.
const NOTIFY_MULTIPLIER: u32 = 4;
const MSIX_TABLE: u64 = 0x4000;
const MSIX_PENDING: u64 = 0x5000;

const VENDOR: u16 = 0x1af4;
/// Device number of kind 0 (§4.1.2.1).
const DEVICE_BASE: u16 = 0x1040;
/// Vendor-specific capability, by which each structure is found (§4.1.4).
const VENDOR_CAPABILITY: u8 = 0x09;
/// No vector: no interrupt (§4.1.5.1.2).
const NO_VECTOR: u16 = 0xffff;
/// In the capability for access by configuration space: the window's data, and before it offset and length (§4.1.4.9).
const CFG_DATA: usize = 16;

/// A virtio device as a PCI function.
pub struct VirtioPci {
    function: Shared<VirtioFunction>,
    wire: Arc<PciWire>,
    config: ConfigSpace,
    /// Offsets of the MSI-X capability and of that for access by configuration space.
    msix_capability: usize,
    cfg_capability: usize,
    features_select: u32,
    driver_features_select: u32,
    queue_select: u16,
}

/// The device's way out.
struct PciWire {
    state: Mutex<WireState>,
    doorbells: Box<dyn Doorbells>,
}

struct WireState {
    msix: Msix,
    config_vector: u16,
    queue_vectors: Vec<u16>,
    /// Where the BAR is.
    bar: Option<u64>,
    /// Queues whose kicks are passed on.
    armed: Vec<(usize, Waker)>,
}

impl PciWire {
    fn state(&self) -> MutexGuard<'_, WireState> {
        lock(&self.state)
    }

    fn ring_at(&self, state: &WireState, index: usize, kick: &Waker) {
        if let Some(bar) = state.bar {
            self.doorbells.arm(bar + NOTIFY + index as u64 * u64::from(NOTIFY_MULTIPLIER), None, kick);
        }
    }

    /// The BAR is elsewhere now, or nowhere: the doorbells follow.
    fn moved(&self, bar: Option<u64>) {
        let mut state = self.state();
        if state.bar != bar {
            self.doorbells.disarm();
            state.bar = bar;
            state.armed.iter().for_each(|(index, kick)| self.ring_at(&state, *index, kick));
        }
    }
}

impl Transport for PciWire {
    fn interrupt_queue(&self, index: usize) {
        let mut state = self.state();
        let vector = state.queue_vectors.get(index).copied().unwrap_or(NO_VECTOR);
        state.msix.send(vector);
    }

    fn interrupt_config(&self) {
        let mut state = self.state();
        let vector = state.config_vector;
        state.msix.send(vector);
    }

    fn arm(&self, index: usize, kick: &Waker) {
        let mut state = self.state();
        state.armed.push((index, kick.clone()));
        self.ring_at(&state, index, kick);
    }

    fn disarm(&self) {
        let mut state = self.state();
        self.doorbells.disarm();
        state.armed.clear();
    }
}

impl VirtioPci {
    /// `function` on PCI, its BAR at `bar`, with messages to `msix`'s sink and kicked by `doorbells`.
    pub fn new(
        function: Shared<VirtioFunction>,
        bar: u64,
        sink: Box<dyn crate::bus::irq::MsiSink>,
        doorbells: Box<dyn Doorbells>,
    ) -> VirtioPci {
        let (kind, queues) = {
            let function = lock(&function);
            (function.device().kind(), function.queue_count())
        };
        let msix = Msix::new(queues + 1, sink);
        let mut config = ConfigSpace::new(identity(kind));
        config.place_bar(bar, BAR_SIZE);
        let mut structure = |kind: u8, offset: u64, size: u32, extra: &[u8], writable: &[u8]| {
            let mut body = vec![16 + extra.len() as u8, kind, 0, 0, 0, 0];
            body.extend((offset as u32).to_le_bytes());
            body.extend(size.to_le_bytes());
            body.extend(extra);
            config.add_capability(VENDOR_CAPABILITY, &body, writable)
        };
        structure(1, COMMON, COMMON_SIZE as u32, &[], &[]);
        structure(2, NOTIFY, queues as u32 * NOTIFY_MULTIPLIER, &NOTIFY_MULTIPLIER.to_le_bytes(), &[]);
        structure(3, ISR, 1, &[], &[]);
        structure(4, DEVICE, 0x1000, &[], &[]);
        // BAR, offset, length and data of the window are the driver's to write.
        let mut writable = [0xff; 18];
        (writable[0], writable[1]) = (0, 0);
        (writable[3], writable[4], writable[5]) = (0, 0, 0);
        let cfg_capability = structure(5, 0, 0, &[0; 4], &writable);
        let (body, writable) = msix.capability(MSIX_TABLE as u32, MSIX_PENDING as u32);
        let msix_capability = config.add_capability(msix::CAPABILITY, &body, &writable);
        let state = WireState {
            msix,
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; queues],
            bar: Some(bar),
            armed: Vec::new(),
        };
        let wire = Arc::new(PciWire { state: Mutex::new(state), doorbells });
        lock(&function).connect(wire.clone());
        VirtioPci {
            function,
            wire,
            config,
            msix_capability,
            cfg_capability,
            features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
        }
    }

    /// The common configuration as it reads now (§4.1.4.3).
    fn common(&self) -> [u8; COMMON_SIZE] {
        let function = lock(&self.function);
        let state = self.wire.state();
        let (queue, setup) = (usize::from(self.queue_select), function.queue_setup(self.queue_select));
        let vector = state.queue_vectors.get(queue).copied().unwrap_or(NO_VECTOR);
        let mut bytes = [0; COMMON_SIZE];
        let mut set = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        set(0x00, &self.features_select.to_le_bytes());
        set(0x04, &half(function.features(), self.features_select).to_le_bytes());
        set(0x08, &self.driver_features_select.to_le_bytes());
        set(0x0c, &half(function.driver_features(), self.driver_features_select).to_le_bytes());
        set(0x10, &state.config_vector.to_le_bytes());
        set(0x12, &(function.queue_count() as u16).to_le_bytes());
        set(0x14, &[function.status(), function.config_generation() as u8]);
        set(0x16, &self.queue_select.to_le_bytes());
        set(0x18, &setup.size.to_le_bytes());
        set(0x1a, &vector.to_le_bytes());
        set(0x1c, &u16::from(setup.enabled).to_le_bytes());
        set(0x1e, &self.queue_select.to_le_bytes());
        set(0x20, &setup.descriptors.to_le_bytes());
        set(0x28, &setup.available.to_le_bytes());
        set(0x30, &setup.used.to_le_bytes());
        bytes
    }

    fn write_common(&mut self, offset: u64, size: u8, value: u64) {
        let mut function = lock(&self.function);
        let queue = self.queue_select;
        let replace = |old: u64| match (offset % 8, size) {
            (0, 8) => value,
            (0 | 4, 4) => with_half(old, (offset >> 2 & 1) as u32, value as u32),
            _ => old,
        };
        match (offset, size) {
            (0x00, 4) => self.features_select = value as u32,
            (0x08, 4) => self.driver_features_select = value as u32,
            (0x0c, 4) => {
                let features = with_half(function.driver_features(), self.driver_features_select, value as u32);
                function.set_driver_features(features);
            }
            (0x10, 2) => {
                let mut state = self.wire.state();
                state.config_vector = vector(&state.msix, value as u16);
            }
            (0x14, 1) => {
                function.set_status(value as u8);
                if value == 0 {
                    let mut state = self.wire.state();
                    state.msix.reset();
                    state.config_vector = NO_VECTOR;
                    state.queue_vectors.fill(NO_VECTOR);
                }
            }
            (0x16, 2) => self.queue_select = value as u16,
            (0x18, 2) => function.set_up_queue(queue, |setup| setup.size = value as u16),
            (0x1a, 2) => {
                let mut state = self.wire.state();
                let new = vector(&state.msix, value as u16);
                if let Some(old) = state.queue_vectors.get_mut(usize::from(queue)) {
                    *old = new;
                }
            }
            // Only 1 may be written: a queue is disabled by reset (§4.1.4.3.2).
            (0x1c, 2) if value == 1 => function.set_up_queue(queue, |setup| setup.enabled = true),
            (0x20..0x28, _) => function.set_up_queue(queue, |setup| setup.descriptors = replace(setup.descriptors)),
            (0x28..0x30, _) => function.set_up_queue(queue, |setup| setup.available = replace(setup.available)),
            (0x30..0x38, _) => function.set_up_queue(queue, |setup| setup.used = replace(setup.used)),
            _ => {}
        }
    }

    /// The window that the access capability opens: offset in the BAR and size; `None` for one that no access has.
    fn cfg_window(&self) -> Option<(u64, u8)> {
        let field = |at: usize| self.config.read(self.cfg_capability + at, 4);
        let (bar, offset, size) = (field(4) & 0xff, u64::from(field(8)), field(12));
        (bar == 0 && matches!(size, 1 | 2 | 4) && offset < BAR_SIZE).then_some((offset, size as u8))
    }
}

/// A vector that exists, or none.
fn vector(msix: &Msix, wanted: u16) -> u16 {
    if usize::from(wanted) < msix.vectors() { wanted } else { NO_VECTOR }
}

fn identity(kind: DeviceKind) -> Identity {
    let number = kind as u16;
    let class = match kind {
        DeviceKind::Network => (2, 0, 0),
        DeviceKind::Block => (1, 0, 0),
        DeviceKind::Console => (7, 0x80, 0),
        DeviceKind::Socket | DeviceKind::FileSystem => (2, 0x80, 0),
        DeviceKind::Entropy | DeviceKind::Balloon => (0xff, 0, 0),
    };
    Identity { id: (VENDOR, DEVICE_BASE + number), class, revision: 1, subsystem: (VENDOR, DEVICE_BASE + number) }
}

impl PciFunction for VirtioPci {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn read_config(&mut self, offset: usize, size: u8) -> u32 {
        if offset == self.cfg_capability + CFG_DATA
            && let Some((at, size)) = self.cfg_window()
        {
            return self.read_bar(at, size) as u32;
        }
        self.config.read(offset, size)
    }

    fn write_config(&mut self, offset: usize, size: u8, value: u32) {
        self.config.write(offset, size, value);
        self.wire.moved(self.config.bar());
        let control = self.config.read(self.msix_capability + 2, 2) as u16;
        self.wire.state().msix.set_control(control);
        if offset == self.cfg_capability + CFG_DATA
            && let Some((at, size)) = self.cfg_window()
        {
            self.write_bar(at, size, value.into());
        }
    }

    fn read_bar(&mut self, offset: u64, size: u8) -> u64 {
        match offset {
            COMMON..ISR => {
                let common = self.common();
                read_by_bytes(offset, size, |at| common.get(at as usize).copied().unwrap_or(0xff))
            }
            // Causes of INTx, which is never raised.
            ISR..DEVICE => 0,
            DEVICE..NOTIFY => lock(&self.function).read_config(offset - DEVICE, size),
            MSIX_TABLE..MSIX_PENDING => self.wire.state().msix.read_table(offset - MSIX_TABLE, size),
            MSIX_PENDING.. => self.wire.state().msix.read_pending(offset - MSIX_PENDING, size),
            NOTIFY..MSIX_TABLE => ALL_ONES,
        }
    }

    fn write_bar(&mut self, offset: u64, size: u8, value: u64) {
        match offset {
            COMMON..ISR => self.write_common(offset, size, value),
            DEVICE..NOTIFY => lock(&self.function).write_config(offset - DEVICE, size, value),
            NOTIFY..MSIX_TABLE => {
                lock(&self.function).kick(((offset - NOTIFY) / u64::from(NOTIFY_MULTIPLIER)) as usize);
            }
            MSIX_TABLE..MSIX_PENDING => self.wire.state().msix.write_table(offset - MSIX_TABLE, size, value),
            _ => {}
        }
    }

    fn register_name(&self, offset: u64, _write: bool) -> &'static str {
        match offset {
            0x00 => "device_feature_select",
            0x04 => "device_feature",
            0x08 => "driver_feature_select",
            0x0c => "driver_feature",
            0x10 => "config_msix_vector",
            0x12 => "num_queues",
            0x14 => "device_status",
            0x15 => "config_generation",
            0x16 => "queue_select",
            0x18 => "queue_size",
            0x1a => "queue_msix_vector",
            0x1c => "queue_enable",
            0x1e => "queue_notify_off",
            0x20..0x28 => "queue_desc",
            0x28..0x30 => "queue_driver",
            0x30..0x38 => "queue_device",
            ISR..DEVICE => "ISR",
            DEVICE..NOTIFY => "device configuration",
            NOTIFY..MSIX_TABLE => "queue notify",
            MSIX_TABLE..MSIX_PENDING => "MSI-X table",
            MSIX_PENDING.. => "MSI-X pending bits",
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_wires::{NotedDoorbells, NotedMessages};
    use super::*;
    use crate::arch::layout::MIB;
    use crate::bus::irq::Msi;
    use crate::memory::map::MemoryMap;
    use crate::memory::ram::GuestRam;
    use crate::virtio::driver::DriverQueue;
    use crate::virtio::rng::Rng;

    const BAR: u64 = 0xd000_0000;

    struct Machine {
        pci: VirtioPci,
        function: Shared<VirtioFunction>,
        doorbells: NotedDoorbells,
        messages: NotedMessages,
        queue: DriverQueue,
    }

    fn machine() -> Machine {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let function = VirtioFunction::new(Box::new(Rng), ram.clone(), Waker::new().unwrap()).unwrap();
        let function = Arc::new(Mutex::new(function));
        let (doorbells, messages) = (NotedDoorbells::default(), NotedMessages::default());
        let pci = VirtioPci::new(function.clone(), BAR, Box::new(messages.clone()), Box::new(doorbells.clone()));
        Machine { pci, function, doorbells, messages, queue: DriverQueue::new(ram, 0x1000, 8) }
    }

    /// What Linux' driver does, register by register.
    fn drive(machine: &mut Machine) {
        let setup = machine.queue.setup();
        let pci = &mut machine.pci;
        let capability = pci.msix_capability;
        pci.write_config(capability + 2, 2, 0x8000);
        for (offset, value) in [(0x10, 0xfee0_0000), (0x14, 0), (0x18, 0x41), (0x1c, 0)] {
            pci.write_bar(MSIX_TABLE + offset, 4, value);
        }
        pci.write_bar(0x14, 1, 3);
        for half in [0, 1] {
            pci.write_bar(0x00, 4, half);
            let features = pci.read_bar(0x04, 4);
            pci.write_bar(0x08, 4, half);
            pci.write_bar(0x0c, 4, features);
        }
        pci.write_bar(0x14, 1, 11);
        pci.write_bar(0x16, 2, 0);
        pci.write_bar(0x18, 2, setup.size.into());
        pci.write_bar(0x1a, 2, 1);
        for (offset, address) in [(0x20, setup.descriptors), (0x28, setup.available), (0x30, setup.used)] {
            pci.write_bar(offset, 4, address & 0xffff_ffff);
            pci.write_bar(offset + 4, 4, address >> 32);
        }
        pci.write_bar(0x1c, 2, 1);
        pci.write_bar(0x14, 1, 15);
        assert_eq!(pci.read_bar(0x14, 1), 15);
    }

    #[test]
    fn a_driver_finds_the_structures_sets_the_device_up_and_is_interrupted() {
        let mut machine = machine();
        assert_eq!(machine.pci.read_config(0, 4), 0x1044_1af4);
        let mut kinds = Vec::new();
        let mut at = machine.pci.read_config(0x34, 1) as usize;
        while at != 0 {
            let header = machine.pci.read_config(at, 4);
            if header & 0xff == u32::from(VENDOR_CAPABILITY) {
                kinds.push((header >> 24, machine.pci.read_config(at + 8, 4)));
            }
            at = (header >> 8 & 0xff) as usize;
        }
        assert_eq!(kinds, [(1, 0), (2, 0x3000), (3, 0x1000), (4, 0x2000), (5, 0)]);
        drive(&mut machine);
        assert_eq!(*machine.doorbells.0.lock().unwrap(), [(BAR + NOTIFY, None)]);
        machine.queue.send(&[], &[(0x8000, 16)]);
        lock(&machine.function).serve(Some(0));
        assert_eq!(machine.queue.used(), Some((0, 16)));
        assert_eq!(*machine.messages.0.lock().unwrap(), [Msi { address: 0xfee0_0000, data: 0x41 }]);
    }

    #[test]
    fn sec25_doorbells_follow_the_bar() {
        let mut machine = machine();
        drive(&mut machine);
        let rung = |machine: &Machine| machine.doorbells.0.lock().unwrap().clone();
        machine.pci.write_config(4, 2, 0);
        assert_eq!(rung(&machine), [], "no memory access is answered");
        machine.pci.write_config(0x10, 4, 0xd800_0000);
        machine.pci.write_config(4, 2, 2);
        assert_eq!(rung(&machine), [(0xd800_3000, None)]);
        for base in [u32::MAX, 0, 1, 0x7fff, 0xfee0_0000] {
            machine.pci.write_config(0x10, 4, base);
        }
        machine.pci.write_bar(0x14, 1, 0);
        assert_eq!(rung(&machine), []);
    }

    #[test]
    fn the_window_in_configuration_space_reaches_the_bar() {
        let mut machine = machine();
        let at = machine.pci.cfg_capability;
        machine.pci.write_config(at + 8, 4, 0x14);
        machine.pci.write_config(at + 12, 4, 1);
        machine.pci.write_config(at + CFG_DATA, 1, 3);
        assert_eq!((machine.pci.read_bar(0x14, 1), machine.pci.read_config(at + CFG_DATA, 1)), (3, 3));
        for (offset, size) in [(u32::MAX, 4), (0x7fff, 3), (0x8000, 4), (0, 0)] {
            machine.pci.write_config(at + 8, 4, offset);
            machine.pci.write_config(at + 12, 4, size);
            machine.pci.read_config(at + CFG_DATA, 4);
        }
    }

    #[test]
    fn sec17_any_offset_width_and_value_is_answered() {
        let mut machine = machine();
        for value in [0, 1, 0xffff, u64::MAX] {
            for offset in
                (0..0x60).chain(0xfff..0x1002).chain(0x1ffe..0x2010).chain(0x2ffe..0x3010).chain(0x3ffe..BAR_SIZE)
            {
                for size in 1..=8 {
                    machine.pci.write_bar(offset, size, value);
                    machine.pci.read_bar(offset, size);
                }
                machine.pci.register_name(offset, true);
            }
        }
        for offset in 0..300 {
            for size in [1, 2, 4] {
                machine.pci.write_config(offset, size, u32::MAX);
                machine.pci.read_config(offset, size);
            }
        }
    }
}
