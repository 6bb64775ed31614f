//! What user space never sees: the exits that KVM answers alone, counted by KVM, beside those that it handed to Hostel.
//!
//! KVM's counters name a few causes and no more; CPUID, control registers and the like by kind are not among them.
//! Sources: KVM API KVM_GET_STATS_FD; Linux arch/x86/kvm/x86.c (the names).

use crate::kvm::stats::{Stat, Stats};
use crate::kvm::vcpu::Vcpu;
use crate::kvm::vm::Vm;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// KVM's name for all exits of a vCPU.
const EXITS: &str = "exits";

/// Counters that readers ask for, in words and by KVM's name.
const NAMED: [(&str, &str); 8] = [
    ("exits", EXITS),
    ("of them by an interrupt of the host", "irq_exits"),
    ("of them by HLT", "halt_exits"),
    ("of them by an interrupt window", "irq_window_exits"),
    ("page faults taken", "pf_taken"),
    ("instructions emulated", "insn_emulation"),
    ("hypercalls", "hypercalls"),
    ("interrupts injected", "irq_injections"),
];

/// The counters of a machine that runs.
pub struct Counters {
    machine: Option<Stats>,
    vcpus: Vec<(Arc<AtomicU64>, Option<Stats>)>,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// KVM's counters of the machine, all of them; empty where it has none.
    pub machine: Vec<Stat>,
    /// Of each vCPU, by number.
    pub vcpus: Vec<VcpuCounted>,
}

/// What was counted of a vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuCounted {
    /// How often KVM_RUN returned with an exit. A string instruction's elements come in one return.
    pub returns: u64,
    /// KVM's counters, all of them; empty where it has none.
    pub stats: Vec<Stat>,
}

impl Counters {
    /// Opens the counters of `vm` and `vcpus`.
    pub fn open(vm: &Vm, vcpus: &[Vcpu]) -> Counters {
        let vcpus = vcpus.iter().map(|vcpu| (vcpu.returns(), vcpu.stats())).collect();
        Counters { machine: vm.stats(), vcpus }
    }

    /// What was counted up to now; from any thread.
    pub fn read(&self) -> Counted {
        // Counters that can be opened and not read are as good as none.
        let stats = |stats: &Option<Stats>| stats.as_ref().and_then(|stats| stats.read().ok()).unwrap_or_default();
        let vcpu = |(returns, of_kvm): &(Arc<AtomicU64>, Option<Stats>)| VcpuCounted {
            returns: returns.load(Ordering::Relaxed),
            stats: stats(of_kvm),
        };
        Counted { machine: stats(&self.machine), vcpus: self.vcpus.iter().map(vcpu).collect() }
    }
}

impl Counted {
    /// Exits that reached Hostel: returns of KVM_RUN.
    pub fn reached(&self) -> u64 {
        self.vcpus.iter().map(|vcpu| vcpu.returns).sum()
    }

    /// The sum over the vCPUs of the counter that KVM calls `name`; `None` where it has no such counter.
    pub fn sum(&self, name: &str) -> Option<u64> {
        let found = self.vcpus.iter().flat_map(|vcpu| &vcpu.stats).filter(|stat| stat.name == name);
        found.map(|stat| stat.value).reduce(u64::saturating_add)
    }

    /// Exits that KVM answered alone: those that it counted less those that it handed over. `None` where it does not count
    /// them, or not all: a KVM that interprets guest code can hand over an access without an exit of the processor.
    pub fn alone(&self) -> Option<u64> {
        self.sum(EXITS)?.checked_sub(self.reached())
    }

    /// What KVM counted of the things that readers ask for: in words, KVM's name, and the sum over the vCPUs.
    pub fn named(&self) -> Vec<(&'static str, &'static str, u64)> {
        NAMED.iter().filter_map(|(words, name)| Some((*words, *name, self.sum(name)?))).collect()
    }

    /// How many exits reached Hostel and how many more there were, in a sentence.
    pub fn sentence(&self) -> String {
        let reached = self.reached();
        match (self.alone(), self.sum(EXITS)) {
            (Some(alone), _) => format!(
                "{reached} exits reached Hostel, {alone} more KVM answered alone; of which kind is not known without the \
                 kernel's events"
            ),
            (None, Some(exits)) => format!(
                "{reached} exits reached Hostel; this KVM counts {exits}, less than it handed over, so how many it \
                 answered alone is not known"
            ),
            (None, None) => {
                format!("{reached} exits reached Hostel; how many more KVM answered alone is not known: it counts none")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::stats::Kind;

    fn vcpu(returns: u64, stats: &[(&str, u64)]) -> VcpuCounted {
        let stat = |(name, value): &(&str, u64)| Stat {
            name: name.to_string(),
            value: *value,
            kind: Kind::Cumulative,
            unit: "",
        };
        VcpuCounted { returns, stats: stats.iter().map(stat).collect() }
    }

    fn counted(vcpus: Vec<VcpuCounted>) -> Counted {
        Counted { machine: Vec::new(), vcpus }
    }

    #[test]
    fn what_kvm_answered_alone_is_its_exits_less_our_returns() {
        let two = counted(vec![vcpu(10, &[("exits", 25), ("pf_taken", 3)]), vcpu(5, &[("exits", 5), ("pf_taken", 1)])]);
        assert_eq!((two.reached(), two.alone()), (15, Some(15)));
        assert_eq!(two.named(), [("exits", "exits", 30), ("page faults taken", "pf_taken", 4)]);
        assert!(
            two.sentence().starts_with("15 exits reached Hostel, 15 more KVM answered alone; of which kind is not")
        );
    }

    #[test]
    fn what_kvm_does_not_tell_is_not_invented() {
        let mute = counted(vec![vcpu(10, &[])]);
        assert_eq!((mute.alone(), mute.named()), (None, vec![]));
        assert!(mute.sentence().contains("it counts none"));
        let fewer = counted(vec![vcpu(10, &[("exits", 4)])]);
        assert_eq!(fewer.alone(), None);
        assert!(fewer.sentence().contains("this KVM counts 4, less"));
    }
}
