//! Directories: their entries, changes of them, and the working directory.
//!
//! Sources: getdents64(2), rename(2), unlink(2), getcwd(2).

use super::call::{Answer, Arguments};
use super::open::HERE;
use crate::bus::bus::lock;
use crate::process::files::{OpenFile, link};
use crate::process::task::Task;
use rustix::fs::{AtFlags, FileType, Mode, RawDir, RenameFlags};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// Most bytes of entries that one call gives.
const LISTING_MAX: u64 = 64 << 10;
/// Bytes of `struct linux_dirent64` before the name.
const ENTRY_HEAD: usize = 19;

/// getdents64(2).
pub fn getdents64(task: &mut Task, [fd, buffer, size, ..]: Arguments) -> Answer {
    let file = task.file(fd)?;
    let mut room = vec![MaybeUninit::uninit(); (size & 0xffff_ffff).min(LISTING_MAX) as usize];
    let mut entries = RawDir::new(file.fd(), &mut room);
    let mut bytes = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes_with_nul();
        let length = (ENTRY_HEAD + name.len()).next_multiple_of(8);
        let start = bytes.len();
        bytes.extend(entry.ino().to_le_bytes());
        bytes.extend(entry.next_entry_cookie().to_le_bytes());
        bytes.extend((length as u16).to_le_bytes());
        bytes.push(kind(entry.file_type()));
        bytes.extend(name);
        bytes.resize(start + length, 0);
        if entries.is_buffer_empty() {
            break;
        }
    }
    task.write(buffer, &bytes)?;
    Ok(bytes.len() as u64)
}

/// `d_type`.
fn kind(kind: FileType) -> u8 {
    match kind {
        FileType::Fifo => libc::DT_FIFO,
        FileType::CharacterDevice => libc::DT_CHR,
        FileType::Directory => libc::DT_DIR,
        FileType::BlockDevice => libc::DT_BLK,
        FileType::RegularFile => libc::DT_REG,
        FileType::Symlink => libc::DT_LNK,
        FileType::Socket => libc::DT_SOCK,
        _ => libc::DT_UNKNOWN,
    }
}

/// getcwd(2).
pub fn getcwd(task: &mut Task, [buffer, size, ..]: Arguments) -> Answer {
    let mut directory = lock(&task.place).directory.clone();
    directory.push(0);
    if (size as usize) < directory.len() {
        return Err(Errno::RANGE);
    }
    task.write(buffer, &directory)?;
    Ok(directory.len() as u64)
}

/// chdir(2).
pub fn chdir(task: &mut Task, [path, ..]: Arguments) -> Answer {
    let path = task.path(HERE, path)?;
    let found = task.world.root.look(&path, true)?;
    enter(task, &OpenFile::new(found, true))
}

/// fchdir(2).
pub fn fchdir(task: &mut Task, [fd, ..]: Arguments) -> Answer {
    let file = task.file(fd)?;
    enter(task, &file)
}

fn enter(task: &Task, directory: &OpenFile) -> Answer {
    if !FileType::from_raw_mode(rustix::fs::fstat(directory.fd())?.st_mode).is_dir() {
        return Err(Errno::NOTDIR);
    }
    rustix::fs::access(directory.link(), rustix::fs::Access::EXEC_OK)?;
    let path = task.world.root.place_of(directory.fd())?;
    lock(&task.place).directory = path;
    Ok(0)
}

/// The directory and the name of an entry that is to be changed.
fn entry(task: &Task, at: u64, path: u64) -> Result<(OwnedFd, Vec<u8>), Errno> {
    let path = task.path(at, path)?;
    task.world.root.parent_to_change(&path)
}

fn mode(task: &Task, mode: u64) -> Mode {
    Mode::from_raw_mode(mode as u32 & 0o7777 & !lock(&task.place).umask)
}

/// mkdir(2).
pub fn mkdir(task: &mut Task, [path, mode, ..]: Arguments) -> Answer {
    mkdirat(task, [HERE, path, mode, 0, 0, 0])
}

/// mkdirat(2).
pub fn mkdirat(task: &mut Task, [at, path, wanted, ..]: Arguments) -> Answer {
    let (directory, name) = entry(task, at, path)?;
    rustix::fs::mkdirat(directory, name, mode(task, wanted)).map(|()| 0)
}

/// rmdir(2).
pub fn rmdir(task: &mut Task, [path, ..]: Arguments) -> Answer {
    unlinkat(task, [HERE, path, libc::AT_REMOVEDIR as u64, 0, 0, 0])
}

/// unlink(2).
pub fn unlink(task: &mut Task, [path, ..]: Arguments) -> Answer {
    unlinkat(task, [HERE, path, 0, 0, 0, 0])
}

/// unlinkat(2).
pub fn unlinkat(task: &mut Task, [at, path, flags, ..]: Arguments) -> Answer {
    let flags =
        AtFlags::from_bits(flags as u32).filter(|flags| AtFlags::REMOVEDIR.contains(*flags)).ok_or(Errno::INVAL)?;
    let (directory, name) = entry(task, at, path)?;
    rustix::fs::unlinkat(directory, name, flags).map(|()| 0)
}

/// rename(2).
pub fn rename(task: &mut Task, [from, to, ..]: Arguments) -> Answer {
    renameat2(task, [HERE, from, HERE, to, 0, 0])
}

/// renameat(2).
pub fn renameat(task: &mut Task, [from_at, from, to_at, to, ..]: Arguments) -> Answer {
    renameat2(task, [from_at, from, to_at, to, 0, 0])
}

/// renameat2(2).
pub fn renameat2(task: &mut Task, [from_at, from, to_at, to, flags, _]: Arguments) -> Answer {
    let flags = RenameFlags::from_bits(flags as u32).ok_or(Errno::INVAL)?;
    let (old, old_name) = entry(task, from_at, from)?;
    let (new, new_name) = entry(task, to_at, to)?;
    rustix::fs::renameat_with(old, old_name, new, new_name, flags).map(|()| 0)
}

/// link(2).
pub fn link_(task: &mut Task, [from, to, ..]: Arguments) -> Answer {
    linkat(task, [HERE, from, HERE, to, 0, 0])
}

/// linkat(2).
pub fn linkat(task: &mut Task, [from_at, from, to_at, to, flags, _]: Arguments) -> Answer {
    let follow = match flags as i32 {
        0 => false,
        libc::AT_SYMLINK_FOLLOW => true,
        _ => return Err(Errno::INVAL),
    };
    let from = task.path(from_at, from)?;
    let found = task.world.root.look(&from, follow)?;
    let (directory, name) = entry(task, to_at, to)?;
    rustix::fs::linkat(rustix::fs::CWD, link(found.as_fd()), directory, name, AtFlags::SYMLINK_FOLLOW).map(|()| 0)
}

/// symlink(2).
pub fn symlink(task: &mut Task, [target, path, ..]: Arguments) -> Answer {
    symlinkat(task, [target, HERE, path, 0, 0, 0])
}

/// symlinkat(2).
pub fn symlinkat(task: &mut Task, [target, at, path, ..]: Arguments) -> Answer {
    let target = task.text(target)?;
    let (directory, name) = entry(task, at, path)?;
    rustix::fs::symlinkat(target, directory, name).map(|()| 0)
}

/// umask(2).
pub fn umask(task: &mut Task, [mask, ..]: Arguments) -> Answer {
    let mut place = lock(&task.place);
    Ok(std::mem::replace(&mut place.umask, mask as u32 & 0o777).into())
}
