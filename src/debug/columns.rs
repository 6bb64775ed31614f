//! A line of text in columns, built field by field without a string for each. A field that is too wide pushes those behind it,
//! until one has room again. Colours: ECMA-48 §8.3.117.

use std::fmt::{self, Write};

/// A line that grows from column to column.
#[derive(Default)]
pub struct Columns {
    text: String,
    /// Characters that a terminal shows of it.
    width: usize,
}

impl Columns {
    /// Goes to column `at`, by a space at least.
    ///
    /// # Errors
    /// Never: a string takes everything, here and below.
    pub fn begin(&mut self, at: usize) -> fmt::Result {
        const SPACES: &str = "                                                                ";
        let mut missing = at.saturating_sub(self.width).max(1);
        while missing > 0 {
            let some = missing.min(SPACES.len());
            self.write_str(&SPACES[..some])?;
            missing -= some;
        }
        Ok(())
    }

    /// Adds a duration, in microseconds with one decimal, so that it ends before column `at`.
    ///
    /// # Errors
    /// Never.
    pub fn microseconds(&mut self, at: usize, ns: u64) -> fmt::Result {
        let tenths = (ns + 50) / 100;
        let width = 3 + (tenths / 10).checked_ilog10().unwrap_or(0) as usize;
        self.begin(at.saturating_sub(width))?;
        write!(self, "{}.{}", tenths / 10, tenths % 10)
    }

    /// Adds `text` in a colour, which takes no column.
    ///
    /// # Errors
    /// Never.
    pub fn painted(&mut self, colour: Option<u8>, text: &str) -> fmt::Result {
        let Some(code) = colour else { return self.write_str(text) };
        write!(self.text, "\x1b[{code}m{text}\x1b[0m")?;
        self.width += text.len();
        Ok(())
    }

    /// Shows the line with its end to `see`; then there is nothing.
    pub fn end<T>(&mut self, see: impl FnOnce(&[u8]) -> T) -> T {
        self.text.truncate(self.text.trim_end().len());
        self.text.push('\n');
        let seen = see(self.text.as_bytes());
        self.text.clear();
        self.width = 0;
        seen
    }
}

impl fmt::Write for Columns {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.width += text.chars().count();
        self.text.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_in_their_columns_until_one_is_too_wide() {
        let mut line = Columns::default();
        let mut show = |field: &str| {
            line.painted(Some(31), "a").unwrap();
            line.begin(4).unwrap();
            line.write_str(field).unwrap();
            line.microseconds(16, 1_250).unwrap();
            line.begin(18).unwrap();
            line.write_str("é ").unwrap();
            line.end(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        };
        assert_eq!(show("field"), "\x1b[31ma\x1b[0m   field    1.3  é\n");
        assert_eq!(show("a long field"), "\x1b[31ma\x1b[0m   a long field 1.3 é\n");
    }

    #[test]
    fn microseconds_are_rounded_to_a_tenth() {
        for (ns, text) in
            [(0, "0.0"), (49, "0.0"), (50, "0.1"), (9_949, "9.9"), (9_950, "10.0"), (123_456_789, "123456.8")]
        {
            let mut line = Columns::default();
            line.microseconds(12, ns).unwrap();
            assert_eq!(line.end(|bytes| bytes.to_vec()), format!("{text:>12}\n").into_bytes());
        }
    }
}
