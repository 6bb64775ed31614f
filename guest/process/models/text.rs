//! Lines of text, put together in memory and written at once, so that those of two threads do not mix.

use core::fmt::{self, Write};

use crate::kernel;

/// Bytes that a line holds; what is longer is cut.
const LINE_BYTES: usize = 160;

/// A line that is being put together with `write!`, which does not fail.
pub struct Line {
    bytes: [u8; LINE_BYTES],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Line { bytes: [0; LINE_BYTES], length: 0 }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (place, byte) in self.bytes[self.length..].iter_mut().zip(text.bytes()) {
            *place = byte;
            self.length += 1;
        }
        Ok(())
    }
}

/// For `line!`.
pub fn print(text: fmt::Arguments) {
    let mut line = Line::default();
    let _ = writeln!(line, "{text}");
    kernel::write(&line.bytes[..line.length]);
}

/// Prints a line, as `std::println!` does.
#[macro_export]
macro_rules! line {
    ($($argument:tt)*) => { $crate::text::print(core::format_args!($($argument)*)) };
}

/// Thousandths as a decimal number: with two digits behind the point as long as it is small.
pub struct Thousandths(pub u64);

impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 100_000 {
            return fmt::Display::fmt(&((self.0 + 500) / 1000), f);
        }
        let hundredths = (self.0 + 5) / 10;
        let mut text = Line::default();
        write!(text, "{}.{:02}", hundredths / 100, hundredths % 100)?;
        f.pad(text.as_str())
    }
}

impl Line {
    /// What is there so far.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}
