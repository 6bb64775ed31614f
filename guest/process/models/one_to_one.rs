//! One to one: each thread is a thread of the kernel's.
//!
//! The kernel does all of it: it gives them processors, takes these away, and has others run while one blocks. Each of that is
//! a system call. What is left to do here is to find a stack.

use core::sync::atomic::AtomicU32;

use crate::kernel;
use crate::model::{Handle, Model};
use crate::thread::{Entry, Thread};

/// The model's name.
pub struct OneToOne;

impl Model for OneToOne {
    const NAME: &'static str = "1:1";

    fn run(_lwps: usize, main: Entry, argument: usize) -> usize {
        let thread = Self::create(main, argument).expect("the kernel has a first thread");
        Self::join(thread)
    }

    fn create(entry: Entry, argument: usize) -> Option<Handle> {
        let thread = Thread::new(entry, argument)?;
        match kernel::start_thread(begin, thread) {
            Some(number) => {
                thread.lwp.set(number);
                Some(Handle(thread))
            }
            None => {
                thread.recycle();
                None
            }
        }
    }

    fn exit(result: usize) -> ! {
        Thread::current().set_result(result);
        kernel::exit_thread()
    }

    fn join(handle: Handle) -> usize {
        kernel::join_thread(handle.0.lwp.get(), handle.0);
        handle.0.recycle()
    }

    fn yield_now() {
        kernel::yield_now();
    }

    fn wait(word: &AtomicU32, value: u32) {
        kernel::wait(word, value);
    }

    fn wake(word: &AtomicU32, threads: usize) {
        kernel::wake(word, threads);
    }

    fn blocking<R>(call: impl FnOnce() -> R) -> R {
        call()
    }
}

/// The first function of a kernel thread, on the stack below its block.
extern "C" fn begin(block: u64) -> ! {
    // SAFETY: `create` gives its address, and the block stays.
    let thread = unsafe { &*(block as *const Thread) };
    thread.run_entry();
    kernel::exit_thread()
}
