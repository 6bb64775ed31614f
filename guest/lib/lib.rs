//! What the sample guests share: entry points, console, ways out.
//!
//! A guest is a kernel: no operating system below it, no standard library. `guest/README.md` tells how one is built; the
//! entry points are in `guest/asm/entry.s`. A guest defines `guest_main`, which gets the address of what the boot protocol
//! handed over: `hvm_start_info` for PVH and flat 64-bit, `boot_params` for the Linux entry, the Multiboot information, 0 for
//! flat 16-bit.

#![no_std]

pub mod bytes;
pub mod clock;
pub mod cpu;
pub mod port;
pub mod power;
pub mod serial;
pub mod text;
pub mod words;

pub mod memory;
pub mod start_info;

pub mod apic;
pub mod fault;
pub mod interrupt;
pub mod typed;

pub mod virtio;

pub mod ring3;

pub mod acpi;
pub mod lock;
pub mod smp;

core::arch::global_asm!(include_str!("../asm/entry.s"));
core::arch::global_asm!(include_str!("../asm/registers.s"), include_str!("../asm/interrupt.s"));
core::arch::global_asm!(include_str!("../asm/processor.s"));
core::arch::global_asm!(include_str!("../asm/ring3.s"));

/// A bug in the guest: says where and why, then reports the panic to the host.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    if let Some(place) = info.location() {
        print!("guest panicked at ", place.file(), ":", u64::from(place.line()), "\n");
    }
    if let Some(message) = info.message().as_str() {
        print!(message, "\n");
    }
    power::panicked()
}
