//! Why things trap: a table of exits and of the processor's privileged and sensitive instructions, each with code that shows it.
//!
//! `hostel explain` and `docs/exits.md` print the table; `tests/explain.rs` runs its code on every KVM at hand.

pub mod entry;
mod exits_access;
mod exits_event;
mod faults;
pub mod first_seen;
mod memory;
mod native;
mod privileged;
mod sensitive;
mod system;
pub mod table;
pub mod text;
pub mod trial;
