//! x86-64 as the manuals have it: addresses, registers, tables. Pure data and functions; nothing here knows KVM or the host.
#![forbid(unsafe_code)]

pub mod cpu_state;
pub mod cpuid;
pub mod fpu;
pub mod irqchip;
pub mod layout;
pub mod msr;
pub mod paging;
pub mod segment;
pub mod task;
