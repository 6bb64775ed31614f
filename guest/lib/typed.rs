//! What is typed, by interrupt: the serial port raises its line, the handler takes the bytes, the program sleeps meanwhile.
//!
//! COM1 is wired to input 4 of the IOAPIC. When Hostel's stdin ends, the port delivers [`END_OF_INPUT`], as Ctrl-D does on a
//! terminal. Sources: PC16550D §8.6.1 (interrupt enable), §8.6.7 (modem control); IBM PC/AT Technical Reference (IRQ 4; OUT2
//! gates the line).

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::interrupt::{self, Frame};
use crate::port::out8;
use crate::{apic, cpu, serial};

/// Ctrl-D, ASCII EOT: nothing more will be typed.
pub const END_OF_INPUT: u8 = 0x04;

/// The IOAPIC input of COM1, and the vector that these guests give it.
const INPUT: u32 = 4;
const VECTOR: u8 = interrupt::FIRST_FREE + 4;
/// Interrupt enable register: tell when a byte has arrived.
const INTERRUPT_ENABLE: u16 = serial::COM1 + 1;
const RECEIVED: u8 = 1 << 0;
/// Modem control register: tell the other end that somebody is here, and let the interrupt line through.
const MODEM_CONTROL: u16 = serial::COM1 + 4;
const DATA_TERMINAL_READY: u8 = 1 << 0;
const REQUEST_TO_SEND: u8 = 1 << 1;
const OUT2: u8 = 1 << 3;

/// Bytes that wait to be read: a ring, filled by the handler and emptied by [`read`].
const RING_BYTES: usize = 256;
static RING: [AtomicU8; RING_BYTES] = [const { AtomicU8::new(0) }; RING_BYTES];
static FILLED: AtomicUsize = AtomicUsize::new(0);
static EMPTIED: AtomicUsize = AtomicUsize::new(0);

/// Connects COM1. Needs [`interrupt::init`] and [`apic::enable`] first.
pub fn init() {
    interrupt::on(VECTOR, take);
    apic::route(INPUT, VECTOR);
    out8(MODEM_CONTROL, DATA_TERMINAL_READY | REQUEST_TO_SEND | OUT2);
    out8(INTERRUPT_ENABLE, RECEIVED);
}

/// The handler. It takes all there is, for the line is edge-triggered: it rises again only after it has fallen. A full ring
/// drops what it cannot hold.
fn take(_: &mut Frame) {
    while let Some(byte) = serial::read() {
        let filled = FILLED.load(Ordering::Relaxed);
        if filled - EMPTIED.load(Ordering::Relaxed) < RING_BYTES {
            RING[filled % RING_BYTES].store(byte, Ordering::Relaxed);
            FILLED.store(filled + 1, Ordering::Release);
        }
    }
    apic::end_of_interrupt();
}

/// The next byte; the processor sleeps until there is one. Call with interrupts off, as a guest starts.
pub fn read() -> u8 {
    let emptied = EMPTIED.load(Ordering::Relaxed);
    while FILLED.load(Ordering::Acquire) == emptied {
        cpu::wait_for_interrupt();
    }
    let byte = RING[emptied % RING_BYTES].load(Ordering::Relaxed);
    EMPTIED.store(emptied + 1, Ordering::Relaxed);
    byte
}
