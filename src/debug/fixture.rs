//! What the tests of this room share: events, and a file that stays within reach.

use super::event::{DeviceRegister, ExitEvent};
use crate::kvm::exit::{Exit, Reply};
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

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

/// What a sink writes, for the test to read.
#[derive(Clone, Default)]
pub struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    /// All that was written, which is text.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
