//! New threads and processes, and new programs in them: clone(2), fork(2), vfork(2), execve(2).
//!
//! A thread is a vCPU, of which a machine has at most 64: EAGAIN beyond. clone3(2) is not known, so libraries use clone(2).

use super::call::{Answer, Arguments};
use crate::bus::bus::lock;
use crate::process::load::{ARGUMENTS_MAX, Image};
use crate::process::signal::frame::AltStack;
use crate::process::signal::handling::Handling;
use crate::process::signal::state::SIGNALS;
use crate::process::tables::USER_END;
use crate::process::task::{Gate, Reload, Task};
use crate::process::world::Process;
use rustix::io::Errno;
use std::sync::{Arc, Mutex};

/// CLONE_ flags of `include/uapi/linux/sched.h` by which something else is made.
const VM: u64 = libc::CLONE_VM as u64;
const FS: u64 = libc::CLONE_FS as u64;
const FILES: u64 = libc::CLONE_FILES as u64;
const SIGHAND: u64 = libc::CLONE_SIGHAND as u64;
const VFORK: u64 = libc::CLONE_VFORK as u64;
const THREAD: u64 = libc::CLONE_THREAD as u64;
const SETTLS: u64 = libc::CLONE_SETTLS as u64;
const PARENT_SETTID: u64 = libc::CLONE_PARENT_SETTID as u64;
const CHILD_CLEARTID: u64 = libc::CLONE_CHILD_CLEARTID as u64;
const CHILD_SETTID: u64 = libc::CLONE_CHILD_SETTID as u64;
/// Those that change nothing here: CLONE_SYSVSEM, CLONE_DETACHED.
const HARMLESS: u64 = libc::CLONE_SYSVSEM as u64 | libc::CLONE_DETACHED as u64;
/// The signal at the end (CSIGNAL).
const END_SIGNAL: u64 = 0xff;
const KNOWN: u64 = VM | FS | FILES | SIGHAND | VFORK | THREAD | SETTLS | PARENT_SETTID | CHILD_CLEARTID | CHILD_SETTID;

/// Most texts of arguments and environment together.
const TEXTS_MAX: usize = 1 << 16;
/// Longest of them (Linux MAX_ARG_STRLEN).
const TEXT_MAX: usize = 128 << 10;

/// fork(2).
pub fn fork(task: &mut Task, _: Arguments) -> Answer {
    clone(task, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0])
}

/// vfork(2).
pub fn vfork(task: &mut Task, _: Arguments) -> Answer {
    clone(task, [VM | VFORK | libc::SIGCHLD as u64, 0, 0, 0, 0, 0])
}

/// clone(2). The child is begun by the trap's loop, which has the vCPU that it takes its vector registers from.
pub fn clone(task: &mut Task, [flags, rsp, parent_id, child_id, tls, _]: Arguments) -> Answer {
    let has = |flag: u64| flags & flag != 0;
    let alone = |flag: u64, needed: u64| has(flag) && !has(needed);
    let bad = flags & !(KNOWN | HARMLESS | END_SIGNAL) != 0 || alone(THREAD, SIGHAND) || alone(SIGHAND, VM);
    if bad || (has(SETTLS) && tls >= USER_END) {
        return Err(Errno::INVAL);
    }
    let space = if has(VM) { task.space.clone() } else { Arc::new(Mutex::new(task.memory().duplicate()?)) };
    let id = task.world.processes.new_id();
    // A number that is no signal is none.
    let end_signal = Some((flags & END_SIGNAL) as i32).filter(|signal| *signal <= SIGNALS as i32).unwrap_or(0);
    let process =
        if has(THREAD) { task.process.clone() } else { Arc::new(Process::child(&task.process, id, end_signal)) };
    let copy = |shared: bool| if shared { task.place.clone() } else { Arc::new(Mutex::new(lock(&task.place).clone())) };
    let files = if has(FILES) { task.files.clone() } else { Arc::new(Mutex::new(lock(&task.files).clone())) };
    // Two threads on one stack would write over each other's frames.
    let stack = if has(VM) && !has(VFORK) { AltStack::default() } else { task.handling.stack };
    let mut child = Task {
        process,
        id,
        space,
        files,
        place: copy(has(FS)),
        regs: task.regs,
        fs_base: if has(SETTLS) { tls } else { task.fs_base },
        gs_base: task.gs_base,
        blocked: task.blocked,
        handling: Handling { stack, ..Handling::default() },
        clear_at_end: if has(CHILD_CLEARTID) { child_id } else { 0 },
        end: None,
        reason: None,
        // Programs of other systems make no such call.
        foreign: None,
        reload: Reload::Program,
        extended: None,
        born: None,
        gate: has(VFORK).then(Gate::default).map(Arc::new),
        world: task.world.clone(),
    };
    child.regs.rax = 0;
    if rsp != 0 {
        child.regs.rsp = rsp;
    }
    if has(PARENT_SETTID) {
        task.write(parent_id, &id.to_le_bytes())?;
    }
    if has(CHILD_SETTID) {
        child.write(child_id, &id.to_le_bytes())?;
    }
    task.born = Some(Box::new(child));
    Ok(id as u64)
}

/// execve(2). A process with several threads cannot: EAGAIN.
pub fn execve(task: &mut Task, [path, arguments, environment, ..]: Arguments) -> Answer {
    let path = task.text(path)?;
    let (arguments, environment) = (texts(task, arguments)?, texts(task, environment)?);
    if task.world.processes.threads(task.process.id) > 1 {
        return Err(Errno::AGAIN);
    }
    // Linux gives a program that has none an empty name (since 5.18).
    let arguments = if arguments.is_empty() { vec![Vec::new()] } else { arguments };
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    let image = Image::find(task, path, arguments, environment)?;
    task.become_program(&image)?;
    Ok(0)
}

/// The texts of a list of pointers that ends with a null.
fn texts(task: &Task, list: u64) -> Result<Vec<Vec<u8>>, Errno> {
    let mut texts = Vec::new();
    if list == 0 {
        return Ok(texts);
    }
    let (mut at, mut size) = (list, 0);
    loop {
        match task.read_u64(at)? {
            0 => break,
            // Many pointers may lead to one long text, so what they make together has a bound here already.
            _ if texts.len() == TEXTS_MAX || size > ARGUMENTS_MAX => return Err(Errno::TOOBIG),
            text => {
                let text = task.memory().read_text(text, TEXT_MAX);
                let text = text.map_err(|error| if error == Errno::NAMETOOLONG { Errno::TOOBIG } else { error })?;
                size += text.len();
                texts.push(text);
            }
        }
        at = at.checked_add(8).ok_or(Errno::FAULT)?;
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::{Bench, DATA, DATA_SIZE};

    #[test]
    fn one_long_text_that_is_named_often_is_too_much() {
        let mut bench = Bench::new(&std::env::temp_dir(), false, false, &[]);
        let task = bench.task(0).unwrap();
        task.write(DATA, &[b'x'; 0x2000]).unwrap();
        let list = DATA + 0x2008;
        task.write(list, &DATA.to_le_bytes().repeat(((DATA + DATA_SIZE - list) / 8) as usize)).unwrap();
        // The list goes on where nothing is mapped: what comes before that is too much already.
        assert_eq!(texts(task, list), Err(Errno::TOOBIG));
        assert_eq!(texts(task, DATA + DATA_SIZE - 8), Err(Errno::FAULT));
        bench.finish();
    }
}
