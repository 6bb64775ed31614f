//! Words of a line, and the numbers among them.

/// The words of a line, one after the other: what spaces separate.
pub struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// The words of `line`.
    pub fn of(line: &'a [u8]) -> Words<'a> {
        Words(line)
    }

    /// The next word as a number; `None`: there is no word or it is no number.
    pub fn number(&mut self) -> Option<u64> {
        self.next().and_then(number)
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.0.trim_ascii_start();
        let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
        let (word, rest) = line.split_at_checked(end)?;
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }
}

/// The value of decimal digits, or of hexadecimal ones after `0x`.
fn number(word: &[u8]) -> Option<u64> {
    let (digits, base) = match word.strip_prefix(b"0x") {
        Some(digits) => (digits, 16),
        None => (word, 10),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value = 0u64;
    for &digit in digits {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' => digit - b'A' + 10,
            _ => return None,
        };
        if u64::from(digit) >= base {
            return None;
        }
        value = value.checked_mul(base)?.checked_add(u64::from(digit))?;
    }
    Some(value)
}
