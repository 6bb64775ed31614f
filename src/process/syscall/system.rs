//! The system as a whole: its name, its memory, random bytes.
//!
//! Sources: uname(2), sysinfo(2), getrandom(2), sched_getaffinity(2).

use super::call::{Answer, Arguments};
use crate::arch::layout::PAGE_SIZE;
use crate::process::space::Access;
use crate::process::task::Task;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// uname(2).
pub fn uname(task: &mut Task, [buffer, ..]: Arguments) -> Answer {
    const FIELD: usize = 65;
    let name = rustix::system::uname();
    let fields = [name.sysname(), name.nodename(), name.release(), name.version(), name.machine(), name.domainname()];
    let mut bytes = Vec::with_capacity(6 * FIELD);
    for field in fields {
        let start = bytes.len();
        bytes.extend(field.to_bytes().iter().take(FIELD - 1));
        bytes.resize(start + FIELD, 0);
    }
    task.write(buffer, &bytes)?;
    Ok(0)
}

/// sysinfo(2): the machine's memory.
pub fn sysinfo(task: &mut Task, [buffer, ..]: Arguments) -> Answer {
    let (used, total) = task.world.frames.count();
    let mut words = [0u64; 14];
    words[0] = task.world.start.elapsed().as_secs();
    words[4] = total * PAGE_SIZE;
    words[5] = (total - used) * PAGE_SIZE;
    words[10] = 1; // processes, in the low 16 bits
    words[13] = 1; // unit of the figures, in bytes
    task.write(buffer, words.map(u64::to_le_bytes).as_flattened())?;
    Ok(0)
}

/// getrandom(2).
pub fn random(task: &mut Task, [buffer, size, flags, ..]: Arguments) -> Answer {
    /// Bytes that are had at once.
    const CHUNK: usize = 4096;
    /// GRND_NONBLOCK, GRND_RANDOM, GRND_INSECURE, of which the last two exclude each other.
    const KNOWN: u32 = 7;
    let flags = flags as u32;
    if flags & !KNOWN != 0 || flags & 6 == 6 {
        return Err(Errno::INVAL);
    }
    let flags = GetRandomFlags::from_bits_retain(flags);
    let size = size.min(i32::MAX as u64) as usize;
    let mut done = 0;
    while done < size {
        let at = buffer.wrapping_add(done as u64);
        let chunk = task.memory().reachable(at, (size - done).min(CHUNK), Access::Write);
        if chunk == 0 {
            return if done > 0 { Ok(done as u64) } else { Err(Errno::FAULT) };
        }
        let mut bytes = [0; CHUNK];
        let count = getrandom(&mut bytes[..chunk], flags)?;
        task.write(at, &bytes[..count])?;
        done += count;
    }
    Ok(done as u64)
}

/// sched_getaffinity(2): the processors that Hostel may use.
pub fn sched_getaffinity(task: &mut Task, [_, size, buffer, ..]: Arguments) -> Answer {
    let processors = std::thread::available_parallelism().map_or(1, usize::from).min(64);
    if size < 8 || !size.is_multiple_of(8) {
        return Err(Errno::INVAL);
    }
    let mask = u64::MAX >> (64 - processors);
    task.write(buffer, &mask.to_le_bytes())?;
    Ok(8)
}

/// sched_yield(2).
pub fn sched_yield(_task: &mut Task, _: Arguments) -> Answer {
    std::thread::yield_now();
    Ok(0)
}

/// getcpu(2): all processors are alike.
pub fn getcpu(task: &mut Task, [cpu, node, ..]: Arguments) -> Answer {
    for address in [cpu, node].into_iter().filter(|address| *address != 0) {
        task.write(address, &[0; 4])?;
    }
    Ok(0)
}
