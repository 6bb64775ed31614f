//! What Hostel costs on this host: `hostel bench`. Phases of a start, exits by kind, memory beside the guest's own.
#![forbid(unsafe_code)]

pub mod exits;
pub mod memory;
pub mod phases;
pub mod report;
