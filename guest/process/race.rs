//! race: threads that add to a counter at the same time, without a mutex and with one.
//!
//! To add is to read, to compute and to write. Whoever reads between another's read and write writes back an old value, and an addition
//! is lost. It takes a second processor or a timer interrupt in that moment, so such a program may be right for years; here each
//! thread gives the processor away at the worst moment, and it is wrong every time.
//! Words: `--model n:1|1:1|m:n` (without: 1:1).

#![no_std]
#![no_main]

use core::cell::UnsafeCell;
use core::ptr;

use models::kernel;
use models::many_to_many::ManyToMany;
use models::many_to_one::ManyToOne;
use models::model::{Handle, Model};
use models::one_to_one::OneToOne;
use models::sync::Mutex;
use models::words::Words;
use models::{line, program};

/// Threads, of which there are always two for a processor, so that giving it away has another run.
const THREADS_MIN: usize = 4;
const THREADS_MAX: usize = 32;
/// Additions of each thread: with the processor given away in between, and without.
const SLOW: usize = 100;
const FAST: usize = 1_000_000;

/// What all add to.
struct Counter<M> {
    value: UnsafeCell<usize>,
    mutex: Mutex<M, ()>,
}

// SAFETY: the race is the point; each access is a single instruction.
unsafe impl<M> Sync for Counter<M> {}

program!(main);

fn main(arguments: &'static [u8]) -> u64 {
    let mut words = Words::of(arguments);
    let model = match (words.next(), words.next(), words.next()) {
        (None, ..) => b"1:1",
        (Some(b"--model"), Some(model), None) => model,
        _ => b"",
    };
    let wrong = match model {
        b"n:1" => ManyToOne::run(1, show::<ManyToOne>, 0),
        b"1:1" => OneToOne::run(1, show::<OneToOne>, 0),
        b"m:n" => ManyToMany::run(kernel::cpus(), show::<ManyToMany>, 0),
        _ => {
            line!("race [--model n:1|1:1|m:n]");
            2
        }
    };
    wrong as u64
}

/// The first thread: has others add in three ways. Returns how many ways went wrong that must not.
fn show<M: Model>(_argument: usize) -> usize {
    count::<M>("no mutex, another runs in between", SLOW, |counter| counter.add(M::yield_now));
    count::<M>("no mutex, as fast as it goes", FAST, |counter| counter.add(|| ()));
    let lost = count::<M>("a mutex, another runs in between", SLOW, |counter| {
        let _guard = counter.mutex.lock();
        counter.add(M::yield_now);
    });
    usize::from(lost != 0)
}

impl<M> Counter<M> {
    /// Adds 1: wrong, without a mutex.
    fn add(&self, between: impl FnOnce()) {
        // SAFETY: the value is there; what the race makes of it is a number all the same.
        let value = unsafe { ptr::read_volatile(self.value.get()) };
        between();
        // SAFETY: as above.
        unsafe { ptr::write_volatile(self.value.get(), value + 1) };
    }
}

/// What a thread gets.
struct Task<M: 'static> {
    counter: Counter<M>,
    additions: usize,
    add: fn(&Counter<M>),
}

/// Has threads add so many times each, prints what came out, and returns how much is missing.
fn count<M: Model>(how: &str, additions: usize, add: fn(&Counter<M>)) -> usize {
    let counter = Counter { value: UnsafeCell::new(0), mutex: Mutex::new(()) };
    let task = Task { counter, additions, add };
    let entry = |task| {
        // SAFETY: who made it waits below.
        let task = unsafe { &*(task as *const Task<M>) };
        for _ in 0..task.additions {
            (task.add)(&task.counter);
        }
        0
    };
    let threads = (2 * kernel::cpus()).clamp(THREADS_MIN, THREADS_MAX);
    let mut handles = [const { None::<Handle> }; THREADS_MAX];
    for handle in &mut handles[..threads] {
        *handle = M::create(entry, &raw const task as usize);
        assert!(handle.is_some(), "the kernel has no more threads");
    }
    for handle in handles.into_iter().flatten() {
        M::join(handle);
    }
    let (right, counted) = (threads * additions, task.counter.value.into_inner());
    let verdict = if counted == right { "right" } else { "wrong" };
    line!("{threads} threads, {how:<33} {counted} of {right}: {verdict}");
    right - counted
}
