//! The table of processes: each thread with its context, as the shell's `ps` prints it and programs get it.

use guest::print;
use guest::text::Hex;

use super::abi::{Error, Row, STATE_ENDED, STATE_READY, STATE_RUNNING, STATE_WAITING};
use super::calls::Outcome;
use super::files::Kind;
use super::process::Process;
use super::processor;
use super::thread::{State, Thread};
use super::time;

/// What a thread is doing, as a number of `abi` and as a word.
fn state(thread: &Thread) -> (u64, &'static str) {
    match thread.state.get() {
        State::Running => (STATE_RUNNING, "running"),
        State::Ready => (STATE_READY, "ready"),
        State::Waiting => (STATE_WAITING, "waiting"),
        _ => (STATE_ENDED, "ended"),
    }
}

/// Its time on processors, with what it has run just now.
fn cpu_ticks(thread: &Thread) -> u64 {
    let cpu = processor::get(thread.cpu.get());
    let running = match thread.state.get() {
        State::Running => guest::cpu::time_stamp() - cpu.since_ticks.get(),
        _ => 0,
    };
    thread.cpu_ticks.get() + running
}

/// Prints it. RIP of a thread that runs on another processor is where it was in the kernel last.
pub fn print() {
    print!("pid tid state cpu cr3 rip rsp ms calls files program\n");
    for thread in Thread::all() {
        let process = thread.process();
        print!(process.pid.get(), " ", thread.tid.get(), " ", state(thread).1, " ", thread.cpu.get(), " ");
        print!(Hex(process.space.root()), " ", Hex(thread.context.rip.get()), " ", Hex(thread.context.rsp.get()), " ");
        print!(cpu_ticks(thread) / time::ticks_per_ms().max(1), " ", thread.system_calls.get(), " ");
        for (number, file) in process.files.iter().enumerate() {
            let letter = match file.kind.get() {
                Kind::Closed => continue,
                Kind::Console => "c",
                Kind::Net => "n",
                Kind::Disk => "d",
            };
            print!(number as u64, letter);
        }
        print!(" ", process.name(), "\n");
    }
}

/// Writes it to the memory of `process`, as far as `rows` reach; how many there are.
pub fn snapshot(process: &Process, place: u64, rows: u64) -> Outcome {
    let mut count = 0;
    for thread in Thread::all() {
        if count < rows {
            write(process, place.wrapping_add(count * size_of::<Row>() as u64), thread)?;
        }
        count += 1;
    }
    Ok(Some(count))
}

/// Writes one row, a number after the other.
fn write(process: &Process, place: u64, thread: &Thread) -> Result<(), Error> {
    let of = thread.process();
    let mut open_files = 0;
    for (number, file) in of.files.iter().enumerate() {
        open_files |= u64::from(file.kind.get() != Kind::Closed) << number;
    }
    let waits_for = if thread.state.get() == State::Waiting { thread.context.rax.get() } else { 0 };
    let name_word = |index: usize| {
        let letters = of.name().bytes().skip(8 * index).take(8);
        letters.rev().fold(0, |word, letter| word << 8 | u64::from(letter))
    };
    let numbers = [
        of.pid.get(),
        of.parent.get(),
        thread.tid.get(),
        state(thread).0,
        waits_for,
        thread.cpu.get(),
        of.space.root(),
        thread.context.rip.get(),
        thread.context.rsp.get(),
        cpu_ticks(thread),
        open_files,
        name_word(0),
        name_word(1),
    ];
    process.space.copy_out(place, numbers.as_ptr() as u64, size_of::<Row>() as u64)
}
