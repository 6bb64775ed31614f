//! crash: a triple fault, on purpose.
//!
//! An exception whose handler cannot be found raises another one; when that one's handler cannot be found either, the
//! processor shuts down, which a PC turns into a reset. Hostel ends with 14 and prints the registers instead.
//! Source: Intel SDM vol. 3A §6.15 "Interrupt 8: Double Fault Exception".

#![no_std]
#![no_main]

use guest::print;

/// What LIDT takes: a limit of 0 leaves no room for a single gate.
static NO_IDT: [u8; 10] = [0; 10];

#[unsafe(no_mangle)]
extern "C" fn guest_main(_boot_information: u64) -> ! {
    print!("Forgetting where the handlers are, then raising #UD.\n");
    // SAFETY: none. That is the point.
    unsafe { core::arch::asm!("lidt [{}]", "ud2", in(reg) &NO_IDT, options(noreturn)) }
}
