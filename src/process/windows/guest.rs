//! A foreign program on the process VM: its memory is an address space like any other, its files are those of Linux programs, and its traps
//! come here instead of to the table of system calls.
//!
//! Sources: Microsoft "NTSTATUS Values"; signal(7) (which signal a Linux program gets for the same, and so which status).

use super::answer;
use super::call::{Answer, Call, Stop};
use super::pe::{Access, FILE_MAX, is_mz};
use super::process::Process;
use super::start::{Invocation, StartError, start};
use super::user;
use crate::arch::cpu_state::{RFLAGS_FIXED, RFLAGS_IF, Registers};
use crate::bus::bus::lock;
use crate::process::files::OpenFile;
use crate::process::host_files::{HostFiles, open_program};
use crate::process::mappings::Backing;
use crate::process::space::{self, Place, Space};
use crate::process::syscall::open::HERE;
use crate::process::tables::Rights;
use crate::process::task::{End, Task};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Status of a program that called `abort` (Microsoft "abort").
const ABORTED: u8 = 3;
/// How far below the stack an access is one of a stack that is used up.
const OVERFLOW_REACH: u64 = 1 << 20;

/// What a thread carries whose program is a foreign one.
pub struct Guest {
    process: Process,
    stack: Range<u64>,
}

/// The file at `path`, if it is a program of DOS' or Windows'. It need not be marked as executable, since such programs seldom are.
pub fn find(task: &Task, path: &[u8]) -> Option<Arc<OpenFile>> {
    let path = task.absolute(HERE, path.to_vec()).ok()?;
    open_program(&task.world.root, &path).filter(|file| is_mz(&file.read_at(0, 2)))
}

/// Puts the program in `file` into the memory of `task`, which is empty, and its registers to the first instruction.
///
/// # Errors
/// It is none that runs here, imports what is not there, or does not fit.
pub fn load(task: &mut Task, file: &OpenFile, how: Invocation) -> Result<(), StartError> {
    let mut memory = ProgramMemory(task.space.clone());
    let mut process = Process::new(&HostFiles::of(task));
    let size = rustix::fs::fstat(file.fd()).map_or(0, |stat| stat.st_size as u64);
    if size > FILE_MAX {
        return Err(StartError::Memory);
    }
    let entry = start(&file.read_at(0, size as usize), how, &mut memory, &mut process)?;
    let regs = Registers { rip: entry.rip, rsp: entry.rsp, rcx: entry.rcx, ..Registers::default() };
    task.regs = Registers { rflags: RFLAGS_FIXED | RFLAGS_IF, ..regs };
    task.gs_base = entry.gs_base;
    task.foreign = Some(Box::new(Guest { process, stack: entry.stack }));
    Ok(())
}

/// Answers the call that the task's registers ask for. The flags and RIP are those behind the trap already.
pub fn call(task: &mut Task, guest: &mut Guest) {
    let number = task.regs.rax;
    let mut memory = ProgramMemory(task.space.clone());
    let mut files = HostFiles::of(task);
    let regs = &task.regs;
    let mut call = Call {
        process: &mut guest.process,
        memory: &mut memory,
        files: &mut files,
        registers: [regs.r10, regs.rdx, regs.r8, regs.r9],
        stack: regs.rsp,
    };
    let shown = task.world.trace.is_some().then(|| answer::describe(number, &call));
    let answer = answer::answer(number, &mut call);
    if answer.is_err() {
        guest.process.streams.flush(&mut files);
    }
    if let (Some(trace), Some(shown)) = (&task.world.trace, shown) {
        trace.show(task.id, &format!("{shown:<39} = {}", answer::describe_answer(&answer)));
    }
    finish(task, number, answer);
}

fn finish(task: &mut Task, number: u64, answer: Answer) {
    match answer {
        Ok(value) => task.regs.rax = value,
        Err(Stop::Exit(status)) => {
            task.end = Some(End::Exited(u8::try_from(status).unwrap_or(u8::MAX)));
            if status > u8::MAX.into() {
                task.reason = Some(format!("the program ended with status {status:#x}, for which 255 stands here"));
            }
        }
        Err(Stop::Abort) => {
            task.end = Some(End::Exited(ABORTED));
            let name = answer::function(number).map_or("a function", |function| function.name);
            task.reason = Some(format!("{name}() ended the program as one that went wrong"));
        }
        Err(Stop::Fault(fault)) => {
            let name = answer::function(number).map_or("a function", |function| function.name);
            let what = if fault.write { "write to" } else { "read from" };
            task.kill(libc::SIGSEGV, format!("access violation (0xc0000005): {what} {:#x} in {name}()", fault.address));
        }
    }
}

impl Guest {
    /// An exception of this vector ends the program, at `address` where it is an access: what Windows calls it. What the program
    /// has written is written out, so that one sees how far it came.
    pub fn end(&mut self, task: &Task, vector: u64, address: Option<u64>) -> &'static str {
        self.process.streams.flush(&mut HostFiles::of(task));
        let below_stack = self.stack.start.saturating_sub(OVERFLOW_REACH)..self.stack.start;
        match vector {
            0 => "integer division by zero (0xc0000094)",
            1 => "single step (0x80000004)",
            3 => "breakpoint (0x80000003)",
            6 => "illegal instruction (0xc000001d)",
            16 | 19 => "invalid floating-point operation (0xc0000090)",
            17 => "misaligned data (0x80000002)",
            _ if address.is_some_and(|address| below_stack.contains(&address)) => "stack overflow (0xc00000fd)",
            _ => "access violation (0xc0000005)",
        }
    }
}

fn rights(access: Access) -> Rights {
    Rights { read: access.read, write: access.write, execute: access.execute }
}

/// An address space as the functions see it.
struct ProgramMemory(Arc<Mutex<Space>>);

impl ProgramMemory {
    /// The first address of a range that cannot be accessed.
    fn fault(space: &mut Space, address: u64, size: usize, access: space::Access) -> user::Fault {
        let there = space.reachable(address, size, access);
        user::Fault { address: address.wrapping_add(there as u64), write: access == space::Access::Write }
    }
}

impl user::Memory for ProgramMemory {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), user::Fault> {
        let space = &mut *lock(&self.0);
        let read = space.read(address, bytes);
        read.map_err(|_| ProgramMemory::fault(space, address, bytes.len(), space::Access::Read))
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), user::Fault> {
        let space = &mut *lock(&self.0);
        let written = space.write(address, bytes);
        written.map_err(|_| ProgramMemory::fault(space, address, bytes.len(), space::Access::Write))
    }

    fn map(&mut self, address: u64, size: u64, access: Access) -> bool {
        lock(&self.0).map(Place::FixedFree(address), size, rights(access), Backing::Anonymous).is_ok()
    }

    fn protect(&mut self, address: u64, size: u64, access: Access) {
        let changed = lock(&self.0).protect(address, address + size, rights(access));
        changed.expect("what lies where is known, and this is there");
    }

    fn unmap(&mut self, address: u64, size: u64) {
        lock(&self.0).unmap(address, address + size).expect("there are fewer regions than there may be mappings");
    }
}
