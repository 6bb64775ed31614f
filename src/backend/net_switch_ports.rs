//! The ports of a switch, and the way of a frame from one to another.
//!
//! A frame goes where its address was seen last, or everywhere. Machines of Hostel's send frames whose sums and segments are left
//! undone; those go on as they are to a machine whose driver does that itself, and are completed for any other port. What a port has no
//! room for is lost, as on any switch: a slow machine stalls no other. Two machines alone are joined by a cable, and their frames do not
//! come here until somebody else does. VLAN tags are passed on and mean nothing here. Leaves out
//! spanning trees and filtering of groups. Source: IEEE 802.1D §7.7 (the forwarding process).

use super::net_addresses::{Addresses, Mac, is_one};
use super::net_joint::Joint;
use super::net_offload::{Scratch, Work};
use super::net_port::{Arrived, NOTHING_LEFT, NetPort, Sent};
use super::net_stream::{Heard, NetStream};
use crate::event_loop::{self, Interest};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// Ports that there may be.
const PORTS_MAX: usize = 256;
/// Frames that are taken from one port before the others have their turn.
const FRAMES_AT_ONCE: usize = 256;
/// Shortest frame: two addresses and a type.
const FRAME_MIN: usize = 14;

/// Ports, and which addresses are behind them.
#[derive(Default)]
pub struct Switch {
    ports: Vec<Option<Port>>,
    addresses: Addresses,
    scratch: Scratch,
    counts: Counts,
    /// The cable that was handed out last, whole or shut.
    joint: Option<Joint>,
    /// The number of the next.
    number: u8,
    /// Ports have changed since it was looked whether two of them can be joined.
    may_join: bool,
}

/// The way of the frame before, which many a frame takes too.
struct Way {
    to: Mac,
    from: Mac,
    /// `None`: to all ports.
    port: Option<usize>,
}

struct Port {
    stream: NetStream,
    /// It has had its turn, and more frames of it are here.
    has_more: bool,
}

/// What became of all frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// That came.
    pub frames: u64,
    /// That were lost on the way to a port without room; each counts once for each port.
    pub without_room: u64,
    /// That were no frames, or whose header asked for what cannot be done with them.
    pub malformed: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { frames, without_room, malformed } = self;
        write!(out, "{frames} frames came, {without_room} were lost for want of room, {malformed} were malformed")
    }
}

impl Switch {
    /// Whether anybody is plugged in.
    pub fn has_ports(&self) -> bool {
        self.ports.iter().any(Option::is_some)
    }

    /// What became of the frames so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Waits for frames and for who plugs in at `listener`, at most `wait`, and moves on what has come.
    ///
    /// # Errors
    /// The host refuses to wait.
    pub fn turn(&mut self, listener: &UnixListener, wait: Duration) -> io::Result<()> {
        let mut interests = vec![Interest { token: None, fd: listener.as_fd(), output: false }];
        let mut has_more = Vec::new();
        for (index, port) in self.ports.iter().enumerate() {
            let Some(Port { stream, has_more: more }) = port else { continue };
            let Some(fd) = stream.fd() else { continue };
            if *more {
                has_more.push(index);
            } else {
                interests.push(Interest { token: Some((index, false)), fd, output: false });
            }
            if stream.wants_room() {
                interests.push(Interest { token: Some((index, true)), fd, output: true });
            }
        }
        let wait = if has_more.is_empty() { wait } else { Duration::ZERO };
        let ready = event_loop::wait(&interests, Some(wait))?;
        let now = Instant::now();
        has_more.into_iter().for_each(|index| self.forward_from(index, now));
        for token in ready {
            match token {
                None => self.accept(listener),
                Some((index, false)) => self.forward_from(index, now),
                Some((index, true)) => self.flush(index),
            }
        }
        self.finish_turn(now);
        Ok(())
    }

    fn accept(&mut self, listener: &UnixListener) {
        while let Ok((socket, _)) = listener.accept() {
            // One too many hears the end at once.
            self.plug(OwnedFd::from(socket));
        }
    }

    /// Plugs in whoever is at the other end of `socket`, if there is a port left.
    pub(super) fn plug(&mut self, socket: OwnedFd) -> Option<usize> {
        let free = self.ports.iter().position(Option::is_none).unwrap_or(self.ports.len());
        if free == PORTS_MAX {
            return None;
        }
        if free == self.ports.len() {
            self.ports.push(None);
        }
        self.ports[free] = Some(Port { stream: NetStream::of_switch(socket), has_more: false });
        self.part();
        Some(free)
    }

    /// Sends on what was forwarded, and takes out who has left.
    pub(super) fn finish_turn(&mut self, now: Instant) {
        for (index, slot) in self.ports.iter_mut().enumerate() {
            if let Some(port) = slot {
                port.stream.flush();
            }
            if slot.as_ref().is_some_and(|port| port.stream.fd().is_none()) {
                *slot = None;
                self.addresses.forget_port(index);
                self.may_join = true;
                if let Some(joint) = self.joint.take_if(|joint| joint.leads_to(index)) {
                    joint.shut();
                }
            }
        }
        self.join();
        self.addresses.sweep(now);
    }

    /// Joins two ports, if there are no others and both are machines.
    fn join(&mut self) {
        if !self.may_join || self.joint.as_ref().is_some_and(|joint| !joint.is_settled()) {
            return;
        }
        let ports = self.ports.iter_mut().enumerate();
        let mut ports = ports.filter_map(|(index, port)| port.as_mut().map(|port| (index, &mut port.stream)));
        let (Some(one), Some(other), None) = (ports.next(), ports.next(), ports.next()) else { return };
        if let Ok(joint) = Joint::of([one, other], self.number) {
            // Without one, frames go on coming here.
            (self.joint, self.may_join) = (joint, false);
            self.number = self.number.wrapping_add(1);
        }
    }

    /// Brings back those who are joined.
    fn part(&mut self) {
        self.joint.iter().for_each(Joint::shut);
        self.may_join = true;
    }

    /// The machine at port `index` sends by cable `number` now; whatever it sent before has been forwarded.
    fn moved(&mut self, index: usize, number: u8) {
        let other = self.joint.as_mut().and_then(|joint| joint.moved(index, number));
        if let Some(Some(port)) = other.map(|other| &mut self.ports[other]) {
            port.stream.say_end(number);
        }
    }

    fn flush(&mut self, index: usize) {
        if let Some(Some(port)) = self.ports.get_mut(index) {
            port.stream.flush();
        }
    }

    /// Passes on what has come at port `index`, for one turn.
    pub(super) fn forward_from(&mut self, index: usize, now: Instant) {
        // Out of the row while it is looked at: it gets none of its own frames.
        let Some(mut port) = self.ports.get_mut(index).and_then(Option::take) else { return };
        port.has_more = true;
        let does = port.stream.driver_does();
        let mut way = None;
        for _ in 0..FRAMES_AT_ONCE {
            if let Some(arrived) = port.stream.peek() {
                self.forward(index, arrived, &mut way, now);
                port.stream.take();
            } else if let Some(heard) = port.stream.heard() {
                if let Heard::Moved(number) = heard {
                    self.moved(index, number);
                }
            } else {
                port.has_more = false;
                break;
            }
        }
        if port.stream.driver_does() != does {
            // Another driver: who sends to it has to know.
            self.part();
        }
        self.ports[index] = Some(port);
    }

    fn forward(&mut self, from: usize, Arrived { header, frame }: Arrived<'_>, way: &mut Option<Way>, now: Instant) {
        self.counts.frames += 1;
        let work = Work::of(header, frame);
        let addresses: Option<(&Mac, &Mac)> =
            frame.first_chunk().zip(frame.get(6..).and_then(|rest| rest.first_chunk()));
        let (Some((to, source)), Ok(work)) = (addresses.filter(|_| frame.len() >= FRAME_MIN), work) else {
            self.counts.malformed += 1;
            return;
        };
        // Nothing but a frame from another address changes what is known meanwhile.
        if way.as_ref().is_none_or(|way| (&way.to, &way.from) != (to, source)) {
            self.addresses.learn(source, from, now);
            let port = self.addresses.find(to, now).filter(|_| is_one(to));
            *way = Some(Way { to: *to, from: *source, port });
        }
        match way.as_ref().and_then(|way| way.port) {
            Some(port) => self.send_to(port, frame, &work),
            None => (0..self.ports.len()).for_each(|port| self.send_to(port, frame, &work)),
        }
    }

    fn send_to(&mut self, index: usize, frame: &[u8], work: &Work) {
        let Some(Some(Port { stream, .. })) = self.ports.get_mut(index) else { return };
        let is_done = work.is_done_by(stream.does());
        let mut send = |header: &_, frame: &[u8]| {
            if stream.send(header, frame) == Sent::Full {
                self.counts.without_room += 1;
            }
        };
        if is_done {
            send(&work.header(), frame);
        } else {
            work.run(frame, &mut self.scratch, |frame| send(&NOTHING_LEFT, frame));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::net_port::{GUEST_CSUM, GUEST_TSO4, HEADER_BYTES};
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    const BROADCAST: Mac = [0xff; 6];
    /// What the longest frame of the tests has room in.
    const LONG: usize = 70_000;

    fn address(number: u8) -> Mac {
        [2, 0, 0, 0, 0, number]
    }

    fn frame(to: Mac, from: Mac, text: &[u8]) -> Vec<u8> {
        [&to[..], &from, &[0x88, 0xb5], text].concat()
    }

    /// A switch and what is plugged into it.
    struct Rig {
        switch: Switch,
        ports: Vec<NetStream>,
        now: Instant,
    }

    impl Rig {
        fn new(ports: usize) -> Rig {
            let mut rig = Rig { switch: Switch::default(), ports: Vec::new(), now: Instant::now() };
            for _ in 0..ports {
                rig.plug(NetStream::new);
            }
            rig
        }

        /// Plugs in one more.
        fn plug(&mut self, make: fn(OwnedFd) -> NetStream) -> usize {
            let (ours, theirs) = UnixStream::pair().unwrap();
            self.switch.plug(theirs.into()).unwrap();
            self.ports.push(make(ours.into()));
            self.ports.len() - 1
        }

        /// A machine of Hostel's, whose driver accepts these features.
        fn plug_machine(&mut self, features: u64) -> usize {
            let port = self.plug(NetStream::to_switch);
            self.switch.forward_from(port, self.now);
            assert!(self.ports[port].is_greeted());
            self.ports[port].start(features);
            port
        }

        fn turn(&mut self, from: usize) {
            self.switch.forward_from(from, self.now);
            self.switch.finish_turn(self.now);
        }

        /// The text of each frame that came at `port`.
        fn texts(&mut self, port: usize) -> Vec<Vec<u8>> {
            let mut texts = Vec::new();
            while let Some(arrived) = self.ports[port].peek() {
                texts.push(arrived.frame[14..].to_vec());
                self.ports[port].take();
            }
            texts
        }

        /// Sends a frame; which ports got it.
        fn pass(&mut self, from: usize, frame: &[u8]) -> Vec<usize> {
            assert_eq!(self.ports[from].send(&NOTHING_LEFT, frame), Sent::Taken);
            self.ports[from].flush();
            self.turn(from);
            (0..self.ports.len()).filter(|&port| self.texts(port) == [&frame[14..]]).collect()
        }
    }

    #[test]
    fn what_is_not_known_goes_everywhere_and_what_is_known_to_its_port_alone() {
        let mut rig = Rig::new(3);
        assert_eq!(rig.pass(0, &frame(BROADCAST, address(1), b"hello")), [1, 2]);
        assert_eq!(rig.pass(1, &frame(address(1), address(2), b"answer")), [0], "only to whom it is for");
        assert_eq!(rig.pass(2, &frame(address(9), address(3), b"who?")), [0, 1]);
        assert_eq!(rig.pass(0, &frame(address(1), address(1), b"to itself")), [0; 0]);
        let tagged = [&address(1)[..], &address(2), &[0x81, 0, 0, 42, 0x88, 0xb5], b"tagged"].concat();
        assert_eq!(rig.pass(1, &tagged), [0], "with its VLAN tag");
        // Another machine claims the address, and has it once the first is silent.
        assert_eq!(rig.pass(2, &frame(BROADCAST, address(1), b"mine")), [0, 1]);
        assert_eq!(rig.pass(1, &frame(address(1), address(2), b"still")), [0]);
        rig.now += Duration::from_secs(2);
        assert_eq!(rig.pass(2, &frame(BROADCAST, address(1), b"mine")), [0, 1]);
        assert_eq!(rig.pass(1, &frame(address(1), address(2), b"moved")), [2]);
        // A group teaches nothing.
        assert_eq!(rig.pass(0, &frame(address(4), BROADCAST, b"x")), [1, 2]);
        assert_eq!(rig.pass(1, &frame(BROADCAST, address(2), b"all")), [0, 2]);
    }

    #[test]
    fn sec42_what_is_no_frame_goes_nowhere_and_is_counted() {
        let mut rig = Rig::new(2);
        for length in 0..FRAME_MIN {
            assert_eq!(rig.ports[0].send(&NOTHING_LEFT, &vec![2; length]), Sent::Taken);
        }
        rig.ports[0].flush();
        rig.turn(0);
        assert!(rig.texts(1).is_empty());
        assert_eq!(rig.switch.counts(), Counts { frames: 14, malformed: 14, ..Counts::default() });
    }

    #[test]
    fn a_machine_that_leaves_is_forgotten_and_the_next_has_its_port() {
        let mut rig = Rig::new(2);
        rig.pass(0, &frame(BROADCAST, address(1), b"here"));
        let left = rig.ports.remove(0);
        drop(left);
        rig.turn(0);
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert_eq!(rig.switch.plug(theirs.into()), Some(0), "the free one");
        rig.ports.insert(0, NetStream::new(ours.into()));
        assert_eq!(rig.pass(1, &frame(address(1), address(2), b"back?")), [0], "flooded: nobody knows it");
        for _ in 2..PORTS_MAX {
            assert!(rig.switch.plug(UnixStream::pair().unwrap().0.into()).is_some());
        }
        assert_eq!(rig.switch.plug(UnixStream::pair().unwrap().0.into()), None);
    }

    #[test]
    fn a_port_that_never_reads_loses_frames_and_stalls_nobody() {
        let mut rig = Rig::new(3);
        let sent = 4000;
        let mut got = 0;
        for number in 0..sent {
            let text = [number as u8; 1000];
            rig.ports[0].send(&NOTHING_LEFT, &frame(BROADCAST, address(1), &text));
            rig.ports[0].flush();
            rig.turn(0);
            got += rig.texts(1).iter().filter(|came| *came == &text).count();
        }
        assert_eq!(got, sent, "while port 2 has not read anything");
        let lost = rig.switch.counts().without_room;
        assert!(lost > 1000 && rig.switch.ports[2].as_ref().unwrap().stream.wants_room());
        // What it did not lose it gets, whole and in order, when it reads again.
        let mut late = Vec::new();
        while late.len() < sent - lost as usize {
            late.extend(rig.texts(2));
            rig.switch.flush(2);
        }
        assert!(late.iter().enumerate().all(|(number, text)| text == &[number as u8; 1000]));
    }

    #[test]
    fn a_port_that_sends_without_end_gives_others_their_turn() {
        let mut rig = Rig::new(2);
        for _ in 0..2 * FRAMES_AT_ONCE {
            rig.ports[0].send(&NOTHING_LEFT, &frame(address(2), address(1), b""));
        }
        rig.ports[0].flush();
        rig.turn(0);
        assert_eq!(rig.texts(1).len(), FRAMES_AT_ONCE);
        assert!(rig.switch.ports[0].as_ref().unwrap().has_more, "its frames are here: no poll(2) tells of them");
        rig.turn(0);
        rig.turn(0);
        assert_eq!(rig.texts(1).len(), FRAMES_AT_ONCE);
        assert!(!rig.switch.ports[0].as_ref().unwrap().has_more);
    }

    /// A TCP segment of 3,000 bytes that is to be cut at 1,000, with its header.
    fn long_tcp() -> ([u8; HEADER_BYTES], Vec<u8>) {
        let mut frame = frame(BROADCAST, address(1), &[]);
        frame[12..14].copy_from_slice(&[0x08, 0]);
        frame.extend([0x45, 0, 0x0b, 0xe0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        frame.resize(54 + 3000, 0x33);
        ([1, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0], frame)
    }

    #[test]
    fn offloads_survive_between_machines_and_are_done_for_others() {
        let mut rig = Rig::new(1);
        let sender = rig.plug_machine(0);
        let does = rig.plug_machine(GUEST_CSUM | GUEST_TSO4);
        let does_not = rig.plug_machine(GUEST_TSO4);
        for port in [does, does_not] {
            rig.turn(port);
        }
        let (header, long) = long_tcp();
        rig.ports[sender].send(&header, &long);
        rig.ports[sender].flush();
        rig.turn(sender);
        assert_eq!(rig.ports[does].peek(), Some(Arrived { header: &header, frame: &long }));
        for port in [0, does_not] {
            let came = rig.ports[port].peek().unwrap();
            assert_eq!((came.header, came.frame.len()), (&NOTHING_LEFT, 1054));
            assert_eq!(rig.texts(port).iter().map(|text| text.len()).collect::<Vec<_>>(), [1040; 3]);
        }
        assert_eq!(rig.switch.counts(), Counts { frames: 1, ..Counts::default() });
    }

    /// Numbers that look random, the same in each run (xorshift64).
    struct Noise(u64);

    impl Noise {
        fn next(&mut self, below: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as usize % below
        }
    }

    /// Sends that many frames with wild headers through a switch with two machines, a QEMU, and one that breaks the protocol.
    fn wild_frames(count: usize) {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        let mut rig = Rig::new(1);
        let (does, plain) = (rig.plug_machine(GUEST_CSUM | GUEST_TSO4), rig.plug_machine(0));
        let (theirs, mut wild) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut wild_port = rig.switch.plug(theirs.into()).unwrap();
        let (tcp_header, tcp) = long_tcp();
        let mut bytes = vec![0; LONG];
        let mut came = [0usize; 3];
        for round in 0..count {
            let (mut header, mut frame) =
                if noise.next(2) == 0 { (tcp_header, tcp.clone()) } else { ([0; 12], vec![9; 60]) };
            frame[..12].fill_with(|| [2, 0, 1, 0xff][noise.next(4)]);
            for _ in 0..noise.next(4) {
                header[noise.next(HEADER_BYTES)] = noise.next(256) as u8;
                let at = noise.next(frame.len().min(60));
                frame[at] = noise.next(256) as u8;
            }
            frame.truncate(noise.next(8 * frame.len()));
            let from = [does, plain][noise.next(2)];
            rig.ports[from].send(&header, &frame);
            rig.ports[from].flush();
            rig.turn(from);
            for (index, port) in [0, does, plain].into_iter().enumerate() {
                while let Some(Arrived { header, frame }) = rig.ports[port].peek() {
                    assert!((FRAME_MIN..=LONG).contains(&frame.len()));
                    assert!(port == does || header == &NOTHING_LEFT, "more than it asked for");
                    assert!(Work::of(header, frame).is_ok_and(|work| work.header() == *header), "made by the switch");
                    came[index] += 1;
                    rig.ports[port].take();
                }
            }
            if round % 16 == 0 {
                // The start of a record or a word, and what follows; what comes to it is not looked at.
                let length = noise.next(40);
                bytes[..length].fill_with(|| [0, 0, 0, 0xff, 0x80, 1][noise.next(6)]);
                let lives = wild.write_all(&bytes[..length]).is_ok();
                rig.turn(wild_port);
                wild.set_nonblocking(true).unwrap();
                let _ = wild.read(&mut bytes);
                if !lives || rig.switch.ports[wild_port].is_none() {
                    let (theirs, ours) = UnixStream::pair().unwrap();
                    (wild, wild_port) = (ours, rig.switch.plug(theirs.into()).unwrap());
                }
            }
        }
        let counts = rig.switch.counts();
        assert!(counts.frames as usize >= count && counts.malformed > 0 && came.iter().all(|&came| came > count / 8));
        println!("{counts}; {came:?} came out");
    }

    #[test]
    fn wild_frames_neither_stop_the_switch_nor_go_on_as_they_are() {
        wild_frames(20_000);
    }

    #[test]
    #[ignore = "a minute: cargo test --release --lib million -- --ignored"]
    fn a_million_wild_frames() {
        wild_frames(1_000_000);
    }
}
