//! A queue of threads, chained through their blocks: it needs no memory of its own.

use core::cell::Cell;

use crate::thread::Thread;

/// First in, first out. A thread is in one queue at most.
pub struct Queue {
    first: Cell<Option<&'static Thread>>,
    last: Cell<Option<&'static Thread>>,
    length: Cell<usize>,
}

impl Queue {
    /// Nobody.
    pub const fn new() -> Queue {
        Queue { first: Cell::new(None), last: Cell::new(None), length: Cell::new(0) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.length.get()
    }

    /// Puts `thread` at the end.
    pub fn push(&self, thread: &'static Thread) {
        thread.next.set(None);
        match self.last.replace(Some(thread)) {
            Some(last) => last.next.set(Some(thread)),
            None => self.first.set(Some(thread)),
        }
        self.length.set(self.length.get() + 1);
    }

    /// Takes the first.
    pub fn pop(&self) -> Option<&'static Thread> {
        let thread = self.first.get()?;
        self.unlink(None, thread);
        Some(thread)
    }

    /// Takes the first that waits for the word at this address.
    pub fn pop_waiting(&self, word: usize) -> Option<&'static Thread> {
        let mut before = None;
        let mut at = self.first.get();
        while let Some(thread) = at {
            if thread.word.get() == word {
                self.unlink(before, thread);
                return Some(thread);
            }
            before = at;
            at = thread.next.get();
        }
        None
    }

    /// Takes `thread` out, which comes after `before`.
    fn unlink(&self, before: Option<&'static Thread>, thread: &'static Thread) {
        let next = thread.next.take();
        match before {
            Some(before) => before.next.set(next),
            None => self.first.set(next),
        }
        if next.is_none() {
            self.last.set(before);
        }
        self.length.set(self.length.get() - 1);
    }
}

/// Queues of threads that wait, sorted by the words that they wait for.
pub const BUCKETS: usize = 64;

/// Which of them is for the word at this address. Words are four bytes, and those of threads lie a stack apart.
pub fn bucket(word: usize) -> usize {
    ((word >> 2) ^ (word >> 13)) % BUCKETS
}
