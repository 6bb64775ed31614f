//! Virtio 1.2 devices over split rings. A device knows neither its transport nor its thread: `function.rs` holds it, its queues
//! and the driver's progress; `transport/` gives that registers; `worker.rs` runs it.
#![forbid(unsafe_code)]

pub mod balloon;
pub mod blk;
pub mod console;
pub mod device;
pub mod driver;
pub mod fs;
pub mod function;
pub mod net;
pub mod queue;
pub mod rig;
pub mod rings;
pub mod rng;
pub mod transport;
pub mod vsock;
pub mod worker;
