//! The only room that names `kvm-ioctls`: a machine, its vCPUs, their exits and interrupts, as plain values.

pub mod calls;
pub mod debug;
pub mod doorbells;
pub mod exit;
pub mod irq;
pub mod kick;
pub mod msr_filter;
pub mod nested;
pub mod registers;
pub mod stats;
pub mod system;
pub mod tsc;
pub mod user_mode;
pub mod vcpu;
pub mod vm;
