//! The control thread's side of the console's output: from the ring past the watcher into the sink.
//!
//! The control loop calls [`ConsoleOutput::turn`] after a wake, when [`ConsoleOutput::due`] has come, and when the
//! descriptor of [`ConsoleOutput::waits_for`] takes bytes again; calling it too often is harmless. At the end of the
//! machine, with the vCPUs stopped, [`ConsoleOutput::drain`] writes the rest.

use super::console_ring::RingReader;
use super::console_sink::{ConsoleSink, Written};
use super::expect::{Event, Watcher};
use crate::bus::stream::SerialInput;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// How long output gathers before it is written: one wake and one write for a burst, and nothing that an eye would see.
const GATHER: Duration = Duration::from_millis(1);

/// The same while output keeps coming, as a Linux kernel's log does: each wake takes the processor from a guest that has one
/// with us in common.
const GATHER_MORE: Duration = Duration::from_millis(16);

/// Without output for this long, the guest has paused: what stands at the end is a prompt.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a reader that stopped is waited for before the exit.
pub const DRAIN_MAX: Duration = Duration::from_secs(2);

/// The console's output.
pub struct ConsoleOutput {
    ring: RingReader,
    sink: ConsoleSink,
    watcher: Option<Watcher>,
    state: SinkState,
    write_at: Option<Instant>,
    written_at: Option<Instant>,
    pause_at: Option<Instant>,
    lost: u64,
    /// Bytes on their way, kept to be used again.
    chunk: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SinkState {
    Open,
    /// The reader stopped; polled for writing.
    Blocked,
    /// The reader left: output is discarded and counted.
    Closed,
}

/// What a turn found for the control loop to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// What the watcher saw, in order.
    pub events: Vec<Event>,
    /// Call `SerialInput::output_has_room` of the device.
    pub output_has_room: bool,
    /// Offer input to the device again.
    pub input_has_room: bool,
}

impl ConsoleOutput {
    /// Output from `ring` to `sink`. The ring must have been made watched exactly if there is a watcher.
    pub fn new(ring: RingReader, sink: ConsoleSink, watcher: Option<Watcher>) -> ConsoleOutput {
        ConsoleOutput {
            ring,
            sink,
            watcher,
            state: SinkState::Open,
            write_at: None,
            written_at: None,
            pause_at: None,
            lost: 0,
            chunk: Vec::new(),
        }
    }

    /// From now on output goes to `sink`.
    pub fn attach(&mut self, sink: ConsoleSink) {
        (self.sink, self.state) = (sink, SinkState::Open);
    }

    /// Nobody reads any more: output is discarded and counted.
    pub fn detach(&mut self) {
        (self.sink, self.state) = (ConsoleSink::none(), SinkState::Closed);
    }

    /// When to call [`ConsoleOutput::turn`] next, if nothing else happens.
    pub fn due(&self) -> Option<Instant> {
        [self.write_at, self.pause_at].into_iter().flatten().min()
    }

    /// The descriptor that holds up the output: when it takes bytes again, call [`ConsoleOutput::turn`].
    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        if self.state == SinkState::Blocked { self.sink.fd() } else { None }
    }

    /// Moves on what can be moved on at `now`.
    pub fn turn(&mut self, now: Instant) -> Turn {
        let notices = self.ring.notices();
        let mut turn = Turn { input_has_room: notices.input_has_room, ..Turn::default() };
        if self.state == SinkState::Blocked {
            // Poll said that it takes bytes, or it blocks once more; both are right.
            self.write(&mut turn);
        }
        // Behind a reader that stopped only the watcher can take something; without one the next wake is not wanted.
        let wanted = self.state != SinkState::Blocked || self.watcher.is_some();
        if notices.output && wanted && self.write_at.is_none() {
            let flows = self.written_at.is_some_and(|at| now.saturating_duration_since(at) < GATHER_MORE);
            self.write_at = Some(now + if flows { GATHER_MORE } else { GATHER });
        }
        let urgent = notices.urgent && self.state != SinkState::Blocked;
        if self.write_at.is_some_and(|at| at <= now || urgent) {
            self.write_at = None;
            self.written_at = Some(now);
            self.watch(now, &mut turn);
            self.write(&mut turn);
        }
        if self.pause_at.is_some_and(|at| at <= now) {
            self.pause_at = None;
            turn.events.extend(self.watcher.as_mut().map(Watcher::paused).unwrap_or_default());
        }
        turn
    }

    /// Writes all that is left, also in the transmitter of `device`, and closes the watcher's last line. Waits for a reader
    /// that stopped up to [`DRAIN_MAX`] each time; a signal ends the waiting. For when no vCPU runs any more.
    pub fn drain(&mut self, device: &mut dyn SerialInput) -> Vec<Event> {
        let mut turn = Turn::default();
        self.drain_ring(&mut turn);
        if self.state != SinkState::Blocked {
            device.output_has_room();
            self.drain_ring(&mut turn);
        }
        turn.events.extend(self.watcher.as_mut().map(Watcher::paused).unwrap_or_default());
        turn.events
    }

    fn drain_ring(&mut self, turn: &mut Turn) {
        self.watch(Instant::now(), turn);
        self.write(turn);
        while self.state == SinkState::Blocked && self.wait() {
            self.write(turn);
        }
    }

    /// Bytes of the guest that reached nobody: dropped by a full ring, discarded after the reader left, or left over.
    pub fn lost(&self) -> u64 {
        self.lost + self.ring.dropped() + self.ring.waiting() as u64
    }

    /// The watcher, if there is one.
    pub fn watcher(&self) -> Option<&Watcher> {
        self.watcher.as_ref()
    }

    fn watch(&mut self, now: Instant, turn: &mut Turn) {
        self.chunk.clear();
        self.ring.take_unseen(&mut self.chunk);
        if let Some(watcher) = &mut self.watcher
            && !self.chunk.is_empty()
        {
            turn.events.append(&mut watcher.feed(&self.chunk));
            self.pause_at = Some(now + PAUSE);
        }
    }

    fn write(&mut self, turn: &mut Turn) {
        // What the guest adds meanwhile waits for the next turn, so that it cannot keep the control thread here.
        let mut left = self.ring.waiting();
        while left > 0 {
            self.ring.peek(left.min(self.sink.chunk_bytes()), &mut self.chunk);
            let written = match self.state {
                SinkState::Closed => Written::Closed,
                SinkState::Open | SinkState::Blocked => self.sink.write(&self.chunk),
            };
            let count = match written {
                Written::Bytes(count) => {
                    self.state = SinkState::Open;
                    count
                }
                Written::Blocked => {
                    self.state = SinkState::Blocked;
                    break;
                }
                Written::Closed => {
                    self.state = SinkState::Closed;
                    self.lost += self.chunk.len() as u64;
                    self.chunk.len()
                }
            };
            self.ring.written(count);
            left -= count;
        }
        turn.output_has_room |= self.ring.take_refusal();
    }

    /// Waits for the sink; false if the reader does not come back.
    fn wait(&self) -> bool {
        let Some(fd) = self.sink.fd() else { return false };
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
        let seconds = i64::try_from(DRAIN_MAX.as_secs()).expect("a small constant");
        poll(&mut fds, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })).is_ok_and(|count| count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::console_ring::{ConsoleRing, RING_BYTES, console_ring};
    use super::*;
    use crate::bus::stream::SerialOutput;
    use std::io::Read;
    use std::sync::Arc;

    fn pipe_console() -> (ConsoleRing, ConsoleOutput, std::fs::File) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (ring, end) = console_ring(false, Arc::new(|| ()));
        (ring, ConsoleOutput::new(end, ConsoleSink::over(writer), None), reader.into())
    }

    /// A device whose transmitter holds a few bytes.
    struct Holding(ConsoleRing, Vec<u8>);

    impl SerialInput for Holding {
        fn receive(&mut self, _bytes: &[u8]) -> usize {
            0
        }
        fn receive_break(&mut self) {}
        fn output_has_room(&mut self) {
            put(&mut self.0, &std::mem::take(&mut self.1));
        }
    }

    fn put(ring: &mut ConsoleRing, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| {
            ring.put(byte);
        });
    }

    #[test]
    fn output_gathers_for_a_moment_and_goes_in_one_write() {
        let (mut ring, mut output, mut reader) = pipe_console();
        let start = Instant::now();
        put(&mut ring, b"hel");
        output.turn(start);
        put(&mut ring, b"lo");
        assert_eq!(output.due(), Some(start + GATHER));
        assert_eq!(output.ring.waiting(), 5, "gathering");
        output.turn(start + GATHER);
        assert_eq!(output.due(), None);
        let mut got = [0; 100];
        assert_eq!(reader.read(&mut got).unwrap(), 5);
        assert_eq!(&got[..5], b"hello");
    }

    #[test]
    fn output_that_keeps_coming_gathers_for_longer_and_a_prompt_does_not() {
        let (mut ring, mut output, _reader) = pipe_console();
        let start = Instant::now();
        put(&mut ring, b"a line of a log\n");
        output.turn(start);
        output.turn(start + GATHER);
        put(&mut ring, b"another");
        output.turn(start + 2 * GATHER);
        assert_eq!(output.due(), Some(start + 2 * GATHER + GATHER_MORE));
        output.turn(start + 2 * GATHER + GATHER_MORE);
        assert_eq!(output.ring.waiting(), 0);
        let later = start + Duration::from_secs(1);
        put(&mut ring, b"# ");
        output.turn(later);
        assert_eq!(output.due(), Some(later + GATHER));
    }

    #[test]
    fn sec49_a_reader_that_stops_and_returns_gets_every_byte_that_was_taken() {
        let (mut ring, mut output, mut reader) = pipe_console();
        let mut now = Instant::now();
        let mut taken = Vec::new();
        while output.waits_for().is_none() || ring.has_room() {
            for _ in 0..1000 {
                let byte = (taken.len() % 251) as u8;
                if ring.put(byte) {
                    taken.push(byte);
                }
            }
            output.turn(now);
            now += GATHER;
            output.turn(now);
        }
        assert!(taken.len() >= RING_BYTES);
        let mut got = vec![0; 8192];
        reader.read_exact(&mut got).unwrap();
        let turn = output.turn(now);
        assert!(turn.output_has_room, "the device hears that it may go on");
        let lost = output.ring.dropped();
        let rest = std::thread::spawn(move || {
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).unwrap();
            rest
        });
        output.drain(&mut Holding(ring, b"last".into()));
        taken.extend(b"last");
        assert_eq!(output.lost(), lost);
        drop(output);
        got.extend(rest.join().unwrap());
        assert_eq!(got, taken);
    }

    #[test]
    fn a_reader_that_left_makes_output_vanish_but_counted() {
        let (mut ring, mut output, reader) = pipe_console();
        drop(reader);
        for _ in 0..3 {
            put(&mut ring, &[b'x'; 1000]);
            output.drain(&mut Holding(ring.clone(), Vec::new()));
        }
        assert!(ring.has_room());
        assert_eq!(output.lost(), 3000);
    }
}
