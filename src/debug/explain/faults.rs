//! Instructions that are there to fault, and exceptions that the guest keeps.
//!
//! Sources: Intel SDM vol. 3A §6.15 (vectors), vol. 3C §25.6.3, §26.2; AMD APM vol. 2 §15.12.

use super::entry::{Entry, Nature, ShownBy};
use super::trial::{KVM, NATIVE, Trial};

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        name: "ud2",
        aliases: &["ud", "#ud", "invalid-opcode"],
        kind: None,
        summary: "UD2 and every other undefined instruction: #UD",
        nature: Nature::Innocuous,
        why: "The exception is the guest's. KVM takes it first all the same: what is undefined on this processor \
              may be defined on the one that the guest was promised.",
        vmx: "exception bitmap, bit 6",
        svm: "intercept of #UD",
        kvm: "Tries its emulator (SYSENTER on the other vendor's processor, the other vendor's hypercall); if that \
              has nothing to say, injects #UD.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §25.6.3", "AMD APM vol. 2 §15.12"],
        shown_by: ShownBy::Trials(&[
            Trial::ring3("ud2", &[0xf, 0xb]).everywhere(KVM.with(6)),
            Trial::ring0("ud2", &[0xf, 0xb]).everywhere(KVM.with(6)),
        ]),
    },
    Entry {
        name: "int3",
        aliases: &["bp", "#bp"],
        kind: None,
        summary: "INT3: the guest's own breakpoint",
        nature: Nature::Innocuous,
        why: "The guest's debugger waits for it. Only a debugger on the host makes it trap (see `debug`).",
        vmx: "exception bitmap, bit 3: set only with KVM_GUESTDBG_USE_SW_BP",
        svm: "intercept of #BP: set only with KVM_GUESTDBG_USE_SW_BP",
        kvm: "Nothing without a debugger on the host.",
        hostel: "Nothing without a debugger.",
        files: &[],
        sources: &["Intel SDM vol. 3C §25.6.3", "AMD APM vol. 2 §15.12", "KVM API KVM_SET_GUEST_DEBUG"],
        shown_by: ShownBy::Trials(&[Trial::ring3("int3", &[0xcc]).hardware(NATIVE.with(3)).software(KVM.with(3))]),
    },
    Entry {
        name: "int1",
        aliases: &["icebp", "db", "#db", "tf", "trap-flag"],
        kind: None,
        summary: "#DB: single steps of the guest's own, and INT1",
        nature: Nature::Innocuous,
        why: "KVM keeps #DB for two reasons: a debugger on the host may own it, and a guest could lock the \
              processor up by a #DB inside the delivery of a #DB.",
        vmx: "exception bitmap, bit 1",
        svm: "intercept of #DB; INT1 has another of its own (ICEBP), which KVM does not set",
        kvm: "Gives it back to the guest with DR6, unless a debugger on the host wants it.",
        hostel: "Nothing without a debugger.",
        files: &[],
        sources: &["Intel SDM vol. 3C §25.6.3, §26.2", "AMD APM vol. 2 §15.12.2"],
        shown_by: ShownBy::Trials(&[Trial::ring3(
            "pushfq; or dword ptr [rsp], 0x100; popfq; nop",
            &[0x9c, 0x81, 0xc, 0x24, 0, 1, 0, 0, 0x9d, 0x90],
        )
        .everywhere(KVM.with(1))]),
    },
    Entry {
        name: "div",
        aliases: &["de", "#de", "divide-error"],
        kind: None,
        summary: "a division by zero: #DE",
        nature: Nature::Innocuous,
        why: "An exception like most others: the processor finds the handler in the guest's IDT. No host is needed.",
        vmx: "exception bitmap, bit 0: clear",
        svm: "intercept of #DE: clear",
        kvm: "Nothing.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §25.6.3", "AMD APM vol. 2 §15.12"],
        shown_by: ShownBy::Trials(&[Trial::ring3("xor ecx, ecx; div ecx", &[0x31, 0xc9, 0xf7, 0xf1])
            .hardware(NATIVE.with(0))
            .software(KVM.with(0))]),
    },
    Entry {
        name: "gp",
        aliases: &["#gp", "general-protection"],
        kind: None,
        summary: "a general protection fault: #GP",
        nature: Nature::Innocuous,
        why: "What a program may not do in ring 3 is the guest kernel's business. An instruction that would exit in \
              ring 0 faults first in ring 3, and a fault of the guest goes before an exit.",
        vmx: "exception bitmap, bit 13: clear",
        svm: "intercept of #GP: clear",
        kvm: "Nothing, but for the VMware backdoor, where an option of the module switches it on.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §26.1.1", "AMD APM vol. 2 §15.12"],
        shown_by: ShownBy::Trials(&[
            // An address that is not canonical.
            Trial::ring3(
                "mov rax, 0x8000000000000000; mov eax, [rax]",
                &[0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x8b, 0],
            )
            .hardware(NATIVE.with(13))
            .software(KVM.with(13)),
        ]),
    },
];
