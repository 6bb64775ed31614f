//! Numbers of open files: dup(2), fcntl(2), flock(2).

use super::call::{Answer, Arguments};
use crate::bus::bus::lock;
use crate::process::files::{Descriptor, FILES_MAX};
use crate::process::task::Task;
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

/// Flags that F_SETFL changes, of those that are the program's to change.
const SETTABLE: OFlags = OFlags::APPEND.union(OFlags::NONBLOCK).union(OFlags::NOATIME);

/// dup(2).
pub fn dup(task: &mut Task, [fd, ..]: Arguments) -> Answer {
    let file = task.file(fd)?;
    task.add_file(file, false)
}

/// dup2(2).
pub fn dup2(task: &mut Task, [from, to, ..]: Arguments) -> Answer {
    if from as i32 == to as i32 {
        return task.file(from).map(|_| to as u32 as u64);
    }
    dup3(task, [from, to, 0, 0, 0, 0])
}

/// dup3(2).
pub fn dup3(task: &mut Task, [from, to, flags, ..]: Arguments) -> Answer {
    let close_on_exec = flags as i32 == libc::O_CLOEXEC;
    if from as i32 == to as i32 || (flags as i32 != 0 && !close_on_exec) {
        return Err(Errno::INVAL);
    }
    let file = task.file(from)?;
    if !(0..FILES_MAX).contains(&(to as i32)) {
        return Err(Errno::BADF);
    }
    lock(&task.files).put(to as i32, Descriptor { file, close_on_exec });
    Ok(to as u32 as u64)
}

/// fcntl(2): descriptors and status flags. Leaves out record locks and leases.
pub fn fcntl(task: &mut Task, [fd, command, argument, ..]: Arguments) -> Answer {
    let file = task.file(fd)?;
    match command as i32 {
        command @ (libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) => {
            let least = argument as i32;
            if !(0..FILES_MAX).contains(&least) {
                return Err(Errno::INVAL);
            }
            let number = lock(&task.files).add(file, command == libc::F_DUPFD_CLOEXEC, least)?;
            Ok(number as u64)
        }
        libc::F_GETFD => Ok(lock(&task.files).descriptor(fd as i32)?.close_on_exec.into()),
        libc::F_SETFD => {
            lock(&task.files).descriptor(fd as i32)?.close_on_exec = argument & libc::FD_CLOEXEC as u64 != 0;
            Ok(0)
        }
        libc::F_GETFL => Ok(rustix::fs::fcntl_getfl(file.fd())?.bits().into()),
        libc::F_SETFL => {
            let kept = rustix::fs::fcntl_getfl(file.fd())? & !SETTABLE;
            let wanted = OFlags::from_bits_retain(argument as u32) & SETTABLE;
            rustix::fs::fcntl_setfl(file.fd(), kept | wanted).map(|()| 0)
        }
        _ => Err(Errno::INVAL),
    }
}

/// flock(2).
pub fn flock(task: &mut Task, [fd, operation, ..]: Arguments) -> Answer {
    let operation = match operation as i32 {
        libc::LOCK_SH => FlockOperation::LockShared,
        libc::LOCK_EX => FlockOperation::LockExclusive,
        libc::LOCK_UN => FlockOperation::Unlock,
        5 => FlockOperation::NonBlockingLockShared,
        6 => FlockOperation::NonBlockingLockExclusive,
        12 => FlockOperation::NonBlockingUnlock,
        _ => return Err(Errno::INVAL),
    };
    rustix::fs::flock(task.file(fd)?.fd(), operation).map(|()| 0)
}
