//! A call of a library function: its arguments by the Microsoft x64 calling convention, and how it may end.
//!
//! The first four arguments are in RCX, RDX, R8 and R9, the others on the stack above the return address and 32 bytes that are the
//! function's own. RCX comes in R10: SYSCALL overwrites it, so the stub saves it there, as those of Windows' own ntdll do. Arguments
//! in vector registers are not seen; where a function takes any number of arguments, the caller puts them into the others too.
//! Source: Microsoft "x64 calling convention" ("Parameter passing", "Varargs").

use super::layout::{VARIABLES, variable};
use super::printf;
use super::process::Process;
use super::user::{Fault, Memory};
use crate::process::host_files::Files;
use rustix::io::Errno;

/// Longest text that a function looks at. Longer ones are cut off there.
pub const TEXT_MAX: usize = 1 << 20;
/// Bytes that are copied between the program and a file at a time.
pub const COPY_MAX: usize = 1 << 16;

/// `LastErrorValue` in the thread environment block.
const LAST_ERROR: u64 = 0x68;

/// Why the program does not go on behind a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It ended itself, with this status.
    Exit(u32),
    /// It ended itself as one that went wrong.
    Abort,
    /// It passed an address at which a function of the C runtime faults.
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

/// What a function answers: RAX, or that the program ends.
pub type Answer = Result<u64, Stop>;

/// One call.
pub struct Call<'a> {
    /// The process that calls.
    pub process: &'a mut Process,
    /// Its memory.
    pub memory: &'a mut dyn Memory,
    /// Its files.
    pub files: &'a mut dyn Files,
    /// The first four arguments.
    pub registers: [u64; 4],
    /// The stack pointer; the return address lies there.
    pub stack: u64,
}

impl Call<'_> {
    /// Argument number `index`, from 0 on.
    ///
    /// # Errors
    /// The stack is not where it must be.
    pub fn argument(&self, index: usize) -> Result<u64, Stop> {
        match self.registers.get(index) {
            Some(value) => Ok(*value),
            None => Ok(self.memory.u64(self.stack.wrapping_add(8 + 8 * index as u64))?),
        }
    }

    /// The first arguments.
    ///
    /// # Errors
    /// The stack is not where it must be.
    pub fn arguments<const N: usize>(&self) -> Result<[u64; N], Stop> {
        let mut values = [0; N];
        for (index, value) in values.iter_mut().enumerate() {
            *value = self.argument(index)?;
        }
        Ok(values)
    }

    /// The text at an address.
    ///
    /// # Errors
    /// A page is missing before its end.
    pub fn text(&self, address: u64) -> Result<Vec<u8>, Stop> {
        Ok(self.memory.text(address, TEXT_MAX)?)
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// A page is missing.
    pub fn put(&mut self, address: u64, bytes: &[u8]) -> Result<(), Stop> {
        Ok(self.memory.write(address, bytes)?)
    }

    /// Writes a number of four bytes where the program asked for it: not at 0.
    ///
    /// # Errors
    /// A page is missing.
    pub fn put_u32(&mut self, address: u64, value: u32) -> Result<(), Stop> {
        if address == 0 { Ok(()) } else { self.put(address, &value.to_le_bytes()) }
    }

    /// Has `GetLastError` tell `code`.
    ///
    /// # Errors
    /// The program took its thread environment block away.
    pub fn set_last_error(&mut self, code: u32) -> Result<(), Stop> {
        self.put(super::layout::THREAD_BLOCK + LAST_ERROR, &code.to_le_bytes())
    }

    /// What `GetLastError` tells.
    ///
    /// # Errors
    /// The program took its thread environment block away.
    pub fn last_error(&self) -> Result<u32, Stop> {
        Ok(self.memory.u32(super::layout::THREAD_BLOCK + LAST_ERROR)?)
    }

    /// A function of KERNEL32 failed: `answer`, and an error of Windows'.
    ///
    /// # Errors
    /// See [`Call::set_last_error`].
    pub fn refuse(&mut self, code: u32, answer: u64) -> Answer {
        self.set_last_error(code)?;
        Ok(answer)
    }

    /// A function of the C runtime failed: `answer`, and `errno`, whose low numbers are those of Linux.
    ///
    /// # Errors
    /// The program took the variable away.
    pub fn fail(&mut self, error: Errno, answer: u64) -> Answer {
        self.put(VARIABLES + variable::ERROR, &error.raw_os_error().to_le_bytes())?;
        Ok(answer)
    }

    /// Formats the text at `template`; its arguments are those of the call from number `first` on.
    ///
    /// # Errors
    /// A page is missing.
    pub fn format(&self, template: u64, first: usize) -> Result<Vec<u8>, Stop> {
        printf::format(&self.text(template)?, &mut Variable { call: self, list: None, index: first })
    }

    /// Formats the text at `template`; its arguments lie one behind the other at `list`.
    ///
    /// # Errors
    /// A page is missing.
    pub fn format_list(&self, template: u64, list: u64) -> Result<Vec<u8>, Stop> {
        printf::format(&self.text(template)?, &mut Variable { call: self, list: Some(list), index: 0 })
    }
}

/// Arguments of a function that takes any number: of the call itself, or of a `va_list`.
struct Variable<'a, 'b> {
    call: &'a Call<'b>,
    list: Option<u64>,
    index: usize,
}

impl printf::Arguments for Variable<'_, '_> {
    type Error = Stop;

    fn next(&mut self) -> Result<u64, Stop> {
        let index = self.index;
        self.index += 1;
        match self.list {
            Some(list) => Ok(self.call.memory.u64(list.wrapping_add(8 * index as u64))?),
            None => self.call.argument(index),
        }
    }

    fn text(&mut self, address: u64, max: usize, wide: bool) -> Result<Vec<u8>, Stop> {
        if wide {
            let units = self.call.memory.wide_text(address, max)?;
            return Ok(String::from_utf16_lossy(&units).into_bytes());
        }
        Ok(self.call.memory.text(address, max)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Desk;
    use super::*;

    #[test]
    fn the_fifth_argument_lies_above_the_shadow_space() {
        let mut desk = Desk::new();
        desk.memory.write(Desk::STACK + 40, &55u64.to_le_bytes()).unwrap();
        let call = desk.call([1, 2, 3, 4]);
        assert_eq!(call.arguments(), Ok([1, 2, 3, 4, 55]));
        let lost = Call { stack: 0x10, ..desk.call([0; 4]) };
        assert_eq!(lost.argument(4), Err(Stop::Fault(Fault { address: 0x38, write: false })));
    }

    #[test]
    fn a_text_without_an_end_faults_where_memory_ends() {
        let mut desk = Desk::new();
        desk.memory.write(Desk::SPACE_END - 3, b"abc").unwrap();
        let end = Desk::SPACE_END;
        assert!(matches!(desk.call([0; 4]).text(end - 3), Err(Stop::Fault(fault)) if fault.address >= end));
    }

    #[test]
    fn formatting_takes_from_registers_stack_and_list() {
        let mut desk = Desk::new();
        desk.memory.write(Desk::SPACE, b"%d %d %d %d %s\0word\0").unwrap();
        desk.memory.write(Desk::STACK + 40, &[4, Desk::SPACE + 15].map(u64::to_le_bytes).concat()).unwrap();
        let call = desk.call([Desk::SPACE, 1, 2, 3]);
        assert_eq!(call.format(Desk::SPACE, 1).unwrap(), b"1 2 3 4 word");
        desk.memory.write(Desk::SPACE + 64, &[9u64, 8, 7, 6, Desk::SPACE + 15].map(u64::to_le_bytes).concat()).unwrap();
        assert_eq!(desk.call([0; 4]).format_list(Desk::SPACE, Desk::SPACE + 64).unwrap(), b"9 8 7 6 word");
    }
}
