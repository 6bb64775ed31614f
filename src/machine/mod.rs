//! The system VM: what it is made of, how its exits are answered, how it lives and ends, and what is told of it.
#![forbid(unsafe_code)]

pub mod build;
pub mod console;
pub mod cpus;
pub mod devices;
pub mod events;
pub mod facts;
pub mod initramfs;
pub mod io;
pub mod junit;
pub mod lifecycle;
pub mod names;
pub mod notices;
pub mod outcome;
pub mod phases;
pub mod plan;
pub mod report;
pub mod report_file;
pub mod root;
pub mod root_archive;
pub mod run;
pub mod storing;
pub mod trace_checked;
pub mod trace_shown;
pub mod tracing;
pub mod virtio;
pub mod watch;
