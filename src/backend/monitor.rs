//! The command prompt behind Ctrl-A c: its commands, and a line to type them in. Pure.

use crate::memory::size::parse_size;

/// What the user may ask of a running machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// List the commands.
    Help,
    /// Print every vCPU's registers.
    Regs,
    /// Print every vCPU's registers, code, page tables and stack, and its last exits.
    Dump,
    /// Stop the vCPUs at an instruction boundary.
    Pause,
    /// Let them go on.
    Resume,
    /// Reset the machine.
    Reset,
    /// Press the power button.
    PowerDown,
    /// Send an NMI to every vCPU.
    Nmi,
    /// Send a break and this key: Linux's magic SysRq on a serial console (Linux sysrq.rst).
    SysRq(u8),
    /// Tell of the memory balloon, or give it this size in bytes.
    Balloon(Option<u64>),
    /// End the machine.
    Quit,
}

/// The prompt's text.
pub const PROMPT: &str = "(hostel) ";

/// What [`Command::Help`] prints.
pub const COMMANDS_HELP: &str = "\
help       this list
regs       registers of every vCPU
dump       registers, code, page tables and stack of every vCPU, and its last exits
pause      stop the vCPUs
resume     let them go on
reset      reset the machine
powerdown  press the power button
nmi        send an NMI to every vCPU
sysrq X    break and key X on the serial line (sysrq h: Linux lists its keys)
balloon    the memory balloon, and what the guest says of its memory
balloon N  give the balloon this size (balloon 256M)
quit       end the machine
An empty line or Ctrl-A c goes back to the guest.
";

/// A line that is no command.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CommandError {
    /// No command of that name.
    #[error("{0:?}: no such command; 'help' lists them")]
    Unknown(String),
    /// A command with too much or too little behind it.
    #[error("{command} takes {takes}")]
    Arguments {
        /// The command.
        command: &'static str,
        /// What it takes.
        takes: &'static str,
    },
}

const BALLOON_TAKES: CommandError =
    CommandError::Arguments { command: "balloon", takes: "a size such as 256M, or nothing" };

impl Command {
    /// Reads a command line, which is not empty.
    ///
    /// # Errors
    /// It is no command.
    pub fn parse(line: &str) -> Result<Command, CommandError> {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let arguments: Vec<&str> = words.collect();
        let (command, name) = match name {
            "help" | "?" => (Command::Help, "help"),
            "regs" => (Command::Regs, "regs"),
            "dump" => (Command::Dump, "dump"),
            "pause" => (Command::Pause, "pause"),
            "resume" => (Command::Resume, "resume"),
            "reset" => (Command::Reset, "reset"),
            "powerdown" => (Command::PowerDown, "powerdown"),
            "nmi" => (Command::Nmi, "nmi"),
            "quit" => (Command::Quit, "quit"),
            "sysrq" => {
                return match arguments.as_slice() {
                    [key] if key.len() == 1 => Ok(Command::SysRq(key.as_bytes()[0])),
                    _ => Err(CommandError::Arguments { command: "sysrq", takes: "one key" }),
                };
            }
            "balloon" => {
                return match arguments.as_slice() {
                    [] => Ok(Command::Balloon(None)),
                    [size] => parse_size(size).map(|size| Command::Balloon(Some(size))).map_err(|_| BALLOON_TAKES),
                    _ => Err(BALLOON_TAKES),
                };
            }
            other => return Err(CommandError::Unknown(other.to_owned())),
        };
        if arguments.is_empty() {
            Ok(command)
        } else {
            Err(CommandError::Arguments { command: name, takes: "nothing" })
        }
    }
}

/// Longest line that can be typed.
const LINE_MAX: usize = 120;

/// A line that is being typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineEditor {
    line: String,
}

/// What a key did to the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// It is not finished.
    Unfinished,
    /// It was entered.
    Entered(String),
    /// The user wants to leave: an empty line, Ctrl-C, or Ctrl-D on an empty line.
    Left,
}

impl LineEditor {
    /// Takes one byte from the terminal; appends what the terminal shall show to `echo`.
    pub fn press(&mut self, byte: u8, echo: &mut Vec<u8>) -> Line {
        const CTRL_C: u8 = 0x03;
        const CTRL_D: u8 = 0x04;
        const CTRL_U: u8 = 0x15;
        const BACKSPACE: u8 = 0x08;
        const DELETE: u8 = 0x7f;
        match byte {
            b'\r' | b'\n' => {
                echo.extend(b"\r\n");
                let line = std::mem::take(&mut self.line);
                return if line.trim().is_empty() { Line::Left } else { Line::Entered(line) };
            }
            CTRL_C => {
                self.line.clear();
                echo.extend(b"\r\n");
                return Line::Left;
            }
            CTRL_D if self.line.is_empty() => {
                echo.extend(b"\r\n");
                return Line::Left;
            }
            BACKSPACE | DELETE => self.rub_out(1, echo),
            CTRL_U => self.rub_out(self.line.len(), echo),
            b' '..=b'~' if self.line.len() < LINE_MAX => {
                self.line.push(char::from(byte));
                echo.push(byte);
            }
            _ => {}
        }
        Line::Unfinished
    }

    fn rub_out(&mut self, count: usize, echo: &mut Vec<u8>) {
        for _ in 0..count {
            if self.line.pop().is_some() {
                echo.extend(b"\x08 \x08");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_help_lists_is_one() {
        let listed = COMMANDS_HELP.lines().take_while(|line| line.contains("  ") || line.starts_with("sysrq"));
        let names: Vec<&str> = listed.filter_map(|line| line.split_whitespace().next()).collect();
        let expected = [
            "help",
            "regs",
            "dump",
            "pause",
            "resume",
            "reset",
            "powerdown",
            "nmi",
            "sysrq",
            "balloon",
            "balloon",
            "quit",
        ];
        assert_eq!(names, expected);
        for name in names {
            let line = if name == "sysrq" { "sysrq h" } else { name };
            assert!(Command::parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn commands_take_what_they_take() {
        assert_eq!(Command::parse("  sysrq   b "), Ok(Command::SysRq(b'b')));
        assert_eq!(Command::parse("?"), Ok(Command::Help));
        assert_eq!(Command::parse("balloon"), Ok(Command::Balloon(None)));
        assert_eq!(Command::parse("balloon 1G"), Ok(Command::Balloon(Some(1 << 30))));
        for line in ["balloon all", "balloon 1 2", "sysrq", "sysrq bb", "sysrq \u{e4}", "sysrq a b", "regs all"] {
            assert!(matches!(Command::parse(line), Err(CommandError::Arguments { .. })), "{line}");
        }
        assert_eq!(Command::parse("Quit now"), Err(CommandError::Unknown("Quit".into())));
    }

    fn typed(bytes: &[u8]) -> (Vec<Line>, String) {
        let (mut editor, mut echo) = (LineEditor::default(), Vec::new());
        let lines = bytes.iter().map(|&byte| editor.press(byte, &mut echo)).filter(|line| *line != Line::Unfinished);
        (lines.collect(), String::from_utf8(echo).unwrap())
    }

    #[test]
    fn a_line_is_edited_entered_and_left() {
        let entered = |line: &str| Line::Entered(line.into());
        assert_eq!(typed(b"rex\x7fgs\r"), (vec![entered("regs")], "rex\x08 \x08gs\r\n".into()));
        assert_eq!(typed(b"junk\x15nmi\n\n").0, [entered("nmi"), Line::Left]);
        assert_eq!(typed(b"\x7f\x04").0, [Line::Left]);
        assert_eq!(typed(b"ab\x04\x03").0, [Line::Left]);
        assert_eq!(typed(&[b'x'; 1000]).1.len(), LINE_MAX);
    }
}
