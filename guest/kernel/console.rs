//! What is typed, on its way to the shell or to the program in front: a ring that the interrupt fills.
//!
//! What does not fit stays in the serial port, which asks the other end to wait.

use core::cell::Cell;

use guest::interrupt;
use guest::serial;
use guest::typed::END_OF_INPUT;

use super::processor;
use super::wait;
use super::{Locked, session};

/// The vector that `guest/lib/typed.rs` has the serial port's interrupt come by.
pub const VECTOR: u8 = interrupt::FIRST_FREE + 4;
/// Ctrl-C, ASCII ETX.
const INTERRUPT: u8 = 0x03;
const RING_BYTES: usize = 256;

struct Console {
    ring: [Cell<u8>; RING_BYTES],
    /// How many bytes were ever put in and taken out.
    put: Cell<usize>,
    taken: Cell<usize>,
    /// Ctrl-C was typed, and nobody has dealt with it.
    interrupted: Cell<bool>,
}

static CONSOLE: Locked<Console> = Locked(Console {
    ring: [const { Cell::new(0) }; RING_BYTES],
    put: Cell::new(0),
    taken: Cell::new(0),
    interrupted: Cell::new(false),
});

/// Takes the interrupt over.
pub fn init() {
    interrupt::on(VECTOR, processor::noted);
    arrived();
}

/// Fetches what has arrived, and wakes who waits for it.
pub fn arrived() {
    let before = CONSOLE.put.get();
    let was_interrupted = CONSOLE.interrupted.get();
    while CONSOLE.put.get() - CONSOLE.taken.get() < RING_BYTES
        && let Some(byte) = serial::read()
    {
        if byte == INTERRUPT {
            CONSOLE.interrupted.set(true);
            continue;
        }
        CONSOLE.ring[CONSOLE.put.get() % RING_BYTES].set(byte);
        CONSOLE.put.set(CONSOLE.put.get() + 1);
    }
    if CONSOLE.put.get() != before || CONSOLE.interrupted.get() != was_interrupted {
        wait::wake(wait::CONSOLE, u64::MAX, 0);
        wait::wake_pollers();
        session::wake();
    }
}

fn peek() -> Option<u8> {
    (CONSOLE.put.get() != CONSOLE.taken.get()).then(|| CONSOLE.ring[CONSOLE.taken.get() % RING_BYTES].get())
}

/// Whether there is a byte before the end.
pub fn has_byte() -> bool {
    peek().is_some_and(|byte| byte != END_OF_INPUT)
}

/// Whether the end has come and all before it was read. It stays.
pub fn has_ended() -> bool {
    peek() == Some(END_OF_INPUT)
}

/// The next byte. The end of input is one, and is not taken.
pub fn take() -> Option<u8> {
    let byte = peek()?;
    if byte != END_OF_INPUT {
        let was_full = CONSOLE.put.get() - CONSOLE.taken.get() == RING_BYTES;
        CONSOLE.taken.set(CONSOLE.taken.get() + 1);
        if was_full {
            arrived(); // what waited in the port does not interrupt again
        }
    }
    Some(byte)
}

/// Whether Ctrl-C was typed since the last time.
pub fn take_interrupt() -> bool {
    CONSOLE.interrupted.replace(false)
}
