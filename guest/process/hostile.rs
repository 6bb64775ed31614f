//! hostile [SEED]: makes every system call with arguments that make no sense; the kernel and everybody else must not mind.
//!
//! Without a seed it starts such processes one after the other, gives each some time and ends it, and then looks whether the kernel
//! still does what it should. With one it draws numbers, pointers, lengths and flags without end. It leaves alone what would end it at
//! once, and processes that are not its own.

#![no_std]
#![no_main]

use process::abi::{END_EXIT, NO_BLOCK, PAGE, USER_BASE, USER_END, number};
use process::words::Words;
use process::{call, print, thread};

process::program!(main);

const PROCESSES: u64 = 8;
const EACH_NS: u64 = 60_000_000;
const NUMBERS: u64 = 40;
const STACK_BYTES: u64 = 16 << 10;

fn main(arguments: &[u8]) -> u64 {
    if arguments == b"nothing" {
        return 7;
    }
    if let Some(seed) = Words::of(arguments).number() {
        // Two at once in one address space: what one unmaps the other may be reading.
        let _ = thread::start(draw, seed ^ 0xffff, STACK_BYTES);
        return draw(seed);
    }
    for seed in 1..=PROCESSES {
        let digits = [b'0' + seed as u8];
        let Ok(pid) = call::spawn(b"hostile", &digits) else { return 1 };
        call::sleep_ns(EACH_NS);
        let _ = call::kill(pid);
        if call::wait(pid).is_err() {
            return 1;
        }
    }
    let Ok(pid) = call::spawn(b"hostile", b"nothing") else { return 1 };
    match call::wait(pid) {
        Ok((_, ended)) if ended.kind == END_EXIT && ended.value == 7 => {}
        _ => return 1,
    }
    print!("the kernel is well after {PROCESSES} hostile processes\n");
    0
}

/// Draws calls without end.
fn draw(seed: u64) -> u64 {
    let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let pages = call::map(8 * PAGE).map_or(0, |place| place as u64);
    loop {
        let number = next(&mut dice) % NUMBERS;
        if matches!(number, number::EXIT | number::THREAD_EXIT | number::KILL) {
            continue;
        }
        let mut arguments = [0; 5].map(|_: u64| argument(&mut dice, pages));
        match number {
            // Sleeping is all too easy.
            number::SLEEP => arguments[0] %= 1000,
            number::FUTEX_WAIT | number::POLL => arguments[2] %= 1000,
            number::WAIT | number::THREAD_JOIN => arguments[2] |= NO_BLOCK,
            // The console is left to those who have something to say, or to read.
            number::READ | number::WRITE if arguments[0] < 2 => arguments[0] += 2,
            number::READ => arguments[4] |= NO_BLOCK,
            _ => {}
        }
        // SAFETY: none, on purpose: the process is here to be broken.
        let _ = unsafe { call::raw(number, arguments) };
    }
}

/// A number that somebody may have forgotten to check.
fn argument(dice: &mut u64, pages: u64) -> u64 {
    let small = next(dice) % 70;
    match next(dice) % 12 {
        0 => 0,
        1 => small,
        2 => pages + small,
        3 => pages + small % 9 * PAGE,
        4 => pages + 8 * PAGE - small,
        5 => USER_BASE + small * 64,
        6 => USER_END - small,
        7 => u64::MAX - small,
        8 => 1 << (small % 64),
        9 => 0x10_0000 + small * 8,
        10 => small * PAGE,
        _ => next(dice),
    }
}

/// Marsaglia's xorshift: the same numbers from the same seed.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
