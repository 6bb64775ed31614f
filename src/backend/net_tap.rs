//! A network interface of the host (tap): frames with a header that says which checksums and cuts are left to it.
//!
//! Sources: tuntap.rst; if_tun.h for the ioctls.

use super::net_port::{Arrived, FRAME_MAX, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HEADER_BYTES, NetPort, OFFLOADS, Sent};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read, writev};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const DEVICE: &str = "/dev/net/tun";

/// A tap interface.
#[derive(Debug)]
pub struct NetTap {
    fd: OwnedFd,
    /// The frame that has come, behind its header, and the bytes of both; 0: none.
    frame: Box<[u8]>,
    there: usize,
    /// The interface is no more.
    is_gone: bool,
}

/// A tap that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name is none.
    #[error("--net tap:{0}: an interface's name has 1 to 15 bytes, without a slash or a space")]
    Name(String),
    /// Something that the host refuses.
    #[error(
        "{what} for --net tap:{name}: {source}. An interface that exists must belong to this user: `ip tuntap add {name} mode tap user $USER`"
    )]
    Host {
        /// What was tried.
        what: &'static str,
        /// The interface.
        name: String,
        /// Why not.
        source: io::Error,
    },
}

impl NetTap {
    /// Opens interface `name`, or creates it where that is permitted.
    ///
    /// # Errors
    /// The host refuses.
    pub fn open(name: &str) -> Result<NetTap, TapError> {
        let valid = |byte: u8| !matches!(byte, b'/' | b' ' | b'%' | 0);
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || !name.bytes().all(valid) {
            return Err(TapError::Name(name.into()));
        }
        let failed = |what| {
            let name = name.to_owned();
            move |source: io::Error| TapError::Host { what, name, source }
        };
        let fd = open(DEVICE, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed("open /dev/net/tun")(error.into()))?;
        attach(fd.as_fd(), name).map_err(failed("attach"))?;
        Ok(NetTap { fd, frame: vec![0; FRAME_MAX].into_boxed_slice(), there: 0, is_gone: false })
    }
}

impl NetPort for NetTap {
    fn features(&self) -> u64 {
        OFFLOADS
    }

    fn start(&mut self, features: u64) {
        let words = [(GUEST_CSUM, libc::TUN_F_CSUM), (GUEST_TSO4, libc::TUN_F_TSO4), (GUEST_TSO6, libc::TUN_F_TSO6)];
        let offloads = words.iter().filter(|(feature, _)| features & feature != 0).fold(0, |all, (_, word)| all | word);
        // Where the host refuses, it sends nothing that the guest would have to complete: slower, and right.
        let _ = set_offloads(self.fd.as_fd(), offloads);
    }

    fn send(&mut self, header: &[u8; HEADER_BYTES], frame: &[u8]) -> Sent {
        match writev(&self.fd, &[IoSlice::new(header), IoSlice::new(frame)]) {
            Err(Errno::AGAIN) => Sent::Full,
            // An interface that is down or a frame that it refuses: lost, as on a cable.
            _ => Sent::Taken,
        }
    }

    fn peek(&mut self) -> Option<Arrived<'_>> {
        if self.there == 0 {
            let read = read(&self.fd, &mut self.frame[..]);
            // The descriptor of an interface that was deleted always has something to tell: that.
            self.is_gone |= read == Err(Errno::BADFD);
            self.there = read.ok().filter(|&length| length >= HEADER_BYTES)?;
        }
        let (header, frame) = self.frame[..self.there].split_first_chunk()?;
        Some(Arrived { header, frame })
    }

    fn take(&mut self) {
        self.there = 0;
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.is_gone).then(|| self.fd.as_fd())
    }
}

/// Makes `fd` the file of interface `name`, with the virtio header of [`HEADER_BYTES`] before each frame.
fn attach(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    // SAFETY: an all-zero `ifreq` is valid; the name was checked to leave room for its NUL.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the descriptor is open, and the request is the structure that TUNSETIFF reads and writes.
    succeeded(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let size = HEADER_BYTES as libc::c_int;
    // SAFETY: as above; TUNSETVNETHDRSZ reads one int.
    succeeded(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) })
}

fn set_offloads(fd: BorrowedFd<'_>, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: the descriptor is open; TUNSETOFFLOAD takes its argument by value.
    succeeded(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })
}

fn succeeded(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
