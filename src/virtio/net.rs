//! Network device: one receive and one transmit queue, frames to and from a port of the host.
//!
//! A frame is copied out of the guest once, and into it once. What the port cannot take waits in its queue, and so does the port
//! when the guest has no buffers: nothing is read that cannot be delivered, so no edge is lost (CVE-2020-16843). Leaves out the
//! control queue, several queue pairs, mergeable buffers.
//! Source: virtio 1.2 §5.1.

use super::device::{DeviceKind, Queues, VirtioDevice};
use super::queue::{Chain, QueueFault};
use crate::backend::net_port::{FRAME_MAX, HEADER_BYTES, NetPort, Sent};
use std::os::fd::BorrowedFd;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const QUEUE_SIZES: [u16; 2] = [256, 256];

/// Feature: the device has a MAC address.
const MAC: u64 = 1 << 5;
/// Feature: the configuration tells whether the link is up.
const STATUS: u64 = 1 << 16;
/// Status: the link is up.
const LINK_UP: [u8; 2] = [1, 0];
/// Shortest Ethernet frame that says where it goes: two addresses and a type.
const FRAME_MIN: usize = 14;

/// The device.
pub struct Net {
    port: Box<dyn NetPort>,
    /// MAC address and link status, as the driver reads them.
    config: [u8; 8],
    /// A frame to send that the port had no room for, with its chain.
    unsent: Option<Chain>,
    frame: Box<[u8]>,
    /// Length of the frame to send in `frame`, while `unsent`.
    unsent_length: usize,
    /// The guest has buffers for frames that come.
    has_buffers: bool,
    received: Box<[u8]>,
}

impl Net {
    /// A device with address `mac`, plugged into `port`.
    pub fn new(mac: [u8; 6], port: Box<dyn NetPort>) -> Net {
        let mut config = [0; 8];
        config[..6].copy_from_slice(&mac);
        config[6..].copy_from_slice(&LINK_UP);
        let buffer = || vec![0; FRAME_MAX].into_boxed_slice();
        Net { port, config, unsent: None, frame: buffer(), unsent_length: 0, has_buffers: false, received: buffer() }
    }

    /// Sends what the guest has for the port, as far as that takes it.
    fn transmit(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        loop {
            let chain = match self.unsent.take() {
                Some(chain) => chain,
                None => {
                    let Some(mut chain) = queues.pop(TRANSMIT)? else { return Ok(()) };
                    let fits = chain.readable_bytes() <= FRAME_MAX as u64;
                    let Some(queue) = queues.queue(TRANSMIT).filter(|_| fits) else {
                        // Longer than any frame: lost.
                        queues.push(TRANSMIT, &chain)?;
                        continue;
                    };
                    self.unsent_length = chain.read(queue.ram(), &mut self.frame);
                    chain
                }
            };
            let frame = &self.frame[..self.unsent_length];
            if frame.len() >= HEADER_BYTES + FRAME_MIN && self.port.send(frame) == Sent::Full {
                self.unsent = Some(chain);
                return Ok(());
            }
            queues.push(TRANSMIT, &chain)?;
        }
    }

    /// Gives the guest what has come, as long as it has buffers.
    fn receive(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        loop {
            let Some(mut chain) = queues.pop(RECEIVE)? else {
                self.has_buffers = false;
                return Ok(());
            };
            let Some(length) = self.port.receive(&mut self.received) else {
                self.has_buffers = true;
                queues.unpop(RECEIVE, &chain);
                return Ok(());
            };
            // One buffer a frame (§5.1.6.3.2).
            self.received[10..HEADER_BYTES].copy_from_slice(&1u16.to_le_bytes());
            if let Some(queue) = queues.queue(RECEIVE).filter(|_| length as u64 <= chain.writable_bytes()) {
                chain.write(queue.ram(), &self.received[..length]);
            }
            queues.push(RECEIVE, &chain)?;
        }
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Network
    }

    fn features(&self) -> u64 {
        MAC | STATUS | self.port.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn start(&mut self, features: u64) {
        self.port.start(features);
    }

    fn reset(&mut self) {
        self.unsent = None;
        self.has_buffers = false;
    }

    fn serve(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueFault> {
        if index == TRANSMIT { self.transmit(queues) } else { self.receive(queues) }
    }

    fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.port.fd().filter(|_| self.has_buffers)
    }

    fn waits_for_room(&self) -> Option<BorrowedFd<'_>> {
        self.port.fd().filter(|_| self.unsent.is_some() || self.port.wants_room())
    }

    fn host_ready(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        self.receive(queues)?;
        self.transmit(queues)
    }
}

#[cfg(test)]
mod tests {
    use super::super::driver::DriverQueue;
    use super::*;
    use crate::arch::layout::MIB;
    use crate::event_loop::Waker;
    use crate::memory::map::MemoryMap;
    use crate::memory::ram::GuestRam;
    use crate::virtio::function::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, VirtioFunction};
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    /// What a port of the tests holds: frames to come, frames that went, and for how many more it has room.
    #[derive(Default)]
    struct Cable {
        coming: VecDeque<Vec<u8>>,
        gone: Vec<Vec<u8>>,
        room: usize,
    }

    struct Port(Arc<Mutex<Cable>>, Waker);

    impl NetPort for Port {
        fn send(&mut self, frame: &[u8]) -> Sent {
            let mut cable = self.0.lock().unwrap();
            if cable.room == 0 {
                return Sent::Full;
            }
            cable.room -= 1;
            cable.gone.push(frame[HEADER_BYTES..].to_vec());
            Sent::Taken
        }
        fn receive(&mut self, frame: &mut [u8]) -> Option<usize> {
            let coming = self.0.lock().unwrap().coming.pop_front()?;
            frame[..HEADER_BYTES].fill(0);
            frame[HEADER_BYTES..][..coming.len()].copy_from_slice(&coming);
            Some(HEADER_BYTES + coming.len())
        }
        fn fd(&self) -> Option<BorrowedFd<'_>> {
            Some(self.1.fd())
        }
    }

    const FRAME: u64 = 0x8000;
    const BUFFERS: u64 = 0x10_000;

    struct Guest {
        function: VirtioFunction,
        cable: Arc<Mutex<Cable>>,
        receive: DriverQueue,
        transmit: DriverQueue,
        ram: Arc<GuestRam>,
    }

    fn guest(room: usize) -> Guest {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let cable = Arc::new(Mutex::new(Cable { room, ..Cable::default() }));
        let net = Net::new([2, 0, 0, 0, 0, 1], Box::new(Port(cable.clone(), Waker::new().unwrap())));
        let mut function = VirtioFunction::new(Box::new(net), ram.clone(), Waker::new().unwrap()).unwrap();
        let queues = [0x1000, 0x2000].map(|base| DriverQueue::new(ram.clone(), base, 8));
        function.set_driver_features(function.features());
        function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        for (index, queue) in (0..).zip(&queues) {
            function.set_up_queue(index, |setup| *setup = queue.setup());
        }
        function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        let [receive, transmit] = queues;
        Guest { function, cable, receive, transmit, ram }
    }

    #[test]
    fn frames_go_both_ways_and_the_address_is_told() {
        let mut guest = guest(10);
        assert_eq!(guest.function.read_config(0, 8), 0x0001_0100_0000_0002);
        guest.ram.write(FRAME, &[0x55; 100]).unwrap();
        guest.transmit.send(&[(FRAME, 12), (FRAME + 12, 60)], &[]);
        guest.function.serve(Some(TRANSMIT));
        assert_eq!(
            (guest.transmit.used(), &guest.cable.lock().unwrap().gone[..]),
            (Some((0, 0)), &[vec![0x55; 60]][..])
        );
        guest.receive.send(&[], &[(BUFFERS, 1526)]);
        guest.function.serve(Some(RECEIVE));
        assert_eq!((guest.receive.used(), guest.function.waits_for().len()), (None, 3), "it waits for a frame");
        guest.cable.lock().unwrap().coming.push_back(vec![7; 64]);
        guest.function.serve(None);
        assert_eq!(guest.receive.used(), Some((0, 76)));
        let mut got = [0; 20];
        guest.ram.read(BUFFERS, &mut got).unwrap();
        assert_eq!(got, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 7, 7, 7, 7, 7, 7, 7, 7], "one buffer, then the frame");
    }

    #[test]
    fn sec39_frames_wait_outside_while_the_guest_has_no_buffers_and_come_when_it_has() {
        let mut guest = guest(0);
        guest.cable.lock().unwrap().coming.extend([vec![1; 60], vec![2; 60]]);
        guest.function.serve(None);
        assert_eq!((guest.cable.lock().unwrap().coming.len(), guest.function.waits_for().len()), (2, 2));
        guest.receive.send(&[], &[(BUFFERS, 2000)]);
        guest.function.serve(Some(RECEIVE));
        assert_eq!((guest.receive.used(), guest.cable.lock().unwrap().coming.len()), (Some((0, 72)), 1));
        guest.receive.send(&[], &[(BUFFERS, 2000)]);
        guest.function.serve(Some(RECEIVE));
        assert_eq!(guest.receive.used(), Some((1, 72)));
    }

    #[test]
    fn a_full_port_holds_the_frame_and_sends_it_once() {
        let mut guest = guest(1);
        guest.ram.write(FRAME, &[9; 200]).unwrap();
        for _ in 0..3 {
            guest.transmit.send(&[(FRAME, 72)], &[]);
        }
        guest.function.serve(Some(TRANSMIT));
        assert_eq!((guest.transmit.used(), guest.transmit.used()), (Some((0, 0)), None));
        assert!(guest.function.waits_for().iter().any(|wait| wait.output), "it waits for room");
        guest.cable.lock().unwrap().room = 5;
        guest.function.serve(None);
        assert_eq!((guest.transmit.used(), guest.transmit.used()), (Some((1, 0)), Some((2, 0))));
        assert_eq!(guest.cable.lock().unwrap().gone.len(), 3);
    }

    #[test]
    fn sec42_frames_that_are_none_are_lost_and_the_next_goes() {
        let mut guest = guest(10);
        for (address, length) in [(FRAME, 0), (FRAME, 5), (FRAME, 12), (FRAME, 25), (0, 0x1_0100)] {
            guest.transmit.send(&[(address, length)], &[]);
            guest.function.serve(Some(TRANSMIT));
        }
        assert_eq!((0..5).filter(|_| guest.transmit.used().is_some()).count(), 5);
        guest.transmit.send(&[(FRAME, 26)], &[]);
        guest.function.serve(Some(TRANSMIT));
        assert_eq!(guest.cable.lock().unwrap().gone.len(), 1);
        // A buffer that is too short for what comes gets nothing.
        guest.cable.lock().unwrap().coming.push_back(vec![1; 600]);
        guest.receive.send(&[], &[(BUFFERS, 100)]);
        guest.function.serve(Some(RECEIVE));
        assert_eq!(guest.receive.used(), Some((0, 0)));
        guest.transmit.send(&[(FRAME, 72)], &[(BUFFERS, 12)]);
        guest.function.serve(Some(TRANSMIT));
        assert_eq!(guest.function.status() & NEEDS_RESET, 0, "odd, and harmless");
    }
}
