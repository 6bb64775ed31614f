//! The sample kernel below the threads.
//!
//! What it may ask for stands in `guest/kernel/abi.rs`.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use process::abi::{ANY_CPU, FOREVER, PAGE};
use process::{call, text};

use super::Memory;
use crate::thread::Thread;

/// Ticks of the time stamp counter in a millisecond; 0 until the kernel is asked.
static TICKS_PER_MS: AtomicU64 = AtomicU64::new(0);

/// Memory of so many bytes, all zero; its address.
pub fn map(bytes: usize) -> Option<usize> {
    call::map(bytes as u64).ok().map(|start| start as usize)
}

/// Starts a thread of the kernel's that runs `begin` below `thread`'s block; its number. `None`: the kernel has no more of them.
pub fn start_thread(begin: extern "C" fn(u64) -> !, thread: &'static Thread) -> Option<usize> {
    let top = thread.address() as u64;
    // SAFETY: the stack below the block is the thread's, until it has been joined.
    unsafe { call::thread_create(begin, top, top, 0, ANY_CPU) }.ok().map(|number| number as usize)
}

/// Waits until a thread of the kernel's has ended.
pub fn join_thread(number: usize, _thread: &'static Thread) {
    call::thread_join(number as u64).expect("the thread was started, and is joined once");
}

/// Ends the calling thread of the kernel's.
pub fn exit_thread() -> ! {
    call::thread_exit(0)
}

/// Lets another thread of the kernel's have the processor.
pub fn yield_now() {
    call::yield_now();
}

/// Waits until the word is woken, unless it is not `value`; or for no reason.
pub fn wait(word: &AtomicU32, value: u32) {
    let _ = call::futex_wait(word, value, FOREVER);
}

/// Wakes so many who wait for the word.
pub fn wake(word: &AtomicU32, threads: usize) {
    let _ = call::futex_wake(word, threads as u64);
}

/// Sleeps so long.
pub fn sleep(nanoseconds: u64) {
    call::sleep_ns(nanoseconds);
}

/// Has the calling thread run on the first processor only, or on any again.
pub fn bind(to_first: bool) {
    call::thread_bind(if to_first { 0 } else { ANY_CPU }).expect("there is a first processor");
}

/// Processors that the program may use.
pub fn cpus() -> usize {
    call::system().cpus as usize
}

/// Nanoseconds since some moment.
pub fn now() -> u64 {
    let mut ticks_per_ms = TICKS_PER_MS.load(Ordering::Relaxed);
    if ticks_per_ms == 0 {
        ticks_per_ms = call::system().ticks_per_ms.max(1);
        TICKS_PER_MS.store(ticks_per_ms, Ordering::Relaxed);
    }
    let ticks = call::ticks();
    ticks / ticks_per_ms * 1_000_000 + ticks % ticks_per_ms * 1_000_000 / ticks_per_ms
}

/// Writes to the standard output.
pub fn write(bytes: &[u8]) {
    text::write_all(bytes);
}

/// System calls of the process so far.
pub fn system_calls() -> u64 {
    call::usage().process_system_calls
}

/// What the process and its threads have.
pub fn memory() -> Option<Memory> {
    let usage = call::usage();
    Some(Memory {
        process_bytes: usage.process_pages * PAGE,
        kernel_bytes: usage.process_threads * call::system().thread_bytes,
    })
}
