//! Threads of the kernel: a function on a stack of its own.

use crate::abi::ANY_CPU;
use crate::call::{self, Result};

/// A thread that was started and not yet waited for.
pub struct Thread {
    tid: u64,
    stack: *mut u8,
    stack_bytes: u64,
}

/// What a thread finds at the top of its stack.
#[repr(C, align(16))]
struct Start {
    main: fn(u64) -> u64,
    argument: u64,
}

/// Starts `main` with `argument` on a stack of so many bytes, a multiple of the page's.
pub fn start(main: fn(u64) -> u64, argument: u64, stack_bytes: u64) -> Result<Thread> {
    start_on(ANY_CPU, main, argument, stack_bytes)
}

/// As [`start`], on one processor alone.
pub fn start_on(cpu: u64, main: fn(u64) -> u64, argument: u64, stack_bytes: u64) -> Result<Thread> {
    let stack = call::map(stack_bytes)?;
    let start = stack.wrapping_add(stack_bytes as usize - size_of::<Start>()).cast::<Start>();
    // SAFETY: the topmost bytes of memory that is ours alone; the thread's stack begins below them.
    let tid = unsafe {
        start.write(Start { main, argument });
        call::thread_create(begin, start as u64, start as u64, 0, cpu)
    };
    match tid {
        Ok(tid) => Ok(Thread { tid, stack, stack_bytes }),
        Err(error) => {
            // SAFETY: no thread has it.
            let _ = unsafe { call::unmap(stack, stack_bytes) };
            Err(error)
        }
    }
}

/// Where a thread begins.
extern "C" fn begin(start: u64) -> ! {
    // SAFETY: `start_on` has put it there.
    let start = unsafe { (start as *const Start).read() };
    call::thread_exit((start.main)(start.argument))
}

impl Thread {
    /// Its id.
    pub fn tid(&self) -> u64 {
        self.tid
    }

    /// Waits for its end; what its function returned.
    pub fn join(self) -> Result<u64> {
        let value = call::thread_join(self.tid)?;
        // SAFETY: its only user has ended.
        unsafe { call::unmap(self.stack, self.stack_bytes) }?;
        Ok(value)
    }
}
