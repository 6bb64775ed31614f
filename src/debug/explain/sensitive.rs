//! The instructions for which x86 was said not to be virtualizable: they touch the machine's state in ring 3 without a fault.
//!
//! With VMX and SVM they are harmless: the guest's kernel runs in ring 0 of its own, on registers of its own. Without, a guest's kernel
//! that ran in ring 3 would see the host's tables and the wrong ring. KVM without hardware virtualization therefore interprets ring 0,
//! and leaves what programs in ring 3 can see to UMIP, which makes five of them fault.
//! Sources: Robin and Irvine; Intel SDM vol. 3A §2.5 (CR4.UMIP), vol. 3C §25.6.2, §26.1.3; AMD APM vol. 2 §15.9.

use super::entry::{Entry, Nature, ShownBy};
use super::trial::{Claim, KVM, NATIVE, Trial};

/// Vector of #GP (Intel SDM vol. 3A §6.15).
const GP: u8 = 13;
/// Why they are harmless with hardware virtualization.
const SWITCHED: &str = "The register belongs to the guest: the processor switches it at each entry and exit, so \
    there is nothing to hide. In a ring-3 kernel it would tell of the host's.";
/// Why the checks of descriptors are harmless.
const OWN_TABLES: &str = "It looks into the descriptor tables, which are the guest's own, and at the current ring, \
    which is what the guest's kernel believes. In a ring-3 kernel both would be wrong, and nothing would fault.";
/// Who decides about the stores of table registers on VMX.
const DESCRIPTOR_EXITING: &str =
    "\"descriptor-table exiting\": clear, unless KVM has to play UMIP for a processor without it";
/// What KVM does about them.
const UMIP: &str = "Nothing. Without hardware virtualization it catches them by the host's UMIP, where the \
    processor has it, and answers with the guest's.";
/// What a manual says of these.
const SOURCES: &[&str] = &["Robin and Irvine", "Intel SDM vol. 3C §26.1.3", "AMD APM vol. 2 §15.9"];
/// What nobody has to do.
const NOTHING: &str = "Nothing.";

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        name: "sgdt",
        aliases: &["sidt"],
        kind: None,
        summary: "SGDT and SIDT: where are the descriptor tables?",
        nature: Nature::Sensitive,
        why: SWITCHED,
        vmx: DESCRIPTOR_EXITING,
        svm: "intercepts GDTR_READ and IDTR_READ: clear",
        kvm: UMIP,
        hostel: NOTHING,
        files: &[],
        sources: SOURCES,
        shown_by: ShownBy::Trials(&[
            Trial::ring3("sgdt [rsp-0x10]", &[0xf, 1, 0x44, 0x24, 0xf0]).software(KVM),
            Trial::ring3("sidt [rsp-0x10]", &[0xf, 1, 0x4c, 0x24, 0xf0]).software(KVM),
        ]),
    },
    Entry {
        name: "sldt",
        aliases: &["str"],
        kind: None,
        summary: "SLDT and STR: which local descriptor table, which task?",
        nature: Nature::Sensitive,
        why: SWITCHED,
        vmx: DESCRIPTOR_EXITING,
        svm: "intercepts LDTR_READ and TR_READ: clear",
        kvm: UMIP,
        hostel: NOTHING,
        files: &[],
        sources: SOURCES,
        shown_by: ShownBy::Trials(&[
            Trial::ring3("sldt eax", &[0xf, 0, 0xc0]).software(KVM),
            Trial::ring3("str eax", &[0xf, 0, 0xc8]).software(KVM),
        ]),
    },
    Entry {
        name: "smsw",
        aliases: &[],
        kind: None,
        summary: "SMSW: the low half of CR0",
        nature: Nature::Sensitive,
        why: "It reads CR0 in any ring, while MOV from CR0 faults outside ring 0: an oversight of the 286 that \
              could not be taken back.",
        vmx: "none: it reads the CR0 read shadow where the mask says so",
        svm: "intercept of CR0 reads: clear while the guest's CR0 is the one in use",
        kvm: UMIP,
        hostel: NOTHING,
        files: &[],
        sources: &["Robin and Irvine", "Intel SDM vol. 3C §26.3", "AMD APM vol. 2 §15.9"],
        shown_by: ShownBy::Trials(&[Trial::ring3("smsw eax", &[0xf, 1, 0xe0]).software(KVM)]),
    },
    Entry {
        name: "pushf",
        aliases: &["pushfq"],
        kind: None,
        summary: "PUSHF: read the flags, IF among them",
        nature: Nature::Sensitive,
        why: "A ring-3 kernel would read the host's IF (always 1) and believe that interrupts are on.",
        vmx: "none",
        svm: "intercept PUSHF: clear",
        kvm: NOTHING,
        hostel: NOTHING,
        files: &[],
        sources: SOURCES,
        shown_by: ShownBy::Trials(&[
            Trial::ring3("pushfq; pop rax", &[0x9c, 0x58]),
            Trial::ring0("pushfq; pop rax", &[0x9c, 0x58]),
        ]),
    },
    Entry {
        name: "popf",
        aliases: &["popfq"],
        kind: None,
        summary: "POPF: write the flags; in ring 3 a change of IF is ignored",
        nature: Nature::Sensitive,
        why: "The classic: in ring 0 it sets IF, in ring 3 it leaves IF alone and does not fault. A ring-3 kernel \
              that switches interrupts off with it goes on with interrupts on, and nobody hears of it.",
        vmx: "none",
        svm: "intercept POPF: clear",
        kvm: NOTHING,
        hostel: NOTHING,
        files: &[],
        sources: SOURCES,
        shown_by: ShownBy::Trials(&[
            Trial::ring3("pushfq; or dword ptr [rsp], 0x200; popfq", &[0x9c, 0x81, 0xc, 0x24, 0, 2, 0, 0, 0x9d]),
            Trial::ring0("pushfq; popfq", &[0x9c, 0x9d]),
        ]),
    },
    Entry {
        name: "lar",
        aliases: &["lsl"],
        kind: None,
        summary: "LAR and LSL: access rights and limit of a descriptor",
        nature: Nature::Sensitive,
        why: OWN_TABLES,
        vmx: "none",
        svm: "none",
        kvm: NOTHING,
        hostel: NOTHING,
        files: &[],
        sources: SOURCES,
        shown_by: ShownBy::Trials(&[
            Trial::ring3("mov ecx, 0x33; lar eax, ecx", &[0xb9, 0x33, 0, 0, 0, 0xf, 2, 0xc1]),
            Trial::ring3("mov ecx, 0x33; lsl eax, ecx", &[0xb9, 0x33, 0, 0, 0, 0xf, 3, 0xc1]),
        ]),
    },
    Entry {
        name: "verr",
        aliases: &["verw"],
        kind: None,
        summary: "VERR and VERW: may I read or write this segment?",
        nature: Nature::Sensitive,
        why: OWN_TABLES,
        vmx: "none",
        svm: "none",
        kvm: NOTHING,
        hostel: NOTHING,
        files: &[],
        sources: SOURCES,
        shown_by: ShownBy::Trials(&[
            Trial::ring3("mov ecx, 0x33; verr cx", &[0xb9, 0x33, 0, 0, 0, 0xf, 0, 0xe1]),
            Trial::ring3("mov ecx, 0x33; verw cx", &[0xb9, 0x33, 0, 0, 0, 0xf, 0, 0xe9]),
        ]),
    },
    Entry {
        name: "mov-seg",
        aliases: &["mov-cs", "push-seg", "pop-seg", "push", "pop", "segment"],
        kind: None,
        summary: "MOV, PUSH and POP of a segment register: its low two bits are the ring",
        nature: Nature::Sensitive,
        why: "To read CS is to read the current ring, and to load a register is to check it against the ring. A \
              guest's kernel in ring 0 gets what it expects; in a ring-3 kernel the selector would say 3.",
        vmx: "none",
        svm: "none",
        kvm: NOTHING,
        hostel: "Sets the first values, before the first entry.",
        files: &["src/arch/segment.rs", "src/kvm/registers.rs"],
        sources: SOURCES,
        shown_by: ShownBy::Trials(&[
            Trial::ring3("mov eax, cs", &[0x8c, 0xc8]),
            Trial::ring3("push fs; pop rax", &[0xf, 0xa0, 0x58]),
            Trial::ring3("push 0x33; pop fs", &[0x6a, 0x33, 0xf, 0xa1]),
            // A segment of ring 0.
            Trial::ring3("mov eax, 0x18; mov ds, ax", &[0xb8, 0x18, 0, 0, 0, 0x8e, 0xd8])
                .hardware(NATIVE.with(GP))
                .software(KVM.with(GP)),
        ]),
    },
    Entry {
        name: "int",
        aliases: &["int-n", "software-interrupt"],
        kind: None,
        summary: "INT n: a software interrupt",
        nature: Nature::Sensitive,
        why: "It goes through the IDT, which is the guest's own: no exit. Through the host's IDT it would end in \
              the host's kernel.",
        vmx: "none; an EPT violation on the way is told with the interrupt, so that KVM can deliver it again",
        svm: "intercept INTn: clear",
        kvm: NOTHING,
        hostel: NOTHING,
        files: &[],
        sources: SOURCES,
        shown_by: ShownBy::Trials(&[Trial::ring3("int 0x40", &[0xcd, 0x40])
            .hardware(NATIVE.with(0x40))
            .software(Claim::NotHere("KVM's emulator knows INT n in real mode only"))]),
    },
    Entry {
        name: "far",
        aliases: &["call-far", "jmp-far", "ret-far", "retf", "iret", "iretq", "callf", "jmpf"],
        kind: None,
        summary: "CALL, JMP, RET to another segment, and IRET: the ways between rings",
        nature: Nature::Sensitive,
        why: "They compare rings and load CS from the descriptor tables, all of which are the guest's. Task \
              switches, which the processor leaves to the hypervisor, are gone in 64-bit mode.",
        vmx: "none; a task switch is unconditional",
        svm: "intercept IRET: set only while KVM waits for the end of an NMI; task switch: set",
        kvm: "Nothing. Without hardware virtualization the selectors of ring 3 are not the host's, so the load \
              faults and KVM emulates it.",
        hostel: NOTHING,
        files: &[],
        sources: &["Robin and Irvine", "Intel SDM vol. 3C §26.2, §26.4.2", "AMD APM vol. 2 §15.9, §15.14.1"],
        shown_by: ShownBy::Trials(&[
            // R13 holds the address behind the trial.
            Trial::ring3("push 0x3b; push r13; data64 ret far", &[0x6a, 0x3b, 0x41, 0x55, 0x48, 0xcb]).software(KVM),
            Trial::ring0("push 0x10; push r13; data64 ret far", &[0x6a, 0x10, 0x41, 0x55, 0x48, 0xcb]),
            Trial::ring3(
                "push 0x33; push 0x40000; pushfq; push 0x3b; push r13; iretq",
                &[0x6a, 0x33, 0x68, 0, 0, 4, 0, 0x9c, 0x6a, 0x3b, 0x41, 0x55, 0x48, 0xcf],
            )
            .software(KVM),
        ]),
    },
];
