//! How a DOS program begins: what lies in its memory before the first instruction, and the registers.
//!
//! ```text
//! 0000:0000  interrupt vectors, all to the stubs
//! 0070:0000  the stubs: two bytes a vector, HLT and IRET
//! 0100:0000  the environment
//! 0140:0000  the program segment prefix (PSP); the program from 0140:0100 on, its stack at the segment's end
//! A000:0000  end of memory for programs
//! ```
//!
//! Of the PSP there is what programs read: the INT 20h, the end of memory, vectors, the table of open files, the environment, a call gate,
//! the command tail. Leaves out file control blocks, which are empty, and the BIOS's data but for the size of memory.
//! Source: Interrupt List, tables of the PSP and the environment, INT 21h function 4Bh (registers of a `.COM` program).

use super::memory::{Far, Memory};
use crate::arch::cpu_state::{CpuState, RFLAGS_IF};
use crate::arch::segment::Segment;
use crate::process::windows::paths::to_windows;

/// Segment of the stubs.
pub const STUBS: u16 = 0x70;
/// Bytes of a stub.
pub const STUB_SIZE: u16 = 2;
/// Segment of the environment.
const ENVIRONMENT: u16 = 0x100;
/// Segment of the program.
pub const PSP: u16 = 0x140;
/// First segment behind the memory of programs.
pub const MEMORY_END: u16 = 0xa000;
/// Where the program's first byte lies in its segment.
const START: u16 = 0x100;
/// The stack pointer at the start: a zero lies there, so that a RET leads to the INT 20h at the segment's beginning.
const STACK: u16 = 0xfffe;
/// Most bytes of a program: what is left between its start and its first word of stack.
pub const PROGRAM_MAX: usize = (STACK - START) as usize;
/// Most bytes of the command tail.
const TAIL_MAX: usize = 126;
/// Most bytes of the environment with the program's path.
const ENVIRONMENT_MAX: usize = ((PSP - ENVIRONMENT) as usize) * 16;

/// Why a program does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LoadError {
    #[error("a DOS program of more than {PROGRAM_MAX} bytes; a .COM program is one segment")]
    TooLarge,
    #[error("an empty file is no DOS program")]
    Empty,
    #[error("its arguments have more than {TAIL_MAX} bytes, which is all that DOS gives a program")]
    Arguments,
    #[error("its path is too long for DOS")]
    Path,
}

/// Puts the program `file` into memory, with `arguments` in its command tail and its own `path`; the registers to begin with.
///
/// # Errors
/// It does not fit.
pub fn load(memory: &Memory, file: &[u8], path: &[u8], arguments: &[Vec<u8>]) -> Result<CpuState, LoadError> {
    match file.len() {
        0 => return Err(LoadError::Empty),
        size if size > PROGRAM_MAX => return Err(LoadError::TooLarge),
        _ => {}
    }
    put_stubs(memory);
    // Word 413h of the BIOS's data: KiB of memory.
    memory.write(Far { segment: 0x40, offset: 0x13 }, &(MEMORY_END / 64).to_le_bytes());
    put_environment(memory, path)?;
    put_prefix(memory, arguments)?;
    memory.write(Far { segment: PSP, offset: START }, file);
    let mut state = CpuState::real_mode(PSP, START);
    let data = Segment::real_mode(PSP, false);
    (state.ds, state.es, state.ss) = (data, data, data);
    state.regs.rsp = STACK.into();
    state.regs.rflags |= RFLAGS_IF;
    Ok(state)
}

/// Where the stub of an interrupt lies.
pub fn stub(vector: u8) -> Far {
    Far { segment: STUBS, offset: u16::from(vector) * STUB_SIZE }
}

/// Where the vector of an interrupt lies.
pub fn vector(vector: u8) -> Far {
    Far { segment: 0, offset: u16::from(vector) * 4 }
}

/// A pointer as it lies in memory.
pub fn pointer(to: Far) -> [u8; 4] {
    let ([a, b], [c, d]) = (to.offset.to_le_bytes(), to.segment.to_le_bytes());
    [a, b, c, d]
}

fn put_stubs(memory: &Memory) {
    const HLT: u8 = 0xf4;
    const IRET: u8 = 0xcf;
    for number in 0..=u8::MAX {
        memory.write(stub(number), &[HLT, IRET]);
        memory.write(vector(number), &pointer(stub(number)));
    }
}

fn put_environment(memory: &Memory, path: &[u8]) -> Result<(), LoadError> {
    // Behind the last variable an empty one, and then the number of texts that follow: one, the program's path.
    let block = [b"PATH=C:\\\0TEMP=C:\\tmp\0\0\x01\0".as_slice(), &to_windows(path), b"\0"].concat();
    if block.len() > ENVIRONMENT_MAX {
        return Err(LoadError::Path);
    }
    memory.write(Far { segment: ENVIRONMENT, offset: 0 }, &block);
    Ok(())
}

fn put_prefix(memory: &Memory, arguments: &[Vec<u8>]) -> Result<(), LoadError> {
    let put = |offset: u16, bytes: &[u8]| memory.write(Far { segment: PSP, offset }, bytes);
    let tail: Vec<u8> = arguments.iter().flat_map(|word| [b" ", word.as_slice()].concat()).collect();
    if tail.len() > TAIL_MAX {
        return Err(LoadError::Arguments);
    }
    put(0x00, &[0xcd, 0x20]); // INT 20h
    put(0x02, &MEMORY_END.to_le_bytes());
    // What the end, Ctrl-Break and a critical error lead to.
    for (offset, number) in [(0x0a, 0x22), (0x0e, 0x23), (0x12, 0x24)] {
        put(offset, &pointer(stub(number)));
    }
    put(0x16, &PSP.to_le_bytes()); // the parent: none but itself
    let mut open = [0xff; 20];
    open[..3].copy_from_slice(&[0, 1, 2]);
    put(0x18, &open);
    put(0x2c, &ENVIRONMENT.to_le_bytes());
    put(0x32, &20u16.to_le_bytes());
    put(0x34, &pointer(Far { segment: PSP, offset: 0x18 }));
    put(0x50, &[0xcd, 0x21, 0xcb]); // INT 21h, RETF
    for block in [0x5c, 0x6c] {
        put(block, &[b"\0".as_slice(), &[b' '; 11]].concat());
    }
    put(0x80, &[[tail.len() as u8].as_slice(), &tail, b"\r"].concat());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u16) -> Far {
        Far { segment: PSP, offset }
    }

    #[test]
    fn a_program_finds_its_prefix_its_arguments_and_its_path() {
        let memory = Memory::new().unwrap();
        let state = load(&memory, b"\xc3", b"/dir/a.com", &[b"one".to_vec(), b"two".to_vec()]).unwrap();
        assert_eq!((state.cs.selector, state.regs.rip, state.ss.base), (PSP, 0x100, 0x1400));
        assert_eq!((memory.word(at(0)), memory.word(at(2)), memory.word(at(STACK))), (0x20cd, 0xa000, 0));
        assert_eq!(
            (memory.read(at(0x80), 10), memory.read(at(0x100), 1)),
            (b"\x08 one two\r".to_vec(), b"\xc3".to_vec())
        );
        let environment = memory.read(Far { segment: memory.word(at(0x2c)), offset: 0 }, 40);
        assert!(environment.starts_with(b"PATH=C:\\\0TEMP=C:\\tmp\0\0\x01\0C:\\dir\\a.com\0"), "{environment:?}");
        assert_eq!(memory.read(vector(0x21), 4), [0x42, 0, 0x70, 0]);
        assert_eq!(memory.read(stub(0xff), 2), [0xf4, 0xcf]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let memory = Memory::new().unwrap();
        let load = |size: usize, path: usize, argument: usize| {
            load(&memory, &vec![0x90; size], &vec![b'a'; path], &[vec![b'a'; argument]]).map(|_| ())
        };
        assert_eq!(
            (load(PROGRAM_MAX, 900, TAIL_MAX - 1), load(PROGRAM_MAX + 1, 1, 1)),
            (Ok(()), Err(LoadError::TooLarge))
        );
        assert_eq!((load(0, 1, 1), load(1, 1024, 1)), (Err(LoadError::Empty), Err(LoadError::Path)));
        assert_eq!(load(1, 1, TAIL_MAX), Err(LoadError::Arguments));
    }
}
