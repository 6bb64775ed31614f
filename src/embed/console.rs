//! The serial port of a machine that was built from code: what the guest prints is kept until it is taken, what is typed until the
//! guest takes it. Both are bounded.

use crate::bus::bus::{Shared, lock};
use crate::bus::stream::{SerialInput, SerialOutput};
use crate::devices::serial::Serial;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// Bytes that the guest may have printed and nobody taken.
const OUTPUT_MAX: usize = 1 << 20;
/// Bytes that may have been typed and not taken by the guest.
const INPUT_MAX: usize = 64 << 10;

/// The device's end: what was printed.
#[derive(Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl SerialOutput for Captured {
    fn put(&mut self, byte: u8) -> bool {
        let mut printed = lock(&self.0);
        let has_room = printed.len() < OUTPUT_MAX;
        if has_room {
            printed.push(byte);
        }
        has_room
    }

    fn has_room(&self) -> bool {
        lock(&self.0).len() < OUTPUT_MAX
    }

    fn input_has_room(&mut self) {
        // Whoever waits for the machine offers again by itself.
    }
}

/// The host's end.
pub struct Console {
    printed: Captured,
    typed: VecDeque<u8>,
    serial: Shared<Serial>,
}

impl Console {
    /// The host's end of `serial`, which prints to `printed`.
    pub fn new(printed: Captured, serial: Shared<Serial>) -> Console {
        Console { printed, typed: VecDeque::new(), serial }
    }

    /// Takes what was printed.
    pub fn take(&mut self) -> Vec<u8> {
        let printed = std::mem::take(&mut *lock(&self.printed.0));
        // Not with the other lock: a guest that prints has the device's first.
        lock(&self.serial).output_has_room();
        printed
    }

    /// Types as many of `bytes` as there is room for, and says how many.
    pub fn type_in(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(INPUT_MAX - self.typed.len());
        self.typed.extend(&bytes[..count]);
        self.offer();
        count
    }

    /// Offers what was typed to the guest.
    pub fn offer(&mut self) {
        if self.waits_for_room() {
            let taken = lock(&self.serial).receive(self.typed.make_contiguous());
            self.typed.drain(..taken);
        }
    }

    /// Whether something typed has not been taken.
    pub fn waits_for_room(&self) -> bool {
        !self.typed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::irq::Unconnected;

    #[test]
    fn what_is_printed_and_not_taken_is_bounded() {
        let mut printed = Captured::default();
        let serial = Arc::new(Mutex::new(Serial::new(Box::new(Unconnected), Box::new(printed.clone()))));
        let mut console = Console::new(printed.clone(), serial);
        assert_eq!((0..OUTPUT_MAX + 5).filter(|_| printed.put(b'x')).count(), OUTPUT_MAX);
        assert!(!printed.has_room());
        assert_eq!(console.take().len(), OUTPUT_MAX);
        assert!(printed.has_room() && console.take().is_empty());
    }

    #[test]
    fn what_is_typed_waits_for_the_guest_and_is_bounded() {
        let serial = Arc::new(Mutex::new(Serial::new(Box::new(Unconnected), Box::new(Captured::default()))));
        let mut console = Console::new(Captured::default(), serial);
        let typed = console.type_in(&[b'a'; INPUT_MAX + 100]);
        assert_eq!(typed, INPUT_MAX);
        assert!(console.waits_for_room());
        let again = console.type_in(&[b'b'; INPUT_MAX]);
        assert!(again < 100, "as much as the serial port has taken: {again}");
    }
}
