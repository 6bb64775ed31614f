//! Hostel: a hosted (type-2) virtual machine monitor for Linux KVM on x86-64.
//!
//! The modules in reading order, lowest floor first. A file imports only its own folder or a lower floor
//! (`tests/layering.rs` holds the table).
//!
//! One exit passes five files: `kvm/vcpu.rs` -> `vcpu/run_loop.rs` -> `machine/io.rs` -> `bus/bus.rs` ->
//! `devices/serial.rs`, and the reply goes back the same way.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("Hostel runs on x86-64 Linux only: it is built on that KVM");

pub mod arch;
pub mod backend;
pub mod bench;
pub mod boot;
pub mod bus;
pub mod cli;
pub mod config;
pub mod debug;
pub mod devices;
pub mod doctor;
pub mod embed;
pub mod event_loop;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod pci;
pub mod process;
pub mod vcpu;
pub mod virtio;
