//! What is written into RAM before the first entry: images, tables, and the register state to start with.
//!
//! In reading order: [`image`] (bytes), [`format`](mod@format) and [`kernel`] (what they are), [`load`](mod@load) (the way
//! into RAM), then a file a protocol.
#![forbid(unsafe_code)]

pub mod acpi;
mod acpi_virtio;
pub mod cmdline;
#[allow(dead_code, reason = "the lab uses more of it")]
#[path = "../../guest/init/cpio.rs"]
mod cpio;
pub mod elf;
pub mod elf_load;
pub mod elf_note;
pub mod error;
#[cfg(test)]
mod fixture;
pub mod flat;
pub mod format;
pub mod image;
pub mod initramfs;
pub mod initrd;
pub mod kernel;
pub mod linux;
pub mod load;
pub mod modules;
pub mod multiboot;
pub mod payload;
pub mod placement;
pub mod pvh;
pub mod reset_vector;
pub mod samples;
pub mod unpacked;
pub mod zero_page;
