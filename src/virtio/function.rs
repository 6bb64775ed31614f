//! A virtio device with its driver's progress: status, features, queue set-up, all that a transport's registers reach.
//!
//! The driver's path is that of virtio 1.2 §3.1.1. What it wrote is taken over when it sets DRIVER_OK and frozen until reset. A
//! driver that breaks a rule finds DEVICE_NEEDS_RESET, and the device does nothing more until then.
//! Source: virtio 1.2 §2.1 (status), §2.2 (features), §2.4 (reset), §2.9 (driver notifications).

use super::device::{Queues, VirtioDevice};
use super::queue::{LiveQueue, QueueFault};
use super::rings::QueueSetup;
use crate::bus::device::read_by_bytes;
use crate::event_loop::Waker;
use crate::memory::ram::GuestRam;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Status: the guest has noticed the device.
pub const ACKNOWLEDGE: u8 = 1;
/// Status: the guest has a driver for it.
pub const DRIVER: u8 = 2;
/// Status: the driver drives it.
pub const DRIVER_OK: u8 = 4;
/// Status: the features are agreed upon.
pub const FEATURES_OK: u8 = 8;
/// Status: the device cannot go on.
pub const NEEDS_RESET: u8 = 64;
/// Status: the driver has given up.
pub const FAILED: u8 = 128;

/// Feature: descriptors may be in tables of their own (virtio 1.2 §6).
const INDIRECT: u64 = 1 << 28;
/// Feature: both sides say when they want to be notified.
const EVENT_IDX: u64 = 1 << 29;
/// Feature: virtio 1.0 or later; a driver without it is refused.
const VERSION_1: u64 = 1 << 32;

/// How a device's transport reaches out of it.
pub trait Transport: Send + Sync {
    /// Interrupts the driver: a queue has used chains.
    fn interrupt_queue(&self, index: usize);

    /// Interrupts the driver: configuration or status changed.
    fn interrupt_config(&self);

    /// From now on a kick of queue `index` wakes `kick` (ioeventfd), until [`Transport::disarm`].
    fn arm(&self, index: usize, kick: &Waker);

    /// Kicks of no queue are passed on any more.
    fn disarm(&self);
}

/// Something that a device waits for.
#[derive(Debug)]
pub struct Wait<'a> {
    /// The queue whose kick it is; `None` for a descriptor of the device's own.
    pub queue: Option<usize>,
    /// What to wait on.
    pub fd: BorrowedFd<'a>,
    /// Whether it shall take bytes (true) or give them (false).
    pub output: bool,
}

/// A device and its driver's progress.
pub struct VirtioFunction {
    device: Box<dyn VirtioDevice>,
    ram: Arc<GuestRam>,
    transport: Option<Arc<dyn Transport>>,
    status: u8,
    driver_features: u64,
    setup: Vec<QueueSetup>,
    queues: Queues,
    kicks: Vec<Waker>,
    /// How often the configuration has changed (virtio 1.2 §2.5.1).
    generation: u32,
    /// Wakes the thread that waits for this device, when what it waits for has changed.
    changed: Waker,
}

impl VirtioFunction {
    /// `device` before its driver has come. `changed` wakes the worker.
    ///
    /// # Errors
    /// The host gives no descriptor for a queue's kicks.
    pub fn new(device: Box<dyn VirtioDevice>, ram: Arc<GuestRam>, changed: Waker) -> std::io::Result<VirtioFunction> {
        let kicks = device.queue_sizes().iter().map(|_| Waker::new()).collect::<Result<_, _>>()?;
        let mut function = VirtioFunction {
            device,
            ram,
            transport: None,
            status: 0,
            driver_features: 0,
            setup: Vec::new(),
            queues: Queues::default(),
            kicks,
            generation: 0,
            changed,
        };
        function.reset();
        Ok(function)
    }

    /// Connects the transport. Once, before the guest runs.
    pub fn connect(&mut self, transport: Arc<dyn Transport>) {
        self.transport = Some(transport);
    }

    /// The device.
    pub fn device(&self) -> &dyn VirtioDevice {
        &*self.device
    }

    /// Status as the driver reads it.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// The driver writes its progress. 0 resets; a bit that is set stays set until then.
    pub fn set_status(&mut self, status: u8) {
        if status == 0 {
            return self.reset();
        }
        let new = status & !self.status & !NEEDS_RESET;
        if new & FEATURES_OK != 0 && !self.accepts_features() {
            return;
        }
        if new & DRIVER_OK != 0 && self.status & FEATURES_OK == 0 {
            return;
        }
        self.status |= new;
        if new & DRIVER_OK != 0 {
            self.start();
        }
    }

    /// Features that the device offers.
    pub fn features(&self) -> u64 {
        self.device.features() | INDIRECT | EVENT_IDX | VERSION_1
    }

    /// Features that the driver has accepted so far.
    pub fn driver_features(&self) -> u64 {
        self.driver_features
    }

    /// The driver accepts features; too late once they are agreed upon.
    pub fn set_driver_features(&mut self, features: u64) {
        if self.status & FEATURES_OK == 0 {
            self.driver_features = features;
        }
    }

    /// Number of queues.
    pub fn queue_count(&self) -> usize {
        self.setup.len()
    }

    /// What queue `index` is set up with; all zeroes for one that does not exist.
    pub fn queue_setup(&self, index: u16) -> QueueSetup {
        self.setup.get(usize::from(index)).copied().unwrap_or_default()
    }

    /// The driver sets queue `index` up. Without effect on a queue that does not exist, and while the device is driven.
    pub fn set_up_queue(&mut self, index: u16, change: impl FnOnce(&mut QueueSetup)) {
        if self.status & DRIVER_OK == 0
            && let Some(setup) = self.setup.get_mut(usize::from(index))
        {
            change(setup);
        }
    }

    /// Reads `size` bytes of the device's configuration; beyond its end, all ones.
    pub fn read_config(&self, offset: u64, size: u8) -> u64 {
        let config = self.device.config();
        read_by_bytes(offset, size, |at| {
            usize::try_from(at).ok().and_then(|at| config.get(at).copied()).unwrap_or(0xff)
        })
    }

    /// Another number after each change of the configuration that is not the driver's: a driver that finds it changed reads again.
    pub fn config_generation(&self) -> u32 {
        self.generation
    }

    /// Writes the low `size` bytes of `value` to the device's configuration; without effect beyond its end.
    pub fn write_config(&mut self, offset: u64, size: u8, value: u64) {
        let bytes = &value.to_le_bytes()[..usize::from(size.min(8))];
        let fits = offset.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.device.config().len() as u64);
        if fits {
            self.device.write_config(offset, bytes);
        }
    }

    /// The driver kicks queue `index` by a register, where no ioeventfd took it.
    pub fn kick(&self, index: usize) {
        if let Some(kick) = self.kicks.get(index).filter(|_| self.status & DRIVER_OK != 0) {
            kick.wake();
        }
    }

    /// What to wait for: the kicks of the live queues, and the device's own descriptors.
    pub fn waits_for(&self) -> Vec<Wait<'_>> {
        let kicks =
            self.queues.indices().map(|index| Wait { queue: Some(index), fd: self.kicks[index].fd(), output: false });
        let own = |fd, output| Wait { queue: None, fd, output };
        let input = self.device.waits_for().filter(|_| self.is_live()).map(|fd| own(fd, false));
        let output = self.device.waits_for_room().filter(|_| self.is_live()).map(|fd| own(fd, true));
        let time = self.device.waits_for_time().filter(|_| self.is_live()).map(|fd| own(fd, false));
        kicks.chain(input).chain(output).chain(time).collect()
    }

    /// What was waited for is there: a kick of queue `ready`, or for `None` one of the device's own descriptors.
    pub fn serve(&mut self, ready: Option<usize>) {
        if !self.is_live() {
            return;
        }
        if let Some(index) = ready {
            self.kicks[index].reset();
        }
        self.work(|function| function.serve_round(ready));
    }

    /// For a device that can be looked at: serves what is there without having been waited for. True: there was something.
    pub fn look(&mut self) -> bool {
        if !self.is_live() || !self.device.can_look() {
            return false;
        }
        let mut found = false;
        self.work(|function| {
            for index in 0..function.setup.len() {
                if let Some(queue) = function.queues.queue(index)
                    && queue.has_chains()?
                {
                    found = true;
                    function.serve_round(Some(index))?;
                }
            }
            found |= function.device.look(&mut function.queues)?;
            Ok(())
        });
        found
    }

    /// Whether something may be found by looking soon.
    pub fn is_worth_a_look(&self) -> bool {
        self.is_live() && self.device.can_look() && !self.device.waits_long()
    }

    /// Whether threads of the host work for the device.
    pub fn waits_for_threads(&self) -> bool {
        self.is_live() && self.device.waits_for_threads()
    }

    /// For a device that was looked at, and will be waited for now: asks its driver for kicks again.
    pub fn end_looking(&mut self) {
        if self.is_live() && self.device.can_look() {
            self.work(|function| (0..function.setup.len()).try_for_each(|index| function.end_round(index)));
        }
    }

    /// Lets the device work, and tells its driver and the worker what came of it.
    fn work(&mut self, work: impl FnOnce(&mut VirtioFunction) -> Result<(), QueueFault>) {
        let waits = |device: &dyn VirtioDevice| (device.waits_for().is_some(), device.waits_for_room().is_some());
        let waited = waits(&*self.device);
        let worked = work(self);
        if self.device.waits_elsewhere() || waits(&*self.device) != waited {
            self.changed.wake();
        }
        let (interrupts, config_changed) = (self.queues.take_interrupts(), self.queues.take_config_changed());
        self.generation = self.generation.wrapping_add(config_changed.into());
        if let Some(transport) = &self.transport {
            (0..64).filter(|index| interrupts & (1 << index) != 0).for_each(|index| transport.interrupt_queue(index));
            if config_changed {
                transport.interrupt_config();
            }
        }
        if worked.is_err() {
            self.fail();
        }
    }

    /// One round of the queue that was kicked, or of all where the device's own descriptor is ready or its queues belong together.
    fn serve_round(&mut self, ready: Option<usize>) -> Result<(), QueueFault> {
        let alone = ready.filter(|_| !self.device.serves_all_at_once());
        let served = alone.map_or(0..self.setup.len(), |index| index..index + 1);
        let looks = self.device.can_look();
        for index in served.clone() {
            if let Some(queue) = self.queues.queue(index) {
                queue.begin_round();
                if looks {
                    queue.hush();
                }
            }
        }
        match ready {
            Some(index) => self.device.serve(index, &mut self.queues)?,
            None => self.device.host_ready(&mut self.queues)?,
        }
        // A device that is looked at is asked for kicks when that ends.
        if looks { Ok(()) } else { served.into_iter().try_for_each(|index| self.end_round(index)) }
    }

    /// Asks the driver for kicks of a queue, and comes back to it where chains are there already.
    fn end_round(&mut self, index: usize) -> Result<(), QueueFault> {
        if let Some(queue) = self.queues.queue(index)
            && queue.end_round()?
        {
            self.kicks[index].wake();
        }
        Ok(())
    }

    fn is_live(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    fn accepts_features(&self) -> bool {
        self.driver_features & !self.features() == 0 && self.driver_features & VERSION_1 != 0
    }

    /// The driver has set DRIVER_OK: what it set up goes live.
    fn start(&mut self) {
        let event_idx = self.driver_features & EVENT_IDX != 0;
        let live = |(setup, max): (&QueueSetup, &u16)| match setup.enabled {
            true => LiveQueue::new(setup, *max, event_idx, self.ram.clone()).map(Some),
            false => Ok(None),
        };
        match self.setup.iter().zip(self.device.queue_sizes()).map(live).collect() {
            Ok(queues) => self.queues = Queues::new(queues),
            Err(_) => return self.fail(),
        }
        self.device.start(self.driver_features);
        if let Some(transport) = &self.transport {
            self.queues.indices().for_each(|index| transport.arm(index, &self.kicks[index]));
        }
        // Chains may have been made available before the kicks were armed.
        self.queues.indices().for_each(|index| self.kicks[index].wake());
        self.changed.wake();
    }

    /// The driver broke a rule (virtio 1.2 §2.1.2).
    fn fail(&mut self) {
        self.status |= NEEDS_RESET;
        self.end_driving();
        if self.status & DRIVER_OK != 0
            && let Some(transport) = &self.transport
        {
            transport.interrupt_config();
        }
    }

    fn reset(&mut self) {
        self.end_driving();
        self.status = 0;
        self.driver_features = 0;
        let whole = |size: &u16| QueueSetup { size: *size, ..QueueSetup::default() };
        self.setup = self.device.queue_sizes().iter().map(whole).collect();
    }

    fn end_driving(&mut self) {
        if let Some(transport) = &self.transport {
            transport.disarm();
        }
        self.queues = Queues::default();
        self.device.reset();
        self.changed.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::DeviceKind;
    use super::super::driver::DriverQueue;
    use super::super::rng::Rng;
    use super::*;
    use crate::arch::layout::MIB;
    use crate::memory::map::MemoryMap;
    use std::sync::Mutex;

    /// A transport that tells what was asked of it.
    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl Transport for Log {
        fn interrupt_queue(&self, index: usize) {
            self.0.lock().unwrap().push(format!("queue {index}"));
        }
        fn interrupt_config(&self) {
            self.0.lock().unwrap().push("config".into());
        }
        fn arm(&self, index: usize, _kick: &Waker) {
            self.0.lock().unwrap().push(format!("arm {index}"));
        }
        fn disarm(&self) {
            self.0.lock().unwrap().push("disarm".into());
        }
    }

    const BUFFER: u64 = 0x8000;

    /// An entropy device, its log, and a queue that is not yet told of.
    fn device() -> (VirtioFunction, Arc<Log>, DriverQueue) {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let mut function = VirtioFunction::new(Box::new(Rng), ram.clone(), Waker::new().unwrap()).unwrap();
        let log = Arc::new(Log::default());
        function.connect(log.clone());
        (function, log, DriverQueue::new(ram, 0x1000, 8))
    }

    fn drive(function: &mut VirtioFunction, queue: &DriverQueue) {
        function.set_status(ACKNOWLEDGE | DRIVER);
        function.set_driver_features(function.features());
        function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        function.set_up_queue(0, |setup| *setup = queue.setup());
        function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    fn said(log: &Log) -> Vec<String> {
        std::mem::take(&mut *log.0.lock().unwrap())
    }

    #[test]
    fn a_driver_comes_asks_and_goes() {
        let (mut function, log, mut queue) = device();
        drive(&mut function, &queue);
        assert_eq!((function.status(), said(&log)), (15, vec!["arm 0".to_owned()]));
        assert_eq!(function.waits_for().len(), 1);
        queue.send(&[], &[(BUFFER, 16)]);
        function.serve(Some(0));
        assert_eq!((queue.used(), said(&log)), (Some((0, 16)), vec!["queue 0".to_owned()]));
        function.set_status(0);
        assert_eq!((function.status(), said(&log), function.waits_for().len()), (0, vec!["disarm".to_owned()], 0));
        queue.send(&[], &[(BUFFER, 16)]);
        function.serve(Some(0));
        assert_eq!(queue.used(), None, "nobody drives it");
    }

    #[test]
    fn features_are_agreed_upon_or_refused() {
        let (mut function, _, _) = device();
        for features in [0, EVENT_IDX, VERSION_1 | 1, u64::MAX] {
            function.set_driver_features(features);
            function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
            assert_eq!(function.status() & FEATURES_OK, 0, "{features:#x}");
        }
        function.set_driver_features(VERSION_1);
        function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        function.set_driver_features(0);
        assert_eq!((function.status(), function.driver_features()), (11, VERSION_1));
    }

    #[test]
    fn sec01_what_was_set_up_is_frozen_while_the_device_is_driven() {
        let (mut function, _, mut queue) = device();
        drive(&mut function, &queue);
        let before = function.queue_setup(0);
        function.set_up_queue(0, |setup| *setup = QueueSetup { size: 0, used: 0xfee0_0000, ..*setup });
        assert_eq!(function.queue_setup(0), before);
        queue.send(&[], &[(BUFFER, 4)]);
        function.serve(Some(0));
        assert_eq!(queue.used(), Some((0, 4)));
    }

    #[test]
    fn sec02_statuses_in_any_order_do_no_harm() {
        for first in 0..=255u8 {
            for second in [0, 1, 4, 8, 15, 64, 128, 255] {
                let (mut function, _, queue) = device();
                function.set_driver_features(VERSION_1);
                function.set_up_queue(0, |setup| *setup = queue.setup());
                [first, second, first].into_iter().for_each(|status| function.set_status(status));
                function.serve(Some(0));
                function.serve(None);
                let status = function.status();
                assert!(status & DRIVER_OK == 0 || status & FEATURES_OK != 0, "{first:#x} {second:#x}");
                assert_eq!(status & NEEDS_RESET, 0, "only a broken rule needs a reset");
            }
        }
    }

    #[test]
    fn sec21_a_broken_rule_stops_the_device_until_reset() {
        let (mut function, log, mut queue) = device();
        drive(&mut function, &queue);
        queue.send(&[], &[(MIB, 16)]);
        function.serve(Some(0));
        assert_eq!(function.status() & NEEDS_RESET, NEEDS_RESET);
        assert_eq!(said(&log), ["arm 0", "disarm", "config"]);
        function.set_status(0);
        let mut queue = DriverQueue::new(function.ram.clone(), 0x2000, 8);
        drive(&mut function, &queue);
        queue.send(&[], &[(BUFFER, 16)]);
        function.serve(Some(0));
        assert_eq!(queue.used(), Some((0, 16)));
    }

    #[test]
    fn sec03_queues_that_do_not_exist_are_nothing() {
        let (mut function, _, queue) = device();
        drive(&mut function, &queue);
        for index in [1, 64, u16::MAX] {
            function.set_up_queue(index, |setup| setup.size = 1);
            assert_eq!(function.queue_setup(index), QueueSetup::default());
            function.kick(index.into());
        }
        for offset in [0, 1, 255, u64::MAX] {
            assert_eq!(function.read_config(offset, 4), 0xffff_ffff);
            function.write_config(offset, 8, u64::MAX);
        }
    }

    /// A device whose configuration changes whenever it is served.
    struct Changing(u8);

    impl VirtioDevice for Changing {
        fn kind(&self) -> DeviceKind {
            DeviceKind::Console
        }
        fn features(&self) -> u64 {
            0
        }
        fn queue_sizes(&self) -> &[u16] {
            &[8]
        }
        fn config(&self) -> &[u8] {
            std::slice::from_ref(&self.0)
        }
        fn start(&mut self, _features: u64) {}
        fn reset(&mut self) {}
        fn serve(&mut self, _index: usize, queues: &mut Queues) -> Result<(), QueueFault> {
            self.0 += 1;
            queues.config_has_changed();
            Ok(())
        }
    }

    #[test]
    fn a_driver_is_told_of_a_configuration_that_changes() {
        let (other, log, queue) = device();
        let mut function = VirtioFunction::new(Box::new(Changing(6)), other.ram, Waker::new().unwrap()).unwrap();
        function.connect(log.clone());
        drive(&mut function, &queue);
        assert_eq!((function.read_config(0, 1), function.config_generation()), (6, 0));
        function.serve(Some(0));
        assert_eq!((function.read_config(0, 1), function.config_generation()), (7, 1));
        assert_eq!(said(&log), ["arm 0", "config"]);
    }

    #[test]
    fn sec51_however_much_is_asked_for_a_request_gets_a_page_at_most() {
        let (mut function, _, mut queue) = device();
        drive(&mut function, &queue);
        queue.send(&[], &[(0, MIB as u32); 7]);
        function.serve(Some(0));
        assert_eq!(queue.used(), Some((0, 4096)));
    }
}
