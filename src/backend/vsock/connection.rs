//! One connection between a socket of the host and one of the guest: bytes both ways, each side with the room that the other
//! grants, and an end of each direction by itself.
//!
//! What the guest sends waits here while the host's reader is slow, up to [`BUFFER_BYTES`]; what the host sends stays in its
//! socket until the guest has room. Counters are those of the protocol, modulo 2^32; no difference of them is trusted.
//! Source: virtio 1.2 §5.10.6.3 (buffer space), §5.10.6.6 (data transfer), unix(7).

use super::packet::{BOTH, Header, Op, RECEIVE, SEND};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes from the guest that may wait for the host's reader, as the guest is told.
pub const BUFFER_BYTES: u32 = 128 << 10;
/// The guest is told of new room once it knows of less than this.
const ROOM_LOW: u32 = BUFFER_BYTES / 2;
/// Longest line with which a process of the host may begin: `CONNECT 4294967295`, spaces and the end of the line.
const GREETING_MAX: usize = 32;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A process of the host has not yet said which port it wants.
    Greeting,
    /// The guest is asked.
    Requested,
    /// Bytes go.
    Open,
    /// The guest has done with it; the host's reader gets what is left.
    Draining,
}

/// It cannot go on: the other side is told by a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// A packet for the guest, without what all packets of a connection have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What it does.
    pub op: Op,
    /// Flags of a SHUTDOWN.
    pub flags: u32,
    /// Bytes of data.
    pub len: u32,
}

/// The connection.
#[derive(Debug)]
pub struct Connection {
    /// How far it is.
    pub phase: Phase,
    /// It is among those that have something for the guest.
    pub queued: bool,
    /// `None` when the host's side has gone.
    socket: Option<OwnedFd>,
    /// What the guest is to be told, a bit an operation.
    due: u16,
    /// The socket may have bytes; may take them; its other side has gone.
    readable: bool,
    writable: bool,
    hung_up: bool,
    /// What each side has said that it does no more: [`RECEIVE`], [`SEND`].
    host_shut: u32,
    guest_shut: u32,
    /// The host's process was told that the guest sends no more.
    ended: bool,
    /// Bytes sent to the guest, those of them that left its buffer, and the size of that.
    sent: u32,
    consumed: u32,
    guest_buffer: u32,
    /// The guest was asked for room, and has given none yet.
    asked: bool,
    /// Bytes from the guest that the socket has not taken.
    waiting: VecDeque<u8>,
    /// Bytes that came from the guest, and those that it knows to have left `waiting`.
    received: u32,
    told: u32,
}

impl Connection {
    /// A connection over `socket`, which never blocks.
    pub fn new(socket: OwnedFd, phase: Phase) -> Connection {
        Connection {
            phase,
            queued: false,
            socket: Some(socket),
            due: 0,
            readable: true,
            writable: true,
            hung_up: false,
            host_shut: 0,
            guest_shut: 0,
            ended: false,
            sent: 0,
            consumed: 0,
            guest_buffer: 0,
            asked: false,
            waiting: VecDeque::new(),
            received: 0,
            told: 0,
        }
    }

    /// The host's socket.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// What epoll(7) says of the socket.
    pub fn notice(&mut self, flags: EventFlags) {
        let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        self.readable |= gone || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        self.writable |= gone || flags.contains(EventFlags::OUT);
        self.hung_up |= gone;
        if self.hung_up && (self.host_shut | self.guest_shut << 1) & SEND != 0 {
            // Nothing is left to be read there, or nobody to read it for.
            self.shut_host(BOTH);
        }
    }

    /// The other side of the socket has gone.
    pub fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    /// The guest is to be told.
    pub fn owe(&mut self, op: Op) {
        self.due |= 1 << op as u16;
    }

    /// Whether the guest is still to be told.
    pub fn owes(&self, op: Op) -> bool {
        self.due & 1 << op as u16 != 0
    }

    /// Whether there is, or may be, something for the guest.
    pub fn has_something(&self) -> bool {
        self.due != 0 || self.may_read() && (self.room() > 0 || !self.asked)
    }

    /// The host's side has gone and the guest knows: only its answer is missing.
    pub fn lingers(&self) -> bool {
        self.socket.is_none()
    }

    /// Bytes that wait for the host's reader.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes over what the guest says of its buffer. A count that is not between the last one and what was sent is an old one.
    pub fn learn(&mut self, header: &Header) {
        self.guest_buffer = header.buf_alloc;
        if header.fwd_cnt.wrapping_sub(self.consumed) <= self.sent.wrapping_sub(self.consumed) {
            self.consumed = header.fwd_cnt;
        }
        if self.room() > 0 {
            self.asked = false;
        }
    }

    /// Bytes that the guest has room for.
    fn room(&self) -> u32 {
        self.guest_buffer.saturating_sub(self.sent.wrapping_sub(self.consumed))
    }

    fn may_read(&self) -> bool {
        let open = self.phase == Phase::Open && self.socket.is_some();
        open && self.readable && self.host_shut & SEND == 0 && self.guest_shut & RECEIVE == 0
    }

    /// Takes data from the guest.
    ///
    /// # Errors
    /// The guest sends more than it has room for, or after it said that it would not.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let fits = self.waiting.len() + bytes.len() <= BUFFER_BYTES as usize;
        if !fits || self.guest_shut & SEND != 0 {
            return Err(Broken);
        }
        self.received = self.received.wrapping_add(bytes.len() as u32);
        // Straight on, where nothing waits before it.
        let direct = if self.waiting.is_empty() { self.write(bytes) } else { 0 };
        if self.host_shut & RECEIVE == 0 {
            self.waiting.extend(&bytes[direct..]);
        }
        self.flush();
        Ok(())
    }

    /// Gives the host's reader what it takes. Then the guest may have room again, and an end that the guest announced is passed on.
    pub fn flush(&mut self) {
        while !self.waiting.is_empty() {
            let mut waiting = std::mem::take(&mut self.waiting);
            let count = self.write(waiting.as_slices().0);
            waiting.drain(..count);
            self.waiting = waiting;
            if self.host_shut & RECEIVE != 0 {
                self.waiting = VecDeque::new();
            }
            if count == 0 {
                break;
            }
        }
        if self.waiting.is_empty() {
            // A burst's memory is given back.
            self.waiting = VecDeque::new();
            if self.guest_shut & SEND != 0
                && !self.ended
                && let Some(socket) = &self.socket
            {
                // Once: each time is an event of this socket, after which all of this is done again.
                self.ended = true;
                // One that is closed already needs no end.
                let _ = shutdown(socket, Shutdown::Write);
            }
        }
        let known_room = BUFFER_BYTES.saturating_sub(self.received.wrapping_sub(self.told));
        if known_room < ROOM_LOW && self.told != self.forwarded() && self.phase == Phase::Open {
            self.owe(Op::CreditUpdate);
        }
    }

    /// Bytes that the socket takes of these.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while let Some(socket) = self.socket.as_ref().filter(|_| self.writable && done < bytes.len()) {
            match send(socket, &bytes[done..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => done += count,
                Err(Errno::AGAIN) => self.writable = false,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.writable = false;
                    self.shut_host(RECEIVE);
                }
            }
        }
        done
    }

    /// Bytes from the guest that are here no more.
    fn forwarded(&self) -> u32 {
        self.received.wrapping_sub(self.waiting.len() as u32)
    }

    /// The guest will not receive or send any more.
    pub fn shut_guest(&mut self, directions: u32) {
        self.guest_shut |= directions & BOTH;
        if self.guest_shut & RECEIVE != 0
            && let Some(socket) = &self.socket
        {
            let _ = shutdown(socket, Shutdown::Read);
        }
        self.flush();
    }

    /// Whether the guest has done with both directions.
    pub fn guest_is_done(&self) -> bool {
        self.guest_shut == BOTH
    }

    fn shut_host(&mut self, directions: u32) {
        if self.phase == Phase::Open && self.host_shut | directions != self.host_shut {
            self.owe(Op::Shutdown);
        }
        self.host_shut |= directions;
    }

    /// The next packet for the guest; its data goes to the front of `payload`, which is not empty.
    ///
    /// # Errors
    /// The host's socket failed.
    pub fn next(&mut self, payload: &mut [u8]) -> Result<Option<Packet>, Broken> {
        let packet = |op, flags, len| Ok(Some(Packet { op, flags, len }));
        for op in [Op::Request, Op::Response] {
            if self.owes(op) {
                self.due &= !(1 << op as u16);
                return packet(op, 0, 0);
            }
        }
        if self.may_read() {
            match self.room() {
                0 if !self.asked => {
                    self.asked = true;
                    self.owe(Op::CreditRequest);
                }
                0 => {}
                room => {
                    let limit = payload.len().min(room as usize);
                    if let Some(count @ 1..) = self.read(&mut payload[..limit])? {
                        self.sent = self.sent.wrapping_add(count);
                        return packet(Op::Data, 0, count);
                    }
                }
            }
        }
        for op in [Op::Shutdown, Op::CreditUpdate, Op::CreditRequest] {
            if self.owes(op) {
                self.due &= !(1 << op as u16);
                let flags = if op == Op::Shutdown { self.host_shut } else { 0 };
                if flags == BOTH {
                    // Nobody is left there.
                    (self.socket, self.waiting) = (None, VecDeque::new());
                }
                return packet(op, flags, 0);
            }
        }
        Ok(None)
    }

    /// Reads what the host sends; `None` if nothing is there, 0 at the end.
    fn read(&mut self, bytes: &mut [u8]) -> Result<Option<u32>, Broken> {
        let Some(socket) = &self.socket else { return Ok(None) };
        match recv(socket, bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                self.shut_host(if self.hung_up { BOTH } else { SEND });
                Ok(Some(0))
            }
            Ok((count, _)) => Ok(Some(count as u32)),
            Err(Errno::AGAIN) => {
                self.readable = false;
                Ok(None)
            }
            Err(Errno::INTR) => Ok(None),
            Err(_) => Err(Broken),
        }
    }

    /// What this side says of its buffer: its size, and the count of bytes that left it. The guest knows then.
    pub fn tell(&mut self) -> (u32, u32) {
        self.due &= !(1 << Op::CreditUpdate as u16);
        self.told = self.forwarded();
        (BUFFER_BYTES, self.told)
    }

    /// The port in the line `CONNECT port` with which a process of the host begins; `None` if it has not come yet. What follows
    /// the line stays in the socket.
    ///
    /// # Errors
    /// It begins otherwise, or has gone.
    pub fn greeting(&mut self) -> Result<Option<u32>, Broken> {
        let Some(socket) = &self.socket else { return Err(Broken) };
        let mut line = [0; GREETING_MAX];
        let seen = match recv(socket, &mut line, RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Ok((seen, _)) => seen,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => return Err(Broken),
        };
        let Some(end) = line[..seen].iter().position(|byte| *byte == b'\n') else {
            return if self.hung_up || seen == GREETING_MAX { Err(Broken) } else { Ok(None) };
        };
        recv(socket, &mut line[..=end], RecvFlags::DONTWAIT).map_err(|_| Broken)?;
        let line = str::from_utf8(&line[..end]).map_err(|_| Broken)?;
        let mut words = line.split_ascii_whitespace();
        let port = words.next().filter(|word| word.eq_ignore_ascii_case("CONNECT")).and_then(|_| words.next());
        let port = port.filter(|_| words.next().is_none()).and_then(|port| port.parse().ok());
        port.ok_or(Broken).map(Some)
    }

    /// The guest has taken the connection: tells the host's process, with the port that it has there.
    ///
    /// # Errors
    /// It has gone.
    pub fn accept(&mut self, host_port: u32) -> Result<(), Broken> {
        self.phase = Phase::Open;
        let line = format!("OK {host_port}\n");
        if self.write(line.as_bytes()) == line.len() { Ok(()) } else { Err(Broken) }
    }
}
