//! The guest's side of a sandbox of Hostel's, for Rust: a file that a `no_std` program takes in by `#[path]`.
//!
//! `hostel.h` beside it tells what holds for both languages. What the host calls stands in [`export!`], what it is called for in
//! [`import!`], with the types named as in C:
//!
//! ```ignore
//! import! { fn add(a: i64, b: i64) -> i64; }
//! export! { fn twice(a: i64) -> i64 { add(a, a) } }
//! ```
#![allow(non_camel_case_types, dead_code, reason = "types are named as in records, and a program uses what it needs")]

use core::arch::asm;

pub type void = ();

/// Bytes, anywhere in the program's memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct bytes {
    data: *const u8,
    size: usize,
}

/// UTF-8.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct text {
    utf8: bytes,
}

impl bytes {
    pub fn of(bytes: &[u8]) -> bytes {
        bytes { data: bytes.as_ptr(), size: bytes.len() }
    }

    /// The bytes; they last as long as the call or the host function's result that passed them.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the host passes what it has put into the buffer, and the program what `of` was given.
        unsafe { core::slice::from_raw_parts(self.data, self.size) }
    }
}

impl text {
    pub fn of(text: &str) -> text {
        self::text { utf8: bytes::of(text.as_bytes()) }
    }

    pub fn as_str(&self) -> &str {
        // SAFETY: the host passes what was a `str` there, and the program what `of` was given.
        unsafe { core::str::from_utf8_unchecked(self.utf8.as_slice()) }
    }
}

/// Functions that the host can call.
#[macro_export]
macro_rules! export {
    ($(fn $name:ident($($parameter:ident: $kind:ident),*) -> $result:ident $body:block)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($parameter: $kind),*) -> $result $body

        core::arch::global_asm!(
            ".pushsection .hostel,\"a\",@progbits",
            concat!(
                ".asciz \"export ", stringify!($name), " ", stringify!($result), "(", stringify!($($kind),*), ")\""
            ),
            ".popsection",
            // The linker drops what nothing refers to.
            ".pushsection .hostel.functions,\"a\",@progbits",
            concat!(".quad ", stringify!($name)),
            ".popsection",
        );
    )*};
}

/// Functions of the host.
#[macro_export]
macro_rules! import {
    ($(fn $name:ident($($parameter:ident: $kind:ident),*) -> $result:ident;)*) => {$(
        unsafe extern "C" {
            safe fn $name($($parameter: $kind),*) -> $result;
        }

        core::arch::global_asm!(
            ".pushsection .hostel,\"a\",@progbits",
            concat!(
                ".Lhostel_", stringify!($name), ": .asciz \"import ", stringify!($name), " ", stringify!($result), "(",
                stringify!($($kind),*), ")\""
            ),
            ".popsection",
            ".pushsection .text,\"ax\",@progbits",
            concat!(".globl ", stringify!($name)),
            concat!(stringify!($name), ": lea rax, [rip + .Lhostel_", stringify!($name), "]"),
            "out 0xf0, al",
            "ret",
            ".popsection",
        );
    )*};
}

/// What the compiler calls even where there is no C library.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, size: usize) -> *mut u8 {
    // SAFETY: by the caller's promise.
    unsafe { asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") size => _) };
    to
}

/// See [`memcpy`].
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, size: usize) -> *mut u8 {
    // SAFETY: by the caller's promise.
    unsafe { asm!("rep stosb", inout("rdi") to => _, inout("rcx") size => _, in("al") value as u8) };
    to
}

/// A panic is an invalid instruction, which ends the call.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: it does not return.
    unsafe { asm!("ud2", options(noreturn)) }
}
