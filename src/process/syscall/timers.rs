//! Timers that a program makes: timer_create(2) and its like.
//!
//! Sources: timer_create(2), timer_settime(2), sigevent(7).

use super::call::{Answer, Arguments};
use super::time::{length, pair, time_spec, valid};
use crate::bus::bus::lock;
use crate::process::signal::state::SIGNALS;
use crate::process::signal::timers::{Notice, Setting};
use crate::process::task::Task;
use rustix::io::Errno;
use rustix::time::ClockId;
use std::time::{Duration, Instant};

/// timer_create(2), for clocks that are the same for all processes.
pub fn timer_create(task: &mut Task, [clock, event, id, ..]: Arguments) -> Answer {
    let clock = match clock as i32 {
        libc::CLOCK_REALTIME => ClockId::Realtime,
        libc::CLOCK_MONOTONIC => ClockId::Monotonic,
        libc::CLOCK_BOOTTIME => ClockId::Boottime,
        _ => return Err(Errno::INVAL),
    };
    let notice = match event {
        0 => Notice { signal: Some(libc::SIGALRM), thread: None, value: None },
        address => notice(task, task.read(address)?)?,
    };
    let made = lock(&task.process.timers).create(clock, notice)?;
    if let Err(error) = task.write(id, &made.to_le_bytes()) {
        lock(&task.process.timers).delete(made)?;
        return Err(error);
    }
    Ok(0)
}

/// A `struct sigevent`: value, signal, kind, thread.
fn notice(task: &Task, bytes: [u8; 20]) -> Result<Notice, Errno> {
    let word = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().expect("a word has four bytes"));
    let (signal, kind, thread) = (word(8), word(12), word(16));
    let is_signal = (1..=SIGNALS as i32).contains(&signal);
    let is_own = || task.world.processes.process_of(thread).is_some_and(|process| process.id == task.process.id);
    let (signal, thread) = match kind {
        libc::SIGEV_NONE => (None, None),
        // Threads for it are made by the C library, which asks for a signal of one of them.
        libc::SIGEV_SIGNAL | libc::SIGEV_THREAD if is_signal => (Some(signal), None),
        libc::SIGEV_THREAD_ID if is_signal && is_own() => (Some(signal), Some(thread)),
        _ => return Err(Errno::INVAL),
    };
    let value = u64::from_le_bytes(bytes[..8].try_into().expect("a word has eight bytes"));
    Ok(Notice { signal, thread, value: Some(value) })
}

/// timer_settime(2).
pub fn timer_settime(task: &mut Task, [id, flags, new, old, ..]: Arguments) -> Answer {
    let bytes = task.read::<32>(new)?;
    let [interval, mut left] = [length_of(&bytes[..16])?, length_of(&bytes[16..])?];
    let mut timers = lock(&task.process.timers);
    let clock = timers.clock(id as i32)?;
    if flags as i32 & libc::TIMER_ABSTIME != 0 && !left.is_zero() {
        let now = rustix::time::clock_gettime(clock);
        let now = Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec as u32);
        // What lies in the past is due at once.
        left = left.saturating_sub(now).max(Duration::from_nanos(1));
    }
    let before = timers.set(id as i32, Instant::now(), (left, interval))?;
    drop(timers);
    task.world.processes.look_at_timers();
    if old != 0 {
        task.write(old, &told(before))?;
    }
    Ok(0)
}

/// timer_gettime(2).
pub fn timer_gettime(task: &mut Task, [id, value, ..]: Arguments) -> Answer {
    let (setting, _) = lock(&task.process.timers).get(id as i32, Instant::now())?;
    task.write(value, &told(setting))?;
    Ok(0)
}

/// timer_getoverrun(2).
pub fn timer_getoverrun(task: &mut Task, [id, ..]: Arguments) -> Answer {
    let (_, overrun) = lock(&task.process.timers).get(id as i32, Instant::now())?;
    Ok(overrun as u64)
}

/// timer_delete(2).
pub fn timer_delete(task: &mut Task, [id, ..]: Arguments) -> Answer {
    lock(&task.process.timers).delete(id as i32)?;
    Ok(0)
}

/// `struct itimerspec`: interval, then what is left.
fn told((left, interval): Setting) -> Vec<u8> {
    let time = |time: Duration| pair(time.as_secs() as i64, time.subsec_nanos().into());
    [time(interval), time(left)].concat()
}

/// The length of time in the bytes of a `struct timespec`.
fn length_of(bytes: &[u8]) -> Result<Duration, Errno> {
    valid(time_spec(bytes.try_into().expect("a time has 16 bytes"))).map(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::{Bench, DATA, FORBIDDEN};

    #[test]
    fn a_timer_is_made_set_and_gone() {
        let mut bench = Bench::new(&std::env::temp_dir(), false, false, &[]);
        let task = bench.task(0).unwrap();
        let event = |signal: i32, kind: i32, thread: i32| -> Vec<u8> {
            [0, 0, signal, kind, thread].into_iter().flat_map(i32::to_le_bytes).collect()
        };
        let create = |task: &mut Task, event: &[u8]| {
            task.write(DATA, event).unwrap();
            timer_create(task, [libc::CLOCK_MONOTONIC as u64, DATA, DATA + 64, 0, 0, 0])
        };
        let own = task.id;
        assert_eq!(create(task, &event(10, libc::SIGEV_THREAD_ID, own)), Ok(0));
        assert_eq!(create(task, &event(10, libc::SIGEV_THREAD_ID, own + 1)), Err(Errno::INVAL));
        assert_eq!(create(task, &event(65, libc::SIGEV_SIGNAL, 0)), Err(Errno::INVAL));
        assert_eq!(timer_create(task, [0, 0, FORBIDDEN, 0, 0, 0]), Err(Errno::FAULT));
        assert_eq!(timer_getoverrun(task, [1, 0, 0, 0, 0, 0]), Err(Errno::INVAL), "it was not made");
        task.write(DATA, &[0u64, 5, 100, 0].map(u64::to_le_bytes).concat()).unwrap();
        assert_eq!(timer_settime(task, [0, 0, DATA, 0, 0, 0]), Ok(0));
        task.write(DATA, &[0u64, 0, 1, 0].map(u64::to_le_bytes).concat()).unwrap();
        assert_eq!(timer_settime(task, [0, libc::TIMER_ABSTIME as u64, DATA, DATA + 64, 0, 0]), Ok(0));
        assert_eq!((task.read_u64(DATA + 72), task.read_u64(DATA + 80)), (Ok(5), Ok(99)));
        assert_eq!(timer_gettime(task, [0, DATA + 64, 0, 0, 0, 0]), Ok(0));
        assert_eq!(task.read_u64(DATA + 80), Ok(0), "it was due long ago");
        assert_eq!((timer_delete(task, [0; 6]), timer_delete(task, [0; 6])), (Ok(0), Err(Errno::INVAL)));
        bench.finish();
    }
}
