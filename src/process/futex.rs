//! Waiting for a word in memory: the queues of futex(2).
//!
//! A word is told from others by the memory object that holds it and its place there, so processes that share a mapping meet. Whoever waits
//! has looked at the word under the lock that a waker takes, so no wake is lost. Leaves out priority inheritance and robust lists.
//! Sources: futex(2); `Futexes Are Tricky` (U. Drepper, 2011).

use super::task::Task;
use crate::bus::bus::lock;
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// What a word is told from others by: object, place.
pub type Key = (usize, u64);

/// All queues.
#[derive(Default)]
pub struct Futexes {
    queues: Mutex<BTreeMap<Key, VecDeque<Arc<Waiter>>>>,
    woken: Condvar,
}

struct Waiter {
    bits: u32,
    is_woken: Mutex<bool>,
}

impl Futexes {
    /// Waits until the word at `key` is woken by one of `bits`, if `holds` is still true.
    ///
    /// # Errors
    /// EAGAIN: it is not; ETIMEDOUT; EINTR: a signal came; what `holds` says.
    pub fn wait(
        &self,
        task: &Task,
        key: Key,
        bits: u32,
        until: Option<Instant>,
        holds: impl FnOnce() -> Result<bool, Errno>,
    ) -> Result<(), Errno> {
        let mut queues = lock(&self.queues);
        if !holds()? {
            return Err(Errno::AGAIN);
        }
        let waiter = Arc::new(Waiter { bits, is_woken: Mutex::new(false) });
        queues.entry(key).or_default().push_back(waiter.clone());
        let result = loop {
            if *lock(&waiter.is_woken) {
                return Ok(());
            }
            if task.is_interrupted() {
                break Err(Errno::INTR);
            }
            queues = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.woken.wait(queues).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => break Err(Errno::TIMEDOUT),
                Some(left) => self.woken.wait_timeout(queues, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        };
        // It may have been moved to another queue meanwhile.
        queues.values_mut().for_each(|queue| queue.retain(|other| !Arc::ptr_eq(other, &waiter)));
        queues.retain(|_, queue| !queue.is_empty());
        result
    }

    /// Wakes up to `count` that wait for the word at `key` with one of `bits`; how many those were.
    pub fn wake(&self, key: Key, count: usize, bits: u32) -> usize {
        let mut queues = lock(&self.queues);
        let woken = wake_some(&mut queues, key, count, bits);
        if woken > 0 {
            self.woken.notify_all();
        }
        woken
    }

    /// Wakes up to `count` of `from` and has up to `move_count` others wait for `to`, if `holds`; how many of both, and of the first.
    ///
    /// # Errors
    /// EAGAIN: it does not hold; what `holds` says.
    pub fn requeue(
        &self,
        from: Key,
        to: Key,
        count: usize,
        move_count: usize,
        holds: impl FnOnce() -> Result<bool, Errno>,
    ) -> Result<(usize, usize), Errno> {
        let mut queues = lock(&self.queues);
        if !holds()? {
            return Err(Errno::AGAIN);
        }
        let woken = wake_some(&mut queues, from, count, u32::MAX);
        let moved: Vec<_> = match queues.get_mut(&from) {
            Some(queue) if from != to => queue.drain(..move_count.min(queue.len())).collect(),
            _ => Vec::new(),
        };
        let all = woken + moved.len();
        queues.entry(to).or_default().extend(moved);
        queues.retain(|_, queue| !queue.is_empty());
        self.woken.notify_all();
        Ok((all, woken))
    }

    /// Has all who wait look whether a signal came or they are to end.
    pub fn look_up(&self) {
        let _queues = lock(&self.queues);
        self.woken.notify_all();
    }
}

fn wake_some(queues: &mut BTreeMap<Key, VecDeque<Arc<Waiter>>>, key: Key, count: usize, bits: u32) -> usize {
    let Some(queue) = queues.get_mut(&key) else { return 0 };
    let mut woken = 0;
    queue.retain(|waiter| {
        let wakes = woken < count && waiter.bits & bits != 0;
        if wakes {
            *lock(&waiter.is_woken) = true;
            woken += 1;
        }
        !wakes
    });
    if queue.is_empty() {
        queues.remove(&key);
    }
    woken
}
