//! Telling what a guest does and where it stands: symbols, decoded instructions, registers, diagnoses.
#![forbid(unsafe_code)]

pub mod crash;
pub mod decode;
pub mod registers;
pub mod symbols;
