//! What several test programs share.

// The build script packs the embedded initramfs with the same writer.
#[path = "../../guest/init/cpio.rs"]
pub mod cpio;
pub mod hostel;
pub mod kvm;
pub mod lab;
pub mod lab_image;
pub mod linux_guest;
pub mod programs;
pub mod scratch;
pub mod session;
pub mod site;
pub mod trial;
