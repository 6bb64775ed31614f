//! Root file systems out of archives: a tar archive, or the layers of an image in an OCI layout, unpacked by an ordinary user into a
//! private directory that goes away with the machine.
//!
//! *Invariant:* whatever an archive holds, nothing outside that directory is touched, nothing of it is executed or opened but to be
//! written once, and what it takes of memory and of the disk has named bounds.

pub mod archive;
pub mod blobs;
pub mod budget;
pub mod compression;
pub mod directory;
pub mod error;
pub mod layout;
pub mod root;
pub mod tree;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
