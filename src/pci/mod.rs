//! A PCI host bridge with one bus: configuration space by ports and by ECAM, functions with a memory BAR and MSI-X.
#![forbid(unsafe_code)]

pub mod config;
pub mod msix;
pub mod root;
