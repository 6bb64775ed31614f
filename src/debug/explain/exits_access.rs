//! Exits that are accesses: ports, memory without RAM, model-specific registers, the end of an interrupt.
//!
//! Sources: Intel SDM vol. 3C §25.6.2, §26.1.3, §29.3.3; AMD APM vol. 2 §15.10, §15.11, §15.25.6; KVM API §5 "The kvm_run
//! structure".

use super::entry::{Entry, Nature, ShownBy};
use super::trial::{Claim, Host, KVM, NATIVE, Trial};
use crate::debug::event::ExitKind;

/// Vector of #GP (Intel SDM vol. 3A §6.15).
const GP: u8 = 13;

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        name: "pio-read",
        aliases: &["in", "pio", "port", "ioio", "kvm-exit-io"],
        kind: Some(ExitKind::PioRead),
        summary: "IN, or one element of INS: the guest reads a port",
        nature: Nature::PrivilegedByIopl,
        why: "A port is a device's register, and the guest's devices are not the host's. In ring 3 with IOPL 0 the \
              guest's own kernel is asked first, by #GP: no exit.",
        vmx: "\"unconditional I/O exiting\", which KVM sets for each vCPU, so that no I/O bitmap is looked at",
        svm: "intercept IOIO_PROT with an I/O permission map of all ones",
        kvm: "Looks for a device of its own at the port (PIC, PIT, an ioeventfd); none there: KVM_EXIT_IO, with \
              count above 1 for INS. The value is put into the guest's register by the next KVM_RUN.",
        hostel: "Takes INS apart, finds the device on the port bus and reads its register; where no device stands, \
                 all ones.",
        files: &["src/kvm/vcpu.rs", "src/machine/io.rs", "src/bus/bus.rs"],
        sources: &["Intel SDM vol. 3C §25.6.2, §26.1.3", "AMD APM vol. 2 §15.10", "KVM API KVM_EXIT_IO"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("in al, 0x60", &[0xe4, 0x60]).everywhere(Claim::to_user(ExitKind::PioRead)),
            Trial::ring3("in al, 0x60", &[0xe4, 0x60]).hardware(NATIVE.with(GP)).software(KVM.with(GP)),
        ]),
    },
    Entry {
        name: "pio-write",
        aliases: &["out", "pio", "port", "ioio", "kvm-exit-io"],
        kind: Some(ExitKind::PioWrite),
        summary: "OUT, or one element of OUTS: the guest writes to a port",
        nature: Nature::PrivilegedByIopl,
        why: "As for IN. A byte that a guest prints on COM1 is one such exit: the reason why paravirtual consoles \
              exist.",
        vmx: "\"unconditional I/O exiting\"",
        svm: "intercept IOIO_PROT with an I/O permission map of all ones",
        kvm: "As for IN. A port with an ioeventfd is answered by waking whoever waits for it, without an exit to \
              user space.",
        hostel: "Takes OUTS apart, finds the device on the port bus and writes its register; where no device \
                 stands, the value is dropped. A device may file a request (power off, a status), which ends the \
                 run before the next instruction.",
        files: &["src/kvm/vcpu.rs", "src/machine/io.rs", "src/bus/bus.rs", "src/devices/serial.rs"],
        sources: &["Intel SDM vol. 3C §25.6.2, §26.1.3", "AMD APM vol. 2 §15.10", "KVM API KVM_EXIT_IO"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("out 0x80, al", &[0xe6, 0x80]).everywhere(Claim::to_user(ExitKind::PioWrite))
        ]),
    },
    Entry {
        name: "ins",
        aliases: &["outs", "insb", "insw", "insd", "outsb", "outsw", "outsd", "rep"],
        kind: None,
        summary: "INS and OUTS: a string between a port and memory, element by element",
        nature: Nature::PrivilegedByIopl,
        why: "As for IN and OUT, but the operand is memory, so that somebody has to walk the guest's page tables \
              for it.",
        vmx: "\"unconditional I/O exiting\"; the exit qualification says \"string\"",
        svm: "intercept IOIO_PROT; EXITINFO1 says STR and REP",
        kvm: "Runs it in the instruction emulator, which copies up to a page of elements at a time: one exit may \
              carry many.",
        hostel: "Hands the elements of one exit out one by one, each with its own answer: devices and the trace \
                 never see a string.",
        files: &["src/kvm/vcpu.rs"],
        sources: &["Intel SDM vol. 3C §28.2.1", "AMD APM vol. 2 §15.10.2", "KVM API KVM_EXIT_IO"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0(
                "mov edi, 0x20000; mov edx, 0x60; mov ecx, 2; cld; rep insb [rdi], dx",
                &[0xbf, 0, 0, 2, 0, 0xba, 0x60, 0, 0, 0, 0xb9, 2, 0, 0, 0, 0xfc, 0xf3, 0x6c],
            )
            .everywhere(Claim::to_user(ExitKind::PioRead)),
            Trial::ring0(
                "mov esi, 0x20000; mov edx, 0x80; mov ecx, 2; cld; rep outsb dx, [rsi]",
                &[0xbe, 0, 0, 2, 0, 0xba, 0x80, 0, 0, 0, 0xb9, 2, 0, 0, 0, 0xfc, 0xf3, 0x6e],
            )
            .everywhere(Claim::to_user(ExitKind::PioWrite)),
        ]),
    },
    Entry {
        name: "mmio-read",
        aliases: &["mmio", "ept-violation", "ept-misconfiguration", "npf", "kvm-exit-mmio"],
        kind: Some(ExitKind::MmioRead),
        summary: "a read of a guest-physical address without RAM: a device's register, or a hole",
        nature: Nature::Event,
        why: "Any instruction can do it. The second page tables, the host's, map no page there. So it traps in ring \
              3 as in ring 0: whether the address was allowed is the business of the guest's own page tables.",
        vmx: "the first time an EPT violation, later ones an EPT misconfiguration, by which KVM marks the page as \
              MMIO",
        svm: "a nested page fault (VMEXIT_NPF), later ones with the reserved bits set by which KVM marks the page \
              as MMIO",
        kvm: "Finds no memory slot, so it decodes and emulates the instruction: KVM_EXIT_MMIO of at most 8 bytes, \
              more than one for an access across a page's end. Its own LAPIC and IOAPIC answer before.",
        hostel: "Finds the device on the memory bus; where none stands, all ones.",
        files: &["src/kvm/vcpu.rs", "src/machine/io.rs", "src/bus/bus.rs", "src/devices/ioapic.rs"],
        sources: &["Intel SDM vol. 3C §29.3.3", "AMD APM vol. 2 §15.25.6", "KVM API KVM_EXIT_MMIO"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("mov ebx, 0xd0000000; mov eax, [rbx]", &[0xbb, 0, 0, 0, 0xd0, 0x8b, 0x03])
                .everywhere(Claim::to_user(ExitKind::MmioRead)),
            Trial::ring3("mov ebx, 0xd0000000; mov eax, [rbx]", &[0xbb, 0, 0, 0, 0xd0, 0x8b, 0x03])
                .everywhere(Claim::to_user(ExitKind::MmioRead)),
        ]),
    },
    Entry {
        name: "mmio-write",
        aliases: &["mmio", "ept-violation", "ept-misconfiguration", "npf", "kvm-exit-mmio"],
        kind: Some(ExitKind::MmioWrite),
        summary: "a write to a guest-physical address without RAM: a device's register, or a hole",
        nature: Nature::Event,
        why: "As for the read. Writes to read-only memory end here too: there the host's page tables forbid the \
              write only.",
        vmx: "an EPT violation, then EPT misconfigurations",
        svm: "nested page faults (VMEXIT_NPF)",
        kvm: "Emulates the instruction. A write that an ioeventfd waits for wakes it, without an exit to user \
              space: so a virtio driver kicks a queue.",
        hostel: "Finds the device on the memory bus; where none stands, the value is dropped.",
        files: &["src/kvm/vcpu.rs", "src/machine/io.rs", "src/bus/bus.rs", "src/devices/ioapic.rs"],
        sources: &["Intel SDM vol. 3C §29.3.3", "AMD APM vol. 2 §15.25.6", "KVM API KVM_EXIT_MMIO"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("mov ebx, 0xd0000000; mov [rbx], eax", &[0xbb, 0, 0, 0, 0xd0, 0x89, 0x03])
                .everywhere(Claim::to_user(ExitKind::MmioWrite)),
            Trial::ring0("mov ebx, 0xd0000ffe; mov [rbx], eax", &[0xbb, 0xfe, 0x0f, 0, 0xd0, 0x89, 0x03])
                .everywhere(Claim::to_user(ExitKind::MmioWrite)),
        ]),
    },
    Entry {
        name: "msr-read",
        aliases: &["rdmsr", "msr", "kvm-exit-x86-rdmsr"],
        kind: Some(ExitKind::MsrRead),
        summary: "RDMSR of a register that KVM does not know, or was told to ask about",
        nature: Nature::Privileged,
        why: "Most model-specific registers are the host's: they trap. Those that KVM loads with the guest's own \
              values (FS and GS base) are read without an exit.",
        vmx: "\"use MSR bitmaps\": a bit for each register, set where a read must exit",
        svm: "intercept MSR_PROT with an MSR permission map of two bits a register",
        kvm: "Answers the registers that it knows. For others it asks user space, as KVM_CAP_X86_USER_SPACE_MSR has \
              it; without that, #GP.",
        hostel: "Answers #GP, as a processor without the register does, and tells once which register was tried. \
                 What `hostel trace --msr` filters it has KVM answer: the guest notices nothing.",
        files: &["src/kvm/msr_filter.rs", "src/machine/io.rs", "src/arch/msr.rs"],
        sources: &["Intel SDM vol. 3C §25.6.9, §26.1.3", "AMD APM vol. 2 §15.11", "KVM API KVM_EXIT_X86_RDMSR"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("mov ecx, 0x12345678; rdmsr", &[0xb9, 0x78, 0x56, 0x34, 0x12, 0x0f, 0x32])
                .everywhere(Claim::to_user(ExitKind::MsrRead)),
            // IA32_EFER
            Trial::ring0("mov ecx, 0xc0000080; rdmsr", &[0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32]).hardware(KVM),
            Trial::ring0("mov ecx, 0xc0000080; rdmsr", &[0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32])
                .while_host(Host::FiltersMsr("IA32_EFER"))
                .everywhere(Claim::to_user(ExitKind::MsrRead)),
            // IA32_FS_BASE
            Trial::ring0("mov ecx, 0xc0000100; rdmsr", &[0xb9, 0, 1, 0, 0xc0, 0x0f, 0x32]),
            Trial::ring3("mov ecx, 0xc0000080; rdmsr", &[0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32])
                .hardware(NATIVE.with(GP))
                .software(KVM.with(GP)),
        ]),
    },
    Entry {
        name: "msr-write",
        aliases: &["wrmsr", "msr", "kvm-exit-x86-wrmsr"],
        kind: Some(ExitKind::MsrWrite),
        summary: "WRMSR of a register that KVM does not know, or was told to ask about",
        nature: Nature::Privileged,
        why: "As for RDMSR; the bitmaps have a bit of their own for writes.",
        vmx: "\"use MSR bitmaps\"",
        svm: "intercept MSR_PROT with an MSR permission map",
        kvm: "As for RDMSR. Writes of the TSC deadline and of the x2APIC's command register are answered on a short \
              way, before the rest of an exit's work.",
        hostel: "Answers #GP and tells once which register was tried; what is filtered it has KVM write.",
        files: &["src/kvm/msr_filter.rs", "src/machine/io.rs", "src/arch/msr.rs"],
        sources: &["Intel SDM vol. 3C §25.6.9, §26.1.3", "AMD APM vol. 2 §15.11", "KVM API KVM_EXIT_X86_WRMSR"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("mov ecx, 0x12345678; wrmsr", &[0xb9, 0x78, 0x56, 0x34, 0x12, 0x0f, 0x30])
                .everywhere(Claim::to_user(ExitKind::MsrWrite)),
            Trial::ring0("mov ecx, 0xc0000080; rdmsr; wrmsr", &[0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32, 0x0f, 0x30])
                .hardware(KVM),
            Trial::ring0("mov ecx, 0xc0000081; wrmsr", &[0xb9, 0x81, 0, 0, 0xc0, 0x0f, 0x30])
                .while_host(Host::FiltersMsr("IA32_STAR"))
                .everywhere(Claim::to_user(ExitKind::MsrWrite)),
        ]),
    },
    Entry {
        name: "eoi",
        aliases: &["ioapic-eoi", "end-of-interrupt", "kvm-exit-ioapic-eoi"],
        kind: Some(ExitKind::IoapicEoi),
        summary: "a LAPIC saw the end of a level-triggered interrupt that the IOAPIC sent",
        nature: Nature::Event,
        why: "A level-triggered input that is still active must be sent again after the handler's end. The LAPIC is \
              KVM's and the IOAPIC is ours, so the word has to cross.",
        vmx: "EOI-exit bitmap, where the processor virtualizes the APIC; else the write to the EOI register is an \
              exit anyway",
        svm: "none: the write to the EOI register is an exit, with AVIC for level-triggered vectors only",
        kvm: "With a split irqchip, KVM_EXIT_IOAPIC_EOI for vectors that user space has routed as level-triggered.",
        hostel: "Tells its IOAPIC, which clears Remote IRR and sends the interrupt again if the line is still up.",
        files: &["src/machine/io.rs", "src/devices/ioapic.rs"],
        sources: &["Intel SDM vol. 3C §30.1.4", "Intel 82093AA §3.2.4", "KVM API KVM_EXIT_IOAPIC_EOI"],
        shown_by: ShownBy::Nothing(
            "it takes a device, an entry of the IOAPIC and a handler; a trace of Linux shows it",
        ),
    },
];
