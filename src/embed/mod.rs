//! Hostel as a library: machines built from code, and sandboxes: one ELF file whose functions are called, and which calls functions
//! of the host, with no kernel around it.
//!
//! What is meant for other programs is here and in what it hands out ([`crate::config::RunConfig`], [`crate::machine::outcome::Outcome`],
//! [`crate::kvm::exit::Exit`]). [docs/embedding.md](https://docs.rs/crate/hostel/latest/source/docs/embedding.md) tells how it is used
//! and what it costs.
#![forbid(unsafe_code)]

pub mod console;
pub mod deadline;
pub mod elf;
pub mod error;
pub mod functions;
pub mod guest;
pub mod machine;
pub mod memory;
pub mod ring0;
pub mod sandbox;
pub mod signature;
pub mod values;
