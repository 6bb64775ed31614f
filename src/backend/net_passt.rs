//! The user's network without root: a `passt` of our own behind a socket pair. It translates the guest's connections into
//! those of an ordinary process of this user, and ends when the socket closes.
//!
//! Source: passt(1).

use super::net_stream::NetStream;
use rustix::net::sockopt::set_socket_send_buffer_size;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

const PROGRAM: &str = "passt";
/// The guest's address, which passt's DHCP server hands out, and its mask. The host's own would not do: a guest with that could not
/// reach the host.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Mask of the network that the guest is in.
pub const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
/// The router, behind whose address is the host itself too.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The name server, which asks the host's.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// Bytes that wait in the socket each way, as far as the host allows: as many as passt asks for itself where it opens the socket. What has
/// no room there it drops, and a guest's TCP stands still for seconds until it comes again.
const WAITING_BYTES: usize = 8 << 20;

/// A passt that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PasstError {
    /// It is not installed.
    #[error("--net user needs passt: install the package `passt` (https://passt.top), or use tap:")]
    Missing,
    /// The host refuses to start it.
    #[error("start passt for --net user: {0}")]
    Start(io::Error),
}

/// A port of the host that leads to one of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// TCP port of the host.
    pub host: u16,
    /// TCP port of the guest.
    pub guest: u16,
}

/// Starts a passt and gives the port behind which it is.
///
/// # Errors
/// It is not installed, or cannot be started.
pub fn start(forwards: &[Forward]) -> Result<NetStream, PasstError> {
    let (ours, theirs) = UnixStream::pair().map_err(PasstError::Start)?;
    for end in [&ours, &theirs] {
        set_socket_send_buffer_size(end, WAITING_BYTES).map_err(|error| PasstError::Start(error.into()))?;
    }
    // Only this copy outlives the exec.
    let inherited = rustix::io::dup(&theirs).map_err(|error| PasstError::Start(error.into()))?;
    let mut command = Command::new(PROGRAM);
    command.args(["--foreground", "--quiet", "--fd", &inherited.as_raw_fd().to_string()]);
    for (option, address) in
        [("--address", GUEST), ("--netmask", MASK), ("--gateway", ROUTER), ("--dns-forward", NAME_SERVER)]
    {
        command.args([option, &address.to_string()]);
    }
    if !forwards.is_empty() {
        let ports: Vec<_> = forwards.iter().map(|ports| format!("{}:{}", ports.host, ports.guest)).collect();
        command.args(["--tcp-ports", &ports.join(",")]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let started = command.spawn();
    drop(inherited);
    match started {
        // It ends with the socket; whoever ends first, nobody waits for the other.
        Ok(_) => Ok(NetStream::new(OwnedFd::from(ours))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(PasstError::Missing),
        Err(error) => Err(PasstError::Start(error)),
    }
}
