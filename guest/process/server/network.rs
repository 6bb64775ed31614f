//! TCP over the kernel's network card: smoltcp, whose sockets stand in a table, one a connection.
//!
//! The kernel gives and takes raw frames; everything above them happens here, in the program, and only while [`Network::run`] runs:
//! a design whose thread sleeps on the disk acknowledges nothing meanwhile. A connection keeps its number until
//! [`Network::release`], so that no thread ever answers another client than the one that asked.
//! Sources: RFC 9293, RFC 2131.

use crates::smoltcp::iface::{Config, Interface, SocketHandle, SocketSet, SocketStorage};
use crates::smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use crates::smoltcp::socket::{dhcpv4, tcp};
use crates::smoltcp::time::{Duration, Instant};
use crates::smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr};
use process::abi::{FRAME_BYTES_MAX, NET};
use process::{call, print};

use crate::memory;

/// Most connections at a time, those that are being opened or closed included.
pub const CONNECTIONS_MAX: usize = 80;
/// Bytes of a connection that have come and were not read; and that were sent and not acknowledged.
const RECEIVE_BYTES: usize = 2048;
const SEND_BYTES: usize = 16 << 10;
/// How long a client may take for a request, stay without one, or take nothing of an answer.
pub const PATIENCE_MS: u64 = 15_000;
/// How long a client may take to end a connection that the server has ended.
const FAREWELL_MS: u64 = 5_000;
/// Most frames that are taken in one after the other before the designs have their turn.
const FRAMES_AT_ONCE: usize = 64;

/// The stack.
pub struct Network {
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    handles: [SocketHandle; CONNECTIONS_MAX],
    /// Whether the server has a connection by this number.
    taken: [bool; CONNECTIONS_MAX],
    /// When it was accepted, or took bytes of an answer last.
    moved_ms: [u64; CONNECTIONS_MAX],
    /// When it was given back last.
    released_ms: [u64; CONNECTIONS_MAX],
    dhcp: Option<SocketHandle>,
    port: u16,
    clock: Clock,
}

impl Network {
    /// Listens at `port` of `address`, or of the address that DHCP will give. `None`: there is no network card.
    pub fn start(address: Option<Ipv4Cidr>, port: u16) -> Option<Network> {
        let system = call::system();
        let clock = Clock { ticks_per_ms: system.ticks_per_ms.max(1) };
        let mut card = Card { descriptor: call::open(NET).ok()?, received: [0; _], sent: [0; _] };
        let [m0, m1, m2, m3, m4, m5, ..] = system.mac.to_le_bytes();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress([m0, m1, m2, m3, m4, m5])));
        config.random_seed = call::ticks();
        let mut interface = Interface::new(config, &mut card, clock.now());
        let mut sockets = SocketSet::new(memory::slice(CONNECTIONS_MAX + 1, || SocketStorage::EMPTY)?);
        let dhcp = match address {
            Some(address) => {
                interface.update_ip_addrs(|addresses| addresses.push(IpCidr::Ipv4(address)).unwrap_or_default());
                None
            }
            None => Some(sockets.add(dhcpv4::Socket::new())),
        };
        let mut handles = [SocketHandle::default(); CONNECTIONS_MAX];
        for handle in &mut handles {
            let receive = tcp::SocketBuffer::new(memory::bytes(RECEIVE_BYTES)?);
            let send = tcp::SocketBuffer::new(memory::bytes(SEND_BYTES)?);
            let mut socket = tcp::Socket::new(receive, send);
            // What is small is whole here: a head, or the end of a file.
            socket.set_nagle_enabled(false);
            socket.set_timeout(Some(Duration::from_millis(PATIENCE_MS)));
            let _ = socket.listen(port);
            *handle = sockets.add(socket);
        }
        Some(Network {
            card,
            interface,
            sockets,
            handles,
            taken: [false; _],
            moved_ms: [0; _],
            released_ms: [0; _],
            dhcp,
            port,
            clock,
        })
    }

    /// The card's descriptor: what to wait for.
    pub fn descriptor(&self) -> u64 {
        self.card.descriptor
    }

    /// Takes in what has come, sends what is due.
    pub fn run(&mut self) {
        let now = self.clock.now();
        for _ in 0..FRAMES_AT_ONCE {
            let step = self.interface.poll_ingress_single(now, &mut self.card, &mut self.sockets);
            if matches!(step, crates::smoltcp::iface::PollIngressSingleResult::None) {
                break;
            }
        }
        self.flush();
        self.look_for_an_address();
        let slots = self.handles.iter().zip(&self.released_ms).zip(&self.taken);
        for ((&handle, &released_ms), _) in slots.filter(|(_, taken)| !**taken) {
            let socket = self.sockets.get_mut::<tcp::Socket>(handle);
            let is_ending = socket.is_open()
                && !socket.may_send()
                && !matches!(socket.state(), tcp::State::Listen | tcp::State::SynReceived);
            if is_ending && now.total_millis().unsigned_abs() - released_ms > FAREWELL_MS {
                socket.abort();
            } else if !socket.is_open() {
                let _ = socket.listen(self.port);
            }
        }
    }

    /// Sends what is due.
    pub fn flush(&mut self) {
        self.interface.poll_egress(self.clock.now(), &mut self.card, &mut self.sockets);
    }

    /// Nanoseconds until [`Network::run`] has something to do though nothing comes, at most `most`.
    pub fn idle_ns(&mut self, most: u64) -> u64 {
        let now = self.clock.now();
        let delay = self.interface.poll_delay(now, &self.sockets);
        delay.map_or(most, |delay| delay.total_micros().saturating_mul(1000).min(most))
    }

    /// Milliseconds since some time.
    pub fn now_ms(&self) -> u64 {
        self.clock.now().total_millis().unsigned_abs()
    }

    /// Whether the server has the connection of this number.
    pub fn is_taken(&self, connection: usize) -> bool {
        self.taken.get(connection).is_some_and(|taken| *taken)
    }

    /// Whether somebody new is connected by this number; the server has the connection from then on.
    pub fn accept(&mut self, connection: usize) -> bool {
        // Also when the client has said all that it will; but not when the server has, and it is being closed.
        let is_connected = self.socket(connection).is_some_and(|socket| socket.may_send());
        match self.taken.get_mut(connection) {
            Some(taken) if is_connected && !*taken => *taken = true,
            _ => return false,
        }
        true
    }

    /// Whether both sides could still talk: the client has neither ended nor reset it.
    pub fn is_open(&mut self, connection: usize) -> bool {
        self.socket(connection).is_some_and(|socket| socket.may_send() && (socket.may_recv() || socket.can_recv()))
    }

    /// Takes what has come; how many bytes.
    pub fn receive(&mut self, connection: usize, buffer: &mut [u8]) -> usize {
        self.socket(connection).and_then(|socket| socket.recv_slice(buffer).ok()).unwrap_or(0)
    }

    /// Sends as much of `bytes` as there is room for; how many. `None`: the client is gone, or takes nothing for too long.
    pub fn send(&mut self, connection: usize, bytes: &[u8]) -> Option<usize> {
        let now_ms = self.now_ms();
        let sent = self.socket(connection)?.send_slice(bytes).ok()?;
        let moved_ms = self.moved_ms.get_mut(connection)?;
        if sent > 0 || bytes.is_empty() {
            *moved_ms = now_ms;
        }
        (now_ms - *moved_ms <= PATIENCE_MS).then_some(sent)
    }

    /// Gives a connection back: what was sent still goes out, or with `at_once` the client is told that it is broken.
    pub fn release(&mut self, connection: usize, at_once: bool) {
        if let Some(socket) = self.socket(connection) {
            if at_once { socket.abort() } else { socket.close() }
        }
        let now_ms = self.now_ms();
        if let (Some(taken), Some(released_ms)) = (self.taken.get_mut(connection), self.released_ms.get_mut(connection))
        {
            (*taken, *released_ms) = (false, now_ms);
        }
    }

    fn socket(&mut self, connection: usize) -> Option<&mut tcp::Socket<'static>> {
        self.handles.get(connection).map(|handle| self.sockets.get_mut(*handle))
    }

    /// Takes the address and the way out that DHCP has given.
    fn look_for_an_address(&mut self) {
        let Some(handle) = self.dhcp else { return };
        let Some(event) = self.sockets.get_mut::<dhcpv4::Socket>(handle).poll() else { return };
        self.interface.update_ip_addrs(|addresses| addresses.clear());
        self.interface.routes_mut().remove_default_ipv4_route();
        if let dhcpv4::Event::Configured(config) = event {
            self.interface
                .update_ip_addrs(|addresses| addresses.push(IpCidr::Ipv4(config.address)).unwrap_or_default());
            if let Some(router) = config.router {
                let _ = self.interface.routes_mut().add_default_ipv4_route(router);
            }
            print!("server: address {}\n", config.address);
        }
    }
}

/// The time stamp counter as a clock: reading it takes no system call.
#[derive(Clone, Copy)]
struct Clock {
    ticks_per_ms: u64,
}

impl Clock {
    fn now(&self) -> Instant {
        let ticks = call::ticks();
        let (ms, rest) = (ticks / self.ticks_per_ms, ticks % self.ticks_per_ms);
        Instant::from_micros((ms * 1000 + rest * 1000 / self.ticks_per_ms) as i64)
    }
}

/// The network card as smoltcp wants it.
struct Card {
    descriptor: u64,
    received: [u8; FRAME_BYTES_MAX as usize],
    sent: [u8; FRAME_BYTES_MAX as usize],
}

/// A frame that has come.
struct Received<'a>(&'a [u8]);

/// Room for one that goes.
struct Sending<'a> {
    descriptor: u64,
    room: &'a mut [u8],
}

impl Device for Card {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, Sending<'_>)> {
        let bytes = call::try_read(self.descriptor, &mut self.received, 0).ok()?;
        let sending = Sending { descriptor: self.descriptor, room: &mut self.sent };
        Some((Received(self.received.get(..bytes)?), sending))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        Some(Sending { descriptor: self.descriptor, room: &mut self.sent })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_BYTES_MAX as usize;
        capabilities
    }
}

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        look(self.0)
    }
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, fill: F) -> R {
        // smoltcp keeps to the transmission unit above.
        let frame = self.room.get_mut(..bytes).unwrap_or_default();
        let result = fill(frame);
        // A frame that is not taken is lost, as frames are: TCP sends it again.
        let _ = call::write(self.descriptor, frame);
        result
    }
}
