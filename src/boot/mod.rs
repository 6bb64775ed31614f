//! What is written into RAM before the first entry: images, tables, and the register state to start with.

pub mod initramfs;
pub mod samples;
