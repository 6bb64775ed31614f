//! The sample kernel behind the shell: processes with memory of their own, threads in ring 3, system calls, a scheduler.
//!
//! Whoever runs in ring 0 holds one lock, with interrupts off, and everything below is reached with it held; so nothing here is
//! interrupted, and no data has a lock of its own. A thread has no stack in the kernel: its registers lie in its [`thread::Thread`], a
//! call that has to wait is made anew when there is a reason to hope, and what waits for something is in a list.
//! `docs/sample-kernel.md` tells how the parts play together, `abi.rs` what programs can ask for.
//! Left out: swapping, copy on write, priorities, signals. Source: Intel SDM vol. 3A ch. 2, ch. 6.

#[allow(dead_code, reason = "programs use the rest")]
pub mod abi;
mod calls;
mod console;
mod disk;
mod elf;
mod files;
mod frames;
mod list;
mod memory_calls;
mod net;
mod poll;
mod process;
mod processor;
pub mod programs;
mod scheduler;
pub mod session;
mod space;
mod table;
mod thread;
mod time;
mod trap;
mod wait;

use core::arch::global_asm;
use core::ops::Deref;

global_asm!(include_str!("../asm/registers.s"), include_str!("entry.s"));

/// Something that is reached with the kernel's lock held.
pub struct Locked<T>(pub T);

// SAFETY: one processor at a time holds the lock (`processor::lock`).
unsafe impl<T> Sync for Locked<T> {}

impl<T> Deref for Locked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
