//! What programs may reach by sockets, and the names of those that they have bound.
//!
//! A socket of a program is one of the host's. `--allow-net` gives the host's networks and its own sockets. Without it a program has
//! sockets of its machine: pairs, and those of AF_UNIX, whose names lead to what programs of the same machine have bound, and nowhere
//! else: on the host such a socket has an abstract name with a random part, and where a program asked for a path there is a file of that
//! kind with nobody behind it.
//!
//! With `--allow-net` a path is bound as `/proc/self/fd/N/NAME`, N being the directory that the path was resolved to, below the root. The
//! directory stays open as long as the socket, so that no second socket has that name. In either case programs are told the name that
//! they gave.
//! Sources: socket(2), unix(7).

use super::files::{OpenFile, link};
use crate::bus::bus::lock;
use rustix::fs::{Access, AtFlags, FileType, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, addr::SocketAddrArg};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

/// Longest name in bytes, without a NUL behind it: `sun_path` less one, which is what all of the host's calls agree on.
const NAME_MAX: usize = 107;

/// Bytes of a family.
pub const FAMILY: usize = 2;
/// Most names of sockets that are closed that are remembered: connections made to them show them still, and their files are known.
const CLOSED_MAX: usize = 256;

/// What is refused without `--allow-net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// A socket of the Internet protocols.
    Internet,
    /// A connection or message to a socket of the host's.
    HostSocket,
}

impl Refusal {
    /// What is told of it.
    pub fn words(self) -> &'static str {
        match self {
            Refusal::Internet => "Internet sockets",
            Refusal::HostSocket => "sockets of the host",
        }
    }
}

/// Names of AF_UNIX sockets and what is allowed.
pub struct Sockets {
    allow_net: bool,
    bound: Mutex<Bound>,
    refused: Mutex<BTreeMap<Refusal, u64>>,
}

/// The names that programs have bound, in Hostel's words.
#[derive(Default)]
struct Bound {
    names: Vec<Name>,
    /// What tells this machine's names from all others, and the next name.
    prefix: Vec<u8>,
    next: u64,
}

/// One of them.
struct Name {
    /// As the program has it: `sun_path`, up to its NUL where it is a path.
    own: Vec<u8>,
    /// As the host has it.
    host: Vec<u8>,
    socket: Weak<OpenFile>,
    /// The file's device and inode, where a file stands for a name that is no path on the host.
    file: Option<(u64, u64)>,
    /// What the host's name leads through.
    directory: Option<OwnedFd>,
}

impl Name {
    fn is_open(&self) -> bool {
        self.socket.strong_count() > 0
    }
}

/// Where a socket of AF_UNIX is on the host.
pub struct Destination {
    /// Its address.
    pub address: SocketAddrAny,
    /// What the address leads through.
    _held: Option<OwnedFd>,
}

impl Destination {
    /// One that leads through nothing.
    pub fn new(address: SocketAddrAny) -> Destination {
        Destination { address, _held: None }
    }
}

impl Sockets {
    /// Of a machine whose programs have, or have not, the host's networks.
    pub fn new(allow_net: bool) -> Sockets {
        Sockets { allow_net, bound: Mutex::default(), refused: Mutex::default() }
    }

    /// Whether `--allow-net` is given; else it is noted that it was missed.
    ///
    /// # Errors
    /// EACCES, as socket(2) has it for who may not.
    pub fn need_net(&self, what: Refusal) -> Result<(), Errno> {
        if self.allow_net {
            return Ok(());
        }
        *lock(&self.refused).entry(what).or_default() += 1;
        Err(Errno::ACCESS)
    }

    /// What was refused, and how often.
    pub fn refused(&self) -> Vec<(Refusal, u64)> {
        lock(&self.refused).iter().map(|(what, count)| (*what, *count)).collect()
    }

    /// Binds a socket to an abstract name, without the zero that it begins with.
    ///
    /// # Errors
    /// EADDRINUSE, and what the host says.
    pub fn bind_abstract(&self, socket: &Arc<OpenFile>, name: &[u8]) -> Result<(), Errno> {
        if self.allow_net {
            return rustix::net::bind(socket.fd(), &SocketAddrUnix::new_abstract_name(name)?);
        }
        let own = [b"\0", name].concat();
        let mut bound = lock(&self.bound);
        bound.forget();
        let has_name = |name: &Name| std::ptr::eq(name.socket.as_ptr(), Arc::as_ptr(socket));
        if bound.names.iter().any(has_name) {
            return Err(Errno::INVAL);
        }
        if bound.names.iter().any(|other| other.own == own && other.is_open()) {
            return Err(Errno::ADDRINUSE);
        }
        let host = bound.fresh()?;
        rustix::net::bind(socket.fd(), &SocketAddrUnix::new_abstract_name(&host[1..])?)?;
        bound.names.push(Name { own, host, socket: Arc::downgrade(socket), file: None, directory: None });
        Ok(())
    }

    /// Binds a socket to a name that the host chooses.
    ///
    /// # Errors
    /// What the host says.
    pub fn bind_unnamed(&self, socket: &Arc<OpenFile>) -> Result<(), Errno> {
        rustix::net::bind(socket.fd(), &SocketAddrUnix::new_unnamed())?;
        if !self.allow_net {
            let address = SocketAddrUnix::try_from(rustix::net::getsockname(socket.fd())?)?;
            let own = [b"\0", address.abstract_name().unwrap_or_default()].concat();
            let mut bound = lock(&self.bound);
            bound.forget();
            let host = own.clone();
            bound.names.push(Name { own, host, socket: Arc::downgrade(socket), file: None, directory: None });
        }
        Ok(())
    }

    /// Binds a socket to a new file, an entry of a directory; `own` is the path as the program gave it.
    ///
    /// # Errors
    /// EADDRINUSE, ENAMETOOLONG, and what the host says.
    pub fn bind_path(
        &self,
        socket: &Arc<OpenFile>,
        own: &[u8],
        entry: (OwnedFd, Vec<u8>),
        mode: Mode,
    ) -> Result<(), Errno> {
        let (directory, name) = entry;
        let mut bound = lock(&self.bound);
        bound.forget();
        let (own, weak) = (own.to_vec(), Arc::downgrade(socket));
        if self.allow_net {
            let host = [link(directory.as_fd()).as_bytes(), b"/", &name].concat();
            let address = path_address(&host)?;
            // The file gets the mode of the socket, less this process's mask, which is empty.
            rustix::fs::fchmod(socket.fd(), mode)?;
            rustix::net::bind(socket.fd(), &address)?;
            bound.names.push(Name { own, host, socket: weak, file: None, directory: Some(directory) });
            return Ok(());
        }
        let host = bound.fresh()?;
        let made = rustix::fs::mknodat(&directory, name.as_slice(), FileType::Socket, mode, 0);
        made.map_err(|error| if error == Errno::EXIST { Errno::ADDRINUSE } else { error })?;
        let result = rustix::net::bind(socket.fd(), &SocketAddrUnix::new_abstract_name(&host[1..])?);
        let stat = result.and_then(|()| rustix::fs::statat(&directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW));
        let stat = stat.inspect_err(|_| {
            // What went wrong first is told.
            let _ = rustix::fs::unlinkat(&directory, name.as_slice(), AtFlags::empty());
        })?;
        let file = Some((stat.st_dev, stat.st_ino));
        bound.names.push(Name { own, host, socket: weak, file, directory: None });
        Ok(())
    }

    /// Where an abstract name leads, without the zero that it begins with.
    ///
    /// # Errors
    /// ECONNREFUSED: nobody in the machine has it.
    pub fn find_abstract(&self, name: &[u8]) -> Result<Destination, Errno> {
        if self.allow_net {
            return Ok(Destination::new(SocketAddrUnix::new_abstract_name(name)?.as_any()));
        }
        let bound = lock(&self.bound);
        let is_meant = |other: &&Name| other.own.split_first() == Some((&0, name)) && other.is_open();
        let found = bound.names.iter().find(is_meant).ok_or(Errno::CONNREFUSED)?;
        Ok(Destination::new(SocketAddrUnix::new_abstract_name(&found.host[1..])?.as_any()))
    }

    /// Where the file `found` leads, a descriptor that opens nothing.
    ///
    /// # Errors
    /// EACCES: to a socket of the host's, without `--allow-net`, or the file may not be written.
    pub fn find_file(&self, found: OwnedFd) -> Result<Destination, Errno> {
        let stat = rustix::fs::fstat(&found)?;
        let path = link(found.as_fd());
        if !self.allow_net && FileType::from_raw_mode(stat.st_mode).is_socket() {
            rustix::fs::access(&path, Access::WRITE_OK)?;
            let bound = lock(&self.bound);
            let file = Some((stat.st_dev, stat.st_ino));
            if let Some(name) = bound.names.iter().rfind(|name| name.file == file) {
                // Where it is closed, the host finds nobody either.
                return Ok(Destination::new(SocketAddrUnix::new_abstract_name(&name.host[1..])?.as_any()));
            }
            drop(bound);
            self.need_net(Refusal::HostSocket)?;
        }
        Ok(Destination { address: path_address(path.as_bytes())?.as_any(), _held: Some(found) })
    }

    /// A socket's address as a program sees it: the bytes of its structure.
    pub fn shown(&self, address: &SocketAddrAny) -> Vec<u8> {
        let family = address.address_family().as_raw().to_le_bytes();
        match address.address_family() {
            AddressFamily::INET | AddressFamily::INET6 => match address.clone().try_into() {
                Ok(std::net::SocketAddr::V4(address)) => {
                    [&family[..], &address.port().to_be_bytes(), &address.ip().octets(), &[0; 8]].concat()
                }
                Ok(std::net::SocketAddr::V6(address)) => [
                    &family[..],
                    &address.port().to_be_bytes(),
                    &address.flowinfo().to_be_bytes(),
                    &address.ip().octets(),
                    &address.scope_id().to_le_bytes(),
                ]
                .concat(),
                Err(_) => family.to_vec(),
            },
            AddressFamily::UNIX => [&family[..], &self.shown_name(address)].concat(),
            _ => family.to_vec(),
        }
    }

    /// `sun_path` as a program sees it; empty for a name of Hostel's whose socket is gone.
    fn shown_name(&self, address: &SocketAddrAny) -> Vec<u8> {
        // Two bytes of family. What is longer is a path of the host's without a NUL, which the conversion does not take, and what is
        // shorter is taken for a name.
        if !(FAMILY + 1..=FAMILY + NAME_MAX + 1).contains(&(address.addr_len() as usize)) {
            return Vec::new();
        }
        let Ok(address) = SocketAddrUnix::try_from(address.clone()) else { return Vec::new() };
        let bytes = match (address.path_bytes(), address.abstract_name()) {
            (Some(path), _) => path.to_vec(),
            (None, Some(name)) => [b"\0", name].concat(),
            (None, None) => return Vec::new(),
        };
        let bound = lock(&self.bound);
        let own = bound.names.iter().rfind(|name| name.host == bytes).map(|name| name.own.clone());
        let has_prefix = !bound.prefix.is_empty() && bytes.starts_with(&bound.prefix);
        let is_ours = has_prefix || bytes.starts_with(b"/proc/self/fd/");
        match own {
            None if is_ours => Vec::new(),
            own => {
                let mut own = own.unwrap_or(bytes);
                if own.first() != Some(&0) {
                    own.push(0);
                }
                own
            }
        }
    }
}

impl Bound {
    /// Lets go of names that lead nowhere: those that keep a directory open, and the oldest of others beyond a bound.
    fn forget(&mut self) {
        self.names.retain(|name| name.is_open() || name.directory.is_none());
        let closed = self.names.iter().filter(|name| !name.is_open()).count();
        let mut surplus = closed.saturating_sub(CLOSED_MAX);
        self.names.retain(|name| {
            let goes = surplus > 0 && !name.is_open();
            surplus -= usize::from(goes);
            !goes
        });
    }

    /// An abstract name that nobody has, with its zero.
    fn fresh(&mut self) -> Result<Vec<u8>, Errno> {
        if self.prefix.is_empty() {
            let mut random = [0; 16];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
            self.prefix = format!("\0hostel/{:032x}/", u128::from_le_bytes(random)).into_bytes();
        }
        self.next += 1;
        Ok([&self.prefix[..], self.next.to_string().as_bytes()].concat())
    }
}

fn path_address(path: &[u8]) -> Result<SocketAddrUnix, Errno> {
    if path.len() > NAME_MAX { Err(Errno::NAMETOOLONG) } else { SocketAddrUnix::new(path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::{Bench, DATA};
    use crate::process::syscall::call::Answer;
    use crate::process::syscall::{messages, sockets};
    use crate::process::task::Task;

    const UNIX: u64 = libc::AF_UNIX as u64;
    const STREAM: u64 = (libc::SOCK_STREAM | libc::SOCK_NONBLOCK) as u64;
    const DATAGRAM: u64 = (libc::SOCK_DGRAM | libc::SOCK_NONBLOCK) as u64;
    /// Where an answer's size and address are.
    const SIZE: u64 = DATA + 0x200;
    const ANSWER: u64 = DATA + 0x208;

    fn socket(task: &mut Task, kind: u64) -> u64 {
        sockets::socket(task, [UNIX, kind, 0, 0, 0, 0]).unwrap()
    }

    /// Puts an address into memory; where, and how long it is.
    fn named(task: &Task, name: &[u8]) -> [u64; 2] {
        task.write(DATA, &[&[1, 0], name].concat()).unwrap();
        [DATA, name.len() as u64 + 2]
    }

    fn bind(task: &mut Task, socket: u64, name: &[u8]) -> Answer {
        let [at, size] = named(task, name);
        sockets::bind(task, [socket, at, size, 0, 0, 0])
    }

    fn connect(task: &mut Task, socket: u64, name: &[u8]) -> Answer {
        let [at, size] = named(task, name);
        sockets::connect(task, [socket, at, size, 0, 0, 0])
    }

    /// The name that a call has told.
    fn told(task: &mut Task, call: fn(&mut Task, [u64; 6]) -> Answer, socket: u64) -> Vec<u8> {
        task.write(SIZE, &128u32.to_le_bytes()).unwrap();
        call(task, [socket, ANSWER, SIZE, 0, 0, 0]).unwrap();
        let size = u32::from_le_bytes(task.read(SIZE).unwrap());
        task.read_vec(ANSWER + 2, size as usize - 2).unwrap()
    }

    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("hostel-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Scratch(path.canonicalize().unwrap())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn names_lead_to_sockets_of_the_same_machine_and_are_told_as_they_were_given() {
        let scratch = Scratch::new("sockets-names");
        let mut bench = Bench::new(&scratch.0, true, false, &[]);
        let task = bench.task(0).unwrap();
        for (name, shown) in [(&b"\0name\0x"[..], &b"\0name\0x"[..]), (b"/path", b"/path\0")] {
            let (server, client) = (socket(task, STREAM), socket(task, STREAM));
            assert_eq!(bind(task, server, name), Ok(0));
            let other = socket(task, STREAM);
            assert_eq!(bind(task, other, name), Err(Errno::ADDRINUSE));
            assert_eq!(connect(task, client, name), Err(Errno::CONNREFUSED), "nobody listens");
            assert_eq!(sockets::listen(task, [server, 1, 0, 0, 0, 0]), Ok(0));
            assert_eq!(connect(task, client, name), Ok(0));
            let accepted = sockets::accept(task, [server, 0, 0, 0, 0, 0]).unwrap();
            for (call, socket) in [
                (sockets::getsockname as fn(&mut Task, [u64; 6]) -> Answer, server),
                (sockets::getpeername, client),
                (sockets::getsockname, accepted),
            ] {
                assert_eq!(told(task, call, socket), shown);
            }
            assert_eq!(told(task, sockets::getpeername, accepted), b"");
        }
        let kind = std::fs::symlink_metadata(scratch.0.join("path")).unwrap().file_type();
        assert!(std::os::unix::fs::FileTypeExt::is_socket(&kind));
        bench.finish();
    }

    #[test]
    fn messages_tell_who_sent_them() {
        let mut bench = Bench::new(&std::env::temp_dir(), false, false, &[]);
        let task = bench.task(0).unwrap();
        let (one, other) = (socket(task, DATAGRAM), socket(task, DATAGRAM));
        assert_eq!((bind(task, one, b"\0one"), bind(task, other, b"\0other")), (Ok(0), Ok(0)));
        let [at, size] = named(task, b"\0other");
        assert_eq!(messages::sendto(task, [one, DATA, 3, 0, at, size]), Ok(3));
        let from: fn(&mut Task, [u64; 6]) -> Answer =
            |task, [socket, at, size, ..]| messages::recvfrom(task, [socket, DATA + 0x100, 9, 0, at, size]);
        assert_eq!(told(task, from, other), b"\0one");
        let [at, size] = named(task, b"\0nobody");
        assert_eq!(messages::sendto(task, [one, DATA, 3, 0, at, size]), Err(Errno::CONNREFUSED));
        assert_eq!(task.world.sockets.refused(), []);
        bench.finish();
    }

    #[test]
    fn without_the_network_nothing_of_the_hosts_is_reached() {
        let scratch = Scratch::new("sockets-host");
        let listener = std::os::unix::net::UnixListener::bind(scratch.0.join("host")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut bench = Bench::new(&scratch.0, false, false, &[]);
        let task = bench.task(0).unwrap();
        for family in [libc::AF_INET, libc::AF_INET6] {
            assert_eq!(sockets::socket(task, [family as u64, STREAM, 0, 0, 0, 0]), Err(Errno::ACCESS));
        }
        assert_eq!(sockets::socket(task, [libc::AF_NETLINK as u64, 3, 0, 0, 0, 0]), Err(Errno::AFNOSUPPORT));
        let client = socket(task, STREAM);
        assert_eq!(connect(task, client, b"/host"), Err(Errno::ACCESS));
        assert_eq!(bind(task, client, b"/new"), Err(Errno::ROFS));
        assert!(listener.accept().is_err());
        // What was inherited is no way there either.
        let address = [2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        task.write(DATA, &address).unwrap();
        for call in [sockets::bind, sockets::connect] {
            assert_eq!(call(task, [client, DATA, 16, 0, 0, 0]), Err(Errno::ACCESS));
        }
        let refused = [(Refusal::Internet, 4), (Refusal::HostSocket, 1)];
        assert_eq!(task.world.sockets.refused(), refused);
        bench.finish();
    }
}
