//! The process VM: programs for Linux, Windows and DOS on vCPUs of a machine that holds no kernel. Their calls are the interface that is
//! virtualized.

#![forbid(unsafe_code)]

pub mod dos;
#[cfg(test)]
mod fake_files;
pub mod files;
pub mod fixture;
pub mod frames;
pub mod futex;
pub mod host_files;
pub mod hostile;
mod hostile_arguments;
pub mod load;
pub mod mappings;
pub mod options;
pub mod outcome;
pub mod paths;
pub mod processes;
pub mod program;
pub mod run;
pub mod signal;
pub mod sockets;
pub mod space;
pub mod stub;
pub mod syscall;
pub mod tables;
pub mod task;
pub mod touch;
pub mod trace;
pub mod trap;
pub mod vcpus;
pub mod watches;
pub mod windows;
pub mod world;
