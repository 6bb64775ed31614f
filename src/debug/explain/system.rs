//! Instructions of ring 0 that touch what all guests share: caches, extended states, power, and virtualization itself.
//!
//! Sources: Intel SDM vol. 3C §26.1.2, §26.1.3; AMD APM vol. 2 §15.9.

use super::entry::{Entry, Nature, ShownBy};
use super::trial::{Claim, KVM, Trial, XSAVE};

/// Vector of #UD (Intel SDM vol. 3A §6.15).
const UD: u8 = 6;
/// Why no trial of what KVM's emulator does not know.
const NO_EMULATION: Claim = Claim::NotHere("KVM's emulator does not know it");

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        name: "wbinvd",
        aliases: &["wbnoinvd"],
        kind: None,
        summary: "WBINVD: write back and empty all caches",
        nature: Nature::Privileged,
        why: "The caches are the host's and all guests'. It takes up to milliseconds, so no guest gets it for \
              nothing.",
        vmx: "\"WBINVD exiting\"",
        svm: "intercept WBINVD",
        kvm: "Skips it, unless the guest has a real device whose accesses bypass the caches: then it does it on \
              each processor that the guest ran on.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §26.1.3", "AMD APM vol. 2 §15.9"],
        shown_by: ShownBy::Trials(&[Trial::ring0("wbinvd", &[0xf, 9]).hardware(KVM)]),
    },
    Entry {
        name: "invd",
        aliases: &[],
        kind: None,
        summary: "INVD: empty all caches without writing back",
        nature: Nature::Privileged,
        why: "It would throw the host's data away.",
        vmx: "unconditional",
        svm: "intercept INVD",
        kvm: "Skips it: a cache may lose what it holds at any time.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §26.1.2", "AMD APM vol. 2 §15.9"],
        shown_by: ShownBy::Trials(&[Trial::ring0("invd", &[0xf, 8]).hardware(KVM)]),
    },
    Entry {
        name: "xsetbv",
        aliases: &["xsave"],
        kind: None,
        summary: "XSETBV: switch extended states on",
        nature: Nature::Privileged,
        why: "XCR0 says what XSAVE saves, for the host too, and must not name what the guest was not promised.",
        vmx: "unconditional",
        svm: "intercept XSETBV",
        kvm: "Checks the value against the vCPU's CPUID (#GP) and loads it before each entry.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §26.1.2", "AMD APM vol. 2 §15.9", "KVM API KVM_SET_XCRS"],
        shown_by: ShownBy::Trials(&[
            // x87 only.
            Trial::ring0(
                "xor ecx, ecx; xor edx, edx; mov eax, 1; xsetbv",
                &[0x31, 0xc9, 0x31, 0xd2, 0xb8, 1, 0, 0, 0, 0xf, 1, 0xd1],
            )
            .needs(XSAVE)
            .hardware(KVM)
            .software(NO_EMULATION),
        ]),
    },
    Entry {
        name: "mwait",
        aliases: &["monitor"],
        kind: None,
        summary: "MONITOR and MWAIT: wait until a cache line is written",
        nature: Nature::Privileged,
        why: "Like HLT, MWAIT gives the processor away, and no interrupt of the guest's need end it.",
        vmx: "\"MONITOR exiting\", \"MWAIT exiting\"",
        svm: "intercepts MONITOR and MWAIT",
        kvm: "Does not offer them in CPUID, and treats them as NOP for guests that use them all the same (a quirk \
              that can be switched off: #UD). KVM_CAP_X86_DISABLE_EXITS hands them to the guest.",
        hostel: "Nothing: it leaves CPUID as it is, so guests halt by HLT.",
        files: &["src/arch/cpuid.rs"],
        sources: &["Intel SDM vol. 3C §26.1.3", "AMD APM vol. 2 §15.9", "KVM API KVM_CAP_DISABLE_QUIRKS2"],
        shown_by: ShownBy::Trials(&[Trial::ring0(
            "mov eax, 0x20000; xor ecx, ecx; xor edx, edx; monitor; xor eax, eax; mwait",
            &[0xb8, 0, 0, 2, 0, 0x31, 0xc9, 0x31, 0xd2, 0xf, 1, 0xc8, 0x31, 0xc0, 0xf, 1, 0xc9],
        )
        .hardware(KVM)
        .software(NO_EMULATION)]),
    },
    Entry {
        name: "rsm",
        aliases: &["smm"],
        kind: None,
        summary: "RSM: leave system management mode",
        nature: Nature::Privileged,
        why: "The host's firmware owns that mode; the guest's is emulated. Outside it RSM is #UD, which traps as \
              any #UD.",
        vmx: "none; exception bitmap, bit 6",
        svm: "intercept RSM",
        kvm: "In the guest's emulated mode its emulator restores the state; else #UD.",
        hostel: "Nothing: it has no firmware, and nothing sends an SMI.",
        files: &[],
        sources: &["Intel SDM vol. 3C §26.1.3", "AMD APM vol. 2 §15.9"],
        shown_by: ShownBy::Trials(&[Trial::ring0("rsm", &[0xf, 0xaa]).everywhere(KVM.with(UD))]),
    },
    Entry {
        name: "vmxon",
        aliases: &["vmxoff", "vmlaunch", "vmresume", "vmread", "vmwrite", "vmptrld", "vmclear", "invept", "invvpid"],
        kind: None,
        summary: "VMXON, VMLAUNCH and the rest of VMX: a guest that wants guests, on Intel's processors",
        nature: Nature::Hypervisor,
        why: "They trap so that they can be emulated: that is nested virtualization. Without CR4.VMXE, as here, \
              they are #UD, which traps too.",
        vmx: "unconditional (VMREAD and VMWRITE by a bitmap where \"VMCS shadowing\" is on)",
        svm: "none: undefined; intercept of #UD",
        kvm: "With the module's option `nested` it keeps the inner guest's VMCS and merges it with its own for the \
              inner entry.",
        hostel: "Offers what KVM offers in CPUID.",
        files: &["src/arch/cpuid.rs"],
        sources: &["Intel SDM vol. 3C §26.1.2", "Linux running-nested-guests.rst"],
        shown_by: ShownBy::Trials(&[Trial::ring0("vmxoff", &[0xf, 1, 0xc4])
            .hardware(KVM.with(UD))
            .software(NO_EMULATION)]),
    },
    Entry {
        name: "vmrun",
        aliases: &["vmload", "vmsave", "stgi", "clgi", "skinit", "invlpga"],
        kind: None,
        summary: "VMRUN and the rest of SVM: a guest that wants guests, on AMD's processors",
        nature: Nature::Hypervisor,
        why: "As for VMX. Without EFER.SVME, as here, they are #UD.",
        vmx: "none: undefined; exception bitmap, bit 6",
        svm: "intercepts VMRUN (must be set), VMLOAD, VMSAVE, STGI, CLGI, SKINIT, INVLPGA",
        kvm: "With the module's option `nested` it merges the inner guest's VMCB with its own for the inner entry.",
        hostel: "Offers what KVM offers in CPUID.",
        files: &["src/arch/cpuid.rs"],
        sources: &["AMD APM vol. 2 §15.5, §15.9", "Linux running-nested-guests.rst"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("mov eax, 0x20000; vmrun rax", &[0xb8, 0, 0, 2, 0, 0xf, 1, 0xd8]).everywhere(KVM.with(UD)),
            Trial::ring0("skinit eax", &[0xf, 1, 0xde]).everywhere(KVM.with(UD)),
        ]),
    },
];
