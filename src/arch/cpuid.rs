//! What CPUID tells a guest: KVM's supported set, with topology, APIC and timer leaves made right for one vCPU.
//!
//! The topology is one package of `cpus` cores with one thread each; a vCPU's number is its APIC id. Left as KVM gives it:
//! everything else, the clock leaves 0x15 and 0x16 and KVM's own signature included.
//!
//! Sources: Intel SDM vol. 2A CPUID (leaves 1, 4, 0xb, 0x1f); AMD APM vol. 3 §E.3, §E.4 (leaves 0x8000_0001, _0008, _001d,
//! _001e, _0026); Linux Documentation/virt/kvm/x86/cpuid.rst (0x4000_0001); KVM API KVM_GET_SUPPORTED_CPUID.

use super::irqchip::Irqchip;

/// One answer of CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidLeaf {
    /// EAX that selects it.
    pub function: u32,
    /// ECX that selects it, where `has_index`.
    pub index: u32,
    /// Whether ECX matters.
    pub has_index: bool,
    /// Answer in EAX.
    pub eax: u32,
    /// Answer in EBX.
    pub ebx: u32,
    /// Answer in ECX.
    pub ecx: u32,
    /// Answer in EDX.
    pub edx: u32,
}

/// Leaf 1 ECX: x2APIC.
const X2APIC: u32 = 1 << 21;
/// Leaf 1 ECX: the LAPIC timer has a TSC-deadline mode.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: there is a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX, and AMD's mirror in leaf 0x8000_0001 EDX: there is a LAPIC.
const APIC: u32 = 1 << 9;
/// Leaf 1 EDX: leaf 1 EBX[23:16] counts; the package has more than one logical processor.
const HTT: u32 = 1 << 28;
/// Leaf 6 EAX: the LAPIC timer runs in every power state.
const ARAT: u32 = 1 << 2;
/// Leaf 0x8000_0001 ECX: HTT means cores, not threads.
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x4000_0001 EAX, features that deliver interrupts through the LAPIC: asynchronous page faults (4, 10, 14), PV EOI (6),
/// PV unhalt (7), PV IPIs (11), PV yield (13), extended MSI destinations (15).
const PV_WITH_LAPIC: u32 = 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 14 | 1 << 15;

/// Level types of leaves 0xb and 0x1f, in ECX[15:8].
const LEVEL_THREAD: u32 = 1 << 8;
/// See [`LEVEL_THREAD`].
const LEVEL_CORE: u32 = 2 << 8;

/// CPUID of vCPU number `vcpu` of a machine with `cpus` of them, made from what KVM supports. With an in-kernel LAPIC the
/// TSC-deadline timer is offered, which KVM reports by KVM_CAP_TSC_DEADLINE_TIMER (every KVM since Linux 3.2), not here.
pub fn for_vcpu(supported: &[CpuidLeaf], vcpu: u32, cpus: u32, irqchip: Irqchip) -> Vec<CpuidLeaf> {
    let cpu = Cpu { apic_id: vcpu, cpus, lapic: irqchip != Irqchip::None, amd: is_amd(supported) };
    let mut leaves: Vec<_> =
        supported.iter().filter(|leaf| !is_host_topology(leaf.function)).map(|leaf| cpu.fix(*leaf)).collect();
    let last_basic = leaves.iter().find(|leaf| leaf.function == 0).map_or(0, |leaf| leaf.eax);
    for function in [0xb, 0x1f] {
        if function <= last_basic {
            leaves.extend(cpu.topology(function));
        }
    }
    leaves
}

/// Leaves that describe the host's packages: replaced by ours, or, AMD's 0x8000_0026, left out.
fn is_host_topology(function: u32) -> bool {
    matches!(function, 0xb | 0x1f | 0x8000_0026)
}

/// Whether the vendor is AMD, or Hygon with AMD's leaves.
fn is_amd(supported: &[CpuidLeaf]) -> bool {
    supported.iter().filter(|leaf| leaf.function == 0).any(|leaf| {
        let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat();
        name == b"AuthenticAMD" || name == b"HygonGenuine"
    })
}

/// The vCPU whose CPUID is made.
struct Cpu {
    apic_id: u32,
    cpus: u32,
    lapic: bool,
    amd: bool,
}

impl Cpu {
    /// Bits of an APIC id that number the cores of the package.
    fn core_bits(&self) -> u32 {
        self.cpus.next_power_of_two().trailing_zeros()
    }

    fn fix(&self, mut leaf: CpuidLeaf) -> CpuidLeaf {
        match leaf.function {
            0x1 => {
                leaf.ebx = leaf.ebx & 0xffff | self.cpus.min(0xff) << 16 | (self.apic_id & 0xff) << 24;
                leaf.ecx = with(leaf.ecx, X2APIC | TSC_DEADLINE, self.lapic) | HYPERVISOR;
                leaf.edx = with(leaf.edx, HTT, self.cpus > 1);
                leaf.edx = with(leaf.edx, APIC, self.lapic);
            }
            0x4 => leaf.eax = self.cache(leaf.eax) & 0x03ff_ffff | self.package_core_ids(leaf.eax) << 26,
            0x6 if !self.lapic => leaf.eax &= !ARAT,
            0x4000_0001 if !self.lapic => leaf.eax &= !PV_WITH_LAPIC,
            0x8000_0001 if self.amd => {
                leaf.ecx = with(leaf.ecx, CMP_LEGACY, self.cpus > 1);
                leaf.edx = with(leaf.edx, APIC, self.lapic);
            }
            0x8000_0008 if self.amd => leaf.ecx = leaf.ecx & !0xf0ff | self.core_bits() << 12 | (self.cpus - 1),
            0x8000_001d if self.amd => leaf.eax = self.cache(leaf.eax),
            0x8000_001e if self.amd => {
                leaf.eax = self.apic_id;
                leaf.ebx = self.apic_id & 0xff; // core id; one thread a core
                leaf.ecx = 0; // node 0, the only one
                leaf.edx = 0;
            }
            _ => {}
        }
        leaf
    }

    /// Leaf 4 EAX[31:26]: highest core id that fits in the package. 0 stays where there is no cache (type 0).
    fn package_core_ids(&self, eax: u32) -> u32 {
        if eax & 0x1f == 0 { 0 } else { ((1 << self.core_bits()) - 1).min(0x3f) }
    }

    /// EAX of a cache (leaves 4 and 0x8000_001d): in [25:14] how many logical processors share it, less one. Levels 1 and 2
    /// belong to a core, the others to the package.
    fn cache(&self, eax: u32) -> u32 {
        let level = eax >> 5 & 7;
        let sharing = if level >= 3 { (1 << self.core_bits()) - 1 } else { 0 };
        eax & !(0xfff << 14) | sharing << 14
    }

    /// Leaf 0xb or 0x1f: threads of a core, cores of the package, end of list.
    fn topology(&self, function: u32) -> [CpuidLeaf; 3] {
        let level = |index, id_bits, processors, kind| CpuidLeaf {
            function,
            index,
            has_index: true,
            eax: id_bits,
            ebx: processors,
            ecx: kind | index,
            edx: self.apic_id,
        };
        [level(0, 0, 1, LEVEL_THREAD), level(1, self.core_bits(), self.cpus, LEVEL_CORE), level(2, 0, 0, 0)]
    }
}

/// `value` with `bits` set or cleared.
fn with(value: u32, bits: u32, set: bool) -> u32 {
    if set { value | bits } else { value & !bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> CpuidLeaf {
        let has_index = matches!(function, 4 | 7 | 0xb | 0xd | 0x8000_001d);
        CpuidLeaf { function, index, has_index, eax, ebx, ecx, edx }
    }

    /// As KVM of Linux 6.1 reports a Zen 3.
    const AMD: [CpuidLeaf; 13] = [
        leaf(0, 0, [0x1c, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        leaf(1, 0, [0x00b0_0f21, 0x0102_0800, 0x8120_2000, 0x078b_fbff]),
        leaf(4, 0, [0; 4]),
        leaf(6, 0, [4, 0, 0, 0]),
        leaf(0xb, 0, [0, 0, 0, 1]),
        leaf(0x15, 0, [1, 2, 3, 4]),
        leaf(0x8000_0001, 0, [0x00b0_0f21, 0x4000_0000, 0x0040_0393, 0x23d3_fbff]),
        leaf(0x8000_0008, 0, [0x3030, 0x5002_0005, 0x0001_7001, 0]),
        leaf(0x8000_001d, 0, [0x0121, 0x02c0_003f, 0x3f, 0]),
        leaf(0x8000_001d, 3, [0x4163, 0x03c0_003f, 0x7fff, 1]),
        leaf(0x8000_001e, 0, [7, 0x0107, 3, 0]),
        leaf(0x4000_0000, 0, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        leaf(0x4000_0001, 0, [0x0100_7efb, 0, 0, 0]),
    ];

    /// A Skylake with hyper-threading: L1 shared by 2, L3 by 16, 8 core ids.
    const INTEL: [CpuidLeaf; 5] = [
        leaf(0, 0, [0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        leaf(1, 0, [0x000506e3, 0x0310_0800, 0x7ffa_fbbf, 0xbfeb_fbff]),
        leaf(4, 0, [0x1c00_4121, 0x01c0_003f, 0x3f, 0]),
        leaf(4, 3, [0x1c03_c163, 0x03c0_003f, 0x1fff, 6]),
        leaf(0x8000_0001, 0, [0, 0, 0x121, 0x2c10_0800]),
    ];

    fn find(leaves: &[CpuidLeaf], function: u32, index: u32) -> CpuidLeaf {
        let mut found = leaves.iter().filter(|leaf| leaf.function == function && leaf.index == index);
        let leaf = *found.next().expect("leaf");
        assert_eq!(found.next(), None, "leaf {function:#x}.{index} stands once");
        leaf
    }

    #[test]
    fn topology_leaves_agree_on_one_package_of_single_threaded_cores() {
        for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (8, 3), (9, 4), (16, 4), (33, 6), (64, 6)] {
            for vcpu in 0..cpus {
                let leaves = for_vcpu(&AMD, vcpu, cpus, Irqchip::Split);
                let one = find(&leaves, 1, 0);
                assert_eq!((one.ebx >> 24, one.ebx >> 16 & 0xff, one.ebx & 0xffff), (vcpu, cpus, 0x0800));
                assert_eq!(one.edx & HTT != 0, cpus > 1);
                for function in [0xb, 0x8000_001e] {
                    let (id, edx) = (find(&leaves, function, 0).eax, find(&leaves, function, 0).edx);
                    assert_eq!(if function == 0xb { edx } else { id }, vcpu);
                }
                let [thread, core, end] = [0, 1, 2].map(|index| find(&leaves, 0xb, index));
                assert_eq!((thread.eax, thread.ebx, thread.ecx), (0, 1, 0x100));
                assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (bits, cpus, 0x201, vcpu));
                assert_eq!((end.eax, end.ebx, end.ecx, end.edx), (0, 0, 2, vcpu));
                let counts = find(&leaves, 0x8000_0008, 0).ecx;
                assert_eq!(counts, 0x0001_0000 | bits << 12 | (cpus - 1), "the TSC size above stays");
                assert_eq!(find(&leaves, 0x8000_0001, 0).ecx & CMP_LEGACY != 0, cpus > 1);
                assert_eq!(find(&leaves, 0x8000_001e, 0).ebx, vcpu);
                assert_eq!(find(&leaves, 0x8000_001d, 0).eax, 0x0121);
                assert_eq!(find(&leaves, 0x8000_001d, 3).eax, 0x0163 | ((1 << bits) - 1) << 14);
            }
        }
    }

    #[test]
    fn intel_caches_belong_to_a_core_or_to_the_package() {
        let leaves = for_vcpu(&INTEL, 5, 6, Irqchip::Full);
        assert_eq!(find(&leaves, 4, 0).eax, 7 << 26 | 0x0121);
        assert_eq!(find(&leaves, 4, 3).eax, 7 << 26 | 7 << 14 | 0x0163);
        assert_eq!(find(&leaves, 0x8000_0001, 0), INTEL[4], "AMD's bits are reserved on Intel");
        assert_eq!(find(&leaves, 0x1f, 1).ebx, 6);
        assert_eq!(find(&for_vcpu(&AMD, 0, 2, Irqchip::Full), 4, 0).eax, 0, "no cache, no cores");
    }

    #[test]
    fn leaves_beyond_the_last_are_not_added() {
        let leaves = for_vcpu(&AMD, 0, 2, Irqchip::Split);
        assert!(leaves.iter().all(|leaf| leaf.function != 0x1f));
        assert_eq!(find(&leaves, 0x15, 0), AMD[5]);
        assert_eq!(for_vcpu(&[], 0, 1, Irqchip::Split), []);
    }

    #[test]
    fn apic_bits_follow_the_irqchip() {
        let with_lapic = for_vcpu(&AMD, 0, 1, Irqchip::Split);
        let one = find(&with_lapic, 1, 0);
        assert_eq!(one.ecx & (HYPERVISOR | X2APIC | TSC_DEADLINE), HYPERVISOR | X2APIC | TSC_DEADLINE);
        assert_ne!(one.edx & APIC, 0);
        assert_eq!(find(&with_lapic, 6, 0).eax, ARAT);
        assert_eq!(find(&with_lapic, 0x4000_0001, 0), AMD[12]);

        let without = for_vcpu(&AMD, 0, 1, Irqchip::None);
        let one = find(&without, 1, 0);
        assert_eq!(one.ecx & (HYPERVISOR | X2APIC | TSC_DEADLINE), HYPERVISOR);
        assert_eq!(one.edx & APIC, 0);
        assert_eq!(find(&without, 6, 0).eax, 0);
        assert_eq!(find(&without, 0x8000_0001, 0).edx & APIC, 0);
        assert_eq!(find(&without, 0x4000_0000, 0), AMD[11], "KVM's signature stays: kvmclock needs no LAPIC");
        assert_eq!(find(&without, 0x4000_0001, 0).eax, 0x0100_122b);
    }
}
