//! Files that stand for an event: eventfd(2) and timerfd_create(2). They are the host's own, and are read, written and waited for like others.
//!
//! Leaves out clocks that wake a sleeping host (CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM).
//! Sources: eventfd(2), timerfd_create(2).

use super::call::{Answer, Arguments};
use super::time::{pair, time_spec};
use crate::process::files::OpenFile;
use crate::process::task::Task;
use rustix::event::EventfdFlags;
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

/// eventfd(2), the call without flags.
pub fn eventfd(task: &mut Task, [count, ..]: Arguments) -> Answer {
    eventfd2(task, [count, 0, 0, 0, 0, 0])
}

/// eventfd(2).
pub fn eventfd2(task: &mut Task, [count, flags, ..]: Arguments) -> Answer {
    const KNOWN: EventfdFlags = EventfdFlags::CLOEXEC.union(EventfdFlags::NONBLOCK).union(EventfdFlags::SEMAPHORE);
    let flags = EventfdFlags::from_bits_retain(flags as u32);
    if !KNOWN.contains(flags) {
        return Err(Errno::INVAL);
    }
    let fd = rustix::event::eventfd(count as u32, flags | EventfdFlags::CLOEXEC)?;
    task.add_file(OpenFile::new(fd, false), flags.contains(EventfdFlags::CLOEXEC))
}

/// timerfd_create(2).
pub fn timerfd_create(task: &mut Task, [clock, flags, ..]: Arguments) -> Answer {
    const KNOWN: TimerfdFlags = TimerfdFlags::CLOEXEC.union(TimerfdFlags::NONBLOCK);
    let flags = TimerfdFlags::from_bits_retain(flags as u32);
    if !KNOWN.contains(flags) {
        return Err(Errno::INVAL);
    }
    let clock = match clock as i32 {
        libc::CLOCK_REALTIME => TimerfdClockId::Realtime,
        libc::CLOCK_MONOTONIC => TimerfdClockId::Monotonic,
        libc::CLOCK_BOOTTIME => TimerfdClockId::Boottime,
        libc::CLOCK_REALTIME_ALARM | libc::CLOCK_BOOTTIME_ALARM => return Err(Errno::PERM),
        _ => return Err(Errno::INVAL),
    };
    let fd = rustix::time::timerfd_create(clock, flags | TimerfdFlags::CLOEXEC)?;
    task.add_file(OpenFile::new(fd, false), flags.contains(TimerfdFlags::CLOEXEC))
}

/// timerfd_settime(2).
pub fn timerfd_settime(task: &mut Task, [fd, flags, new, old, ..]: Arguments) -> Answer {
    let bytes = task.read::<32>(new)?;
    let (interval, value) = bytes.split_first_chunk::<16>().expect("it has 32 bytes");
    let value = value.try_into().expect("16 of them are left");
    let wanted = Itimerspec { it_interval: time_spec(*interval), it_value: time_spec(value) };
    let flags = TimerfdTimerFlags::from_bits_retain(flags as u32);
    let before = rustix::time::timerfd_settime(task.file(fd)?.fd(), flags, &wanted)?;
    if old != 0 {
        task.write(old, &setting(&before))?;
    }
    Ok(0)
}

/// timerfd_gettime(2).
pub fn timerfd_gettime(task: &mut Task, [fd, buffer, ..]: Arguments) -> Answer {
    let setting = setting(&rustix::time::timerfd_gettime(task.file(fd)?.fd())?);
    task.write(buffer, &setting)?;
    Ok(0)
}

/// `struct itimerspec`.
fn setting(setting: &Itimerspec) -> Vec<u8> {
    let Itimerspec { it_interval, it_value } = setting;
    [pair(it_interval.tv_sec, it_interval.tv_nsec), pair(it_value.tv_sec, it_value.tv_nsec)].concat()
}
