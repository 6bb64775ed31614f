//! Waiting until files are ready: poll(2), ppoll(2), select(2), pselect6(2).
//!
//! Sources: poll(2), select(2); Linux `fs/select.c`.

use super::call::{Answer, Arguments};
use super::signals::masked;
use super::time::{limit, milliseconds, pair};
use crate::process::files::{FILES_MAX, OpenFile};
use crate::process::task::Task;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A number that is asked about, for what, and what was found.
#[derive(Clone, Copy)]
struct Interest {
    number: i32,
    events: u16,
    found: u16,
}

/// poll(2).
pub fn poll(task: &mut Task, [list, count, timeout_ms, ..]: Arguments) -> Answer {
    poll_list(task, list, count, milliseconds(timeout_ms))
}

/// ppoll(2).
pub fn ppoll(task: &mut Task, [list, count, timeout, mask, size, _]: Arguments) -> Answer {
    let limit = limit(task, timeout)?;
    masked(task, mask, size, |task| poll_list(task, list, count, limit))
}

fn poll_list(task: &Task, list: u64, count: u64, timeout: Option<Duration>) -> Answer {
    if count > FILES_MAX as u64 {
        return Err(Errno::INVAL);
    }
    let bytes = task.read_vec(list, count as usize * 8)?;
    let half = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    let mut interests: Vec<Interest> = bytes
        .chunks_exact(8)
        .map(|entry| Interest {
            number: i32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]),
            events: half(&entry[4..]),
            found: 0,
        })
        .collect();
    let ready = wait(task, &mut interests, timeout)?;
    for (index, interest) in (0..).zip(&interests) {
        task.write(list + index * 8 + 6, &interest.found.to_le_bytes())?;
    }
    Ok(ready)
}

/// Waits until one of them is ready; how many are.
fn wait(task: &Task, interests: &mut [Interest], timeout: Option<Duration>) -> Answer {
    let files: Vec<Option<Arc<OpenFile>>> =
        interests.iter().map(|interest| task.file(interest.number as u64).ok()).collect();
    let mut closed = 0;
    let mut polled = Vec::new();
    for (interest, file) in interests.iter_mut().zip(&files) {
        match file {
            Some(file) => {
                polled.push(PollFd::from_borrowed_fd(file.fd(), PollFlags::from_bits_retain(interest.events)));
            }
            None if interest.number >= 0 => {
                interest.found = PollFlags::NVAL.bits();
                closed += 1;
            }
            None => {}
        }
    }
    let timeout = if closed > 0 { Some(Duration::ZERO) } else { timeout };
    let ready = poll_host(task, &mut polled, timeout)?;
    let mut results = polled.iter();
    for (interest, _) in interests.iter_mut().zip(&files).filter(|(_, file)| file.is_some()) {
        interest.found = results.next().map_or(0, |entry| entry.revents().bits());
    }
    Ok(ready as u64 + closed)
}

fn poll_host(task: &Task, polled: &mut [PollFd], timeout: Option<Duration>) -> Result<usize, Errno> {
    wait_on_host(task, timeout, |left| rustix::event::poll(polled, left))
}

/// Waits on the host by `ask`, which tells how many are ready in a time. What is ready counts before a signal that is due.
///
/// # Errors
/// EINTR, and what `ask` gives.
pub fn wait_on_host(
    task: &Task,
    timeout: Option<Duration>,
    mut ask: impl FnMut(Option<&Timespec>) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    // A time that cannot be told is later than any program waits.
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let interrupted = task.is_interrupted();
        let left = match (interrupted, until) {
            (true, _) => Some(Duration::ZERO),
            (false, until) => until.map(|until| until.saturating_duration_since(Instant::now())),
        };
        let left = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        match ask(left.as_ref()) {
            Ok(0) if interrupted => return Err(Errno::INTR),
            // It was taken out, maybe late, for a signal that is dealt with.
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

/// select(2).
pub fn select(task: &mut Task, [count, reads, writes, exceptions, timeout, _]: Arguments) -> Answer {
    let limit = match timeout {
        0 => None,
        address => {
            let [seconds, micros] = [task.read_u64(address)?, task.read_u64(address.wrapping_add(8))?];
            if (seconds as i64) < 0 || (micros as i64) < 0 {
                return Err(Errno::INVAL);
            }
            Some(Duration::from_secs(seconds.min(i64::MAX as u64 / 2)) + Duration::from_micros(micros.min(1 << 50)))
        }
    };
    let start = Instant::now();
    let answer = select_sets(task, count, [reads, writes, exceptions], limit)?;
    if let Some(limit) = limit {
        let left = limit.saturating_sub(start.elapsed());
        task.write(timeout, &pair(left.as_secs() as i64, left.subsec_micros().into()))?;
    }
    Ok(answer)
}

/// pselect6(2). The last argument points to the set of signals and its size.
pub fn pselect6(task: &mut Task, [count, reads, writes, exceptions, timeout, mask]: Arguments) -> Answer {
    let limit = limit(task, timeout)?;
    let [set, size] = match mask {
        0 => [0; 2],
        address => [task.read_u64(address)?, task.read_u64(address.wrapping_add(8))?],
    };
    masked(task, set, size, |task| select_sets(task, count, [reads, writes, exceptions], limit))
}

/// What each of the three sets asks for and is told by (Linux `fs/select.c` POLLIN_SET, POLLOUT_SET, POLLEX_SET).
const ASKED: [PollFlags; 3] = [PollFlags::IN, PollFlags::OUT, PollFlags::PRI];
const TOLD: [PollFlags; 3] = [
    PollFlags::IN.union(PollFlags::RDHUP).union(PollFlags::HUP).union(PollFlags::ERR),
    PollFlags::OUT.union(PollFlags::ERR),
    PollFlags::PRI,
];

fn select_sets(task: &Task, count: u64, addresses: [u64; 3], timeout: Option<Duration>) -> Answer {
    let count = usize::try_from(count as i32).map_err(|_| Errno::INVAL)?.min(FILES_MAX as usize);
    let size = count.div_ceil(64) * 8;
    let mut sets = Vec::new();
    for address in addresses {
        sets.push(if address == 0 { vec![0; size] } else { task.read_vec(address, size)? });
    }
    let has = |set: &[u8], number: usize| set[number / 8] >> (number % 8) & 1 != 0;
    let mut interests = Vec::new();
    for number in 0..count {
        let wanted = ASKED.iter().zip(&sets).filter(|(_, set)| has(set, number));
        let events = wanted.fold(PollFlags::empty(), |events, (flag, _)| events | *flag);
        if !events.is_empty() {
            task.file(number as u64)?;
            interests.push(Interest { number: number as i32, events: events.bits(), found: 0 });
        }
    }
    wait(task, &mut interests, timeout)?;
    let mut ready = 0;
    for ((set, address), told) in sets.iter_mut().zip(addresses).zip(TOLD) {
        let asked = std::mem::replace(set, vec![0; size]);
        for interest in &interests {
            let number = interest.number as usize;
            if has(&asked, number) && PollFlags::from_bits_retain(interest.found).intersects(told) {
                set[number / 8] |= 1 << (number % 8);
                ready += 1;
            }
        }
        if address != 0 {
            task.write(address, set)?;
        }
    }
    Ok(ready)
}
