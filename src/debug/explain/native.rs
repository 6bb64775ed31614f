//! Instructions that any program may use: those that tell about the machine or end in the hypervisor, and those that are harmless.
//!
//! Sources: Intel SDM vol. 3C §26.1.2, §26.1.3; AMD APM vol. 2 §15.9; Linux hypercalls.rst.

use super::entry::{Entry, Nature, ShownBy};
use super::trial::{Claim, KVM, NATIVE, RDRAND, RDTSCP, Trial, XSAVE};

/// Why no trial of a hypercall without hardware virtualization.
const NO_HYPERCALL: Claim = Claim::NotHere("KVM's emulator leaves the hypercall to a processor with virtualization");

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        name: "nop",
        aliases: &["add", "mov", "jmp", "call", "ret", "plain"],
        kind: None,
        summary: "an ordinary instruction: the processor runs it, nobody looks",
        nature: Nature::Innocuous,
        why: "Nearly all of what a guest does. That it costs nothing is what tells a virtual machine from an \
              emulator.",
        vmx: "none",
        svm: "none",
        kvm: "Nothing. Without hardware virtualization the guest's ring 3 runs the same way, and its ring 0 is \
              interpreted.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Popek and Goldberg \"Virtual Machine Concepts\"", "Intel SDM vol. 3C §26.1"],
        shown_by: ShownBy::Trials(&[Trial::ring3("nop", &[0x90]), Trial::ring0("nop", &[0x90])]),
    },
    Entry {
        name: "cpuid",
        aliases: &[],
        kind: None,
        summary: "CPUID: what processor is this?",
        nature: Nature::Sensitive,
        why: "The guest's processor may have fewer features than the host's, another number and a hypervisor's \
              name. Any ring may ask. Without hardware virtualization ring 3 gets the host's answer, unless the \
              processor can be told to fault.",
        vmx: "unconditional",
        svm: "intercept CPUID",
        kvm: "Answers from the list that KVM_SET_CPUID2 gave the vCPU.",
        hostel: "Makes that list once, before the first entry, from what KVM supports, with topology and APIC \
                 number made right.",
        files: &["src/arch/cpuid.rs", "src/kvm/vcpu.rs"],
        sources: &["Intel SDM vol. 3C §26.1.2", "AMD APM vol. 2 §15.9", "KVM API KVM_SET_CPUID2"],
        shown_by: ShownBy::Trials(&[
            Trial::ring3("xor eax, eax; cpuid", &[0x31, 0xc0, 0xf, 0xa2]).hardware(KVM),
            Trial::ring0("xor eax, eax; cpuid", &[0x31, 0xc0, 0xf, 0xa2]).hardware(KVM),
        ]),
    },
    Entry {
        name: "rdtsc",
        aliases: &["tsc"],
        kind: None,
        summary: "RDTSC: the time stamp counter",
        nature: Nature::Sensitive,
        why: "It tells the host's time, so it is sensitive; the guest's kernel may forbid it to ring 3 (CR4.TSD). \
              To trap it would cost a thousand times what it takes.",
        vmx: "\"RDTSC exiting\": clear. \"use TSC offsetting\" and \"use TSC scaling\" make the value the guest's",
        svm: "intercept RDTSC: clear. TSC_OFFSET and the TSC ratio make the value the guest's",
        kvm: "Keeps the offset; the clock that Linux guests use (kvmclock) is a page with factors for this counter.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §26.3", "AMD APM vol. 2 §15.30.5", "Linux msr.rst"],
        shown_by: ShownBy::Trials(&[Trial::ring3("rdtsc", &[0xf, 0x31]), Trial::ring0("rdtsc", &[0xf, 0x31])]),
    },
    Entry {
        name: "rdtscp",
        aliases: &["rdpid", "tsc-aux"],
        kind: None,
        summary: "RDTSCP: the time stamp counter and IA32_TSC_AUX, by which Linux tells the processor's number",
        nature: Nature::Sensitive,
        why: "As for RDTSC; IA32_TSC_AUX has to be the guest's, so KVM switches it.",
        vmx: "\"enable RDTSCP\": set where CPUID offers it, else #UD",
        svm: "intercept RDTSCP: set only where CPUID does not offer it",
        kvm: "Loads the guest's IA32_TSC_AUX.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §26.3", "AMD APM vol. 2 §15.9"],
        shown_by: ShownBy::Trials(&[Trial::ring3("rdtscp", &[0xf, 1, 0xf9]).needs(RDTSCP)]),
    },
    Entry {
        name: "rdpmc",
        aliases: &["pmu"],
        kind: None,
        summary: "RDPMC: a performance counter",
        nature: Nature::Privileged,
        why: "The counters count for the host. Ring 3 may read them only if its kernel set CR4.PCE, else #GP \
              without an exit.",
        vmx: "\"RDPMC exiting\"",
        svm: "intercept RDPMC",
        kvm: "Answers with its virtual counter, made of the host's perf events; #GP where there is none.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §26.1.3", "AMD APM vol. 2 §15.9"],
        shown_by: ShownBy::Trials(&[Trial::ring3("xor ecx, ecx; rdpmc", &[0x31, 0xc9, 0xf, 0x33])
            .hardware(NATIVE.with(13))
            .software(KVM.with(13))]),
    },
    Entry {
        name: "xgetbv",
        aliases: &["xcr0"],
        kind: None,
        summary: "XGETBV: which extended states the kernel switched on",
        nature: Nature::Innocuous,
        why: "KVM loads the guest's XCR0 before it enters, so the processor reads the right value.",
        vmx: "none",
        svm: "none",
        kvm: "Switches XCR0 with the guest.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 2D XGETBV", "KVM API KVM_SET_XCRS"],
        shown_by: ShownBy::Trials(&[Trial::ring3("xor ecx, ecx; xgetbv", &[0x31, 0xc9, 0xf, 1, 0xd0]).needs(XSAVE)]),
    },
    Entry {
        name: "rdrand",
        aliases: &["rdseed"],
        kind: None,
        summary: "RDRAND and RDSEED: random numbers of the processor",
        nature: Nature::Innocuous,
        why: "A random number is nobody's state.",
        vmx: "\"RDRAND exiting\", \"RDSEED exiting\": set only where CPUID does not offer them",
        svm: "none",
        kvm: "Nothing; #UD where CPUID does not offer them and the processor can exit.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §25.6.2, §26.1.3"],
        shown_by: ShownBy::Trials(&[Trial::ring3("rdrand eax", &[0xf, 0xc7, 0xf0]).needs(RDRAND)]),
    },
    Entry {
        name: "pause",
        aliases: &["ple", "spin"],
        kind: None,
        summary: "PAUSE: a spin loop tells that it waits",
        nature: Nature::Innocuous,
        why: "One PAUSE is harmless. Thousands close together mean that a vCPU waits for a lock whose holder may \
              not be running: that is worth an exit.",
        vmx: "\"PAUSE-loop exiting\" in ring 0, with a window of thousands of cycles; not \"PAUSE exiting\"",
        svm: "intercept PAUSE with a pause filter that counts and a threshold between two",
        kvm: "Lets another vCPU of the guest run and widens the window.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 3C §26.1.3", "AMD APM vol. 2 §15.14.4"],
        shown_by: ShownBy::Trials(&[Trial::ring3("pause", &[0xf3, 0x90])]),
    },
    Entry {
        name: "clflush",
        aliases: &["clflushopt", "clwb", "cache-line"],
        kind: None,
        summary: "CLFLUSH: write back one line of the caches",
        nature: Nature::Innocuous,
        why: "It concerns only memory that the guest can reach.",
        vmx: "none",
        svm: "none",
        kvm: "Nothing.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 2A CLFLUSH"],
        shown_by: ShownBy::Trials(&[Trial::ring3("clflush [rsp-8]", &[0xf, 0xae, 0x7c, 0x24, 0xf8])]),
    },
    Entry {
        name: "vmcall",
        aliases: &["vmmcall"],
        kind: None,
        summary: "VMCALL on Intel's processors, VMMCALL on AMD's: a call to the hypervisor",
        nature: Nature::Hypervisor,
        why: "They exist to trap. On the other vendor's processor they are undefined, and the #UD traps.",
        vmx: "unconditional: VMCALL",
        svm: "intercept VMMCALL",
        kvm: "Answers its own numbers (kick, clock pairing, IPIs) and -KVM_ENOSYS to others (counter hypercalls), \
              -KVM_EPERM outside ring 0. The other vendor's instruction it replaces in the guest's memory by the \
              right one.",
        hostel: "Nothing; see `hypercall` for what could reach it.",
        files: &["src/machine/io.rs"],
        sources: &["Intel SDM vol. 3C §26.1.2", "AMD APM vol. 2 §15.9", "Linux hypercalls.rst"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("mov eax, 0x1234; vmcall", &[0xb8, 0x34, 0x12, 0, 0, 0xf, 1, 0xc1])
                .hardware(Claim::by_kvm("hypercalls"))
                .software(NO_HYPERCALL),
            Trial::ring0("mov eax, 0x1234; vmmcall", &[0xb8, 0x34, 0x12, 0, 0, 0xf, 1, 0xd9])
                .hardware(Claim::by_kvm("hypercalls"))
                .software(NO_HYPERCALL),
        ]),
    },
    Entry {
        name: "syscall",
        aliases: &["system-call"],
        kind: None,
        summary: "SYSCALL: a program calls the guest's kernel",
        nature: Nature::Innocuous,
        why: "It stays inside the guest: the registers that say where to (STAR, LSTAR) are the guest's own. Without \
              hardware virtualization it would end in the host's kernel, so KVM has to stand in between.",
        vmx: "none, while EFER.SCE is set",
        svm: "none, while EFER.SCE is set",
        kvm: "Switches the registers behind it. Without EFER.SCE it sees the #UD.",
        hostel: "Nothing in a system VM.",
        files: &[],
        sources: &["Intel SDM vol. 2B SYSCALL", "AMD APM vol. 2 §6.1.1"],
        shown_by: ShownBy::Trials(&[Trial::ring3("syscall", &[0xf, 5]).software(KVM)]),
    },
    Entry {
        name: "sysenter",
        aliases: &["sysexit"],
        kind: None,
        summary: "SYSENTER: a program calls the guest's kernel, the older way",
        nature: Nature::Innocuous,
        why: "As for SYSCALL. AMD's processors do not have it in long mode, and raise #UD; with IA32_SYSENTER_CS 0, \
              as here, Intel's raise #GP.",
        vmx: "none",
        svm: "none; intercept of #UD",
        kvm: "Emulates it on AMD's processors if the guest was promised one of Intel's, so that guests can move \
              between both.",
        hostel: "Nothing.",
        files: &[],
        sources: &["Intel SDM vol. 2B SYSENTER", "AMD APM vol. 2 §6.1.2"],
        shown_by: ShownBy::Trials(&[Trial::ring3("sysenter", &[0xf, 0x34])
            .vmx(NATIVE.with(13))
            .svm(KVM.with(6))
            .software(Claim::NotHere("the exception is that of the host's vendor"))]),
    },
];
