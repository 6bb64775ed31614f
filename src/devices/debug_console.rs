//! Debug console: each byte written appears on the host, without any set-up.
//!
//! Models the port 0xe9 of Bochs and QEMU: a read gives 0xe9, by which a guest knows that somebody listens. There is no
//! flow control; a byte for which the line has no room is lost and counted. Source: Bochs user manual, "port_e9_hack".

use crate::bus::device::{BusDevice, Stateless, write_by_bytes};
use crate::bus::stream::SerialOutput;

/// What a read gives.
const PRESENT: u64 = 0xe9;

/// The port; it has no state that the guest sees.
pub struct DebugConsole {
    line: Box<dyn SerialOutput>,
    dropped: u64,
}

impl DebugConsole {
    /// A port that sends to `line`.
    pub fn new(line: Box<dyn SerialOutput>) -> DebugConsole {
        DebugConsole { line, dropped: 0 }
    }

    /// Bytes that found no room and are lost. A reset does not clear it.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl BusDevice for DebugConsole {
    fn read(&mut self, _offset: u64, _size: u8) -> u64 {
        PRESENT
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        write_by_bytes(offset, size, value, |_, byte| self.dropped += u64::from(!self.line.put(byte)));
    }

    fn register_name(&self, _offset: u64, _write: bool) -> &'static str {
        "DEBUGCON"
    }
}

impl Stateless for DebugConsole {
    const KIND: &'static str = "debug-console/1";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A line with room for three bytes.
    #[derive(Clone, Default)]
    struct ShortLine(Arc<Mutex<Vec<u8>>>);

    impl SerialOutput for ShortLine {
        fn put(&mut self, byte: u8) -> bool {
            let room = self.has_room();
            if room {
                self.0.lock().unwrap().push(byte);
            }
            room
        }
        fn has_room(&self) -> bool {
            self.0.lock().unwrap().len() < 3
        }
        fn input_has_room(&mut self) {}
    }

    crate::devices::conformance::conformance!(DebugConsole::new(Box::new(ShortLine::default())), 1);

    #[test]
    fn bytes_go_to_the_line_and_losses_are_counted() {
        let line = ShortLine::default();
        let mut port = DebugConsole::new(Box::new(line.clone()));
        assert_eq!(port.read(0, 1), 0xe9);
        port.write(0, 2, u64::from(u16::from_le_bytes(*b"ab")));
        port.write(0, 1, b'c'.into());
        port.write(0, 1, b'd'.into());
        assert_eq!((line.0.lock().unwrap().as_slice(), port.dropped()), (&b"abc"[..], 1));
    }
}
