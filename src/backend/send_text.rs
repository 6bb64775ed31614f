//! The TEXT of `--send`: what is typed, byte for byte, with escapes. Pure.
//!
//! `\n` `\r` `\t` `\e` `\\` and `\xNN`. Nothing is added: a line that shall be entered ends with `\n`, and an answer to
//! "press any key" does not.

/// A TEXT that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("text to send {text:?}: {escape:?} is none of \\n \\r \\t \\e \\\\ \\xNN")]
pub struct SendTextError {
    text: String,
    escape: String,
}

/// The bytes that `text` stands for.
///
/// # Errors
/// An escape that does not exist, or is cut short.
pub fn send_text(text: &str) -> Result<Vec<u8>, SendTextError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend(plain.as_bytes());
        let (byte, length) = match escape.as_bytes() {
            [b'n', ..] => (b'\n', 1),
            [b'r', ..] => (b'\r', 1),
            [b't', ..] => (b'\t', 1),
            [b'e', ..] => (0x1b, 1),
            [b'\\', ..] => (b'\\', 1),
            [b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (u8::from_str_radix(&escape[1..3], 16).expect("two hexadecimal digits"), 3)
            }
            _ => {
                let escape = std::iter::once('\\').chain(escape.chars().take(3)).collect();
                return Err(SendTextError { text: text.to_owned(), escape });
            }
        };
        bytes.push(byte);
        rest = &escape[length..];
    }
    bytes.extend(rest.as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_become_bytes_and_nothing_is_added() {
        assert_eq!(send_text("root\\n").unwrap(), b"root\n");
        assert_eq!(send_text("\\r\\t\\e[A\\\\n\\x00\\xfF").unwrap(), b"\r\t\x1b[A\\n\x00\xff");
        assert_eq!(send_text("").unwrap(), b"");
        assert_eq!(send_text("\u{e4}\\n").unwrap(), "\u{e4}\n".as_bytes());
    }

    #[test]
    fn unknown_and_cut_escapes_are_named() {
        for (text, escape) in
            [("a\\q", "\\q"), ("\\", "\\"), ("\\x1", "\\x1"), ("\\xzz!", "\\xzz"), ("\\x\u{e4}", "\\x\u{e4}")]
        {
            assert_eq!(send_text(text), Err(SendTextError { text: text.into(), escape: escape.into() }));
        }
    }
}
