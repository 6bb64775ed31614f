//! The console's input: from standard input, `--send` and the keys of the terminal to the serial device.
//!
//! Nothing is lost and nothing grows: what the device has no room for waits here, and while [`BUFFER_BYTES`] wait, standard
//! input is not read (firecracker's CVE-2020-27174 kept all of it). The end of input reaches the guest as one Ctrl-D
//! behind the last byte.
//!
//! A terminal is read only while this process is in its foreground; reading it from the background would stop us (SIGTTIN,
//! credentials(7)).

use super::keys::{EscapeKeys, KeyAction};
use super::monitor::{Line, LineEditor};
use crate::bus::stream::SerialInput;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes that wait for the guest; beyond them, standard input is not read.
pub const BUFFER_BYTES: usize = 64 << 10;

/// End of transmission, Ctrl-D: how a terminal says that there is no more.
const END_OF_TRANSMISSION: u8 = 0x04;

/// What the end of input means to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfInput {
    /// One Ctrl-D.
    CtrlD,
    /// One Ctrl-D for a reader of lines (termios(3), canonical mode), and where the last line has no end, one before that which ends it.
    EndOfLineAndFile,
    /// Nothing: a script types (`--send`), and standard input is `/dev/null` or the like.
    Silent,
}

/// The console's input.
pub struct ConsoleInput {
    source: Option<OwnedFd>,
    kind: Kind,
    end: EndOfInput,
    /// The last byte that was read for the guest.
    last: u8,
    waiting: VecDeque<u8>,
    keys: EscapeKeys,
    /// The line at the command prompt while that is open.
    prompt: Option<LineEditor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Terminal,
    /// A terminal in whose background we are.
    ForeignTerminal,
    /// Something that can be waited for.
    Stream,
    /// Files and the like: always ready.
    File,
}

/// What the user did besides typing for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// A key of Hostel.
    Key(KeyAction),
    /// Something to show at the command prompt.
    Echo(Vec<u8>),
    /// A line entered at the command prompt, which stays open.
    Command(String),
    /// The command prompt was left.
    PromptLeft,
}

impl ConsoleInput {
    /// Standard input. If it cannot be used, that is its end.
    pub fn stdin(end: EndOfInput) -> ConsoleInput {
        let mut input = ConsoleInput::over(std::io::stdin().as_fd().try_clone_to_owned().ok(), end);
        if input.kind == Kind::Terminal && !super::terminal::in_foreground() {
            input.kind = Kind::ForeignTerminal;
        }
        input
    }

    /// Nothing but what Hostel types itself.
    pub fn none() -> ConsoleInput {
        ConsoleInput::over(None, EndOfInput::Silent)
    }

    fn over(source: Option<OwnedFd>, end: EndOfInput) -> ConsoleInput {
        let kind = source.as_ref().map_or(Kind::File, kind_of);
        let no_source = source.is_none();
        let mut input = ConsoleInput {
            source,
            kind,
            end,
            last: b'\n',
            waiting: VecDeque::new(),
            keys: EscapeKeys::default(),
            prompt: None,
        };
        if no_source {
            input.ended();
        }
        input
    }

    /// From now on input comes from `source`, which does not block and has no keys of Hostel.
    pub fn attach(&mut self, source: OwnedFd) {
        (self.source, self.kind) = (Some(source), Kind::Stream);
    }

    /// Whether no more input comes.
    pub fn has_ended(&self) -> bool {
        self.source.is_none()
    }

    /// The descriptor to poll for reading; `None` while nothing is wanted from there.
    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        let wanted = self.kind != Kind::ForeignTerminal && self.waiting.len() < BUFFER_BYTES;
        self.source.as_ref().filter(|_| wanted).map(AsFd::as_fd)
    }

    /// Reads what is there, without waiting. Returns what is not for the guest.
    pub fn read(&mut self) -> Vec<Typed> {
        let mut buffer = [0; 4096];
        let room = BUFFER_BYTES.saturating_sub(self.waiting.len()).min(buffer.len());
        let Some(fd) = self.waits_for().filter(|&fd| ready(fd)) else { return Vec::new() };
        match rustix::io::read(fd, &mut buffer[..room]) {
            Ok(0) => self.ended(),
            Ok(count) if self.kind == Kind::Terminal => return self.typed(&buffer[..count]),
            Ok(count) => {
                self.last = buffer[count - 1];
                self.waiting.extend(&buffer[..count]);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A terminal that hung up (EIO), a directory (EISDIR): there is no more.
            Err(_) => self.ended(),
        }
        Vec::new()
    }

    /// Types `bytes`, behind what waits: `--send`.
    pub fn type_in(&mut self, bytes: &[u8]) {
        self.waiting.extend(bytes);
    }

    /// Offers what waits to the device.
    pub fn offer(&mut self, device: &mut dyn SerialInput) {
        while !self.waiting.is_empty() {
            let (front, _) = self.waiting.as_slices();
            let offered = front.len();
            let taken = device.receive(front).min(offered);
            self.waiting.drain(..taken);
            if taken < offered {
                return;
            }
        }
    }

    /// A break on the line and `key` right behind it: Linux's SysRq over serial.
    pub fn send_break(&mut self, device: &mut dyn SerialInput, key: u8) {
        device.receive_break();
        self.waiting.push_front(key);
        self.offer(device);
    }

    /// The process was continued (SIGCONT), perhaps in the foreground now.
    pub fn continued(&mut self) {
        if matches!(self.kind, Kind::Terminal | Kind::ForeignTerminal) {
            let ours = super::terminal::in_foreground();
            self.kind = if ours { Kind::Terminal } else { Kind::ForeignTerminal };
        }
    }

    fn ended(&mut self) {
        self.source = None;
        let ends = match self.end {
            EndOfInput::Silent => 0,
            EndOfInput::EndOfLineAndFile if self.last != b'\n' => 2,
            EndOfInput::CtrlD | EndOfInput::EndOfLineAndFile => 1,
        };
        self.waiting.extend(&[END_OF_TRANSMISSION; 2][..ends]);
    }

    /// Sorts bytes from the terminal: for the guest, for the command prompt, for Hostel.
    fn typed(&mut self, bytes: &[u8]) -> Vec<Typed> {
        let mut events = Vec::new();
        let mut plain = Vec::new();
        for &byte in bytes {
            plain.clear();
            match self.keys.press(byte, &mut plain) {
                Some(KeyAction::Prompt) if self.prompt.take().is_some() => events.push(Typed::PromptLeft),
                Some(action) => {
                    if action == KeyAction::Prompt {
                        self.prompt = Some(LineEditor::default());
                    }
                    events.push(Typed::Key(action));
                }
                None => self.sort(&plain, &mut events),
            }
        }
        events
    }

    fn sort(&mut self, plain: &[u8], events: &mut Vec<Typed>) {
        for &byte in plain {
            let Some(editor) = &mut self.prompt else {
                self.waiting.push_back(byte);
                continue;
            };
            let mut echo = Vec::new();
            let line = editor.press(byte, &mut echo);
            if !echo.is_empty() {
                events.push(Typed::Echo(echo));
            }
            match line {
                Line::Unfinished => {}
                Line::Entered(line) => events.push(Typed::Command(line)),
                Line::Left => {
                    self.prompt = None;
                    events.push(Typed::PromptLeft);
                }
            }
        }
    }
}

fn kind_of(fd: &OwnedFd) -> Kind {
    let kind = rustix::fs::fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    match kind {
        Ok(FileType::Fifo | FileType::Socket) => Kind::Stream,
        Ok(FileType::CharacterDevice) if rustix::termios::isatty(fd) => Kind::Terminal,
        _ => Kind::File,
    }
}

/// Whether reading returns at once.
fn ready(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A receiver with room for a few bytes at a time.
    #[derive(Default)]
    struct Port {
        room: usize,
        got: Vec<u8>,
    }

    impl SerialInput for Port {
        fn receive(&mut self, bytes: &[u8]) -> usize {
            let taken = bytes.len().min(self.room);
            self.got.extend(&bytes[..taken]);
            self.room -= taken;
            taken
        }
        fn receive_break(&mut self) {
            self.got.extend(b"<break>");
        }
        fn output_has_room(&mut self) {}
    }

    fn piped(end: EndOfInput) -> (ConsoleInput, std::fs::File) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        (ConsoleInput::over(Some(reader), end), writer.into())
    }

    #[test]
    fn piped_input_arrives_whole_and_its_end_is_one_control_d() {
        let (mut input, mut writer) = piped(EndOfInput::CtrlD);
        let mut port = Port::default();
        writer.write_all(b"echo \x01x\n").unwrap();
        drop(writer);
        while input.waits_for().is_some() {
            assert_eq!(input.read(), []);
            input.offer(&mut port);
        }
        assert_eq!(port.got, b"", "no room");
        for _ in 0..20 {
            port.room = 3;
            input.offer(&mut port);
        }
        assert_eq!(port.got, b"echo \x01x\n\x04", "the escape key is one only on a terminal");
    }

    #[test]
    fn a_reader_of_lines_gets_the_last_line_and_the_end() {
        for (text, want) in [("", "\x04"), ("a\n", "a\n\x04"), ("a\nb", "a\nb\x04\x04")] {
            let (mut input, mut writer) = piped(EndOfInput::EndOfLineAndFile);
            let mut port = Port { room: 100, got: Vec::new() };
            writer.write_all(text.as_bytes()).unwrap();
            drop(writer);
            while !input.has_ended() {
                input.read();
            }
            input.offer(&mut port);
            assert_eq!(port.got, want.as_bytes());
        }
    }

    #[test]
    fn sec48_a_guest_that_never_reads_stops_the_reading_of_input() {
        let (mut input, writer) = piped(EndOfInput::CtrlD);
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let mut port = Port { room: 16, got: Vec::new() };
        let mut accepted = 0;
        // 1 GiB is offered; the pipe refuses as soon as nobody reads it.
        for _ in 0..(1 << 30) / 4096 {
            accepted += rustix::io::write(&writer, &[b'x'; 4096]).unwrap_or(0);
            input.read();
            input.offer(&mut port);
        }
        assert!(input.waits_for().is_none());
        assert_eq!(input.waiting.len(), BUFFER_BYTES);
        assert!(input.waiting.capacity() <= 2 * BUFFER_BYTES);
        assert!(accepted <= BUFFER_BYTES + 16 + (1 << 20), "the rest stays with the writer");
    }

    #[test]
    fn a_closed_or_empty_input_is_the_end_and_a_script_has_none() {
        let mut port = Port { room: 100, got: Vec::new() };
        let null = || Some(std::fs::File::open("/dev/null").unwrap().into());
        for (source, end) in [(None, EndOfInput::CtrlD), (null(), EndOfInput::CtrlD), (null(), EndOfInput::Silent)] {
            let mut input = ConsoleInput::over(source, end);
            input.read();
            input.type_in(b"x");
            input.offer(&mut port);
            assert!(input.waits_for().is_none());
        }
        assert_eq!(port.got, b"\x04x\x04xx");
    }

    #[test]
    fn keys_on_a_terminal_are_sorted() {
        let mut input = ConsoleInput::none();
        let mut port = Port { room: 100, got: Vec::new() };
        assert_eq!(
            input.typed(b"a\x01h\x01cre"),
            [
                Typed::Key(KeyAction::Help),
                Typed::Key(KeyAction::Prompt),
                Typed::Echo(b"r".into()),
                Typed::Echo(b"e".into()),
            ]
        );
        let left = input.typed(b"\r\x01cb\x01x");
        assert_eq!(
            left,
            [Typed::Echo(b"\r\n".into()), Typed::Command("re".into()), Typed::PromptLeft, Typed::Key(KeyAction::End),]
        );
        input.offer(&mut port);
        assert_eq!(port.got, b"ab");
    }

    #[test]
    fn a_break_goes_before_what_waits() {
        let mut input = ConsoleInput::none();
        let mut port = Port::default();
        input.type_in(b"later");
        input.send_break(&mut port, b's');
        port.room = 100;
        input.offer(&mut port);
        assert_eq!(port.got, b"<break>slater");
    }
}
