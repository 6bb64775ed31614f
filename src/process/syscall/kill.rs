//! Sending signals to processes and threads of the same machine: kill(2), tgkill(2), sigqueue(3).
//!
//! All act as one user, so all may send to all. Sources: kill(2), tkill(2), rt_sigqueueinfo(2).

use super::call::{Answer, Arguments};
use crate::process::signal::info::{Info, SI_TKILL, SI_USER, USED_SIZE};
use crate::process::signal::state::SIGNALS;
use crate::process::task::Task;
use rustix::io::Errno;

/// A signal's number; 0 only asks whether there is somebody to send to.
fn number(signal: u64) -> Result<i32, Errno> {
    let signal = signal as i32;
    if (0..=SIGNALS as i32).contains(&signal) { Ok(signal) } else { Err(Errno::INVAL) }
}

/// kill(2).
pub fn kill(task: &mut Task, [process, signal, ..]: Arguments) -> Answer {
    let signal = number(signal)?;
    let found = task.world.processes.find(process as i32, &task.process);
    if found.is_empty() {
        return Err(Errno::SRCH);
    }
    for process in found.iter().filter(|_| signal != 0) {
        // Only a real-time signal can be one too many.
        task.world.processes.signal(process, None, Info::sent(signal, SI_USER, task.process.id), Some(task.id))?;
    }
    Ok(0)
}

/// tkill(2).
pub fn tkill(task: &mut Task, [thread, signal, ..]: Arguments) -> Answer {
    let info = Info::sent(number(signal)?, SI_TKILL, task.process.id);
    to_thread(task, None, thread as i32, info)
}

/// tgkill(2).
pub fn tgkill(task: &mut Task, [process, thread, signal, ..]: Arguments) -> Answer {
    let info = Info::sent(number(signal)?, SI_TKILL, task.process.id);
    to_thread(task, Some(process as i32), thread as i32, info)
}

/// rt_sigqueueinfo(2).
pub fn rt_sigqueueinfo(task: &mut Task, [process, signal, info, ..]: Arguments) -> Answer {
    let info = queued(task, signal, info, process as i32)?;
    let found = task.world.processes.find(process as i32, &task.process).pop().filter(|_| process as i32 > 0);
    let found = found.ok_or(Errno::SRCH)?;
    if info.signal() != 0 {
        task.world.processes.signal(&found, None, info, Some(task.id))?;
    }
    Ok(0)
}

/// rt_tgsigqueueinfo(2).
pub fn rt_tgsigqueueinfo(task: &mut Task, [process, thread, signal, info, ..]: Arguments) -> Answer {
    let info = queued(task, signal, info, process as i32)?;
    to_thread(task, Some(process as i32), thread as i32, info)
}

/// What a program wants to be told. To others it cannot say that the kernel or kill(2) sent it.
fn queued(task: &Task, signal: u64, address: u64, to: i32) -> Result<Info, Errno> {
    let bytes = task.read::<USED_SIZE>(address)?;
    let info = Info::from_program(number(signal)?, bytes);
    let pretends = info.code() >= 0 || info.code() == SI_TKILL;
    if pretends && to != task.process.id { Err(Errno::PERM) } else { Ok(info) }
}

fn to_thread(task: &mut Task, process: Option<i32>, thread: i32, info: Info) -> Answer {
    if thread <= 0 || process.is_some_and(|process| process <= 0) {
        return Err(Errno::INVAL);
    }
    let found = task.world.processes.process_of(thread).ok_or(Errno::SRCH)?;
    if process.is_some_and(|process| process != found.id) {
        return Err(Errno::SRCH);
    }
    if info.signal() != 0 {
        task.world.processes.signal(&found, Some(thread), info, Some(task.id))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::Bench;
    use crate::process::task::End;
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
