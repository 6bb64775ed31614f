//! hello: the smallest guest that does something. It prints two lines and powers off.
//!
//! The same source is linked five times, once for each boot protocol; see `HELLO_FORMS` in `src/boot/samples.rs`.

#![no_std]
#![no_main]

use guest::{power, print};

#[unsafe(no_mangle)]
extern "C" fn guest_main(_boot_information: u64) -> ! {
    print!("Hello from a guest: 64-bit code in ring 0.\nNothing left to do, powering off.\n");
    power::off()
}
