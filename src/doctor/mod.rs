//! What this host offers to Hostel, and how to repair what is missing: `hostel doctor`.
//!
//! [`examine::examine`] asks the host and measures; everything else is data. Facts come from a host's files below a root
//! directory, so that tests bring their own host.

pub mod access;
pub mod backend;
pub mod capabilities;
pub mod device;
pub mod examine;
pub mod features;
pub mod host;
pub mod measure;
pub mod report;
pub mod syscalls;
