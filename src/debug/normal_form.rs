//! What a vCPU's exits have in common from run to run and from host to host: kinds, registers, sizes and values in their
//! order, without times and addresses of code.
//!
//! ```text
//! pio-write.1 COM1 THR = "Hello from a guest\n" polls 2
//! mmio-read.4 0xc0000000 = 0xffffffff
//! msr-write MSR 0x12345678 = 0x0 -> #GP
//! pio-read.1 port 0x80 = 0xff x 3
//! hlt
//! ```
//!
//! Like steps in a row are one with a count. Letters that a guest sends to a console are one step a line; how often the
//! driver asked whether the transmitter is empty is counted, not where in the line it asked.

use super::event::{ExitEvent, ExitKind};
use crate::kvm::exit::{Exit, Reply};
use std::fmt::Write;

/// Registers that take letters: COM1's transmitter and the debug console.
const TEXT_REGISTERS: [&str; 2] = ["THR", "DEBUGCON"];
/// The line status register, what it says when the transmitter is empty (PC16550D §8.4: THRE, TEMT), and the bit for a byte
/// that has come (DR), which is the host's doing and never the guest's.
const LINE_STATUS: &str = "LSR";
const EMPTY: u64 = 0x60;
const DATA_READY: u64 = 0x01;

/// One step in the normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The line, its count included.
    pub line: String,
    /// Number of its first exit among all that were shown, from 1.
    pub number: u64,
    /// When that was, in nanoseconds since the program's begin.
    pub at_ns: u64,
}

/// Brings one vCPU's exits into the normal form.
#[derive(Debug, Default)]
pub struct NormalForm {
    steps: Vec<Step>,
    /// How often the last step happened.
    count: u64,
    /// The line of text that is being written.
    open: Option<Text>,
}

/// Letters on their way to a console.
#[derive(Debug)]
struct Text {
    /// The step's beginning: kind and register; empty as long as there are only polls.
    head: String,
    letters: String,
    /// Exits that asked whether the transmitter is empty.
    polls: u64,
    number: u64,
    at_ns: u64,
}

impl NormalForm {
    /// Takes the next exit, `number` among all.
    pub fn push(&mut self, event: &ExitEvent, number: u64) {
        let letter = letter(event);
        let polled = is_poll(event);
        if self.open.as_ref().is_some_and(|text| text.letters.ends_with('\n')) || letter.is_none() && !polled {
            self.close();
        }
        if letter.is_none() && !polled {
            self.step(line(event), number, event.at_ns);
            return;
        }
        let head = if polled { String::new() } else { head(event) };
        // Two consoles in turns: each has its own lines.
        if self.open.as_ref().is_some_and(|text| !text.head.is_empty() && !head.is_empty() && text.head != head) {
            self.close();
        }
        let at_ns = event.at_ns;
        let text = self.open.get_or_insert_with(|| Text {
            head: String::new(),
            letters: String::new(),
            polls: 0,
            number,
            at_ns,
        });
        match letter {
            Some(letter) => {
                text.head = head;
                text.letters.push(letter);
            }
            None => text.polls += 1,
        }
    }

    /// Steps so far, but for the text that is being written.
    pub fn steps_so_far(&self) -> usize {
        self.steps.len()
    }

    /// All steps: nothing follows.
    pub fn finish(mut self) -> Vec<Step> {
        self.close();
        self.steps
    }

    /// The line of text is over.
    fn close(&mut self) {
        let Some(Text { head, letters, polls, number, at_ns }) = self.open.take() else { return };
        if letters.is_empty() {
            for _ in 0..polls {
                self.step(format!("pio-read.1 COM1 {LINE_STATUS} = {EMPTY:#x}"), number, at_ns);
            }
            return;
        }
        let polled = if polls > 0 { format!(" polls {polls}") } else { String::new() };
        self.step(format!("{head} = {letters:?}{polled}"), number, at_ns);
    }

    fn step(&mut self, line: String, number: u64, at_ns: u64) {
        let unfolded = |line: &str, count| if count > 1 { format!("{line} x {count}") } else { line.to_owned() };
        match self.steps.last_mut().filter(|last| last.line == unfolded(&line, self.count)) {
            Some(last) => {
                self.count += 1;
                last.line = unfolded(&line, self.count);
            }
            None => {
                self.count = 1;
                self.steps.push(Step { line, number, at_ns });
            }
        }
    }
}

/// The letter that the exit sends to a console, if it does.
fn letter(event: &ExitEvent) -> Option<char> {
    let Exit::PioWrite { size: 1, value, .. } = event.exit else { return None };
    let letter = char::from(value as u8);
    let prints = letter.is_ascii_graphic() || matches!(letter, ' ' | '\n' | '\r' | '\t');
    (prints && TEXT_REGISTERS.contains(&event.register?.register)).then_some(letter)
}

/// Whether the exit asks COM1 for room and is told that there is.
fn is_poll(event: &ExitEvent) -> bool {
    let register = event.register.map(|to| (to.device, to.register));
    matches!(event.exit, Exit::PioRead { size: 1, .. })
        && register == Some(("COM1", LINE_STATUS))
        && event.value().is_some_and(|value| value & !DATA_READY == EMPTY)
}

/// Kind, size and register: "pio-write.1 COM1 THR".
fn head(event: &ExitEvent) -> String {
    let mut head = ExitKind::of(&event.exit).name().to_owned();
    if let Exit::PioRead { size, .. }
    | Exit::PioWrite { size, .. }
    | Exit::MmioRead { size, .. }
    | Exit::MmioWrite { size, .. } = event.exit
    {
        write!(head, ".{size}").expect("strings take all");
    }
    let target = event.target();
    if !target.is_empty() {
        head = head + " " + &target;
    }
    head
}

/// The exit as a line.
fn line(event: &ExitEvent) -> String {
    let value = event.value().map_or(String::new(), |value| format!(" = {value:#x}"));
    let fault = if event.reply == Some(Reply::Fault) { " -> #GP" } else { "" };
    head(event) + &value + fault
}

#[cfg(test)]
mod tests {
    use super::super::event::DeviceRegister;
    use super::super::fixture::{event, serial};
    use super::*;

    fn answered(exit: Exit, reply: Option<Reply>) -> ExitEvent {
        ExitEvent { reply, ..event(exit) }
    }

    fn lsr(value: u64) -> ExitEvent {
        let register = Some(DeviceRegister { device: "COM1", register: "LSR" });
        ExitEvent { register, ..answered(Exit::PioRead { port: 0x3fd, size: 1 }, Some(Reply::Value(value))) }
    }

    fn normal(events: &[ExitEvent]) -> Vec<String> {
        let mut form = NormalForm::default();
        for (index, event) in events.iter().enumerate() {
            form.push(event, index as u64 + 1);
        }
        form.finish().into_iter().map(|step| format!("{} {}", step.number, step.line)).collect()
    }

    #[test]
    fn exits_are_named_with_size_and_value() {
        let write = Exit::MmioWrite { addr: 0x1000, size: 8, value: 0x11 };
        let read = Exit::PioRead { port: 0x80, size: 2 };
        let msr = Exit::MsrWrite { index: 0x10, filtered: false, value: 1 };
        let events = [
            event(write),
            answered(read, Some(Reply::Value(0xffff))),
            answered(msr, Some(Reply::Fault)),
            answered(Exit::Halt, None),
        ];
        let lines =
            ["mmio-write.8 0x1000 = 0x11", "pio-read.2 port 0x80 = 0xffff", "msr-write MSR 0x10 = 0x1 -> #GP", "hlt"];
        assert_eq!(normal(&events), [0, 1, 2, 3].map(|i| format!("{} {}", i + 1, lines[i])));
    }

    #[test]
    fn text_is_one_step_a_line_wherever_the_driver_polled() {
        let text = [
            lsr(0x60),
            serial(b'a'),
            lsr(0x60),
            serial(b'"'),
            serial(b'\n'),
            lsr(0x60),
            serial(b'b'),
            lsr(0x61),
            lsr(0x40),
        ];
        let lines = [r#"1 pio-write.1 COM1 THR = "a\"\n" polls 2"#, r#"6 pio-write.1 COM1 THR = "b" polls 2"#];
        let read = "9 pio-read.1 COM1 LSR = 0x40";
        assert_eq!(normal(&text), [lines[0], lines[1], read]);
        assert_eq!(normal(&[lsr(0x60), lsr(0x60), serial(1)])[0], "1 pio-read.1 COM1 LSR = 0x60 x 2");
    }

    #[test]
    fn like_steps_are_counted() {
        let halt = || answered(Exit::Halt, None);
        assert_eq!(
            normal(&[halt(), halt(), serial(0), halt()]),
            ["1 hlt x 2", "3 pio-write.1 COM1 THR = 0x0", "4 hlt"]
        );
    }
}
