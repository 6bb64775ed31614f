//! Sending and receiving by sockets: sendto(2), recvfrom(2), sendmsg(2), recvmsg(2), sendmmsg(2), recvmmsg(2).
//!
//! A message's header is copied once, and its pieces are those of readv(2) and writev(2). Leaves out control messages: files and
//! credentials are not passed (EOPNOTSUPP), and none is told. Sources: send(2), recv(2), sendmmsg(2), recvmmsg(2); Linux `net/socket.c`.

use super::address::{self, Address};
use super::call::{Answer, Arguments};
use super::time::limit;
use super::transfer::{self, Piece};
use crate::process::files::OpenFile;
use crate::process::sockets::Destination;
use crate::process::task::Task;
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags, SocketAddrAny, SocketType, recvmsg as host_recvmsg,
    sockopt::socket_type,
};
use std::sync::Arc;
use std::time::Instant;

/// Bytes of `struct msghdr`, and of `struct mmsghdr`, which has the length of what was transferred behind it.
const HEADER: usize = 56;
const HEADERS: u64 = 64;
/// Most messages of one call (Linux UIO_MAXIOV).
const MESSAGES_MAX: u64 = 1024;
/// Most bytes of control messages that are looked at (Linux `net.core.optmem_max` at first).
const CONTROL_MAX: u64 = 20_480;
/// MSG_WAITFORONE of recvmmsg(2).
const WAIT_FOR_ONE: u64 = 0x1_0000;

/// Flags that are passed on; Linux does not look at those that it does not know.
const SENT: SendFlags = SendFlags::OOB
    .union(SendFlags::DONTROUTE)
    .union(SendFlags::DONTWAIT)
    .union(SendFlags::EOR)
    .union(SendFlags::CONFIRM)
    .union(SendFlags::MORE);
const RECEIVED: RecvFlags = RecvFlags::OOB
    .union(RecvFlags::PEEK)
    .union(RecvFlags::TRUNC)
    .union(RecvFlags::DONTWAIT)
    .union(RecvFlags::ERRQUEUE)
    .union(RecvFlags::WAITALL)
    .union(RecvFlags::CMSG_CLOEXEC);
/// MSG_ZEROCOPY and MSG_FASTOPEN, without which a message would be another.
const REFUSED: u64 = 0x400_0000 | 0x2000_0000;

/// A message's header, `struct msghdr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    name: u64,
    name_size: u64,
    pieces: u64,
    count: u64,
    control: u64,
    control_size: u64,
}

impl Header {
    /// # Errors
    /// EFAULT; EINVAL, EMSGSIZE: no such sizes.
    fn read(task: &Task, address: u64) -> Result<Header, Errno> {
        Header::parse(&task.read(address)?)
    }

    fn parse(bytes: &[u8; HEADER]) -> Result<Header, Errno> {
        let words = bytes.as_chunks::<8>().0;
        let [name, name_size, pieces, count, control, control_size, _flags] =
            std::array::from_fn(|index| u64::from_le_bytes(words[index]));
        if (name_size as i32) < 0 {
            return Err(Errno::INVAL);
        }
        if count > MESSAGES_MAX {
            return Err(Errno::MSGSIZE);
        }
        // Four bytes of size, four that mean nothing.
        let name_size = (name_size & 0xffff_ffff).min(128);
        Ok(Header { name, name_size, pieces, count, control, control_size })
    }
}

/// sendto(2), send(2).
pub fn sendto(task: &mut Task, [fd, buffer, size, flags, name, name_size]: Arguments) -> Answer {
    let socket = task.file(fd)?;
    let to = if name == 0 { None } else { Some(address::read(task, name, name_size)?) };
    send(task, &socket, &[(buffer, size)], flags, to)
}

/// sendmsg(2).
pub fn sendmsg(task: &mut Task, [fd, message, flags, ..]: Arguments) -> Answer {
    let socket = task.file(fd)?;
    send_one(task, &socket, message, flags)
}

/// sendmmsg(2).
pub fn sendmmsg(task: &mut Task, [fd, messages, count, flags, ..]: Arguments) -> Answer {
    let socket = task.file(fd)?;
    let count = (count & 0xffff_ffff).min(MESSAGES_MAX);
    for index in 0..count {
        let message = messages.wrapping_add(index * HEADERS);
        let sent = send_one(task, &socket, message, flags).and_then(|sent| note_size(task, message, sent));
        if let Err(error) = sent {
            return if index > 0 { Ok(index) } else { Err(error) };
        }
    }
    Ok(count)
}

/// Writes behind the header of a `struct mmsghdr` how many bytes its message had.
fn note_size(task: &Task, message: u64, size: u64) -> Result<(), Errno> {
    task.write(message.wrapping_add(HEADER as u64), &(size as u32).to_le_bytes())
}

fn send_one(task: &mut Task, socket: &Arc<OpenFile>, message: u64, flags: u64) -> Answer {
    let header = Header::read(task, message)?;
    let to = match header {
        Header { name: 0, .. } | Header { name_size: 0, .. } => None,
        Header { name, name_size, .. } => Some(address::read(task, name, name_size)?),
    };
    let pieces = transfer::pieces(task, header.pieces, header.count)?;
    check_control(task, header.control, header.control_size)?;
    send(task, socket, &pieces, flags, to)
}

/// Control messages: none may be there, but they may be wrong.
///
/// # Errors
/// EFAULT; EINVAL: one is longer than all, or than there is; EOPNOTSUPP; ENOBUFS: more than are looked at.
fn check_control(task: &Task, address: u64, size: u64) -> Result<(), Errno> {
    /// Bytes of `struct cmsghdr`: without them there is no message.
    const LEAST: u64 = 16;
    if address == 0 || size < LEAST {
        return Ok(());
    }
    if size > CONTROL_MAX {
        return Err(Errno::NOBUFS);
    }
    let length = u64::from_le_bytes(task.read(address)?);
    task.read_vec(address, size as usize)?;
    if (LEAST..=size).contains(&length) { Err(Errno::OPNOTSUPP) } else { Err(Errno::INVAL) }
}

/// Sends the bytes of `pieces`: on a stream as far as they go, else as one message.
fn send(task: &mut Task, socket: &OpenFile, pieces: &[Piece], flags: u64, to: Option<Address>) -> Answer {
    if flags & REFUSED != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    let is_stream = socket_type(socket.fd())? == SocketType::STREAM;
    let to = to.map(|to| address::destination(task, socket, to)).transpose()?;
    // The signal is Hostel's to send.
    let host_flags = SendFlags::from_bits_truncate(flags as u32) & SENT | SendFlags::NOSIGNAL;
    let write = |buffer: &[u8]| match &to {
        Some(Destination { address, .. }) => rustix::net::sendto(socket.fd(), buffer, host_flags, address),
        None => rustix::net::send(socket.fd(), buffer, host_flags),
    };
    let sent = if is_stream {
        transfer::drain(task, socket, pieces, |buffer, _| write(buffer))
    } else {
        whole(task, pieces).and_then(|message| write(&message)).map(|sent| sent as u64)
    };
    sent.inspect_err(|error| {
        if flags & libc::MSG_NOSIGNAL as u64 == 0 {
            transfer::signal_broken(task, socket, *error);
        }
    })
}

/// The bytes of all pieces.
///
/// # Errors
/// EFAULT; EMSGSIZE: more than any message has.
fn whole(task: &Task, pieces: &[Piece]) -> Result<Vec<u8>, Errno> {
    let wanted = transfer::wanted(pieces)?;
    if wanted > transfer::CHUNK as u64 {
        return Err(Errno::MSGSIZE);
    }
    let mut message = vec![0; wanted as usize];
    let there = transfer::gather(task, pieces, 0, &mut message);
    if there < message.len() { Err(Errno::FAULT) } else { Ok(message) }
}

/// What was received.
struct Received {
    count: u64,
    flags: ReturnFlags,
    from: Option<SocketAddrAny>,
}

/// recvfrom(2), recv(2).
pub fn recvfrom(task: &mut Task, [fd, buffer, size, flags, name, name_size]: Arguments) -> Answer {
    let socket = task.file(fd)?;
    let received = receive(task, &socket, &[(buffer, size)], flags)?;
    if name != 0 {
        address::tell(task, received.from.as_ref(), name, name_size)?;
    }
    Ok(received.count)
}

/// recvmsg(2).
pub fn recvmsg(task: &mut Task, [fd, message, flags, ..]: Arguments) -> Answer {
    let socket = task.file(fd)?;
    receive_one(task, &socket, message, flags)
}

/// recvmmsg(2); the time is looked at behind each message, as Linux does.
pub fn recvmmsg(task: &mut Task, [fd, messages, count, flags, timeout, _]: Arguments) -> Answer {
    let limit = limit(task, timeout)?;
    let socket = task.file(fd)?;
    let (start, mut flags) = (Instant::now(), flags);
    let count = (count & 0xffff_ffff).min(MESSAGES_MAX);
    for index in 0..count {
        let message = messages.wrapping_add(index * HEADERS);
        let received = receive_one(task, &socket, message, flags & !WAIT_FOR_ONE);
        if let Err(error) = received.and_then(|received| note_size(task, message, received)) {
            return if index > 0 { Ok(index) } else { Err(error) };
        }
        if flags & WAIT_FOR_ONE != 0 {
            flags |= libc::MSG_DONTWAIT as u64;
        }
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            return Ok(index + 1);
        }
    }
    Ok(count)
}

fn receive_one(task: &Task, socket: &Arc<OpenFile>, message: u64, flags: u64) -> Answer {
    /// Where in the header the size of the name, that of control messages and the flags are.
    const NAME_SIZE: u64 = 8;
    const CONTROL_SIZE: u64 = 40;
    let header = Header::read(task, message)?;
    let pieces = transfer::pieces(task, header.pieces, header.count)?;
    let received = receive(task, socket, &pieces, flags)?;
    if header.name != 0 {
        let shown = received.from.as_ref().map(|from| task.world.sockets.shown(from)).unwrap_or_default();
        task.write(header.name, &shown[..shown.len().min(header.name_size as usize)])?;
        task.write(message + NAME_SIZE, &(shown.len() as u32).to_le_bytes())?;
    }
    // No control messages; then the flags.
    let end = [0u64.to_le_bytes(), u64::from(received.flags.bits()).to_le_bytes()].concat();
    task.write(message + CONTROL_SIZE, &end[..12])?;
    Ok(received.count)
}

/// Fills `pieces`: with one message, or with what a stream has, or all that they take of it with MSG_WAITALL.
fn receive(task: &Task, socket: &OpenFile, pieces: &[Piece], flags: u64) -> Result<Received, Errno> {
    let host_flags = RecvFlags::from_bits_truncate(flags as u32) & RECEIVED;
    let goes_on = host_flags.contains(RecvFlags::WAITALL)
        && !host_flags.contains(RecvFlags::PEEK)
        && socket_type(socket.fd())? == SocketType::STREAM;
    let wanted = transfer::wanted(pieces)?;
    let mut buffer = vec![0; (wanted as usize).min(transfer::CHUNK)];
    let mut done = 0;
    loop {
        let chunk = ((wanted - done) as usize).min(transfer::CHUNK);
        let room = transfer::room(task, pieces, done, chunk);
        let result = if room == 0 && chunk > 0 {
            Err(Errno::FAULT)
        } else {
            let mut none = RecvAncillaryBuffer::default();
            host_recvmsg(socket.fd(), &mut [IoSliceMut::new(&mut buffer[..room])], &mut none, host_flags)
        };
        let message = match result {
            Err(_) if done > 0 => return Ok(Received { count: done, flags: ReturnFlags::empty(), from: None }),
            result => result?,
        };
        transfer::scatter(task, pieces, done, &buffer[..message.bytes.min(room)])?;
        done += message.bytes as u64;
        if !(goes_on && message.bytes == room && done < wanted) {
            return Ok(Received { count: done, flags: message.flags, from: message.address });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::{Bench, DATA, DATA_SIZE, FORBIDDEN, READ_ONLY};
    use crate::process::syscall::{open, sockets};
    use proptest::prelude::*;

    /// Runs `what` in a program that has two connected sockets of this type, numbers 0 and 1.
    fn with_pair(kind: i32, what: impl FnOnce(&mut Task)) {
        let mut bench = Bench::new(&std::env::temp_dir(), false, false, &[]);
        let task = bench.task(0).unwrap();
        let kind = (kind | libc::SOCK_NONBLOCK) as u64;
        assert_eq!(sockets::socketpair(task, [libc::AF_UNIX as u64, kind, 0, DATA, 0, 0]), Ok(0));
        assert_eq!(task.read(DATA), Ok([0, 0, 0, 0, 1, 0, 0, 0]));
        what(task);
        for fd in 0..2 {
            assert_eq!(open::close(task, [fd, 0, 0, 0, 0, 0]), Ok(0));
        }
        bench.finish();
    }

    fn words(task: &Task, address: u64, words: &[u64]) {
        task.write(address, words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>().as_slice()).unwrap();
    }

    #[test]
    fn messages_go_from_pieces_to_pieces_and_are_cut_where_there_is_no_room() {
        with_pair(libc::SOCK_DGRAM, |task| {
            task.write(DATA, b"onetwo").unwrap();
            words(task, DATA + 0x100, &[DATA, 3, DATA + 3, 3, DATA + 0x800, 2, DATA + 0x900, 2]);
            words(task, DATA + 0x200, &[0, 0, DATA + 0x100, 2, 0, 0, 7]);
            words(task, DATA + 0x300, &[DATA + 0xa00, 110, DATA + 0x120, 2, DATA, 64, 7]);
            assert_eq!(sendmsg(task, [0, DATA + 0x200, 0, 0, 0, 0]), Ok(6));
            assert_eq!(recvmsg(task, [1, DATA + 0x300, 0, 0, 0, 0]), Ok(4));
            assert_eq!((task.read(DATA + 0x800), task.read(DATA + 0x900)), (Ok(*b"on"), Ok(*b"et")));
            assert_eq!(task.read_u64(DATA + 0x308).unwrap() as u32, 0, "the other end has no name");
            assert_eq!(task.read_u64(DATA + 0x328), Ok(0), "no control messages");
            assert_eq!(task.read_u64(DATA + 0x330).unwrap() as i32, libc::MSG_TRUNC);
            assert_eq!(recvmsg(task, [1, DATA + 0x300, 0, 0, 0, 0]), Err(Errno::AGAIN));
        });
    }

    #[test]
    fn a_message_with_a_hole_is_not_sent_and_a_stream_goes_as_far_as_it_can() {
        let end = DATA + DATA_SIZE - 4;
        with_pair(libc::SOCK_SEQPACKET, |task| {
            assert_eq!(sendto(task, [0, end, 8, 0, 0, 0]), Err(Errno::FAULT));
            assert_eq!(sendto(task, [0, DATA, 1 << 30, 0, 0, 0]), Err(Errno::MSGSIZE));
            assert_eq!(recvfrom(task, [1, DATA, 8, 0, 0, 0]), Err(Errno::AGAIN));
        });
        with_pair(libc::SOCK_STREAM, |task| {
            assert_eq!(sendto(task, [0, end, 8, 0, 0, 0]), Ok(4));
            assert_eq!(recvfrom(task, [1, READ_ONLY, 8, 0, 0, 0]), Err(Errno::FAULT));
            assert_eq!(recvfrom(task, [1, DATA, 8, 0, 0, 0]), Ok(4));
            assert_eq!(sendto(task, [0, DATA, 8, REFUSED, 0, 0]), Err(Errno::OPNOTSUPP));
            assert_eq!(sockets::shutdown(task, [1, 0, 0, 0, 0, 0]), Ok(0));
            assert_eq!(sendto(task, [0, DATA, 8, libc::MSG_NOSIGNAL as u64, 0, 0]), Err(Errno::PIPE));
            assert_eq!(task.ends(), None);
        });
    }

    #[test]
    fn control_messages_are_looked_at_and_refused() {
        with_pair(libc::SOCK_STREAM, |task| {
            let control = DATA + 0x400;
            words(task, DATA + 0x100, &[DATA, 3]);
            words(task, control, &[20, (libc::SCM_RIGHTS as u64) << 32 | libc::SOL_SOCKET as u64, 0]);
            let mut send = |control: u64, size: u64| {
                words(task, DATA + 0x200, &[0, 0, DATA + 0x100, 1, control, size, 0]);
                sendmsg(task, [0, DATA + 0x200, 0, 0, 0, 0])
            };
            assert_eq!(send(control, 24), Err(Errno::OPNOTSUPP));
            assert_eq!(send(control, 19), Err(Errno::INVAL), "longer than all");
            assert_eq!(send(control + 8, 24), Err(Errno::INVAL));
            assert_eq!(send(control, 15), Ok(3), "no message");
            assert_eq!(send(0, 64), Ok(3));
            assert_eq!(send(FORBIDDEN, 64), Err(Errno::FAULT));
            assert_eq!(send(control, u64::MAX), Err(Errno::NOBUFS));
        });
    }

    #[test]
    fn headers_are_of_sizes_that_there_are() {
        let parse = |words: [u64; 7]| Header::parse(words.map(u64::to_le_bytes).as_flattened().try_into().unwrap());
        assert_eq!(parse([0, 1 << 31, 0, 0, 0, 0, 0]), Err(Errno::INVAL));
        assert_eq!(parse([0, 0, 0, 1025, 0, 0, 0]), Err(Errno::MSGSIZE));
        assert_eq!(parse([9, 7 << 32 | 0x7fff_ffff, 0, 0, 0, 0, 0]).map(|header| header.name_size), Ok(128));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn headers_of_any_bytes_get_an_answer(header in prop::collection::vec(any::<u8>(), HEADER), near in 0usize..7) {
            with_pair(libc::SOCK_DGRAM, |task| {
                let mut header = header.clone();
                // One field leads to what is there, so that the next is looked at too.
                header[near * 8..][..8].copy_from_slice(&(DATA + 0x100).to_le_bytes());
                task.write(DATA + 0x200, &header).unwrap();
                for at in [DATA + 0x200, DATA + DATA_SIZE - 8, u64::MAX - 8, FORBIDDEN] {
                    let _ = sendmsg(task, [0, at, libc::MSG_DONTWAIT as u64, 0, 0, 0]);
                    let _ = recvmsg(task, [1, at, libc::MSG_DONTWAIT as u64, 0, 0, 0]);
                    let _ = sendmmsg(task, [0, at, u64::MAX, libc::MSG_DONTWAIT as u64, 0, 0]);
                    let _ = recvmmsg(task, [1, at, u64::MAX, libc::MSG_DONTWAIT as u64, 0, 0]);
                }
            });
        }
    }
}
