//! How an access finds its device, and what a device may say back: traits, the address map, interrupt and serial lines.
#![forbid(unsafe_code)]

#[allow(clippy::module_inception, reason = "the bus is the room's subject")]
pub mod bus;
pub mod device;
pub mod irq;
pub mod request;
pub mod state;
pub mod stream;
