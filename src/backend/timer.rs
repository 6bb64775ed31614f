//! A timer as a descriptor: what waits for other descriptors waits for a time beside them, and nobody sleeps for it.
//!
//! Source: timerfd_create(2).

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// A timer, which is off at first.
pub struct Timer(OwnedFd);

impl Timer {
    /// A timer.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn new() -> io::Result<Timer> {
        Ok(Timer(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?))
    }

    /// Has it go off at `due`, not before, or not at all. Setting it also takes back that it went off before.
    pub fn set(&self, due: Option<Instant>) {
        // A time of 0 would switch it off.
        let left = due
            .map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1)));
        let spec = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() },
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &spec).expect("the timer is ours and the time is valid");
    }

    /// Gives bytes from when it has gone off until it is set again.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_loop::{self, Interest};

    #[test]
    fn it_goes_off_when_its_time_has_come_and_until_it_is_set_again() {
        let timer = Timer::new().unwrap();
        let waits = |most| {
            let interest = [Interest { token: (), fd: timer.fd(), output: false }];
            event_loop::wait(&interest, Some(most)).unwrap().len()
        };
        assert_eq!(waits(Duration::ZERO), 0);
        let due = Instant::now() + Duration::from_millis(5);
        timer.set(Some(due));
        assert!(waits(Duration::from_secs(20)) == 1 && Instant::now() >= due);
        assert_eq!(waits(Duration::ZERO), 1);
        timer.set(None);
        assert_eq!(waits(Duration::ZERO), 0);
        timer.set(Some(due));
        assert_eq!(waits(Duration::from_secs(20)), 1, "a time that has passed");
    }
}
