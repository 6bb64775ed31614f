//! Signals: what is to be done about them, which are blocked and pending, and waiting for them.
//!
//! Sources: signal(7), sigaction(2), sigprocmask(2), sigsuspend(2), sigtimedwait(2), sigaltstack(2), sigreturn(2).

use super::call::{Answer, Arguments};
use super::time::limit;
use crate::bus::bus::lock;
use crate::process::signal::frame::AltStack;
use crate::process::signal::info::Info;
use crate::process::signal::state::{Action, DEFAULT, SIGNALS, Signals, UNBLOCKABLE, bit};
use crate::process::signal::terminal;
use crate::process::task::Task;
use rustix::io::Errno;
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

/// Bytes of a set of signals.
pub const SET_SIZE: u64 = 8;
/// SA_ flags that there are on x86-64, with SA_RESTORER.
const FLAGS: u64 = (libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT | libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART)
    as u64
    | (libc::SA_NODEFER | libc::SA_RESETHAND) as u32 as u64
    | 0x0400_0000;

/// rt_sigaction(2).
pub fn rt_sigaction(task: &mut Task, [signal, new, old, size, ..]: Arguments) -> Answer {
    let signal = signal as i32;
    if size != SET_SIZE || !(1..=SIGNALS as i32).contains(&signal) {
        return Err(Errno::INVAL);
    }
    let wanted = if new == 0 { None } else { Some(task.read::<32>(new)?) };
    if wanted.is_some() && UNBLOCKABLE & bit(signal) != 0 {
        return Err(Errno::INVAL);
    }
    let before = lock(&task.process.signals).action(signal);
    if let Some(bytes) = wanted {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a word has eight bytes"));
        let mask = word(24) & !UNBLOCKABLE;
        let action = Action { handler: word(0), flags: word(8) & FLAGS, restorer: word(16), mask };
        lock(&task.process.signals).set_action(signal, action);
        if signal == libc::SIGINT && action.handler != DEFAULT {
            // Where the host refuses, it ends Hostel as before.
            let _ = terminal::catch(&task.world);
        }
    }
    if old != 0 {
        let words = [before.handler, before.flags, before.restorer, before.mask];
        task.write(old, words.map(u64::to_le_bytes).as_flattened())?;
    }
    Ok(0)
}

/// rt_sigprocmask(2).
pub fn rt_sigprocmask(task: &mut Task, [how, new, old, size, ..]: Arguments) -> Answer {
    if size != SET_SIZE {
        return Err(Errno::INVAL);
    }
    let before = task.blocked;
    if new != 0 {
        let set = task.read_u64(new)?;
        let blocked = match how as i32 {
            libc::SIG_BLOCK => before | set,
            libc::SIG_UNBLOCK => before & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::INVAL),
        };
        task.set_blocked(blocked);
    }
    if old != 0 {
        task.write(old, &before.to_le_bytes())?;
    }
    Ok(0)
}

/// rt_sigpending(2): those that are blocked.
pub fn rt_sigpending(task: &mut Task, [set, size, ..]: Arguments) -> Answer {
    if size > SET_SIZE {
        return Err(Errno::INVAL);
    }
    let pending = lock(&task.process.signals).pending(task.id) & task.blocked;
    task.write(set, &pending.to_le_bytes()[..size as usize])?;
    Ok(0)
}

/// rt_sigreturn(2), with what the frame's RAX holds for an answer.
pub fn rt_sigreturn(task: &mut Task, _: Arguments) -> Answer {
    task.return_from_handler();
    Ok(task.regs.rax)
}

/// sigaltstack(2).
pub fn sigaltstack(task: &mut Task, [new, old, ..]: Arguments) -> Answer {
    let wanted = if new == 0 { None } else { Some(AltStack::from_bytes(&task.read::<24>(new)?)) };
    let before = task.told_stack();
    wanted.map_or(Ok(()), |stack| task.set_stack(stack))?;
    if old != 0 {
        task.write(old, &before.bytes())?;
    }
    Ok(0)
}

/// pause(2).
pub fn pause(task: &mut Task, _: Arguments) -> Answer {
    wait(task, None, |_| None::<()>)?;
    Err(Errno::INTR)
}

/// rt_sigsuspend(2).
pub fn rt_sigsuspend(task: &mut Task, [set, size, ..]: Arguments) -> Answer {
    masked(task, set, size, |task| {
        wait(task, None, |_| None::<()>)?;
        Err(Errno::INTR)
    })
}

/// Makes a call that waits with the signals blocked of the set at `address`, if there is one. Where it is interrupted the old mask comes back
/// behind the handler, else at once.
///
/// # Errors
/// EFAULT, EINVAL: it is no set; what the call gives.
pub fn masked(task: &mut Task, address: u64, size: u64, call: impl FnOnce(&mut Task) -> Answer) -> Answer {
    if address == 0 {
        return call(task);
    }
    if size != SET_SIZE {
        return Err(Errno::INVAL);
    }
    let (set, before) = (task.read_u64(address)?, task.blocked);
    task.set_blocked(set);
    let answer = call(task);
    if answer == Err(Errno::INTR) {
        task.handling.saved_mask = Some(before);
    } else {
        task.set_blocked(before);
    }
    answer
}

/// rt_sigtimedwait(2).
pub fn rt_sigtimedwait(task: &mut Task, [set, info, timeout, size, ..]: Arguments) -> Answer {
    if size != SET_SIZE {
        return Err(Errno::INVAL);
    }
    let wanted = task.read_u64(set)? & !UNBLOCKABLE;
    // What cannot be told is later than any program waits.
    let until = limit(task, timeout)?.and_then(|limit| Instant::now().checked_add(limit));
    let id = task.id;
    let taken: Info = wait(task, until, |signals| signals.take_of(id, wanted))?.ok_or(Errno::AGAIN)?;
    if info != 0 {
        task.write(info, &taken.bytes())?;
    }
    Ok(taken.signal() as u64)
}

/// Waits until `take` finds something among the process's signals; `None` when `until` has come.
///
/// # Errors
/// EINTR: another signal came.
fn wait<T>(
    task: &Task,
    until: Option<Instant>,
    mut take: impl FnMut(&mut Signals) -> Option<T>,
) -> Result<Option<T>, Errno> {
    let mut signals: MutexGuard<Signals> = lock(&task.process.signals);
    loop {
        if let Some(found) = take(&mut signals) {
            return Ok(Some(found));
        }
        if task.process.ending().is_some() || signals.are_due(task.id) {
            return Err(Errno::INTR);
        }
        let signalled = &task.process.signalled;
        signals = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => signalled.wait(signals).unwrap_or_else(PoisonError::into_inner),
            Some(left) if left.is_zero() => return Ok(None),
            Some(left) => signalled.wait_timeout(signals, left).unwrap_or_else(PoisonError::into_inner).0,
        };
    }
}
