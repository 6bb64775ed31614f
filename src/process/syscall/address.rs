//! Addresses of sockets: from a program's memory, and into it.
//!
//! Sources: ip(7), ipv6(7), unix(7) (layouts); Linux `net/socket.c` (`move_addr_to_kernel`, `move_addr_to_user`).

use crate::process::files::OpenFile;
use crate::process::sockets::{Destination, FAMILY, Refusal};
use crate::process::syscall::open::HERE;
use crate::process::task::Task;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrAny, sockopt::socket_domain};
use std::net::{Ipv6Addr, SocketAddrV4, SocketAddrV6};

/// Longest address (`struct sockaddr_storage`).
const SIZE_MAX: i32 = 128;
/// Longest of AF_UNIX (`struct sockaddr_un`).
const UNIX_MAX: usize = 110;

/// An address as a program gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// AF_UNSPEC.
    Unspecified,
    /// A family that there is not here.
    Other,
    /// AF_INET, AF_INET6.
    Internet(SocketAddrAny),
    /// AF_UNIX without a name.
    Unnamed,
    /// AF_UNIX, an abstract name without its first zero.
    Abstract(Vec<u8>),
    /// AF_UNIX, a path.
    Path(Vec<u8>),
}

/// The address that an argument points to.
///
/// # Errors
/// EINVAL: no such size; EFAULT; and as [`parse`].
pub fn read(task: &Task, address: u64, size: u64) -> Result<Address, Errno> {
    let size = size as i32;
    if !(0..=SIZE_MAX).contains(&size) {
        return Err(Errno::INVAL);
    }
    parse(&task.read_vec(address, size as usize)?)
}

/// The address that the bytes are.
///
/// # Errors
/// EINVAL: of no length that its family has.
pub fn parse(bytes: &[u8]) -> Result<Address, Errno> {
    let (family, rest) = bytes.split_first_chunk::<FAMILY>().ok_or(Errno::INVAL)?;
    match i32::from(u16::from_le_bytes(*family)) {
        libc::AF_UNSPEC => Ok(Address::Unspecified),
        libc::AF_INET => {
            let ([p, q, a, b, c, d], _) = rest.split_first_chunk().filter(|_| bytes.len() >= 16).ok_or(Errno::INVAL)?;
            Ok(Address::Internet(SocketAddrV4::new([*a, *b, *c, *d].into(), u16::from_be_bytes([*p, *q])).into()))
        }
        libc::AF_INET6 => {
            // The scope was added later (RFC 2553), and is optional.
            let ([p, q, flow @ ..], rest) = rest.split_first_chunk::<6>().ok_or(Errno::INVAL)?;
            let (address, scope) = rest.split_first_chunk::<16>().ok_or(Errno::INVAL)?;
            let scope = scope.first_chunk().map_or(0, |scope| u32::from_le_bytes(*scope));
            let (port, flow) = (u16::from_be_bytes([*p, *q]), u32::from_be_bytes(*flow));
            Ok(Address::Internet(SocketAddrV6::new(Ipv6Addr::from(*address), port, flow, scope).into()))
        }
        libc::AF_UNIX => match rest {
            _ if bytes.len() > UNIX_MAX => Err(Errno::INVAL),
            [] => Ok(Address::Unnamed),
            [0, name @ ..] => Ok(Address::Abstract(name.to_vec())),
            path => Ok(Address::Path(path.split(|byte| *byte == 0).next().unwrap_or(path).to_vec())),
        },
        _ => Ok(Address::Other),
    }
}

/// What a socket makes of an address of a family that it cannot use.
pub fn of_other_family(socket: &OpenFile) -> Errno {
    match socket_domain(socket.fd()) {
        Ok(AddressFamily::UNIX) => Errno::INVAL,
        Ok(_) => Errno::AFNOSUPPORT,
        Err(error) => error,
    }
}

/// Where a connection or message of `socket` to `address` goes.
///
/// # Errors
/// EACCES: not without `--allow-net`; what looking for a path gives; ECONNREFUSED; EINVAL, EAFNOSUPPORT.
pub fn destination(task: &Task, socket: &OpenFile, address: Address) -> Result<Destination, Errno> {
    let sockets = &task.world.sockets;
    match address {
        Address::Unspecified | Address::Other => Err(of_other_family(socket)),
        Address::Unnamed => Err(Errno::INVAL),
        Address::Internet(address) => {
            sockets.need_net(Refusal::Internet)?;
            Ok(Destination::new(address))
        }
        Address::Abstract(name) => sockets.find_abstract(&name),
        Address::Path(path) => {
            let path = task.absolute(HERE, path)?;
            sockets.find_file(task.world.root.look(&path, true)?)
        }
    }
}

/// Tells a program an address: as much of it as there is room for, and how long it is. `None` is one of no length.
///
/// # Errors
/// EFAULT; EINVAL: the room is negative.
pub fn tell(task: &Task, told: Option<&SocketAddrAny>, address: u64, size: u64) -> Result<(), Errno> {
    let room = i32::from_le_bytes(task.read(size)?);
    let bytes = told.map(|told| task.world.sockets.shown(told)).unwrap_or_default();
    let room = usize::try_from(room).map_err(|_| Errno::INVAL)?;
    task.write(address, &bytes[..bytes.len().min(room)])?;
    task.write(size, &(bytes.len() as u32).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(family: i32, rest: &[u8]) -> Vec<u8> {
        [&(family as u16).to_le_bytes(), rest].concat()
    }

    #[test]
    fn addresses_are_of_the_length_that_their_family_has() {
        for (family, least) in [(libc::AF_INET, 16), (libc::AF_INET6, 24)] {
            for size in 2..40 {
                let parsed = parse(&bytes(family, &vec![1; size - 2]));
                assert_eq!(parsed.is_ok(), size >= least, "{family} of {size}");
            }
        }
        assert_eq!((parse(&[]), parse(&[2])), (Err(Errno::INVAL), Err(Errno::INVAL)));
        assert_eq!(parse(&bytes(libc::AF_NETLINK, &[0; 10])), Ok(Address::Other));
        assert_eq!(parse(&bytes(libc::AF_UNIX, &[b'x'; 109])), Err(Errno::INVAL));
        assert_eq!(parse(&bytes(libc::AF_UNIX, &[b'x'; 108])), Ok(Address::Path(vec![b'x'; 108])));
        assert_eq!(parse(&bytes(libc::AF_UNIX, b"a\0b")), Ok(Address::Path(b"a".to_vec())));
        assert_eq!(parse(&bytes(libc::AF_UNIX, b"\0a\0b")), Ok(Address::Abstract(b"a\0b".to_vec())));
        assert_eq!(parse(&bytes(libc::AF_UNIX, b"\0")), Ok(Address::Abstract(Vec::new())));
        assert_eq!(parse(&bytes(libc::AF_UNIX, b"")), Ok(Address::Unnamed));
    }

    proptest! {
        #[test]
        fn what_is_read_is_told_again(rest in prop::collection::vec(any::<u8>(), 26), six in any::<bool>()) {
            let (family, size) = if six { (libc::AF_INET6, 28) } else { (libc::AF_INET, 16) };
            let mut given = bytes(family, &rest)[..size].to_vec();
            let Ok(Address::Internet(address)) = parse(&given) else { panic!("it is an address") };
            if !six {
                given[8..].fill(0);
            }
            prop_assert_eq!(crate::process::sockets::Sockets::new(true).shown(&address), given);
        }
    }
}
