//! A value behind a mutex, so that nobody reaches it without holding that.

use core::cell::UnsafeCell;

use process::sync::{Condition, Mutex};

/// What threads share.
pub struct Guarded<T> {
    mutex: Mutex,
    value: UnsafeCell<T>,
}

// SAFETY: the value is only reached by who holds the mutex.
unsafe impl<T: Send> Sync for Guarded<T> {}

impl<T> Guarded<T> {
    /// Guards `value`.
    pub const fn new(value: T) -> Guarded<T> {
        Guarded { mutex: Mutex::new(), value: UnsafeCell::new(value) }
    }

    /// Looks at the value, alone.
    pub fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: the mutex is held while the reference lives.
        self.mutex.hold(|| body(unsafe { &mut *self.value.get() }))
    }

    /// Looks at the value, alone, each time that `condition` is signalled, until `body` gives something.
    pub fn wait<R>(&self, condition: &Condition, mut body: impl FnMut(&mut T) -> Option<R>) -> R {
        self.mutex.hold(|| {
            loop {
                // SAFETY: as above; `condition` frees the mutex only between two looks.
                if let Some(result) = body(unsafe { &mut *self.value.get() }) {
                    return result;
                }
                condition.wait(&self.mutex);
            }
        })
    }
}
