//! A machine's port on a switch: a stream to the switch and, while only two machines are plugged in, a cable to the other.
//!
//! Between two machines a switch has nothing to decide, and waking it up costs as much as either of them. So it gives both an end of
//! a socket pair (`net_joint.rs`), and shuts that when somebody else plugs in. Whoever sends says in its stream where it goes on, and
//! nobody reads what came one way before all that was sent earlier the other way: frames keep their order, and none is lost.
//! What the switch does for a frame, its sender does before it goes by a cable: the header is made anew, and sums and segments that the
//! other driver does not do are done. What a cable has no room for is lost, as behind a switch: a machine that stands still stalls no other.

use super::net_offload::{Scratch, Work};
use super::net_port::{Arrived, HEADER_BYTES, NOTHING_LEFT, NetPort, Sent};
use super::net_stream::{Heard, NetStream};
use std::os::fd::BorrowedFd;

/// The port.
pub struct SwitchPort {
    /// To the switch, which has greeted.
    stream: NetStream,
    cable: Option<Cable>,
    /// What is to be waited for is another descriptor than before.
    has_moved: bool,
    scratch: Scratch,
}

struct Cable {
    stream: NetStream,
    number: u8,
    /// Offloads that the driver at the other end does itself.
    does: u64,
    /// Frames go by it.
    sends: bool,
    /// Frames come by it.
    receives: bool,
}

impl SwitchPort {
    /// A port behind `stream`.
    pub(super) fn new(stream: NetStream) -> SwitchPort {
        SwitchPort { stream, cable: None, has_moved: false, scratch: Scratch::default() }
    }

    /// Sends by the cable from now on if that can be said, and no more by one that is shut; lets go of one that has ended.
    fn settle(&mut self) {
        let Some(cable) = &mut self.cable else { return };
        if cable.stream.is_shut() {
            if cable.sends {
                self.stream.put_records(&cable.stream.unsent());
                (cable.sends, self.has_moved) = (false, true);
            }
            if cable.stream.fd().is_none() {
                (self.cable, self.has_moved) = (None, true);
            }
        } else if !cable.sends && self.stream.say_moved(cable.number) {
            (cable.sends, self.has_moved) = (true, true);
        }
    }

    /// What the switch said of cables.
    fn hear(&mut self, heard: Heard) {
        match (heard, &mut self.cable) {
            (Heard::Cable(end, number, does), cable) => {
                let stream = NetStream::of_cable(end);
                let before = cable.replace(Cable { stream, number, does, sends: false, receives: false });
                if let Some(mut before) = before.filter(|before| before.sends) {
                    self.stream.put_records(&before.stream.unsent());
                }
                self.has_moved = true;
            }
            (Heard::End(number), Some(cable)) if cable.number == number => {
                (cable.receives, self.has_moved) = (true, true);
            }
            // Of a cable that has ended.
            (Heard::End(_) | Heard::Moved(_), _) => {}
        }
    }

    /// The stream by which frames go.
    fn sending(&self) -> &NetStream {
        match &self.cable {
            Some(cable) if cable.sends => &cable.stream,
            _ => &self.stream,
        }
    }

    /// The cable by which frames come.
    fn receiving(&mut self) -> Option<&mut NetStream> {
        self.cable.as_mut().filter(|cable| cable.receives).map(|cable| &mut cable.stream)
    }
}

impl NetPort for SwitchPort {
    fn features(&self) -> u64 {
        self.stream.features()
    }

    fn start(&mut self, features: u64) {
        self.stream.start(features);
    }

    fn send(&mut self, header: &[u8; HEADER_BYTES], frame: &[u8]) -> Sent {
        if self.cable.as_ref().is_some_and(|cable| cable.sends && cable.stream.is_shut()) {
            self.settle();
        }
        let Some(cable) = self.cable.as_mut().filter(|cable| cable.sends) else {
            return self.stream.send(header, frame);
        };
        match Work::of(header, frame) {
            Ok(work) if work.is_done_by(cable.does) => {
                cable.stream.send(&work.header(), frame);
            }
            Ok(work) => work.run(frame, &mut self.scratch, |frame| {
                cable.stream.send(&NOTHING_LEFT, frame);
            }),
            Err(_) => {}
        }
        Sent::Taken
    }

    fn flush(&mut self) {
        self.stream.flush();
        self.settle();
        if let Some(cable) = self.cable.as_mut().filter(|cable| cable.sends) {
            cable.stream.flush();
            if cable.stream.is_shut() {
                self.settle();
                self.stream.flush();
            }
        }
    }

    fn peek(&mut self) -> Option<Arrived<'_>> {
        loop {
            if let Some(cable) = self.receiving() {
                if cable.peek().is_some() {
                    return self.receiving().and_then(NetStream::peek);
                }
                if cable.fd().is_some() {
                    return None;
                }
            }
            self.settle();
            if self.stream.peek().is_some() {
                return self.stream.peek();
            }
            let heard = self.stream.heard()?;
            self.hear(heard);
        }
    }

    fn take(&mut self) {
        match self.receiving() {
            Some(cable) => cable.take(),
            None => self.stream.take(),
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.cable.as_ref().filter(|cable| cable.receives).map_or(self.stream.fd(), |cable| cable.stream.fd())
    }

    fn room_fd(&self) -> Option<BorrowedFd<'_>> {
        self.sending().fd()
    }

    fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.has_moved)
    }

    fn wants_room(&self) -> bool {
        self.sending().wants_room()
    }
}

#[cfg(test)]
mod tests {
    use super::super::net_port::{GUEST_CSUM, GUEST_TSO4};
    use super::super::net_switch_ports::Switch;
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    const ALL: u64 = GUEST_CSUM | GUEST_TSO4;

    /// A switch and machines.
    struct Lan {
        switch: Switch,
        machines: Vec<SwitchPort>,
        now: Instant,
    }

    impl Lan {
        fn new(machines: usize) -> Lan {
            let mut lan = Lan { switch: Switch::default(), machines: Vec::new(), now: Instant::now() };
            (0..machines).for_each(|_| lan.plug(ALL));
            lan
        }

        /// Plugs in a machine whose driver accepts these features.
        fn plug(&mut self, features: u64) {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let index = self.switch.plug(theirs.into()).unwrap();
            let mut stream = NetStream::to_switch(ours.into());
            self.switch.forward_from(index, self.now);
            assert!(stream.is_greeted());
            self.machines.push(SwitchPort::new(stream));
            self.machines.last_mut().unwrap().start(features);
        }

        fn turn(&mut self) {
            (0..3).for_each(|port| self.switch.forward_from(port, self.now));
            self.switch.finish_turn(self.now);
        }

        fn send(&mut self, from: usize, header: &[u8; HEADER_BYTES], payload: &[u8]) {
            let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, from as u8], &[0x88, 0xb5], payload].concat();
            assert_eq!(self.machines[from].send(header, &frame), Sent::Taken);
            self.machines[from].flush();
        }

        /// The next frame that came: its header, who sent it, its payload.
        fn received(&mut self, at: usize) -> Option<([u8; HEADER_BYTES], usize, Vec<u8>)> {
            // One that had all that was there is to be waited for, and asked again.
            let _ = self.machines[at].peek().is_some() || self.machines[at].peek().is_some();
            let Arrived { header, frame } = self.machines[at].peek()?;
            let received = (*header, usize::from(frame[11]), frame[14..].to_vec());
            self.machines[at].take();
            Some(received)
        }

        /// Whether frames go both ways by the cable.
        fn is_joined(&self) -> bool {
            self.machines[..2].iter().all(|port| port.cable.as_ref().is_some_and(|cable| cable.sends && cable.receives))
        }

        fn settle(&mut self) {
            for _ in 0..4 {
                self.turn();
                (0..self.machines.len()).for_each(|at| assert_eq!(self.received(at), None));
            }
        }
    }

    #[test]
    fn two_machines_are_joined_and_a_third_one_brings_them_back() {
        let mut lan = Lan::new(2);
        lan.settle();
        assert!(lan.is_joined());
        assert!(lan.machines[0].has_moved() && !lan.machines[0].has_moved());
        lan.send(0, &NOTHING_LEFT, b"without the switch");
        assert_eq!(lan.received(1), Some((NOTHING_LEFT, 0, b"without the switch".into())));
        lan.send(1, &NOTHING_LEFT, b"still in the cable");
        lan.plug(ALL);
        lan.send(0, &NOTHING_LEFT, b"to all");
        assert_eq!(lan.received(0).unwrap().2, b"still in the cable");
        lan.turn();
        assert_eq!((lan.received(1).unwrap().2, lan.received(2).unwrap().2), (b"to all".into(), b"to all".into()));
        assert!(!lan.is_joined() && lan.machines[0].has_moved());
        // It leaves again, and so does the first.
        lan.machines.pop();
        lan.settle();
        assert!(lan.is_joined());
        lan.send(1, &NOTHING_LEFT, b"farewell");
        let left = lan.machines.pop();
        drop(left);
        lan.turn();
        assert_eq!(lan.received(0).unwrap().2, b"farewell");
        lan.settle();
        assert!(lan.machines[0].fd().is_some() && !lan.machines[0].wants_room());
        lan.plug(ALL);
        lan.settle();
        assert!(lan.is_joined());
        assert_eq!(lan.switch.counts().frames, 1, "all others went by cables");
    }

    #[test]
    fn the_sender_does_what_the_other_driver_does_not_and_makes_headers_anew() {
        let mut lan = Lan::new(1);
        lan.plug(0);
        lan.settle();
        assert!(lan.is_joined());
        // A sum of the bytes from 14 on, which goes to where the last two are.
        let sum = [1, 0, 0x55, 0x55, 0, 0, 14, 0, 2, 0, 9, 9];
        lan.send(0, &sum, &[1, 2, 0, 0]);
        assert_eq!(lan.received(1), Some((NOTHING_LEFT, 0, vec![1, 2, 0xfe, 0xfd])));
        lan.send(1, &sum, &[1, 2, 0, 0]);
        assert_eq!(lan.received(0), Some(([1, 0, 0, 0, 0, 0, 14, 0, 2, 0, 0, 0], 1, vec![1, 2, 0, 0])));
        lan.send(1, &[1, 0, 0, 0, 0, 0, 200, 0, 2, 0, 0, 0], b"no such place");
        assert_eq!(lan.received(0), None);
        // Another driver comes, that does it itself.
        lan.machines[1].start(ALL);
        lan.settle();
        assert!(lan.is_joined());
        lan.send(0, &sum, &[1, 2, 0, 0]);
        assert_eq!(lan.received(1).unwrap().2, [1, 2, 0, 0]);
    }

    #[test]
    fn who_sends_no_frames_by_the_cable_loses_it_and_both_come_back_to_the_switch() {
        let mut lan = Lan::new(2);
        lan.settle();
        let cable = &mut lan.machines[1].cable.as_mut().unwrap().stream;
        cable.put_records(&[0xff; 8]);
        cable.flush();
        assert_eq!(lan.received(0), None);
        assert!(lan.machines[0].cable.is_none() && lan.machines[0].fd().is_some());
        lan.send(1, &NOTHING_LEFT, b"by the switch");
        lan.turn();
        assert_eq!(lan.received(0).unwrap().2, b"by the switch");
    }

    #[test]
    fn a_machine_that_never_reads_loses_frames_and_stalls_nobody() {
        let mut lan = Lan::new(2);
        lan.settle();
        let sent = 4000;
        (0..sent).for_each(|number: u16| lan.send(0, &NOTHING_LEFT, &[&number.to_le_bytes()[..], &[7; 1000]].concat()));
        assert!(lan.machines[0].wants_room() && lan.machines[0].room_fd().is_some());
        let mut got = Vec::new();
        while let Some((.., payload)) = lan.received(1) {
            got.push(u16::from_le_bytes([payload[0], payload[1]]));
            lan.machines[0].flush();
        }
        assert!((500..usize::from(sent) - 1000).contains(&got.len()), "{}", got.len());
        assert!(got.iter().copied().eq(0..got.len() as u16), "what had room, in order");
    }

    #[test]
    fn no_frame_is_lost_or_overtaken_whoever_comes_and_goes() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut noise = |below: usize| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as usize % below
        };
        let mut lan = Lan::new(2);
        let (mut sent, mut got) = ([0u32; 2], [0u32; 2]);
        let (mut joined, mut rounds) = (0, 0);
        while rounds < 20_000 || sent != got {
            let ends = rounds >= 20_000;
            let (machine, times) = (noise(2), noise(20));
            match noise(if ends { 5 } else { 8 }) {
                0 | 1 => lan.switch.forward_from(noise(3), lan.now),
                2 => lan.switch.finish_turn(lan.now),
                3 | 4 => {
                    for _ in 0..times {
                        let Some((.., from, payload)) = lan.received(machine) else { break };
                        let number = u32::from_le_bytes(*payload.first_chunk().unwrap());
                        assert_eq!((from, number), (1 - machine, got[from]), "in round {rounds}");
                        got[from] += 1;
                    }
                }
                // As many as there is room for wherever they are.
                5 | 6 if sent[machine] - got[machine] < 100 => {
                    for _ in 0..times {
                        let payload = [&sent[machine].to_le_bytes()[..], &vec![1; noise(1500)]].concat();
                        lan.send(machine, &NOTHING_LEFT, &payload);
                        sent[machine] += 1;
                    }
                }
                7 if noise(20) > 0 => {}
                7 if noise(4) == 0 => lan.machines[machine].start([0, ALL][noise(2)]),
                7 if lan.machines.len() == 2 => lan.plug(ALL),
                7 => drop(lan.machines.pop()),
                _ => {}
            }
            if noise(4) == 0 {
                lan.machines[machine].flush();
            }
            joined += usize::from(lan.is_joined());
            rounds += 1;
            assert!(rounds < 40_000, "{sent:?} were sent, {got:?} came");
        }
        assert!(
            sent.iter().all(|&sent| sent > 5000) && joined > 1000 && joined < rounds,
            "{sent:?}, {joined} of {rounds}"
        );
        let counts = lan.switch.counts();
        assert!(counts.frames > 1000 && counts.frames < u64::from(sent[0] + sent[1]));
    }
}
