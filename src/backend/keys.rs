//! The escape key of the interactive console: Ctrl-A, as in GNU screen and QEMU. Pure.
//!
//! Everything else, Ctrl-C included, goes to the guest.

/// Ctrl-A (ASCII SOH).
const ESCAPE: u8 = 0x01;

/// What the user asks of Hostel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAction {
    /// Ctrl-A x: end the machine.
    End,
    /// Ctrl-A c: the command prompt.
    Prompt,
    /// Ctrl-A h: name the keys.
    Help,
}

/// What [`KeyAction::Help`] prints.
pub const KEYS_HELP: &str = "\
Ctrl-A x       end the machine
Ctrl-A c       command prompt
Ctrl-A h       this list
Ctrl-A Ctrl-A  send one Ctrl-A
";

/// The line for the start of an interactive session.
pub const KEYS_LINE: &str = "Ctrl-A x ends, Ctrl-A c: commands, Ctrl-A h: keys";

/// Takes the escape sequences out of what is typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EscapeKeys {
    escaped: bool,
}

impl EscapeKeys {
    /// Takes one byte from the terminal; appends what the guest gets of it to `guest`. A byte after Ctrl-A that means
    /// nothing goes to the guest together with its Ctrl-A, so no key is lost.
    pub fn press(&mut self, byte: u8, guest: &mut Vec<u8>) -> Option<KeyAction> {
        if !std::mem::take(&mut self.escaped) {
            self.escaped = byte == ESCAPE;
            if !self.escaped {
                guest.push(byte);
            }
            return None;
        }
        match byte {
            b'x' | b'X' => Some(KeyAction::End),
            b'c' | b'C' => Some(KeyAction::Prompt),
            b'h' | b'H' | b'?' => Some(KeyAction::Help),
            ESCAPE => {
                guest.push(ESCAPE);
                None
            }
            other => {
                guest.extend([ESCAPE, other]);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> (Vec<u8>, Vec<KeyAction>) {
        let (mut keys, mut guest) = (EscapeKeys::default(), Vec::new());
        let actions = bytes.iter().filter_map(|&byte| keys.press(byte, &mut guest)).collect();
        (guest, actions)
    }

    #[test]
    fn ordinary_keys_and_control_c_go_to_the_guest() {
        assert_eq!(typed(b"ls\r\x03\x1a\xff"), (b"ls\r\x03\x1a\xff".to_vec(), vec![]));
    }

    #[test]
    fn escaped_keys_are_commands_and_never_reach_the_guest() {
        use KeyAction::{End, Help, Prompt};
        assert_eq!(typed(b"a\x01hb\x01cc\x01x"), (b"abc".to_vec(), vec![Help, Prompt, End]));
    }

    #[test]
    fn doubled_escape_sends_one_and_an_unknown_key_sends_both() {
        assert_eq!(typed(b"\x01\x01x"), (b"\x01x".to_vec(), vec![]));
        assert_eq!(typed(b"\x01q"), (b"\x01q".to_vec(), vec![]));
        assert_eq!(typed(b"\x01"), (vec![], vec![]), "held until its second key");
    }
}
