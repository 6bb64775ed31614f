//! Ends calls of a guest that take too long: a thread that looks at the clock, and gets the vCPU out of the guest.
//!
//! It is started with the first call and sleeps while there is none, or until the present one's time is over: that a call begins and
//! ends costs a lock, and no system call. A thread that is in a function of the host is not interrupted; the call ends when the guest
//! would go on.
//! Source: KVM API §5 `immediate_exit`.

use crate::kvm::kick::{self, CallingThread};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// From one kick to the next, for one that came just before the guest was entered or just after it was left.
const KICK_AGAIN: Duration = Duration::from_millis(1);

/// What is longer is no limit: 30 years.
const LONGEST: Duration = Duration::from_secs(1_000_000_000);

/// The deadline of each call of one sandbox.
pub struct Deadline {
    limit: Option<Duration>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The present call's time is over.
    over: AtomicBool,
    /// The calling thread is in the guest, or about to enter it.
    in_guest: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The thread that calls, and until when it may.
    call: Option<(CallingThread, Instant)>,
    /// The watching thread waits for the next call, and wants to be told.
    idle: bool,
    end: bool,
}

impl Deadline {
    /// Calls take `limit` at most; without one, as long as they like.
    ///
    /// # Errors
    /// The host refuses the handler of the signal.
    pub fn new(limit: Option<Duration>) -> io::Result<Deadline> {
        if limit.is_some() {
            kick::install_handler()?;
        }
        // Instants do not reach for ever.
        let limit = limit.map(|limit| limit.min(LONGEST));
        Ok(Deadline { limit, shared: Arc::default(), thread: None })
    }

    /// How long a call may take.
    pub fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// A call begins, on this thread.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn begin(&mut self) -> io::Result<()> {
        let Some(limit) = self.limit else { return Ok(()) };
        if self.thread.is_none() {
            let shared = self.shared.clone();
            self.thread = Some(Builder::new().name("deadline".into()).spawn(move || watch(&shared, limit))?);
        }
        let mut state = lock(&self.shared);
        self.shared.over.store(false, Ordering::Relaxed);
        state.call = Some((CallingThread::this(), Instant::now() + limit));
        if state.idle {
            self.shared.changed.notify_one();
        }
        Ok(())
    }

    /// The call has ended. From now on its thread is not kicked.
    pub fn end(&self) {
        if self.limit.is_some() {
            lock(&self.shared).call = None;
        }
    }

    /// The guest is about to be entered. False: the time is over, and it must not be.
    #[inline]
    pub fn may_enter(&self) -> bool {
        self.shared.in_guest.store(true, Ordering::SeqCst);
        let over = self.shared.over.load(Ordering::SeqCst);
        if over {
            self.left();
        }
        !over
    }

    /// The guest was left.
    #[inline]
    pub fn left(&self) {
        self.shared.in_guest.store(false, Ordering::Relaxed);
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        lock(&self.shared).end = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It has nothing that could panic.
            let _ = thread.join();
        }
    }
}

/// The watching thread.
fn watch(shared: &Shared, limit: Duration) {
    let mut state = lock(shared);
    let mut was_idle = false;
    while !state.end {
        let now = Instant::now();
        let wait = match state.call {
            // Calls often follow each other: only who sees none for some time wants to be told of the next.
            None if was_idle => {
                state.idle = true;
                state = shared.changed.wait(state).expect("nothing panics with the lock");
                state.idle = false;
                was_idle = false;
                continue;
            }
            None => limit,
            Some((thread, until)) if until <= now => {
                shared.over.store(true, Ordering::SeqCst);
                if shared.in_guest.load(Ordering::SeqCst) {
                    thread.kick();
                }
                KICK_AGAIN
            }
            Some((_, until)) => until - now,
        };
        was_idle = state.call.is_none();
        (state, _) = shared.changed.wait_timeout(state, wait).expect("nothing panics with the lock");
        was_idle &= state.call.is_none();
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().expect("nothing panics with the lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    #[test]
    fn a_call_may_take_its_time_and_no_more() {
        let mut deadline = Deadline::new(Some(LIMIT)).unwrap();
        for _ in 0..3 {
            deadline.begin().unwrap();
            assert!(deadline.may_enter());
            deadline.left();
            let start = Instant::now();
            while deadline.may_enter() {
                deadline.left();
                std::thread::yield_now();
            }
            assert!(start.elapsed() > LIMIT / 2, "not sooner");
            deadline.end();
            // Long enough for the thread to fall asleep before the next call.
            std::thread::sleep(2 * LIMIT + LIMIT / 2);
        }
        deadline.begin().unwrap();
        assert!(deadline.may_enter(), "the next call begins anew");
        deadline.end();
    }

    #[test]
    fn without_a_limit_there_is_no_thread() {
        let mut deadline = Deadline::new(None).unwrap();
        deadline.begin().unwrap();
        assert!(deadline.may_enter() && deadline.thread.is_none());
        deadline.end();
    }
}
