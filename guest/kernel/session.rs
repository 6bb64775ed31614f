//! What the shell does with the kernel: starts it, starts programs, waits for them and for what is typed.
//!
//! The shell is not a process: it runs in ring 0 on the first processor, before any thread, and holds the lock. When it has to wait
//! it leaves its stack, frees the lock, and the processor is the scheduler's until there is something for it.

use core::cell::Cell;

use guest::start_info::StartInfo;
use guest::{apic, typed};

use super::abi::{END_KILLED, Ended, Error};
use super::process::Process;
use super::processor::{self, Cpu};
use super::{Locked, console, disk, frames, net, programs, scheduler, table, time, wait};

struct Session {
    started: Cell<bool>,
    /// Where it goes on, if it waits; and whether there is a reason to.
    stack_pointer: Cell<u64>,
    waits: Cell<bool>,
    woken: Cell<bool>,
}

static SESSION: Locked<Session> = Locked(Session {
    started: Cell::new(false),
    stack_pointer: Cell::new(0),
    waits: Cell::new(false),
    woken: Cell::new(false),
});

unsafe extern "C" {
    fn kernel_leave_shell(stack_pointer: *mut u64, stack_top: u64, leave: extern "C" fn() -> !);
    fn kernel_enter_shell(stack_pointer: u64) -> !;
}

/// Starts the kernel, once: what no program asks for is not there, and costs a start nothing.
pub fn start(info: &StartInfo) {
    if SESSION.started.replace(true) {
        return;
    }
    apic::enable();
    typed::init();
    frames::init(info);
    time::init();
    processor::init(info);
    console::init();
    disk::init();
    net::init();
}

/// Whether the kernel has been started.
pub fn is_started() -> bool {
    SESSION.started.get()
}

/// Starts the built-in program `name`; its process id.
pub fn spawn(info: &StartInfo, name: &[u8], arguments: &[u8], is_foreground: bool) -> Result<u64, Error> {
    let program = programs::find(name).ok_or(Error::NoEntry)?;
    start(info);
    Ok(Process::spawn(program, arguments, 0, is_foreground)?.pid.get())
}

/// Waits for the end of a process that the shell has started, and forgets it. Ctrl-C ends it.
pub fn wait_for(pid: u64) -> Option<Ended> {
    let process = Process::find(pid)?;
    process.is_foreground.set(true);
    // What was typed is for it now.
    wait::wake(wait::CONSOLE, u64::MAX, 0);
    wait::wake_pollers();
    while !process.is_gone.get() {
        if console::take_interrupt() {
            for process in Process::all().filter(|process| process.is_foreground.get()) {
                process.end(Ended { kind: END_KILLED, value: 0 });
            }
        }
        if !process.is_gone.get() {
            wait();
        }
    }
    Some(process.reap())
}

/// A process that has ended and has no parent but the shell: its id, name and how it ended. It is forgotten.
pub fn ended_one() -> Option<(u64, &'static str, Ended)> {
    let process = Process::all().find(|process| process.is_gone.get() && process.parent.get() == 0)?;
    let (pid, name) = (process.pid.get(), process.name());
    Some((pid, name, process.reap()))
}

/// A process of the shell's that has not ended yet.
pub fn running_one() -> Option<u64> {
    Process::all().find(|process| process.parent.get() == 0).map(|process| process.pid.get())
}

/// Prints the table of processes.
pub fn print_table() {
    if is_started() {
        table::print();
    }
}

/// Ends a process; says whether there is one.
pub fn kill(pid: u64) -> bool {
    let process = Process::find(pid).filter(|process| process.ended.get().is_none());
    process.inspect(|process| process.end(Ended { kind: END_KILLED, value: 0 })).is_some()
}

/// The next byte typed.
pub fn read() -> u8 {
    if !is_started() {
        return typed::read();
    }
    loop {
        console::take_interrupt();
        if let Some(byte) = console::take() {
            return byte;
        }
        wait();
    }
}

/// Lets everybody else run until [`wake`].
fn wait() {
    let cpu = processor::get(0);
    SESSION.woken.set(false);
    SESSION.waits.set(true);
    // SAFETY: this is the shell, on its own stack; that of the processor is empty.
    unsafe { kernel_leave_shell(SESSION.stack_pointer.as_ptr(), cpu.stack_top(), leave) };
}

/// Where the first processor goes on when the shell waits.
extern "C" fn leave() -> ! {
    scheduler::leave(processor::get(0))
}

/// There is something for the shell: a byte, or the end of a process.
pub fn wake() {
    if SESSION.waits.get() && !SESSION.woken.replace(true) {
        processor::interrupt(0);
    }
}

/// Whether the shell is to go on, on this processor.
pub fn can_go_on(cpu: &Cpu) -> bool {
    SESSION.woken.get() && SESSION.waits.get() && cpu.index() == 0
}

/// The shell goes on.
pub fn go_on() -> ! {
    SESSION.waits.set(false);
    // SAFETY: where `wait` has left its stack.
    unsafe { kernel_enter_shell(SESSION.stack_pointer.get()) }
}
