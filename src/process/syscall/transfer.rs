//! Reading and writing open files: read(2), pread(2), readv(2), lseek(2), sendfile(2), copy_file_range(2) and their like.
//!
//! Data goes through a buffer of Hostel's, so that a program that changes its mappings meanwhile changes nothing else. A buffer that cannot
//! be accessed in full is used as far as it goes, as Linux does.

use super::call::{Answer, Arguments};
use crate::process::files::OpenFile;
use crate::process::space::Access;
use crate::process::tables::USER_END;
use crate::process::task::Task;
use rustix::fs::{FileType, SeekFrom, fstat};
use rustix::io::Errno;
use rustix::net::{SocketType, sockopt::socket_type};
use std::sync::Arc;

/// Most bytes that one call of the host carries.
pub const CHUNK: usize = 1 << 20;
/// Most bytes of a call (Linux MAX_RW_COUNT).
const COUNT_MAX: u64 = 0x7fff_f000;
/// Most pieces of a vector (Linux UIO_MAXIOV).
const VECTORS_MAX: u64 = 1024;

/// A piece of a program's memory.
pub type Piece = (u64, u64);

/// read(2).
pub fn read(task: &mut Task, [fd, address, count, ..]: Arguments) -> Answer {
    let file = readable(task, fd)?;
    fill(task, &file, &[(address, count)], |buffer, _| rustix::io::read(file.fd(), buffer))
}

/// pread64(2).
pub fn pread(task: &mut Task, [fd, address, count, offset, ..]: Arguments) -> Answer {
    let start = position(offset)?;
    seekable(task, fd)?;
    let file = readable(task, fd)?;
    fill(task, &file, &[(address, count)], |buffer, done| rustix::io::pread(file.fd(), buffer, start + done))
}

/// readv(2).
pub fn readv(task: &mut Task, [fd, vectors, count, ..]: Arguments) -> Answer {
    let file = readable(task, fd)?;
    let pieces = pieces(task, vectors, count)?;
    fill(task, &file, &pieces, |buffer, _| rustix::io::read(file.fd(), buffer))
}

/// preadv(2).
pub fn preadv(task: &mut Task, [fd, vectors, count, offset, ..]: Arguments) -> Answer {
    let start = position(offset)?;
    seekable(task, fd)?;
    let file = readable(task, fd)?;
    let pieces = pieces(task, vectors, count)?;
    fill(task, &file, &pieces, |buffer, done| rustix::io::pread(file.fd(), buffer, start + done))
}

/// write(2).
pub fn write(task: &mut Task, [fd, address, count, ..]: Arguments) -> Answer {
    let file = writable(task, fd)?;
    drain_to_file(task, &file, &[(address, count)], |buffer, _| rustix::io::write(file.fd(), buffer))
}

/// pwrite64(2).
pub fn pwrite(task: &mut Task, [fd, address, count, offset, ..]: Arguments) -> Answer {
    let start = position(offset)?;
    seekable(task, fd)?;
    let file = writable(task, fd)?;
    drain_to_file(task, &file, &[(address, count)], |buffer, done| rustix::io::pwrite(file.fd(), buffer, start + done))
}

/// writev(2).
pub fn writev(task: &mut Task, [fd, vectors, count, ..]: Arguments) -> Answer {
    let file = writable(task, fd)?;
    let pieces = pieces(task, vectors, count)?;
    drain_to_file(task, &file, &pieces, |buffer, _| rustix::io::write(file.fd(), buffer))
}

/// pwritev(2).
pub fn pwritev(task: &mut Task, [fd, vectors, count, offset, ..]: Arguments) -> Answer {
    let start = position(offset)?;
    seekable(task, fd)?;
    let file = writable(task, fd)?;
    let pieces = pieces(task, vectors, count)?;
    drain_to_file(task, &file, &pieces, |buffer, done| rustix::io::pwrite(file.fd(), buffer, start + done))
}

/// lseek(2).
pub fn lseek(task: &mut Task, [fd, offset, whence, ..]: Arguments) -> Answer {
    let file = task.file(fd)?;
    let signed = offset as i64;
    let to = match whence as i32 {
        libc::SEEK_SET => SeekFrom::Start(offset),
        libc::SEEK_CUR => SeekFrom::Current(signed),
        libc::SEEK_END => SeekFrom::End(signed),
        libc::SEEK_DATA => SeekFrom::Data(offset),
        libc::SEEK_HOLE => SeekFrom::Hole(offset),
        _ => return Err(Errno::INVAL),
    };
    rustix::fs::seek(file.fd(), to)
}

/// sendfile(2).
pub fn sendfile(task: &mut Task, [out, from, offset, count, ..]: Arguments) -> Answer {
    let (out, from) = (task.file(out)?, task.file(from)?);
    let count = count.min(COUNT_MAX) as usize;
    let mut at = if offset == 0 { None } else { Some(task.read_u64(offset).and_then(position)?) };
    let sent = rustix::fs::sendfile(out.fd(), from.fd(), at.as_mut(), count);
    let sent = sent.inspect_err(|error| signal_broken(task, &out, *error))?;
    if let Some(at) = at {
        task.write(offset, &at.to_le_bytes())?;
    }
    Ok(sent as u64)
}

/// copy_file_range(2).
pub fn copy_file_range(task: &mut Task, [from, from_offset, to, to_offset, count, flags]: Arguments) -> Answer {
    let (from, to) = (task.file(from)?, task.file(to)?);
    if flags != 0 {
        return Err(Errno::INVAL);
    }
    let load = |address: u64| if address == 0 { Ok(None) } else { task.read_u64(address).map(Some) };
    let (mut at_from, mut at_to) = (load(from_offset)?, load(to_offset)?);
    let count = count.min(COUNT_MAX) as usize;
    let copied = rustix::fs::copy_file_range(from.fd(), at_from.as_mut(), to.fd(), at_to.as_mut(), count)?;
    for (address, at) in [(from_offset, at_from), (to_offset, at_to)] {
        if let Some(at) = at {
            task.write(address, &at.to_le_bytes())?;
        }
    }
    Ok(copied as u64)
}

/// A file that can be read.
fn readable(task: &Task, fd: u64) -> Result<Arc<OpenFile>, Errno> {
    task.file(fd).and_then(|file| if file.readable { Ok(file) } else { Err(Errno::BADF) })
}

/// Whether a file has positions, which comes before what it was opened for.
fn seekable(task: &Task, fd: u64) -> Result<(), Errno> {
    match rustix::fs::tell(task.file(fd)?.fd()) {
        Err(Errno::SPIPE) => Err(Errno::SPIPE),
        _ => Ok(()),
    }
}

/// A file that can be written.
fn writable(task: &Task, fd: u64) -> Result<Arc<OpenFile>, Errno> {
    task.file(fd).and_then(|file| if file.writable { Ok(file) } else { Err(Errno::BADF) })
}

fn position(offset: u64) -> Result<u64, Errno> {
    // Room for what is transferred, so that no sum wraps.
    if offset as i64 >= 0 { Ok(offset) } else { Err(Errno::INVAL) }
}

/// The pieces that an array of `struct iovec` names.
///
/// # Errors
/// EFAULT; EINVAL: too many, or one is longer than any can be.
pub fn pieces(task: &Task, vectors: u64, count: u64) -> Result<Vec<Piece>, Errno> {
    if count > VECTORS_MAX {
        return Err(Errno::INVAL);
    }
    let bytes = task.read_vec(vectors, count as usize * 16)?;
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("a word has eight bytes"));
    let pieces: Vec<Piece> = bytes.chunks_exact(16).map(|piece| (word(&piece[..8]), word(&piece[8..]))).collect();
    if pieces.iter().any(|(_, size)| *size as i64 <= -1) { Err(Errno::INVAL) } else { Ok(pieces) }
}

/// Bytes of all pieces.
///
/// # Errors
/// EFAULT: one lies where no program can map anything, be it as long as it may (Linux `access_ok`).
pub fn wanted(pieces: &[Piece]) -> Result<u64, Errno> {
    let possible = |(address, size): &Piece| address.checked_add(*size).is_some_and(|end| end <= USER_END);
    if !pieces.iter().all(possible) {
        return Err(Errno::FAULT);
    }
    Ok(pieces.iter().map(|(_, size)| (*size).min(COUNT_MAX)).sum::<u64>().min(COUNT_MAX))
}

/// Fills pieces of a program's memory with what `read` gives, which is told how many bytes came before.
fn fill(
    task: &Task,
    file: &OpenFile,
    pieces: &[Piece],
    mut read: impl FnMut(&mut [u8], u64) -> Result<usize, Errno>,
) -> Answer {
    let wanted = wanted(pieces)?;
    let mut buffer = vec![0; (wanted as usize).min(CHUNK)];
    let mut done = 0;
    loop {
        let chunk = ((wanted - done) as usize).min(CHUNK);
        let room = room(task, pieces, done, chunk);
        if room == 0 && chunk > 0 {
            return if done > 0 { Ok(done) } else { Err(Errno::FAULT) };
        }
        let count = match read(&mut buffer[..room], done) {
            Ok(count) => count,
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        };
        scatter(task, pieces, done, &buffer[..count])?;
        done += count as u64;
        // Only a file's end is never waited for.
        let whole = count == room && room == chunk && done < wanted && count > 0;
        if !whole || FileType::from_raw_mode(fstat(file.fd())?.st_mode) != FileType::RegularFile {
            return Ok(done);
        }
    }
}

/// As [`drain`], with the signal of who writes to nobody.
fn drain_to_file(
    task: &mut Task,
    file: &OpenFile,
    pieces: &[Piece],
    write: impl FnMut(&[u8], u64) -> Result<usize, Errno>,
) -> Answer {
    drain(task, file, pieces, write).inspect_err(|error| signal_broken(task, file, *error))
}

/// Sends SIGPIPE where a write failed for want of a reader.
pub fn signal_broken(task: &mut Task, file: &OpenFile, error: Errno) {
    // Sockets that keep messages apart have no such signal.
    let is_stream = |kind| kind == SocketType::STREAM;
    if error == Errno::PIPE && socket_type(file.fd()).map_or(true, is_stream) {
        task.raise(libc::SIGPIPE);
    }
}

/// Hands pieces of a program's memory to `write`, which is told how many bytes went before.
///
/// # Errors
/// What `write` gives, unless bytes went before; EFAULT.
pub fn drain(
    task: &Task,
    file: &OpenFile,
    pieces: &[Piece],
    mut write: impl FnMut(&[u8], u64) -> Result<usize, Errno>,
) -> Answer {
    let wanted = wanted(pieces)?;
    let mut buffer = vec![0; (wanted as usize).min(CHUNK)];
    let mut done = 0;
    loop {
        let chunk = ((wanted - done) as usize).min(CHUNK);
        let room = gather(task, pieces, done, &mut buffer[..chunk]);
        if room == 0 && chunk > 0 {
            return if done > 0 { Ok(done) } else { Err(Errno::FAULT) };
        }
        let count = match write(&buffer[..room], done) {
            Ok(count) => count,
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        };
        done += count as u64;
        // A pipe and a stream take all, unless a signal comes; whoever took Hostel out of the write may have come late, for one that is dealt with.
        let goes_on = || is_stream(file) && !task.is_interrupted();
        if done == wanted || (count < chunk && !goes_on()) {
            return Ok(done);
        }
    }
}

fn is_stream(file: &OpenFile) -> bool {
    let kind = fstat(file.fd()).map(|stat| FileType::from_raw_mode(stat.st_mode));
    matches!(kind, Ok(FileType::Fifo | FileType::Socket))
}

/// The parts of `pieces` that `size` bytes from byte `skip` on lie in.
fn parts(pieces: &[Piece], skip: u64, size: usize) -> Vec<(u64, usize)> {
    let (mut skip, mut left) = (skip, size as u64);
    let mut parts = Vec::new();
    for (address, length) in pieces {
        let skipped = skip.min(*length);
        skip -= skipped;
        let count = (length - skipped).min(left);
        left -= count;
        if count > 0 {
            parts.push((address.wrapping_add(skipped), count as usize));
        }
    }
    parts
}

/// How many bytes from byte `skip` on can be written, up to `size`.
pub fn room(task: &Task, pieces: &[Piece], skip: u64, size: usize) -> usize {
    let mut memory = task.memory();
    let mut room = 0;
    for (address, count) in parts(pieces, skip, size) {
        let there = memory.reachable(address, count, Access::Write);
        room += there;
        if there < count {
            break;
        }
    }
    room
}

/// Writes bytes into pieces, from byte `skip` on.
///
/// # Errors
/// EFAULT.
pub fn scatter(task: &Task, pieces: &[Piece], skip: u64, bytes: &[u8]) -> Result<(), Errno> {
    let mut bytes = bytes;
    for (address, count) in parts(pieces, skip, bytes.len()) {
        let (now, later) = bytes.split_at(count);
        task.write(address, now)?;
        bytes = later;
    }
    Ok(())
}

/// Copies what can be read from byte `skip` on into `buffer`; returns how much that is.
pub fn gather(task: &Task, pieces: &[Piece], skip: u64, buffer: &mut [u8]) -> usize {
    let mut memory = task.memory();
    let mut done = 0;
    for (address, count) in parts(pieces, skip, buffer.len()) {
        let there = memory.reachable(address, count, Access::Read);
        if memory.read(address, &mut buffer[done..done + there]).is_err() {
            break;
        }
        done += there;
        if there < count {
            break;
        }
    }
    done
}
