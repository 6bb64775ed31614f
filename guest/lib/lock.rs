//! A spin lock: mutual exclusion for processors that share memory.
//!
//! Source: Intel SDM vol. 3A §9.1.2 (a locked exchange is atomic), vol. 2 PAUSE.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};

/// One holder at a time.
pub struct Lock(AtomicBool);

impl Lock {
    /// A free lock.
    pub const fn new() -> Lock {
        Lock(AtomicBool::new(false))
    }

    /// Waits for the lock, runs `body`, frees the lock. Not for interrupt handlers: their own processor may hold it.
    pub fn hold<T>(&self, body: impl FnOnce() -> T) -> T {
        while self.0.swap(true, Ordering::Acquire) {
            while self.0.load(Ordering::Relaxed) {
                spin_loop(); // reads stay in this processor's cache until the holder writes
            }
        }
        let result = body();
        self.0.store(false, Ordering::Release);
        result
    }
}

impl Default for Lock {
    fn default() -> Self {
        Self::new()
    }
}
