//! The capabilities of KVM that Hostel uses, each with what is lost without it.
//!
//! Source: KVM API §4.4 KVM_CHECK_EXTENSION, and the capability's own section.

use super::report::{Check, State};
use kvm_bindings::{
    KVM_CAP_BINARY_STATS_FD, KVM_CAP_EXT_CPUID, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_IRQ_ROUTING, KVM_CAP_IRQCHIP,
    KVM_CAP_MP_STATE, KVM_CAP_PIT2, KVM_CAP_SET_GUEST_DEBUG, KVM_CAP_SET_IDENTITY_MAP_ADDR, KVM_CAP_SET_TSS_ADDR,
    KVM_CAP_SIGNAL_MSI, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_SYNC_REGS, KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_USER_MEMORY,
    KVM_CAP_USER_NMI, KVM_CAP_VCPU_EVENTS, KVM_CAP_X86_MSR_FILTER, KVM_CAP_X86_USER_SPACE_MSR,
};

/// A capability.
struct Capability {
    number: u32,
    name: &'static str,
    /// Whether nothing runs without it.
    needed: bool,
    lost: &'static str,
}

const fn needed(number: u32, name: &'static str, lost: &'static str) -> Capability {
    Capability { number, name, needed: true, lost }
}

const fn useful(number: u32, name: &'static str, lost: &'static str) -> Capability {
    Capability { number, name, needed: false, lost }
}

const CAPABILITIES: [Capability; 19] = [
    needed(KVM_CAP_USER_MEMORY, "USER_MEMORY", "a guest has no RAM"),
    needed(KVM_CAP_EXT_CPUID, "EXT_CPUID", "a guest has no CPUID"),
    needed(KVM_CAP_SET_TSS_ADDR, "SET_TSS_ADDR", "old VMX processors cannot run real mode"),
    needed(KVM_CAP_SET_IDENTITY_MAP_ADDR, "SET_IDENTITY_MAP_ADDR", "old VMX processors cannot run without paging"),
    needed(KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT", "a running guest cannot be stopped without a race"),
    useful(KVM_CAP_SPLIT_IRQCHIP, "SPLIT_IRQCHIP", "no default machine, only --irqchip full, which starts slower"),
    useful(KVM_CAP_IRQ_ROUTING, "IRQ_ROUTING", "the default machine cannot acknowledge level-triggered interrupts"),
    useful(KVM_CAP_SIGNAL_MSI, "SIGNAL_MSI", "devices of the default machine cannot interrupt"),
    useful(KVM_CAP_IRQCHIP, "IRQCHIP", "no --irqchip full: no Multiboot kernels and 16-bit images that use the PIC"),
    useful(KVM_CAP_PIT2, "PIT2", "no --irqchip full: no Multiboot kernels and 16-bit images that use the PIT"),
    useful(KVM_CAP_TSC_DEADLINE_TIMER, "TSC_DEADLINE_TIMER", "guests that use this timer get no interrupt from it"),
    useful(KVM_CAP_MP_STATE, "MP_STATE", "a guest that halts for good does not end the run"),
    useful(KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS", "a guest that halts for good does not end the run"),
    useful(KVM_CAP_USER_NMI, "USER_NMI", "the console's `nmi` does nothing"),
    useful(KVM_CAP_X86_USER_SPACE_MSR, "X86_USER_SPACE_MSR", "model-specific registers that KVM lacks are not named"),
    useful(KVM_CAP_X86_MSR_FILTER, "X86_MSR_FILTER", "no `trace --msr`: registers that KVM answers are not seen"),
    useful(KVM_CAP_SYNC_REGS, "SYNC_REGS", "a trace tells no instructions"),
    useful(KVM_CAP_BINARY_STATS_FD, "BINARY_STATS_FD", "a summary cannot tell how many exits KVM answers alone"),
    useful(KVM_CAP_SET_GUEST_DEBUG, "SET_GUEST_DEBUG", "guests cannot be stepped or stopped at breakpoints"),
];

/// A check for each capability; `value` asks KVM for one by its number.
pub fn checks(value: impl Fn(u32) -> i32) -> Vec<Check> {
    let check = |capability: &Capability| {
        let state = if value(capability.number) > 0 { State::Ok } else { State::Missing };
        Check {
            name: capability.name,
            state,
            detail: String::new(),
            lost: capability.lost,
            repair: (state == State::Missing).then(|| "boot Linux 5.14 or later, which has it".to_owned()),
            needed: capability.needed,
        }
    };
    CAPABILITIES.iter().map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_tells_its_repair() {
        let checks = checks(|number| (number != KVM_CAP_SPLIT_IRQCHIP).into());
        let missing: Vec<_> = checks.iter().filter(|check| check.state == State::Missing).collect();
        assert_eq!((missing.len(), missing[0].name, missing[0].needed), (1, "SPLIT_IRQCHIP", false));
        assert!(missing[0].repair.as_ref().unwrap().contains("5.14"));
    }
}
