//! What the user and a balloon tell each other: the size that it is to have, the size that it has, what the guest says of its memory.
//!
//! Source: virtio 1.2 §5.5.6.3 (statistics).

use crate::event_loop::Waker;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Kinds of statistics that virtio 1.2 defines, by tag.
pub const STATISTICS: usize = 10;
/// What a guest says of its memory, by tag; `None` for what it did not say.
pub type Statistics = [Option<u64>; STATISTICS];

/// Names of the statistics that are bytes, by tag.
const BYTES: [(usize, &str); 6] =
    [(5, "total"), (4, "free"), (6, "available"), (7, "caches"), (0, "swapped in"), (1, "swapped out")];
/// Names of the statistics that are numbers of events, by tag.
const EVENTS: [(usize, &str); 4] =
    [(3, "minor faults"), (2, "major faults"), (8, "huge pages allocated"), (9, "huge pages refused")];

/// A balloon as the user and the device hold it.
#[derive(Clone)]
pub struct BalloonControl(Arc<Shared>);

struct Shared {
    /// Bytes of RAM that the machine has.
    ram: u64,
    state: Mutex<State>,
    reported: Condvar,
    /// Wakes the device.
    asked: Waker,
}

#[derive(Default)]
struct State {
    /// Bytes that the balloon is to have.
    target: u64,
    /// Bytes that it has, as the guest says.
    actual: u64,
    statistics: Statistics,
    /// Statistics are wanted.
    wanted: bool,
    /// How often the guest has sent statistics.
    reports: u64,
}

/// A balloon that cannot be: it would have all of the RAM, or more.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a balloon of {} MiB leaves nothing of {} MiB of RAM", wanted >> 20, ram >> 20)]
pub struct TooLarge {
    wanted: u64,
    ram: u64,
}

/// Whether a machine with this RAM can have a balloon of this size, both in bytes.
///
/// # Errors
/// It cannot.
pub fn check(wanted: u64, ram: u64) -> Result<(), TooLarge> {
    if wanted < ram { Ok(()) } else { Err(TooLarge { wanted, ram }) }
}

impl BalloonControl {
    /// A balloon that is to have `target` bytes of the `ram` that there are.
    ///
    /// # Errors
    /// The host gives no descriptor.
    pub fn new(target: u64, ram: u64) -> io::Result<BalloonControl> {
        let state = Mutex::new(State { target: target.min(ram), ..State::default() });
        Ok(BalloonControl(Arc::new(Shared { ram, state, reported: Condvar::new(), asked: Waker::new()? })))
    }

    /// It is to have `target` bytes from now on.
    ///
    /// # Errors
    /// The machine has not so much.
    pub fn set_target(&self, target: u64) -> Result<(), TooLarge> {
        check(target, self.0.ram)?;
        self.state().target = target;
        self.0.asked.wake();
        Ok(())
    }

    /// Asks the guest for statistics, waits for them, at most `patience`, and says what is known then.
    pub fn describe(&self, patience: Duration) -> String {
        let mut state = self.state();
        let before = state.reports;
        state.wanted = true;
        self.0.asked.wake();
        let waited = self.0.reported.wait_timeout_while(state, patience, |state| state.reports == before);
        let (state, outcome) = waited.expect("nobody panics with the state");
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let mut text = format!("balloon {}, wanted {}\n", mib(state.actual), mib(state.target));
        if outcome.timed_out() {
            text += "the guest has sent no statistics";
            text += if state.reports > 0 { "; its last ones:\n" } else { "\n" };
        }
        text += &line(&BYTES, &state.statistics, mib);
        text += &line(&EVENTS, &state.statistics, |count| count.to_string());
        text
    }

    /// Gives bytes when the device has something to do.
    pub fn asked(&self) -> BorrowedFd<'_> {
        self.0.asked.fd()
    }

    /// The device has seen that.
    pub fn attend(&self) {
        self.0.asked.reset();
    }

    /// Bytes that the balloon is to have.
    pub fn target(&self) -> u64 {
        self.state().target
    }

    /// The guest says that it has `actual` bytes; more than the RAM are the RAM.
    pub fn set_actual(&self, actual: u64) {
        self.state().actual = actual.min(self.0.ram);
    }

    /// Whether statistics are wanted since the last time.
    pub fn take_wanted(&self) -> bool {
        std::mem::take(&mut self.state().wanted)
    }

    /// The guest has sent these.
    pub fn report(&self, statistics: Statistics) {
        let mut state = self.state();
        (state.statistics, state.reports) = (statistics, state.reports.wrapping_add(1));
        self.0.reported.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nobody panics with the state")
    }
}

/// A line of the statistics that are there; nothing where there are none.
fn line(names: &[(usize, &str)], statistics: &Statistics, value: impl Fn(u64) -> String) -> String {
    let known = names.iter().filter_map(|(tag, name)| Some(format!("{name} {}", value(statistics[*tag]?))));
    let known: Vec<_> = known.collect();
    if known.is_empty() { String::new() } else { known.join(", ") + "\n" }
}

impl fmt::Debug for BalloonControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "balloon of {} bytes", self.target())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_guest_that_sends_nothing_is_not_waited_for_long() {
        let control = BalloonControl::new(64 * MIB, 512 * MIB).unwrap();
        control.set_actual(3 * MIB);
        let text = control.describe(Duration::from_millis(1));
        assert_eq!(text, "balloon 3 MiB, wanted 64 MiB\nthe guest has sent no statistics\n");
        assert!(control.take_wanted() && !control.take_wanted());
    }

    #[test]
    fn statistics_are_told_by_name() {
        let control = BalloonControl::new(0, 512 * MIB).unwrap();
        let guest = control.clone();
        let answering = std::thread::spawn(move || {
            while !guest.take_wanted() {
                std::thread::yield_now();
            }
            let mut statistics = [None; STATISTICS];
            (statistics[2], statistics[4], statistics[5]) = (Some(7), Some(100 * MIB), Some(480 * MIB));
            guest.report(statistics);
        });
        let text = control.describe(Duration::from_secs(60));
        assert_eq!(text, "balloon 0 MiB, wanted 0 MiB\ntotal 480 MiB, free 100 MiB\nmajor faults 7\n");
        answering.join().unwrap();
    }

    #[test]
    fn sec53_a_balloon_is_never_larger_than_the_ram() {
        let control = BalloonControl::new(u64::MAX, 64 * MIB).unwrap();
        assert_eq!(control.target(), 64 * MIB);
        for target in [64 * MIB, u64::MAX] {
            assert!(control.set_target(target).is_err());
        }
        control.set_actual(u64::MAX);
        assert!(control.describe(Duration::ZERO).starts_with("balloon 64 MiB, wanted 64 MiB\n"));
        let error = control.set_target(96 * MIB).unwrap_err().to_string();
        assert_eq!(error, "a balloon of 96 MiB leaves nothing of 64 MiB of RAM");
    }
}
