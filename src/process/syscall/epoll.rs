//! Waiting for many files at once: epoll_create(2), epoll_ctl(2), epoll_wait(2).
//!
//! The host's epoll files do the work: level, edge and one-shot, nested ones and their bounds are its own. What is told is the number
//! that a program has given, so nothing is translated back.
//! Sources: epoll_ctl(2), epoll_wait(2); Linux `include/uapi/linux/eventpoll.h` (layout of `struct epoll_event`).

use super::call::{Answer, Arguments};
use super::ready::wait_on_host;
use super::signals::masked;
use super::time::{limit, milliseconds};
use crate::process::files::OpenFile;
use crate::process::space::Access;
use crate::process::task::Task;
use crate::process::watches;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use std::time::Duration;

/// Bytes of `struct epoll_event`, which is packed on x86-64.
const EVENT_SIZE: usize = 12;
/// Most events that one call gives.
const EVENTS_MAX: usize = 1024;
/// Most that may be asked for (Linux EP_MAX_EVENTS).
const WANTED_MAX: i32 = i32::MAX / EVENT_SIZE as i32;
/// EPOLLWAKEUP keeps the host awake, which is not a program's to decide; who may not is not refused, but not heard (epoll_ctl(2)).
const WAKEUP: u32 = 1 << 29;

/// epoll_create(2).
pub fn epoll_create(task: &mut Task, [size, ..]: Arguments) -> Answer {
    if size as i32 <= 0 { Err(Errno::INVAL) } else { epoll_create1(task, [0; 6]) }
}

/// epoll_create1(2).
pub fn epoll_create1(task: &mut Task, [flags, ..]: Arguments) -> Answer {
    let flags = flags as u32;
    if flags & !CreateFlags::CLOEXEC.bits() != 0 {
        return Err(Errno::INVAL);
    }
    let fd = epoll::create(CreateFlags::CLOEXEC)?;
    task.add_file(OpenFile::new(fd, false), flags != 0)
}

/// epoll_ctl(2).
pub fn epoll_ctl(task: &mut Task, [fd, operation, number, event, ..]: Arguments) -> Answer {
    let operation = operation as i32;
    let wanted = match operation {
        libc::EPOLL_CTL_DEL => (EventFlags::empty(), EventData::new_u64(0)),
        _ => {
            let bytes = task.read::<EVENT_SIZE>(event)?;
            let (flags, data) = bytes.split_first_chunk().expect("it has twelve bytes");
            let data = u64::from_le_bytes(data.try_into().expect("eight of them are left"));
            (EventFlags::from_bits_retain(u32::from_le_bytes(*flags) & !WAKEUP), EventData::new_u64(data))
        }
    };
    let (epoll, file) = (task.file(fd)?, task.file(number)?);
    match operation {
        libc::EPOLL_CTL_ADD => watches::add(&epoll, number as i32, &file, wanted)?,
        libc::EPOLL_CTL_MOD => watches::modify(&epoll, number as i32, &file, wanted)?,
        libc::EPOLL_CTL_DEL => watches::delete(&epoll, number as i32, &file)?,
        _ => return Err(Errno::INVAL),
    }
    Ok(0)
}

/// epoll_wait(2).
pub fn epoll_wait(task: &mut Task, [fd, events, count, timeout_ms, ..]: Arguments) -> Answer {
    wait(task, fd, events, count, milliseconds(timeout_ms))
}

/// epoll_pwait(2).
pub fn epoll_pwait(task: &mut Task, [fd, events, count, timeout_ms, mask, size]: Arguments) -> Answer {
    masked(task, mask, size, |task| wait(task, fd, events, count, milliseconds(timeout_ms)))
}

/// epoll_pwait2(2).
pub fn epoll_pwait2(task: &mut Task, [fd, events, count, timeout, mask, size]: Arguments) -> Answer {
    let timeout = limit(task, timeout)?;
    masked(task, mask, size, |task| wait(task, fd, events, count, timeout))
}

fn wait(task: &Task, fd: u64, address: u64, count: u64, timeout: Option<Duration>) -> Answer {
    /// The host counts milliseconds in 32 bits; nobody waits longer.
    const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);
    let count = count as i32;
    if !(1..=WANTED_MAX).contains(&count) {
        return Err(Errno::INVAL);
    }
    let file = task.file(fd)?;
    // Those that cannot be told stay with the host.
    let room = task.memory().reachable(address, (count as usize).min(EVENTS_MAX) * EVENT_SIZE, Access::Write);
    let mut events = Vec::<Event>::with_capacity((room / EVENT_SIZE).max(1));
    let timeout = timeout.map(|timeout| timeout.min(LONGEST));
    wait_on_host(task, timeout, |left| epoll::wait(file.fd(), spare_capacity(&mut events), left))?;
    let mut bytes = Vec::with_capacity(events.len() * EVENT_SIZE);
    for event in &events {
        let (flags, data) = (event.flags, event.data);
        bytes.extend(flags.bits().to_le_bytes());
        bytes.extend(data.u64().to_le_bytes());
    }
    if !bytes.is_empty() {
        task.write(address, &bytes)?;
    }
    Ok(events.len() as u64)
}
