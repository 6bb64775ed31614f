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
