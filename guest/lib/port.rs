//! Port I/O: the `IN` and `OUT` instructions.
//!
//! Each of these leaves the guest: KVM hands port, size and value to Hostel, which looks the port up on its bus.
//! A port is 16 bits wide, an access 1, 2 or 4 bytes. Source: Intel SDM vol. 1 ch. 19.

use core::arch::asm;

/// Reads a byte from `port`.
#[inline(always)]
pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: a port access touches no memory of ours.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
    value
}

/// Writes a byte to `port`.
#[inline(always)]
pub fn out8(port: u16, value: u8) {
    // SAFETY: as above.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

/// Reads two bytes from `port`.
#[inline(always)]
pub fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack, preserves_flags)) };
    value
}

/// Writes two bytes to `port`.
#[inline(always)]
pub fn out16(port: u16, value: u16) {
    // SAFETY: as above.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) };
}

/// Reads four bytes from `port`.
#[inline(always)]
pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) };
    value
}

/// Writes four bytes to `port`.
#[inline(always)]
pub fn out32(port: u16, value: u32) {
    // SAFETY: as above.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) };
}
