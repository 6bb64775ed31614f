//! Which interrupt controllers a machine has, and who emulates them.
//!
//! Source: KVM API KVM_CREATE_IRQCHIP, KVM_CAP_SPLIT_IRQCHIP.

/// The interrupt controllers of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irqchip {
    /// No controller at all: no interrupts, and HLT leaves the guest.
    None,
    /// LAPICs in the kernel, the IOAPIC in this process; no PIC, no PIT.
    Split,
    /// PIC, IOAPIC, LAPICs and PIT in the kernel, as a PC of the 1990s has them.
    Full,
}

impl std::fmt::Display for Irqchip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Irqchip::None => "none",
            Irqchip::Split => "split",
            Irqchip::Full => "full",
        })
    }
}
