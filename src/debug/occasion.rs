//! On what occasion a vCPU is told about, by its name, and what such an occasion means.
//!
//! Sources: KVM API KVM_RUN; Intel SDM vol. 3A "Interrupt 8: Double Fault Exception"; Intel SDM vol. 3C "VM-Entry Failures During
//! or After Loading Guest State".

use crate::kvm::exit::Failure;

/// Why a vCPU's state is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Triple fault.
    TripleFault,
    /// KVM could not go on.
    Failed(Failure),
    /// The guest's kernel said that it panicked.
    Panicked,
    /// The deadline passed.
    Deadline,
    /// The user asked.
    Asked,
}

/// What a triple fault means whose registers are those of a reset.
pub const AFTER_RESET: &str = "\
These are the registers of a reset: on AMD, KVM has nothing else to show after a triple fault.
The place of the fault is lost; what the guest printed last, or stepping, leads to it.";

impl Occasion {
    /// The kind of stop, by its KVM name where it has one.
    pub fn name(self) -> String {
        match self {
            Occasion::TripleFault => "triple fault (KVM_EXIT_SHUTDOWN)".to_owned(),
            Occasion::Deadline => "still running when the deadline passed".to_owned(),
            Occasion::Panicked => "the guest's kernel panicked".to_owned(),
            Occasion::Asked => "now".to_owned(),
            Occasion::Failed(Failure::FailedEntry { reason }) => {
                format!("the processor refused to enter the guest (KVM_EXIT_FAIL_ENTRY, reason {reason:#x})")
            }
            Occasion::Failed(Failure::Emulation { .. }) => {
                "KVM could not run an instruction (KVM_EXIT_INTERNAL_ERROR, suberror 1: emulation)".to_owned()
            }
            Occasion::Failed(Failure::Internal { suberror }) => {
                let what = match suberror {
                    2 => "simultaneous exceptions",
                    3 => "an exit while an event was delivered",
                    4 => "an exit that KVM does not know",
                    _ => "unknown",
                };
                format!("KVM failed (KVM_EXIT_INTERNAL_ERROR, suberror {suberror}: {what})")
            }
            Occasion::Failed(Failure::Unknown { reason }) => format!("an exit that Hostel does not know ({reason})"),
        }
    }

    /// What it means and where to look, in lines.
    pub fn meaning(self) -> &'static str {
        match self {
            Occasion::TripleFault => {
                "An exception came, its handler could not be entered, and neither could the one for that (#DF)."
            }
            Occasion::Failed(Failure::Emulation { .. }) => {
                "\
This KVM could not run that instruction: it had to emulate it, and its emulator does not know it.
With VMX or SVM the processor runs nearly everything itself, and KVM emulates only accesses to devices
and some of real mode. A KVM without hardware virtualization emulates all of ring 0 and real mode, without
SSE and newer instructions. `hostel doctor` tells which kind this is; the kernel log (dmesg) may say more."
            }
            Occasion::Failed(Failure::FailedEntry { reason }) => match reason {
                0x8000_0021 => "VMX: the guest's state is invalid (basic exit reason 33).",
                0x8000_0022 => "VMX: an MSR could not be loaded (basic exit reason 34).",
                0xffff_ffff => "SVM: the guest's state is invalid (VMEXIT_INVALID).",
                _ => "The reason is the processor's own: a VMX instruction error, or a VM-exit code.",
            },
            Occasion::Failed(_) => "The kernel log (dmesg) may say more.",
            Occasion::Panicked => "The stack and the exits below are those of the guest's own panic.",
            Occasion::Deadline | Occasion::Asked => "",
        }
    }
}
