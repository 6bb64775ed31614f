//! Instructions that Rust has no word for, and bits of the registers that they reach.
//!
//! Source: Intel SDM vol. 2 (each instruction), vol. 3A §2.2.1 (EFER), §2.3 (flags), §2.5 (control registers),
//! §6.8.1 (STI and the instruction after it).

use core::arch::asm;

/// CR0: protection, SSE and FPU trap, writes of ring 0 obey the page tables, paging.
pub const CR0_PE: u64 = 1 << 0;
pub const CR0_TS: u64 = 1 << 3;
pub const CR0_WP: u64 = 1 << 16;
pub const CR0_PG: u64 = 1 << 31;
/// CR4: long page-table entries, which long mode demands; SGDT and its like fault in ring 3.
pub const CR4_PAE: u64 = 1 << 5;
pub const CR4_UMIP: u64 = 1 << 11;
/// The extended features: SYSCALL, long mode wanted, long mode active, page-table entries may forbid execution.
pub const MSR_EFER: u32 = 0xc000_0080;
pub const EFER_SCE: u64 = 1 << 0;
pub const EFER_LME: u64 = 1 << 8;
pub const EFER_LMA: u64 = 1 << 10;
pub const EFER_NXE: u64 = 1 << 11;
/// Flags: zero, interrupts are let in, strings go down, the outermost ring that may use ports.
pub const FLAG_ZF: u64 = 1 << 6;
pub const FLAG_IF: u64 = 1 << 9;
pub const FLAG_DF: u64 = 1 << 10;
pub const FLAG_IOPL: u64 = 3 << 12;

/// What CPUID leaves in EAX, EBX, ECX and EDX.
pub use core::arch::x86_64::CpuidResult;

/// CPUID: what this processor is and can do. The host decides the answer.
#[allow(unused_unsafe, reason = "safe since Rust 1.94")]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    // SAFETY: every x86-64 processor has CPUID, which changes nothing.
    unsafe { core::arch::x86_64::__cpuid_count(leaf, subleaf) }
}

/// The time stamp counter.
pub fn time_stamp() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads a model-specific register that exists.
pub fn read_msr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the register exists; reading those that these guests name has no effect.
    unsafe {
        asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// It exists and takes the value, and nothing relies on the one before.
pub unsafe fn write_msr(number: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the caller's.
    unsafe { asm!("wrmsr", in("ecx") number, in("eax") low, in("edx") high, options(nostack, preserves_flags)) };
}

/// CR2: the address whose access page-faulted last.
pub fn page_fault_address() -> u64 {
    let address;
    // SAFETY: reads a register, in ring 0.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

/// Lets interrupts in.
pub fn enable_interrupts() {
    // SAFETY: the caller has loaded an IDT; see `interrupt::init`.
    unsafe { asm!("sti", options(nostack)) };
}

/// Keeps interrupts out.
pub fn disable_interrupts() {
    // SAFETY: delays interrupts, nothing else.
    unsafe { asm!("cli", options(nostack)) };
}

/// Sleeps until the next interrupt has been served. Call with interrupts off: STI takes effect after the HLT has begun, so
/// one that is already waiting wakes this processor and none slips in between. Interrupts are off again on return.
pub fn wait_for_interrupt() {
    // SAFETY: as for `enable_interrupts`.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}
