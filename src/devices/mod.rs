//! Platform chips: pure state machines behind [`crate::bus::device::BusDevice`].
#![forbid(unsafe_code)]

#[cfg(test)]
mod conformance;

pub mod acpi_pm;
pub mod debug_console;
pub mod debug_exit;
pub mod i8042;
pub mod ioapic;
pub mod pvpanic;
pub mod rtc;
pub mod serial;
pub mod serial_listener;
