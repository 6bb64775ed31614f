//! The host's side of a network device: takes frames and gives them, whole and without waiting.
//!
//! Source: virtio 1.2 §5.1.3 (feature bits), §5.1.6 (the header).

use std::os::fd::BorrowedFd;

/// Longest frame with the header that describes its offloads: 64 KiB of segments that the other side cuts (virtio 1.2 §5.1.6.2).
pub const FRAME_MAX: usize = 65_550 + HEADER_BYTES;
/// Bytes of `virtio_net_hdr` with its count of buffers (virtio 1.2 §5.1.6), which stands before each frame.
pub const HEADER_BYTES: usize = 12;

/// Feature: the device completes checksums of frames that it is given.
pub const CSUM: u64 = 1 << 0;
/// Feature: the driver takes frames whose checksum is to be completed.
pub const GUEST_CSUM: u64 = 1 << 1;
/// Feature: the driver takes TCP over IPv4 that is to be cut into segments.
pub const GUEST_TSO4: u64 = 1 << 7;
/// Feature: the driver takes TCP over IPv6 that is to be cut into segments.
pub const GUEST_TSO6: u64 = 1 << 8;
/// Feature: the device cuts TCP over IPv4 into segments.
pub const HOST_TSO4: u64 = 1 << 11;
/// Feature: the device cuts TCP over IPv6 into segments.
pub const HOST_TSO6: u64 = 1 << 12;
/// All of these.
pub const OFFLOADS: u64 = CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | HOST_TSO4 | HOST_TSO6;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way, or lost as a frame may be.
    Taken,
    /// There is no room now: wait until the descriptor takes bytes, then offer it again.
    Full,
}

/// A frame that has come, in the port's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived<'a> {
    /// What is left to be done for it; its count of buffers is the device's to set.
    pub header: &'a [u8; HEADER_BYTES],
    /// From the first address on.
    pub frame: &'a [u8],
}

/// The header of a frame for which nothing is left to be done.
pub const NOTHING_LEFT: [u8; HEADER_BYTES] = [0; HEADER_BYTES];

/// A place where frames go and come from.
pub trait NetPort: Send {
    /// Offloads that it can take over from the guest, as device features (virtio 1.2 §5.1.3).
    fn features(&self) -> u64 {
        0
    }

    /// The driver has accepted these features.
    fn start(&mut self, _features: u64) {}

    /// Takes a frame, its header before it; it may stay here until [`NetPort::flush`].
    fn send(&mut self, header: &[u8; HEADER_BYTES], frame: &[u8]) -> Sent;

    /// Sends on what it has taken, as far as there is room.
    fn flush(&mut self) {}

    /// The next frame that has come; the same one until [`NetPort::take`].
    fn peek(&mut self) -> Option<Arrived<'_>>;

    /// The frame that was looked at has been given on.
    fn take(&mut self);

    /// What to wait for: frames that come, and room for those that go. `None` when the other side has gone for good.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// What to wait for where there is no room, if that is something else.
    fn room_fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd()
    }

    /// Whether what to wait for is another descriptor than when this was asked last.
    fn has_moved(&mut self) -> bool {
        false
    }

    /// Whether something is taken and not sent, so that there is something to do when there is room again.
    fn wants_room(&self) -> bool {
        false
    }
}
