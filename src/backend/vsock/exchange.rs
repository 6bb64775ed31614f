//! All connections between the sockets of the host and those of a guest, and how they come about.
//!
//! A process of the host connects to the socket PATH, says `CONNECT port` and reads `OK port` when the guest has taken it; a guest that
//! connects to a port of the host reaches the socket `PATH_port`. This is the protocol of Firecracker and Cloud Hypervisor. One
//! descriptor, an epoll, tells that something happened at any of the sockets, once each time, so that a side that is full or gone wakes
//! nobody. Leaves out datagrams and seekable packets.
//! Sources: virtio 1.2 §5.10.6; Firecracker docs/vsock.md; epoll(7), unix(7).

use super::connection::{Broken, Connection, Packet, Phase};
use super::packet::{GUEST_CID, HOST_CID, Header, Op, STREAM};
use crate::backend::socket_file;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{SocketFlags, accept_with};
use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Connections at a time: half of the descriptors that a process may have by custom.
pub const CONNECTIONS_MAX: usize = 512;
/// Resets that may wait for a guest that takes none, besides one a connection. While there are more, nothing is taken from it.
const RESETS_MAX: usize = 256;
/// Events that are looked at in a turn.
const EVENTS_AT_ONCE: usize = 64;
/// The port that stands for any (`VMADDR_PORT_ANY`, vsock(7)): no socket has it.
const PORT_ANY: u32 = u32::MAX;
/// Ports of the host's processes begin here, above all that anybody listens at.
const FIRST_PORT: u32 = 1 << 30;
/// What is watched for at a connection: all that changes, once.
const WATCHED: EventFlags = EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);
/// Longest name of a socket (`sun_path`, unix(7)), less `_4294967295` and the zero behind it.
pub const PATH_MAX: usize = 108 - 11 - 1;

/// A connection's ports: the host's and the guest's. [`PORT_ANY`] is no port: as the guest's it stands for one that is not said yet; as
/// the host's for a connection that the guest has forgotten, whose number is in the guest's place, or for the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ports {
    host: u32,
    guest: u32,
}

const LISTENER: Ports = Ports { host: PORT_ANY, guest: PORT_ANY };

impl Ports {
    fn token(self) -> EventData {
        EventData::new_u64(u64::from(self.host) << 32 | u64::from(self.guest))
    }

    fn of(token: EventData) -> Ports {
        Ports { host: (token.u64() >> 32) as u32, guest: token.u64() as u32 }
    }
}

/// The connections of a guest.
pub struct Exchange {
    listener: UnixListener,
    path: PathBuf,
    epoll: OwnedFd,
    /// Somebody may wait at the listener.
    knocking: bool,
    connections: HashMap<Ports, Connection>,
    /// Those that have something for the guest, each once, in the order of their turns.
    ready: VecDeque<Ports>,
    resets: VecDeque<Header>,
    next_port: u32,
    next_forgotten: u32,
}

impl Exchange {
    /// The exchange behind `listener`, whose name is `path`.
    ///
    /// # Errors
    /// The host gives no descriptor.
    pub fn new(listener: UnixListener, path: &Path) -> io::Result<Exchange> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, LISTENER.token(), EventFlags::IN | EventFlags::ET)?;
        Ok(Exchange {
            listener,
            path: path.to_owned(),
            epoll,
            knocking: true,
            connections: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            next_port: FIRST_PORT,
            next_forgotten: 0,
        })
    }

    /// Gives bytes when something happened.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// The guest is another one: all of its connections end.
    pub fn reset(&mut self) {
        self.connections.clear();
        self.ready.clear();
        self.resets.clear();
    }

    /// Whether there is room for what a packet of the guest may cause.
    pub fn has_room(&self) -> bool {
        self.resets.len() < RESETS_MAX
    }

    /// Looks at what happened at the sockets.
    pub fn look(&mut self) {
        let mut space = [const { MaybeUninit::uninit() }; EVENTS_AT_ONCE];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // What is not seen now makes the descriptor ready again.
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut space, Some(&now)) else { return };
        for event in events {
            match Ports::of(event.data) {
                LISTENER => self.knocking = true,
                ports => self.happened(ports, event.flags),
            }
        }
    }

    fn happened(&mut self, ports: Ports, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&ports) else { return };
        connection.notice(flags);
        match connection.phase {
            Phase::Greeting => match connection.greeting() {
                Ok(None) => {}
                Ok(Some(guest)) => self.request(ports, guest),
                Err(Broken) => self.remove(ports),
            },
            Phase::Requested if connection.is_hung_up() => {
                let told = !connection.owes(Op::Request);
                self.remove(ports);
                if told {
                    self.owe_reset(ports, STREAM);
                }
            }
            Phase::Requested => {}
            Phase::Open | Phase::Draining => {
                connection.flush();
                self.settle(ports);
            }
        }
    }

    /// A process of the host wants the guest's port `guest`.
    fn request(&mut self, ports: Ports, guest: u32) {
        let Some(mut connection) = self.connections.remove(&ports) else { return };
        if guest == PORT_ANY || connection.is_hung_up() {
            return;
        }
        connection.phase = Phase::Requested;
        connection.owe(Op::Request);
        self.insert(Ports { guest, ..ports }, connection);
    }

    /// Takes those who wait at the listener, as long as there is room.
    pub fn accept(&mut self) {
        while self.knocking && self.has_room() && self.has_place() {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match accept_with(&self.listener, flags) {
                Ok(socket) => {
                    let host = self.free_port();
                    let ports = Ports { host, guest: PORT_ANY };
                    self.add(ports, Connection::new(socket, Phase::Greeting));
                }
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(rustix::io::Errno::AGAIN) => self.knocking = false,
                // Without a descriptor left: again when something happens.
                Err(_) => return,
            }
        }
    }

    /// Whether there is place for one more connection. One of which only the guest's last answer is missing gives way.
    fn has_place(&mut self) -> bool {
        if self.connections.len() < CONNECTIONS_MAX {
            return true;
        }
        let lingering = self.connections.iter().find(|(_, connection)| connection.lingers());
        let Some(ports) = lingering.map(|(ports, _)| *ports) else { return false };
        self.remove(ports);
        true
    }

    /// A port of the host that no connection has.
    fn free_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = if port == PORT_ANY - 1 { FIRST_PORT } else { port + 1 };
            // There are far more ports than connections.
            if !self.connections.keys().any(|ports| ports.host == port) {
                return port;
            }
        }
    }

    /// Has epoll(7) watch a new connection. Without memory for that in the host's kernel there is no connection.
    fn add(&mut self, ports: Ports, connection: Connection) -> bool {
        let socket = connection.socket().expect("it is new");
        let added = epoll::add(&self.epoll, socket, ports.token(), WATCHED).is_ok();
        if added {
            self.connections.insert(ports, connection);
            self.settle(ports);
        }
        added
    }

    /// Puts a connection, which is watched already, to other ports. It ends where these are taken.
    fn insert(&mut self, ports: Ports, connection: Connection) {
        if let Some(socket) = connection.socket()
            && !self.connections.contains_key(&ports)
            && epoll::modify(&self.epoll, socket, ports.token(), WATCHED).is_ok()
        {
            self.connections.insert(ports, connection);
            self.settle(ports);
        }
    }

    /// Notes what became of a connection: it may have something for the guest, or be over.
    fn settle(&mut self, ports: Ports) {
        let Some(connection) = self.connections.get_mut(&ports) else { return };
        if connection.phase == Phase::Draining {
            if connection.waiting() == 0 || connection.is_hung_up() {
                self.remove(ports);
            }
        } else if connection.has_something() && !connection.queued {
            connection.queued = true;
            self.ready.push_back(ports);
        }
    }

    fn remove(&mut self, ports: Ports) {
        if self.connections.remove(&ports).is_some_and(|connection| connection.queued) {
            self.ready.retain(|other| *other != ports);
        }
    }

    fn owe_reset(&mut self, ports: Ports, kind: u16) {
        self.resets.push_back(Header { kind, ..header(ports, Op::Reset) });
    }

    /// A packet from the guest. `payload` is its data; `None` where that is not what the header says.
    pub fn take(&mut self, header: &Header, payload: Option<&[u8]>) {
        if (header.src_cid, header.dst_cid) != (GUEST_CID, HOST_CID) {
            return;
        }
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        let op = Op::of(header.op);
        if header.kind != STREAM || ports.host == PORT_ANY || ports.guest == PORT_ANY {
            if op != Some(Op::Reset) {
                self.owe_reset(ports, header.kind);
            }
            return;
        }
        let taken = match (op, self.connections.get_mut(&ports), payload) {
            (Some(Op::Reset), ..) => {
                self.remove(ports);
                Ok(())
            }
            (Some(Op::Request), None, Some(_)) => self.open(ports, header),
            (Some(op), Some(connection), Some(payload)) => {
                connection.learn(header);
                step(connection, op, header, payload, ports.host)
            }
            _ => Err(Broken),
        };
        if taken.is_err() {
            self.remove(ports);
            self.owe_reset(ports, STREAM);
        } else if self.connections.get(&ports).is_some_and(Connection::guest_is_done) {
            self.forget(ports);
        } else {
            self.settle(ports);
        }
    }

    /// The guest connects to a port of the host.
    fn open(&mut self, ports: Ports, header: &Header) -> Result<(), Broken> {
        if !self.has_place() {
            return Err(Broken);
        }
        let mut path = OsString::from(&self.path);
        path.push(format!("_{}", ports.host));
        let socket = socket_file::connect(Path::new(&path)).map_err(|_| Broken)?;
        let mut connection = Connection::new(socket, Phase::Open);
        connection.learn(header);
        connection.owe(Op::Response);
        if self.add(ports, connection) { Ok(()) } else { Err(Broken) }
    }

    /// The guest has done with a connection and may use its ports again. What the host's reader has not taken yet waits for it.
    fn forget(&mut self, ports: Ports) {
        self.owe_reset(ports, STREAM);
        let queued = self.connections.get(&ports).is_some_and(|connection| connection.queued);
        if queued {
            self.ready.retain(|other| *other != ports);
        }
        let Some(mut connection) = self.connections.remove(&ports) else { return };
        (connection.phase, connection.queued) = (Phase::Draining, false);
        if connection.waiting() == 0 {
            return;
        }
        let number = self.next_forgotten;
        self.next_forgotten = (number + 1) % PORT_ANY;
        self.insert(Ports { host: PORT_ANY, guest: number }, connection);
    }

    /// The next packet for the guest; its data goes to the front of `payload`, which is not empty.
    pub fn next(&mut self, payload: &mut [u8]) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        while let Some(ports) = self.ready.pop_front() {
            let Some(connection) = self.connections.get_mut(&ports) else { continue };
            connection.queued = false;
            match connection.next(payload) {
                Ok(Some(Packet { op, flags, len })) => {
                    let (buf_alloc, fwd_cnt) = connection.tell();
                    self.settle(ports);
                    return Some(Header { len, flags, buf_alloc, fwd_cnt, ..header(ports, op) });
                }
                Ok(None) => self.settle(ports),
                Err(Broken) => {
                    self.remove(ports);
                    return Some(header(ports, Op::Reset));
                }
            }
        }
        None
    }

    /// Connections that there are.
    pub fn count(&self) -> usize {
        self.connections.len()
    }
}

/// The header of a packet to the guest without data.
fn header(ports: Ports, op: Op) -> Header {
    let (src_port, dst_port, op) = (ports.host, ports.guest, op as u16);
    Header { src_cid: HOST_CID, dst_cid: GUEST_CID, src_port, dst_port, kind: STREAM, op, ..Header::default() }
}

/// A packet of the guest for a connection that there is.
fn step(connection: &mut Connection, op: Op, header: &Header, payload: &[u8], host_port: u32) -> Result<(), Broken> {
    match (connection.phase, op) {
        (Phase::Requested, Op::Response) => connection.accept(host_port),
        (Phase::Open, Op::Data) => connection.take(payload),
        (Phase::Open, Op::Shutdown) => {
            connection.shut_guest(header.flags);
            Ok(())
        }
        (Phase::Open, Op::CreditUpdate) => Ok(()),
        (Phase::Open, Op::CreditRequest) => {
            connection.owe(Op::CreditUpdate);
            Ok(())
        }
        _ => Err(Broken),
    }
}
