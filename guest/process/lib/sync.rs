//! A mutex and a condition variable on the kernel's futex: a system call only where somebody has to sleep or to be woken.
//!
//! Source: Drepper, "Futexes Are Tricky" §5 (the mutex of three states).

use core::sync::atomic::{AtomicU32, Ordering};

use crate::abi::FOREVER;
use crate::call;

/// Nobody holds it; somebody holds it; somebody holds it and others sleep.
const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// Mutual exclusion.
pub struct Mutex(AtomicU32);

impl Mutex {
    /// A free one.
    pub const fn new() -> Mutex {
        Mutex(AtomicU32::new(FREE))
    }

    /// Waits for it.
    pub fn lock(&self) {
        let Err(mut seen) = self.0.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed) else { return };
        loop {
            // Whoever has slept cannot know whether it was the last: it takes the lock as contended.
            if seen == CONTENDED || self.0.swap(CONTENDED, Ordering::Acquire) != FREE {
                let _ = call::futex_wait(&self.0, CONTENDED, FOREVER);
            } else {
                return;
            }
            seen = match self.0.compare_exchange(FREE, CONTENDED, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => seen,
            };
        }
    }

    /// Takes it if it is free; says whether.
    pub fn try_lock(&self) -> bool {
        self.0.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Frees it. The caller holds it.
    pub fn unlock(&self) {
        if self.0.swap(FREE, Ordering::Release) == CONTENDED {
            let _ = call::futex_wake(&self.0, 1);
        }
    }

    /// Runs `body` while holding it.
    pub fn hold<T>(&self, body: impl FnOnce() -> T) -> T {
        self.lock();
        let result = body();
        self.unlock();
        result
    }
}

impl Default for Mutex {
    fn default() -> Self {
        Self::new()
    }
}

/// A condition variable: threads sleep on it until another says that what they wait for may be so.
pub struct Condition(AtomicU32);

impl Condition {
    /// One that nobody waits for.
    pub const fn new() -> Condition {
        Condition(AtomicU32::new(0))
    }

    /// Frees `mutex`, sleeps until woken, takes `mutex` again. It may return without cause: look again.
    pub fn wait(&self, mutex: &Mutex) {
        // Read before the mutex is free: a signal after that changes the number, and the wait ends at once.
        let seen = self.0.load(Ordering::Relaxed);
        mutex.unlock();
        let _ = call::futex_wait(&self.0, seen, FOREVER);
        mutex.lock();
    }

    /// Wakes one.
    pub fn signal(&self) {
        self.0.fetch_add(1, Ordering::Release);
        let _ = call::futex_wake(&self.0, 1);
    }

    /// Wakes all.
    pub fn broadcast(&self) {
        self.0.fetch_add(1, Ordering::Release);
        let _ = call::futex_wake(&self.0, u64::MAX);
    }
}

impl Default for Condition {
    fn default() -> Self {
        Self::new()
    }
}
