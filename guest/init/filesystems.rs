//! System calls about file systems, without a C library.
//!
//! Sources: Linux syscall_64.tbl for the numbers, the manual page of each call.

use crate::syscalls::{self, Errno, Path, call};

/// Flags of mount(2).
pub const READ_ONLY: usize = 1;
const NO_SETUID: usize = 2;
const NO_DEVICES: usize = 4;
const NO_PROGRAMS: usize = 8;
/// A file at a second place.
pub const BIND: usize = 0x1000;
const MOVE: usize = 0x2000;
/// For file systems that only the kernel fills.
pub const PLAIN: usize = NO_SETUID | NO_DEVICES | NO_PROGRAMS;

/// `mount(2)` of a file system of this kind.
pub fn mount(source: &str, target: &str, kind: &str, flags: usize, options: &str) -> Result<(), Errno> {
    let (source, target) = (Path::new(source)?, Path::new(target)?);
    let (kind, options) = (Path::new(kind)?, Path::new(options)?);
    // SAFETY: all strings end with a zero byte.
    unsafe { call(165, [source.pointer(), target.pointer(), kind.pointer(), flags, options.pointer()]) }?;
    Ok(())
}

/// `mkdir(2)`; a directory that is there already will do.
pub fn make_directory(path: &str) -> Result<(), Errno> {
    const EXISTS: Errno = Errno(17);
    let path = Path::new(path)?;
    // SAFETY: the path ends with a zero byte.
    match unsafe { call(83, [path.pointer(), 0o755, 0, 0, 0]) } {
        Err(error) if error != EXISTS => Err(error),
        _ => Ok(()),
    }
}

/// `symlink(2)`.
pub fn link(target: &str, path: &str) -> Result<(), Errno> {
    let (target, path) = (Path::new(target)?, Path::new(path)?);
    // SAFETY: both end with a zero byte.
    unsafe { call(88, [target.pointer(), path.pointer(), 0, 0, 0]) }?;
    Ok(())
}

/// Makes a file of `bytes`, or has the one that is there hold nothing else.
pub fn write_file(path: &str, bytes: &[u8]) -> Result<(), Errno> {
    const WRITE_CREATE_EMPTY: usize = 0o1 | 0o100 | 0o1000;
    let path = Path::new(path)?;
    // SAFETY: the path ends with a zero byte.
    let file = unsafe { call(2, [path.pointer(), WRITE_CREATE_EMPTY, 0o644, 0, 0]) }?;
    let written = syscalls::write_all(file, bytes);
    syscalls::close(file);
    written
}

/// `unlink(2)`.
pub fn remove(path: &str) {
    let Ok(path) = Path::new(path) else { return };
    // SAFETY: the path ends with a zero byte.
    let _ = unsafe { call(87, [path.pointer(), 0, 0, 0, 0]) };
}

/// `chdir(2)`.
pub fn change_directory(path: &str) -> Result<(), Errno> {
    let path = Path::new(path)?;
    // SAFETY: the path ends with a zero byte.
    unsafe { call(80, [path.pointer(), 0, 0, 0, 0]) }?;
    Ok(())
}

/// Makes what is mounted at `path` the root (switch_root(8)).
pub fn switch_root(path: &str) -> Result<(), Errno> {
    change_directory(path)?;
    let (here, root) = (Path::new(".")?, Path::new("/")?);
    // SAFETY: the paths end with a zero byte; a move needs neither kind nor options.
    unsafe { call(165, [here.pointer(), root.pointer(), 0, MOVE, 0]) }?;
    // SAFETY: the path ends with a zero byte.
    unsafe { call(161, [here.pointer(), 0, 0, 0, 0]) }?;
    change_directory("/")
}

/// `sync(2)`.
pub fn synchronize() {
    // SAFETY: takes no pointer.
    let _ = unsafe { call(162, [0; 5]) };
}
