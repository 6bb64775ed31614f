//! Timers of a process that send signals: that of alarm(2) and setitimer(2), and those of timer_create(2).
//!
//! Time is given in, and somebody else sends what is due; so nothing waits here. Timers that count processor time are left out: it is
//! known for all programs together only. A clock that is set does not move a timer that is on.
//! Sources: setitimer(2), timer_create(2), timer_settime(2), timer_getoverrun(2).

use super::info::{Info, SI_KERNEL};
use rustix::io::Errno;
use rustix::time::ClockId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Most timers of timer_create(2) that a process has.
const TIMERS_MAX: usize = 256;

/// What is left until a timer fires, and its interval; zero: it is off, or fires once.
pub type Setting = (Duration, Duration);

/// A process's timers.
#[derive(Debug, Default)]
pub struct Timers {
    real: Option<Alarm>,
    made: BTreeMap<i32, Timer>,
}

/// A timer of timer_create(2).
#[derive(Debug)]
struct Timer {
    clock: ClockId,
    notice: Notice,
    alarm: Option<Alarm>,
    /// How often it has fired more than the last signal tells.
    overrun: i32,
}

/// What a timer does when it fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The signal; `None`: nothing.
    pub signal: Option<i32>,
    /// The thread that gets it; `None`: any.
    pub thread: Option<i32>,
    /// What it is told; `None`: the timer's number.
    pub value: Option<u64>,
}

/// When a timer fires, and how often after that; never again where the interval is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Alarm {
    at: Instant,
    interval: Duration,
}

impl Alarm {
    fn new(now: Instant, (left, interval): Setting) -> Option<Alarm> {
        // What is too far to be told never comes.
        now.checked_add(left).filter(|_| !left.is_zero()).map(|at| Alarm { at, interval })
    }

    fn setting(alarm: Option<Alarm>, now: Instant) -> Setting {
        alarm.map_or((Duration::ZERO, Duration::ZERO), |alarm| {
            // One that is on is never told as off.
            let left = alarm.at.saturating_duration_since(now).max(Duration::from_micros(1));
            (left, alarm.interval)
        })
    }

    /// The alarm behind one that fires now, and how many are missed in between.
    fn next(self, now: Instant) -> (Option<Alarm>, u128) {
        let step = self.interval.as_nanos();
        let Some(missed) = now.saturating_duration_since(self.at).as_nanos().checked_div(step) else {
            return (None, 0);
        };
        let ahead = step.checked_mul(missed + 1).and_then(|nanos| u64::try_from(nanos).ok());
        let at = ahead.and_then(|nanos| self.at.checked_add(Duration::from_nanos(nanos)));
        (at.map(|at| Alarm { at, ..self }), missed)
    }
}

impl Timers {
    /// How ITIMER_REAL is set.
    pub fn real(&self, now: Instant) -> Setting {
        Alarm::setting(self.real, now)
    }

    /// Sets ITIMER_REAL; returns how it was set.
    pub fn set_real(&mut self, now: Instant, setting: Setting) -> Setting {
        Alarm::setting(std::mem::replace(&mut self.real, Alarm::new(now, setting)), now)
    }

    /// A new timer on a clock, which is off; its number.
    ///
    /// # Errors
    /// EAGAIN: there are too many.
    pub fn create(&mut self, clock: ClockId, notice: Notice) -> Result<i32, Errno> {
        if self.made.len() >= TIMERS_MAX {
            return Err(Errno::AGAIN);
        }
        let id = (0..).find(|id| !self.made.contains_key(id)).expect("there are few");
        self.made.insert(id, Timer { clock, notice, alarm: None, overrun: 0 });
        Ok(id)
    }

    /// Sets the timer of a number; returns how it was set.
    ///
    /// # Errors
    /// EINVAL: there is none.
    pub fn set(&mut self, id: i32, now: Instant, setting: Setting) -> Result<Setting, Errno> {
        let timer = self.made.get_mut(&id).ok_or(Errno::INVAL)?;
        timer.overrun = 0;
        Ok(Alarm::setting(std::mem::replace(&mut timer.alarm, Alarm::new(now, setting)), now))
    }

    /// How the timer of a number is set, and how often it has fired more than it told.
    ///
    /// # Errors
    /// EINVAL: there is none.
    pub fn get(&self, id: i32, now: Instant) -> Result<(Setting, i32), Errno> {
        let timer = self.made.get(&id).ok_or(Errno::INVAL)?;
        Ok((Alarm::setting(timer.alarm, now), timer.overrun))
    }

    /// The clock of the timer of a number.
    ///
    /// # Errors
    /// EINVAL: there is none.
    pub fn clock(&self, id: i32) -> Result<ClockId, Errno> {
        self.made.get(&id).map(|timer| timer.clock).ok_or(Errno::INVAL)
    }

    /// The timer of a number goes.
    ///
    /// # Errors
    /// EINVAL: there is none.
    pub fn delete(&mut self, id: i32) -> Result<(), Errno> {
        self.made.remove(&id).map(drop).ok_or(Errno::INVAL)
    }

    /// Another program: only ITIMER_REAL stays.
    pub fn delete_all(&mut self) {
        self.made.clear();
    }

    /// When the next of them fires.
    pub fn next(&self) -> Option<Instant> {
        let alarms = self.made.values().map(|timer| timer.alarm).chain([self.real]);
        alarms.flatten().map(|alarm| alarm.at).min()
    }

    /// What those send that fire until `now`, and to which thread.
    pub fn fire(&mut self, now: Instant) -> Vec<(Option<i32>, Info)> {
        let mut sent = Vec::new();
        if let Some(alarm) = self.real.filter(|alarm| alarm.at <= now) {
            (self.real, _) = alarm.next(now);
            sent.push((None, Info::new(libc::SIGALRM, SI_KERNEL)));
        }
        for (id, timer) in &mut self.made {
            let Some(alarm) = timer.alarm.filter(|alarm| alarm.at <= now) else { continue };
            let (next, missed) = alarm.next(now);
            timer.alarm = next;
            timer.overrun = i32::try_from(missed).unwrap_or(i32::MAX);
            if let Some(signal) = timer.notice.signal {
                let value = timer.notice.value.unwrap_or(*id as u64);
                sent.push((timer.notice.thread, Info::timer(signal, *id, timer.overrun, value)));
            }
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::super::info::SI_TIMER;
    use super::*;

    const OFF: Setting = (Duration::ZERO, Duration::ZERO);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_alarm_fires_once_or_at_each_interval_and_tells_what_is_left() {
        let (mut timers, now) = (Timers::default(), Instant::now());
        assert_eq!(timers.set_real(now, (SECOND, Duration::ZERO)), OFF);
        assert_eq!((timers.fire(now).len(), timers.next()), (0, Some(now + SECOND)));
        assert_eq!(timers.real(now + SECOND / 4), (SECOND * 3 / 4, Duration::ZERO));
        assert_eq!(timers.fire(now + SECOND), [(None, Info::new(libc::SIGALRM, SI_KERNEL))]);
        assert_eq!((timers.next(), timers.real(now)), (None, OFF));
        timers.set_real(now, (SECOND, SECOND * 2));
        assert_eq!(timers.fire(now + SECOND * 6).len(), 1, "missed times are not made up for");
        assert_eq!(timers.next(), Some(now + SECOND * 7));
        assert_eq!(timers.set_real(now + SECOND * 6, OFF), (SECOND, SECOND * 2));
        assert_eq!(timers.next(), None);
        timers.set_real(now, (Duration::MAX, Duration::MAX));
        assert_eq!(timers.next(), None, "never");
    }

    #[test]
    fn a_made_timer_tells_how_often_it_fired_unseen() {
        let (mut timers, now) = (Timers::default(), Instant::now());
        let create = |timers: &mut Timers, signal, thread, value| {
            timers.create(ClockId::Monotonic, Notice { signal, thread, value })
        };
        let silent = create(&mut timers, None, None, None).unwrap();
        let loud = create(&mut timers, Some(34), Some(3), Some(9)).unwrap();
        assert_eq!((silent, loud, timers.set(2, now, OFF)), (0, 1, Err(Errno::INVAL)));
        timers.set(silent, now, (SECOND, Duration::ZERO)).unwrap();
        timers.set(loud, now, (SECOND, SECOND)).unwrap();
        let sent = timers.fire(now + SECOND * 7 / 2);
        assert_eq!(sent, [(Some(3), Info::timer(34, loud, 2, 9))]);
        assert_eq!((sent[0].1.code(), timers.get(loud, now + SECOND * 3)), (SI_TIMER, Ok(((SECOND, SECOND), 2))));
        assert_eq!(timers.get(silent, now), Ok((OFF, 0)));
        assert_eq!((timers.delete(loud), timers.delete(loud), timers.next()), (Ok(()), Err(Errno::INVAL), None));
        let made = (0..1000).filter(|_| create(&mut timers, None, None, None).is_ok());
        assert_eq!(made.count(), TIMERS_MAX - 1);
        timers.delete_all();
        assert_eq!(timers.get(silent, now), Err(Errno::INVAL));
    }
}
