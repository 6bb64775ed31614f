//! Making, naming and connecting sockets: socket(2), socketpair(2), bind(2), listen(2), accept(2), connect(2), shutdown(2),
//! getsockname(2), getpeername(2).
//!
//! A socket is one of the host's, so a call that waits does so on the host, and non-blocking ones do not. [`crate::process::sockets`] says
//! what may be reached. Leaves out families other than AF_UNIX, AF_INET and AF_INET6, raw sockets, and protocols that no common program
//! asks for. Sources: socket(2), accept(2), connect(2), socketpair(2).

use super::address::{self, Address};
use super::call::{Answer, Arguments};
use super::open::HERE;
use crate::bus::bus::lock;
use crate::process::files::OpenFile;
use crate::process::sockets::Refusal;
use crate::process::task::Task;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, Shutdown, SocketFlags, SocketType, addr::SocketAddrArg};
use std::os::fd::OwnedFd;

/// Bits of a socket's type; what is above are flags.
const TYPE: u32 = 0xf;
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);
/// Protocols of the Internet families: the one that goes with the type, and those by name. ICMP is that of ping without rights (icmp(7)).
const PROTOCOLS: [i32; 5] =
    [libc::IPPROTO_IP, libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6];

/// What a socket is to be.
struct Kind {
    family: AddressFamily,
    kind: SocketType,
    flags: SocketFlags,
    protocol: Option<Protocol>,
}

impl Kind {
    /// # Errors
    /// EINVAL, EAFNOSUPPORT, EPROTONOSUPPORT; EACCES: not without `--allow-net`; EPERM: raw.
    fn new(task: &Task, family: u64, kind: u64, protocol: u64) -> Result<Kind, Errno> {
        let (family, kind, protocol) = (family as i32, kind as u32, protocol as i32);
        let flags = SocketFlags::from_bits_retain(kind & !TYPE);
        if !FLAGS.contains(flags) {
            return Err(Errno::INVAL);
        }
        match family {
            libc::AF_UNIX => {}
            libc::AF_INET | libc::AF_INET6 => {
                task.world.sockets.need_net(Refusal::Internet)?;
                if (kind & TYPE) as i32 == libc::SOCK_RAW {
                    return Err(Errno::PERM);
                }
                if !PROTOCOLS.contains(&protocol) {
                    return Err(Errno::PROTONOSUPPORT);
                }
            }
            _ => return Err(Errno::AFNOSUPPORT),
        }
        let protocol = u32::try_from(protocol).map_err(|_| Errno::PROTONOSUPPORT)?;
        Ok(Kind {
            family: AddressFamily::from_raw(family as u16),
            kind: SocketType::from_raw(kind & TYPE),
            flags,
            protocol: std::num::NonZeroU32::new(protocol).map(Protocol::from_raw),
        })
    }

    fn closes_on_exec(&self) -> bool {
        self.flags.contains(SocketFlags::CLOEXEC)
    }
}

/// socket(2).
pub fn socket(task: &mut Task, [family, kind, protocol, ..]: Arguments) -> Answer {
    let wanted = Kind::new(task, family, kind, protocol)?;
    let flags = wanted.flags | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(wanted.family, wanted.kind, flags, wanted.protocol)?;
    task.add_file(OpenFile::new(fd, false), wanted.closes_on_exec())
}

/// socketpair(2); there are pairs of AF_UNIX only, as on Linux.
pub fn socketpair(task: &mut Task, [family, kind, protocol, numbers, ..]: Arguments) -> Answer {
    if matches!(family as i32, libc::AF_INET | libc::AF_INET6) {
        return Err(Errno::OPNOTSUPP);
    }
    let wanted = Kind::new(task, family, kind, protocol)?;
    let flags = wanted.flags | SocketFlags::CLOEXEC;
    let (one, other) = rustix::net::socketpair(wanted.family, wanted.kind, flags, wanted.protocol)?;
    super::open::add_pair(task, one, other, wanted.closes_on_exec(), numbers)
}

/// bind(2).
pub fn bind(task: &mut Task, [fd, at, size, ..]: Arguments) -> Answer {
    let socket = task.file(fd)?;
    let sockets = &task.world.sockets;
    match address::read(task, at, size)? {
        Address::Unspecified | Address::Other => return Err(address::of_other_family(&socket)),
        Address::Internet(address) => {
            sockets.need_net(Refusal::Internet)?;
            rustix::net::bind(socket.fd(), &address)?;
        }
        Address::Unnamed => sockets.bind_unnamed(&socket)?,
        Address::Abstract(name) => sockets.bind_abstract(&socket, &name)?,
        Address::Path(own) => {
            let path = task.absolute(HERE, own.clone())?;
            if task.world.root.look(&path, false).is_ok() {
                return Err(Errno::ADDRINUSE);
            }
            let entry = task.world.root.parent_to_change(&path)?;
            let mode = Mode::from_raw_mode(0o777 & !lock(&task.place).umask);
            // A file of the right family comes first: none is left behind for a socket that cannot have one.
            if rustix::net::sockopt::socket_domain(socket.fd())? != AddressFamily::UNIX {
                return Err(Errno::INVAL);
            }
            sockets.bind_path(&socket, &own, entry, mode)?;
        }
    }
    Ok(0)
}

/// listen(2).
pub fn listen(task: &mut Task, [fd, backlog, ..]: Arguments) -> Answer {
    rustix::net::listen(task.file(fd)?.fd(), backlog as i32).map(|()| 0)
}

/// accept(2).
pub fn accept(task: &mut Task, [fd, at, size, ..]: Arguments) -> Answer {
    accept4(task, [fd, at, size, 0, 0, 0])
}

/// accept4(2).
pub fn accept4(task: &mut Task, [fd, at, size, flags, ..]: Arguments) -> Answer {
    let flags = SocketFlags::from_bits_retain(flags as u32);
    if !FLAGS.contains(flags) {
        return Err(Errno::INVAL);
    }
    let socket = task.file(fd)?;
    let (fd, from): (OwnedFd, _) = rustix::net::acceptfrom_with(socket.fd(), flags | SocketFlags::CLOEXEC)?;
    if at != 0 {
        address::tell(task, from.as_ref(), at, size)?;
    }
    task.add_file(OpenFile::new(fd, false), flags.contains(SocketFlags::CLOEXEC))
}

/// connect(2).
pub fn connect(task: &mut Task, [fd, at, size, ..]: Arguments) -> Answer {
    let socket = task.file(fd)?;
    match address::read(task, at, size)? {
        Address::Unspecified => rustix::net::connect_unspec(socket.fd())?,
        address => rustix::net::connect(socket.fd(), &address::destination(task, &socket, address)?.address)?,
    }
    Ok(0)
}

/// shutdown(2).
pub fn shutdown(task: &mut Task, [fd, how, ..]: Arguments) -> Answer {
    let socket = task.file(fd)?;
    let how = match how as i32 {
        libc::SHUT_RD => Shutdown::Read,
        libc::SHUT_WR => Shutdown::Write,
        libc::SHUT_RDWR => Shutdown::Both,
        _ => return Err(Errno::INVAL),
    };
    rustix::net::shutdown(socket.fd(), how).map(|()| 0)
}

/// getsockname(2).
pub fn getsockname(task: &mut Task, [fd, at, size, ..]: Arguments) -> Answer {
    let own = rustix::net::getsockname(task.file(fd)?.fd())?;
    address::tell(task, Some(&own.as_any()), at, size).map(|()| 0)
}

/// getpeername(2).
pub fn getpeername(task: &mut Task, [fd, at, size, ..]: Arguments) -> Answer {
    let peer = rustix::net::getpeername(task.file(fd)?.fd())?;
    address::tell(task, peer.as_ref(), at, size).map(|()| 0)
}
