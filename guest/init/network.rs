//! A network interface that gets the address which Hostel knows of: that of the network behind `--net user`.
//!
//! What to set stands in a file of the initramfs, in words: the interface's hardware address, its address, mask, router, name server
//! (`src/machine/root.rs`). Left out: DHCP, IPv6, which the kernel sets up by itself, and interfaces beyond the first.
//! Sources: netdevice(7), Linux route.h (`struct rtentry`), resolv.conf(5), sysfs(5).

use crate::syscalls::{self, Errno, call};
use crate::{commands, filesystems};

/// Where interfaces have their names.
const INTERFACES: &str = "/sys/class/net";
/// Where a system looks its name servers up, and where the guest has its own.
const RESOLVER: &str = "/etc/resolv.conf";
const OWN_RESOLVER: &str = "/run/resolv.conf";
/// The longest name of an interface, with its zero byte.
const NAME: usize = 16;
/// How often, and how far apart, the interface is looked for.
const TRIES: u32 = 100;
const PAUSE_MS: u64 = 10;

/// ioctl requests: set address, mask, flags and the longest packet of an interface, add a route.
const SET_ADDRESS: usize = 0x8916;
const SET_MASK: usize = 0x891c;
const SET_FLAGS: usize = 0x8914;
const SET_MTU: usize = 0x8922;
const ADD_ROUTE: usize = 0x890b;
/// The longest packet, as passt's DHCP server would tell: there is no cable.
const MTU: u32 = 65_520;
const UP: u8 = 1;
const INET: u8 = 2;

/// The words of the file, as far as there are any.
pub struct Network<'a>([&'a str; 5]);

impl<'a> Network<'a> {
    /// What the file says; `None` where there is none.
    pub fn read(buffer: &'a mut [u8]) -> Option<Network<'a>> {
        let text = commands::read_file("/hostel/network", buffer).ok()?;
        let mut words = text.split_ascii_whitespace();
        let mut next = || words.next();
        Some(Network([next()?, next()?, next()?, next()?, next()?]))
    }

    /// Sets the interface up, in the root that the system has by now; `writes` says that what is written there stays.
    ///
    /// # Errors
    /// There is no such interface, or the kernel refuses.
    pub fn set_up(&self, writes: bool) -> Result<(), Errno> {
        const INVALID: Errno = Errno(22);
        const NO_DEVICE: Errno = Errno(19);
        let [hardware, address, mask, router, resolver] = self.0;
        let interface = find(hardware).ok_or(NO_DEVICE)?;
        let address = parse(address).ok_or(INVALID)?;
        let mask = parse(mask).ok_or(INVALID)?;
        let router = parse(router).ok_or(INVALID)?;
        with_socket(|socket| {
            ask(socket, SET_ADDRESS, &request(&interface, &of_internet(address)))?;
            ask(socket, SET_MASK, &request(&interface, &of_internet(mask)))?;
            // A driver that knows only shorter ones keeps its own.
            let _ = ask(socket, SET_MTU, &request(&interface, &MTU.to_le_bytes()));
            ask(socket, SET_FLAGS, &request(&interface, &[UP]))?;
            ask(socket, ADD_ROUTE, &default_route(router))
        })?;
        name_server(resolver, writes);
        Ok(())
    }
}

/// Brings up the loopback interface, which gets its addresses by that.
pub fn bring_up_loopback() -> Result<(), Errno> {
    with_socket(|socket| ask(socket, SET_FLAGS, &request(b"lo", &[UP])))
}

/// The interface with this hardware address, when its driver has made it.
fn find(hardware: &str) -> Option<[u8; NAME]> {
    for _ in 0..TRIES {
        let found = commands::directory(INTERFACES, |name| {
            let (mut path, mut text) = ([0; 64], [0; 32]);
            let path = commands::joined(&[INTERFACES.as_bytes(), b"/", name, b"/address"], &mut path)?;
            let said = commands::read_file(path, &mut text).ok()?;
            let mut whole = [0; NAME];
            whole[..NAME - 1].get_mut(..name.len())?.copy_from_slice(name);
            (said.trim_end() == hardware).then_some(whole)
        });
        if let Ok(Some(name)) = found {
            return Some(name);
        }
        syscalls::sleep(PAUSE_MS);
    }
    None
}

/// Has programs ask this name server. The directory's own file stays as it is where what is written stays: another one is mounted over it.
fn name_server(address: &str, writes: bool) {
    let mut line = [0; 64];
    let Some(line) = commands::joined(&[b"nameserver ", address.as_bytes(), b"\n"], &mut line) else { return };
    if filesystems::write_file(OWN_RESOLVER, line.as_bytes()).is_err() {
        return;
    }
    let mounted = filesystems::mount(OWN_RESOLVER, RESOLVER, "", filesystems::BIND, "");
    // A link to a file that only the host has: what is written here is gone at the end.
    if mounted.is_err() && !writes {
        filesystems::remove(RESOLVER);
        let _ = filesystems::write_file(RESOLVER, line.as_bytes());
    }
}

fn with_socket(work: impl FnOnce(usize) -> Result<(), Errno>) -> Result<(), Errno> {
    const DATAGRAM: usize = 2;
    // SAFETY: takes no pointer.
    let socket = unsafe { call(41, [INET.into(), DATAGRAM, 0, 0, 0]) }?;
    let result = work(socket);
    syscalls::close(socket);
    result
}

/// The largest structure that is handed to the kernel.
const STRUCTURE: usize = 120;

fn ask(socket: usize, number: usize, structure: &[u8; STRUCTURE]) -> Result<(), Errno> {
    // SAFETY: the kernel reads a `struct ifreq` of 40 bytes or a `struct rtentry` of 120.
    unsafe { call(16, [socket, number, structure.as_ptr() as usize, 0, 0]) }.map(drop)
}

/// `struct ifreq`: a name of 16 bytes, then what is set.
fn request(interface: &[u8], what: &[u8]) -> [u8; STRUCTURE] {
    let mut request = [0; STRUCTURE];
    request[..interface.len()].copy_from_slice(interface);
    request[NAME..NAME + what.len()].copy_from_slice(what);
    request
}

/// `struct rtentry` of the route to everywhere: destination and mask are zero.
fn default_route(router: [u8; 4]) -> [u8; STRUCTURE] {
    const DESTINATION: usize = 8;
    const ROUTER: usize = 24;
    const MASK: usize = 40;
    const FLAGS: usize = 56;
    const UP_BY_ROUTER: u8 = 1 | 2;
    let mut route = [0; STRUCTURE];
    for (at, address) in [(DESTINATION, [0; 4]), (ROUTER, router), (MASK, [0; 4])] {
        let address = of_internet(address);
        route[at..at + address.len()].copy_from_slice(&address);
    }
    route[FLAGS] = UP_BY_ROUTER;
    route
}

/// `struct sockaddr_in`: the family, a port, the address.
fn of_internet(address: [u8; 4]) -> [u8; 8] {
    let [a, b, c, d] = address;
    [INET, 0, 0, 0, a, b, c, d]
}

fn parse(text: &str) -> Option<[u8; 4]> {
    let mut bytes = [0; 4];
    let mut words = text.split('.');
    for byte in &mut bytes {
        *byte = words.next()?.parse().ok()?;
    }
    Some(bytes)
}
