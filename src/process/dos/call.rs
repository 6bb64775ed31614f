//! A call of a DOS function: what it gets, what it may do, and how it ends.
//!
//! Source: Interrupt List, INT 21h function 59h (error codes).

use super::blocks::{BlockError, Blocks};
use super::memory::{Far, Memory};
use crate::arch::cpu_state::CpuState;
use crate::arch::segment::Segment;
use crate::process::host_files::Files;
use rustix::io::Errno;

/// Most bytes of a path.
const PATH_MAX: usize = 256;

/// Error: this function does not exist.
pub const INVALID_FUNCTION: u16 = 1;
pub(super) const PATH_NOT_FOUND: u16 = 3;
pub(super) const ACCESS_DENIED: u16 = 5;
pub(super) const INVALID_HANDLE: u16 = 6;
pub(super) const INVALID_ACCESS: u16 = 12;
const NO_MEMORY: u16 = 8;
const INVALID_BLOCK: u16 = 9;
const SEEK: u16 = 25;
const GENERAL_FAILURE: u16 = 31;

/// The registers in which functions get their arguments and leave their results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the manual's own names")]
pub struct Words {
    pub ax: u16,
    pub bx: u16,
    pub cx: u16,
    pub dx: u16,
    pub ds: u16,
    pub es: u16,
}

impl Words {
    /// Those of a processor in real mode.
    pub fn of(state: &CpuState) -> Words {
        let regs = &state.regs;
        let [ax, bx, cx, dx] = [regs.rax, regs.rbx, regs.rcx, regs.rdx].map(|register| register as u16);
        Words { ax, bx, cx, dx, ds: state.ds.selector, es: state.es.selector }
    }

    /// Puts them into a processor's registers, whose upper halves stay.
    pub fn put(self, state: &mut CpuState) {
        let regs = &mut state.regs;
        for (register, word) in
            [(&mut regs.rax, self.ax), (&mut regs.rbx, self.bx), (&mut regs.rcx, self.cx), (&mut regs.rdx, self.dx)]
        {
            *register = *register & !0xffff | u64::from(word);
        }
        if state.es.selector != self.es {
            state.es = Segment::real_mode(self.es, false);
        }
    }

    /// AH and AL.
    pub fn a(self) -> [u8; 2] {
        self.ax.to_be_bytes()
    }

    /// The lower half of AX.
    pub fn set_al(&mut self, al: u8) {
        self.ax = self.ax & 0xff00 | u16::from(al);
    }

    /// DS:DX.
    pub fn buffer(self) -> Far {
        Far { segment: self.ds, offset: self.dx }
    }
}

/// Why a function does not return as one that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It returns with this error.
    Error(u16),
    /// What it was asked for is not there, as if there were no such function.
    Missing,
    /// The program ends with this status.
    Exit(u8),
    /// Standard output takes nothing more.
    Output(Errno),
}

/// How a function ends.
pub type Answer = Result<(), Stop>;

impl From<Errno> for Stop {
    fn from(error: Errno) -> Stop {
        Stop::Error(match error {
            Errno::NOENT => 2,
            Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG => PATH_NOT_FOUND,
            Errno::MFILE | Errno::NFILE => 4,
            Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::ISDIR | Errno::PIPE => ACCESS_DENIED,
            Errno::BADF => INVALID_HANDLE,
            Errno::NOMEM => NO_MEMORY,
            Errno::INVAL | Errno::OVERFLOW | Errno::SPIPE => SEEK,
            _ => GENERAL_FAILURE,
        })
    }
}

/// A call.
pub struct Call<'a> {
    /// Registers, which become the result.
    pub regs: Words,
    /// The program's memory.
    pub memory: &'a Memory,
    /// What of it is allocated.
    pub blocks: &'a mut Blocks,
    /// The program's files.
    pub files: &'a mut dyn Files,
}

impl Call<'_> {
    /// The text at DS:DX up to its zero byte, a path.
    ///
    /// # Errors
    /// It is too long to be one.
    pub fn path(&self) -> Result<Vec<u8>, Stop> {
        self.memory.text(self.regs.buffer(), 0, PATH_MAX).ok_or(Stop::Error(PATH_NOT_FOUND))
    }

    /// What a function about blocks returns: the largest size possible comes in BX.
    ///
    /// # Errors
    /// As `done` says.
    pub fn block<T>(&mut self, done: Result<T, BlockError>) -> Result<T, Stop> {
        done.map_err(|error| match error {
            BlockError::TooLarge(most) => {
                self.regs.bx = most;
                Stop::Error(NO_MEMORY)
            }
            BlockError::NoBlock => Stop::Error(INVALID_BLOCK),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_halves_of_registers_and_segments_that_stay_are_left_alone() {
        let mut state = CpuState::real_mode(0x140, 0x100);
        state.regs.rax = 0x1234_5678;
        state.es.limit = 0xf_ffff;
        let before = state;
        let words = Words::of(&state);
        words.put(&mut state);
        assert_eq!((state, words.a()), (before, [0x56, 0x78]));
        Words { ax: 1, es: 0x70, ..words }.put(&mut state);
        assert_eq!((state.regs.rax, state.es.base, state.es.limit), (0x1234_0001, 0x700, 0xffff));
    }
}
