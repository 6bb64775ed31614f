//! Signals: what is to be done about them, and sending them.
//!
//! A signal that ends a process ends it; handlers are noted and not run. Sources: signal(7), rt_sigaction(2), kill(2).

use super::call::{Answer, Arguments};
use crate::bus::bus::lock;
use crate::process::task::{End, Task};
use crate::process::world::{Action, SIGNALS};
use rustix::io::Errno;

/// Bytes of a set of signals.
const SET_SIZE: u64 = 8;
/// SIGKILL and SIGSTOP, which cannot be blocked.
const UNBLOCKABLE: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);

/// rt_sigaction(2).
pub fn rt_sigaction(task: &mut Task, [signal, new, old, size, ..]: Arguments) -> Answer {
    let signal = signal as i32;
    if size != SET_SIZE || !(1..=SIGNALS as i32).contains(&signal) {
        return Err(Errno::INVAL);
    }
    let wanted = if new == 0 { None } else { Some(task.read::<32>(new)?) };
    if wanted.is_some() && matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
        return Err(Errno::INVAL);
    }
    let index = signal as usize - 1;
    let before = lock(&task.process.actions)[index];
    if let Some(bytes) = wanted {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a word has eight bytes"));
        let action = Action { handler: word(0), flags: word(8), restorer: word(16), mask: word(24) };
        lock(&task.process.actions)[index] = action;
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
        task.blocked = blocked & !UNBLOCKABLE;
    }
    if old != 0 {
        task.write(old, &before.to_le_bytes())?;
    }
    Ok(0)
}

/// sigaltstack(2): there is none, and none is needed without handlers.
pub fn sigaltstack(task: &mut Task, [_, old, ..]: Arguments) -> Answer {
    if old != 0 {
        let words = [0, libc::SS_DISABLE as u64, 0];
        task.write(old, words.map(u64::to_le_bytes).as_flattened())?;
    }
    Ok(0)
}

/// kill(2).
pub fn kill(task: &mut Task, [process, signal, ..]: Arguments) -> Answer {
    let signal = signal as i32;
    if !(0..=SIGNALS as i32).contains(&signal) {
        return Err(Errno::INVAL);
    }
    let found = task.world.processes.find(process as i32, &task.process);
    if found.is_empty() {
        return Err(Errno::SRCH);
    }
    for process in found.iter().filter(|_| signal != 0) {
        if process.id == task.process.id {
            send(task, signal)?;
        } else if !process.ignores(signal) {
            task.world.processes.end(process, End::Killed(signal));
        }
    }
    Ok(0)
}

/// tkill(2), to oneself.
pub fn tkill(task: &mut Task, [thread, signal, ..]: Arguments) -> Answer {
    match thread as i32 {
        ..=0 => Err(Errno::INVAL),
        thread if thread != task.id => Err(Errno::SRCH),
        _ => send(task, signal as i32),
    }
}

/// tgkill(2), to oneself.
pub fn tgkill(task: &mut Task, [process, thread, signal, ..]: Arguments) -> Answer {
    if process as i32 <= 0 {
        return Err(Errno::INVAL);
    }
    if process as i32 != task.process.id {
        return Err(Errno::SRCH);
    }
    tkill(task, [thread, signal, 0, 0, 0, 0])
}

fn send(task: &mut Task, signal: i32) -> Answer {
    if !(0..=SIGNALS as i32).contains(&signal) {
        return Err(Errno::INVAL);
    }
    if signal != 0 && task.blocked & 1 << (signal - 1) == 0 {
        task.raise(signal);
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::Bench;
    use std::process::{Command, Stdio};

    #[test]
    fn signals_reach_no_process_of_the_host() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let numbers = [child.id(), std::process::id(), std::os::unix::process::parent_id()].map(|id| id as i32);
        let mut bench = Bench::new(&std::env::temp_dir(), false, false, &[]);
        let task = bench.task(0).unwrap();
        let own = task.id;
        for id in numbers.into_iter().filter(|id| *id != own) {
            let id = id as u64;
            for signal in [0, libc::SIGKILL as u64, libc::SIGTERM as u64] {
                assert_eq!(kill(task, [id, signal, 0, 0, 0, 0]), Err(Errno::SRCH));
                assert_eq!(kill(task, [id.wrapping_neg(), signal, 0, 0, 0, 0]), Err(Errno::SRCH));
                assert_eq!(tkill(task, [id, signal, 0, 0, 0, 0]), Err(Errno::SRCH));
                assert_eq!(tgkill(task, [id, id, signal, 0, 0, 0]), Err(Errno::SRCH));
            }
        }
        assert_eq!(kill(task, [u64::MAX, 9, 0, 0, 0, 0]), Err(Errno::SRCH), "there is no other");
        assert_eq!(kill(task, [0, 9, 0, 0, 0, 0]), Ok(0), "its own group");
        assert_eq!(task.ends(), Some(End::Killed(9)));
        assert_eq!(child.try_wait().unwrap(), None);
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}
