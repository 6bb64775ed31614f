//! futex(2): what a program asks for, as operations on the queues.
//!
//! Source: futex(2).

use super::call::{Answer, Arguments};
use super::time::{duration, length};
use crate::bus::bus::lock;
use crate::process::space::Access;
use crate::process::task::Task;
use rustix::io::Errno;
use rustix::time::ClockId;
use std::sync::Arc;
use std::time::{Duration, Instant};

const WAIT: u32 = 0;
const WAKE: u32 = 1;
const REQUEUE: u32 = 3;
const CMP_REQUEUE: u32 = 4;
const WAIT_BITSET: u32 = 9;
const WAKE_BITSET: u32 = 10;
/// FUTEX_PRIVATE_FLAG, which only hints, and FUTEX_CLOCK_REALTIME.
const PRIVATE: u32 = 128;
const REALTIME: u32 = 256;

/// The word's key. A private word is told by the address space, since its frame may change.
fn key(task: &Task, address: u64) -> Result<(usize, u64), Errno> {
    if !address.is_multiple_of(4) {
        return Err(Errno::INVAL);
    }
    let own = Arc::as_ptr(&task.space) as usize;
    lock(&task.space).object_at(address, own).ok_or(Errno::FAULT)
}

/// How many, of an argument whose sign Linux does not look at.
fn count(argument: u64) -> usize {
    argument as i32 as u32 as usize
}

/// futex(2).
pub fn futex(task: &mut Task, [address, operation, value, timeout, other, third]: Arguments) -> Answer {
    let operation = operation as u32;
    let bits = match operation & !(PRIVATE | REALTIME) {
        WAIT_BITSET | WAKE_BITSET if third as u32 == 0 => return Err(Errno::INVAL),
        WAIT_BITSET | WAKE_BITSET => third as u32,
        _ => u32::MAX,
    };
    let at = key(task, address)?;
    let futexes = &task.world.futexes;
    let equals = |wanted: u64| task.read(address).map(|word| u32::from_le_bytes(word) == wanted as u32);
    match operation & !(PRIVATE | REALTIME) {
        kind @ (WAIT | WAIT_BITSET) => {
            let until = if timeout == 0 { None } else { Some(end(task, timeout, operation, kind == WAIT_BITSET)?) };
            futexes.wait(task, at, bits, until, || equals(value))?;
            Ok(0)
        }
        WAKE | WAKE_BITSET => {
            if task.memory().reachable(address, 4, Access::Read) < 4 {
                return Err(Errno::FAULT);
            }
            Ok(futexes.wake(at, count(value), bits) as u64)
        }
        kind @ (REQUEUE | CMP_REQUEUE) => {
            let to = key(task, other)?;
            let holds = || if kind == CMP_REQUEUE { equals(third) } else { Ok(true) };
            let (all, woken) = futexes.requeue(at, to, count(value), count(timeout), holds)?;
            Ok(if kind == CMP_REQUEUE { all } else { woken } as u64)
        }
        _ => Err(Errno::NOSYS),
    }
}

/// When a wait ends: after a time, or at a time of one of two clocks.
fn end(task: &Task, address: u64, operation: u32, absolute: bool) -> Result<Instant, Errno> {
    let time = duration(task, address)?;
    let mut left = length(time);
    if absolute {
        let clock = if operation & REALTIME != 0 { ClockId::Realtime } else { ClockId::Monotonic };
        left = left.saturating_sub(length(rustix::time::clock_gettime(clock)));
    }
    // Later than any program waits.
    let latest = Duration::from_secs(u32::MAX.into());
    Ok(Instant::now() + left.min(latest))
}
