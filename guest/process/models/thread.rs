//! A thread: a stack, and the block that stands at the top of it.
//!
//! A stack lies at a multiple of its size, so the block of the running thread is found from the stack pointer alone: no segment
//! register, no system call. Block and first frames share a page, which is all that a small thread ever touches.
//! Left out: guard pages, which would cost a system call a thread. A switch sees a stack that is nearly used up.

use core::arch::asm;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::kernel;
use crate::queue::Queue;
use crate::spin::SpinLock;

/// Bytes of a stack, its block included: two pages.
pub const STACK_BYTES: usize = 8 << 10;
/// Stacks that are asked of the kernel at a time.
const STACKS_A_TIME: usize = 64;
/// What a switch wants to be left of a stack.
const ROOM_BYTES: usize = 1 << 10;

/// What a thread does, with its argument; what it returns goes to who joins it.
pub type Entry = fn(usize) -> usize;

/// A thread's block. Fields in a `Cell` belong to who made the thread until it runs, then to whichever queue or processor has it.
#[repr(C, align(64))]
pub struct Thread {
    /// Where its registers are while it does not run. `switch.s` knows that this comes first.
    pub stack_pointer: Cell<usize>,
    /// Who comes after it in a queue.
    pub next: Cell<Option<&'static Thread>>,
    /// The word it waits for, by its address.
    pub word: Cell<usize>,
    /// The light-weight process that runs it, by number; one to one, that is the kernel's number of it.
    pub lwp: Cell<usize>,
    /// Whether a processor is on its stack, so that nobody else may be.
    pub on_stack: AtomicBool,
    /// 1 until it has ended: what who joins it waits for.
    pub alive: AtomicU32,
    entry: Cell<Entry>,
    argument: Cell<usize>,
    result: Cell<usize>,
}

// SAFETY: by the rule at the type; what may be looked at meanwhile is atomic.
unsafe impl Sync for Thread {}

/// Bytes that the kernel has given for stacks so far.
pub fn stack_memory() -> usize {
    STOCK.hold(|stock| stock.bytes.get())
}

/// Stacks that are free.
struct Stock {
    used: Queue,
    /// The part of the kernel's last gift that no thread has had yet.
    fresh: Cell<usize>,
    fresh_end: Cell<usize>,
    /// Bytes that the kernel has given so far.
    bytes: Cell<usize>,
}

static STOCK: SpinLock<Stock> =
    SpinLock::new(Stock { used: Queue::new(), fresh: Cell::new(0), fresh_end: Cell::new(0), bytes: Cell::new(0) });

impl Thread {
    /// The registers of somebody who runs on a stack that is not ours.
    pub const fn home() -> Thread {
        Thread {
            stack_pointer: Cell::new(0),
            next: Cell::new(None),
            word: Cell::new(0),
            lwp: Cell::new(0),
            on_stack: AtomicBool::new(false),
            alive: AtomicU32::new(1),
            entry: Cell::new(|argument| argument),
            argument: Cell::new(0),
            result: Cell::new(0),
        }
    }

    /// A new thread on a free stack, not yet started. `None`: the kernel has no more memory.
    pub fn new(entry: Entry, argument: usize) -> Option<&'static Thread> {
        let block = STOCK.hold(Stock::take)? as *mut Thread;
        // SAFETY: the block is the top of a stack that nobody uses, and stays mapped.
        let thread = unsafe {
            block.write(Thread::home());
            &*block
        };
        thread.entry.set(entry);
        thread.argument.set(argument);
        Some(thread)
    }

    /// The thread whose stack this runs on. Not for who runs on a stack of the kernel's.
    #[inline(always)]
    pub fn current() -> &'static Thread {
        let stack: usize;
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) };
        assert!(stack % STACK_BYTES >= ROOM_BYTES, "a thread's stack is used up");
        let top = (stack | (STACK_BYTES - 1)) + 1;
        // SAFETY: the top of each stack is such a block.
        unsafe { &*((top - size_of::<Thread>()) as *const Thread) }
    }

    /// Where its block is, which tells it from all others.
    pub fn address(&self) -> usize {
        self as *const Thread as usize
    }

    /// Does what the thread is there for.
    pub fn run_entry(&self) {
        self.result.set((self.entry.get())(self.argument.get()));
    }

    /// Has the thread end with this value.
    pub fn set_result(&self, result: usize) {
        self.result.set(result);
    }

    /// Takes the value of a thread that has ended, and its stack for the next one.
    pub fn recycle(&'static self) -> usize {
        let result = self.result.get();
        STOCK.hold(|stock| stock.used.push(self));
        result
    }

    /// Whether the thread has not ended.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire) != 0
    }
}

impl Stock {
    /// The address of the block of a free stack.
    fn take(&self) -> Option<usize> {
        if let Some(thread) = self.used.pop() {
            return Some(thread.address());
        }
        if self.fresh.get() == self.fresh_end.get() {
            // One more than wanted: what lies before the first multiple of their size is lost.
            let bytes = (STACKS_A_TIME + 1) * STACK_BYTES;
            let start = kernel::map(bytes)?.next_multiple_of(STACK_BYTES);
            self.bytes.set(self.bytes.get() + bytes);
            self.fresh.set(start);
            self.fresh_end.set(start + STACKS_A_TIME * STACK_BYTES);
        }
        let top = self.fresh.get() + STACK_BYTES;
        self.fresh.set(top);
        Some(top - size_of::<Thread>())
    }
}
