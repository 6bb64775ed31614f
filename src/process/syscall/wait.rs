//! Children and groups: wait4(2), setpgid(2), setsid(2).

use super::call::{Answer, Arguments};
use crate::process::task::Task;
use rustix::io::Errno;
use std::sync::atomic::Ordering;

/// wait4(2). No process stops, so nothing is told of that; the processor time in `struct rusage` is zero.
pub fn wait4(task: &mut Task, [process, status, options, usage, ..]: Arguments) -> Answer {
    const NOHANG: u64 = libc::WNOHANG as u64;
    const KNOWN: u64 = NOHANG | libc::WUNTRACED as u64 | libc::WCONTINUED as u64 | 0xe000_0000;
    if options & 0xffff_ffff & !KNOWN != 0 {
        return Err(Errno::INVAL);
    }
    let found = task.world.processes.wait((&task.process, task.id), process as i32, options & NOHANG != 0, false)?;
    let Some((id, end)) = found else { return Ok(0) };
    if status != 0 {
        task.write(status, &end.wait_status().to_le_bytes())?;
    }
    if usage != 0 {
        task.write(usage, &[0; 144])?;
    }
    Ok(id as u64)
}

/// setpgid(2), of oneself or a child.
pub fn setpgid(task: &mut Task, [process, group, ..]: Arguments) -> Answer {
    let (process, group) = (process as i32, group as i32);
    if group < 0 || process < 0 {
        return Err(Errno::INVAL);
    }
    let id = if process == 0 { task.process.id } else { process };
    let found = task.world.processes.find(id, &task.process).pop().ok_or(Errno::SRCH)?;
    if found.id != task.process.id && found.parent() != task.process.id {
        return Err(Errno::SRCH);
    }
    let group = if group == 0 { id } else { group };
    let exists = group == id || !task.world.processes.find(-group, &task.process).is_empty();
    if !exists {
        return Err(Errno::PERM);
    }
    found.group.store(group, Ordering::Relaxed);
    Ok(0)
}

/// getpgid(2).
pub fn getpgid(task: &mut Task, [process, ..]: Arguments) -> Answer {
    match process as i32 {
        0 => Ok(task.process.group() as u64),
        ..0 => Err(Errno::SRCH),
        id => Ok(task.world.processes.find(id, &task.process).pop().ok_or(Errno::SRCH)?.group() as u64),
    }
}

/// setsid(2): a group of its own; all processes stay of one session.
pub fn setsid(task: &mut Task, _: Arguments) -> Answer {
    let id = task.process.id;
    if task.process.group() == id {
        return Err(Errno::PERM);
    }
    task.process.group.store(id, Ordering::Relaxed);
    Ok(id as u64)
}
