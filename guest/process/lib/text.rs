//! Printing: `print!` formats into a buffer and writes it by as few calls as it fills.
//!
//! One `print!` of at most `abi::WRITE_MAX` bytes is one call, so lines of several threads do not mix.

use core::fmt::{self, Write};

use crate::abi::{OUTPUT, WRITE_MAX};
use crate::call;

/// What is to be written to the console.
pub struct Console {
    bytes: [u8; WRITE_MAX as usize],
    used: usize,
}

impl Console {
    /// Nothing yet.
    pub const fn new() -> Console {
        Console { bytes: [0; WRITE_MAX as usize], used: 0 }
    }

    /// Takes `bytes`; what fills the buffer is written.
    pub fn put(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.used == self.bytes.len() {
                self.flush();
            }
            if let Some(slot) = self.bytes.get_mut(self.used) {
                *slot = byte;
                self.used += 1;
            }
        }
    }

    /// Writes what there is.
    pub fn flush(&mut self) {
        write_all(self.bytes.get(..self.used).unwrap_or_default());
        self.used = 0;
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}

/// Writes all of `bytes` to the console.
pub fn write_all(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let Ok(taken) = call::write(OUTPUT, bytes) else { return };
        bytes = bytes.get(taken..).unwrap_or_default();
    }
}

/// For `print!`.
pub fn print(arguments: fmt::Arguments) {
    let mut console = Console::new();
    let _ = console.write_fmt(arguments);
    console.flush();
}

/// Prints as `std::print!` does.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::text::print(core::format_args!($($argument)*)) };
}
