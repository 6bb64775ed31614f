//! Frames over a stream socket, each behind its length: the protocol of passt and of QEMU's `-netdev stream`, to which Hostel's own
//! machines and switches add words (`net_words.rs`).
//!
//! Length: 4 bytes, big-endian, of the frame without any virtio header; between Hostel's own, with it.
//! A QEMU says no words, and its frames go as they always did.
//! Source: passt(1) "--socket", which names QEMU's protocol.

use super::net_port::{Arrived, FRAME_MAX, HEADER_BYTES, NOTHING_LEFT, NetPort, OFFLOADS, Sent};
use super::net_words::{HELLO, WORD, Word};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    Shutdown, recv, recvmsg, send, sendmsg, shutdown,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of a length.
const LENGTH_BYTES: usize = 4;
/// Longest frame with all that stands before it.
const RECORD_MAX: usize = LENGTH_BYTES + FRAME_MAX;
/// Bytes that are read at once, and kept until they are whole frames.
const INPUT_BYTES: usize = 4 * RECORD_MAX;
/// Bytes that are sent at once to who is not Hostel, unless one frame has more. A socket keeps them in one piece of memory (Linux
/// `af_unix.c`, UNIX_SKB_FRAGS_SZ), and hands pieces out. passt of 2023 loses its place in the stream where a piece ends within a length,
/// and where a frame lies in more than two.
const PIECE_BYTES: usize = 32 << 10;
/// Bytes that are taken to be sent, beyond what the socket takes.
const OUTPUT_BYTES: usize = 4 * RECORD_MAX;
/// The same for a cable. What comes beyond is lost (`net_cable.rs`), and a switch, which has these in place of one, would have had as much.
const CABLE_BYTES: usize = 2 * OUTPUT_BYTES;

/// Which words the other side may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    /// None: it is no machine or switch of Hostel's, or one that has said all.
    None,
    /// [`HELLO`], before anything else: a switch waits for it.
    Hello,
    /// [`HELLO`], behind frames that nobody wanted: a machine waits for the answer.
    Answer,
    /// What its driver does, and that it sends by a cable: a switch hears them.
    OfMachine,
    /// Of cables: a machine hears them.
    OfSwitch,
}

/// What the other side has said of cables.
#[derive(Debug)]
pub(super) enum Heard {
    /// The machine has sent its last here, and goes on by this cable.
    Moved(u8),
    /// Here is one, to a machine whose driver does this.
    Cable(OwnedFd, u8, u64),
    /// The next comes by this one.
    End(u8),
}

/// One end of such a stream.
#[derive(Debug)]
pub struct NetStream {
    /// `None` when the other side has gone.
    socket: Option<OwnedFd>,
    /// Bytes `start..end` of `input` have come and are not yet given on.
    input: Box<[u8]>,
    start: usize,
    end: usize,
    /// What was taken, with lengths; the first `sent` bytes have gone.
    output: Vec<u8>,
    sent: usize,
    /// Where in `output` what is being sent ends.
    piece_end: usize,
    /// A word that goes before the next frame, once there is room.
    word: Option<Word>,
    /// The socket gave all that it had the last time, so that it need not be asked again before it is waited for.
    drained: bool,
    /// The socket took no more the last time.
    blocked: bool,
    words: Words,
    /// Frames have their header, both ways.
    headers: bool,
    /// What the other machine's driver does itself; `None` until it has said so.
    does: Option<u64>,
    /// The last word of cables, until somebody asks; nothing behind it is looked at before.
    heard: Option<Heard>,
    /// The socket that came with what was read.
    passed: Option<OwnedFd>,
    /// Nothing can be sent any more. What has come can still be read.
    shut: bool,
    /// Bytes that are taken to be sent, beyond what the socket takes.
    output_max: usize,
}

impl NetStream {
    /// A port over `socket`, which is connected to something that says nothing but frames.
    pub fn new(socket: OwnedFd) -> NetStream {
        let input = vec![0; INPUT_BYTES].into_boxed_slice();
        NetStream {
            socket: Some(socket),
            input,
            start: 0,
            end: 0,
            output: Vec::new(),
            sent: 0,
            piece_end: 0,
            word: None,
            drained: false,
            blocked: false,
            words: Words::None,
            headers: false,
            does: None,
            heard: None,
            passed: None,
            shut: false,
            output_max: OUTPUT_BYTES,
        }
    }

    /// An end of a cable between two machines.
    pub(super) fn of_cable(socket: OwnedFd) -> NetStream {
        NetStream { headers: true, output_max: CABLE_BYTES, ..NetStream::new(socket) }
    }

    /// The switch's end: whoever is at the other may say that it is a machine of Hostel's.
    pub(super) fn of_switch(socket: OwnedFd) -> NetStream {
        NetStream { words: Words::Hello, ..NetStream::new(socket) }
    }

    /// The machine's end: says so, and waits for [`NetStream::is_greeted`].
    pub(super) fn to_switch(socket: OwnedFd) -> NetStream {
        let mut stream = NetStream { words: Words::Answer, ..NetStream::new(socket) };
        stream.output.extend(HELLO);
        stream.flush();
        stream
    }

    /// Whether the switch has answered. What comes before is for nobody.
    pub(super) fn is_greeted(&mut self) -> bool {
        while self.words == Words::Answer && self.peek().is_some() {
            self.take();
        }
        self.words == Words::OfSwitch
    }

    /// What the other machine's driver does itself, of the offloads.
    pub(super) fn does(&self) -> u64 {
        self.does.unwrap_or_default()
    }

    /// The same, if it is a machine whose driver has come.
    pub(super) fn driver_does(&self) -> Option<u64> {
        self.does
    }

    /// What was said of cables. Frames that came before were looked at before it.
    pub(super) fn heard(&mut self) -> Option<Heard> {
        self.heard.take()
    }

    /// Whether nothing can be sent any more.
    pub(super) fn is_shut(&self) -> bool {
        self.shut
    }

    /// Whether all that was taken has gone.
    pub(super) fn has_sent_all(&self) -> bool {
        self.pending() == 0
    }

    /// Says, behind all that was taken, that the other end of cable `number` has sent its last here.
    pub(super) fn say_end(&mut self, number: u8) {
        self.output.extend(Word::End(number).bytes());
    }

    /// Says that the next goes by cable `number`. False: there is something to be sent before, or no room now.
    pub(super) fn say_moved(&mut self, number: u8) -> bool {
        self.say(Word::Moved(number), &mut SendAncillaryBuffer::default())
    }

    /// Gives the machine its end of cable `number`, and what the driver at the other end does. False: as for [`NetStream::say_moved`].
    pub(super) fn give_cable(&mut self, number: u8, end: BorrowedFd<'_>, does: u64) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        let ends = [end];
        with.push(SendAncillaryMessage::ScmRights(&ends)) && self.say(Word::Cable(number, does), &mut with)
    }

    /// Sends a word past the output, which must be empty. A socket takes so few bytes whole or not at all.
    fn say(&self, word: Word, with: &mut SendAncillaryBuffer<'_, '_, '_>) -> bool {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let socket = self.socket.as_ref().filter(|_| self.has_sent_all());
        socket.is_some_and(|socket| sendmsg(socket, &[IoSlice::new(&word.bytes())], with, flags).is_ok())
    }

    /// Takes out the frames that have not gone, or not whole, as another stream with headers takes them.
    pub(super) fn unsent(&mut self) -> Vec<u8> {
        let start = self.record_begun();
        (self.sent, self.piece_end) = (0, 0);
        mem::take(&mut self.output).split_off(start)
    }

    /// Puts in what [`NetStream::unsent`] gave, whatever is there already.
    pub(super) fn put_records(&mut self, records: &[u8]) {
        self.output.extend(records);
    }

    /// Where in the output the record begins of which a part has gone; for a stream without words.
    fn record_begun(&self) -> usize {
        let mut start = 0;
        while let Some(length) = self.output[start..].first_chunk().map(|word| u32::from_be_bytes(*word) as usize) {
            if start + LENGTH_BYTES + length > self.sent {
                break;
            }
            start += LENGTH_BYTES + length;
        }
        start
    }

    fn hang_up(&mut self) {
        if let Some(socket) = self.socket.take() {
            // The other side hears of it at once, whoever holds this end too.
            let _ = shutdown(&socket, Shutdown::Both);
        }
        self.shut = true;
        (self.start, self.end) = (0, 0);
        self.word = None;
    }

    /// Length of the record at the front of the input behind its length, if it is there whole. Words before it are heard.
    fn whole_record(&mut self) -> Option<usize> {
        loop {
            if self.heard.is_some() {
                return None;
            }
            let there = &self.input[self.start..self.end];
            let word = u32::from_be_bytes(*there.first_chunk()?);
            let length = word as usize;
            let least = if self.headers { HEADER_BYTES } else { 0 };
            if word & WORD == 0 && (least..=least + FRAME_MAX - HEADER_BYTES).contains(&length) {
                if self.words == Words::Hello {
                    self.words = Words::None;
                }
                return (there.len() >= LENGTH_BYTES + length).then_some(length);
            }
            let words = self.words;
            match words {
                Words::Hello | Words::Answer if HELLO.starts_with(&there[..there.len().min(HELLO.len())]) => {
                    if there.len() < HELLO.len() {
                        return None;
                    }
                    self.start += HELLO.len();
                    self.headers = true;
                    if self.words == Words::Hello {
                        self.output.extend(HELLO);
                        self.flush();
                        self.words = Words::OfMachine;
                    } else {
                        self.words = Words::OfSwitch;
                    }
                }
                Words::OfMachine | Words::OfSwitch if self.hear(word) => self.start += LENGTH_BYTES,
                // No frame is that long: the stream is out of step for good.
                _ => {
                    self.hang_up();
                    return None;
                }
            }
        }
    }

    /// Hears a word of a machine or of a switch. False: neither says such a thing.
    fn hear(&mut self, word: u32) -> bool {
        match (self.words, Word::of(word.to_be_bytes())) {
            (Words::OfMachine, Some(Word::Does(features))) => self.does = Some(features),
            (Words::OfMachine, Some(Word::Moved(number))) => self.heard = Some(Heard::Moved(number)),
            (Words::OfSwitch, Some(Word::End(number))) => self.heard = Some(Heard::End(number)),
            (Words::OfSwitch, Some(Word::Cable(number, does))) => {
                let Some(end) = self.passed.take() else { return false };
                self.heard = Some(Heard::Cable(end, number, does));
            }
            _ => return false,
        }
        true
    }

    /// Reads what has come. False: nothing new.
    fn fill(&mut self) -> bool {
        let Some(socket) = &self.socket else { return false };
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = &mut self.input[self.end..];
        let read = match self.words {
            Words::OfSwitch => read_with_socket(socket, room, &mut self.passed),
            _ => recv(socket, room, RecvFlags::DONTWAIT).map(|(count, _)| count),
        };
        match read {
            Ok(0) => self.hang_up(),
            Ok(count) => {
                self.end += count;
                self.drained = self.end < self.input.len();
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.hang_up(),
        }
        false
    }

    /// Whether there is room for a frame of `bytes`, behind a word that waits. Sends on what is in its way, but does not ask a
    /// socket again that is full: who calls may have many frames for it.
    fn has_room(&mut self, bytes: usize) -> bool {
        if self.pending() + bytes > self.output_max && !self.blocked {
            self.flush();
        }
        if self.pending() + bytes > self.output_max {
            return false;
        }
        self.put_word();
        true
    }

    /// Where the next piece of the output ends: behind whole frames. To Hostel itself, all of it is one.
    fn next_piece(&self) -> usize {
        let mut end = self.sent;
        while let Some(word) = self.output[end..].first_chunk().filter(|_| !self.headers) {
            let length = u32::from_be_bytes(*word);
            let next = end + LENGTH_BYTES + length as usize;
            if length & WORD != 0 || (next - self.sent > PIECE_BYTES && end > self.sent) {
                break;
            }
            end = next;
        }
        if end > self.sent { end } else { self.output.len() }
    }

    fn put_word(&mut self) {
        if let Some(word) = self.word.take() {
            self.output.extend(word.bytes());
        }
    }

    /// Bytes that were taken and have not gone, a word that waits among them.
    fn pending(&self) -> usize {
        self.output.len() - self.sent + if self.word.is_some() { LENGTH_BYTES } else { 0 }
    }
}

impl NetPort for NetStream {
    fn features(&self) -> u64 {
        if self.headers { OFFLOADS } else { 0 }
    }

    fn start(&mut self, features: u64) {
        if self.headers {
            self.word = Some(Word::Does(features));
            self.flush();
        }
    }

    fn send(&mut self, header: &[u8; HEADER_BYTES], frame: &[u8]) -> Sent {
        if self.shut {
            return Sent::Taken;
        }
        let header = if self.headers { &header[..] } else { &[] };
        let length = header.len() + frame.len();
        if !self.has_room(LENGTH_BYTES + length) {
            return Sent::Full;
        }
        self.output.extend((length as u32).to_be_bytes());
        self.output.extend(header);
        self.output.extend(frame);
        Sent::Taken
    }

    fn flush(&mut self) {
        if self.shut {
            return;
        }
        if self.pending() <= self.output_max {
            self.put_word();
        }
        self.blocked = false;
        while self.sent < self.output.len() {
            if self.sent == self.piece_end {
                self.piece_end = self.next_piece();
            }
            let Some(socket) = &self.socket else { break };
            match send(socket, &self.output[self.sent..self.piece_end], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN | Errno::INTR) => {
                    self.blocked = true;
                    // What has gone is dropped when that is worth the move of the rest.
                    if self.sent >= self.output_max / 2 {
                        // Of a cable, from where its frames could be sent again.
                        let gone =
                            if self.words == Words::None && self.headers { self.record_begun() } else { self.sent };
                        self.output.drain(..gone);
                        (self.sent, self.piece_end) = (self.sent - gone, self.piece_end - gone);
                    }
                    return;
                }
                Err(_) => {
                    self.shut = true;
                    return;
                }
            }
        }
        self.output.clear();
        (self.sent, self.piece_end) = (0, 0);
    }

    fn peek(&mut self) -> Option<Arrived<'_>> {
        let length = match self.whole_record() {
            Some(length) => length,
            None if self.heard.is_some() || mem::take(&mut self.drained) || !self.fill() => return None,
            None => self.whole_record().or_else(|| {
                self.drained = false;
                None
            })?,
        };
        let record = &self.input[self.start + LENGTH_BYTES..][..length];
        match record.split_first_chunk().filter(|_| self.headers) {
            Some((header, frame)) => Some(Arrived { header, frame }),
            None => Some(Arrived { header: &NOTHING_LEFT, frame: record }),
        }
    }

    fn take(&mut self) {
        if let Some(length) = self.whole_record() {
            self.start += LENGTH_BYTES + length;
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    fn wants_room(&self) -> bool {
        self.sent < self.output.len() && !self.shut
    }
}

/// Reads what has come, and a socket that came with it.
fn read_with_socket(socket: &OwnedFd, room: &mut [u8], passed: &mut Option<OwnedFd>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut with = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let read = recvmsg(socket, &mut [IoSliceMut::new(room)], &mut with, flags)?.bytes;
    for message in with.drain() {
        if let RecvAncillaryMessage::ScmRights(sockets) = message {
            *passed = sockets.last().or(passed.take());
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::super::net_port::{GUEST_CSUM, GUEST_TSO6};
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> (NetStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (NetStream::new(ours.into()), theirs)
    }

    fn received(port: &mut NetStream) -> Option<Vec<u8>> {
        let arrived = port.peek()?;
        assert_eq!(arrived.header, &NOTHING_LEFT);
        let frame = arrived.frame.to_vec();
        port.take();
        Some(frame)
    }

    fn sent(port: &mut NetStream, frame: &[u8]) -> Sent {
        let sent = port.send(&NOTHING_LEFT, frame);
        port.flush();
        sent
    }

    #[test]
    fn frames_go_behind_their_length_and_come_in_pieces() {
        let (mut port, mut peer) = pair();
        assert_eq!(sent(&mut port, b"frame"), Sent::Taken);
        let mut got = [0; 9];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"\0\0\0\x05frame");
        peer.write_all(b"\0\0\0\x03one\0\0\0\x03t").unwrap();
        assert_eq!((received(&mut port), received(&mut port)), (Some(b"one".into()), None));
        peer.write_all(b"wo\0\0\0\0").unwrap();
        assert_eq!((received(&mut port), received(&mut port)), (Some(b"two".into()), Some(vec![])));
        assert_eq!(received(&mut port), None);
    }

    #[test]
    fn a_peer_that_stops_fills_up_and_gets_whole_frames_when_it_goes_on() {
        let (mut port, mut peer) = pair();
        let frame = [7; 60_000];
        let taken = (0..1000).take_while(|_| sent(&mut port, &frame) == Sent::Taken).count();
        assert!((1..1000).contains(&taken) && port.wants_room());
        for _ in 0..taken {
            let mut got = [0; LENGTH_BYTES + 60_000];
            let mut read = 0;
            while read < got.len() {
                port.flush();
                read += peer.read(&mut got[read..]).unwrap();
            }
            assert!(got.starts_with(&60_000u32.to_be_bytes()) && got[4..].iter().all(|&byte| byte == 7));
        }
        assert!(!port.wants_room());
    }

    /// A peer that loses its place where what it reads ends within a length, and a socket that is full at any moment.
    #[test]
    fn what_has_gone_to_a_stranger_ends_with_a_frame() {
        let (mut port, mut peer) = pair();
        peer.set_nonblocking(true).unwrap();
        let record = LENGTH_BYTES + 1514;
        let mut got = vec![0; 1 << 20];
        for _ in 0..5 {
            (0..1000).take_while(|_| port.send(&NOTHING_LEFT, &[7; 1514]) == Sent::Taken).for_each(drop);
            port.flush();
            assert!(port.wants_room());
            let (mut total, start) = (0, (1514u32).to_be_bytes());
            while let Ok(count) = peer.read(&mut got[total..]) {
                total += count;
            }
            assert_eq!(total % record, 0);
            assert!(total > PIECE_BYTES && got[..total].chunks(record).all(|record| record.starts_with(&start)));
        }
        // One that is longer than a piece goes alone.
        let (mut port, mut peer) = pair();
        port.send(&NOTHING_LEFT, &[1; 100]);
        port.send(&NOTHING_LEFT, &[2; 60_000]);
        port.send(&NOTHING_LEFT, &[3; 100]);
        assert_eq!(port.next_piece(), LENGTH_BYTES + 100);
        port.flush();
        peer.read_exact(&mut got[..3 * LENGTH_BYTES + 60_200]).unwrap();
        assert_eq!((got[3 * LENGTH_BYTES + 60_199], port.wants_room()), (3, false));
    }

    #[test]
    fn sec42_a_length_that_no_frame_has_and_a_peer_that_left_end_the_port() {
        let (mut port, mut peer) = pair();
        peer.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert_eq!((received(&mut port), port.fd().is_none()), (None, true));
        let (mut port, peer) = pair();
        drop(peer);
        assert_eq!((received(&mut port), port.fd().is_none()), (None, true));
        assert_eq!(sent(&mut port, &[0; 100]), Sent::Taken, "as into a cable that was pulled");
        assert!(!port.wants_room());
    }

    #[test]
    fn a_machine_and_a_switch_agree_on_headers_and_a_qemu_hears_none_of_it() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut switch, mut machine) = (NetStream::of_switch(ours.into()), NetStream::to_switch(theirs.into()));
        // A frame that the switch passed on before it knew with whom it speaks.
        assert_eq!(sent(&mut switch, b"early"), Sent::Taken);
        assert!(!machine.is_greeted());
        assert_eq!(received(&mut switch), None, "a greeting is no frame");
        assert!(machine.is_greeted());
        assert_eq!((machine.features(), switch.does()), (OFFLOADS, 0));
        machine.start(GUEST_CSUM | GUEST_TSO6 | 1 << 40);
        let header = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        machine.send(&header, b"to the switch");
        machine.flush();
        assert_eq!(switch.peek(), Some(Arrived { header: &header, frame: b"to the switch" }));
        assert_eq!(switch.does(), GUEST_CSUM | GUEST_TSO6);
        switch.take();
        assert_eq!(switch.peek(), None, "it had all that was there");
        switch.send(&header, b"back");
        switch.flush();
        assert_eq!(machine.peek(), Some(Arrived { header: &header, frame: b"back" }));
        machine.start(0);
        assert_eq!((received(&mut switch), switch.does()), (None, 0));

        let (ours, mut qemu) = UnixStream::pair().unwrap();
        let mut switch = NetStream::of_switch(ours.into());
        qemu.write_all(b"\0\0\0\x05plain").unwrap();
        assert_eq!(received(&mut switch), Some(b"plain".into()));
        sent(&mut switch, b"so");
        let mut got = [0; 6];
        qemu.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"\0\0\0\x02so");
    }

    #[test]
    fn words_out_of_their_place_end_the_port() {
        let ends = |make: fn(OwnedFd) -> NetStream, bytes: &[u8]| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut port = make(ours.into());
            theirs.write_all(bytes).unwrap();
            while received(&mut port).is_some() {}
            port.fd().is_none()
        };
        assert!(!ends(NetStream::of_switch, b"\xffhos") && !ends(NetStream::of_switch, &HELLO));
        assert!(ends(NetStream::new, &HELLO), "nobody asked");
        assert!(ends(NetStream::of_switch, b"\xffhostel\x01"), "another version");
        assert!(ends(NetStream::of_switch, b"\x80\0\0\x01"), "not greeted");
        assert!(ends(NetStream::of_switch, b"\0\0\0\x01x\xffhostel\x02"), "too late");
        let greeted = |more: &[u8]| ends(NetStream::of_switch, &[&HELLO, more].concat());
        assert!(!greeted(b"\x80\0\0\x07\x80\0\0\0") && greeted(b"\x80\0\0\x08") && greeted(&HELLO));
        assert!(greeted(b"\0\0\0\x0bshort headr"), "shorter than a header");
        // Of cables: a machine says where it goes on, a switch gives a socket.
        assert!(!greeted(b"\x81\0\0\x05") && greeted(b"\x81\0\x01\x05"));
        assert!(greeted(b"\x82\0\x07\x05") && greeted(b"\x83\0\0\x05") && greeted(b"\x84\0\0\x05"));
        let answered = |more: &[u8]| ends(NetStream::to_switch, &[&HELLO, more].concat());
        assert!(!answered(b"\x83\0\0\x05") && answered(b"\x83\0\x01\x05"));
        assert!(answered(b"\x82\0\x07\x05"), "without its socket");
        assert!(answered(b"\x81\0\0\x05") && answered(b"\x80\0\0\x05"));
    }
}
