//! COM1, the console: a 16550 serial port driven by polling.
//!
//! Source: PC16550D §8 (registers), §8.4 (FIFO: 16 bytes fit once the transmitter is empty).

use core::sync::atomic::{AtomicBool, Ordering};

use crate::port::{in8, out8};

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// Transmit holding register (write) and receive buffer register (read).
pub const DATA: u16 = COM1;
/// FIFO control register.
const FIFO_CONTROL: u16 = COM1 + 2;
/// Line status register.
pub const LINE_STATUS: u16 = COM1 + 5;
/// `FIFO_CONTROL`: FIFOs on, both emptied of nothing.
const FIFO_ENABLE: u8 = 1 << 0;
/// `LINE_STATUS`: a byte has arrived.
const DATA_READY: u8 = 1 << 0;
/// `LINE_STATUS`: the transmitter's FIFO is empty.
pub const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Bytes the transmitter takes once it is empty.
const FIFO_BYTES: usize = 16;

/// Whether the FIFOs have been switched on.
static HAS_FIFO: AtomicBool = AtomicBool::new(false);

/// Sends `bytes`, asking for room once every 16 bytes: each question costs a trip to the host, as each byte does.
pub fn write(bytes: &[u8]) {
    if !HAS_FIFO.swap(true, Ordering::Relaxed) {
        out8(FIFO_CONTROL, FIFO_ENABLE);
    }
    for chunk in bytes.chunks(FIFO_BYTES) {
        while in8(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {}
        for &byte in chunk {
            out8(DATA, byte);
        }
    }
}

/// The next byte typed, when there is one.
pub fn read() -> Option<u8> {
    (in8(LINE_STATUS) & DATA_READY != 0).then(|| in8(DATA))
}
