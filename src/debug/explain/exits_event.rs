//! Exits that are no accesses: halts, ends, hypercalls, and those that KVM makes on its own.
//!
//! Sources: Intel SDM vol. 3C §26.1.3, §26.2; AMD APM vol. 2 §15.9, §15.14.3; KVM API §5 "The kvm_run structure".

use super::entry::{Entry, Nature, ShownBy};
use super::trial::{Claim, Host, KVM, NATIVE, Trial};
use crate::arch::irqchip::Irqchip;
use crate::debug::event::ExitKind;

/// Vector of #GP (Intel SDM vol. 3A §6.15).
const GP: u8 = 13;
/// Vector of the LAPIC timer in the trial of HLT.
const TIMER: u8 = 0x41;

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        name: "hlt",
        aliases: &["halt", "kvm-exit-hlt"],
        kind: Some(ExitKind::Halt),
        summary: "HLT: the vCPU waits for an interrupt",
        nature: Nature::Privileged,
        why: "A processor that really halted would be lost to the host until the next interrupt. So HLT traps and \
              the vCPU's thread sleeps instead.",
        vmx: "\"HLT exiting\", which KVM sets unless KVM_CAP_X86_DISABLE_EXITS took it away",
        svm: "intercept HLT",
        kvm: "With LAPICs in the kernel it waits for the interrupt itself (polling a little first) and user space \
              sees nothing. Without, it cannot know what would wake the guest: KVM_EXIT_HLT.",
        hostel: "Without LAPICs nothing can wake the vCPU, so its run ends: the guest is done. With LAPICs the \
                 control thread looks each second whether all vCPUs halted with interrupts off.",
        files: &["src/machine/io.rs", "src/machine/cpus.rs"],
        sources: &["Intel SDM vol. 3C §26.1.3", "AMD APM vol. 2 §15.9", "KVM API KVM_EXIT_HLT"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("hlt", &[0xf4]).everywhere(Claim::to_user(ExitKind::Halt)),
            // End of the last interrupt; LAPIC on; divide by 1; one shot, vector 0x41; count.
            Trial::ring0(
                "mov ebx, 0xfee00000; mov dword ptr [rbx+0xb0], 0; mov dword ptr [rbx+0xf0], 0x1ff; mov dword ptr [rbx+0x3e0], 0xb; \
                 mov dword ptr [rbx+0x320], 0x41; mov dword ptr [rbx+0x380], 0x10000; sti; hlt",
                &[
                    0xbb, 0, 0, 0xe0, 0xfe, 0xc7, 0x83, 0xb0, 0, 0, 0, 0, 0, 0, 0, 0xc7, 0x83, 0xf0, 0, 0, 0, 0xff, 1, 0, 0,
                    0xc7, 0x83, 0xe0, 3, 0, 0, 0x0b, 0, 0, 0, 0xc7, 0x83, 0x20, 3, 0, 0, 0x41, 0, 0, 0, 0xc7, 0x83, 0x80, 3, 0,
                    0, 0, 0, 1, 0, 0xfb, 0xf4,
                ],
            )
            .on(Irqchip::Split)
            .everywhere(Claim::by_kvm("halt_exits").with(TIMER)),
            Trial::ring3("hlt", &[0xf4]).hardware(NATIVE.with(GP)).software(KVM.with(GP)),
        ]),
    },
    Entry {
        name: "shutdown",
        aliases: &["triple-fault", "kvm-exit-shutdown"],
        kind: Some(ExitKind::Shutdown),
        summary: "a triple fault: an exception whose handler could not be called, nor that of the double fault",
        nature: Nature::Event,
        why: "A processor shuts down and waits for a reset; a PC resets it. The host must not, so it always exits.",
        vmx: "unconditional (basic exit reason 2)",
        svm: "intercept SHUTDOWN",
        kvm: "KVM_EXIT_SHUTDOWN. After it SVM's guest state is undefined: KVM resets the vCPU, so its registers are \
              gone.",
        hostel: "Ends the run with status 14 and prints what the registers, where they are still there, and the \
                 code tell of the cause.",
        files: &["src/machine/io.rs", "src/debug/crash.rs"],
        sources: &["Intel SDM vol. 3C §26.2", "AMD APM vol. 2 §15.14.3", "KVM API KVM_EXIT_SHUTDOWN"],
        shown_by: ShownBy::Trials(&[
            // An interrupt table of no length, then #UD.
            Trial::ring0("push 0; push 0; lidt [rsp]; ud2", &[0x6a, 0, 0x6a, 0, 0x0f, 0x01, 0x1c, 0x24, 0x0f, 0x0b])
                .everywhere(Claim::to_user(ExitKind::Shutdown)),
        ]),
    },
    Entry {
        name: "system-event",
        aliases: &["kvm-exit-system-event"],
        kind: Some(ExitKind::SystemEvent),
        summary: "the guest asked for shutdown, reset or crash by a paravirtual interface that KVM itself offers",
        nature: Nature::Event,
        why: "Not an instruction's doing: interfaces like Hyper-V's crash registers end in it. On a plain PC, power \
              off and reset are port writes, which Hostel's own devices see.",
        vmx: "none: it is made by KVM",
        svm: "none: it is made by KVM",
        kvm: "KVM_EXIT_SYSTEM_EVENT with its type.",
        hostel: "Shutdown, reset and crash become the same requests that the ACPI registers and pvpanic file; \
                 others are ignored.",
        files: &["src/machine/io.rs", "src/devices/acpi_pm.rs"],
        sources: &["KVM API KVM_EXIT_SYSTEM_EVENT"],
        shown_by: ShownBy::Nothing("Hostel switches none of the interfaces on that lead to it"),
    },
    Entry {
        name: "debug",
        aliases: &["single-step", "breakpoint", "kvm-exit-debug"],
        kind: Some(ExitKind::Debug),
        summary: "a single step or a breakpoint that the host's debugger set",
        nature: Nature::Event,
        why: "With KVM_SET_GUEST_DEBUG, KVM keeps #DB and #BP for the debugger. Without it they are the guest's own.",
        vmx: "exception bitmap, bits 1 and 3; RFLAGS.TF of the guest or the monitor trap flag",
        svm: "intercepts of #DB and #BP; RFLAGS.TF of the guest",
        kvm: "KVM_EXIT_DEBUG with the address and DR6.",
        hostel: "Tells the gdb that asked for it, which decides whether the breakpoint was its own.",
        files: &["src/kvm/debug.rs", "src/debug/gdb/gate.rs"],
        sources: &["Intel SDM vol. 3C §25.6.3", "AMD APM vol. 2 §15.12", "KVM API KVM_SET_GUEST_DEBUG"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("nop", &[0x90]).while_host(Host::Steps).everywhere(Claim::to_user(ExitKind::Debug)),
        ]),
    },
    Entry {
        name: "hypercall",
        aliases: &["kvm-exit-hypercall"],
        kind: Some(ExitKind::Hypercall),
        summary: "a hypercall that KVM leaves to user space",
        nature: Nature::Hypervisor,
        why: "VMCALL and VMMCALL trap always; which numbers go on to user space is a matter of configuration (see \
              `vmcall`).",
        vmx: "unconditional: VMCALL",
        svm: "intercept VMMCALL",
        kvm: "KVM_EXIT_HYPERCALL for KVM_HC_MAP_GPA_RANGE where KVM_CAP_EXIT_HYPERCALL asks for it, as confidential \
              guests need it.",
        hostel: "Answers -KVM_ENOSYS, as KVM does for numbers that nobody implements.",
        files: &["src/machine/io.rs"],
        sources: &["KVM API KVM_EXIT_HYPERCALL", "KVM API KVM_CAP_EXIT_HYPERCALL"],
        shown_by: ShownBy::Nothing("Hostel does not enable the capability; `vmcall` shows what KVM answers alone"),
    },
    Entry {
        name: "set-tpr",
        aliases: &["tpr", "kvm-exit-set-tpr"],
        kind: Some(ExitKind::SetTpr),
        summary: "the guest lowered CR8 where there is no LAPIC in the kernel: more interrupts may pass now",
        nature: Nature::Event,
        why: "Who emulates the interrupt controller in user space has to know that an interrupt which waited may go \
              now.",
        vmx: "\"CR8-load exiting\"",
        svm: "intercept of writes to CR8",
        kvm: "Keeps the value, and tells user space when it goes down: KVM_EXIT_SET_TPR. With LAPICs in the kernel \
              it never does.",
        hostel: "Goes on: without LAPICs the machine has no interrupts that could wait.",
        files: &["src/kvm/vcpu.rs", "src/machine/io.rs"],
        sources: &["Intel SDM vol. 3C §25.6.2", "AMD APM vol. 2 §15.21.2", "KVM API KVM_EXIT_SET_TPR"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0(
                "mov eax, 1; mov cr8, rax; xor eax, eax; mov cr8, rax",
                &[0xb8, 1, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0, 0x31, 0xc0, 0x44, 0x0f, 0x22, 0xc0],
            )
            .hardware(Claim::to_user(ExitKind::SetTpr)),
        ]),
    },
    Entry {
        name: "irq-window",
        aliases: &["interrupt-window", "kvm-exit-irq-window-open"],
        kind: Some(ExitKind::IrqWindow),
        summary: "the guest can take an interrupt now: it set RFLAGS.IF, and user space had asked to hear of it",
        nature: Nature::Event,
        why: "Who injects interrupts from user space must wait until the guest lets them in. So must KVM, but it \
              keeps that to itself.",
        vmx: "\"interrupt-window exiting\"",
        svm: "intercept VINTR with V_IRQ",
        kvm: "KVM_EXIT_IRQ_WINDOW_OPEN where kvm_run asked for it. With LAPICs in the kernel KVM injects by itself \
              and counts irq_window_exits.",
        hostel: "Goes on: its interrupts come through LAPICs in the kernel, or the machine has none.",
        files: &["src/kvm/vcpu.rs", "src/machine/io.rs"],
        sources: &["Intel SDM vol. 3C §25.6.2, §26.2", "AMD APM vol. 2 §15.13.5", "KVM API KVM_EXIT_IRQ_WINDOW_OPEN"],
        shown_by: ShownBy::Nothing("Hostel never asks for it; KVM's own windows are its counter irq_window_exits"),
    },
    Entry {
        name: "interrupted",
        aliases: &["kick", "intr", "external-interrupt", "kvm-exit-intr"],
        kind: Some(ExitKind::Interrupted),
        summary: "a signal for the vCPU's thread: Hostel wants it out of the guest",
        nature: Nature::Event,
        why: "Each interrupt of the host ends guest mode, so that the host's timer and devices stay served. User \
              space sees one only if it brought a signal.",
        vmx: "\"external-interrupt exiting\"",
        svm: "intercepts INTR, NMI and SMI",
        kvm: "Lets the host's kernel handle the interrupt and enters again; with a signal pending, or \
              immediate_exit set, KVM_RUN returns EINTR.",
        hostel: "Kicks by a signal whose handler sets immediate_exit, so that none is lost; then pauses, stops or \
                 does a task at the instruction boundary.",
        files: &["src/kvm/kick.rs", "src/vcpu/run_loop.rs", "src/vcpu/thread.rs"],
        sources: &["Intel SDM vol. 3C §25.6.1", "AMD APM vol. 2 §15.13", "KVM API KVM_RUN"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("jmp short 0", &[0xeb, 0xfe]).while_host(Host::Kicks).everywhere(Claim::to_user(ExitKind::Interrupted)),
        ]),
    },
    Entry {
        name: "failure",
        aliases: &["internal-error", "fail-entry", "emulation-failure", "kvm-exit-internal-error"],
        kind: Some(ExitKind::Failure),
        summary: "KVM could not go on: an instruction that it cannot emulate, a state that the processor refuses, \
                  or an exit unknown here",
        nature: Nature::Event,
        why: "An access without RAM has to be emulated, and KVM's emulator knows a part of x86: no x87, few vector \
              instructions. A guest's program gets #UD instead; its kernel ends here.",
        vmx: "a failed VM entry (invalid guest state), or none: the emulator gave up",
        svm: "VMEXIT_INVALID, or none: the emulator gave up",
        kvm: "KVM_EXIT_INTERNAL_ERROR with a suberror and the instruction's bytes, or KVM_EXIT_FAIL_ENTRY with the \
              processor's reason.",
        hostel: "Ends the run with status 16 and prints the instruction, the registers and the reason.",
        files: &["src/kvm/vcpu.rs", "src/machine/io.rs", "src/debug/crash.rs"],
        sources: &["Intel SDM vol. 3C §27.8", "AMD APM vol. 2 §15.5.1", "KVM API KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_FAIL_ENTRY"],
        shown_by: ShownBy::Trials(&[
            Trial::ring0("mov ebx, 0xd0000000; fld st, dword ptr [rbx]", &[0xbb, 0, 0, 0, 0xd0, 0xd9, 0x03])
                .everywhere(Claim::to_user(ExitKind::Failure)),
        ]),
    },
];
