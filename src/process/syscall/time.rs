//! Clocks and sleep: the host's own.
//!
//! Sources: clock_gettime(2), nanosleep(2), times(2), getrusage(2).

use super::call::{Answer, Arguments};
use crate::process::task::Task;
use rustix::io::Errno;
use rustix::time::{ClockId, DynamicClockId, Timespec};
use std::time::Duration;

/// `struct timespec` from a program's memory.
pub fn time_spec(bytes: [u8; 16]) -> Timespec {
    let word = |at: usize| i64::from_le_bytes(bytes[at..at + 8].try_into().expect("a word has eight bytes"));
    Timespec { tv_sec: word(0), tv_nsec: word(8) }
}

/// As [`time_spec`], of a length of time.
///
/// # Errors
/// EFAULT; EINVAL: it is none.
pub fn duration(task: &Task, address: u64) -> Result<Timespec, Errno> {
    valid(time_spec(task.read(address)?))
}

/// A length of time.
///
/// # Errors
/// EINVAL: it is none.
pub fn valid(time: Timespec) -> Result<Timespec, Errno> {
    let is_valid = time.tv_sec >= 0 && (0..1_000_000_000).contains(&time.tv_nsec);
    if is_valid { Ok(time) } else { Err(Errno::INVAL) }
}

/// A length of time that is none below zero.
pub fn length(time: Timespec) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How long a call waits at most: as long as the program's memory says at an address, or, where that is 0, for ever.
///
/// # Errors
/// EFAULT; EINVAL: it is none.
pub fn limit(task: &Task, address: u64) -> Result<Option<Duration>, Errno> {
    if address == 0 { Ok(None) } else { duration(task, address).map(|time| Some(length(time))) }
}

/// As [`limit`], of a number of milliseconds; less than none is for ever.
pub fn milliseconds(timeout: u64) -> Option<Duration> {
    u64::try_from(timeout as i32).ok().map(Duration::from_millis)
}

/// The bytes of two words: a `struct timespec` or `struct timeval`.
pub fn pair(seconds: i64, fraction: i64) -> Vec<u8> {
    [seconds.to_le_bytes(), fraction.to_le_bytes()].concat()
}

/// The host's clock of a number: those that are the same for all processes, and the processor time of this one, which is that of all
/// programs together.
fn clock(number: u64) -> Result<ClockId, Errno> {
    Ok(match number as i32 {
        libc::CLOCK_REALTIME => ClockId::Realtime,
        libc::CLOCK_MONOTONIC => ClockId::Monotonic,
        libc::CLOCK_PROCESS_CPUTIME_ID => ClockId::ProcessCPUTime,
        libc::CLOCK_THREAD_CPUTIME_ID => ClockId::ThreadCPUTime,
        libc::CLOCK_MONOTONIC_RAW => ClockId::MonotonicRaw,
        libc::CLOCK_REALTIME_COARSE => ClockId::RealtimeCoarse,
        libc::CLOCK_MONOTONIC_COARSE => ClockId::MonotonicCoarse,
        libc::CLOCK_BOOTTIME => ClockId::Boottime,
        _ => return Err(Errno::INVAL),
    })
}

fn now(id: ClockId) -> Result<Timespec, Errno> {
    rustix::time::clock_gettime_dynamic(DynamicClockId::Known(id))
}

/// clock_gettime(2).
pub fn clock_gettime(task: &mut Task, [id, buffer, ..]: Arguments) -> Answer {
    let time = now(clock(id)?)?;
    task.write(buffer, &pair(time.tv_sec, time.tv_nsec))?;
    Ok(0)
}

/// clock_getres(2).
pub fn clock_getres(task: &mut Task, [id, buffer, ..]: Arguments) -> Answer {
    let resolution = rustix::time::clock_getres(clock(id)?);
    if buffer != 0 {
        task.write(buffer, &pair(resolution.tv_sec, resolution.tv_nsec))?;
    }
    Ok(0)
}

/// gettimeofday(2).
pub fn gettimeofday(task: &mut Task, [buffer, zone, ..]: Arguments) -> Answer {
    let time = now(ClockId::Realtime)?;
    if buffer != 0 {
        task.write(buffer, &pair(time.tv_sec, time.tv_nsec / 1000))?;
    }
    if zone != 0 {
        task.write(zone, &[0; 8])?;
    }
    Ok(0)
}

/// time(2).
pub fn time(task: &mut Task, [buffer, ..]: Arguments) -> Answer {
    let seconds = now(ClockId::Realtime)?.tv_sec;
    if buffer != 0 {
        task.write(buffer, &seconds.to_le_bytes())?;
    }
    Ok(seconds as u64)
}

/// nanosleep(2).
pub fn nanosleep(task: &mut Task, [request, remain, ..]: Arguments) -> Answer {
    clock_nanosleep(task, [libc::CLOCK_MONOTONIC as u64, 0, request, remain, 0, 0])
}

/// clock_nanosleep(2).
pub fn clock_nanosleep(task: &mut Task, [id, flags, request, remain, ..]: Arguments) -> Answer {
    let id = match clock(id)? {
        ClockId::ThreadCPUTime | ClockId::ProcessCPUTime => return Err(Errno::INVAL),
        id => id,
    };
    let request = duration(task, request)?;
    if flags as i32 & libc::TIMER_ABSTIME != 0 {
        rustix::thread::clock_nanosleep_absolute(id, &request)?;
        return Ok(0);
    }
    let mut left = request;
    loop {
        match rustix::thread::clock_nanosleep_relative(id, &left) {
            rustix::thread::NanosleepRelativeResult::Ok => return Ok(0),
            rustix::thread::NanosleepRelativeResult::Interrupted(rest) => left = rest,
            rustix::thread::NanosleepRelativeResult::Err(error) => return Err(error),
        }
        // Whoever took it out may have come late, for a signal that is dealt with.
        if task.is_interrupted() {
            if remain != 0 {
                task.write(remain, &pair(left.tv_sec, left.tv_nsec))?;
            }
            return Err(Errno::INTR);
        }
    }
}

/// times(2): the processor time of all programs together.
pub fn times(task: &mut Task, [buffer, ..]: Arguments) -> Answer {
    /// Clock ticks of a second (AT_CLKTCK).
    const TICKS: i64 = 100;
    let ticks = |time: Timespec| time.tv_sec * TICKS + time.tv_nsec * TICKS / 1_000_000_000;
    if buffer != 0 {
        let used = ticks(now(ClockId::ProcessCPUTime)?);
        task.write(buffer, &[pair(used, 0), pair(0, 0)].concat())?;
    }
    Ok(ticks(now(ClockId::Boottime)?) as u64)
}

/// getrusage(2): the processor time of all programs together, and no other figure.
pub fn getrusage(task: &mut Task, [who, buffer, ..]: Arguments) -> Answer {
    if !matches!(who as i32, libc::RUSAGE_SELF | libc::RUSAGE_CHILDREN | libc::RUSAGE_THREAD) {
        return Err(Errno::INVAL);
    }
    let mut bytes = vec![0; 144];
    if who as i32 != libc::RUSAGE_CHILDREN {
        let used = now(ClockId::ProcessCPUTime)?;
        bytes[..16].copy_from_slice(&pair(used.tv_sec, used.tv_nsec / 1000));
    }
    task.write(buffer, &bytes)?;
    Ok(0)
}
