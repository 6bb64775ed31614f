//! switch: what the kernel takes to go from one process to another, and from one thread to another of the same process.
//!
//! Two of them on one processor give it to each other again and again. A thread finds its address space where it was. A process
//! brings its own: CR3 is loaded, and the processor forgets which page lies where, so the difference grows with the pages that each
//! then touches. Words: none; `partner PAGES` is how the program starts its other process.
//! Source: Intel SDM vol. 3A §4.10.4.1 (a load of CR3 invalidates the TLB's entries).

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use process::words::Words;
use process::{call, print, thread};

process::program!(main);

/// Pages that each side touches whenever it has the processor.
const PAGES: [u64; 2] = [0, 64];
const PAGE: usize = process::abi::PAGE as usize;
const STACK_BYTES: u64 = 4 * process::abi::PAGE;
/// Turns that are measured at a time, and how often: the shortest counts, since what disturbs only adds.
const TURNS: u64 = 50;
const RUNS: usize = 5;
/// The processor that they share.
const CPU: u64 = 0;

/// The other thread is to end; and so many pages it touches.
static STOP: AtomicBool = AtomicBool::new(false);
static TOUCHED: AtomicU64 = AtomicU64::new(0);

fn main(arguments: &[u8]) -> u64 {
    let mut words = Words::of(arguments);
    let partner = match (words.next(), words.number()) {
        (None, _) => None,
        (Some(b"partner"), Some(pages)) if PAGES.contains(&pages) => Some(pages),
        _ => {
            print!("switch\n");
            return 2;
        }
    };
    call::thread_bind(CPU).expect("the first processor is there");
    let memory = call::map(PAGES[PAGES.len() - 1] * PAGE as u64).expect("there is memory");
    if let Some(pages) = partner {
        loop {
            take_turn(memory, pages);
        }
    }
    print!("{:<34}{:>12}{:>12}\n", "switch, ns", "processes", "threads");
    for pages in PAGES {
        let (processes, threads) = (between_processes(memory, pages), between_threads(memory, pages));
        print!("  each touching {pages:>2} pages of its own{processes:>12}{threads:>12}\n");
    }
    0
}

/// Touches so many pages, and lets the other run.
fn take_turn(memory: *mut u8, pages: u64) {
    for page in 0..pages as usize {
        // SAFETY: `main` has mapped them.
        unsafe { memory.add(page * PAGE).read_volatile() };
    }
    call::yield_now();
}

/// Nanoseconds of a switch to another process or back.
fn between_processes(memory: *mut u8, pages: u64) -> u64 {
    let mut arguments = *b"partner   ";
    arguments[8] = b'0' + (pages / 10) as u8;
    arguments[9] = b'0' + (pages % 10) as u8;
    let pid = call::spawn(b"switch", &arguments).expect("there is room for a process");
    let time = measure(memory, pages);
    call::kill(pid).expect("it runs");
    call::wait(pid).expect("it is a child");
    time
}

/// The same to another thread.
fn between_threads(memory: *mut u8, pages: u64) -> u64 {
    STOP.store(false, Ordering::Relaxed);
    TOUCHED.store(pages, Ordering::Relaxed);
    let partner = |_| {
        let pages = TOUCHED.load(Ordering::Relaxed);
        let memory = call::map(pages.max(1) * PAGE as u64).expect("there is memory");
        while !STOP.load(Ordering::Relaxed) {
            take_turn(memory, pages);
        }
        0
    };
    let other = thread::start_on(CPU, partner, 0, STACK_BYTES).expect("there is room for a thread");
    let time = measure(memory, pages);
    STOP.store(true, Ordering::Relaxed);
    other.join().expect("it ends");
    time
}

/// What a turn takes that two take in turn: each is a switch and what is touched.
fn measure(memory: *mut u8, pages: u64) -> u64 {
    let mut shortest = u64::MAX;
    // The first turns start the other and touch fresh pages.
    for _ in 0..TURNS {
        take_turn(memory, pages);
    }
    for _ in 0..RUNS {
        let start = call::ticks();
        for _ in 0..TURNS {
            take_turn(memory, pages);
        }
        shortest = shortest.min(call::ticks() - start);
    }
    shortest * 1_000_000 / call::system().ticks_per_ms / (2 * TURNS)
}
