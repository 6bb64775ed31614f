//! Many to one: all threads on the one kernel thread that the process has anyway.
//!
//! The kernel knows nothing of them. A switch is a function call, and since only one of them runs there is no lock and no atomic
//! instruction; but a thread that blocks in the kernel stops all, and a second processor is of no use.
//! Left out: preemption. A thread runs until it waits, yields or ends.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::context::{self, switch};
use crate::model::{Handle, Model};
use crate::queue::{BUCKETS, Queue, bucket};
use crate::thread::{Entry, Thread};

/// The model's name.
pub struct ManyToOne;

/// All that there is: who can run, who waits, the caller of [`ManyToOne::run`], and the address of the thread whose end it waits for.
struct State {
    ready: Queue,
    waiting: [Queue; BUCKETS],
    home: Thread,
    first: Cell<usize>,
}

// SAFETY: one kernel thread uses it.
unsafe impl Sync for State {}

static STATE: State = State {
    ready: Queue::new(),
    waiting: [const { Queue::new() }; BUCKETS],
    home: Thread::home(),
    first: Cell::new(0),
};

impl Model for ManyToOne {
    const NAME: &'static str = "n:1";

    fn run(_lwps: usize, main: Entry, argument: usize) -> usize {
        let thread = Thread::new(main, argument).expect("the kernel has memory for a first thread");
        context::prepare(thread, begin);
        STATE.first.set(thread.address());
        // SAFETY: `home` stands for this stack, and nobody has run on the other.
        unsafe { switch(&STATE.home, thread) };
        thread.recycle()
    }

    fn create(entry: Entry, argument: usize) -> Option<Handle> {
        let thread = Thread::new(entry, argument)?;
        context::prepare(thread, begin);
        STATE.ready.push(thread);
        Some(Handle(thread))
    }

    fn exit(result: usize) -> ! {
        Thread::current().set_result(result);
        end(Thread::current())
    }

    fn join(handle: Handle) -> usize {
        Self::wait_for_end(handle.0);
        handle.0.recycle()
    }

    fn yield_now() {
        if let Some(next) = STATE.ready.pop() {
            let thread = Thread::current();
            STATE.ready.push(thread);
            // SAFETY: who is in a queue does not run.
            unsafe { switch(thread, next) };
        }
    }

    fn wait(word: &AtomicU32, value: u32) {
        if word.load(Ordering::Relaxed) == value {
            let (thread, address) = (Thread::current(), word.as_ptr() as usize);
            thread.word.set(address);
            STATE.waiting[bucket(address)].push(thread);
            leave(thread);
        }
    }

    fn wake(word: &AtomicU32, threads: usize) {
        let address = word.as_ptr() as usize;
        for _ in 0..threads {
            let Some(thread) = STATE.waiting[bucket(address)].pop_waiting(address) else { break };
            STATE.ready.push(thread);
        }
    }

    fn blocking<R>(call: impl FnOnce() -> R) -> R {
        call()
    }
}

extern "C" fn begin(_left: &'static Thread, thread: &'static Thread) -> ! {
    thread.run_entry();
    end(thread)
}

/// Has somebody else run, until the calling thread is in the queue of those who can and its turn comes.
fn leave(thread: &'static Thread) {
    // With one kernel thread nobody else is there who could wake anybody.
    let next = STATE.ready.pop().expect("some thread can run: not all wait for each other");
    // SAFETY: who is in a queue does not run.
    unsafe { switch(thread, next) };
}

/// Ends the calling thread; with the first one, all of it.
fn end(thread: &'static Thread) -> ! {
    if thread.address() == STATE.first.get() {
        // SAFETY: `home` waits in `run`.
        unsafe { switch(thread, &STATE.home) };
    }
    ManyToOne::tell_end(thread);
    leave(thread);
    unreachable!("a thread that has ended is in no queue")
}
