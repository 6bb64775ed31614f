//! System calls about processes, their terminal and the machine's name, without a C library.
//!
//! Sources: Linux syscall_64.tbl for the numbers, termios(3) and ioctl_tty(2) for terminals, the manual page of each call.

use crate::calls;
use crate::syscalls::{self, Errno, call};

/// Whether the host's side of the terminal is one.
#[derive(Clone, Copy)]
pub struct Sides {
    /// What is typed comes from a terminal: it is echoed, and some keys mean signals.
    pub input: bool,
    /// What is written goes to a terminal: lines end with a carriage return too.
    pub output: bool,
    /// It has a size, which the terminal here is to have as well.
    pub size: bool,
}

/// `struct termios` of the kernel: four words of flags, a line discipline, and special characters.
#[repr(C)]
struct Termios {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    discipline: u8,
    characters: [u8; 19],
}

/// Sets a terminal up for what is behind it on the host.
pub fn set_up_terminal(terminal: usize, sides: Sides) -> Result<(), Errno> {
    const GET: usize = 0x5401;
    const SET: usize = 0x5402;
    const POST_PROCESSED: u32 = 1;
    const INPUT_CHANGES: u32 = 0x1f8 | 0x400 | 0x800 | 0x1000; // from ISTRIP to ICRNL, IXON, IXANY, IXOFF
    const SIGNALS_ECHO_EXTENSIONS: u32 = 1 | 0xff8 & !0x100 | 0x8000; // ISIG, ECHO* and NOFLSH, IEXTEN
    const END_OF_FILE: usize = 4;
    let mut termios = Termios { input: 0, output: 0, control: 0, local: 0, discipline: 0, characters: [0; 19] };
    // SAFETY: the kernel writes one structure of this form.
    unsafe { call(16, [terminal, GET, &raw mut termios as usize, 0, 0]) }?;
    if !sides.output {
        termios.output &= !POST_PROCESSED;
    }
    if !sides.input {
        // Lines stay, for an end of input between them; no other byte means anything.
        termios.input &= !INPUT_CHANGES;
        termios.local &= !SIGNALS_ECHO_EXTENSIONS;
        let end = termios.characters[END_OF_FILE];
        termios.characters = [0; 19];
        termios.characters[END_OF_FILE] = end;
    }
    // SAFETY: the kernel reads one structure of this form.
    unsafe { call(16, [terminal, SET, &raw const termios as usize, 0, 0]) }?;
    Ok(())
}

/// Waits a moment for the terminal to have its size, which the driver sets beside.
pub fn wait_for_size(terminal: usize) {
    const GET_SIZE: usize = 0x5413;
    for _ in 0..50 {
        let mut size = [0u16; 4];
        // SAFETY: the kernel writes four 16-bit numbers.
        let result = unsafe { call(16, [terminal, GET_SIZE, size.as_mut_ptr() as usize, 0, 0]) };
        if result.is_err() || size[0] != 0 {
            return;
        }
        syscalls::sleep(10);
    }
}

/// Waits until the terminal has sent what was written to it (tcdrain(3)).
pub fn drain(terminal: usize) {
    const SEND_BREAK: usize = 0x5409;
    // SAFETY: takes no pointer; with an argument other than 0 it sends none, and waits.
    let _ = unsafe { call(16, [terminal, SEND_BREAK, 1, 0, 0]) };
}

/// A program to run.
pub struct Program<'a> {
    /// Where it is looked for if its name has no slash: directories with `:` between them.
    pub path: &'a str,
    /// Its file, then its arguments: pointers to strings that end with a zero byte, and a null pointer.
    pub file: &'a str,
    /// Its arguments, its own name the first.
    pub arguments: &'a [usize],
    /// Its environment, in the same form.
    pub environment: &'a [usize],
}

/// Starts a program in a session of its own, `terminal` being its terminal, input and output; returns the number of its process.
///
/// # Errors
/// It could not be started.
pub fn start(program: &Program<'_>, terminal: usize) -> Result<usize, Errno> {
    let [reader, writer] = calls::pipe()?;
    let child = calls::fork()?;
    if child == 0 {
        let error = become_program(program, terminal);
        let _ = syscalls::write_all(writer, &[error.0 as u8]);
        syscalls::exit(syscalls::NOT_STARTED);
    }
    syscalls::close(writer);
    let mut error = [0];
    // A program that starts closes the pipe without a word.
    let failed = syscalls::read(reader, &mut error);
    syscalls::close(reader);
    if failed == Ok(1) { Err(Errno(error[0].into())) } else { Ok(child) }
}

fn become_program(program: &Program<'_>, terminal: usize) -> Errno {
    const SET_CONTROLLING: usize = 0x540e;
    calls::new_session();
    // SAFETY: takes no pointer.
    if let Err(error) = unsafe { call(16, [terminal, SET_CONTROLLING, 0, 0, 0]) } {
        return error;
    }
    for file in 0..3 {
        if let Err(error) = syscalls::duplicate(terminal, file) {
            return error;
        }
    }
    if terminal > 2 {
        syscalls::close(terminal);
    }
    if program.file.contains('/') {
        return execute(program, &["", program.file]);
    }
    // As execvp(3): a directory in which it may not be executed is remembered, and the search goes on.
    let mut error = Errno(2);
    for directory in program.path.split(':') {
        let tried = execute(program, &[directory, "/", program.file]);
        if !matches!(tried.0, 2 | 20) {
            error = tried;
        }
    }
    error
}

/// `execve(2)`; comes back with an error only.
fn execute(program: &Program<'_>, parts: &[&str]) -> Errno {
    let mut path = [0; 4096];
    let mut length = 0;
    for part in parts {
        // The last byte stays zero.
        let Some(room) = path[..4095].get_mut(length..length + part.len()) else { return Errno(36) };
        room.copy_from_slice(part.as_bytes());
        length += part.len();
    }
    let (arguments, environment) = (program.arguments.as_ptr() as usize, program.environment.as_ptr() as usize);
    // SAFETY: the path ends with a zero byte, both lists with a null pointer.
    unsafe { call(59, [path.as_ptr() as usize, arguments, environment, 0, 0]) }.err().unwrap_or(Errno(0))
}

/// Waits for processes, all that come to this one, until `child` ends; its wait status (wait(2)).
pub fn wait_for(child: usize) -> Result<u32, Errno> {
    const ANY: usize = usize::MAX;
    loop {
        let mut status = 0u32;
        // SAFETY: the kernel writes one u32.
        if unsafe { call(61, [ANY, &raw mut status as usize, 0, 0, 0]) }? == child {
            return Ok(status);
        }
    }
}

/// `sethostname(2)`.
pub fn set_host_name(name: &str) {
    // SAFETY: the kernel reads the name's bytes.
    let _ = unsafe { call(170, [name.as_ptr() as usize, name.len(), 0, 0, 0]) };
}
