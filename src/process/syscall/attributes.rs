//! Attributes of files: stat(2), statx(2), statfs(2), chmod(2), chown(2), utimensat(2).
//!
//! Source: Linux `include/uapi/asm-generic/statfs.h`, `arch/x86/include/uapi/asm/stat.h`, `include/uapi/linux/stat.h` (layouts).

use super::call::{Answer, Arguments};
use super::open::HERE;
use super::time::time_spec;
use crate::bus::bus::lock;
use crate::process::files::link;
use crate::process::paths;
use crate::process::task::Task;
use rustix::fs::{AtFlags, CWD, Gid, Mode, StatFs, StatxFlags, StatxTimestamp, Timestamps, Uid};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What `at` and `path` name, for calls with AT_EMPTY_PATH and AT_SYMLINK_NOFOLLOW.
fn find(task: &Task, at: u64, path: u64, flags: u64) -> Result<OwnedFd, Errno> {
    let flags = AtFlags::from_bits_retain(flags as u32);
    let path = match task.text(path) {
        // A null pointer with AT_EMPTY_PATH is an empty path (since Linux 6.11).
        Err(Errno::FAULT) if path == 0 && flags.contains(AtFlags::EMPTY_PATH) => Vec::new(),
        text => text?,
    };
    if !path.is_empty() {
        let path = task.absolute(at, path)?;
        return task.world.root.look(&path, !flags.contains(AtFlags::SYMLINK_NOFOLLOW));
    }
    match at as i32 {
        _ if !flags.contains(AtFlags::EMPTY_PATH) => Err(Errno::NOENT),
        libc::AT_FDCWD => {
            let directory = lock(&task.place).directory.clone();
            task.world.root.look(&directory, true)
        }
        _ => rustix::io::fcntl_dupfd_cloexec(task.file(at)?.fd(), 3),
    }
}

/// stat(2).
pub fn stat(task: &mut Task, [path, buffer, ..]: Arguments) -> Answer {
    newfstatat(task, [HERE, path, buffer, 0, 0, 0])
}

/// lstat(2).
pub fn lstat(task: &mut Task, [path, buffer, ..]: Arguments) -> Answer {
    newfstatat(task, [HERE, path, buffer, libc::AT_SYMLINK_NOFOLLOW as u64, 0, 0])
}

/// fstat(2).
pub fn fstat(task: &mut Task, [fd, buffer, ..]: Arguments) -> Answer {
    let file = task.file(fd)?;
    put_stat(task, file.fd(), buffer)
}

/// newfstatat(2).
pub fn newfstatat(task: &mut Task, [at, path, buffer, flags, ..]: Arguments) -> Answer {
    const KNOWN: u64 = (libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT) as u64;
    if flags & 0xffff_ffff & !KNOWN != 0 {
        return Err(Errno::INVAL);
    }
    let found = find(task, at, path, flags)?;
    put_stat(task, found.as_fd(), buffer)
}

fn put_stat(task: &Task, fd: BorrowedFd<'_>, buffer: u64) -> Answer {
    let stat = paths::stat(fd)?;
    let mut words = vec![stat.st_dev, stat.st_ino, stat.st_nlink];
    words.push(u64::from(stat.st_mode) | u64::from(stat.st_uid) << 32);
    words.push(stat.st_gid.into());
    words.extend([stat.st_rdev, stat.st_size as u64, stat.st_blksize as u64, stat.st_blocks as u64]);
    words.extend([stat.st_atime as u64, stat.st_atime_nsec, stat.st_mtime as u64, stat.st_mtime_nsec]);
    words.extend([stat.st_ctime as u64, stat.st_ctime_nsec, 0, 0, 0]);
    task.write(buffer, words.into_iter().map(u64::to_le_bytes).collect::<Vec<_>>().as_flattened())?;
    Ok(0)
}

/// statx(2).
pub fn statx(task: &mut Task, [at, path, flags, mask, buffer, _]: Arguments) -> Answer {
    let found = find(task, at, path, flags)?;
    let mask = mask as u32;
    if mask & 1 << 31 != 0 {
        return Err(Errno::INVAL);
    }
    let stat = rustix::fs::statx(&found, c"", AtFlags::EMPTY_PATH, StatxFlags::from_bits_truncate(mask))?;
    let mut bytes = Vec::with_capacity(256);
    let put = |bytes: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    let put_long = |bytes: &mut Vec<u8>, value: u64| bytes.extend(value.to_le_bytes());
    put(&mut bytes, &[stat.stx_mask, stat.stx_blksize]);
    put_long(&mut bytes, stat.stx_attributes.bits());
    put(&mut bytes, &[stat.stx_nlink, stat.stx_uid, stat.stx_gid, stat.stx_mode.into()]);
    for value in [stat.stx_ino, stat.stx_size, stat.stx_blocks, stat.stx_attributes_mask.bits()] {
        put_long(&mut bytes, value);
    }
    for StatxTimestamp { tv_sec, tv_nsec, .. } in [stat.stx_atime, stat.stx_btime, stat.stx_ctime, stat.stx_mtime] {
        put_long(&mut bytes, tv_sec as u64);
        put(&mut bytes, &[tv_nsec, 0]);
    }
    put(&mut bytes, &[stat.stx_rdev_major, stat.stx_rdev_minor, stat.stx_dev_major, stat.stx_dev_minor]);
    put_long(&mut bytes, stat.stx_mnt_id);
    bytes.resize(256, 0);
    task.write(buffer, &bytes)?;
    Ok(0)
}

/// statfs(2).
pub fn statfs(task: &mut Task, [path, buffer, ..]: Arguments) -> Answer {
    let path = task.path(HERE, path)?;
    let found = task.world.root.look(&path, true)?;
    put_statfs(task, &rustix::fs::fstatfs(found)?, buffer)
}

/// fstatfs(2).
pub fn fstatfs(task: &mut Task, [fd, buffer, ..]: Arguments) -> Answer {
    let file = task.file(fd)?;
    put_statfs(task, &rustix::fs::fstatfs(file.fd())?, buffer)
}

fn put_statfs(task: &Task, stat: &StatFs, buffer: u64) -> Answer {
    // The number of the file system and the flags are private to the host's structure: programs get zeros.
    let mut words = [0u64; 15];
    words[..7].copy_from_slice(&[
        stat.f_type as u64,
        stat.f_bsize as u64,
        stat.f_blocks,
        stat.f_bfree,
        stat.f_bavail,
        stat.f_files,
        stat.f_ffree,
    ]);
    words[8] = stat.f_namelen as u64;
    words[9] = stat.f_frsize as u64;
    task.write(buffer, words.map(u64::to_le_bytes).as_flattened())?;
    Ok(0)
}

/// What `at` and `path` name, to be changed.
fn find_to_change(task: &Task, at: u64, path: u64, flags: u64) -> Result<OwnedFd, Errno> {
    let found = find(task, at, path, flags)?;
    if task.world.root.allows_writing() { Ok(found) } else { Err(Errno::ROFS) }
}

/// chmod(2).
pub fn chmod(task: &mut Task, [path, mode, ..]: Arguments) -> Answer {
    fchmodat(task, [HERE, path, mode, 0, 0, 0])
}

/// fchmod(2).
pub fn fchmod(task: &mut Task, [fd, mode, ..]: Arguments) -> Answer {
    let file = task.file(fd)?;
    if file.of_host && !task.world.root.allows_writing() {
        return Err(Errno::ROFS);
    }
    rustix::fs::fchmod(file.fd(), Mode::from_raw_mode(mode as u32 & 0o7777)).map(|()| 0)
}

/// fchmodat(2).
pub fn fchmodat(task: &mut Task, [at, path, mode, ..]: Arguments) -> Answer {
    let found = find_to_change(task, at, path, 0)?;
    let mode = Mode::from_raw_mode(mode as u32 & 0o7777);
    rustix::fs::chmodat(CWD, link(found.as_fd()), mode, AtFlags::empty()).map(|()| 0)
}

/// chown(2).
pub fn chown(task: &mut Task, [path, user, group, ..]: Arguments) -> Answer {
    fchownat(task, [HERE, path, user, group, 0, 0])
}

/// lchown(2).
pub fn lchown(task: &mut Task, [path, user, group, ..]: Arguments) -> Answer {
    fchownat(task, [HERE, path, user, group, libc::AT_SYMLINK_NOFOLLOW as u64, 0])
}

/// fchown(2).
pub fn fchown(task: &mut Task, [fd, user, group, ..]: Arguments) -> Answer {
    let file = task.file(fd)?;
    if file.of_host && !task.world.root.allows_writing() {
        return Err(Errno::ROFS);
    }
    let (user, group) = owner(user, group);
    rustix::fs::fchown(file.fd(), user, group).map(|()| 0)
}

/// fchownat(2).
pub fn fchownat(task: &mut Task, [at, path, user, group, flags, _]: Arguments) -> Answer {
    let found = find_to_change(task, at, path, flags)?;
    let (user, group) = owner(user, group);
    rustix::fs::chownat(&found, c"", user, group, AtFlags::EMPTY_PATH).map(|()| 0)
}

fn owner(user: u64, group: u64) -> (Option<Uid>, Option<Gid>) {
    let kept = |id: u64| id as u32 == u32::MAX;
    ((!kept(user)).then(|| Uid::from_raw(user as u32)), (!kept(group)).then(|| Gid::from_raw(group as u32)))
}

/// utimensat(2).
pub fn utimensat(task: &mut Task, [at, path, times, flags, ..]: Arguments) -> Answer {
    let times = match times {
        0 => [libc::UTIME_NOW; 2].map(|tv_nsec| rustix::fs::Timespec { tv_sec: 0, tv_nsec }),
        times => [time_spec(task.read(times)?), time_spec(task.read(times.wrapping_add(16))?)],
    };
    let [last_access, last_modification] = times;
    let times = Timestamps { last_access, last_modification };
    if path == 0 {
        let file = task.file(at)?;
        if !task.world.root.allows_writing() {
            return Err(Errno::ROFS);
        }
        return rustix::fs::futimens(file.fd(), &times).map(|()| 0);
    }
    let found = find_to_change(task, at, path, flags)?;
    rustix::fs::utimensat(&found, c"", &times, AtFlags::EMPTY_PATH).map(|()| 0)
}

/// getxattr(2).
pub fn getxattr(task: &mut Task, [path, name, value, size, ..]: Arguments) -> Answer {
    let found = find(task, HERE, path, 0)?;
    get_attribute(task, found.as_fd(), name, value, size)
}

/// lgetxattr(2).
pub fn lgetxattr(task: &mut Task, [path, name, value, size, ..]: Arguments) -> Answer {
    let found = find(task, HERE, path, libc::AT_SYMLINK_NOFOLLOW as u64)?;
    if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_symlink() {
        // No call reads those of a symbolic link by its descriptor alone; users cannot set any (xattr(7)).
        return Err(Errno::NODATA);
    }
    get_attribute(task, found.as_fd(), name, value, size)
}

/// fgetxattr(2).
pub fn fgetxattr(task: &mut Task, [fd, name, value, size, ..]: Arguments) -> Answer {
    let file = task.file(fd)?;
    get_attribute(task, file.fd(), name, value, size)
}

fn get_attribute(task: &Task, fd: BorrowedFd<'_>, name: u64, value: u64, size: u64) -> Answer {
    /// Longest value (Linux XATTR_SIZE_MAX).
    const VALUE_MAX: u64 = 64 << 10;
    let name = task.text(name)?;
    let mut room = vec![0u8; size.min(VALUE_MAX) as usize];
    let count = rustix::fs::getxattr(link(fd), name, &mut room[..])?;
    if size > 0 {
        task.write(value, &room[..count])?;
    }
    Ok(count as u64)
}
