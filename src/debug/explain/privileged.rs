//! Instructions of ring 0 that set up the processor: control and debug registers, flags, descriptor tables.
//!
//! Sources: Intel SDM vol. 3C §25.6.6, §26.1.3, §26.3; AMD APM vol. 2 §15.8.1, §15.9, §15.21; Intel SDM vol. 3A §2.5.

use super::entry::{Entry, Nature, ShownBy};
use super::trial::{KVM, NATIVE, Trial};
use crate::arch::irqchip::Irqchip;

/// Vector of #GP (Intel SDM vol. 3A §6.15).
const GP: u8 = 13;

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        name: "cli",
        aliases: &["sti", "if"],
        kind: None,
        summary: "CLI and STI: interrupts off and on",
        nature: Nature::PrivilegedByIopl,
        why: "The flag is the guest's own. The host's interrupts end guest mode whatever it says, so there is \
              nothing to guard.",
        vmx: "none; \"external-interrupt exiting\" makes the flag harmless",
        svm: "none; V_INTR_MASKING makes the flag harmless",
        kvm: "Nothing. With an interrupt to inject and the flag clear it asks for an exit when the flag is set (see \
              `irq-window`).",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §26.2", "AMD APM vol. 2 §15.21.1"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("sti; cli", &[0xfb, 0xfa]),
            Trial::ring3("cli", &[0xfa]).hardware(NATIVE.with(GP)).software(KVM.with(GP)),
        ]),
    },
    Entry {
        name: "lgdt",
        aliases: &["lidt", "gdt", "idt"],
        kind: None,
        summary: "LGDT and LIDT: where the descriptor tables are",
        nature: Nature::Privileged,
        why: "GDTR and IDTR are switched with the guest by the processor, so it may load its own.",
        vmx: "\"descriptor-table exiting\": clear, unless KVM has to play UMIP",
        svm: "intercepts GDTR_WRITE and IDTR_WRITE: clear",
        kvm: "Nothing.",
        hostel: "Sets the first values, before the first entry.",
        files: &["src/arch/cpu_state.rs", "src/kvm/registers.rs"],
        sources: &["Intel SDM vol. 3C §25.6.2, §26.1.3", "AMD APM vol. 2 §15.9"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("sgdt [rsp-0x10]; lgdt [rsp-0x10]", &[0xf, 1, 0x44, 0x24, 0xf0, 0xf, 1, 0x54, 0x24, 0xf0]),
            Trial::ring0("sidt [rsp-0x10]; lidt [rsp-0x10]", &[0xf, 1, 0x4c, 0x24, 0xf0, 0xf, 1, 0x5c, 0x24, 0xf0]),
            Trial::ring3("lgdt [rsp-0x10]", &[0xf, 1, 0x54, 0x24, 0xf0])
                .hardware(NATIVE.with(GP))
                .software(KVM.with(GP)),
        ]),
    },
    Entry {
        name: "ltr",
        aliases: &["lldt", "tss", "ldt"],
        kind: None,
        summary: "LTR and LLDT: the task state segment and the local descriptor table",
        nature: Nature::Privileged,
        why: "Both registers are switched with the guest.",
        vmx: "\"descriptor-table exiting\": clear",
        svm: "intercepts TR_WRITE and LDTR_WRITE: clear",
        kvm: "Nothing. Before a guest loads TR, VMX wants one all the same: KVM_SET_SREGS brings it.",
        hostel: "Gives TR a busy TSS before the first entry, as VMX asks for.",
        files: &["src/arch/segment.rs"],
        sources: &["Intel SDM vol. 3C §25.6.2, §27.3.1.2", "AMD APM vol. 2 §15.9"],
        shown_by: ShownBy::Trials(&[Trial::ring0("xor eax, eax; lldt ax", &[0x31, 0xc0, 0xf, 0, 0xd0])]),
    },
    Entry {
        name: "mov-cr0",
        aliases: &["cr0"],
        kind: None,
        summary: "MOV to and from CR0: paging, protection, caches",
        nature: Nature::Privileged,
        why: "Some bits change what KVM has to do (paging, caches), others are the guest's alone (TS). Reads are \
              answered from a shadow.",
        vmx: "CR0 guest/host mask and read shadow: a write exits if it changes a bit that the mask gives to the host",
        svm: "intercept SELECTIVE_CR0_WRITE: a write exits if it changes a bit other than TS and MP",
        kvm: "Checks the new value as a processor would, and sets up paging anew where it changed.",
        hostel: "Sets the first value, before the first entry.",
        files: &["src/arch/cpu_state.rs"],
        sources: &["Intel SDM vol. 3C §25.6.6, §26.1.3", "AMD APM vol. 2 §15.9"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("mov rax, cr0", &[0xf, 0x20, 0xc0]),
            Trial::ring0("mov rax, cr0; mov cr0, rax", &[0xf, 0x20, 0xc0, 0xf, 0x22, 0xc0]),
            // CR0.AM
            Trial::ring0(
                "mov rax, cr0; xor eax, 0x40000; mov cr0, rax",
                &[0xf, 0x20, 0xc0, 0x35, 0, 0, 4, 0, 0xf, 0x22, 0xc0],
            )
            .hardware(KVM),
            Trial::ring3("mov rax, cr0", &[0xf, 0x20, 0xc0]).hardware(NATIVE.with(GP)).software(KVM.with(GP)),
        ]),
    },
    Entry {
        name: "mov-cr3",
        aliases: &["cr3", "mov-cr2", "cr2", "context-switch"],
        kind: None,
        summary: "MOV to and from CR3: another address space (and CR2, the address of a page fault)",
        nature: Nature::Privileged,
        why: "With EPT or nested paging the guest's tables are the guest's: a context switch costs no exit. With \
              shadow tables each one does.",
        vmx: "\"CR3-load exiting\", \"CR3-store exiting\": clear with EPT, once paging is on",
        svm: "intercepts of CR3: clear with nested paging",
        kvm: "Nothing. With shadow tables it looks for those that belong to the new value.",
        hostel: "Writes the first page tables for entries in 64-bit mode.",
        files: &["src/arch/paging.rs", "src/arch/cpu_state.rs"],
        sources: &["Intel SDM vol. 3C §25.6.2, §26.1.3", "AMD APM vol. 2 §15.25"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("mov rax, cr3; mov cr3, rax", &[0xf, 0x20, 0xd8, 0xf, 0x22, 0xd8]),
            Trial::ring0("mov rax, cr2", &[0xf, 0x20, 0xd0]),
        ]),
    },
    Entry {
        name: "mov-cr4",
        aliases: &["cr4"],
        kind: None,
        summary: "MOV to CR4: which features of the processor are on",
        nature: Nature::Privileged,
        why: "A feature that CPUID does not offer must not be switched on, and some change paging. Bits without \
              such effects belong to the guest on VMX.",
        vmx: "CR4 guest/host mask and read shadow: a write exits if it changes a bit that the mask gives to the host",
        svm: "intercept of writes to CR4: any write exits",
        kvm: "Checks the bits against the vCPU's CPUID: #GP for what was not offered.",
        hostel: "Sets the first value, before the first entry.",
        files: &["src/arch/cpu_state.rs"],
        sources: &["Intel SDM vol. 3C §25.6.6, §26.1.3", "AMD APM vol. 2 §15.9"],
        shown_by: ShownBy::Trials(&[
            // The value that is there.
            Trial::ring0("mov rax, cr4; mov cr4, rax", &[0xf, 0x20, 0xe0, 0xf, 0x22, 0xe0]).svm(KVM),
            // CR4.PSE
            Trial::ring0(
                "mov rax, cr4; xor eax, 0x10; mov cr4, rax",
                &[0xf, 0x20, 0xe0, 0x83, 0xf0, 0x10, 0xf, 0x22, 0xe0],
            )
            .hardware(KVM),
        ]),
    },
    Entry {
        name: "mov-cr8",
        aliases: &["cr8"],
        kind: None,
        summary: "MOV to and from CR8: which interrupts are too unimportant",
        nature: Nature::Privileged,
        why: "CR8 is the LAPIC's task priority. Only a write that lets a waiting interrupt through needs the \
              hypervisor.",
        vmx: "\"use TPR shadow\" with a threshold where the LAPIC is KVM's; without it \"CR8-load exiting\" and \
              \"CR8-store exiting\"",
        svm: "V_TPR; the intercept of writes is set while an interrupt waits for it, and where there is no LAPIC",
        kvm: "Injects what may pass now. Without a LAPIC of its own it tells user space of a lower value (see \
              `set-tpr`).",
        hostel: "Nothing.",
        files: &["src/kvm/vcpu.rs"],
        sources: &["Intel SDM vol. 3C §25.6.2, §25.6.8", "AMD APM vol. 2 §15.21.2"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0(
                "mov eax, r15d; and eax, 0xf; mov cr8, rax",
                &[0x44, 0x89, 0xf8, 0x83, 0xe0, 0xf, 0x44, 0xf, 0x22, 0xc0],
            )
            .on(Irqchip::Split),
            Trial::ring0("xor eax, eax; mov cr8, rax", &[0x31, 0xc0, 0x44, 0xf, 0x22, 0xc0]).hardware(KVM),
        ]),
    },
    Entry {
        name: "clts",
        aliases: &["lmsw"],
        kind: None,
        summary: "CLTS and LMSW: old ways to write CR0",
        nature: Nature::Privileged,
        why: "CR0.TS is the guest's own on both: the guest's state of the FPU is loaded before each entry. LMSW \
              exits if it changes a bit that the host keeps.",
        vmx: "CR0 guest/host mask",
        svm: "intercept SELECTIVE_CR0_WRITE, which leaves TS and MP to the guest",
        kvm: "Nothing.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §26.1.3, §26.3", "AMD APM vol. 2 §15.9"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("clts", &[0xf, 6]),
            Trial::ring0("smsw ax; lmsw ax", &[0x66, 0xf, 1, 0xe0, 0xf, 1, 0xf0]),
        ]),
    },
    Entry {
        name: "mov-dr",
        aliases: &["dr7", "dr0", "debug-register"],
        kind: None,
        summary: "MOV to and from a debug register: hardware breakpoints",
        nature: Nature::Privileged,
        why: "They are switched only where the guest uses them: the first access traps, KVM loads the guest's, and \
              until the next exit all others run alone.",
        vmx: "\"MOV-DR exiting\", taken away after the first access",
        svm: "intercepts of DR reads and writes, taken away after the first access",
        kvm: "Loads and saves the guest's debug registers. A debugger on the host keeps them for itself.",
        hostel: "Nothing without a debugger.",
        files: &[],
        sources: &["Intel SDM vol. 3C §25.6.2, §26.1.3", "AMD APM vol. 2 §15.9"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("mov rax, dr7", &[0xf, 0x21, 0xf8]),
            Trial::ring0("xor eax, eax; mov dr0, rax", &[0x31, 0xc0, 0xf, 0x23, 0xc0]),
        ]),
    },
    Entry {
        name: "swapgs",
        aliases: &["sysret"],
        kind: None,
        summary: "SWAPGS and SYSRET: the kernel's way in and out of a system call",
        nature: Nature::Privileged,
        why: "They use registers that are switched with the guest. Outside ring 0 they fault.",
        vmx: "none",
        svm: "none",
        kvm: "Switches IA32_KERNEL_GS_BASE, STAR and LSTAR.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §26.1.3", "AMD APM vol. 2 §15.9"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("swapgs", &[0xf, 1, 0xf8]),
            Trial::ring3("swapgs", &[0xf, 1, 0xf8]).hardware(NATIVE.with(GP)).software(KVM.with(GP)),
            Trial::ring3("sysretq", &[0x48, 0xf, 7]).hardware(NATIVE.with(GP)).software(KVM.with(GP)),
        ]),
    },
];
