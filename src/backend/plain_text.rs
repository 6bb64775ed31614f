//! The guest's output as a person reads it: without escape sequences and carriage returns. Pure, one byte at a time.
//!
//! The states are those of a terminal's parser, cut down to "is this byte shown": ECMA-48 §5.4 (control sequences), §5.6
//! (control strings), ECMA-35 §13 (other escape sequences). Eight-bit controls are left alone, because they are parts of
//! UTF-8. A line feed ends every sequence, so that a broken one hides no more than its line; [`STRING_MAX`] bounds that
//! too.

/// Longest control string (a title, a palette) that is believed; a longer one is text.
const STRING_MAX: u32 = 1024;

/// Takes escape sequences and carriage returns out of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainText {
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Text,
    /// After ESC, and after ESC with intermediate bytes.
    Escape,
    /// After ESC [.
    Control,
    /// In a control string, with its length so far.
    String(u32),
    /// After ESC in a control string: a backslash ends it.
    StringEscape,
}

const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
const ESC: u8 = 0x1b;

impl PlainText {
    /// Whether `byte`, the next of the stream, is text.
    pub fn keeps(&mut self, byte: u8) -> bool {
        let (next, keep) = match (self.state, byte) {
            (_, b'\n') => (State::Text, true),
            (_, CAN | SUB) => (State::Text, false),
            (State::Text, ESC) => (State::Escape, false),
            (State::Text, byte) => (State::Text, byte != b'\r'),
            (State::Escape, b'[') => (State::Control, false),
            // OSC, DCS, SOS, PM, APC.
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => (State::String(0), false),
            (State::Escape, ESC | 0x20..=0x2f) => (State::Escape, false),
            (State::Escape, _) => (State::Text, false),
            (State::Control, ESC) => (State::Escape, false),
            (State::Control, 0x40..=0xff) => (State::Text, false),
            (State::Control, _) => (State::Control, false),
            (State::String(_), BEL) => (State::Text, false),
            (State::String(_), ESC) => (State::StringEscape, false),
            (State::String(STRING_MAX), _) => (State::Text, true),
            (State::String(length), _) => (State::String(length + 1), false),
            (State::StringEscape, b'\\') => (State::Text, false),
            (State::StringEscape, b'[') => (State::Control, false),
            (State::StringEscape, _) => (State::Escape, false),
        };
        self.state = next;
        keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(bytes: &[u8]) -> String {
        let mut text = PlainText::default();
        String::from_utf8(bytes.iter().copied().filter(|&byte| text.keeps(byte)).collect()).unwrap()
    }

    #[test]
    fn colours_cursor_moves_titles_and_charsets_vanish() {
        assert_eq!(plain(b"\x1b[1;32mok\x1b[0m\r\n"), "ok\n");
        assert_eq!(plain(b"a\x1b[2J\x1b[H\x1b[?25lb"), "ab");
        assert_eq!(plain(b"\x1b]0;title\x07x\x1b]8;;url\x1b\\y"), "xy");
        assert_eq!(plain(b"\x1b(B\x1b7\x1bMz\x1b\x1b[1mw"), "zw");
        assert_eq!(plain("\u{e4}\u{20ac} stay".as_bytes()), "\u{e4}\u{20ac} stay");
    }

    #[test]
    fn a_broken_sequence_hides_no_more_than_its_line() {
        assert_eq!(plain(b"\x1b[12\nBUG: seen"), "\nBUG: seen");
        assert_eq!(plain(b"\x1b]never ended\nBUG: seen"), "\nBUG: seen");
        assert_eq!(plain(b"\x1b[3\x18seen"), "seen");
        let mut endless = b"\x1b]".to_vec();
        endless.extend([b'x'; 5000]);
        assert_eq!(plain(&endless).len(), 5000 - STRING_MAX as usize);
    }
}
