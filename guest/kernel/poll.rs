//! Waiting for any of several things: descriptors, a word of memory, time.
//!
//! The call looks at each; if none is ready the thread sleeps until a device has done something or the word's futex is woken, and the
//! call is made anew. When it is over was decided the first time.

use guest::memory::read32;

use super::abi::{Error, INVALID, POLL_MAX, Poll};
use super::calls::Outcome;
use super::files;
use super::memory_calls::{deadline, futex_key};
use super::thread::Thread;
use super::time;
use super::wait;

/// Bytes of an entry, and of its first word; its second is what is wanted, its third what is ready.
const ENTRY_BYTES: u64 = size_of::<Poll>() as u64;
const WORD: u64 = 4;

/// Looks at the entries, and waits.
pub fn poll(thread: &'static Thread, entries: u64, count: u64, timeout_ns: u64, word: u64, expected: u32) -> Outcome {
    if count > POLL_MAX {
        return Err(Error::Invalid);
    }
    let ready = look(thread, entries, count);
    let futex = if word == 0 { Ok(0) } else { futex_key(thread.process(), word) };
    let (Ok(ready), Ok(futex)) = (ready, futex) else {
        thread.poll_deadline_ns.set(0);
        return Err(ready.err().or(futex.err()).unwrap_or(Error::Fault));
    };
    if thread.poll_deadline_ns.get() == 0 {
        thread.poll_deadline_ns.set(deadline(timeout_ns).max(1));
    }
    let until = thread.poll_deadline_ns.get();
    let has_changed = futex != 0 && read32(futex) != expected;
    if ready != 0 || has_changed || timeout_ns == 0 || (until != u64::MAX && time::now_ns() >= until) {
        thread.poll_deadline_ns.set(0);
        return Ok(Some(ready));
    }
    wait::poll(thread, futex, until);
    Ok(None)
}

/// Writes to each entry what is ready; how many have something.
fn look(thread: &Thread, entries: u64, count: u64) -> Result<u64, Error> {
    let process = thread.process();
    let mut ready = 0;
    for index in 0..count {
        let at = entries.wrapping_add(index * ENTRY_BYTES);
        let (mut descriptor, mut wanted) = (0u32, 0u32);
        process.space.copy_in(&raw mut descriptor as u64, at, WORD)?;
        process.space.copy_in(&raw mut wanted as u64, at.wrapping_add(WORD), WORD)?;
        let is = files::readiness(process, descriptor).map_or(INVALID, |is| is & wanted);
        process.space.copy_out(at.wrapping_add(2 * WORD), &raw const is as u64, WORD)?;
        ready += u64::from(is != 0);
    }
    Ok(ready)
}
