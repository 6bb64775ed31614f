//! What is typed, by interrupt: the serial port raises its line when a byte has arrived, and the program sleeps until then.
//!
//! COM1 is wired to input 4 of the IOAPIC. When Hostel's stdin ends, the port delivers [`END_OF_INPUT`], as Ctrl-D does on a
//! terminal. Sources: PC16550D §8.6.1 (interrupt enable), §8.6.7 (modem control); IBM PC/AT Technical Reference (IRQ 4; OUT2
//! gates the line).

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

/// Connects COM1. Needs [`interrupt::init`] and [`apic::enable`] first.
pub fn init() {
    interrupt::on(VECTOR, wake);
    apic::route(INPUT, VECTOR);
    out8(MODEM_CONTROL, DATA_TERMINAL_READY | REQUEST_TO_SEND | OUT2);
    out8(INTERRUPT_ENABLE, RECEIVED);
}

/// The handler only wakes the processor: bytes stay in the port, which asks the other end to wait when it is full.
fn wake(_: &mut Frame) {
    apic::end_of_interrupt();
}

/// The next byte; the processor sleeps until there is one. Call with interrupts off, as a guest starts.
///
/// The line is edge-triggered: it falls when the last byte has been read, so none that comes after goes unnoticed.
pub fn read() -> u8 {
    loop {
        if let Some(byte) = serial::read() {
            return byte;
        }
        cpu::wait_for_interrupt();
    }
}
