//! A program's file: its ELF headers, read once and validated.
//!
//! The 64-bit class for x86-64 only; sections, symbols and notes are not looked at, and relocations are the program's own business.
//! Sources: ELF gABI "ELF Header", "Program Header"; x86-64 psABI; execve(2).

use super::files::OpenFile;
use super::tables::{Rights, USER_END};
use crate::arch::layout::PAGE_SIZE;
use rustix::io::Errno;

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;
/// Most program headers, as Linux has it: 64 KiB of them.
const PROGRAM_HEADERS_MAX: u16 = 1170;
/// Longest path of an interpreter, with its NUL.
const INTERPRETER_MAX: u64 = 4096;

const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_INTERPRETER: u32 = 3;
const SEGMENT_HEADERS: u32 = 6;
const SEGMENT_STACK: u32 = 0x6474_e551;

/// A program's headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Whether it can lie anywhere.
    pub movable: bool,
    /// Where it begins.
    pub entry: u64,
    /// Segments to be loaded; ascending, apart from each other, and within what can be mapped.
    pub segments: Vec<Segment>,
    /// The interpreter's path.
    pub interpreter: Option<Vec<u8>>,
    /// Address of the program headers in memory; 0 where they are not loaded.
    pub headers: u64,
    /// How many there are.
    pub header_count: u16,
    /// Whether the stack is to be executable.
    pub executable_stack: bool,
}

/// A `PT_LOAD` program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where its bytes stand in the file; congruent to the address within a page.
    pub offset: u64,
    /// Where they go.
    pub address: u64,
    /// How many; at most `memory_size`.
    pub file_size: u64,
    /// Bytes in memory.
    pub memory_size: u64,
    /// What it may be used for.
    pub rights: Rights,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + N].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Program {
    /// Reads the headers.
    ///
    /// # Errors
    /// ENOEXEC: it is no such program, or its headers contradict themselves.
    pub fn read(file: &OpenFile) -> Result<Program, Errno> {
        let header = file.read_at(0, HEADER_SIZE);
        let is_elf = header.len() == HEADER_SIZE && header.starts_with(b"\x7fELF\x02\x01");
        if !is_elf || number::<2>(&header, 18) as u16 != MACHINE_X86_64 {
            return Err(Errno::NOEXEC);
        }
        let (kind, count) = (number::<2>(&header, 16) as u16, number::<2>(&header, 56) as u16);
        let sized =
            number::<2>(&header, 54) as u16 == PROGRAM_HEADER_SIZE && (1..=PROGRAM_HEADERS_MAX).contains(&count);
        if !matches!(kind, TYPE_EXECUTABLE | TYPE_SHARED) || !sized {
            return Err(Errno::NOEXEC);
        }
        let table_offset = number::<8>(&header, 32);
        let size = usize::from(count) * usize::from(PROGRAM_HEADER_SIZE);
        table_offset.checked_add(size as u64).filter(|end| *end as i64 > 0).ok_or(Errno::NOEXEC)?;
        let table = file.read_at(table_offset, size);
        if table.len() != size {
            return Err(Errno::NOEXEC);
        }
        let mut program = Program {
            movable: kind == TYPE_SHARED,
            entry: number::<8>(&header, 24),
            segments: Vec::new(),
            interpreter: None,
            headers: 0,
            header_count: count,
            executable_stack: true,
        };
        for bytes in table.chunks_exact(PROGRAM_HEADER_SIZE.into()) {
            program.add(file, bytes)?;
        }
        if program.segments.is_empty() {
            return Err(Errno::NOEXEC);
        }
        if program.headers == 0 {
            program.headers = program.headers_at(table_offset);
        }
        Ok(program)
    }

    /// Bytes from the first segment's page to the end of the last.
    pub fn extent(&self) -> (u64, u64) {
        let first = self.segments.first().map_or(0, |segment| segment.address / PAGE_SIZE * PAGE_SIZE);
        (first, self.segments.last().map_or(0, |segment| segment.address + segment.memory_size))
    }

    fn headers_at(&self, offset: u64) -> u64 {
        let within = |segment: &&Segment| segment.offset <= offset && offset - segment.offset < segment.file_size;
        self.segments.iter().find(within).map_or(0, |segment| segment.address + (offset - segment.offset))
    }

    fn add(&mut self, file: &OpenFile, bytes: &[u8]) -> Result<(), Errno> {
        let (kind, flags) = (number::<4>(bytes, 0) as u32, number::<4>(bytes, 4));
        let segment = Segment {
            offset: number::<8>(bytes, 8),
            address: number::<8>(bytes, 16),
            file_size: number::<8>(bytes, 32),
            memory_size: number::<8>(bytes, 40),
            rights: Rights { read: flags & 4 != 0, write: flags & 2 != 0, execute: flags & 1 != 0 },
        };
        match kind {
            SEGMENT_LOAD if segment.memory_size > 0 => {
                let end = segment.address.checked_add(segment.memory_size).filter(|end| *end < USER_END - PAGE_SIZE);
                let file_end = segment.offset.checked_add(segment.file_size).filter(|end| *end as i64 >= 0);
                let apart = self.segments.last().is_none_or(|last| {
                    segment.address / PAGE_SIZE * PAGE_SIZE >= last.address + last.memory_size
                        || segment.address >= last.address + last.memory_size
                });
                let alike = segment.offset % PAGE_SIZE == segment.address % PAGE_SIZE;
                if end.is_none() || file_end.is_none() || !apart || !alike || segment.file_size > segment.memory_size {
                    return Err(Errno::NOEXEC);
                }
                self.segments.push(segment);
            }
            SEGMENT_INTERPRETER if self.interpreter.is_none() => {
                if !(2..=INTERPRETER_MAX).contains(&segment.file_size) || segment.offset as i64 <= 0 {
                    return Err(Errno::NOEXEC);
                }
                let mut path = file.read_at(segment.offset, segment.file_size as usize);
                if path.len() as u64 != segment.file_size || path.pop() != Some(0) || path.contains(&0) {
                    return Err(Errno::NOEXEC);
                }
                self.interpreter = Some(path);
            }
            SEGMENT_HEADERS => self.headers = segment.address,
            SEGMENT_STACK => self.executable_stack = segment.rights.execute,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    fn file(bytes: &[u8]) -> Arc<OpenFile> {
        let fd: OwnedFd = rustix::fs::memfd_create("program", rustix::fs::MemfdFlags::empty()).unwrap();
        rustix::io::pwrite(&fd, bytes, 0).unwrap();
        OpenFile::new(fd, true)
    }

    /// This test program itself.
    fn own() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()[..8192].to_vec()
    }

    #[test]
    fn headers_are_read() {
        let program = Program::read(&file(&own())).unwrap();
        assert!(program.movable && program.segments.len() >= 2 && !program.executable_stack);
        assert_eq!(program.interpreter.as_deref(), Some(&b"/lib64/ld-linux-x86-64.so.2"[..]));
        assert_eq!(program.headers, 64);
        let (first, end) = program.extent();
        assert!(first == 0 && program.entry < end);
    }

    #[test]
    fn sec62_hostile_headers_are_refused_or_harmless() {
        let own = own();
        for size in 0..2000 {
            let _ = Program::read(&file(&own[..size]));
        }
        for at in 0..700 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = own.clone();
                bytes[at] = value;
                if let Ok(program) = Program::read(&file(&bytes)) {
                    let ascending = program.segments.windows(2).all(|pair| pair[0].address < pair[1].address);
                    assert!(ascending && program.extent().1 < USER_END);
                }
            }
        }
    }
}
