//! Limits of what a device moves: so many bytes and so many operations a second.
//!
//! Each limit is a token bucket. It fills steadily, up to what a tenth of a second brings, and an operation takes out what it costs, be
//! it more than there is: it may begin as long as nothing is owed. So one that is larger than the bucket is done too, and in any time
//! no more is let through than the rate allows for that time and a tenth of a second, and one operation. A lane that owes is held
//! until the debt is paid, and a millisecond at least, so that little is not waited for often; then a timer goes off, once.
//! Whole numbers only: tokens are counted in billionths, of which each nanosecond brings as many as the rate has units.

use super::timer::Timer;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// The highest rate, in bytes or operations a second: more than any host moves.
pub const RATE_MAX: u64 = 1 << 40;
/// What a bucket holds: so many nanoseconds of its rate.
const BURST_NS: u64 = 100_000_000;
/// How long a lane is held at least.
const REST_NS: u64 = 1_000_000;
/// Parts of a token.
const PARTS: i128 = 1_000_000_000;

/// Limits as the user gives them; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Bytes a second, from 1 to [`RATE_MAX`].
    pub bytes: Option<u64>,
    /// Operations a second, from 1 to [`RATE_MAX`].
    pub operations: Option<u64>,
}

/// The limits of a device, for each of its lanes (a disk has one, a network device one in each direction). The default has none.
#[derive(Default)]
pub struct Limiter {
    lanes: Vec<Lane>,
    clock: Option<(Instant, Timer)>,
}

impl Limiter {
    /// Limits for `lanes` lanes, each by itself.
    ///
    /// # Errors
    /// The host has no descriptor left for a timer.
    pub fn new(rates: Rates, lanes: usize) -> io::Result<Limiter> {
        if rates == Rates::default() {
            return Ok(Limiter::default());
        }
        let lanes = (0..lanes).map(|_| Lane::new(rates)).collect();
        Ok(Limiter { lanes, clock: Some((Instant::now(), Timer::new()?)) })
    }

    /// Whether an operation of this lane may begin now. Where it may not, the lane is held from now on.
    pub fn lets(&mut self, lane: usize) -> bool {
        let now_ns = self.now_ns();
        let Some(lane) = self.lanes.get_mut(lane) else { return true };
        if lane.held_until_ns.is_some() {
            return false;
        }
        let lets = lane.lets(now_ns);
        if !lets {
            self.set_timer();
        }
        lets
    }

    /// An operation of this lane has begun, which moves so many bytes.
    pub fn take(&mut self, lane: usize, bytes: u64) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.take(bytes);
        }
    }

    /// Whether nothing of this lane may begin until the timer has gone off.
    pub fn is_held(&self, lane: usize) -> bool {
        self.lanes.get(lane).is_some_and(|lane| lane.held_until_ns.is_some())
    }

    /// Lets go the lanes whose time has come. True: there was one.
    pub fn let_go(&mut self) -> bool {
        let now_ns = self.now_ns();
        let mut any = false;
        for lane in &mut self.lanes {
            any |= lane.held_until_ns.take_if(|until_ns| *until_ns <= now_ns).is_some();
        }
        if any {
            self.set_timer();
        }
        any
    }

    /// The timer; ready while [`Limiter::let_go`] has something to do.
    pub fn timer(&self) -> Option<BorrowedFd<'_>> {
        self.clock.as_ref().map(|(_, timer)| timer.fd())
    }

    /// Nanoseconds since the beginning, enough for 584 years.
    fn now_ns(&self) -> u64 {
        self.clock.as_ref().map_or(0, |(begin, _)| begin.elapsed().as_nanos() as u64)
    }

    fn set_timer(&self) {
        if let Some((begin, timer)) = &self.clock {
            let due_ns = self.lanes.iter().filter_map(|lane| lane.held_until_ns).min();
            timer.set(due_ns.map(|due_ns| *begin + Duration::from_nanos(due_ns)));
        }
    }
}

/// What is limited by itself.
struct Lane {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
    held_until_ns: Option<u64>,
}

impl Lane {
    fn new(rates: Rates) -> Lane {
        let (bytes, operations) = (rates.bytes.map(Bucket::full), rates.operations.map(Bucket::full));
        Lane { bytes, operations, held_until_ns: None }
    }

    fn lets(&mut self, now_ns: u64) -> bool {
        let buckets = [&mut self.bytes, &mut self.operations].into_iter().flatten();
        let due_ns = buckets.filter_map(|bucket| bucket.owes_until(now_ns)).max();
        self.held_until_ns = due_ns.map(|due_ns| due_ns.max(now_ns.saturating_add(REST_NS)));
        due_ns.is_none()
    }

    fn take(&mut self, bytes: u64) {
        for (bucket, tokens) in [(&mut self.bytes, bytes), (&mut self.operations, 1)] {
            if let Some(bucket) = bucket {
                bucket.take(tokens);
            }
        }
    }
}

/// A token bucket.
struct Bucket {
    /// Tokens a second, and so parts of a token a nanosecond.
    rate: i128,
    /// Parts of tokens in it; below 0, those that it owes.
    parts: i128,
    /// When that was so.
    at_ns: u64,
}

impl Bucket {
    fn full(rate: u64) -> Bucket {
        // At most 2^40 times 2^64 of them are ever added at once, and 2^94 taken: far from what an i128 holds.
        let rate = i128::from(rate.clamp(1, RATE_MAX));
        Bucket { rate, parts: rate * i128::from(BURST_NS), at_ns: 0 }
    }

    /// Until when it owes, if it does at `now_ns`.
    fn owes_until(&mut self, now_ns: u64) -> Option<u64> {
        let passed_ns = now_ns.saturating_sub(self.at_ns);
        self.at_ns = self.at_ns.max(now_ns);
        self.parts = (self.parts + i128::from(passed_ns) * self.rate).min(self.rate * i128::from(BURST_NS));
        let debt = -self.parts;
        let left_ns = (debt + self.rate - 1) / self.rate;
        (debt > 0).then(|| self.at_ns.saturating_add(u64::try_from(left_ns).unwrap_or(u64::MAX)))
    }

    fn take(&mut self, tokens: u64) {
        self.parts -= i128::from(tokens) * PARTS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_loop::{self, Interest};

    const SECOND_NS: u64 = 1_000_000_000;

    /// Operations of these bytes that a lane lets begin until `end_ns`, asked for as often as it allows, and how often it was held.
    fn let_through(rates: Rates, bytes: u64, end_ns: u64) -> (u64, u64) {
        let (mut lane, mut now_ns, mut begun, mut held) = (Lane::new(rates), 0, 0, 0);
        while now_ns < end_ns {
            if lane.lets(now_ns) {
                lane.take(bytes);
                begun += 1;
            } else {
                now_ns = lane.held_until_ns.take().unwrap();
                held += 1;
            }
        }
        (begun, held)
    }

    #[test]
    fn what_is_let_through_is_the_rate_and_a_tenth_of_a_second_of_it() {
        for (rate, size) in [(10 << 20, 4096), (10 << 20, 1 << 20), (1000, 1), (3, 1), (1, 1), (RATE_MAX, 1 << 30)] {
            let rates = Rates { bytes: Some(rate), operations: None };
            let seconds = 20;
            let (begun, held) = let_through(rates, size, seconds * SECOND_NS);
            let (least, most) = (rate * seconds, rate * seconds + rate / 10 + 2 * size);
            assert!((least..=most).contains(&(begun * size)), "{begun} of {size} bytes at {rate}");
            assert!(held <= seconds * 1000, "a millisecond apart at least: {held}");
        }
        let rates = Rates { bytes: None, operations: Some(500) };
        assert_eq!(let_through(rates, 1 << 30, 10 * SECOND_NS).0, 5000 + 50, "whatever their size");
        let both = Rates { bytes: Some(1 << 20), operations: Some(100) };
        assert_eq!(let_through(both, 512, 10 * SECOND_NS).0, 1000 + 10, "the tighter one counts");
        assert_eq!(let_through(both, 1 << 20, 10 * SECOND_NS).0, 10 + 1);
    }

    #[test]
    fn what_is_not_used_is_kept_for_a_tenth_of_a_second_and_a_debt_for_ever() {
        let mut lane = Lane::new(Rates { bytes: Some(1000), operations: None });
        lane.take(100);
        assert!(lane.lets(0), "all of it, and nothing is owed");
        lane.take(1);
        assert!(!lane.lets(0));
        assert_eq!(lane.held_until_ns, Some(1_000_000));
        let later_ns = 3600 * SECOND_NS;
        assert!(lane.lets(later_ns), "an hour fills it no more than once");
        lane.take(101);
        assert!(!lane.lets(later_ns));
        assert_eq!(lane.held_until_ns, Some(later_ns + 1_000_000));
        assert!(lane.lets(later_ns + 1_000_000));
        lane.take(10_000);
        assert!(!lane.lets(later_ns + 2_000_000));
        assert_eq!(lane.held_until_ns, Some(later_ns + 1_000_000 + 10 * SECOND_NS));
    }

    #[test]
    fn no_number_overflows() {
        for rate in [0, 1, RATE_MAX, u64::MAX] {
            let mut lane = Lane::new(Rates { bytes: Some(rate), operations: Some(rate) });
            for now_ns in [0, 1, u64::MAX, 5, u64::MAX - 1, u64::MAX] {
                lane.take(u64::MAX);
                lane.lets(now_ns);
                assert!(lane.held_until_ns.is_none_or(|until_ns| until_ns >= now_ns));
            }
        }
    }

    #[test]
    fn a_held_lane_is_let_go_by_its_timer_and_the_other_goes_on() {
        let mut limiter = Limiter::new(Rates { bytes: Some(1000), operations: None }, 2).unwrap();
        assert!(limiter.lets(0) && limiter.lets(1));
        limiter.take(0, 400);
        assert!(!limiter.lets(0) && limiter.is_held(0) && limiter.lets(1));
        assert!(!limiter.let_go(), "not yet");
        let timer = [Interest { token: (), fd: limiter.timer().unwrap(), output: false }];
        assert_eq!(event_loop::wait(&timer, Some(Duration::from_secs(20))).unwrap().len(), 1);
        assert!(!limiter.lets(0), "held until it is let go");
        assert!(limiter.let_go() && !limiter.is_held(0));
        let timer = [Interest { token: (), fd: limiter.timer().unwrap(), output: false }];
        assert_eq!(event_loop::wait(&timer, Some(Duration::ZERO)).unwrap().len(), 0, "once");
        assert!(limiter.lets(0));
    }

    #[test]
    fn without_limits_there_is_nothing_to_wait_for() {
        let mut limiter = Limiter::new(Rates::default(), 2).unwrap();
        limiter.take(1, u64::MAX);
        assert!(limiter.lets(1) && !limiter.is_held(1) && !limiter.let_go() && limiter.timer().is_none());
    }
}
