//! The far ends of a transport for its tests: doorbells and messages that are noted.

use crate::bus::irq::{Msi, MsiSink};
use crate::event_loop::{Doorbells, Waker};
use std::sync::{Arc, Mutex};

/// A doorbell: its address, and the value that rings it.
pub(super) type Doorbell = (u64, Option<u32>);

/// Doorbells that are armed now.
#[derive(Clone, Default)]
pub(super) struct NotedDoorbells(pub Arc<Mutex<Vec<Doorbell>>>);

impl Doorbells for NotedDoorbells {
    fn arm(&self, address: u64, value: Option<u32>, _kick: &Waker) {
        self.0.lock().unwrap().push((address, value));
    }
    fn disarm(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// Messages that were sent.
#[derive(Clone, Default)]
pub(super) struct NotedMessages(pub Arc<Mutex<Vec<Msi>>>);

impl MsiSink for NotedMessages {
    fn send(&self, msi: Msi) {
        self.0.lock().unwrap().push(msi);
    }
    fn watch_level_inputs(&self, _routes: &[Option<Msi>]) {}
}
