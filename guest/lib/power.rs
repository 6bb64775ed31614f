//! Ways out of the machine.
//!
//! A real kernel finds the ACPI registers in the FADT; these guests know where Hostel puts them.
//! Sources: ACPI 6.5 §4.8.3.7 (sleep control), §4.8.3.6 (reset register); QEMU docs/specs/pvpanic.rst;
//! QEMU hw/misc/debugexit.c (isa-debug-exit).

use core::arch::asm;

use crate::port::{out8, out32};

/// ACPI sleep control register.
pub const SLEEP_CONTROL: u16 = 0x600;
/// `SLEEP_CONTROL`: SLP_EN (bit 5) with SLP_TYP 5 (bits 2..=4), the type that this machine's DSDT gives for S5, "off".
pub const SOFT_OFF: u8 = 1 << 5 | 5 << 2;
/// ACPI reset register and the value that the FADT names.
pub const RESET: u16 = 0x602;
/// See [`RESET`].
pub const RESET_VALUE: u8 = 1;
/// isa-debug-exit: the value written becomes the exit status `value << 1 | 1`.
pub const DEBUG_EXIT: u16 = 0xf4;
/// pvpanic: bit 0 says "the guest has panicked".
pub const PVPANIC: u16 = 0x505;

/// Powers the machine off: Hostel ends with 0.
pub fn off() -> ! {
    out8(SLEEP_CONTROL, SOFT_OFF);
    halt()
}

/// Resets the machine: Hostel ends with 0 unless told otherwise.
pub fn reset() -> ! {
    out8(RESET, RESET_VALUE);
    halt()
}

/// Ends with the exit status `value << 1 | 1`.
pub fn exit(value: u32) -> ! {
    out32(DEBUG_EXIT, value);
    halt()
}

/// Reports a panic: Hostel ends with 12.
pub fn panicked() -> ! {
    out8(PVPANIC, 1 << 0);
    halt()
}

/// Halts for good: with interrupts off nothing wakes this processor. When all are halted, Hostel ends with 0.
pub fn halt() -> ! {
    loop {
        // SAFETY: stops the processor, touches no memory.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
