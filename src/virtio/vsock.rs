//! Socket device: stream sockets between the guest and processes of the host, without a network.
//!
//! A packet's header is copied out of the guest once, and what it says of its data is held against the buffers that are there. The
//! connections are `backend/vsock`. What comes for the guest waits in the host's sockets while the guest has no buffers, and its own
//! packets wait in its queue while the answers to them find no room. The event queue is for guests that were moved; nothing of that
//! happens here, so its buffers stay. Leaves out seekable packets.
//! Source: virtio 1.2 §5.10.

use super::device::{DeviceKind, Queues, VirtioDevice};
use super::queue::QueueFault;
use crate::backend::vsock::exchange::Exchange;
use crate::backend::vsock::packet::{GUEST_CID, HEADER_BYTES, Header, PAYLOAD_MAX};
use std::os::fd::BorrowedFd;
use std::slice;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Receive, transmit, event.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];

/// Feature: streams.
const STREAM: u64 = 1;

/// The device.
pub struct Vsock {
    exchange: Exchange,
    config: [u8; 8],
    payload: Box<[u8]>,
}

impl Vsock {
    /// A device whose guest reaches, and is reached through, `exchange`.
    pub fn new(exchange: Exchange) -> Vsock {
        Vsock { exchange, config: GUEST_CID.to_le_bytes(), payload: vec![0; PAYLOAD_MAX].into_boxed_slice() }
    }

    /// Takes what the guest sends, as long as there is room for what it causes.
    fn transmit(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        while self.exchange.has_room() {
            let Some(mut chain) = queues.pop(TRANSMIT)? else { break };
            let Some(queue) = queues.queue(TRANSMIT) else { break };
            let mut header = [0; HEADER_BYTES];
            // A packet without a whole header has no sender.
            if chain.read(queue.ram(), &mut header) == HEADER_BYTES {
                let header = Header::parse(&header);
                let length = usize::try_from(header.len).ok().filter(|length| *length <= PAYLOAD_MAX);
                let length = length.filter(|length| *length as u64 <= chain.readable_bytes());
                let payload = length.map(|length| {
                    let count = chain.read(queue.ram(), &mut self.payload[..length]);
                    &self.payload[..count]
                });
                self.exchange.take(&header, payload);
            }
            queues.push(TRANSMIT, &chain);
        }
        Ok(())
    }

    /// Gives the guest what there is for it, as long as it has buffers.
    fn receive(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        while let Some(mut chain) = queues.pop(RECEIVE)? {
            let room = chain.writable_bytes().saturating_sub(HEADER_BYTES as u64).min(PAYLOAD_MAX as u64);
            // Buffers that hold no data are given back as they are: a packet would wait behind them forever.
            if room > 0 {
                let Some(header) = self.exchange.next(&mut self.payload[..room as usize]) else {
                    queues.put_back(RECEIVE, slice::from_ref(&chain))?;
                    break;
                };
                if let Some(queue) = queues.queue(RECEIVE) {
                    chain.write(queue.ram(), &header.bytes());
                    chain.write(queue.ram(), &self.payload[..header.len as usize]);
                }
            }
            queues.push(RECEIVE, &chain);
        }
        Ok(())
    }
}

impl VirtioDevice for Vsock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Socket
    }

    fn features(&self) -> u64 {
        STREAM
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn start(&mut self, _features: u64) {}

    fn reset(&mut self) {
        self.exchange.reset();
    }

    fn serves_all_at_once(&self) -> bool {
        true
    }

    fn serve(&mut self, _index: usize, queues: &mut Queues) -> Result<(), QueueFault> {
        loop {
            self.transmit(queues)?;
            self.exchange.accept();
            let was_full = !self.exchange.has_room();
            self.receive(queues)?;
            // What waits for room goes on once there is some; a round's end is that of the queues.
            if !was_full || !self.exchange.has_room() {
                return Ok(());
            }
        }
    }

    fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        Some(self.exchange.fd())
    }

    fn host_ready(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        self.exchange.look();
        self.serve(TRANSMIT, queues)
    }
}

#[cfg(test)]
mod tests {
    use super::super::driver::{self, DriverQueue};
    use super::*;
    use crate::arch::layout::MIB;
    use crate::backend::socket_file::SocketFile;
    use crate::backend::vsock::connection::BUFFER_BYTES;
    use crate::backend::vsock::exchange::CONNECTIONS_MAX;
    use crate::backend::vsock::packet::{self, BOTH, HOST_CID, Op, SEND};
    use crate::event_loop::{self, Interest, Waker};
    use crate::memory::map::MemoryMap;
    use crate::memory::ram::GuestRam;
    use crate::virtio::function::{NEEDS_RESET, VirtioFunction};
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::time::Duration;

    const ENTRIES: u16 = 8;
    const HEADERS: u64 = 0x8000;
    const BUFFERS: u64 = 0x1_0000;
    const BUFFER: u64 = 0x1000;
    const DATA: u64 = 0x8_0000;
    /// Room that the guest says it has unless a test says otherwise.
    const ROOM: u32 = 1 << 20;
    const PORT: u32 = 1024;

    struct Guest {
        function: VirtioFunction,
        ram: Arc<GuestRam>,
        receive: DriverQueue,
        transmit: DriverQueue,
        /// Buffers offered and packets sent, which gives each its place.
        counts: [u16; 2],
        file: SocketFile,
    }

    impl Guest {
        /// A guest that has given no buffers yet.
        fn new() -> Guest {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("hostel-vsock-{}-{number}", std::process::id()));
            let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
            let (listener, file) = SocketFile::listen(&path).unwrap();
            let device = Box::new(Vsock::new(Exchange::new(listener, &path).unwrap()));
            let function = VirtioFunction::new(device, ram.clone(), Waker::new().unwrap()).unwrap();
            let [receive, transmit] = [0x1000, 0x2000].map(|base| DriverQueue::new(ram.clone(), base, ENTRIES));
            let mut guest = Guest { function, ram, receive, transmit, counts: [0; 2], file };
            guest.drive();
            guest
        }

        fn with_buffers() -> Guest {
            let mut guest = Guest::new();
            (0..ENTRIES).for_each(|_| guest.offer());
            guest
        }

        fn drive(&mut self) {
            self.function.set_status(0);
            self.ram.write(0x1000, &[0; 0x2000]).unwrap();
            self.counts = [0; 2];
            [self.receive, self.transmit] = [0x1000, 0x2000].map(|at| DriverQueue::new(self.ram.clone(), at, ENTRIES));
            let features = self.function.features();
            driver::start(&mut self.function, features, [&self.receive, &self.transmit]);
        }

        /// A receive buffer of this size, in the place that its head names.
        fn offer_raw(&mut self, size: u32) {
            let head = self.counts[0];
            self.counts[0] = (head + 1) % ENTRIES;
            assert_eq!(self.receive.send(&[], &[(BUFFERS + BUFFER * u64::from(head), size)]), head);
        }

        /// One more receive buffer: there are as many as entries, used in their order.
        fn offer(&mut self) {
            self.offer_raw(BUFFER as u32);
        }

        /// Whether a process of the host listens at this port of the host.
        fn listen(&self, port: u32) -> (UnixListener, SocketFile) {
            SocketFile::listen(&PathBuf::from(format!("{}_{port}", self.file.path().display()))).unwrap()
        }

        /// Sends a packet as it is, with `length` bytes of buffers behind its header, and has it served.
        fn send_raw(&mut self, header: &Header, length: u32) {
            let place = HEADERS + 64 * u64::from(self.counts[1]);
            self.counts[1] = (self.counts[1] + 1) % ENTRIES;
            self.ram.write(place, &header.bytes()).unwrap();
            self.transmit.send(&[(place, packet::HEADER_BYTES as u32), (DATA, length)], &[]);
            self.function.serve(Some(TRANSMIT));
        }

        fn send(&mut self, header: Header, data: &[u8]) {
            self.ram.write(DATA, data).unwrap();
            self.send_raw(&Header { len: data.len() as u32, ..header }, data.len() as u32);
            assert!(self.transmit.used().is_some());
        }

        /// The next packet that came, after a look at the host's side.
        fn next(&mut self) -> Option<(Op, Header, Vec<u8>)> {
            self.function.serve(None);
            let mut turns = 0;
            while self.is_awake() {
                self.function.serve(None);
                turns += 1;
                assert!(turns < 100, "it spins");
            }
            self.take()
        }

        /// The next packet that came.
        fn take(&mut self) -> Option<(Op, Header, Vec<u8>)> {
            let (head, written) = self.receive.used()?;
            let mut bytes = vec![0; written as usize];
            self.ram.read(BUFFERS + BUFFER * u64::from(head), &mut bytes).unwrap();
            let header = Header::parse(bytes.first_chunk().unwrap());
            assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, GUEST_CID));
            assert_eq!(written as usize, HEADER_BYTES + header.len as usize);
            self.offer();
            Some((Op::of(header.op).unwrap(), header, bytes.split_off(HEADER_BYTES)))
        }

        fn next_op(&mut self) -> Option<Op> {
            self.next().map(|(op, ..)| op)
        }

        /// Whether the device's own descriptor would wake the thread.
        fn is_awake(&self) -> bool {
            let own = self.function.waits_for().into_iter().filter(|wait| wait.queue.is_none());
            let own: Vec<_> = own.map(|wait| Interest { token: (), fd: wait.fd, output: wait.output }).collect();
            assert_eq!(own.len(), 1);
            !event_loop::wait(&own, Some(Duration::ZERO)).unwrap().is_empty()
        }

        /// A connection from the guest's port `from`, and the host's end of it.
        fn connected(&mut self, from: u32) -> UnixStream {
            let (listener, _file) = self.listen(PORT);
            self.send(header(from, Op::Request), &[]);
            assert_eq!(self.next_op(), Some(Op::Response));
            let (stream, _) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        }
    }

    /// A packet from the guest's port `from` to [`PORT`].
    fn header(from: u32, op: Op) -> Header {
        let (src_cid, dst_cid, src_port, dst_port) = (GUEST_CID, HOST_CID, from, PORT);
        let (kind, op, buf_alloc) = (packet::STREAM, op as u16, ROOM);
        Header { src_cid, dst_cid, src_port, dst_port, kind, op, buf_alloc, ..Header::default() }
    }

    fn read(mut stream: &UnixStream) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        let count = stream.read(&mut bytes).unwrap();
        bytes.truncate(count);
        bytes
    }

    fn would_block(mut stream: &UnixStream) -> bool {
        stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    #[test]
    fn a_guest_connects_and_each_direction_ends_by_itself() {
        let mut guest = Guest::with_buffers();
        assert_eq!(guest.function.read_config(0, 8), 3);
        let mut stream = guest.connected(5);
        guest.send(header(5, Op::Data), b"from the guest");
        assert_eq!(read(&stream), b"from the guest");
        stream.write_all(b"from the host").unwrap();
        let (op, packet, data) = guest.next().unwrap();
        assert_eq!((op, &data[..], packet.src_port, packet.dst_port), (Op::Data, &b"from the host"[..], PORT, 5));
        assert_eq!((packet.buf_alloc, packet.fwd_cnt), (BUFFER_BYTES, 14));
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let (op, packet, _) = guest.next().unwrap();
        assert_eq!((op, packet.flags), (Op::Shutdown, SEND));
        guest.send(header(5, Op::Data), b"still");
        guest.send(Header { flags: SEND, ..header(5, Op::Shutdown) }, &[]);
        assert_eq!((read(&stream), read(&stream)), (b"still".to_vec(), vec![]));
        assert_eq!(guest.next().map(|(op, packet, _)| (op, packet.flags)), Some((Op::Shutdown, BOTH)));
        guest.send(Header { flags: BOTH, ..header(5, Op::Shutdown) }, &[]);
        assert_eq!((guest.next_op(), guest.next_op()), (Some(Op::Reset), None));
    }

    #[test]
    fn sec40_a_guest_that_ends_its_direction_alone_leaves_the_device_asleep() {
        let mut guest = Guest::with_buffers();
        let mut stream = guest.connected(5);
        guest.send(Header { flags: SEND, ..header(5, Op::Shutdown) }, &[]);
        assert_eq!((guest.next_op(), read(&stream)), (None, vec![]));
        // The other direction goes on, and does not end the first again.
        stream.write_all(b"answer").unwrap();
        assert_eq!(guest.next().map(|(op, _, data)| (op, data)), Some((Op::Data, b"answer".to_vec())));
        guest.send(Header { flags: SEND, ..header(5, Op::Shutdown) }, &[]);
        assert_eq!(guest.next_op(), None);
    }

    #[test]
    fn a_process_of_the_host_connects_by_a_line() {
        let mut guest = Guest::with_buffers();
        let mut stream = UnixStream::connect(guest.file.path()).unwrap();
        stream.write_all(b"CONN").unwrap();
        assert_eq!(guest.next_op(), None);
        stream.write_all(b"ECT 52\nearly").unwrap();
        let (op, request, _) = guest.next().unwrap();
        assert_eq!((op, request.dst_port, request.src_port), (Op::Request, 52, 1 << 30));
        let answer = |op| Header { src_port: 52, dst_port: request.src_port, ..header(0, op) };
        guest.send(answer(Op::Response), &[]);
        assert_eq!(guest.next().map(|(op, _, data)| (op, data)), Some((Op::Data, b"early".to_vec())));
        guest.send(answer(Op::Data), b"late");
        assert_eq!(read(&stream), b"OK 1073741824\nlate");
        // Nobody listens there: the connection ends without a word.
        let mut refused = UnixStream::connect(guest.file.path()).unwrap();
        refused.write_all(b"connect 4294967294\r\n").unwrap();
        let (_, request, _) = guest.next().unwrap();
        guest.send(Header { src_port: u32::MAX - 1, dst_port: request.src_port, ..header(0, Op::Reset) }, &[]);
        assert_eq!(read(&refused), b"");
        for bad in [
            &b"CONNECT\n"[..],
            b"CONNECT x\n",
            b"CONNECT 4294967295\n",
            b"CONNECT 1 2\n",
            b"\n",
            b"\xff 1\n",
            &[b'1'; 32],
        ] {
            let mut stream = UnixStream::connect(guest.file.path()).unwrap();
            stream.write_all(bad).unwrap();
            assert_eq!(guest.next_op(), None, "{bad:?}");
            assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "{bad:?}");
        }
    }

    /// The length changes while packets are served: each has that which was checked.
    #[test]
    fn sec44_a_header_is_read_once() {
        let mut guest = Guest::with_buffers();
        let stream = guest.connected(5);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let ram = guest.ram.clone();
            let over = &over;
            scope.spawn(move || {
                let lengths = (0..u64::from(ENTRIES)).map(|place| HEADERS + 64 * place + 24);
                while !over.load(Ordering::Relaxed) {
                    for (at, length) in lengths.clone().zip([4u32, 8, u32::MAX].into_iter().cycle()) {
                        ram.write(at, &length.to_le_bytes()).unwrap();
                    }
                }
            });
            let mut received = 0;
            for _ in 0..2000 {
                guest.send_raw(&Header { len: 8, ..header(5, Op::Data) }, 8);
                assert!(guest.transmit.used().is_some());
                match guest.next_op() {
                    None => received += read(&stream).len(),
                    // The length that no buffer has.
                    Some(Op::Reset) => break,
                    other => panic!("{other:?}"),
                }
                assert_eq!(received % 4, 0);
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(guest.function.status() & NEEDS_RESET, 0);
    }

    #[test]
    fn sec45_lengths_are_held_against_the_buffers_both_ways() {
        let mut guest = Guest::with_buffers();
        for (length, buffers, fits) in [
            (0, 0, true),
            (0, 100, true),
            (100, 100, true),
            (99, 100, true),
            (101, 100, false),
            (u32::MAX, 100, false),
            (PAYLOAD_MAX as u32, PAYLOAD_MAX as u32, true),
            (PAYLOAD_MAX as u32 + 1, PAYLOAD_MAX as u32 + 1, false),
        ] {
            let stream = guest.connected(5);
            guest.send_raw(&Header { len: length, ..header(5, Op::Data) }, buffers);
            assert_eq!(guest.transmit.used(), Some((guest_head(&guest), 0)), "{length}");
            assert_eq!(guest.next_op(), (!fits).then_some(Op::Reset), "{length} in {buffers}");
            let got = if fits && length == 0 { would_block(&stream) as usize - 1 } else { read(&stream).len() };
            assert_eq!(got, if fits { length as usize } else { 0 }, "{length} in {buffers}");
            guest.send(header(5, Op::Reset), &[]);
        }
        // A packet without a whole header, and a good one after it.
        guest.transmit.send(&[(HEADERS, 43)], &[]);
        guest.function.serve(Some(TRANSMIT));
        assert!(guest.transmit.used().is_some());
        let mut guest = Guest::new();
        let (listener, _file) = guest.listen(PORT);
        for size in [0, 1, 43, 44] {
            guest.offer_raw(size);
        }
        guest.offer();
        guest.send(header(5, Op::Request), &[]);
        assert_eq!([0; 4].map(|_| guest.receive.used().unwrap().1), [0; 4], "too small for any data");
        assert_eq!(guest.next_op(), Some(Op::Response));
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&[7; 100]).unwrap();
        // next() has offered a whole buffer; one that holds a byte more than a header comes behind it.
        guest.offer_raw(45);
        assert_eq!(guest.next().unwrap().2.len(), 100);
        stream.write_all(&[7; 2]).unwrap();
        assert_eq!(guest.next().unwrap().2, [7]);
    }

    /// The head of the chain that was sent last: each has two descriptors.
    fn guest_head(guest: &Guest) -> u16 {
        let mut bytes = [0; 2];
        guest.ram.read(guest.transmit.setup().available + 2, &mut bytes).unwrap();
        (u16::from_le_bytes(bytes) - 1) * 2 % ENTRIES
    }

    #[test]
    fn sec46_the_guests_room_is_kept_whatever_it_says_of_it() {
        let mut guest = Guest::with_buffers();
        let mut stream = guest.connected(5);
        stream.write_all(&[1; 100]).unwrap();
        let say = |guest: &mut Guest, buf_alloc, fwd_cnt| {
            guest.send(Header { buf_alloc, fwd_cnt, ..header(5, Op::CreditUpdate) }, &[]);
            let mut got = 0;
            loop {
                match guest.next() {
                    Some((Op::Data, _, data)) => got += data.len(),
                    Some((Op::CreditRequest, ..)) => {}
                    None => return got,
                    other => panic!("{other:?}"),
                }
            }
        };
        assert_eq!(guest.next().unwrap().2.len(), 100);
        stream.write_all(&[1; 100]).unwrap();
        // 100 bytes are under way. Less room than that, counts that were never sent, and no room at all: nothing comes.
        for (room, count) in [(99, 0), (0, 0), (100, 101), (100, u32::MAX), (100, 1 << 31)] {
            assert_eq!(say(&mut guest, room, count), 0, "{room} {count}");
        }
        assert_eq!(say(&mut guest, 110, 0), 10);
        assert_eq!(say(&mut guest, 110, 50), 50);
        assert_eq!(say(&mut guest, 110, 20), 0, "an old count");
        assert_eq!(say(&mut guest, 60, 100), 0, "less than the 60 bytes under way and one");
        assert_eq!(say(&mut guest, u32::MAX, 100), 40);
        assert_eq!(say(&mut guest, 0, 200), 0);
        stream.write_all(&[1; 10]).unwrap();
        assert_eq!((guest.next_op(), guest.next_op()), (Some(Op::CreditRequest), None), "it is asked once");
        assert_eq!(say(&mut guest, 10, 200), 10);
    }

    #[test]
    fn sec46_a_guest_that_keeps_to_its_room_loses_nothing_and_one_that_does_not_its_connection() {
        let mut guest = Guest::with_buffers();
        let stream = guest.connected(5);
        let (mut sent, mut known, mut read_there, mut stalls) = (0u32, 0u32, 0, 0);
        let chunk: Vec<u8> = (0..10_000u32).map(|at| at as u8).collect();
        while sent < 3_000_000 {
            if BUFFER_BYTES - (sent - known) >= chunk.len() as u32 {
                guest.send(header(5, Op::Data), &chunk);
                sent += chunk.len() as u32;
            } else {
                // A slow reader: it takes all only when nothing more goes.
                stalls += 1;
                assert!(!guest.is_awake(), "nobody spins meanwhile");
                let got = read(&stream);
                assert!(got.iter().enumerate().all(|(at, byte)| *byte == ((read_there + at) % 10_000) as u8));
                read_there += got.len();
            }
            while let Some((op, packet, _)) = guest.next() {
                assert_eq!(op, Op::CreditUpdate);
                known = packet.fwd_cnt;
            }
        }
        assert!(stalls > 3, "{stalls}");
        guest.send(header(5, Op::CreditRequest), &[]);
        known = guest.next().unwrap().1.fwd_cnt;
        while BUFFER_BYTES - (sent - known) > 0 {
            let rest = (BUFFER_BYTES - (sent - known)).min(chunk.len() as u32);
            guest.send(header(5, Op::Data), &chunk[..rest as usize]);
            sent += rest;
            while let Some((_, packet, _)) = guest.next() {
                known = packet.fwd_cnt;
            }
        }
        assert_eq!(guest.next_op(), None);
        guest.send(header(5, Op::Data), &[1]);
        assert_eq!(guest.next_op(), Some(Op::Reset));
    }

    #[test]
    fn sec47_connections_have_a_number_and_what_exceeds_it_is_reset() {
        let mut guest = Guest::with_buffers();
        let (_listener, _file) = guest.listen(PORT);
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        // The lab's processor is emulated.
        let attempts = if std::env::var_os("HOSTEL_LAB_KERNEL").is_some() { 4_000 } else { 100_000 };
        let mut answers = [0; 2];
        for port in 0..attempts as u32 {
            guest.send(header(port, Op::Request), &[]);
            match guest.take().map(|(op, ..)| op) {
                Some(Op::Response) => answers[0] += 1,
                Some(Op::Reset) => answers[1] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(answers, [CONNECTIONS_MAX, attempts - CONNECTIONS_MAX]);
        // Other tests have descriptors, too.
        assert!(open() - before < CONNECTIONS_MAX + 300);
        // A process of the host waits for its turn, and nobody spins for it.
        let mut stream = UnixStream::connect(guest.file.path()).unwrap();
        stream.write_all(b"CONNECT 7\n").unwrap();
        assert_eq!((guest.next_op(), guest.is_awake()), (None, false));
        guest.send(header(0, Op::Reset), &[]);
        assert_eq!(guest.next_op(), Some(Op::Request));
    }

    #[test]
    fn sec47_answers_that_find_no_room_hold_the_guest_up_and_nothing_is_lost() {
        let mut guest = Guest::new();
        let mut served = 0;
        for port in 0..2000 {
            if port - served < u32::from(ENTRIES) / 2 {
                guest.send_raw(&header(port, Op::Data), 0);
            }
            served += u32::from(guest.transmit.used().is_some());
        }
        assert!((256..300).contains(&served), "{served}");
        assert!(!guest.is_awake());
        let mut resets = 0;
        guest.offer();
        while let Some((op, packet, _)) = guest.next() {
            assert_eq!((op, packet.dst_port), (Op::Reset, resets));
            resets += 1;
            served += u32::from(guest.transmit.used().is_some());
        }
        assert_eq!(resets, served);
    }

    #[test]
    fn a_peer_that_is_killed_in_the_middle_ends_its_connection_and_nothing_of_it_stays() {
        let mut guest = Guest::with_buffers();
        for round in 0..300 {
            let mut stream = guest.connected(round);
            stream.write_all(&[1; 5000]).unwrap();
            guest.send(header(round, Op::Data), &[2; 5000]);
            drop(stream);
            let mut ops = Vec::new();
            while let Some((op, packet, _)) = guest.next() {
                ops.push(op);
                if op == Op::Shutdown && packet.flags == BOTH {
                    guest.send(header(round, Op::Reset), &[]);
                }
            }
            assert!(matches!(ops.last(), Some(Op::Reset | Op::Shutdown)), "{ops:?}");
            assert!(!guest.is_awake());
            // The ports are free again.
            guest.send(header(round, Op::Data), &[]);
            assert_eq!(guest.next_op(), Some(Op::Reset));
        }
    }

    #[test]
    fn what_the_host_sent_before_it_closed_reaches_a_slow_guest() {
        let mut guest = Guest::with_buffers();
        let mut stream = guest.connected(5);
        stream.write_all(&[3; 30_000]).unwrap();
        drop(stream);
        let (mut got, mut room) = (0, 1000);
        let flags = loop {
            guest.send(Header { buf_alloc: room, fwd_cnt: got, ..header(5, Op::CreditUpdate) }, &[]);
            room = 7000;
            match guest.next().unwrap() {
                (Op::Data, _, data) => got += data.len() as u32,
                (Op::CreditRequest, ..) => {}
                (Op::Shutdown, packet, _) => break packet.flags,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((got, flags), (30_000, BOTH));
        // What the guest still says is answered by nothing, until it has done, too.
        guest.send(header(5, Op::Data), b"late");
        assert_eq!(guest.next_op(), None);
        guest.send(Header { flags: BOTH, ..header(5, Op::Shutdown) }, &[]);
        assert_eq!((guest.next_op(), guest.next_op()), (Some(Op::Reset), None));
    }

    #[test]
    fn what_a_guest_sent_before_it_closed_reaches_a_slow_reader_and_its_port_is_free_at_once() {
        let mut guest = Guest::with_buffers();
        let stream = guest.connected(5);
        for _ in 0..6 {
            guest.send(header(5, Op::Data), &[9; 50_000]);
            while guest.next().is_some() {}
        }
        guest.send(Header { flags: BOTH, ..header(5, Op::Shutdown) }, &[]);
        assert_eq!(guest.next_op(), Some(Op::Reset));
        let again = guest.connected(5);
        let mut got = 0;
        while let bytes @ 1.. = read(&stream).len() {
            got += bytes;
            assert_eq!(guest.next_op(), None);
        }
        assert_eq!((got, would_block(&again)), (300_000, true));
        // One who receives no more: the host's process is told when it writes.
        guest.send(Header { flags: packet::RECEIVE, ..header(5, Op::Shutdown) }, &[]);
        assert_eq!((&again).write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        guest.send(header(5, Op::Data), b"but sends");
        assert_eq!(read(&again), b"but sends");
    }

    #[test]
    fn packets_that_are_none_get_a_reset_or_nothing() {
        let mut guest = Guest::with_buffers();
        for (packet, answer) in [
            (Header { src_cid: 4, ..header(5, Op::Request) }, None),
            (Header { dst_cid: 1, ..header(5, Op::Request) }, None),
            (Header { kind: 2, ..header(5, Op::Request) }, Some(2)),
            (Header { kind: 2, ..header(5, Op::Reset) }, None),
            (Header { op: 0, ..header(5, Op::Request) }, Some(1)),
            (Header { op: 8, ..header(5, Op::Request) }, Some(1)),
            (header(u32::MAX, Op::Request), Some(1)),
            (Header { dst_port: u32::MAX, ..header(5, Op::Request) }, Some(1)),
            (header(5, Op::Request), Some(1)),
            (header(5, Op::Response), Some(1)),
            (header(5, Op::Reset), None),
        ] {
            guest.send(packet, &[]);
            let got = guest.next().map(|(op, got, _)| {
                assert_eq!((op, got.dst_port, got.src_port), (Op::Reset, packet.src_port, packet.dst_port));
                got.kind
            });
            assert_eq!(got, answer, "{packet:?}");
        }
        for op in [Op::Request, Op::Response] {
            let stream = guest.connected(5);
            guest.send(header(5, op), &[]);
            assert_eq!((guest.next_op(), read(&stream)), (Some(Op::Reset), vec![]), "{op:?} twice");
        }
    }

    #[test]
    fn a_driver_that_begins_anew_has_no_connections_and_those_who_wait_get_theirs() {
        let mut guest = Guest::with_buffers();
        let stream = guest.connected(5);
        guest.function.set_status(0);
        assert_eq!(read(&stream), b"");
        let mut early = UnixStream::connect(guest.file.path()).unwrap();
        early.write_all(b"CONNECT 9\n").unwrap();
        guest.drive();
        guest.offer();
        guest.send(header(5, Op::Data), b"x");
        assert_eq!(guest.next_op(), Some(Op::Reset));
        assert_eq!(guest.next().map(|(op, packet, _)| (op, packet.dst_port)), Some((Op::Request, 9)));
    }
}
