//! The host's side of disks: an image file or block device, an optional private layer over it, and the engine that moves bytes
//! between them and guest RAM: io_uring, or a few threads where the host refuses that.

pub mod bounded;
pub mod buffers;
pub mod calls;
pub mod delay;
pub mod disk;
pub mod engine;
pub mod image;
pub mod inline;
pub mod overlay;
pub mod qcow2;
pub mod qcow2_header;
pub mod threads;
pub mod uring;
