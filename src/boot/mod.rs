//! What is written into RAM before the first entry: images, tables, and the register state to start with.
//!
//! In reading order: [`image`] (bytes), [`format`](mod@format) (what they are), [`load`](mod@load) (the way from the one to
//! the other), then a file a protocol.

pub mod acpi;
pub mod elf;
#[cfg(test)]
mod elf_fixture;
pub mod elf_load;
pub mod elf_note;
pub mod error;
pub mod flat;
pub mod format;
pub mod image;
pub mod initramfs;
pub mod initrd;
pub mod load;
pub mod payload;
pub mod placement;
pub mod pvh;
pub mod samples;
pub mod zero_page;
