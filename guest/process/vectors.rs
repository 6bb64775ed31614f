//! vectors [SECONDS]: keeps a number of its own in a vector register and looks whether it stays, while others use the same register.
//!
//! Source: System V ABI AMD64 §3.2.1 (a call may change vector registers: nothing is called between two looks).

#![no_std]
#![no_main]

use core::arch::asm;

use process::words::Words;
use process::{call, print};

process::program!(main);

fn main(arguments: &[u8]) -> u64 {
    let seconds = Words::of(arguments).number().unwrap_or(1);
    let own = call::getpid() << 32 | 0x5a5a;
    let end = call::ticks() + seconds * 1000 * call::system().ticks_per_ms;
    let mut changed = 0u64;
    while call::ticks() < end {
        // SAFETY: names what it changes.
        unsafe {
            asm!("movq xmm7, {own}", "mov {rounds}, 100000", "2:", "movq {seen}, xmm7", "cmp {seen}, {own}", "jne 3f",
                "dec {rounds}", "jnz 2b", "jmp 4f", "3:", "inc {changed}", "4:",
                own = in(reg) own, rounds = out(reg) _, seen = out(reg) _, changed = inout(reg) changed, out("xmm7") _,
                options(nomem, nostack));
        }
    }
    print!("a vector register changed {changed} times\n");
    changed
}
