//! Timers that send signals: alarm(2), setitimer(2).
//!
//! Only ITIMER_REAL can be set: processor time is known for all programs together only, so the other two are refused. Source: setitimer(2).

use super::call::{Answer, Arguments};
use super::time::pair;
use crate::bus::bus::lock;
use crate::process::signal::timers::Setting;
use crate::process::task::Task;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// alarm(2).
pub fn alarm(task: &mut Task, [seconds, ..]: Arguments) -> Answer {
    let (left, _) = set(task, (Duration::from_secs(u64::from(seconds as u32)), Duration::ZERO));
    // Half a second and more counts as one, and less never as none (Linux `kernel/time/itimer.c`).
    let rounded = left.as_secs() + u64::from(left.subsec_millis() >= 500 || (left.as_secs() == 0 && !left.is_zero()));
    Ok(rounded)
}

/// getitimer(2).
pub fn getitimer(task: &mut Task, [which, value, ..]: Arguments) -> Answer {
    let now = match which as i32 {
        libc::ITIMER_REAL => lock(&task.process.timers).real(Instant::now()),
        libc::ITIMER_VIRTUAL | libc::ITIMER_PROF => (Duration::ZERO, Duration::ZERO),
        _ => return Err(Errno::INVAL),
    };
    task.write(value, &told(now))?;
    Ok(0)
}

/// setitimer(2). EINVAL for timers of processor time, unless they are switched off.
pub fn setitimer(task: &mut Task, [which, new, old, ..]: Arguments) -> Answer {
    let (left, interval) = match new {
        0 => (Duration::ZERO, Duration::ZERO),
        address => {
            let bytes = task.read::<32>(address)?;
            (length(&bytes[16..])?, length(&bytes[..16])?)
        }
    };
    let before = match which as i32 {
        libc::ITIMER_REAL => set(task, (left, interval)),
        libc::ITIMER_VIRTUAL | libc::ITIMER_PROF if left.is_zero() => (Duration::ZERO, Duration::ZERO),
        _ => return Err(Errno::INVAL),
    };
    if old != 0 {
        task.write(old, &told(before))?;
    }
    Ok(0)
}

fn set(task: &Task, setting: Setting) -> Setting {
    let before = lock(&task.process.timers).set_real(Instant::now(), setting);
    task.world.processes.look_at_timers();
    before
}

/// `struct itimerval`: interval, then what is left.
fn told((left, interval): Setting) -> Vec<u8> {
    let time = |time: Duration| pair(time.as_secs() as i64, time.subsec_micros().into());
    [time(interval), time(left)].concat()
}

/// A `struct timeval` that is a length of time.
fn length(bytes: &[u8]) -> Result<Duration, Errno> {
    let word = |at: usize| i64::from_le_bytes(bytes[at..at + 8].try_into().expect("a word has eight bytes"));
    let (seconds, micros) = (word(0), word(8));
    if seconds < 0 || !(0..1_000_000).contains(&micros) {
        return Err(Errno::INVAL);
    }
    Ok(Duration::from_secs(seconds as u64) + Duration::from_micros(micros as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::{Bench, DATA};

    #[test]
    fn an_alarm_tells_what_was_left_of_the_one_before() {
        let mut bench = Bench::new(&std::env::temp_dir(), false, false, &[]);
        let task = bench.task(0).unwrap();
        let none = [0; 6];
        assert_eq!(alarm(task, [100, 0, 0, 0, 0, 0]), Ok(0));
        assert_eq!(alarm(task, [u64::MAX, 0, 0, 0, 0, 0]), Ok(100));
        assert_eq!(alarm(task, none), Ok(u32::MAX.into()));
        let bytes: Vec<u8> = [1u64, 0, 2, 1_000_000].into_iter().flat_map(u64::to_le_bytes).collect();
        task.write(DATA, &bytes).unwrap();
        let set = |task: &mut Task, which: i32| setitimer(task, [which as u64, DATA, DATA + 64, 0, 0, 0]);
        assert_eq!(set(task, libc::ITIMER_REAL), Err(Errno::INVAL), "a million is no part of a second");
        task.write(DATA + 24, &[0; 8]).unwrap();
        assert_eq!((set(task, libc::ITIMER_PROF), set(task, libc::ITIMER_REAL)), (Err(Errno::INVAL), Ok(0)));
        assert_eq!(getitimer(task, [0, DATA + 128, 0, 0, 0, 0]), Ok(0));
        assert_eq!(task.read_u64(DATA + 128), Ok(1));
        assert_eq!(setitimer(task, none), Ok(0));
        bench.finish();
    }
}
