//! Network device: one receive and one transmit queue, frames to and from a port of the host.
//!
//! A frame is copied out of the guest once, and into it once. What the port cannot take waits in its queue, and so does the port
//! when the guest has no buffers: nothing is read that cannot be delivered, so no edge is lost (CVE-2020-16843). While a limit of the
//! user's holds a direction (`backend/rate.rs`) nothing is read there either; the other goes on. Leaves out the control queue and
//! several queue pairs.
//! Source: virtio 1.2 §5.1.

use super::device::{DeviceKind, Queues, VirtioDevice};
use super::queue::{Chain, QueueFault};
use crate::backend::net_port::{FRAME_MAX, HEADER_BYTES, NetPort, Sent};
use crate::backend::rate::Limiter;
use std::os::fd::BorrowedFd;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const QUEUE_SIZES: [u16; 2] = [256, 256];
/// Directions that are limited by themselves, each by its queue's index.
pub const LANES: usize = 2;
/// Chains that are given back together: fewer would have the driver look for each, more would have it wait for the last.
const TOGETHER: usize = 64;

/// Feature: the device has a MAC address.
const MAC: u64 = 1 << 5;
/// Feature: a frame that comes may be spread over several buffers.
const MRG_RXBUF: u64 = 1 << 15;
/// Feature: the configuration tells whether the link is up.
const STATUS: u64 = 1 << 16;
/// Status: the link is up.
const LINK_UP: [u8; 2] = [1, 0];
/// Shortest Ethernet frame that says where it goes: two addresses and a type.
const FRAME_MIN: usize = 14;

/// The device.
pub struct Net {
    port: Box<dyn NetPort>,
    limiter: Limiter,
    /// MAC address and link status, as the driver reads them.
    config: [u8; 8],
    /// A frame to send that the port had no room for, with its chain.
    unsent: Option<Chain>,
    frame: Box<[u8]>,
    /// Length of the frame to send in `frame`, while `unsent`.
    unsent_length: usize,
    /// The driver takes frames in several buffers.
    is_mergeable: bool,
    /// The frame that has come waits for buffers of the guest, or nobody is to have any yet.
    is_starved: bool,
    /// The buffers of the frame that is being delivered.
    chains: Vec<Chain>,
    /// Chains that are done with and not yet given back, of the queue that is being served.
    done: Vec<Chain>,
}

/// What became of the frame that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// There is none.
    NoFrame,
    /// It is in the guest, or lost: on to the next.
    Done,
    /// There are more buffers now.
    Again,
    /// The guest has too few buffers.
    NoBuffers,
    /// The limit of this direction holds it.
    Held,
}

impl Net {
    /// A device with address `mac`, plugged into `port`, within the limits of `limiter` in its [`LANES`].
    pub fn new(mac: [u8; 6], port: Box<dyn NetPort>, limiter: Limiter) -> Net {
        let mut config = [0; 8];
        config[..6].copy_from_slice(&mac);
        config[6..].copy_from_slice(&LINK_UP);
        Net {
            port,
            limiter,
            config,
            unsent: None,
            frame: vec![0; FRAME_MAX].into_boxed_slice(),
            unsent_length: 0,
            is_mergeable: false,
            is_starved: true,
            chains: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Sends what the guest has for the port, as far as that takes it.
    fn transmit(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        while self.limiter.lets(TRANSMIT)
            && let Some(chain) = self.next_to_send(queues)?
        {
            let header_and_frame = self.frame[..self.unsent_length].split_first_chunk::<HEADER_BYTES>();
            if let Some((header, frame)) = header_and_frame.filter(|(_, frame)| frame.len() >= FRAME_MIN)
                && self.port.send(header, frame) == Sent::Full
            {
                self.unsent = Some(chain);
                break;
            }
            self.limiter.take(TRANSMIT, self.unsent_length.saturating_sub(HEADER_BYTES) as u64);
            self.done.push(chain);
            if self.done.len() >= TOGETHER {
                self.give_back(TRANSMIT, queues);
            }
        }
        self.give_back(TRANSMIT, queues);
        self.port.flush();
        Ok(())
    }

    /// Gives back what is done with.
    fn give_back(&mut self, index: usize, queues: &mut Queues) {
        queues.push_all(index, &self.done);
        self.done.clear();
    }

    /// The chain of the next frame, which is in `frame`.
    fn next_to_send(&mut self, queues: &mut Queues) -> Result<Option<Chain>, QueueFault> {
        if let Some(chain) = self.unsent.take() {
            return Ok(Some(chain));
        }
        let Some(mut chain) = queues.pop(TRANSMIT)? else { return Ok(None) };
        // What is longer than any frame is lost: no bytes of it are one.
        let fits = chain.readable_bytes() <= FRAME_MAX as u64;
        let queue = queues.queue(TRANSMIT).filter(|_| fits);
        self.unsent_length = queue.map_or(0, |queue| chain.read(queue.ram(), &mut self.frame));
        Ok(Some(chain))
    }

    /// Gives the guest what has come, as long as it has buffers.
    fn receive(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        let mut delivery = Delivery::Done;
        while matches!(delivery, Delivery::Done | Delivery::Again) {
            delivery = self.deliver(queues)?;
            if self.done.len() >= TOGETHER {
                self.give_back(RECEIVE, queues);
            }
        }
        self.is_starved = delivery == Delivery::NoBuffers;
        self.give_back(RECEIVE, queues);
        Ok(())
    }

    fn deliver(&mut self, queues: &mut Queues) -> Result<Delivery, QueueFault> {
        if !self.limiter.lets(RECEIVE) {
            return Ok(Delivery::Held);
        }
        let Some(arrived) = self.port.peek() else { return Ok(Delivery::NoFrame) };
        let bytes = arrived.frame.len() as u64;
        let length = HEADER_BYTES as u64 + bytes;
        self.chains.clear();
        let mut room = 0;
        while room < length && (self.is_mergeable || self.chains.is_empty()) {
            let Some(chain) = queues.pop(RECEIVE)? else {
                let all = queues.queue(RECEIVE).is_some_and(|queue| self.chains.len() == usize::from(queue.size()));
                if all {
                    break; // Not even the whole queue has room for it.
                }
                let more = queues.put_back(RECEIVE, &self.chains)?;
                return Ok(if more { Delivery::Again } else { Delivery::NoBuffers });
            };
            room += chain.writable_bytes();
            self.chains.push(chain);
        }
        let mut header = *arrived.header;
        header[10..].copy_from_slice(&(self.chains.len() as u16).to_le_bytes());
        if let Some(queue) = queues.queue(RECEIVE).filter(|_| room >= length) {
            let mut parts = [&header[..], arrived.frame];
            for chain in &mut self.chains {
                for part in &mut parts {
                    *part = &part[chain.write(queue.ram(), part)..];
                }
            }
        }
        self.port.take();
        self.limiter.take(RECEIVE, bytes);
        // A frame's buffers are given back at one moment: these lie together, and a part of them is never given alone.
        self.done.append(&mut self.chains);
        Ok(Delivery::Done)
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Network
    }

    fn features(&self) -> u64 {
        MAC | MRG_RXBUF | STATUS | self.port.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn start(&mut self, features: u64) {
        self.is_mergeable = features & MRG_RXBUF != 0;
        self.port.start(features);
    }

    fn reset(&mut self) {
        self.unsent = None;
        self.is_starved = true;
        self.done.clear();
    }

    fn serve(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueFault> {
        if index == TRANSMIT { self.transmit(queues) } else { self.receive(queues) }
    }

    fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.port.fd().filter(|_| !self.is_starved && !self.limiter.is_held(RECEIVE))
    }

    fn waits_for_room(&self) -> Option<BorrowedFd<'_>> {
        self.port.room_fd().filter(|_| self.unsent.is_some() || self.port.wants_room())
    }

    fn waits_elsewhere(&mut self) -> bool {
        self.port.has_moved()
    }

    fn waits_for_time(&self) -> Option<BorrowedFd<'_>> {
        self.limiter.timer()
    }

    fn host_ready(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        self.limiter.let_go();
        self.receive(queues)?;
        self.transmit(queues)
    }
}

#[cfg(test)]
mod tests {
    use super::super::driver::{self, DriverQueue};
    use super::super::worker;
    use super::*;
    use crate::arch::layout::MIB;
    use crate::backend::net_port::{Arrived, NOTHING_LEFT, OFFLOADS};
    use crate::backend::rate::Rates;
    use crate::event_loop::{self, Interest, Waker};
    use crate::memory::map::MemoryMap;
    use crate::memory::ram::GuestRam;
    use crate::virtio::function::{NEEDS_RESET, VirtioFunction};
    use std::collections::VecDeque;
    use std::io::Write;
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    /// What a port of the tests holds: frames to come, frames that went, and for how many more it has room.
    #[derive(Default)]
    struct Cable {
        coming: VecDeque<Vec<u8>>,
        gone: Vec<Vec<u8>>,
        room: usize,
        /// How often the device asked for something.
        calls: usize,
    }

    struct Port(Arc<Mutex<Cable>>, OwnedFd, Vec<u8>);

    impl NetPort for Port {
        fn features(&self) -> u64 {
            OFFLOADS
        }
        fn send(&mut self, _header: &[u8; HEADER_BYTES], frame: &[u8]) -> Sent {
            let mut cable = self.0.lock().unwrap();
            cable.calls += 1;
            if cable.room == 0 {
                return Sent::Full;
            }
            cable.room -= 1;
            cable.gone.push(frame.to_vec());
            Sent::Taken
        }
        fn peek(&mut self) -> Option<Arrived<'_>> {
            let mut cable = self.0.lock().unwrap();
            cable.calls += 1;
            self.2 = cable.coming.front()?.clone();
            Some(Arrived { header: &NOTHING_LEFT, frame: &self.2 })
        }
        fn take(&mut self) {
            self.0.lock().unwrap().coming.pop_front();
        }
        fn fd(&self) -> Option<BorrowedFd<'_>> {
            Some(self.1.as_fd())
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
        // Without event indices, mergeable buffers and offloads.
        guest_with(room, 1 << 32)
    }

    /// A guest whose driver accepts these features.
    fn guest_with(room: usize, features: u64) -> Guest {
        guest_behind(std::fs::File::open("/dev/null").unwrap().into(), room, features)
    }

    /// A guest whose port waits on `fd`.
    fn guest_behind(fd: OwnedFd, room: usize, features: u64) -> Guest {
        guest_limited(fd, room, features, Limiter::default())
    }

    /// A guest within limits.
    fn guest_limited(fd: OwnedFd, room: usize, features: u64, limiter: Limiter) -> Guest {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let cable = Arc::new(Mutex::new(Cable { room, ..Cable::default() }));
        let net = Net::new([2, 0, 0, 0, 0, 1], Box::new(Port(cable.clone(), fd, Vec::new())), limiter);
        let mut function = VirtioFunction::new(Box::new(net), ram.clone(), Waker::new().unwrap()).unwrap();
        let queues = [0x1000, 0x2000].map(|base| DriverQueue::new(ram.clone(), base, 8));
        driver::start(&mut function, features, &queues);
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

    #[test]
    fn sec40_a_device_that_can_do_nothing_does_nothing() {
        // Its port has something to read all the time, for which the guest has no buffers, and takes nothing.
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.write_all(b"frame").unwrap();
        while (&ours).write(&[0; 1000]).is_ok() {}
        let Guest { mut function, cable, mut transmit, ram, .. } = guest_behind(ours.into(), 0, 1 << 32);
        ram.write(FRAME, &[9; 200]).unwrap();
        transmit.send(&[(FRAME, 72)], &[]);
        cable.lock().unwrap().coming.push_back(vec![1; 60]);
        let changed = Waker::new().unwrap();
        function.serve(Some(RECEIVE));
        function.serve(Some(TRANSMIT));
        let function = Arc::new(Mutex::new(function));
        worker::start("net", vec![function.clone()], changed.clone()).unwrap();
        let calls = || cable.lock().unwrap().calls;
        // The thread works off the kicks of the start. Then it sleeps.
        let (mut before, mut quiet_ms) = (calls(), 0);
        while quiet_ms < 100 {
            std::thread::sleep(Duration::from_millis(1));
            quiet_ms = if calls() == before { quiet_ms + 1 } else { 0 };
            before = calls();
            assert!(before < 100, "{before} calls for nothing");
        }
        transmit.send(&[(FRAME, 72)], &[]);
        cable.lock().unwrap().room = 9;
        function.lock().unwrap().serve(None);
        assert_eq!(cable.lock().unwrap().gone.len(), 2, "and goes on when there is room");
    }

    #[test]
    fn sec41_headers_stand_where_they_belong_whatever_was_agreed_upon_and_however_buffers_are_cut() {
        let all = function_features();
        let bits: Vec<u64> = (0..64).map(|bit| 1 << bit).filter(|bit| all & bit != 0 && *bit != 1 << 32).collect();
        let frame: Vec<u8> = (0..70).collect();
        for combination in 0..1u64 << bits.len() {
            let chosen = bits.iter().enumerate().filter(|(at, _)| combination & (1 << at) != 0);
            let features = chosen.fold(1 << 32, |features, (_, bit)| features | bit);
            for split in [1u32, 9, 10, 11, 12, 13, 40] {
                let mut guest = guest_with(9, features);
                guest.ram.write(FRAME + 12, &frame).unwrap();
                guest.transmit.send(&[(FRAME, split), (FRAME + u64::from(split), 82 - split)], &[]);
                guest.function.serve(Some(TRANSMIT));
                assert_eq!(guest.cable.lock().unwrap().gone, [&frame[..]], "{features:#x} {split}");
                guest.cable.lock().unwrap().coming.push_back(frame.clone());
                guest.receive.send(&[], &[(BUFFERS, split), (BUFFERS + u64::from(split), 100)]);
                guest.function.serve(Some(RECEIVE));
                assert_eq!(guest.receive.used(), Some((0, 82)));
                let mut got = [0; 82];
                guest.ram.read(BUFFERS, &mut got).unwrap();
                assert_eq!((&got[..12], &got[12..]), (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], &frame[..]));
            }
        }
    }

    /// All that the device offers.
    fn function_features() -> u64 {
        guest(0).function.features()
    }

    #[test]
    fn a_long_frame_takes_several_buffers_or_waits_for_them() {
        for event_idx in [0, 1 << 29] {
            let mut guest = guest_with(0, 1 << 32 | MRG_RXBUF | event_idx);
            let frame: Vec<u8> = (0..1000u32).map(|byte| byte as u8).collect();
            guest.cable.lock().unwrap().coming.push_back(frame.clone());
            let buffer = |index: u64| (BUFFERS + 512 * index, 400);
            guest.receive.send(&[], &[buffer(0)]);
            guest.receive.send(&[], &[buffer(1)]);
            guest.function.serve(Some(RECEIVE));
            assert_eq!((guest.receive.used(), guest.function.waits_for().len()), (None, 2), "two are too few");
            guest.receive.send(&[], &[buffer(2)]);
            guest.receive.send(&[], &[buffer(3)]);
            guest.function.serve(Some(RECEIVE));
            let used: Vec<_> = std::iter::from_fn(|| guest.receive.used()).collect();
            assert_eq!(used, [(0, 400), (1, 400), (2, 212)]);
            let mut got = [0; 1536];
            guest.ram.read(BUFFERS, &mut got).unwrap();
            assert_eq!(got[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0], "three buffers");
            let pieces = [&got[12..400], &got[512..912], &got[1024..1236]].concat();
            assert!(pieces == frame);
        }
    }

    #[test]
    fn a_frame_that_no_queue_has_room_for_is_lost_and_the_next_comes() {
        let mut guest = guest_with(0, 1 << 32 | MRG_RXBUF);
        guest.cable.lock().unwrap().coming.extend([vec![1; 1000], vec![2; 60]]);
        for index in 0..8 {
            guest.receive.send(&[], &[(BUFFERS + 512 * index, 100)]);
        }
        guest.function.serve(Some(RECEIVE));
        assert_eq!(
            (0..8).map(|_| guest.receive.used()).collect::<Vec<_>>(),
            (0..8).map(|head| Some((head, 0))).collect::<Vec<_>>()
        );
        guest.receive.send(&[], &[(BUFFERS, 100)]);
        guest.function.serve(Some(RECEIVE));
        assert_eq!(guest.receive.used(), Some((0, 72)));
        assert_eq!(guest.function.status() & NEEDS_RESET, 0);
    }

    #[test]
    fn each_direction_has_its_limit_and_what_it_holds_waits() {
        // Two frames at once of 1000 bytes, and then one each 50 ms.
        let limiter = Limiter::new(Rates { bytes: Some(20_000), operations: None }, LANES).unwrap();
        // A port that always has something to read.
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"frame").unwrap();
        let mut guest = guest_limited(ours.into(), 100, 1 << 32, limiter);
        let begin = Instant::now();
        guest.ram.write(FRAME, &[9; 1012]).unwrap();
        guest.cable.lock().unwrap().coming.extend(vec![vec![1; 1000]; 6]);
        for index in 0..6 {
            guest.transmit.send(&[(FRAME, 1012)], &[]);
            guest.receive.send(&[], &[(BUFFERS + 2048 * index, 2000)]);
        }
        guest.function.serve(Some(TRANSMIT));
        guest.function.serve(Some(RECEIVE));
        let (mut sent, mut got, mut rounds) = (0, 0, 0);
        loop {
            let passed = begin.elapsed();
            sent += (0..6).filter(|_| guest.transmit.used().is_some()).count();
            got += (0..6).filter(|_| guest.receive.used().is_some()).count();
            let most = 3 + (passed.as_millis() / 50) as usize;
            assert!(sent <= most && got <= most, "{sent} and {got} after {passed:?}");
            if (sent, got) == (6, 6) {
                break;
            }
            let waits = guest.function.waits_for();
            let of_device = waits.iter().filter(|wait| wait.queue.is_none());
            let interests: Vec<_> =
                of_device.map(|wait| Interest { token: (), fd: wait.fd, output: wait.output }).collect();
            assert!(!event_loop::wait(&interests, Some(Duration::from_secs(20))).unwrap().is_empty(), "it hangs");
            guest.function.serve(None);
            // A kick ends no debt.
            guest.function.serve(Some(TRANSMIT));
            rounds += 1;
            assert!(rounds < 30, "it does not sleep");
        }
        assert!(begin.elapsed() >= Duration::from_millis(150));
    }
}
