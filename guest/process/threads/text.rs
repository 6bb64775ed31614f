//! Lines of text, put together in memory and written at once, so that those of two threads do not mix.

use crate::kernel;

/// Bytes that a line holds; what is longer is cut.
const LINE_BYTES: usize = 160;
/// Digits of the longest number.
const DIGITS: usize = 20;

/// A line that is being put together.
pub struct Line {
    bytes: [u8; LINE_BYTES],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Line { bytes: [0; LINE_BYTES], length: 0 }
    }
}

impl Line {
    /// An empty line.
    pub fn new() -> Line {
        Line::default()
    }

    /// Adds text.
    pub fn text(&mut self, text: &str) -> &mut Line {
        for &byte in text.as_bytes() {
            if self.length < LINE_BYTES - 1 {
                self.bytes[self.length] = byte;
                self.length += 1;
            }
        }
        self
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) -> &mut Line {
        let (mut digits, mut first, mut rest) = ([0; DIGITS], DIGITS, number);
        while first == DIGITS || rest > 0 {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        self.text(core::str::from_utf8(&digits[first..]).expect("digits are text"))
    }

    /// Adds thousandths as a decimal number: so many digits behind the point as the number is worth, two or none.
    pub fn thousandths(&mut self, number: u64) -> &mut Line {
        if number >= 100_000 {
            return self.number((number + 500) / 1000);
        }
        let hundredths = (number + 5) / 10;
        self.number(hundredths / 100).text(".").number(hundredths / 10 % 10).number(hundredths % 10)
    }

    /// Adds spaces up to this column.
    pub fn up_to(&mut self, column: usize) -> &mut Line {
        while self.length < column.min(LINE_BYTES - 1) {
            self.text(" ");
        }
        self
    }

    /// Adds what `cell` puts together so that it ends at this column.
    pub fn right(&mut self, column: usize, cell: impl FnOnce(&mut Line)) -> &mut Line {
        let mut part = Line::new();
        cell(&mut part);
        self.up_to(column.saturating_sub(part.length)).text(part.as_str())
    }

    /// What is there so far.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).expect("only text is added, and it is cut at a byte of ASCII")
    }

    /// Writes the line.
    pub fn print(&mut self) {
        self.bytes[self.length] = b'\n';
        kernel::write(&self.bytes[..=self.length]);
        self.length = 0;
    }
}
