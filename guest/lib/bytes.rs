//! The functions that compiled Rust calls for copying, filling, comparing and measuring memory.
//!
//! On a host they come from the C library. String instructions keep them short and free of vector registers.
//! Source: Intel SDM vol. 2B "REP/REPE/REPZ/REPNE/REPNZ"; Rust `core` crate documentation, "How to use the core library".

use core::arch::asm;

/// Copies `length` bytes between ranges that do not overlap.
///
/// # Safety
/// Both ranges must be mapped and must not overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges; DF is clear by the calling convention.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") length => _, options(nostack, preserves_flags))
    };
    to
}

/// Copies `length` bytes between ranges that may overlap.
///
/// # Safety
/// Both ranges must be mapped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= length {
        // SAFETY: `to` is not inside `from..from + length`, so copying upwards reads each byte before it is overwritten.
        return unsafe { memcpy(to, from, length) };
    }
    // SAFETY: as above, downwards; DF is put back before anybody relies on it.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rdi") to.wrapping_add(length).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(length).wrapping_sub(1) => _, inout("rcx") length => _, options(nostack));
    }
    to
}

/// Fills `length` bytes with the low byte of `value`.
///
/// # Safety
/// The range must be mapped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the range; DF is clear by the calling convention.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, in("al") value as u8, inout("rcx") length => _, options(nostack, preserves_flags))
    };
    to
}

/// Compares two ranges: negative, zero or positive as the first differing byte says.
///
/// # Safety
/// Both ranges must be mapped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    for i in 0..length {
        // SAFETY: `i` is below `length`, and the caller vouches for both ranges.
        let (a, b) = unsafe { (left.add(i).read_volatile(), right.add(i).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// Compares two ranges: zero if they are equal.
///
/// # Safety
/// Both ranges must be mapped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, length) }
}

/// How many bytes precede the first zero.
///
/// # Safety
/// The string must be mapped up to its zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strlen(string: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: no byte behind the zero is read.
    while unsafe { string.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}
