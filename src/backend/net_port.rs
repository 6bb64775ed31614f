//! The host's side of a network device: takes frames and gives them, whole and without waiting.

use std::os::fd::BorrowedFd;

/// Longest frame with the header that describes its offloads: 64 KiB of segments that the other side cuts (virtio 1.2 §5.1.6.2).
pub const FRAME_MAX: usize = 65_550 + HEADER_BYTES;
/// Bytes of `virtio_net_hdr` with its count of buffers (virtio 1.2 §5.1.6), which stands before each frame.
pub const HEADER_BYTES: usize = 12;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way, or lost as a frame may be.
    Taken,
    /// There is no room now: wait until the descriptor takes bytes, then offer it again.
    Full,
}

/// A place where frames go and come from.
pub trait NetPort: Send {
    /// Offloads that it can take over from the guest, as device features (virtio 1.2 §5.1.3).
    fn features(&self) -> u64 {
        0
    }

    /// The driver has accepted these features.
    fn start(&mut self, _features: u64) {}

    /// Takes a frame behind its header of [`HEADER_BYTES`]. A frame that was offered before is offered again as it was.
    fn send(&mut self, frame: &[u8]) -> Sent;

    /// Puts the next frame behind its header into `frame`, which holds [`FRAME_MAX`], and returns the length of both; `None`
    /// if none is there.
    fn receive(&mut self, frame: &mut [u8]) -> Option<usize>;

    /// What to wait for: frames that come, and room for those that go. `None` when the other side has gone for good.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether a frame is half sent, so that there is something to do when there is room again.
    fn wants_room(&self) -> bool {
        false
    }
}
