//! Events for the tests of this room.

use super::event::{DeviceRegister, ExitEvent};
use crate::kvm::exit::{Exit, Reply};

/// `exit` on vCPU 0, 12.5 ms after the start, after 2 µs in the guest, answered in half a microsecond by [`Reply::Resume`].
pub fn event(exit: Exit) -> ExitEvent {
    ExitEvent {
        vcpu: 0,
        at_ns: 12_500_000,
        guest_ns: 2_000,
        host_ns: 500,
        exit,
        reply: Some(Reply::Resume),
        register: None,
        code: None,
    }
}

/// A character sent over COM1.
pub fn serial(byte: u8) -> ExitEvent {
    let exit = Exit::PioWrite { port: 0x3f8, size: 1, value: byte.into() };
    ExitEvent { register: Some(DeviceRegister { device: "COM1", register: "THR" }), ..event(exit) }
}
