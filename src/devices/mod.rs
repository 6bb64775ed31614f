//! Platform chips: pure state machines behind [`crate::bus::device::BusDevice`].

#[cfg(test)]
mod conformance;

pub mod serial;
