//! Mutex and condition variable, over a model's wait and wake: the same code waits in ring 3 or in the kernel.
//!
//! Free and without a rival, a mutex costs an atomic instruction and nobody is told.
//! Source: U. Drepper, "Futexes Are Tricky" (2011), "Mutex, Take 2"; Linux futex(2).

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::model::Model;

/// States of a mutex. Who waits says so in it, and only then is anybody woken.
const FREE: u32 = 0;
const LOCKED: u32 = 1;
const AWAITED: u32 = 2;

/// A value for one thread at a time.
pub struct Mutex<M, T> {
    state: AtomicU32,
    value: UnsafeCell<T>,
    model: PhantomData<fn() -> M>,
}

// SAFETY: the value is only reached through a guard, and there is one at a time.
unsafe impl<M, T: Send> Sync for Mutex<M, T> {}

/// Has the value, and frees it at its end.
pub struct Guard<'a, M: Model, T>(&'a Mutex<M, T>);

impl<M: Model, T> Mutex<M, T> {
    /// A free mutex around `value`.
    pub const fn new(value: T) -> Self {
        Mutex { state: AtomicU32::new(FREE), value: UnsafeCell::new(value), model: PhantomData }
    }

    /// Waits until the value is free, and takes it.
    pub fn lock(&self) -> Guard<'_, M, T> {
        if self.state.compare_exchange(FREE, LOCKED, Ordering::Acquire, Ordering::Relaxed).is_err() {
            // Whoever comes out of a wait does not know whether others still wait, so takes it as awaited.
            while self.state.swap(AWAITED, Ordering::Acquire) != FREE {
                M::wait(&self.state, AWAITED);
            }
        }
        Guard(self)
    }
}

impl<M: Model, T> Drop for Guard<'_, M, T> {
    fn drop(&mut self) {
        if self.0.state.swap(FREE, Ordering::Release) == AWAITED {
            M::wake(&self.0.state, 1);
        }
    }
}

impl<M: Model, T> Deref for Guard<'_, M, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: a guard has the value for itself.
        unsafe { &*self.0.value.get() }
    }
}

impl<M: Model, T> DerefMut for Guard<'_, M, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.0.value.get() }
    }
}

/// Where threads wait, without the mutex, until something about its value may have changed.
pub struct Condvar<M> {
    /// Changes with each notification, so that one between unlocking and waiting is not lost.
    notifications: AtomicU32,
    model: PhantomData<fn() -> M>,
}

impl<M: Model> Condvar<M> {
    /// Nobody waits.
    pub const fn new() -> Self {
        Condvar { notifications: AtomicU32::new(0), model: PhantomData }
    }

    /// Frees the mutex, waits for a notification, and takes it again. May come back without one, so the condition is looked at again.
    pub fn wait<'a, T>(&self, guard: Guard<'a, M, T>) -> Guard<'a, M, T> {
        let seen = self.notifications.load(Ordering::Relaxed);
        let mutex = guard.0;
        drop(guard);
        M::wait(&self.notifications, seen);
        mutex.lock()
    }

    /// Wakes one that waits.
    pub fn notify_one(&self) {
        self.notifications.fetch_add(1, Ordering::Relaxed);
        M::wake(&self.notifications, 1);
    }

    /// Wakes all that wait.
    pub fn notify_all(&self) {
        self.notifications.fetch_add(1, Ordering::Relaxed);
        M::wake(&self.notifications, usize::MAX);
    }
}
