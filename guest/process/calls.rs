//! calls [ROUNDS]: what the kernel's services take, in ticks of the time stamp counter and in nanoseconds.
//!
//! Each line is the shortest of some rounds, divided by what was done in a round.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use process::abi::{FOREVER, PAGE};
use process::words::Words;
use process::{call, print, thread};

process::program!(main);

/// What is done in a round.
const COUNT: u64 = 100;
const STACK_BYTES: u64 = 16 << 10;

/// Whose turn it is of two threads.
static TURN: AtomicU32 = AtomicU32::new(0);

fn main(arguments: &[u8]) -> u64 {
    if arguments == b"nothing" {
        return 0;
    }
    let rounds = Words::of(arguments).number().unwrap_or(5).max(1);
    let per_ms = call::system().ticks_per_ms;
    let show = |name: &str, ticks: u64| print!("{ticks:10} ticks {:9} ns  {name}\n", ticks * 1_000_000 / per_ms);
    show("a system call that does nothing (getpid)", shortest(rounds, || times(call::getpid)));
    show("a system call that reads the clock", shortest(rounds, || times(call::clock_ns)));
    show("a yield while nobody else is ready", shortest(rounds, || times(call::yield_now)));
    show("a page that appears when it is touched", shortest(rounds, touch_pages));
    show("a thread started and waited for", shortest(rounds, start_threads));
    show("from one thread to another and back, by futex", shortest(rounds, hand_over));
    show("a process started and waited for", shortest(rounds, start_process));
    0
}

fn shortest(rounds: u64, mut round: impl FnMut() -> u64) -> u64 {
    (0..rounds).map(|_| round()).min().unwrap_or_default()
}

/// Ticks of one `call`.
fn times<T>(mut call: impl FnMut() -> T) -> u64 {
    let start = call::ticks();
    for _ in 0..COUNT {
        call();
    }
    (call::ticks() - start) / COUNT
}

fn touch_pages() -> u64 {
    let Ok(pages) = call::map(COUNT * PAGE) else { return 0 };
    let start = call::ticks();
    for index in 0..COUNT {
        // SAFETY: memory that was just given.
        unsafe { pages.add((index * PAGE) as usize).write_volatile(1) };
    }
    let ticks = (call::ticks() - start) / COUNT;
    // SAFETY: nobody uses it any more.
    let _ = unsafe { call::unmap(pages, COUNT * PAGE) };
    ticks
}

fn start_threads() -> u64 {
    times(|| thread::start(|_| 0, 0, STACK_BYTES).map(thread::Thread::join))
}

/// Two threads that wake each other in turn.
fn hand_over() -> u64 {
    fn wait_for(turn: u32) {
        while TURN.load(Ordering::Acquire) != turn {
            let _ = call::futex_wait(&TURN, 1 - turn, FOREVER);
        }
    }
    fn give(turn: u32) {
        TURN.store(turn, Ordering::Release);
        let _ = call::futex_wake(&TURN, 1);
    }
    let other = thread::start(
        |_| {
            for _ in 0..COUNT {
                wait_for(1);
                give(0);
            }
            0
        },
        0,
        STACK_BYTES,
    );
    let Ok(other) = other else { return 0 };
    let ticks = times(|| {
        give(1);
        wait_for(0);
    });
    let _ = other.join();
    ticks
}

fn start_process() -> u64 {
    let start = call::ticks();
    let Ok(pid) = call::spawn(b"calls", b"nothing") else { return 0 };
    let _ = call::wait(pid);
    call::ticks() - start
}
