//! What all three models offer: the one interface that programs are written to.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::kernel;
use crate::thread::{Entry, Thread};

/// A thread that was created and must be joined.
#[derive(Clone, Copy)]
pub struct Handle(pub(crate) &'static Thread);

/// How the threads of a program come to run on what the kernel gives. Beside [`Model::run`], all is for threads to call.
pub trait Model: 'static {
    /// What it is called.
    const NAME: &'static str;

    /// Has the caller become the process's first thread, running `main` with `argument`, on at most `lwps` light-weight processes.
    /// Comes back with what `main` returns, which joins all that were created.
    fn run(lwps: usize, main: Entry, argument: usize) -> usize;

    /// Creates a thread that runs `entry` with `argument`. `None`: there is no memory for one more, or the kernel has no more.
    fn create(entry: Entry, argument: usize) -> Option<Handle>;

    /// Ends the calling thread with `result`, as returning from its entry does.
    fn exit(result: usize) -> !;

    /// Waits until the thread has ended, and returns what its entry returned. Once a thread.
    fn join(handle: Handle) -> usize;

    /// Lets another thread have the processor.
    fn yield_now();

    /// Waits until somebody [wakes](Model::wake) the word, unless it is no longer `value`. May come back without a reason.
    fn wait(word: &AtomicU32, value: u32);

    /// Wakes threads that wait for the word, so many at most.
    fn wake(word: &AtomicU32, threads: usize);

    /// Makes a system call that may block, in a closure that uses nothing of this interface.
    fn blocking<R>(call: impl FnOnce() -> R) -> R;

    /// Sleeps so long in the kernel: a blocking call like any other.
    fn block(nanoseconds: u64) {
        Self::blocking(|| kernel::sleep(nanoseconds));
    }

    /// Waits until `thread` has ended.
    fn wait_for_end(thread: &'static Thread) {
        while thread.is_alive() {
            Self::wait(&thread.alive, 1);
        }
    }

    /// Tells whoever joins it that `thread` has ended.
    fn tell_end(thread: &'static Thread) {
        thread.alive.store(0, Ordering::Release);
        Self::wake(&thread.alive, 1);
    }
}
