//! A spin lock for a few instructions at a time.
//!
//! Its holder may lose the processor to the kernel's scheduler in the middle, so who has turned for long gives his own away.
//! Source: Intel SDM vol. 3A §9.1.2 (a locked exchange is atomic), vol. 2 PAUSE.

use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::kernel;

/// Turns after which the holder is taken to be waiting for a processor: longer than any of them holds the lock.
const TURNS: u32 = 2_000;

/// A value that one holder at a time looks at.
pub struct SpinLock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: one holder at a time sees the value.
unsafe impl<T> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// A free lock on `value`.
    pub const fn new(value: T) -> SpinLock<T> {
        SpinLock { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock, runs `body` on the value, frees the lock. `body` must not switch threads.
    #[inline(always)]
    pub fn hold<R>(&self, body: impl FnOnce(&T) -> R) -> R {
        while self.held.swap(true, Ordering::Acquire) {
            spin_while(|| self.held.load(Ordering::Relaxed)); // reads stay in this processor's cache until the holder writes
        }
        // SAFETY: the lock is held.
        let result = body(unsafe { &*self.value.get() });
        self.held.store(false, Ordering::Release);
        result
    }
}

/// Waits until `condition` is false, which another processor is just about to make it.
pub fn spin_while(condition: impl Fn() -> bool) {
    let mut turns = 0;
    while condition() {
        turns += 1;
        if turns % TURNS == 0 {
            kernel::yield_now();
        }
        spin_loop();
    }
}
