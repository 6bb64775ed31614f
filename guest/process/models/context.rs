//! The switch: one thread stops in the middle of a call, another goes on in the middle of its own.
//!
//! Source: System V ABI AMD64 §3.2 (what a call preserves).

use core::arch::global_asm;

use crate::thread::Thread;

global_asm!(include_str!("switch.s"));

/// What a thread runs first: it is told who ran before on this processor, and which thread it is.
pub type First = extern "C" fn(&'static Thread, &'static Thread) -> !;

/// Words that the first switch to a thread takes from its stack: six registers, and where to return to.
const FRAME_WORDS: usize = 7;

unsafe extern "C" {
    fn thread_switch(from: usize, to: usize) -> usize;
    fn thread_begin();
}

/// Lays out the stack of a thread that never ran, so that the first switch to it calls `first`.
pub fn prepare(thread: &'static Thread, first: First) {
    let mut frame = [0; FRAME_WORDS];
    frame[3] = first as usize; // R12
    frame[4] = thread.address(); // RBX
    frame[6] = thread_begin as *const () as usize;
    let bottom = (thread.address() - size_of_val(&frame)) as *mut [usize; FRAME_WORDS];
    // SAFETY: below the thread's block is its stack, on which nothing is yet.
    unsafe { bottom.write(frame) };
    thread.stack_pointer.set(bottom as usize);
}

/// Leaves the stack of `from`, on which this runs, for that of `to`. Returns when somebody switches to `from`, and says who.
///
/// # Safety
/// This must run on the stack of `from`, and nobody may be on that of `to`.
#[inline(always)]
pub unsafe fn switch(from: &'static Thread, to: &'static Thread) -> &'static Thread {
    // SAFETY: the caller vouches for both stacks; a thread's block is never given back to the kernel.
    unsafe { &*(thread_switch(from.address(), to.address()) as *const Thread) }
}
