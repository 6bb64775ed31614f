//! The last lines of the console, for reports. Pure, bounded.

use std::collections::VecDeque;

/// Lines kept, besides the unfinished one.
const LINES_MAX: usize = 20;

/// Bytes kept of a line; of a longer one the beginning is kept.
const LINE_BYTES_MAX: usize = 1024;

/// Keeps the last lines of a stream of plain text.
#[derive(Clone, Debug, Default)]
pub struct LastLines {
    complete: VecDeque<Vec<u8>>,
    unfinished: Vec<u8>,
}

impl LastLines {
    /// Takes the next byte.
    pub fn push(&mut self, byte: u8) {
        if byte == b'\n' {
            // The oldest line's memory serves the next one.
            let spare = if self.complete.len() == LINES_MAX { self.complete.pop_front() } else { None };
            let mut spare = spare.unwrap_or_default();
            spare.clear();
            self.complete.push_back(std::mem::replace(&mut self.unfinished, spare));
        } else if self.unfinished.len() < LINE_BYTES_MAX {
            self.unfinished.push(byte);
        }
    }

    /// The lines, at most [`LINES_MAX`], oldest first, the unfinished one last if it has begun.
    pub fn all(&self) -> Vec<String> {
        let unfinished = Some(&self.unfinished).filter(|line| !line.is_empty());
        let all: Vec<&Vec<u8>> = self.complete.iter().chain(unfinished).collect();
        all[all.len().saturating_sub(LINES_MAX)..].iter().map(|line| printable(line)).collect()
    }

    /// The line that was begun last.
    pub fn latest(&self) -> String {
        let line = if self.unfinished.is_empty() { self.complete.back() } else { Some(&self.unfinished) };
        line.map_or_else(String::new, |line| printable(line))
    }
}

/// A line of the guest as it may be shown on a terminal: no control characters.
fn printable(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> LastLines {
        let mut lines = LastLines::default();
        text.bytes().for_each(|byte| lines.push(byte));
        lines
    }

    #[test]
    fn the_last_twenty_are_kept_and_the_unfinished_one_counts() {
        let many: String = (0..50).map(|i| format!("line {i}\n")).collect();
        let kept = lines(&many);
        assert_eq!((kept.all().len(), kept.all()[0].as_str(), kept.latest().as_str()), (20, "line 30", "line 49"));
        let prompt = lines(&(many + "login: "));
        assert_eq!(prompt.all()[0], "line 31");
        assert_eq!((prompt.all()[19].as_str(), prompt.latest().as_str()), ("login: ", "login: "));
        assert_eq!(lines("").latest(), "");
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_shown_and_long_lines_are_cut() {
        assert_eq!(lines("a\x07\x08b\tc").latest(), "ab\tc");
        assert_eq!(lines(&"x".repeat(1 << 20)).latest().len(), LINE_BYTES_MAX);
    }
}
