//! Memory: mmap(2), munmap(2), mprotect(2), mremap(2), brk(2), madvise(2).
//!
//! Leaves out files that are mapped shared and writable.

use super::call::{Answer, Arguments};
use crate::arch::layout::PAGE_SIZE;
use crate::process::mappings::Backing;
use crate::process::space::{Place, USER_START};
use crate::process::tables::{Rights, USER_END};
use crate::process::task::Task;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

/// MAP_ flags of `include/uapi/linux/mman.h` that change what is mapped.
const SHARED: u64 = libc::MAP_SHARED as u64;
const PRIVATE: u64 = libc::MAP_PRIVATE as u64;
const SHARED_VALIDATE: u64 = libc::MAP_SHARED_VALIDATE as u64;
const KIND: u64 = 0xf;
const FIXED: u64 = libc::MAP_FIXED as u64;
const FIXED_NOREPLACE: u64 = libc::MAP_FIXED_NOREPLACE as u64;
const ANONYMOUS: u64 = libc::MAP_ANONYMOUS as u64;

/// The rights that PROT_ flags mean. PROT_SEM means nothing.
fn rights(prot: u64) -> Rights {
    let bit = |flag: i32| prot & flag as u64 != 0;
    Rights { read: bit(libc::PROT_READ), write: bit(libc::PROT_WRITE), execute: bit(libc::PROT_EXEC) }
}

/// A length in whole pages.
///
/// # Errors
/// ENOMEM: more than there are addresses.
fn pages(size: u64) -> Result<u64, Errno> {
    size.checked_next_multiple_of(PAGE_SIZE).filter(|size| *size <= USER_END).ok_or(Errno::NOMEM)
}

/// The end of a range of whole pages.
fn end(start: u64, size: u64) -> Result<u64, Errno> {
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::INVAL);
    }
    let size = size.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::INVAL)?;
    start.checked_add(size).filter(|end| *end <= USER_END).ok_or(Errno::INVAL)
}

/// mmap(2).
pub fn mmap(task: &mut Task, [address, size, prot, flags, fd, offset]: Arguments) -> Answer {
    if !offset.is_multiple_of(PAGE_SIZE) || size == 0 {
        return Err(Errno::INVAL);
    }
    let rights = rights(prot);
    let backing = if flags & ANONYMOUS != 0 { None } else { Some(task.file(fd)?) };
    let (kind, size) = (flags & KIND, pages(size)?);
    if !matches!(kind, SHARED | PRIVATE | SHARED_VALIDATE) || (kind == SHARED_VALIDATE && backing.is_none()) {
        return Err(Errno::INVAL);
    }
    let backing = match backing {
        None if kind == PRIVATE => Backing::Anonymous,
        None => task.memory().shared(),
        Some(file) => {
            let flags = rustix::fs::fcntl_getfl(file.fd())?;
            if flags.contains(OFlags::PATH) {
                return Err(Errno::BADF);
            }
            if flags.contains(OFlags::WRONLY) {
                return Err(Errno::ACCESS);
            }
            let regular = FileType::from_raw_mode(rustix::fs::fstat(file.fd())?.st_mode).is_file();
            // What is written to it would not reach the file.
            if !regular || (kind != PRIVATE && flags.contains(OFlags::RDWR)) {
                return Err(Errno::NODEV);
            }
            if kind != PRIVATE && rights.write {
                return Err(Errno::ACCESS);
            }
            offset.checked_add(size).filter(|end| *end as i64 >= 0).ok_or(Errno::OVERFLOW)?;
            Backing::File(file, offset)
        }
    };
    let place = if flags & FIXED_NOREPLACE != 0 {
        Place::FixedFree(address)
    } else if flags & FIXED != 0 {
        Place::Fixed(address)
    } else {
        // An address is a hint, rounded down (Linux `round_hint_to_min`).
        Place::Anywhere(if address == 0 { 0 } else { (address / PAGE_SIZE * PAGE_SIZE).max(USER_START) })
    };
    task.memory().map(place, size, rights, backing)
}

/// munmap(2).
pub fn munmap(task: &mut Task, [start, size, ..]: Arguments) -> Answer {
    let end = end(start, size)?;
    if size == 0 {
        return Err(Errno::INVAL);
    }
    task.memory().unmap(start, end).map(|()| 0)
}

/// mprotect(2).
pub fn mprotect(task: &mut Task, [start, size, prot, ..]: Arguments) -> Answer {
    /// PROT_READ, PROT_WRITE, PROT_EXEC, PROT_SEM.
    const KNOWN: u64 = 0xf;
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::INVAL);
    }
    if size == 0 {
        return Ok(0);
    }
    let size = size.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::NOMEM)?;
    let end = start.checked_add(size).ok_or(Errno::NOMEM)?;
    if prot & !KNOWN != 0 {
        return Err(Errno::INVAL);
    }
    task.memory().protect(start, end, rights(prot))?;
    Ok(0)
}

/// mremap(2); without MREMAP_DONTUNMAP.
pub fn mremap(task: &mut Task, [start, old_size, new_size, flags, to, _]: Arguments) -> Answer {
    const MAY_MOVE: u64 = libc::MREMAP_MAYMOVE as u64;
    const FIXED: u64 = libc::MREMAP_FIXED as u64;
    if flags & !(MAY_MOVE | FIXED) != 0 || (flags & FIXED != 0 && flags & MAY_MOVE == 0) {
        return Err(Errno::INVAL);
    }
    if !start.is_multiple_of(PAGE_SIZE) || new_size == 0 || old_size == 0 {
        return Err(Errno::INVAL);
    }
    let (old_size, new_size) = (pages(old_size)?, pages(new_size)?);
    let old_end = start.checked_add(old_size).filter(|end| *end <= USER_END).ok_or(Errno::FAULT)?;
    let to = (flags & FIXED != 0).then_some(to);
    if let Some(to) = to {
        let apart = to.checked_add(new_size).is_some_and(|end| end <= start) || to >= old_end;
        if !to.is_multiple_of(PAGE_SIZE) || !apart {
            return Err(Errno::INVAL);
        }
    }
    task.memory().remap(start..old_end, new_size, flags & MAY_MOVE != 0, to)
}

/// brk(2).
pub fn brk(task: &mut Task, [end, ..]: Arguments) -> Answer {
    Ok(task.memory().set_break(end))
}

/// madvise(2): MADV_DONTNEED is done, other advice is taken note of by nobody.
pub fn madvise(task: &mut Task, [start, size, advice, ..]: Arguments) -> Answer {
    let advice = advice as i32;
    let known = matches!(advice, 0..=4 | 8..=21);
    if !start.is_multiple_of(PAGE_SIZE) || !known {
        return Err(Errno::INVAL);
    }
    let size = size.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::INVAL)?;
    let end = start.checked_add(size).ok_or(Errno::INVAL)?;
    let mut memory = task.memory();
    if !memory.is_mapped(start, end) {
        return Err(Errno::NOMEM);
    }
    if advice == libc::MADV_DONTNEED {
        memory.forget(start, end);
    }
    Ok(0)
}

/// msync(2): there is nothing to be written back.
pub fn msync(task: &mut Task, [start, size, ..]: Arguments) -> Answer {
    let end = end(start, size)?;
    if task.memory().is_mapped(start, end) { Ok(0) } else { Err(Errno::NOMEM) }
}
