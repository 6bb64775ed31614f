//! Threads, three ways.
//!
//! A program is written to [`Model`](model::Model); which of the three carries it is a type parameter. They differ in who knows the
//! threads: the library alone ([`many_to_one`]), the kernel alone ([`one_to_one`]), or both, each a part ([`many_to_many`]).
//! `docs/threads.md` tells what that means, with figures.
//!
//! [`kernel`] is what they need of a kernel.

#![no_std]

pub mod model;
pub mod sync;

pub mod context;
pub mod kernel;
pub mod many_to_many;
pub mod many_to_one;
pub mod one_to_one;
pub mod queue;
pub mod spin;
pub mod text;
pub mod thread;

#[cfg(linux)]
#[path = "../../lib/words.rs"]
pub mod words;

#[cfg(not(linux))]
pub use process::{program, words};
