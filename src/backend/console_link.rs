//! The line between a port of a virtio console, on the devices' thread, and the control thread.
//!
//! The way out is the console's ring, as for a serial port. The way in holds at most [`INPUT_BYTES`]: what does not fit is not taken,
//! and stays with the control thread, which then reads no more (`console_input.rs`).

use super::console_port::{ConsolePort, TerminalSize};
use super::console_ring::ConsoleRing;
use crate::bus::bus::lock;
use crate::bus::stream::{SerialInput, SerialOutput};
use crate::event_loop::Waker;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// Bytes that wait for the guest in the line at most.
pub const INPUT_BYTES: usize = 4096;

/// The device's end.
pub struct LinkPort {
    ring: ConsoleRing,
    shared: Arc<Mutex<Shared>>,
}

/// The control thread's end.
pub struct LinkLine {
    shared: Arc<Mutex<Shared>>,
    /// Wakes the device.
    device: Waker,
}

#[derive(Default)]
struct Shared {
    input: VecDeque<u8>,
    /// Not all of what was offered was taken: the control thread waits to hear of room.
    refused: bool,
    size: Option<TerminalSize>,
}

/// Makes a line that ends in `ring` on the way out; `device` wakes the device.
pub fn console_link(ring: ConsoleRing, device: Waker) -> (LinkPort, LinkLine) {
    let shared = Arc::new(Mutex::new(Shared::default()));
    (LinkPort { ring, shared: shared.clone() }, LinkLine { shared, device })
}

impl ConsolePort for LinkPort {
    fn name(&self) -> Option<&'static str> {
        None
    }

    fn room(&mut self) -> usize {
        self.ring.room()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.ring.put_all(bytes);
    }

    fn has_input(&mut self) -> bool {
        !lock(&self.shared).input.is_empty()
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut shared = lock(&self.shared);
        let count = shared.input.len().min(bytes.len());
        bytes.iter_mut().zip(shared.input.drain(..count)).for_each(|(to, from)| *to = from);
        if std::mem::take(&mut shared.refused) {
            self.ring.input_has_room();
        }
        count
    }

    fn size(&self) -> Option<TerminalSize> {
        lock(&self.shared).size
    }
}

impl LinkLine {
    /// The terminal has this size now.
    pub fn resize(&self, size: TerminalSize) {
        lock(&self.shared).size = Some(size);
        self.device.wake();
    }
}

impl SerialInput for LinkLine {
    fn receive(&mut self, bytes: &[u8]) -> usize {
        let mut shared = lock(&self.shared);
        let taken = bytes.len().min(INPUT_BYTES - shared.input.len());
        shared.input.extend(&bytes[..taken]);
        shared.refused = taken < bytes.len();
        if taken > 0 {
            self.device.wake();
        }
        taken
    }

    /// A virtio console has no line that could be held low.
    fn receive_break(&mut self) {}

    fn output_has_room(&mut self) {
        self.device.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::super::console_ring::{RING_BYTES, console_ring};
    use super::*;

    #[test]
    fn sec48_a_guest_that_never_reads_is_offered_no_more_than_the_line_holds() {
        let (ring, mut reader) = console_ring(false, Arc::new(|| ()));
        let (mut port, mut line) = console_link(ring, Waker::new().unwrap());
        let taken: usize = (0..1000).map(|_| line.receive(&[b'x'; 1000])).sum();
        assert_eq!(taken, INPUT_BYTES);
        assert!(lock(&port.shared).input.capacity() <= 2 * INPUT_BYTES);
        let mut bytes = [0; 100];
        assert_eq!((port.has_input(), port.read(&mut bytes), bytes), (true, 100, [b'x'; 100]));
        assert!(reader.notices().input_has_room, "the control thread hears of it");
        assert_eq!(line.receive(&[b'y'; 200]), 100);
    }

    #[test]
    fn sec49_a_full_ring_has_no_room_and_tells_when_it_has() {
        let (ring, mut reader) = console_ring(true, Arc::new(|| ()));
        let (mut port, _line) = console_link(ring, Waker::new().unwrap());
        assert_eq!(port.room(), RING_BYTES);
        port.write(&vec![b'z'; RING_BYTES - 10]);
        assert_eq!(port.room(), 10);
        port.write(&[b'z'; 10]);
        assert_eq!((port.room(), reader.dropped()), (0, 0));
        reader.written(100);
        assert_eq!(port.room(), 0, "the watcher has seen nothing yet");
        reader.take_unseen(&mut Vec::new());
        assert_eq!((reader.take_refusal(), port.room()), (true, 100));
    }
}
