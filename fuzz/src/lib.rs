//! What the fuzz targets share: how images are made that are right but for a few fields, and what must hold
//! after each; a driver that keeps most rules; a directory that is watched.
//!
//! `docs/fuzzing.md` says how the targets are run and what they have seen.

pub mod bzimage_file;
pub mod confined;
pub mod elf_file;
pub mod hostile;
pub mod knob;
pub mod machine;
pub mod tar_file;
pub mod watched;
