//! Waiting: a thread sleeps for a *key*, a number for whatever it is that may happen, and is woken by that number.
//!
//! A futex's key is where its word lies in physical memory, so that it is the same for all who share it. Lists are found by a hash, so
//! that neither sleeping nor waking looks at those who wait for something else. Pollers, who wait for many things, are in a list of
//! their own, and look again whenever a device has done something.

use super::Locked;
use super::abi::FOREVER;
use super::list::{List, QUEUE};
use super::scheduler;
use super::thread::{State, Thread};
use super::time;

const BUCKET_BITS: u32 = 6;
static BUCKETS: Locked<[List<QUEUE>; 1 << BUCKET_BITS]> = Locked([const { List::new() }; 1 << BUCKET_BITS]);
static POLLERS: Locked<List<QUEUE>> = Locked(List::new());

/// Kinds of keys, in the topmost byte; futexes have none. Of a poller the topmost bit is set.
const POLLER: u64 = 1 << 63;
/// Something is typed.
pub const CONSOLE: u64 = 1 << 56;
/// A frame has come, or one has gone.
pub const NET: u64 = 2 << 56;
/// Nothing but time.
pub const SLEEP: u64 = 3 << 56;

/// The end of a thread.
pub fn thread_key(tid: u64) -> u64 {
    4 << 56 | tid
}

/// The end of a child of this process.
pub fn child_key(parent: u64) -> u64 {
    5 << 56 | parent
}

/// What a file's read waits for.
pub fn file_key(file: u64) -> u64 {
    6 << 56 | file
}

/// What happens to a call whose wait is over.
#[derive(Clone, Copy)]
pub enum After {
    /// It is made anew.
    Again,
    /// Its result is what whoever wakes gives, or this when the time is over.
    Result(u64),
}

fn list(key: u64) -> &'static List<QUEUE> {
    if key & POLLER != 0 {
        return &POLLERS;
    }
    &BUCKETS[(key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BUCKET_BITS)) as usize]
}

/// Has `thread`, which runs here, wait for `key`.
pub fn wait(thread: &'static Thread, key: u64, deadline_ns: u64, after: After) {
    thread.state.set(State::Waiting);
    thread.key.set(key);
    thread.voluntary_switches.set(thread.voluntary_switches.get() + 1);
    match after {
        After::Again => {
            /// Bytes of `INT 0x80`.
            const INSTRUCTION: u64 = 2;
            thread.context.rip.set(thread.context.rip.get() - INSTRUCTION);
            thread.system_calls.set(thread.system_calls.get() - 1);
            let process = thread.process();
            process.system_calls.set(process.system_calls.get() - 1);
            thread.late_result.set(None);
        }
        After::Result(result) => thread.late_result.set(Some(result)),
    }
    list(key).push(thread);
    if deadline_ns != FOREVER {
        thread.deadline_ns.set(deadline_ns);
        time::watch(thread);
    }
}

/// Has `thread` wait for the devices, or for a futex's key; the call is made anew.
pub fn poll(thread: &'static Thread, futex: u64, deadline_ns: u64) {
    wait(thread, POLLER | futex, deadline_ns, After::Again);
}

/// Wakes up to `count` that wait for `key`, with this result; how many. Pollers that wait for it too look again.
pub fn wake(key: u64, count: u64, result: u64) -> u64 {
    let mut woken = 0;
    let mut next = list(key).first();
    while let Some(thread) = next
        && woken < count
    {
        next = List::<QUEUE>::after(thread);
        if thread.key.get() == key {
            end(thread, result);
            woken += 1;
        }
    }
    let mut next = POLLERS.first();
    while let Some(thread) = next {
        next = List::<QUEUE>::after(thread);
        if thread.key.get() == POLLER | key {
            end(thread, 0);
        }
    }
    woken
}

/// A device has done something: pollers look again.
pub fn wake_pollers() {
    while let Some(thread) = POLLERS.first() {
        end(thread, 0);
    }
}

/// The time of `thread` is over.
pub fn expire(thread: &'static Thread) {
    end(thread, thread.late_result.get().unwrap_or_default());
}

/// `thread` is ready, and its call has this result unless it is made anew.
fn end(thread: &'static Thread, result: u64) {
    forget(thread);
    if thread.late_result.get().is_some() {
        thread.context.rax.set(result);
    }
    scheduler::make_ready(thread);
}

/// `thread` waits no longer, if it does.
pub fn forget(thread: &Thread) {
    if thread.state.get() == State::Waiting {
        list(thread.key.get()).remove(thread);
        time::forget(thread);
    }
}
