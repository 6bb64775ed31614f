//! A system call from its number to its answer.
//!
//! Source: System V ABI AMD64 §A.2.1 (registers of a system call).

use super::table;
use crate::process::signal::handling::Interrupted;
use crate::process::task::Task;
use crate::process::windows::guest;
use rustix::io::Errno;

/// Calls that are not answered and that nobody is told of: C libraries try them in every program and do without.
const DISPENSABLE: [i64; 3] = [libc::SYS_rseq, libc::SYS_set_robust_list, libc::SYS_clone3];

/// Arguments of a call, in order.
pub type Arguments = [u64; 6];
/// What a call gives.
pub type Answer = Result<u64, Errno>;

/// Makes the call that the task's registers ask for, and puts its answer there. The flags and RIP are those behind the call already.
pub fn call(task: &mut Task) {
    if let Some(mut guest) = task.foreign.take() {
        guest::call(task, &mut guest);
        task.foreign = Some(guest);
        return;
    }
    let number = task.regs.rax;
    let regs = &task.regs;
    let arguments = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
    // The trace holds on to what an argument points to before the call changes it.
    let shown = task.world.trace.is_some().then(|| task.world.clone());
    let line = shown.as_ref().and_then(|world| Some(world.trace.as_ref()?.begin(task, number, arguments)));
    let answer = answer(task, number, arguments);
    if answer == Err(Errno::INTR) {
        task.handling.interrupted = Some(Interrupted::new(number, &arguments));
    }
    if let (Some(world), Some(line)) = (&shown, line)
        && let Some(trace) = &world.trace
    {
        trace.finish(task, line, answer);
    }
    if task.reload == crate::process::task::Reload::Program {
        return;
    }
    task.regs.rax = match answer {
        Ok(value) => value,
        Err(error) => (-i64::from(error.raw_os_error())) as u64,
    };
}

fn answer(task: &mut Task, number: u64, arguments: Arguments) -> Answer {
    let Some(row) = table::find(number) else {
        if !DISPENSABLE.contains(&(number as i64)) {
            task.world.note_unknown(number);
        }
        return Err(Errno::NOSYS);
    };
    if task.world.rules.forbid(number) {
        return Err(Errno::PERM);
    }
    (row.answer)(task, arguments)
}
