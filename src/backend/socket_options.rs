//! Options of sockets that take plain values: getsockopt(2) and setsockopt(2) by a list.
//!
//! Options whose value holds an address (filters, TCP_ZEROCOPY_RECEIVE), change the host (SO_MARK, TCP_CONGESTION, SO_BINDTODEVICE) or add
//! control messages are not in it. Each takes and gives what the host makes of its bytes.
//! Sources: socket(7), ip(7), ipv6(7), tcp(7).

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Who may set an option.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Both,
}

/// An option of the list.
#[derive(Clone, Copy)]
pub struct SocketOption {
    level: i32,
    name: i32,
    /// Most bytes of its value that anybody looks at.
    size: usize,
    access: Access,
}

/// Bytes of an `int`.
const INT: usize = 4;
/// Most bytes of any value.
pub const SIZE_MAX: usize = 256;

const fn plain(level: i32, name: i32) -> SocketOption {
    SocketOption { level, name, size: INT, access: Access::Both }
}

const fn told(level: i32, name: i32) -> SocketOption {
    SocketOption { access: Access::Read, ..plain(level, name) }
}

const fn long(level: i32, name: i32, size: usize) -> SocketOption {
    SocketOption { size, ..plain(level, name) }
}

const OPTIONS: &[SocketOption] = &[
    plain(libc::SOL_SOCKET, libc::SO_REUSEADDR),
    told(libc::SOL_SOCKET, libc::SO_TYPE),
    told(libc::SOL_SOCKET, libc::SO_ERROR),
    plain(libc::SOL_SOCKET, libc::SO_DONTROUTE),
    plain(libc::SOL_SOCKET, libc::SO_BROADCAST),
    plain(libc::SOL_SOCKET, libc::SO_SNDBUF),
    plain(libc::SOL_SOCKET, libc::SO_RCVBUF),
    plain(libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    plain(libc::SOL_SOCKET, libc::SO_OOBINLINE),
    // struct linger: two numbers.
    long(libc::SOL_SOCKET, libc::SO_LINGER, 8),
    plain(libc::SOL_SOCKET, libc::SO_REUSEPORT),
    plain(libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    told(libc::SOL_SOCKET, libc::SO_SNDLOWAT),
    // struct timeval.
    long(libc::SOL_SOCKET, libc::SO_RCVTIMEO, 16),
    long(libc::SOL_SOCKET, libc::SO_SNDTIMEO, 16),
    told(libc::SOL_SOCKET, libc::SO_ACCEPTCONN),
    told(libc::SOL_SOCKET, libc::SO_PROTOCOL),
    told(libc::SOL_SOCKET, libc::SO_DOMAIN),
    plain(libc::IPPROTO_IP, libc::IP_TOS),
    plain(libc::IPPROTO_IP, libc::IP_TTL),
    plain(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    plain(libc::IPPROTO_IP, libc::IP_RECVERR),
    told(libc::IPPROTO_IP, libc::IP_MTU),
    plain(libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
    // struct ip_mreqn: two addresses and an interface.
    long(libc::IPPROTO_IP, libc::IP_MULTICAST_IF, 12),
    plain(libc::IPPROTO_IP, libc::IP_MULTICAST_TTL),
    plain(libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP),
    long(libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, 12),
    long(libc::IPPROTO_IP, libc::IP_DROP_MEMBERSHIP, 12),
    plain(libc::IPPROTO_TCP, libc::TCP_NODELAY),
    plain(libc::IPPROTO_TCP, libc::TCP_MAXSEG),
    plain(libc::IPPROTO_TCP, libc::TCP_CORK),
    plain(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    plain(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    plain(libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    plain(libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    plain(libc::IPPROTO_TCP, libc::TCP_LINGER2),
    plain(libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    // struct tcp_info, which grows.
    SocketOption { access: Access::Read, ..long(libc::IPPROTO_TCP, libc::TCP_INFO, SIZE_MAX) },
    plain(libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    plain(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    plain(libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    plain(libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF),
    plain(libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS),
    plain(libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP),
    // struct ipv6_mreq: an address and an interface.
    long(libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, 20),
    long(libc::IPPROTO_IPV6, libc::IPV6_DROP_MEMBERSHIP, 20),
    plain(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    told(libc::IPPROTO_IPV6, libc::IPV6_MTU),
    plain(libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    plain(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    plain(libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
];

impl SocketOption {
    /// The option of a level and name, if the list has it.
    pub fn find(level: i32, name: i32) -> Option<SocketOption> {
        OPTIONS.iter().find(|option| (option.level, option.name) == (level, name)).copied()
    }

    /// Most bytes of its value that anybody looks at.
    pub fn size(self) -> usize {
        self.size
    }

    /// Its value: fills `value` and gives how many bytes of it are meant.
    ///
    /// # Errors
    /// What the host says.
    pub fn get(self, socket: BorrowedFd<'_>, value: &mut [u8]) -> Result<usize, Errno> {
        let mut size = value.len() as libc::socklen_t;
        // SAFETY: the options of the list write up to `size` bytes at `value` and nothing else; both are this call's.
        let result = unsafe {
            libc::getsockopt(socket.as_raw_fd(), self.level, self.name, value.as_mut_ptr().cast(), &raw mut size)
        };
        succeeded(result).map(|()| (size as usize).min(value.len()))
    }

    /// Sets it.
    ///
    /// # Errors
    /// ENOPROTOOPT: it is only told; what the host says.
    pub fn set(self, socket: BorrowedFd<'_>, value: &[u8]) -> Result<(), Errno> {
        if self.access == Access::Read {
            return Err(Errno::NOPROTOOPT);
        }
        let size = value.len() as libc::socklen_t;
        // SAFETY: the options of the list read up to `size` bytes at `value`, which hold no address.
        succeeded(unsafe { libc::setsockopt(socket.as_raw_fd(), self.level, self.name, value.as_ptr().cast(), size) })
    }
}

fn succeeded(result: libc::c_int) -> Result<(), Errno> {
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketType, socket};
    use std::os::fd::AsFd;

    #[test]
    fn options_are_set_told_and_bounded() {
        let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let option = |name| SocketOption::find(libc::SOL_SOCKET, name).unwrap();
        let mut value = [0; 4];
        assert_eq!(option(libc::SO_TYPE).get(fd.as_fd(), &mut value), Ok(4));
        assert_eq!(i32::from_le_bytes(value), libc::SOCK_STREAM);
        assert_eq!(option(libc::SO_TYPE).set(fd.as_fd(), &value), Err(Errno::NOPROTOOPT));
        assert_eq!(option(libc::SO_KEEPALIVE).set(fd.as_fd(), &[1, 0]), Err(Errno::INVAL), "too short");
        assert_eq!(option(libc::SO_REUSEADDR).set(fd.as_fd(), &[1, 0, 0, 0]), Ok(()));
        let mut short = [7; 1];
        assert_eq!((option(libc::SO_REUSEADDR).get(fd.as_fd(), &mut short), short), (Ok(1), [1]));
        assert!(SocketOption::find(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER).is_none());
        assert!(OPTIONS.iter().all(|option| option.size <= SIZE_MAX));
    }
}
