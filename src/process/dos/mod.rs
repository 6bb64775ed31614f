//! Programs for DOS: a `.COM` file in real mode, on a machine of one megabyte, with the interrupts of DOS answered by Hostel.
//!
//! What a DOS program knows of DOS is INT 21h. The interrupt vectors lead to stubs in the program's memory ([`program`]), whose HLT leaves
//! the guest; [`machine`] sees which interrupt it was, and [`functions`] is the table of what is answered. `docs/dos-programs.md` tells it
//! in order. Real mode has no protection: a program can change its stubs, its vectors and the processor's mode, which harms itself alone.
//!
//! Leaves out `.EXE` programs, the BIOS, video memory, the timer and all other devices.
//! Source: Interrupt List.

#![forbid(unsafe_code)]

pub mod blocks;
pub mod call;
mod console;
mod file_functions;
pub mod functions;
pub mod machine;
pub mod memory;
pub mod program;
pub mod run;
mod system;
