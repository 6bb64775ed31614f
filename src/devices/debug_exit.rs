//! isa-debug-exit: a write ends the machine with the value written.
//!
//! Models QEMU's device of that name at port 0xf4. What becomes of the value is the machine's business; by convention the
//! process ends with `(value << 1) | 1`. Source: QEMU hw/misc/debugexit.c.

use crate::bus::device::{BusDevice, Stateless};
use crate::bus::request::{GuestRequest, GuestRequests};

/// Ports, so that one 32-bit write fits.
pub const PORTS: u16 = 4;

/// The port; it has no state.
pub struct DebugExit {
    requests: GuestRequests,
}

impl DebugExit {
    /// A port that files its values with `requests`.
    pub fn new(requests: GuestRequests) -> DebugExit {
        DebugExit { requests }
    }
}

impl BusDevice for DebugExit {
    fn read(&mut self, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&mut self, _offset: u64, _size: u8, value: u64) {
        self.requests.file(GuestRequest::DebugExit(value as u32)); // ports are at most 32 bits wide
    }

    fn register_name(&self, _offset: u64, _write: bool) -> &'static str {
        "EXIT"
    }
}

impl Stateless for DebugExit {
    const KIND: &'static str = "isa-debug-exit/1";
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::devices::conformance::conformance!(DebugExit::new(GuestRequests::default()), PORTS.into());

    #[test]
    fn a_write_of_any_size_is_the_status() {
        let requests = GuestRequests::default();
        let mut port = DebugExit::new(requests.clone());
        port.write(0, 1, 0x21);
        port.write(0, 4, 0x8000_0001);
        assert_eq!(requests.take(), Some(GuestRequest::DebugExit(0x21)));
        assert_eq!(requests.take(), Some(GuestRequest::DebugExit(0x8000_0001)));
        assert_eq!((port.read(0, 4), requests.take()), (0, None));
    }
}
