//! The host's side of shared directories: a FUSE server whose client is the guest's kernel, confined to one directory, and the
//! threads on which it waits for the host.

pub mod attributes;
pub mod client;
pub mod data;
pub mod directory;
pub mod entries;
pub mod guise;
pub mod host;
pub mod identity;
pub mod pool;
pub mod protocol;
pub mod request;
pub mod server;
pub mod table;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
