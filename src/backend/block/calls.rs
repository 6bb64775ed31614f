//! System calls for disks that no safe wrapper has: vectored reads and writes straight to guest RAM, and locks of an open file.
//!
//! Sources: preadv2(2), fcntl(2) "Open file description locks (non-POSIX)".

use super::buffers::HostBuffers;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Reads from `offset` into `buffers`. Returns the bytes that were read, 0 at the end of the file.
///
/// # Errors
/// What the host says.
pub fn read_at(file: &File, buffers: &HostBuffers, offset: u64) -> io::Result<u32> {
    read(file, buffers, offset, 0)
}

/// The same, of what can be had without waiting for the medium: mostly what is in the page cache. Fewer bytes where that ends.
///
/// # Errors
/// Nothing can be had so (EAGAIN), this file cannot be asked (EOPNOTSUPP), or what the host says.
pub fn read_at_once(file: &File, buffers: &HostBuffers, offset: u64) -> io::Result<u32> {
    read(file, buffers, offset, libc::RWF_NOWAIT)
}

fn read(file: &File, buffers: &HostBuffers, offset: u64, flags: i32) -> io::Result<u32> {
    let (list, count) = buffers.iovecs();
    // SAFETY: `buffers` outlives the call; what they name stays mapped as long as they live and is guest RAM, which is written
    // at any time and referenced by nobody.
    let done = unsafe { libc::preadv2(file.as_raw_fd(), list, count as i32, offset as i64, flags) };
    result(done)
}

/// Writes `buffers` at `offset`; `durable`: and waits until they are on the medium. Returns the bytes that were written.
///
/// # Errors
/// What the host says.
pub fn write_at(file: &File, buffers: &HostBuffers, offset: u64, durable: bool) -> io::Result<u32> {
    let (list, count) = buffers.iovecs();
    let flags = if durable { libc::RWF_DSYNC } else { 0 };
    // SAFETY: as above; the kernel only reads them.
    let done = unsafe { libc::pwritev2(file.as_raw_fd(), list, count as i32, offset as i64, flags) };
    result(done)
}

fn result(done: isize) -> io::Result<u32> {
    u32::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// Locks the whole open file: `exclusive` against everybody, else against who writes. The lock ends with the last descriptor.
///
/// # Errors
/// Somebody else holds a lock (EAGAIN), or the file system has none.
pub fn lock(file: &File, exclusive: bool) -> io::Result<()> {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    let whole = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0, // to the end, wherever that moves
        l_pid: 0, // as fcntl(2) asks for
    };
    // SAFETY: F_OFD_SETLK reads one `struct flock`, which is on the stack during the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &whole) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
