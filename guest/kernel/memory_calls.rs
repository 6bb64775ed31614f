//! The calls about memory: pages, and sleeping on a word.
//!
//! Source: Drepper, "Futexes Are Tricky" §2.

use guest::memory::read32;

use super::abi::{Error, FOREVER, PAGE};
use super::calls::Outcome;
use super::process::Process;
use super::processor;
use super::thread::Thread;
use super::time;
use super::wait::{self, After};

/// Most bytes of one call: more than a machine's RAM that the kernel uses.
const BYTES_MAX: u64 = 1 << 30;

/// Pages of zeroes.
pub fn map(process: &Process, bytes: u64) -> Outcome {
    if bytes == 0 || bytes > BYTES_MAX {
        return Err(Error::Invalid);
    }
    process.space.reserve(bytes.next_multiple_of(PAGE)).map(Some)
}

/// Gives pages back: no processor sees them any more when the call returns.
pub fn unmap(process: &Process, address: u64, bytes: u64) -> Outcome {
    if address % PAGE != 0 || bytes % PAGE != 0 || bytes > BYTES_MAX {
        return Err(Error::Invalid);
    }
    process.space.release(address, address.wrapping_add(bytes))?;
    processor::flush_others(&process.space);
    Ok(Some(0))
}

/// Where the word of a futex lies, which is its key.
pub fn futex_key(process: &Process, address: u64) -> Result<u64, Error> {
    if address % 4 != 0 {
        return Err(Error::Invalid);
    }
    process.space.resolve(address, false).ok_or(Error::Fault)
}

/// Sleeps if the word is as expected. With the lock held nobody can wake between the look and the sleep.
pub fn futex_wait(thread: &'static Thread, address: u64, expected: u32, timeout_ns: u64) -> Outcome {
    let key = futex_key(thread.process(), address)?;
    if read32(key) != expected {
        return Err(Error::Again);
    }
    if timeout_ns == 0 {
        return Err(Error::TimedOut);
    }
    wait::wait(thread, key, deadline(timeout_ns), After::Result(Error::TimedOut.result()));
    Ok(None)
}

/// Wakes who sleeps there.
pub fn futex_wake(process: &Process, address: u64, count: u64) -> Outcome {
    let key = futex_key(process, address)?;
    Ok(Some(wait::wake(key, count, 0)))
}

/// When a timeout is over.
pub fn deadline(timeout_ns: u64) -> u64 {
    if timeout_ns == FOREVER { FOREVER } else { time::now_ns().saturating_add(timeout_ns) }
}
