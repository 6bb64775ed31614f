//! Printing without `core::fmt`, whose number formatting uses vector registers and weighs more than a small guest.
//!
//! `print!("a = ", a, ", b = ", Hex(b), "\n")` prints its arguments one after the other.

use crate::serial;

/// Something that can be printed.
pub trait Show {
    /// Prints it on the console.
    fn show(&self);
}

/// A number printed in hexadecimal with `0x`.
pub struct Hex(pub u64);

/// A number printed in decimal with two digits at least.
pub struct Padded(pub u8);

/// A number printed in decimal at the end of so many columns.
pub struct Column(pub u64, pub u32);

/// A text printed at the beginning of so many columns.
pub struct Left<'a>(pub &'a str, pub usize);

/// Bytes printed in hexadecimal, two digits each, with spaces between them.
pub struct Bytes<'a>(pub &'a [u8]);

/// Four letters in a register, as CPUID returns text; zero bytes are left out.
pub struct Letters(pub u32);

impl Show for &str {
    fn show(&self) {
        serial::write(self.as_bytes());
    }
}

impl Show for u64 {
    fn show(&self) {
        show_digits(*self, 10);
    }
}

impl Show for Hex {
    fn show(&self) {
        "0x".show();
        show_digits(self.0, 16);
    }
}

impl Show for Padded {
    fn show(&self) {
        if self.0 < 10 {
            "0".show();
        }
        u64::from(self.0).show();
    }
}

impl Show for Column {
    fn show(&self) {
        for _ in self.0.checked_ilog10().unwrap_or(0) + 1..self.1 {
            " ".show();
        }
        self.0.show();
    }
}

impl Show for Left<'_> {
    fn show(&self) {
        self.0.show();
        for _ in self.0.len()..self.1 {
            " ".show();
        }
    }
}

impl Show for Bytes<'_> {
    fn show(&self) {
        for (index, byte) in self.0.iter().enumerate() {
            if index > 0 {
                " ".show();
            }
            show_digits(u64::from(byte >> 4), 16);
            show_digits(u64::from(byte & 15), 16);
        }
    }
}

impl Show for Letters {
    fn show(&self) {
        for byte in self.0.to_le_bytes() {
            if byte != 0 {
                serial::write(&[byte]);
            }
        }
    }
}

/// Prints the digits of `number`, most significant first. Without an array of them: clearing one takes vector registers.
fn show_digits(number: u64, base: u64) {
    if number >= base {
        show_digits(number / base, base);
    }
    let digit = (number % base) as u8;
    serial::write(&[if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }]);
}

/// Prints its arguments, each of which implements [`Show`](crate::text::Show).
#[macro_export]
macro_rules! print {
    ($($part:expr),+ $(,)?) => {{ $( $crate::text::Show::show(&$part); )+ }};
}
