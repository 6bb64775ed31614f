//! The guest's console by lines, each with when it was written: what the guest stores into COM1's transmit holding register
//! and into the debug console.
//!
//! Sources: PC16550D §8.6 (loopback takes the line's place); Bochs user manual, "port_e9_hack".

use super::super::event::ExitEvent;
use crate::backend::plain_text::PlainText;
use crate::kvm::exit::Exit;
use serde::Serialize;
use std::collections::VecDeque;

/// Bytes kept, the last ones.
const BYTES_MAX: usize = 1 << 20;
/// Lines kept, the last ones.
const LINES_MAX: usize = 50_000;
/// A longer line is cut into several.
const LINE_BYTES_MAX: usize = 4096;
/// The bit of the modem control register that turns loopback on.
const MCR_LOOPBACK: u64 = 1 << 4;

/// A line.
#[derive(Default)]
struct Line {
    from_ns: u64,
    to_ns: u64,
    bytes: Vec<u8>,
    ended: bool,
}

/// The lines of a console.
#[derive(Default)]
pub struct ConsoleLines {
    lines: VecDeque<Line>,
    bytes: usize,
    lost_lines: u64,
    plain: PlainText,
    in_loopback: bool,
}

/// The lines by column; those of one position belong together.
#[derive(Debug, Serialize)]
pub struct Table {
    from_ns: Vec<u64>,
    to_ns: Vec<u64>,
    text: Vec<String>,
    /// Lines before these.
    lost_lines: u64,
}

impl ConsoleLines {
    /// Takes what an exit adds to the console, if it does.
    pub fn exit(&mut self, event: &ExitEvent) {
        let Exit::PioWrite { value, .. } = event.exit else { return };
        match event.register.map(|to| (to.device, to.register)) {
            Some(("COM1", "MCR")) => self.in_loopback = value & MCR_LOOPBACK != 0,
            Some(("COM1", "THR")) if !self.in_loopback => self.put(event.at_ns, value as u8),
            Some(("debugcon", _)) => self.put(event.at_ns, value as u8),
            _ => {}
        }
    }

    fn put(&mut self, at_ns: u64, byte: u8) {
        if !self.plain.keeps(byte) {
            return;
        }
        if self.lines.back().is_none_or(|line| line.ended || line.bytes.len() == LINE_BYTES_MAX) {
            self.lines.push_back(Line { from_ns: at_ns, ..Line::default() });
        }
        let line = self.lines.back_mut().expect("one was put there if there was none");
        line.to_ns = at_ns;
        if byte == b'\n' {
            line.ended = true;
        } else {
            line.bytes.push(byte);
            self.bytes += 1;
        }
        while self.bytes > BYTES_MAX || self.lines.len() > LINES_MAX {
            let first = self.lines.pop_front().expect("there are many");
            self.bytes -= first.bytes.len();
            self.lost_lines += 1;
        }
    }

    /// The console as it stands.
    pub fn table(&self) -> Table {
        Table {
            from_ns: self.lines.iter().map(|line| line.from_ns).collect(),
            to_ns: self.lines.iter().map(|line| line.to_ns).collect(),
            text: self.lines.iter().map(|line| visible(&line.bytes)).collect(),
            lost_lines: self.lost_lines,
        }
    }
}

/// Text in which every control character but the tabulator has a picture (Unicode "Control Pictures"), and what is no UTF-8
/// the replacement character.
fn visible(bytes: &[u8]) -> String {
    let picture = |c: char| match c {
        '\t' => c,
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\x7f' => '\u{2421}',
        _ if c.is_control() => char::REPLACEMENT_CHARACTER,
        _ => c,
    };
    String::from_utf8_lossy(bytes).chars().map(picture).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::event::DeviceRegister;
    use super::super::super::fixture::{event, serial};
    use super::*;

    fn written(bytes: impl IntoIterator<Item = u8>) -> Table {
        let mut console = ConsoleLines::default();
        bytes.into_iter().enumerate().for_each(|(at, byte)| console.put(at as u64, byte));
        console.table()
    }

    #[test]
    fn lines_have_their_times_and_no_control_characters() {
        let table = written(*b"ab\r\n\n\x1b[31mc\td\x07\xff\x7f\xc2\x85");
        assert_eq!(table.text, ["ab", "", "c\td\u{2407}\u{fffd}\u{2421}\u{fffd}"]);
        assert_eq!((table.from_ns, table.to_ns), (vec![0, 4, 10], vec![3, 4, 17]));
        assert_eq!(table.lost_lines, 0);
    }

    #[test]
    fn both_consoles_are_shown_and_loopback_is_not() {
        let mut console = ConsoleLines::default();
        let write = |device, register, value| {
            let register = Some(DeviceRegister { device, register });
            ExitEvent { register, ..event(Exit::PioWrite { port: 0, size: 1, value }) }
        };
        console.exit(&serial(b'a'));
        console.exit(&write("debugcon", "DEBUGCON", 0x62));
        console.exit(&write("COM1", "MCR", MCR_LOOPBACK));
        console.exit(&serial(b'x'));
        console.exit(&write("COM1", "MCR", 0));
        console.exit(&serial(b'c'));
        console.exit(&write("COM1", "DLL", 0x78));
        assert_eq!(console.table().text, ["abc"]);
    }

    #[test]
    fn a_flood_is_cut_and_its_end_is_kept() {
        let table = written(std::iter::repeat_n(b'x', BYTES_MAX + LINE_BYTES_MAX));
        assert_eq!((table.text.len(), table.lost_lines), (BYTES_MAX / LINE_BYTES_MAX, 1));
        let table = written(std::iter::repeat_n(b'\n', LINES_MAX + 5));
        assert_eq!((table.text.len(), table.lost_lines, table.from_ns[0]), (LINES_MAX, 5, 5));
    }
}
