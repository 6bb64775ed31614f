//! Frames over a stream socket, each behind its length: the protocol of passt and of QEMU's `-netdev stream`.
//!
//! Length: 4 bytes, big-endian, of the frame without any virtio header. No offloads.
//! Source: passt(1) "--socket", which names QEMU's protocol.

use super::net_port::{FRAME_MAX, HEADER_BYTES, NetPort, Sent};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of a length.
const LENGTH_BYTES: usize = 4;
/// Bytes that are read at once, and kept until they are whole frames.
const BUFFER_BYTES: usize = 2 * (FRAME_MAX + LENGTH_BYTES);

/// One end of such a stream.
#[derive(Debug)]
pub struct NetStream {
    /// `None` when the other side has gone.
    socket: Option<OwnedFd>,
    /// Bytes `start..end` of `input` have come and are not yet given on.
    input: Box<[u8]>,
    start: usize,
    end: usize,
    /// What is left of a frame that was sent in part, with its length before it.
    unsent: Vec<u8>,
}

impl NetStream {
    /// A port over `socket`, which is connected.
    pub fn new(socket: OwnedFd) -> NetStream {
        let input = vec![0; BUFFER_BYTES].into_boxed_slice();
        NetStream { socket: Some(socket), input, start: 0, end: 0, unsent: Vec::new() }
    }

    /// Sends what is left of a frame. False: there is no room for it yet.
    pub(super) fn flush(&mut self) -> bool {
        while !self.unsent.is_empty() {
            let Some(socket) = &self.socket else {
                self.unsent.clear();
                return true;
            };
            match send(socket, &self.unsent, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => return false,
                Err(_) => self.hang_up(),
            }
        }
        true
    }

    fn hang_up(&mut self) {
        self.socket = None;
        (self.start, self.end) = (0, 0);
    }

    /// Length of the frame at the front of the input, if it is there whole.
    fn whole_frame(&mut self) -> Option<usize> {
        let there = &self.input[self.start..self.end];
        let length = u32::from_be_bytes(there.get(..LENGTH_BYTES)?.try_into().expect("four bytes")) as usize;
        if length > FRAME_MAX - HEADER_BYTES {
            // No frame is that long: the stream is out of step for good.
            self.hang_up();
            return None;
        }
        (there.len() >= LENGTH_BYTES + length).then_some(length)
    }

    /// Reads what has come. False: nothing new.
    fn fill(&mut self) -> bool {
        let Some(socket) = &self.socket else { return false };
        self.input.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        match recv(socket, &mut self.input[self.end..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.hang_up(),
            Ok((count, _)) => {
                self.end += count;
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.hang_up(),
        }
        false
    }
}

impl NetPort for NetStream {
    fn send(&mut self, frame: &[u8]) -> Sent {
        if !self.flush() {
            return Sent::Full;
        }
        let frame = &frame[HEADER_BYTES..];
        self.unsent.extend((frame.len() as u32).to_be_bytes());
        self.unsent.extend(frame);
        self.flush();
        Sent::Taken
    }

    fn receive(&mut self, frame: &mut [u8]) -> Option<usize> {
        let length = match self.whole_frame() {
            Some(length) => length,
            None if self.fill() => self.whole_frame()?,
            None => return None,
        };
        let start = self.start + LENGTH_BYTES;
        frame[..HEADER_BYTES].fill(0);
        frame[HEADER_BYTES..][..length].copy_from_slice(&self.input[start..start + length]);
        self.start = start + length;
        Some(HEADER_BYTES + length)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    fn wants_room(&self) -> bool {
        !self.unsent.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> (NetStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (NetStream::new(ours.into()), theirs)
    }

    fn received(port: &mut NetStream) -> Option<Vec<u8>> {
        let mut frame = vec![0xaa; FRAME_MAX];
        let length = port.receive(&mut frame)?;
        assert_eq!(frame[..HEADER_BYTES], [0; HEADER_BYTES]);
        Some(frame[HEADER_BYTES..length].to_vec())
    }

    #[test]
    fn frames_go_behind_their_length_and_come_in_pieces() {
        let (mut port, mut peer) = pair();
        assert_eq!(port.send(b"____________frame"), Sent::Taken);
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
        let frame = [7; HEADER_BYTES + 60_000];
        let taken = (0..1000).take_while(|_| port.send(&frame) == Sent::Taken).count();
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

    #[test]
    fn sec42_a_length_that_no_frame_has_and_a_peer_that_left_end_the_port() {
        let (mut port, mut peer) = pair();
        peer.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert_eq!((received(&mut port), port.fd().is_none()), (None, true));
        let (mut port, peer) = pair();
        drop(peer);
        assert_eq!((received(&mut port), port.fd().is_none()), (None, true));
        assert_eq!(port.send(&[0; 100]), Sent::Taken, "as into a cable that was pulled");
    }
}
