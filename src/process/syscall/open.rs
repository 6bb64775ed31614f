//! Opening and naming files: open(2), close(2), access(2), truncate(2), readlink(2), pipe(2).

use super::call::{Answer, Arguments};
use crate::bus::bus::lock;
use crate::process::files::{OpenFile, link};
use crate::process::task::Task;
use rustix::fs::{Access, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use std::os::fd::{AsFd, OwnedFd};

/// AT_FDCWD as an argument.
pub const HERE: u64 = libc::AT_FDCWD as u64;

/// open(2).
pub fn open(task: &mut Task, [path, flags, mode, ..]: Arguments) -> Answer {
    openat(task, [HERE, path, flags, mode, 0, 0])
}

/// creat(2).
pub fn creat(task: &mut Task, [path, mode, ..]: Arguments) -> Answer {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    openat(task, [HERE, path, flags as u64, mode, 0, 0])
}

/// openat(2).
pub fn openat(task: &mut Task, [at, path, flags, mode, ..]: Arguments) -> Answer {
    let path = task.path(at, path)?;
    let flags = OFlags::from_bits_retain(flags as u32);
    // The mask is the program's, not this process's, which has none (see `run.rs`).
    let mode = Mode::from_raw_mode(mode as u32 & 0o7777 & !lock(&task.place).umask);
    let fd = task.world.root.open_file(&path, flags, mode)?;
    task.add_file(OpenFile::new(fd, true), flags.contains(OFlags::CLOEXEC))
}

/// close(2).
pub fn close(task: &mut Task, [fd, ..]: Arguments) -> Answer {
    let closed = lock(&task.files).close(fd as i32)?;
    drop(closed);
    Ok(0)
}

/// close_range(2); without CLOSE_RANGE_UNSHARE, which nothing common uses.
pub fn close_range(task: &mut Task, [first, last, flags, ..]: Arguments) -> Answer {
    const CLOEXEC: u64 = 4;
    let (first, last) = (first as u32, last as u32);
    if first > last || flags & !CLOEXEC != 0 {
        return Err(Errno::INVAL);
    }
    let signed = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let (first, last) = (signed(first), signed(last));
    let mut files = lock(&task.files);
    if flags == CLOEXEC {
        files.close_on_exec(first, last);
    } else {
        files.close_all(|number, _| number >= first && number <= last);
    }
    Ok(0)
}

/// access(2).
pub fn access(task: &mut Task, [path, mode, ..]: Arguments) -> Answer {
    faccessat2(task, [HERE, path, mode, 0, 0, 0])
}

/// faccessat(2).
pub fn faccessat(task: &mut Task, [at, path, mode, ..]: Arguments) -> Answer {
    faccessat2(task, [at, path, mode, 0, 0, 0])
}

/// faccessat2(2).
pub fn faccessat2(task: &mut Task, [at, path, mode, flags, ..]: Arguments) -> Answer {
    let flags = AtFlags::from_bits(flags as u32).ok_or(Errno::INVAL)?;
    if mode as u32 & !7 != 0 {
        return Err(Errno::INVAL);
    }
    let access = Access::from_bits_retain(mode as u32);
    let path = task.path(at, path)?;
    let found = task.world.root.look(&path, !flags.contains(AtFlags::SYMLINK_NOFOLLOW))?;
    rustix::fs::accessat(rustix::fs::CWD, link(found.as_fd()), access, flags & AtFlags::EACCESS)?;
    let is_file = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_file();
    let is_directory = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_dir();
    if access.contains(Access::WRITE_OK) && (is_file || is_directory) && !task.world.root.allows_writing() {
        return Err(Errno::ROFS);
    }
    Ok(0)
}

/// truncate(2).
pub fn truncate(task: &mut Task, [path, size, ..]: Arguments) -> Answer {
    if (size as i64) < 0 {
        return Err(Errno::INVAL);
    }
    let path = task.path(HERE, path)?;
    let fd = task.world.root.open_file(&path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty())?;
    rustix::fs::ftruncate(fd, size).map(|()| 0)
}

/// ftruncate(2).
pub fn ftruncate(task: &mut Task, [fd, size, ..]: Arguments) -> Answer {
    if (size as i64) < 0 {
        return Err(Errno::INVAL);
    }
    rustix::fs::ftruncate(task.file(fd)?.fd(), size).map(|()| 0)
}

/// fallocate(2).
pub fn fallocate(task: &mut Task, [fd, mode, offset, size, ..]: Arguments) -> Answer {
    let mode = rustix::fs::FallocateFlags::from_bits(mode as u32).ok_or(Errno::OPNOTSUPP)?;
    rustix::fs::fallocate(task.file(fd)?.fd(), mode, offset, size).map(|()| 0)
}

/// fsync(2), fdatasync(2).
pub fn fsync(task: &mut Task, [fd, ..]: Arguments) -> Answer {
    rustix::fs::fsync(task.file(fd)?.fd()).map(|()| 0)
}

/// sync(2): nothing, since what a program wrote is the host's to keep.
pub fn sync(_task: &mut Task, _: Arguments) -> Answer {
    Ok(0)
}

/// fadvise64(2): advice that is not taken.
pub fn fadvise(task: &mut Task, [fd, ..]: Arguments) -> Answer {
    task.file(fd).map(|_| 0)
}

/// readlink(2).
pub fn readlink(task: &mut Task, [path, buffer, size, ..]: Arguments) -> Answer {
    readlinkat(task, [HERE, path, buffer, size, 0, 0])
}

/// readlinkat(2).
pub fn readlinkat(task: &mut Task, [at, path, buffer, size, ..]: Arguments) -> Answer {
    if size as i32 <= 0 {
        return Err(Errno::INVAL);
    }
    let text = task.text(path)?;
    let target = if text == b"/proc/self/exe" {
        lock(&task.process.program).clone()
    } else if text.is_empty() && at as i32 != libc::AT_FDCWD {
        rustix::fs::readlinkat(task.file(at)?.fd(), c"", Vec::new())?.into_bytes()
    } else {
        let path = task.path(at, path)?;
        let found = task.world.root.look(&path, false)?;
        // EINVAL, where the call below says ENOENT (readlinkat(2), "empty path").
        if !rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_symlink() {
            return Err(Errno::INVAL);
        }
        rustix::fs::readlinkat(&found, c"", Vec::new())?.into_bytes()
    };
    let shown = &target[..target.len().min(size as usize)];
    task.write(buffer, shown)?;
    Ok(shown.len() as u64)
}

/// pipe(2).
pub fn pipe(task: &mut Task, [numbers, ..]: Arguments) -> Answer {
    pipe2(task, [numbers, 0, 0, 0, 0, 0])
}

/// pipe2(2).
pub fn pipe2(task: &mut Task, [numbers, flags, ..]: Arguments) -> Answer {
    let flags = PipeFlags::from_bits(flags as u32).ok_or(Errno::INVAL)?;
    let close_on_exec = flags.contains(PipeFlags::CLOEXEC);
    let (reader, writer) = rustix::pipe::pipe_with(flags | PipeFlags::CLOEXEC)?;
    add_pair(task, reader, writer, close_on_exec, numbers)
}

/// Gives two files numbers and tells both at `numbers`.
///
/// # Errors
/// EMFILE, EFAULT; neither has a number then.
pub fn add_pair(task: &Task, one: OwnedFd, other: OwnedFd, close_on_exec: bool, numbers: u64) -> Answer {
    let mut files = lock(&task.files);
    let first = files.add(OpenFile::new(one, false), close_on_exec, 0)?;
    let second = files.add(OpenFile::new(other, false), close_on_exec, 0).inspect_err(|_| drop(files.close(first)))?;
    drop(files);
    let bytes = [first.to_le_bytes(), second.to_le_bytes()].concat();
    task.write(numbers, &bytes).inspect_err(|_| {
        let mut files = lock(&task.files);
        drop((files.close(first), files.close(second)));
    })?;
    Ok(0)
}
