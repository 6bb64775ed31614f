//! The part of the Windows C runtime that lies inside a foreign program's memory: what calls the program back, and what needs
//! nothing of the outside.
//!
//! `hostel exec PROGRAM.EXE` maps it at a fixed address and binds the program's imports to it by name, by the table at its first byte
//! ([`EXPORTS`]). All that needs the outside is bound to traps instead, which Hostel answers (`src/process/windows/`). It
//! runs in ring 3 as the program does, with the program's rights: a wrong pointer faults here as it would there. Single-threaded,
//! and of the "C" locale: letters are those of ASCII.
//! Sources: Microsoft "x64 calling convention", "CRT initialization"; ISO C §7.22.5 (qsort and bsearch), §7.24 (strings).

#![no_std]
#![no_main]

use core::ptr;

#[path = "../lib/bytes.rs"]
mod bytes;
mod sort;
mod startup;
mod text;

/// A function of the program, or one that it may import.
type Function = *const ();

/// A row of the table: an import's name, filled with zeros, and the address that answers it.
#[repr(C)]
pub struct Export {
    name: [u8; 24],
    function: Function,
}

// SAFETY: the table is constant.
unsafe impl Sync for Export {}

const fn export(text: &str, function: Function) -> Export {
    let mut name = [0; 24];
    let mut i = 0;
    while i < text.len() {
        name[i] = text.as_bytes()[i];
        i += 1;
    }
    Export { name, function }
}

/// What Hostel binds by name; a row of zeros ends it. The linker script puts `.boot` first.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".boot.exports")]
static EXPORTS: [Export; 46] = [
    // Where the program begins; no program imports it.
    export("start", startup::start as Function),
    // Where the variables begin; what lies before them is not written to.
    export("writable", startup::STATE.address() as Function),
    export("ExitProcess", startup::exit_process as Function),
    export("_initterm", startup::initialize as Function),
    export("_onexit", startup::on_exit as Function),
    export("_cexit", startup::run_exit_functions as Function),
    export("exit", startup::exit as Function),
    export("_exit", startup::exit_process as Function),
    export("qsort", sort::sort as Function),
    export("bsearch", sort::search as Function),
    export("memchr", text::find_byte as Function),
    export("memcmp", text::compare_bytes as Function),
    export("memcpy", text::copy as Function),
    export("memmove", text::copy as Function),
    export("memset", text::fill as Function),
    export("strcat", text::append as Function),
    export("strchr", text::find_first as Function),
    export("strcmp", text::compare as Function),
    export("strcpy", text::copy_text as Function),
    export("strcspn", text::span_without as Function),
    export("strlen", text::length as Function),
    export("strncat", text::append_at_most as Function),
    export("strncmp", text::compare_at_most as Function),
    export("strncpy", text::copy_at_most as Function),
    export("strpbrk", text::find_any as Function),
    export("strrchr", text::find_last as Function),
    export("strspn", text::span as Function),
    export("strstr", text::find_text as Function),
    export("strtok", text::token as Function),
    export("_stricmp", text::compare_folded as Function),
    export("_strnicmp", text::compare_folded_at_most as Function),
    export("wcslen", text::wide_length as Function),
    export("lstrlenA", text::length as Function),
    export("tolower", text::to_lower as Function),
    export("toupper", text::to_upper as Function),
    export("isalnum", text::is_alphanumeric as Function),
    export("isalpha", text::is_alphabetic as Function),
    export("isdigit", text::is_digit as Function),
    export("islower", text::is_lower as Function),
    export("isprint", text::is_printable as Function),
    export("ispunct", text::is_punctuation as Function),
    export("isspace", text::is_space as Function),
    export("isupper", text::is_upper as Function),
    export("isxdigit", text::is_hexadecimal as Function),
    export("abs", text::absolute as Function),
    Export { name: [0; 24], function: ptr::null() },
];

/// Nothing here panics on what a program hands over; if it does all the same, the program ends with an illegal instruction.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: the instruction raises #UD, and nothing is executed behind it.
    unsafe { core::arch::asm!("ud2", options(noreturn)) }
}
