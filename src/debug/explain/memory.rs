//! What the second page tables do: RAM that is touched first, faults and translations of the guest's own tables, memory that
//! cannot be written.
//!
//! Sources: Intel SDM vol. 3C §29.3; AMD APM vol. 2 §15.25; KVM API KVM_SET_USER_MEMORY_REGION.

use super::entry::{Entry, Nature, ShownBy};
use super::trial::{Claim, Host, INVPCID, KVM, NATIVE, Trial};
use crate::arch::irqchip::Irqchip;
use crate::debug::event::ExitKind;

/// Vector of #GP (Intel SDM vol. 3A §6.15).
const GP: u8 = 13;
/// Vector of #PF.
const PF: u8 = 14;

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        name: "ram",
        aliases: &["first-touch", "ept", "npt", "nested-paging"],
        kind: None,
        summary: "RAM of the guest: the first access to a page traps, all others do not",
        nature: Nature::Event,
        why: "The host gives the guest a page when it is touched. Until then the host's page tables have no entry \
              for it.",
        vmx: "an EPT violation",
        svm: "a nested page fault (VMEXIT_NPF)",
        kvm: "Finds the memory slot, has Linux bring the page of Hostel's mapping, enters it into its tables and \
              enters the guest again (counters pf_taken, pf_fixed). Without EPT or nested paging it keeps shadow \
              tables and traps the guest's own changes too.",
        hostel: "Sees nothing. It maps the RAM without touching it and advises huge pages for Linux guests, so that \
                 fewer first touches are needed.",
        files: &["src/memory/ram.rs", "src/kvm/vm.rs"],
        sources: &["Intel SDM vol. 3C §29.3.3", "AMD APM vol. 2 §15.25.6", "KVM API KVM_SET_USER_MEMORY_REGION"],
        shown_by: ShownBy::Trials(&[
            // A page that nobody has touched, in each repetition another.
            Trial::ring3(
                "mov eax, r15d; shl eax, 0xc; mov eax, [rax+0x50000]",
                &[0x44, 0x89, 0xf8, 0xc1, 0xe0, 0xc, 0x8b, 0x80, 0, 0, 5, 0],
            )
            .everywhere(Claim::by_kvm("pf_fixed")),
            // The same page again and again.
            Trial::ring3("mov eax, [0x20000]", &[0x8b, 4, 0x25, 0, 0, 2, 0]),
        ]),
    },
    Entry {
        name: "page-fault",
        aliases: &["pf", "#pf"],
        kind: None,
        summary: "a page fault in the guest's own page tables",
        nature: Nature::Event,
        why: "The guest owns its tables, CR3 included. The processor walks both tables and delivers #PF to the \
              guest by itself: what made virtualization by shadow tables slow is gone.",
        vmx: "exception bitmap, bit 14: clear, with EPT",
        svm: "intercept of #PF: clear, with nested paging",
        kvm: "Nothing. With shadow tables it would look first whether the fault is its own or the guest's \
              (pf_guest).",
        hostel: "Nothing.",
        files: &["src/arch/paging.rs"],
        sources: &["Intel SDM vol. 3C §25.6.3", "AMD APM vol. 2 §15.25.6"],
        shown_by: ShownBy::Trials(&[Trial::ring3(
            "mov rax, 0x123456789000; mov eax, [rax]",
            &[0x48, 0xb8, 0, 0x90, 0x78, 0x56, 0x34, 0x12, 0, 0, 0x8b, 0],
        )
        .hardware(NATIVE.with(PF))
        .software(Claim::by_kvm("pf_guest").with(PF))]),
    },
    Entry {
        name: "invlpg",
        aliases: &["tlb"],
        kind: None,
        summary: "INVLPG: forget one translation",
        nature: Nature::Privileged,
        why: "The TLB's entries carry the guest's number (VPID, ASID), so it can only forget its own. With shadow \
              tables KVM must hear of it: this is how it learns that the guest changed its tables.",
        vmx: "\"INVLPG exiting\": clear with EPT",
        svm: "intercept INVLPG: clear with nested paging",
        kvm: "Nothing. With shadow tables it drops its copy of the entry (counter invlpg).",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §25.6.2, §29.4", "AMD APM vol. 2 §15.9, §15.16"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("invlpg [0x20000]", &[0xf, 1, 0x3c, 0x25, 0, 0, 2, 0]),
            Trial::ring3("invlpg [0x20000]", &[0xf, 1, 0x3c, 0x25, 0, 0, 2, 0])
                .hardware(NATIVE.with(GP))
                .software(KVM.with(GP)),
        ]),
    },
    Entry {
        name: "invpcid",
        aliases: &["pcid"],
        kind: None,
        summary: "INVPCID: forget translations of one address space",
        nature: Nature::Privileged,
        why: "As for INVLPG.",
        vmx: "\"enable INVPCID\" with \"INVLPG exiting\" clear; #UD where CPUID does not offer it",
        svm: "intercept INVPCID: clear with nested paging where CPUID offers it",
        kvm: "Nothing with EPT or nested paging.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §25.6.2, §26.1.3", "AMD APM vol. 2 §15.9"],
        shown_by: ShownBy::Trials(&[
            // All address spaces, the descriptor on the stack.
            Trial::ring0(
                "push 0; push 0; mov eax, 2; invpcid rax, [rsp]",
                &[0x6a, 0, 0x6a, 0, 0xb8, 2, 0, 0, 0, 0x66, 0xf, 0x38, 0x82, 4, 0x24],
            )
            .needs(INVPCID),
        ]),
    },
    Entry {
        name: "rom-write",
        aliases: &["read-only", "write-to-rom"],
        kind: None,
        summary: "a write to memory that the host has made read-only",
        nature: Nature::Event,
        why: "The host's page tables allow reads and forbid writes. To the guest it looks like a device: \
              KVM_EXIT_MMIO, kind mmio-write.",
        vmx: "an EPT violation, bit 1 of its qualification",
        svm: "a nested page fault with bit 1 of EXITINFO1",
        kvm: "For a slot with KVM_MEM_READONLY it emulates the write as MMIO: KVM_EXIT_MMIO. Dirty logging uses the \
              same trap, and lets the write go on after noting the page.",
        hostel: "Gives no guest read-only memory. Such a write would end at the memory bus, which drops what no device \
                 takes.",
        files: &["src/kvm/vm.rs", "src/machine/io.rs"],
        sources: &["Intel SDM vol. 3C §28.2.1", "AMD APM vol. 2 §15.25.6", "KVM API KVM_CAP_READONLY_MEM"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("mov ebx, 0xe0000000; mov [rbx], eax", &[0xbb, 0, 0, 0, 0xe0, 0x89, 0x03])
                .while_host(Host::MapsRom)
                .everywhere(Claim::to_user(ExitKind::MmioWrite)),
            Trial::ring0("mov ebx, 0xe0000000; mov eax, [rbx]", &[0xbb, 0, 0, 0, 0xe0, 0x8b, 0x03])
                .while_host(Host::MapsRom),
        ]),
    },
    Entry {
        name: "lapic",
        aliases: &["apic", "apic-access", "xapic"],
        kind: None,
        summary: "an access to the local interrupt controller's page at 0xfee00000",
        nature: Nature::Event,
        why: "The controller that the guest sees is KVM's data structure. Processors with APIC virtualization \
              answer most accesses from a page of their own.",
        vmx: "\"virtualize APIC accesses\" and \"APIC-register virtualization\" where the processor has them; else \
              an EPT violation",
        svm: "AVIC where it is on; else a nested page fault",
        kvm: "Emulates the instruction and its LAPIC (counter mmio_exits stays, as user space sees nothing).",
        hostel: "Nothing: LAPICs are always the kernel's.",
        files: &["src/arch/irqchip.rs", "src/kvm/vm.rs"],
        sources: &["Intel SDM vol. 3C §30.4", "AMD APM vol. 2 §15.29", "KVM API KVM_CAP_SPLIT_IRQCHIP"],
        shown_by: ShownBy::Trials(&[
            // The timer's divider, whose write no processor answers alone.
            Trial::ring0(
                "mov ebx, 0xfee00000; mov dword ptr [rbx+0x3e0], 0xb",
                &[0xbb, 0, 0, 0xe0, 0xfe, 0xc7, 0x83, 0xe0, 3, 0, 0, 0xb, 0, 0, 0],
            )
            .on(Irqchip::Split)
            .hardware(KVM),
        ]),
    },
];
