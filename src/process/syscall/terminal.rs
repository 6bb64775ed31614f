//! ioctl(2) of terminals, and the few of any file: nothing that reaches a device.
//!
//! Sources: ioctl_tty(2), termios(3); Linux `include/uapi/asm-generic/termbits.h` (layout).

use super::call::{Answer, Arguments};
use crate::bus::bus::lock;
use crate::process::files::OpenFile;
use crate::process::task::Task;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Winsize, isatty, tcgetattr,
    tcgetwinsize, tcsetattr, tcsetwinsize,
};

/// Special characters in the order of `c_cc`.
const CODES: [SpecialCodeIndex; 17] = [
    SpecialCodeIndex::VINTR,
    SpecialCodeIndex::VQUIT,
    SpecialCodeIndex::VERASE,
    SpecialCodeIndex::VKILL,
    SpecialCodeIndex::VEOF,
    SpecialCodeIndex::VTIME,
    SpecialCodeIndex::VMIN,
    SpecialCodeIndex::VSWTC,
    SpecialCodeIndex::VSTART,
    SpecialCodeIndex::VSTOP,
    SpecialCodeIndex::VSUSP,
    SpecialCodeIndex::VEOL,
    SpecialCodeIndex::VREPRINT,
    SpecialCodeIndex::VDISCARD,
    SpecialCodeIndex::VWERASE,
    SpecialCodeIndex::VLNEXT,
    SpecialCodeIndex::VEOL2,
];

/// Bytes of `struct termios`: four words, the line discipline, 19 characters.
const TERMIOS: usize = 36;

/// ioctl(2).
pub fn ioctl(task: &mut Task, [fd, request, argument, ..]: Arguments) -> Answer {
    let file = task.file(fd)?;
    match request as libc::Ioctl {
        libc::TCGETS => {
            let bytes = attributes(&file)?;
            task.write(argument, &bytes)?;
        }
        libc::TCSETS => set_attributes(task, &file, argument, OptionalActions::Now)?,
        libc::TCSETSW => set_attributes(task, &file, argument, OptionalActions::Drain)?,
        libc::TCSETSF => set_attributes(task, &file, argument, OptionalActions::Flush)?,
        libc::TIOCGWINSZ => {
            let size = tcgetwinsize(file.fd())?;
            let words = [size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel];
            task.write(argument, words.map(u16::to_le_bytes).as_flattened())?;
        }
        libc::TIOCSWINSZ => {
            let bytes = task.read::<8>(argument)?;
            let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            let size = Winsize { ws_row: word(0), ws_col: word(2), ws_xpixel: word(4), ws_ypixel: word(6) };
            tcsetwinsize(file.fd(), size)?;
        }
        libc::TIOCGPGRP => {
            terminal(&file)?;
            task.write(argument, &task.world.terminal.foreground().to_le_bytes())?;
        }
        libc::TIOCSPGRP => {
            // The host's terminal stays with Hostel's own group, and what is typed to interrupt goes to this one.
            terminal(&file)?;
            let group = i32::from_le_bytes(task.read(argument)?);
            if group < 0 {
                return Err(Errno::INVAL);
            }
            if task.world.processes.of_group(group).is_empty() {
                return Err(Errno::SRCH);
            }
            task.world.terminal.set_foreground(group);
        }
        libc::FIONREAD => {
            let count = rustix::io::ioctl_fionread(file.fd())?;
            task.write(argument, &(count as u32).to_le_bytes())?;
        }
        libc::FIONBIO => {
            let on = task.read::<4>(argument)? != [0; 4];
            let flags = rustix::fs::fcntl_getfl(file.fd())?;
            let flags = if on { flags | OFlags::NONBLOCK } else { flags & !OFlags::NONBLOCK };
            rustix::fs::fcntl_setfl(file.fd(), flags)?;
        }
        libc::FIOCLEX => lock(&task.files).descriptor(fd as i32)?.close_on_exec = true,
        libc::FIONCLEX => lock(&task.files).descriptor(fd as i32)?.close_on_exec = false,
        _ => return Err(Errno::NOTTY),
    }
    Ok(0)
}

fn terminal(file: &OpenFile) -> Result<(), Errno> {
    if isatty(file.fd()) { Ok(()) } else { Err(Errno::NOTTY) }
}

fn attributes(file: &OpenFile) -> Result<Vec<u8>, Errno> {
    let termios = tcgetattr(file.fd())?;
    let modes = [
        termios.input_modes.bits(),
        termios.output_modes.bits(),
        termios.control_modes.bits(),
        termios.local_modes.bits(),
    ];
    let mut bytes = modes.map(u32::to_le_bytes).concat();
    bytes.push(termios.line_discipline);
    bytes.extend(CODES.map(|code| termios.special_codes[code]));
    bytes.resize(TERMIOS, 0);
    Ok(bytes)
}

fn set_attributes(task: &Task, file: &OpenFile, address: u64, when: OptionalActions) -> Result<(), Errno> {
    let bytes = task.read::<TERMIOS>(address)?;
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a word has four bytes"));
    let mut termios = tcgetattr(file.fd())?;
    termios.input_modes = InputModes::from_bits_retain(word(0));
    termios.output_modes = OutputModes::from_bits_retain(word(4));
    termios.control_modes = ControlModes::from_bits_retain(word(8));
    termios.local_modes = LocalModes::from_bits_retain(word(12));
    termios.line_discipline = bytes[16];
    for (code, value) in CODES.into_iter().zip(&bytes[17..]) {
        termios.special_codes[code] = *value;
    }
    tcsetattr(file.fd(), when, &termios)
}
