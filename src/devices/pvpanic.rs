//! pvpanic: the guest's kernel tells that it panicked.
//!
//! Models the ISA form, one port; the guest finds it in the DSDT as QEMU0001. Source: QEMU docs/specs/pvpanic.rst.

use crate::bus::device::{BusDevice, Stateless};
use crate::bus::request::{GuestRequest, GuestRequests};

/// Event: the kernel panicked.
const PANICKED: u64 = 1 << 0;
/// Event: the kernel panicked, and its crash kernel goes on.
const CRASH_LOADED: u64 = 1 << 1;

/// The port; it has no state.
pub struct Pvpanic {
    requests: GuestRequests,
}

impl Pvpanic {
    /// A port that files its events with `requests`.
    pub fn new(requests: GuestRequests) -> Pvpanic {
        Pvpanic { requests }
    }
}

impl BusDevice for Pvpanic {
    /// The events that the device knows.
    fn read(&mut self, _offset: u64, _size: u8) -> u64 {
        PANICKED | CRASH_LOADED
    }

    fn write(&mut self, _offset: u64, _size: u8, value: u64) {
        if value & PANICKED != 0 {
            self.requests.file(GuestRequest::Panicked);
        } else if value & CRASH_LOADED != 0 {
            self.requests.file(GuestRequest::CrashLoaded);
        }
    }

    fn register_name(&self, _offset: u64, _write: bool) -> &'static str {
        "EVENTS"
    }
}

impl Stateless for Pvpanic {
    const KIND: &'static str = "pvpanic/1";
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::devices::conformance::conformance!(Pvpanic::new(GuestRequests::default()), 1);

    #[test]
    fn events_become_requests() {
        let requests = GuestRequests::default();
        let mut port = Pvpanic::new(requests.clone());
        assert_eq!(port.read(0, 1), 3);
        for events in [0, 4, 2, 1, 3] {
            port.write(0, 1, events);
        }
        let filed: Vec<_> = std::iter::from_fn(|| requests.take()).collect();
        assert_eq!(filed, [GuestRequest::CrashLoaded, GuestRequest::Panicked, GuestRequest::Panicked]);
    }
}
