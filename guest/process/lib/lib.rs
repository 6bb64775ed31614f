//! What the ring-3 programs of the sample kernel share: their entry, the system calls, printing, threads, locks.
//!
//! A program says `process::program!(main)` and has `fn main(arguments: &[u8]) -> u64`, whose result is its status. It is a static
//! ELF file of its own that knows of the kernel nothing but `abi`.
//! Source: System V ABI AMD64 §3.2.2 (stack alignment at a function's entry).

#![no_std]

#[path = "../../kernel/abi.rs"]
pub mod abi;
#[path = "../../lib/bytes.rs"]
pub mod bytes;
pub mod call;
pub mod sync;
pub mod text;
pub mod thread;
#[path = "../../lib/words.rs"]
pub mod words;

use core::slice;

/// Makes `main`, a `fn(&[u8]) -> u64`, what the program begins with.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn process_start(arguments: *const u8, bytes: usize) -> ! {
            // SAFETY: the kernel begins a program with the place and length of its arguments, which stay.
            $crate::call::exit($main(unsafe { $crate::arguments(arguments, bytes) }))
        }
    };
}

/// The arguments that the kernel has put on the stack.
///
/// # Safety
/// For `program!`, whose numbers come from the kernel.
pub unsafe fn arguments(start: *const u8, bytes: usize) -> &'static [u8] {
    // SAFETY: the caller vouches for the numbers, and nothing else uses that part of the stack.
    unsafe { slice::from_raw_parts(start, bytes) }
}

/// A bug in the program: says where, and ends with status 101 as other Rust programs do.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    print!("{info}\n");
    call::exit(101)
}
