//! A program into an address space: segments, interpreter, and the stack with arguments, environment and auxiliary vector.
//!
//! Addresses are the same at each start: those that Linux gives without randomisation. There is no vDSO, so clocks are asked for by system
//! calls. A script is run by the interpreter that its first line names.
//! Sources: System V ABI AMD64 §3.4.1 (initial stack), §3.4.3 (auxiliary vector); execve(2); getauxval(3).

use super::files::OpenFile;
use super::mappings::Backing;
use super::program::Program;
use super::space::{Place, STACK_SIZE, Space};
use super::tables::{Rights, USER_END};
use super::task::Task;
use super::world::World;
use crate::arch::layout::PAGE_SIZE;
use rustix::fs::{Access, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::sync::Arc;

/// Where a movable program lies (Linux `ELF_ET_DYN_BASE`, two thirds of the addresses).
const MOVABLE_BASE: u64 = 0x5555_5555_4000;
/// Most bytes of arguments and environment: a fourth of the stack, as Linux has it.
pub const ARGUMENTS_MAX: usize = STACK_SIZE as usize / 4;
/// Most interpreters of interpreters (Linux `bprm->recursion`).
const SCRIPTS_MAX: usize = 5;
/// Longest first line of a script (Linux BINPRM_BUF_SIZE).
const SCRIPT_LINE: usize = 256;

/// A program that is to be run.
pub struct Image {
    /// Its absolute path.
    pub path: Vec<u8>,
    /// Its arguments.
    pub arguments: Vec<Vec<u8>>,
    /// Its environment.
    pub environment: Vec<Vec<u8>>,
    file: Arc<OpenFile>,
    program: Program,
    interpreter: Option<(Arc<OpenFile>, Program)>,
}

impl Image {
    /// Finds and reads the program at `path`; `task` tells where relative paths begin.
    ///
    /// # Errors
    /// ENOENT, EACCES, ENOEXEC, E2BIG, ELOOP: execve(2).
    pub fn find(
        task: &Task,
        path: Vec<u8>,
        mut arguments: Vec<Vec<u8>>,
        environment: Vec<Vec<u8>>,
    ) -> Result<Image, Errno> {
        let mut path = task.absolute(super::syscall::open::HERE, path)?;
        for _ in 0..SCRIPTS_MAX {
            let bytes = arguments.iter().chain(&environment).map(|text| text.len() + 9).sum::<usize>();
            if bytes > ARGUMENTS_MAX {
                return Err(Errno::TOOBIG);
            }
            let file = open(&task.world, &path)?;
            let head = file.read_at(0, SCRIPT_LINE);
            if !head.starts_with(b"#!") {
                let program = Program::read(&file)?;
                let interpreter = match &program.interpreter {
                    Some(path) => {
                        let file = open(&task.world, &task.absolute(super::syscall::open::HERE, path.clone())?)?;
                        let program = Program::read(&file)?;
                        Some((file, program))
                    }
                    None => None,
                };
                return Ok(Image { path, arguments, environment, file, program, interpreter });
            }
            let (interpreter, option) = script(&head).ok_or(Errno::NOEXEC)?;
            let rest = arguments.split_off(arguments.len().min(1));
            arguments = [Some(interpreter.clone()), option, Some(path)].into_iter().flatten().chain(rest).collect();
            path = task.absolute(super::syscall::open::HERE, interpreter)?;
        }
        Err(Errno::LOOP)
    }

    /// Loads it into an empty address space; returns RIP and RSP.
    ///
    /// # Errors
    /// ENOMEM; its segments lie where none can.
    pub fn load(&self, space: &mut Space) -> Result<(u64, u64), Errno> {
        let bias = if self.program.movable { MOVABLE_BASE } else { 0 };
        map_segments(space, &self.file, &self.program, bias)?;
        let (_, end) = self.program.extent();
        space.set_heap((end + bias).next_multiple_of(PAGE_SIZE));
        let rights = Rights { read: true, write: true, execute: self.program.executable_stack };
        space.map(Place::Fixed(USER_END - STACK_SIZE), STACK_SIZE, rights, Backing::Anonymous)?;
        let (mut base, mut entry) = (0, self.program.entry.wrapping_add(bias));
        if let Some((file, program)) = &self.interpreter {
            let (first, end) = program.extent();
            if program.movable {
                let size = end.next_multiple_of(PAGE_SIZE) - first;
                let at = space.map(Place::Anywhere(0), size, Rights::default(), Backing::Anonymous)?;
                base = at - first;
            }
            map_segments(space, file, program, base)?;
            entry = program.entry.wrapping_add(base);
        }
        if entry >= USER_END {
            return Err(Errno::NOEXEC);
        }
        Ok((entry, self.stack(space, base, bias)?))
    }

    /// Writes arguments, environment and auxiliary vector; returns RSP.
    fn stack(&self, space: &mut Space, base: u64, bias: u64) -> Result<u64, Errno> {
        let mut at = USER_END - 8;
        let mut push = |space: &mut Space, bytes: &[u8]| {
            at -= bytes.len() as u64;
            space.write(at, bytes).map(|()| at).map_err(|_| Errno::NOMEM)
        };
        let text = |text: &[u8]| [text, b"\0"].concat();
        let path = push(space, &text(&self.path))?;
        let mut texts = |space: &mut Space, list: &[Vec<u8>]| {
            let addresses: Result<Vec<_>, _> = list.iter().rev().map(|entry| push(space, &text(entry))).collect();
            addresses.map(|mut addresses| {
                addresses.reverse();
                addresses
            })
        };
        let environment = texts(space, &self.environment)?;
        let arguments = texts(space, &self.arguments)?;
        let platform = push(space, b"x86_64\0")?;
        let mut random = [0; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let random = push(space, &random)?;
        let [uid, euid] = [rustix::process::getuid(), rustix::process::geteuid()].map(|id| u64::from(id.as_raw()));
        let [gid, egid] = [rustix::process::getgid(), rustix::process::getegid()].map(|id| u64::from(id.as_raw()));
        let vector = [
            (libc::AT_HWCAP, u64::from(std::arch::x86_64::__cpuid(1).edx)),
            (libc::AT_PAGESZ, PAGE_SIZE),
            (libc::AT_CLKTCK, 100),
            (libc::AT_PHDR, self.program.headers.wrapping_add(bias)),
            (libc::AT_PHENT, 56),
            (libc::AT_PHNUM, self.program.header_count.into()),
            (libc::AT_BASE, base),
            (libc::AT_FLAGS, 0),
            (libc::AT_ENTRY, self.program.entry.wrapping_add(bias)),
            (libc::AT_UID, uid),
            (libc::AT_EUID, euid),
            (libc::AT_GID, gid),
            (libc::AT_EGID, egid),
            (libc::AT_SECURE, 0),
            (libc::AT_RANDOM, random),
            (libc::AT_EXECFN, path),
            (libc::AT_PLATFORM, platform),
            (libc::AT_NULL, 0),
        ];
        let mut words = vec![arguments.len() as u64];
        words.extend(arguments.iter().chain(&[0]).chain(&environment).chain(&[0]));
        words.extend(vector.iter().flat_map(|(kind, value)| [*kind, *value]));
        let rsp = (at - words.len() as u64 * 8) / 16 * 16;
        let bytes: Vec<_> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        space.write(rsp, &bytes).map_err(|_| Errno::NOMEM)?;
        Ok(rsp)
    }
}

/// Opens a file that is to be executed.
fn open(world: &World, path: &[u8]) -> Result<Arc<OpenFile>, Errno> {
    let fd = world.root.open_file(path, OFlags::RDONLY, Mode::empty()).map_err(|error| match error {
        Errno::ISDIR => Errno::ACCESS,
        other => other,
    })?;
    let file = OpenFile::new(fd, true);
    if !FileType::from_raw_mode(rustix::fs::fstat(file.fd())?.st_mode).is_file() {
        return Err(Errno::ACCESS);
    }
    rustix::fs::access(file.link(), Access::EXEC_OK)?;
    Ok(file)
}

/// Interpreter and argument in a script's first line.
fn script(head: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let line = head[2..].split(|byte| *byte == b'\n').next()?.trim_ascii();
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (interpreter, option) = (line[..end].to_vec(), line[end..].trim_ascii());
    let option = (!option.is_empty()).then(|| option.to_vec());
    (!interpreter.is_empty()).then_some((interpreter, option))
}

fn map_segments(space: &mut Space, file: &Arc<OpenFile>, program: &Program, bias: u64) -> Result<(), Errno> {
    for segment in &program.segments {
        let start = (segment.address + bias) / PAGE_SIZE * PAGE_SIZE;
        let lead = segment.address % PAGE_SIZE;
        let file_end = segment.address + bias + segment.file_size;
        let end = (segment.address + bias + segment.memory_size).next_multiple_of(PAGE_SIZE);
        let file_pages = file_end.next_multiple_of(PAGE_SIZE);
        if segment.file_size > 0 {
            let backing = Backing::File(file.clone(), segment.offset - lead);
            space.map(Place::Fixed(start), file_pages - start, segment.rights, backing)?;
            // The file goes on behind the segment; memory is zero there, if it belongs to the segment.
            if segment.memory_size > segment.file_size && segment.rights.write {
                space.write(file_end, &vec![0; (file_pages - file_end) as usize]).map_err(|_| Errno::NOEXEC)?;
            }
        }
        let zeros = if segment.file_size > 0 { file_pages } else { start };
        if end > zeros {
            space.map(Place::Fixed(zeros), end - zeros, segment.rights, Backing::Anonymous)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::script;

    #[test]
    fn a_scripts_first_line_names_an_interpreter_and_one_argument() {
        let text = |bytes: &[u8]| bytes.to_vec();
        assert_eq!(script(b"#!/bin/sh\nexit"), Some((text(b"/bin/sh"), None)));
        assert_eq!(script(b"#! /bin/awk -f  x \n"), Some((text(b"/bin/awk"), Some(text(b"-f  x")))));
        assert_eq!((script(b"#!"), script(b"#!  \nx")), (None, None));
    }
}
