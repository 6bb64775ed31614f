//! Who a process is: numbers of users and processes, groups, limits.
//!
//! Users are the host's: a program acts as whoever started Hostel, and cannot become somebody else. Limits are told and not changed.
//! Sources: credentials(7), getrlimit(2), setpgid(2).

use super::call::{Answer, Arguments};
use crate::process::files::FILES_MAX;
use crate::process::space::STACK_SIZE;
use crate::process::task::Task;
use crate::process::world::FIRST_ID;
use rustix::io::Errno;
use std::sync::atomic::Ordering;

/// getpid(2).
pub fn getpid(task: &mut Task, _: Arguments) -> Answer {
    Ok(task.process.id as u64)
}

/// getppid(2).
pub fn getppid(task: &mut Task, _: Arguments) -> Answer {
    Ok(task.process.parent.load(Ordering::Relaxed) as u64)
}

/// gettid(2).
pub fn gettid(task: &mut Task, _: Arguments) -> Answer {
    Ok(task.id as u64)
}

/// getpgrp(2).
pub fn getpgrp(task: &mut Task, _: Arguments) -> Answer {
    Ok(task.process.group() as u64)
}

/// getsid(2): all processes are of one session.
pub fn getsid(_task: &mut Task, _: Arguments) -> Answer {
    Ok(FIRST_ID as u64)
}

/// getuid(2).
pub fn getuid(_task: &mut Task, _: Arguments) -> Answer {
    Ok(rustix::process::getuid().as_raw().into())
}

/// geteuid(2).
pub fn geteuid(_task: &mut Task, _: Arguments) -> Answer {
    Ok(rustix::process::geteuid().as_raw().into())
}

/// getgid(2).
pub fn getgid(_task: &mut Task, _: Arguments) -> Answer {
    Ok(rustix::process::getgid().as_raw().into())
}

/// getegid(2).
pub fn getegid(_task: &mut Task, _: Arguments) -> Answer {
    Ok(rustix::process::getegid().as_raw().into())
}

/// getresuid(2).
pub fn getresuid(task: &mut Task, [real, effective, saved, ..]: Arguments) -> Answer {
    let (uid, euid) = (rustix::process::getuid().as_raw(), rustix::process::geteuid().as_raw());
    put_three(task, [real, effective, saved], [uid, euid, euid])
}

/// getresgid(2).
pub fn getresgid(task: &mut Task, [real, effective, saved, ..]: Arguments) -> Answer {
    let (gid, egid) = (rustix::process::getgid().as_raw(), rustix::process::getegid().as_raw());
    put_three(task, [real, effective, saved], [gid, egid, egid])
}

fn put_three(task: &Task, to: [u64; 3], values: [u32; 3]) -> Answer {
    for (address, value) in to.into_iter().zip(values) {
        task.write(address, &value.to_le_bytes())?;
    }
    Ok(0)
}

/// setuid(2), setgid(2): to what one is.
pub fn set_own(task: &mut Task, [id, ..]: Arguments) -> Answer {
    let own = match task.regs.rax as i64 {
        libc::SYS_setuid => rustix::process::getuid().as_raw(),
        _ => rustix::process::getgid().as_raw(),
    };
    if id as u32 == own { Ok(0) } else { Err(Errno::PERM) }
}

/// getgroups(2).
pub fn getgroups(task: &mut Task, [size, list, ..]: Arguments) -> Answer {
    let groups = rustix::process::getgroups()?;
    if size as i32 == 0 {
        return Ok(groups.len() as u64);
    }
    if (size as i32) < groups.len() as i32 {
        return Err(Errno::INVAL);
    }
    let bytes: Vec<_> = groups.iter().flat_map(|group| group.as_raw().to_le_bytes()).collect();
    task.write(list, &bytes)?;
    Ok(groups.len() as u64)
}

/// getrlimit(2).
pub fn getrlimit(task: &mut Task, [resource, buffer, ..]: Arguments) -> Answer {
    prlimit64(task, [0, resource, 0, buffer, 0, 0])
}

/// prlimit64(2), of the process itself. Lowering a limit is refused, since nothing would keep it.
pub fn prlimit64(task: &mut Task, [process, resource, new, old, ..]: Arguments) -> Answer {
    if process as i32 != 0 && process as i32 != task.process.id {
        return Err(Errno::SRCH);
    }
    if new != 0 {
        return Err(Errno::PERM);
    }
    let (soft, hard) = match resource as u32 {
        libc::RLIMIT_STACK => (STACK_SIZE, STACK_SIZE),
        libc::RLIMIT_NOFILE => (FILES_MAX as u64, FILES_MAX as u64),
        libc::RLIMIT_CORE => (0, 0),
        0..=15 => (u64::MAX, u64::MAX),
        _ => return Err(Errno::INVAL),
    };
    if old != 0 {
        task.write(old, [soft, hard].map(u64::to_le_bytes).as_flattened())?;
    }
    Ok(0)
}
