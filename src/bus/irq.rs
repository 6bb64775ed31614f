//! Interrupt wires as devices see them. Who is at the other end is the wiring's business.
//!
//! Source: PCI 3.0 §6.8.1 (message-signalled interrupts), Intel SDM vol. 3A §11.11 (their format).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A wire from a device to an interrupt controller's input.
pub trait IrqLine: Send + Sync {
    /// Drives the wire. Devices call it after each access with the level recomputed from their state; telling the same
    /// level twice is harmless.
    fn set_level(&self, high: bool);
}

/// A message-signalled interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Msi {
    /// Address: destination and mode.
    pub address: u64,
    /// Data: vector, delivery mode, trigger.
    pub data: u32,
}

/// Where message-signalled interrupts go: the LAPICs.
pub trait MsiSink: Send + Sync {
    /// Delivers one message.
    fn send(&self, msi: Msi);

    /// Makes known which messages the level-triggered inputs of the IOAPIC send now (index is the input), so that the
    /// LAPICs report the end of those interrupts. Edge-triggered inputs are `None`; a masked one keeps its message, because
    /// an interrupt may end after its input was masked.
    fn watch_level_inputs(&self, routes: &[Option<Msi>]);
}

/// A wire that leads nowhere: a device whose interrupt no controller receives.
#[derive(Debug, Default)]
pub struct Unconnected;

impl IrqLine for Unconnected {
    fn set_level(&self, _high: bool) {}
}

/// A wire that remembers: for tests of devices.
#[derive(Debug, Default)]
pub struct RecordedLine {
    level: AtomicBool,
    rises: AtomicUsize,
}

impl RecordedLine {
    /// Level now.
    pub fn level(&self) -> bool {
        self.level.load(Ordering::SeqCst)
    }

    /// How often the wire rose.
    pub fn rises(&self) -> usize {
        self.rises.load(Ordering::SeqCst)
    }
}

impl IrqLine for Arc<RecordedLine> {
    fn set_level(&self, high: bool) {
        if !self.level.swap(high, Ordering::SeqCst) && high {
            self.rises.fetch_add(1, Ordering::SeqCst);
        }
    }
}
