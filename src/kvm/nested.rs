//! Whether this host's KVM is nested: its processor's instructions for guests are those of another hypervisor.
//!
//! Then each exit, and so each first use of a page that KVM has to map, passes that hypervisor too.
//! Sources: Intel SDM vol. 2A CPUID leaf 1 ECX (VMX, hypervisor present); AMD APM vol. 3 §E.4 (SVM).

#[allow(unused_unsafe, reason = "safe since Rust 1.94")]
fn cpuid(leaf: u32) -> std::arch::x86_64::CpuidResult {
    // SAFETY: every x86-64 processor has CPUID, which changes nothing.
    unsafe { std::arch::x86_64::__cpuid(leaf) }
}

/// Whether this host is a guest and runs guests by VMX or SVM all the same.
pub fn is_nested() -> bool {
    const VMX: u32 = 1 << 5;
    const HYPERVISOR: u32 = 1 << 31;
    const SVM: u32 = 1 << 2;
    let features = cpuid(1).ecx;
    features & HYPERVISOR != 0 && (features & VMX != 0 || cpuid(0x8000_0001).ecx & SVM != 0)
}
