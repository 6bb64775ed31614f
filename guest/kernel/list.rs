//! Lists of threads that need no memory: each thread has a link for each kind of list that it may be in.

use core::cell::Cell;

use super::thread::Thread;

/// Link of a thread that is ready, waits for a key, polls, or is free: it is one of these.
pub const QUEUE: usize = 0;
/// Link of a thread with a deadline.
pub const TIMER: usize = 1;
/// Link of the threads of a process.
pub const FAMILY: usize = 2;
/// How many links a thread has.
pub const LINKS: usize = 3;

type Next = Cell<Option<&'static Thread>>;

/// A thread's neighbours in a list.
#[derive(Default)]
pub struct Link {
    previous: Next,
    next: Next,
    listed: Cell<bool>,
}

/// Threads one after the other, by their link `LINK`.
pub struct List<const LINK: usize> {
    first: Next,
    last: Next,
}

impl<const LINK: usize> List<LINK> {
    /// Nobody.
    pub const fn new() -> Self {
        List { first: Cell::new(None), last: Cell::new(None) }
    }

    /// The first thread.
    pub fn first(&self) -> Option<&'static Thread> {
        self.first.get()
    }

    /// Who comes after `thread`, which is in this list.
    pub fn after(thread: &Thread) -> Option<&'static Thread> {
        thread.links[LINK].next.get()
    }

    /// Puts `thread` at the end.
    pub fn push(&self, thread: &'static Thread) {
        self.insert_after(self.last.get(), thread);
    }

    /// Puts `thread` where the order says: behind the last that may stand before it, looked for from the end.
    pub fn insert_sorted(&self, thread: &'static Thread, may_precede: impl Fn(&Thread) -> bool) {
        let mut place = self.last.get();
        while let Some(other) = place
            && !may_precede(other)
        {
            place = other.links[LINK].previous.get();
        }
        self.insert_after(place, thread);
    }

    fn insert_after(&self, place: Option<&'static Thread>, thread: &'static Thread) {
        let next = place.map_or(self.first.get(), Self::after);
        let link = &thread.links[LINK];
        link.previous.set(place);
        link.next.set(next);
        link.listed.set(true);
        place.map_or(&self.first, |place| &place.links[LINK].next).set(Some(thread));
        next.map_or(&self.last, |next| &next.links[LINK].previous).set(Some(thread));
    }

    /// Takes `thread` out, if it is in a list by this link: then in this one.
    pub fn remove(&self, thread: &Thread) {
        let link = &thread.links[LINK];
        if !link.listed.replace(false) {
            return;
        }
        let (previous, next) = (link.previous.get(), link.next.get());
        previous.map_or(&self.first, |previous| &previous.links[LINK].next).set(next);
        next.map_or(&self.last, |next| &next.links[LINK].previous).set(previous);
    }

    /// Takes the first out.
    pub fn pop(&self) -> Option<&'static Thread> {
        let thread = self.first.get()?;
        self.remove(thread);
        Some(thread)
    }
}
