//! Crates for the ring-3 programs of the sample kernel, under one name: `--extern crates`.

#![no_std]

pub use smoltcp;
