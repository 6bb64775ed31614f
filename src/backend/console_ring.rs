//! The way of the guest's output from the vCPU's thread to the control thread: a bounded ring that never blocks the guest.
//!
//! Every byte goes to the console's watcher first, if there is one, and then into the ring. While either is full the
//! serial transmitter shows itself busy and the guest waits as for a slow line. A byte written anyway is dropped and
//! counted. So a reader that stopped costs neither memory nor the vCPU (firecracker's `test_serial_block`).
//!
//! The control thread is woken once a burst, not once a byte: it lets [`console_output`](super::console_output) gather
//! for a moment before it writes.

use crate::bus::stream::SerialOutput;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes that wait for the sink at most, and bytes that wait for the watcher at most.
pub const RING_BYTES: usize = 64 << 10;

/// At this fill the control thread is woken again, to write without gathering further.
const URGENT_BYTES: usize = RING_BYTES / 2;

/// Wakes the control thread.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// The device's end. Clones write into the same ring.
#[derive(Clone)]
pub struct ConsoleRing(Arc<Shared>);

/// The control thread's end.
pub struct RingReader(Arc<Shared>);

/// What happened on the device's side since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// Bytes wait for the sink or the watcher.
    pub output: bool,
    /// So many that they should be written at once.
    pub urgent: bool,
    /// The device can receive again after it took less than it was offered.
    pub input_has_room: bool,
}

struct Shared {
    ring: Mutex<Ring>,
    wake: Wake,
}

#[derive(Default)]
struct Ring {
    /// What the sink has not taken.
    output: VecDeque<u8>,
    /// What the watcher has not seen; `None` without a watcher.
    unseen: Option<VecDeque<u8>>,
    /// The control thread was woken for what is here.
    woken: bool,
    /// The device was told that there is no room, and shows its transmitter busy.
    refused: bool,
    input_has_room: bool,
    dropped: u64,
}

/// Makes a ring; `watched` says whether someone takes bytes with [`RingReader::take_unseen`].
pub fn console_ring(watched: bool, wake: Wake) -> (ConsoleRing, RingReader) {
    let queue = || VecDeque::with_capacity(RING_BYTES);
    let ring = Ring { output: queue(), unseen: watched.then(queue), ..Ring::default() };
    let shared = Arc::new(Shared { ring: Mutex::new(ring), wake });
    (ConsoleRing(shared.clone()), RingReader(shared))
}

impl Ring {
    fn room(&self) -> usize {
        RING_BYTES - self.output.len().max(self.unseen.as_ref().map_or(0, VecDeque::len))
    }

    /// Queues `byte`; false if the sink will never get it.
    fn put(&mut self, byte: u8) -> bool {
        if let Some(unseen) = &mut self.unseen {
            if unseen.len() == RING_BYTES {
                return false;
            }
            unseen.push_back(byte);
        }
        let room = self.output.len() < RING_BYTES;
        if room {
            self.output.push_back(byte);
        }
        room
    }

    fn urgent(&self) -> bool {
        let longest = self.unseen.as_ref().map_or(0, VecDeque::len).max(self.output.len());
        longest >= URGENT_BYTES
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().expect("no holder of this lock panics")
    }
}

impl ConsoleRing {
    /// Puts all of `bytes`; those for which there is no room are lost and counted. False: some are.
    pub fn put_all(&self, bytes: &[u8]) -> bool {
        let mut ring = self.0.lock();
        let was_urgent = ring.urgent();
        let lost = bytes.iter().filter(|byte| !ring.put(**byte)).count();
        ring.dropped += lost as u64;
        let wake = !ring.woken || (ring.urgent() && !was_urgent);
        ring.woken = true;
        drop(ring);
        if wake {
            (self.0.wake)();
        }
        lost == 0
    }

    /// Bytes for which there is room now. After none, the device is told when there is ([`RingReader::take_refusal`]).
    pub fn room(&self) -> usize {
        let mut ring = self.0.lock();
        let room = ring.room();
        ring.refused |= room == 0;
        room
    }
}

impl SerialOutput for ConsoleRing {
    fn put(&mut self, byte: u8) -> bool {
        self.put_all(&[byte])
    }

    fn has_room(&self) -> bool {
        self.room() > 0
    }

    fn input_has_room(&mut self) {
        self.0.lock().input_has_room = true;
        (self.0.wake)();
    }
}

impl RingReader {
    /// What happened since the last look; looking takes note of it.
    pub fn notices(&mut self) -> Notices {
        let mut ring = self.0.lock();
        let unseen = ring.unseen.as_ref().is_some_and(|unseen| !unseen.is_empty());
        Notices {
            output: unseen || !ring.output.is_empty(),
            urgent: ring.urgent(),
            input_has_room: std::mem::take(&mut ring.input_has_room),
        }
    }

    /// Moves all that the watcher has not seen into `bytes`, and wants to be woken for the next byte.
    pub fn take_unseen(&mut self, bytes: &mut Vec<u8>) {
        let mut ring = self.0.lock();
        ring.woken = false;
        bytes.extend(ring.unseen.iter_mut().flat_map(|unseen| unseen.drain(..)));
    }

    /// Copies up to `most` of the bytes that the sink is to get next into `bytes`. They stay in the ring until
    /// [`RingReader::written`].
    pub fn peek(&self, most: usize, bytes: &mut Vec<u8>) {
        bytes.clear();
        let ring = self.0.lock();
        let (front, back) = ring.output.as_slices();
        bytes.extend_from_slice(&front[..front.len().min(most)]);
        let more = most - bytes.len();
        bytes.extend_from_slice(&back[..back.len().min(more)]);
    }

    /// Removes the first `count` bytes: the sink has them.
    pub fn written(&mut self, count: usize) {
        self.0.lock().output.drain(..count);
    }

    /// Whether the device must be told that the line takes bytes again.
    #[must_use = "the device waits for it"]
    pub fn take_refusal(&mut self) -> bool {
        let mut ring = self.0.lock();
        let over = ring.refused && ring.room() > 0;
        ring.refused &= !over;
        over
    }

    /// Bytes that wait for the sink.
    pub fn waiting(&self) -> usize {
        self.0.lock().output.len()
    }

    /// Bytes that the guest wrote although the transmitter was busy.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn counted(watched: bool) -> (ConsoleRing, RingReader, Arc<AtomicUsize>) {
        let wakes = Arc::new(AtomicUsize::new(0));
        let count = wakes.clone();
        let wake: Wake = Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let (ring, reader) = console_ring(watched, wake);
        (ring, reader, wakes)
    }

    #[test]
    fn a_burst_wakes_once_and_once_more_when_half_full() {
        let (mut ring, mut reader, wakes) = counted(false);
        for _ in 0..URGENT_BYTES - 1 {
            assert!(ring.put(b'x'));
        }
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        assert_eq!(reader.notices(), Notices { output: true, ..Notices::default() });
        ring.put(b'x');
        ring.put(b'x');
        assert_eq!(wakes.load(Ordering::SeqCst), 2);
        assert!(reader.notices().urgent);
        reader.take_unseen(&mut Vec::new());
        ring.put(b'x');
        assert_eq!(wakes.load(Ordering::SeqCst), 3, "after a look, the next byte wakes again");
    }

    #[test]
    fn bytes_come_out_in_order_across_the_wrap() {
        let (mut ring, mut reader, _) = counted(false);
        let mut out = Vec::new();
        let mut expected = 0u8;
        for round in 0..5 {
            for i in 0..RING_BYTES / 2 {
                assert!(ring.put((i + round * RING_BYTES / 2) as u8));
            }
            while reader.waiting() > 0 {
                reader.peek(1000, &mut out);
                assert!(out.iter().all(|&byte| (byte == expected, expected = expected.wrapping_add(1)).0));
                reader.written(out.len());
            }
        }
    }

    #[test]
    fn sec49_a_full_ring_is_a_busy_line_then_drops_and_counts() {
        let (mut ring, mut reader, _) = counted(false);
        let taken = (0..16 << 20).filter(|_| ring.put(b'x')).count();
        assert_eq!(taken, RING_BYTES);
        assert_eq!(reader.dropped(), (16 << 20) - RING_BYTES as u64);
        assert!(!reader.take_refusal(), "nobody asked for room");
        assert!(!ring.has_room());
        assert!(!reader.take_refusal(), "still full");
        reader.written(1);
        assert!(reader.take_refusal());
        assert!(!reader.take_refusal(), "told once");
        assert!(ring.has_room() && ring.put(b'y'));
    }

    #[test]
    fn the_watcher_sees_what_the_sink_does_not_get() {
        let (mut ring, mut reader, _) = counted(true);
        let mut seen = Vec::new();
        for _ in 0..RING_BYTES {
            assert!(ring.put(b'a'));
        }
        reader.take_unseen(&mut seen);
        assert!(!ring.put(b'b'), "the sink's ring is full");
        reader.take_unseen(&mut seen);
        assert_eq!((seen.len(), seen.last()), (RING_BYTES + 1, Some(&b'b')));
        assert_eq!(reader.dropped(), 1);
    }

    #[test]
    fn room_for_input_is_told_once() {
        let (mut ring, mut reader, wakes) = counted(false);
        ring.input_has_room();
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        assert!(reader.notices().input_has_room);
        assert!(!reader.notices().input_has_room);
    }
}
