//! Foreign programs: a console program for x86-64 Windows, run at its library interface.
//!
//! What a Windows program knows of Windows is its libraries. So there is no kernel of Windows' to imitate, whose calls have other numbers
//! in each version: the imports from KERNEL32 and msvcrt are bound to stubs that trap to Hostel ([`functions`] is the table).
//! [`pe`] and [`image`] read the program, [`start`] puts it into memory, [`answer`] answers a trap. `docs/windows-programs.md` tells it
//! in order.
//!
//! Leaves out threads, windows, sockets, registry, other libraries, structured exception handling and 32-bit programs.
//! Source: PE Format; Microsoft "x64 calling convention".

#![forbid(unsafe_code)]

pub mod answer;
mod blocks;
pub mod bytes;
pub mod call;
mod command_line;
mod crt_print;
mod crt_process;
mod crt_streams;
mod crt_transfer;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fixture;
pub mod functions;
pub mod guest;
pub mod heap;
pub mod image;
mod kernel_files;
mod kernel_memory;
mod kernel_process;
mod kernel_text;
pub mod kernel_wait;
pub mod layout;
pub mod paths;
pub mod pe;
pub mod printf;
pub mod process;
pub mod regions;
pub mod runtime;
pub mod start;
pub mod streams;
pub mod stubs;
pub mod user;
