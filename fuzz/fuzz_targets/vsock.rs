//! Sockets under a hostile driver and capricious processes of the host: packets with mostly right headers, chains of any form, connections
//! that come, write, stop reading and go. Nothing panics or spins, there are no more connections than there may be, the guest never gets more
//! than it granted, and after all of it bytes go both ways. Half of the inputs are for the driver of the kit instead.

#![no_main]

use arbitrary::Arbitrary;
use hostel::arch::layout::MIB;
use hostel::backend::socket_file::SocketFile;
use hostel::backend::vsock::exchange::{CONNECTIONS_MAX, Exchange};
use hostel::backend::vsock::packet::{GUEST_CID, HEADER_BYTES, HOST_CID, Header, Op, STREAM};
use hostel::event_loop::{self, Interest, Waker};
use hostel::memory::map::MemoryMap;
use hostel::memory::ram::GuestRam;
use hostel::virtio::driver::DriverQueue;
use hostel::virtio::function::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, VirtioFunction};
use hostel::virtio::rig::{Request, Rig, Via};
use hostel::virtio::rings::Descriptor;
use hostel::virtio::vsock::Vsock;
use hostel_fuzz::hostile::Script;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const ENTRIES: u16 = 16;
const RINGS: [u64; 2] = [0x1000, 0x1200];
const HEADERS: u64 = 0x8000;
const DATA: u64 = 0x1_0000;
const BUFFERS: u64 = 0x4_0000;
const BUFFER: u64 = 0x1000;
/// Ports of the host at which somebody listens: from here on, so many.
const PORT: u32 = 5;
const LISTENERS: u32 = 3;
/// Connections of the host's processes that packets may be of.
const ASKED_MAX: usize = 3;
/// Inputs after which the descriptors of this process are counted.
const COUNTED: usize = 256;
/// The device has done all that there is to do after so many turns.
const TURNS: usize = 1000;

/// Whose driver it is, and what it does.
#[derive(Arbitrary, Debug)]
enum Driver {
    Own(Vec<Step>),
    Kit(Script),
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// A packet, its ports among few; what is `None` is right.
    Packet {
        op: u8,
        guest: u8,
        host: u8,
        length: u16,
        says: Option<u32>,
        kind: Option<u16>,
        cids: Option<(u8, u8)>,
        flags: u8,
        room: Option<u32>,
        count: Option<u32>,
    },
    /// Receive buffers.
    Offer(u8),
    /// A receive chain of these sizes.
    OfferOdd(u16, u16),
    /// A process of the host connects, and says this instead of the right line.
    Connect {
        port: u8,
        says: Option<Vec<u8>>,
    },
    /// A process of the host, by its number, does this.
    Write(u8, u16),
    Read(u8, u16),
    Close(u8, u8),
    /// A descriptor as it comes, made available.
    Descriptor {
        receive: bool,
        index: u8,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    },
    Available {
        receive: bool,
        index: u16,
    },
    Reset,
}

/// What a guest has said of a connection, and what it got.
#[derive(Default)]
struct Granted {
    room_max: u32,
    counts: Vec<u32>,
    got: u32,
}

/// The device, its driver, and processes of the host.
struct Bench {
    function: VirtioFunction,
    ram: Arc<GuestRam>,
    queues: [DriverQueue; 2],
    path: PathBuf,
    _file: SocketFile,
    /// The device's own listener, at which nobody waits when an input begins.
    listener: UnixListener,
    processes: Vec<UnixStream>,
    /// By ports (host's, guest's).
    granted: HashMap<(u32, u32), Granted>,
    /// Chains were made available that are not as they should be.
    odd: bool,
    /// Ports of the host's processes from which the guest was asked.
    asked: Vec<u32>,
    /// Packets that may not be used yet, and where the next one's header goes.
    packets: u64,
    place: u64,
}

fn path() -> PathBuf {
    format!("/dev/shm/hostel-fuzz-vsock-{}", std::process::id()).into()
}

/// Processes of the host that listen: the same for all inputs.
fn listeners() -> &'static [(UnixListener, SocketFile)] {
    static OPEN: OnceLock<Vec<(UnixListener, SocketFile)>> = OnceLock::new();
    let listen = |port| {
        let path = format!("{}_{port}", path().display());
        SocketFile::listen(Path::new(&path)).expect("the directory takes a socket")
    };
    OPEN.get_or_init(|| (PORT..PORT + LISTENERS).map(listen).collect())
}

impl Bench {
    fn new() -> Bench {
        let path = path();
        let (listener, file) = SocketFile::listen(&path).expect("the directory takes a socket");
        let same = listener.try_clone().expect("a descriptor");
        let (function, ram) = vsock(same, &path);
        let queues = RINGS.map(|base| DriverQueue::new(ram.clone(), base, ENTRIES));
        Bench {
            function,
            ram,
            queues,
            path,
            _file: file,
            listener,
            processes: Vec::new(),
            granted: HashMap::new(),
            odd: false,
            asked: Vec::new(),
            packets: 0,
            place: 0,
        }
    }

    /// Does what `steps` say. No process of the host is left from the input before.
    fn run(&mut self, steps: &[Step]) {
        self.processes.clear();
        self.drive();
        for listener in listeners().iter().map(|(listener, _)| listener).chain([&self.listener]) {
            while listener.accept().is_ok() {}
        }
        (self.packets, self.place) = (0, 0);
        steps.iter().take(64).for_each(|step| self.step(step));
        self.works();
    }

    fn drive(&mut self) {
        self.function.set_status(0);
        self.ram.write(RINGS[0], &[0; 0x400]).expect("it is RAM");
        self.queues = RINGS.map(|base| DriverQueue::new(self.ram.clone(), base, ENTRIES));
        self.function.set_driver_features(self.function.features());
        self.function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        for (index, queue) in (0..).zip(&self.queues) {
            let setup = queue.setup();
            self.function.set_up_queue(index, |queue| *queue = setup);
        }
        self.function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        self.granted.clear();
        self.asked.clear();
        self.odd = false;
    }

    /// Serves until nothing wakes the device any more, as its thread does.
    fn serve(&mut self) {
        for _ in 0..TURNS {
            let waits = self.function.waits_for();
            let interests = waits.iter().map(|wait| Interest { token: wait.queue, fd: wait.fd, output: wait.output });
            let ready = event_loop::wait(&interests.collect::<Vec<_>>(), Some(Duration::ZERO)).expect("poll(2)");
            if ready.is_empty() {
                return;
            }
            ready.into_iter().for_each(|what| self.function.serve(what));
        }
        panic!("it spins");
    }

    /// What the guest got: while all of its chains are good, no more data than it granted.
    fn received(&mut self) -> Vec<(Header, u64)> {
        let mut got = Vec::new();
        while let Some((head, written)) = self.queues[0].used() {
            let place = BUFFERS + BUFFER * u64::from(head % ENTRIES);
            let mut bytes = [0; HEADER_BYTES];
            if self.odd || (written as usize) < HEADER_BYTES {
                continue;
            }
            self.ram.read(place, &mut bytes).expect("it is RAM");
            let header = Header::parse(&bytes);
            assert_eq!(written as usize, HEADER_BYTES + header.len as usize);
            assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, GUEST_CID));
            let ports = (header.src_port, header.dst_port);
            let op = Op::of(header.op).expect("an operation that there is");
            if op == Op::Request && self.asked.len() < ASKED_MAX {
                self.asked.push(header.src_port);
            }
            match op {
                Op::Request | Op::Response => self.granted.entry(ports).or_default().got = 0,
                Op::Data => {
                    let granted = self.granted.entry(ports).or_default();
                    granted.got += header.len;
                    let consumed = granted.counts.iter().filter(|count| **count <= granted.got).max();
                    let most = u64::from(*consumed.unwrap_or(&0)) + u64::from(granted.room_max);
                    assert!(header.len > 0 && u64::from(granted.got) <= most, "{header:?}: {} of {most}", granted.got);
                }
                _ => {}
            }
            got.push((header, place + HEADER_BYTES as u64));
        }
        got
    }

    fn send(&mut self, header: &Header, length: u32) {
        // Places of chains that may still wait are not written again before they are used.
        if self.packets >= u64::from(ENTRIES) / 2 {
            while self.queues[1].used().is_some() {
                // Chains that are no packets are used, too.
                self.packets = self.packets.saturating_sub(1);
            }
            if self.packets >= u64::from(ENTRIES) / 2 {
                return;
            }
        }
        let granted = self.granted.entry((header.dst_port, header.src_port)).or_default();
        granted.room_max = granted.room_max.max(header.buf_alloc);
        granted.counts.push(header.fwd_cnt);
        let place = HEADERS + 64 * self.place;
        self.place = (self.place + 1) % u64::from(ENTRIES);
        self.ram.write(place, &header.bytes()).expect("it is RAM");
        self.queues[1].send(&[(place, HEADER_BYTES as u32), (DATA, length)], &[]);
        self.packets += 1;
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Packet { op, guest, host, length, says, kind, cids, flags, room, count } => {
                let op = if op & 0x80 == 0 { u16::from(op % 8) } else { u16::from(*op) << 4 };
                let host = match host % 8 {
                    0..4 => PORT + u32::from(host % 4),
                    4 => u32::MAX,
                    other => self.asked.get(usize::from(other - 5)).copied().unwrap_or(1 << 30),
                };
                let (src_cid, dst_cid) = cids.map_or((GUEST_CID, HOST_CID), |(from, to)| (from.into(), to.into()));
                let header = Header {
                    src_cid,
                    dst_cid,
                    src_port: u32::from(guest % 4),
                    dst_port: host,
                    len: says.unwrap_or((*length).into()),
                    kind: kind.unwrap_or(STREAM),
                    op,
                    flags: (*flags).into(),
                    buf_alloc: room.unwrap_or(1 << 16),
                    fwd_cnt: count.unwrap_or(0),
                };
                self.send(&header, (*length).into());
            }
            Step::Offer(count) => (0..count % ENTRIES as u8).for_each(|_| self.offer()),
            Step::OfferOdd(one, two) => {
                self.odd = true;
                self.queues[0].send(&[], &[(BUFFERS, (*one).into()), (BUFFERS, (*two).into())]);
            }
            Step::Connect { port, says } => {
                if let Ok(mut stream) = UnixStream::connect(&self.path) {
                    let line = says.clone().unwrap_or_else(|| format!("CONNECT {}\n", port % 4).into_bytes());
                    let _ = stream.write_all(&line);
                    self.join(stream);
                }
            }
            Step::Write(process, size) => self.with(*process, |process| {
                let _ = process.write(&vec![7; usize::from(*size)]);
            }),
            Step::Read(process, size) => self.with(*process, |process| {
                let _ = process.read(&mut vec![0; usize::from(*size)]);
            }),
            Step::Close(process, how) => match how % 4 {
                0 if !self.processes.is_empty() => {
                    let index = usize::from(*process) % self.processes.len();
                    drop(self.processes.swap_remove(index));
                }
                1 => self.with(*process, |process| drop(process.shutdown(std::net::Shutdown::Write))),
                2 => self.with(*process, |process| drop(process.shutdown(std::net::Shutdown::Read))),
                _ => self.with(*process, |process| drop(process.shutdown(std::net::Shutdown::Both))),
            },
            Step::Descriptor { receive, index, address, length, flags, next } => {
                self.odd = true;
                let index = u16::from(*index) % ENTRIES;
                let (address, length, flags, next) = (*address, *length, *flags, *next);
                let queue = &mut self.queues[usize::from(!receive)];
                queue.write_descriptor(index, Descriptor { address, length, flags, next });
                queue.offer(index);
            }
            Step::Available { receive, index } => {
                self.odd = true;
                self.queues[usize::from(!receive)].set_available(*index);
            }
            Step::Reset => self.begin_anew(),
        }
        self.kick_and_serve();
        self.received();
        let knocking: Vec<_> =
            listeners().iter().map(|(token, _)| Interest { token, fd: token.as_fd(), output: false }).collect();
        for listener in event_loop::wait(&knocking, Some(Duration::ZERO)).expect("poll(2)") {
            while let Ok((stream, _)) = listener.accept() {
                self.join(stream);
            }
        }
        if self.function.status() & NEEDS_RESET != 0 {
            self.begin_anew();
        }
    }

    fn join(&mut self, process: UnixStream) {
        process.set_nonblocking(true).expect("a socket can");
        self.processes.push(process);
    }

    fn begin_anew(&mut self) {
        self.drive();
        self.packets = 0;
    }

    fn offer(&mut self) {
        let head = self.queues[0].send(&[], &[(0, 0)]);
        let place = BUFFERS + BUFFER * u64::from(head);
        let descriptor = Descriptor { address: place, length: BUFFER as u32, flags: 2, next: 0 };
        self.queues[0].write_descriptor(head, descriptor);
    }

    fn with(&mut self, process: u8, does: impl FnOnce(&mut UnixStream)) {
        let count = self.processes.len();
        if count > 0 {
            does(&mut self.processes[usize::from(process) % count]);
        }
    }

    /// A connection of a good guest carries bytes both ways.
    fn works(&mut self) {
        self.processes.clear();
        self.begin_anew();
        (0..ENTRIES).for_each(|_| self.offer());
        let header = |op, len| Header {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: 1,
            dst_port: PORT,
            len,
            kind: STREAM,
            op: op as u16,
            buf_alloc: 100,
            ..Header::default()
        };
        self.send(&header(Op::Request, 0), 0);
        self.kick_and_serve();
        let answers = self.received();
        assert!(answers.iter().any(|(header, _)| header.op == Op::Response as u16), "{answers:?}");
        let (mut process, _) = listeners()[0].0.accept().expect("the guest has connected");
        self.ram.write(DATA, b"good").expect("it is RAM");
        self.send(&header(Op::Data, 4), 4);
        self.kick_and_serve();
        let mut bytes = [0; 4];
        process.read_exact(&mut bytes).expect("it has come");
        assert_eq!(&bytes, b"good");
        process.write_all(b"better").expect("there is room");
        self.serve();
        let (data, at) = self.received().pop().expect("it has come");
        let mut bytes = [0; 6];
        self.ram.read(at, &mut bytes).expect("it is RAM");
        assert_eq!((data.op, &bytes, self.function.status()), (Op::Data as u16, b"better", 15));
    }

    fn kick_and_serve(&mut self) {
        (0..2).for_each(|queue| self.function.kick(queue));
        self.serve();
    }
}

/// A device behind a listener whose name is `path`, and its RAM.
fn vsock(listener: UnixListener, path: &Path) -> (VirtioFunction, Arc<GuestRam>) {
    let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).expect("a size")).expect("RAM"));
    let device = Box::new(Vsock::new(Exchange::new(listener, path).expect("an epoll")));
    let function = VirtioFunction::new(device, ram.clone(), Waker::new().expect("a waker")).expect("kicks");
    (function, ram)
}

/// The device under the kit's driver, its ports' names leading to the same listeners.
fn kit() -> Rig {
    let path = path();
    let nobody = UnixListener::bind_addr(&SocketAddr::from_abstract_name(path.as_os_str().as_bytes()).expect("short"));
    let nobody = nobody.expect("nobody has the name");
    nobody.set_nonblocking(true).expect("a socket can");
    Rig::new(Box::new(Vsock::new(Exchange::new(nobody, &path).expect("an epoll"))), Via::Mmio)
}

/// A packet that resets a connection which there is not: nothing answers it (virtio 1.2 §5.10.6).
fn reset() -> Request {
    let header =
        Header { src_cid: GUEST_CID, dst_cid: HOST_CID, kind: STREAM, op: Op::Reset as u16, ..Header::default() };
    Request { queue: 1, readable: header.bytes().to_vec(), writable: 0 }
}

thread_local! {
    static BENCHES: RefCell<(Bench, Rig, usize)> = RefCell::new((Bench::new(), kit(), 0));
}

fuzz_target!(|driver: Driver| {
    BENCHES.with_borrow_mut(|(bench, kit, inputs)| {
        match driver {
            Driver::Own(steps) => bench.run(&steps),
            Driver::Kit(script) => script.run(kit, &reset(), <[u8]>::is_empty),
        }
        *inputs += 1;
        if inputs.is_multiple_of(COUNTED) {
            let descriptors = std::fs::read_dir("/proc/self/fd").expect("it is there").count();
            assert!(descriptors < CONNECTIONS_MAX + 500, "{descriptors} descriptors");
        }
    });
});
