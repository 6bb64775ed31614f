//! panic: a kernel that cannot go on and says so.
//!
//! The panic handler (`guest/lib/lib.rs`) prints where and why, then tells the host through pvpanic: Hostel ends with 12.

#![no_std]
#![no_main]

#[unsafe(no_mangle)]
extern "C" fn guest_main(_boot_information: u64) -> ! {
    guest::print!("About to panic.\n");
    panic!("nothing is wrong, this guest does it on purpose")
}
