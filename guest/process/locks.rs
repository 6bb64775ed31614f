//! locks [COUNT]: four threads count together, with the mutex and without; then two hand numbers over by a condition variable.
//!
//! Each adds by a load and a store that the timer, or another processor, may come between.

#![no_std]
#![no_main]

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};

use process::sync::{Condition, Mutex};
use process::words::Words;
use process::{call, print, thread};

process::program!(main);

const THREADS: u64 = 4;
const STACK_BYTES: u64 = 16 << 10;
/// Numbers that are handed over.
const NUMBERS: u64 = 100;

static MUTEX: Mutex = Mutex::new();
static LOCKED: AtomicU64 = AtomicU64::new(0);
static UNLOCKED: AtomicU64 = AtomicU64::new(0);
/// One place to put a number into; 0: empty.
static PLACE: AtomicU64 = AtomicU64::new(0);
static CHANGED: Condition = Condition::new();

fn main(arguments: &[u8]) -> u64 {
    let count = Words::of(arguments).number().unwrap_or(100_000);
    let threads = core::array::from_fn::<_, { THREADS as usize }, _>(|_| thread::start(add, count, STACK_BYTES));
    for thread in threads {
        if thread.and_then(thread::Thread::join).is_err() {
            print!("no thread\n");
            return 1;
        }
    }
    let (locked, unlocked) = (LOCKED.load(Ordering::Relaxed), UNLOCKED.load(Ordering::Relaxed));
    let right = THREADS * count;
    print!("with the mutex {locked} of {right}, without {unlocked}\n");
    let Ok(producer) = thread::start(produce, NUMBERS, STACK_BYTES) else { return 1 };
    let sum = consume(NUMBERS);
    let joined = producer.join();
    print!("handed over {NUMBERS} numbers, their sum is {sum}\n");
    u64::from(locked != right || sum != NUMBERS * (NUMBERS + 1) / 2 || joined != Ok(0))
}

/// Adds so often.
fn add(count: u64) -> u64 {
    for round in 0..count {
        MUTEX.hold(|| increment(&LOCKED));
        increment(&UNLOCKED);
        // Now and then somebody else gets its turn while the mutex is held.
        if round % 1000 == 0 {
            MUTEX.hold(call::yield_now);
        }
    }
    0
}

/// Not atomic on purpose.
fn increment(number: &AtomicU64) {
    let value = number.load(Ordering::Relaxed);
    for _ in 0..4 {
        spin_loop();
    }
    number.store(value + 1, Ordering::Relaxed);
}

/// Puts the numbers from 1 on into the place, each when it is empty.
fn produce(numbers: u64) -> u64 {
    for number in 1..=numbers {
        MUTEX.lock();
        while PLACE.load(Ordering::Relaxed) != 0 {
            CHANGED.wait(&MUTEX);
        }
        PLACE.store(number, Ordering::Relaxed);
        MUTEX.unlock();
        CHANGED.broadcast();
    }
    0
}

/// Takes so many numbers; their sum.
fn consume(numbers: u64) -> u64 {
    let mut sum = 0;
    for _ in 0..numbers {
        MUTEX.lock();
        while PLACE.load(Ordering::Relaxed) == 0 {
            CHANGED.wait(&MUTEX);
        }
        sum += PLACE.swap(0, Ordering::Relaxed);
        MUTEX.unlock();
        CHANGED.broadcast();
    }
    sum
}
