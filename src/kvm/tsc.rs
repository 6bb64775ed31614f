//! The processor's time-stamp counter: the cheapest clock there is, in ticks of an unknown length.
//!
//! Counters of all processors of the host run together (CPUID leaf 0x80000007, invariant TSC; where they do not, KVM's own
//! clock for guests has no hold either).
//! Source: Intel SDM vol. 2 "RDTSC", vol. 3B §18.17.1.

/// Ticks since some time in the past.
pub fn ticks() -> u64 {
    // SAFETY: RDTSC reads a counter. Every x86-64 processor has it, and Linux lets programs use it unless they forbid it to
    // themselves by prctl(2) PR_SET_TSC, which nothing here does.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_go_on() {
        let first = ticks();
        while ticks() == first {}
        assert!(ticks() > first);
    }
}
