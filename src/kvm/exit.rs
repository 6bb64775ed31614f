//! Why a vCPU stopped running guest code, and what it gets back: both plain values.
//!
//! Source: KVM API §5 "The kvm_run structure".

/// A reason for which KVM_RUN returned. Accesses are single: string instructions are already taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// IN: wants [`Reply::Value`].
    PioRead {
        /// Port.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
    },
    /// OUT.
    PioWrite {
        /// Port.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
        /// What was written.
        value: u64,
    },
    /// Read of an address without RAM: wants [`Reply::Value`].
    MmioRead {
        /// Guest-physical address.
        addr: u64,
        /// Bytes: 1 to 8, any number.
        size: u8,
    },
    /// Write to an address without RAM.
    MmioWrite {
        /// Guest-physical address.
        addr: u64,
        /// Bytes: 1 to 8, any number.
        size: u8,
        /// What was written.
        value: u64,
    },
    /// RDMSR that KVM does not answer: wants [`Reply::Value`] or [`Reply::Fault`].
    MsrRead {
        /// Number of the register.
        index: u32,
        /// KVM knows the register and was told to ask first; else it does not know it.
        filtered: bool,
    },
    /// WRMSR that KVM does not answer: wants [`Reply::Resume`] or [`Reply::Fault`].
    MsrWrite {
        /// Number of the register.
        index: u32,
        /// KVM knows the register and was told to ask first; else it does not know it.
        filtered: bool,
        /// What was written.
        value: u64,
    },
    /// A LAPIC saw the end of a level-triggered interrupt that the IOAPIC sent.
    IoapicEoi {
        /// Vector of the interrupt.
        vector: u8,
    },
    /// HLT, where no LAPIC in the kernel waits for the guest.
    Halt,
    /// Triple fault.
    Shutdown,
    /// The guest asked for shutdown, reset or crash by a paravirtual call.
    SystemEvent {
        /// `KVM_SYSTEM_EVENT_*`.
        kind: u32,
    },
    /// Single step, breakpoint or watchpoint (see [`super::debug`]).
    Debug {
        /// The exception: 1, #DB, or 3, #BP of an INT3.
        vector: u8,
        /// Linear address of the INT3, or of the next instruction.
        rip: u64,
        /// DR6.
        dr6: u64,
    },
    /// A hypercall that KVM leaves to user space: wants [`Reply::Value`].
    Hypercall {
        /// Number.
        number: u64,
    },
    /// The guest lowered CR8, where no LAPIC in the kernel sees that more interrupts may pass now.
    SetTpr,
    /// An interrupt can be injected now.
    IrqWindowOpen,
    /// A signal or `immediate_exit`: nothing of the guest is pending.
    Interrupted,
    /// KVM could not go on.
    Failure(Failure),
}

/// Why KVM could not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// KVM_EXIT_FAIL_ENTRY: the processor refused the guest's state.
    FailedEntry {
        /// The processor's own reason.
        reason: u64,
    },
    /// KVM_EXIT_INTERNAL_ERROR, suberror 1: an instruction that KVM had to emulate and cannot.
    Emulation {
        /// Bytes at RIP as KVM read them.
        code: [u8; 15],
        /// How many of them are valid.
        code_len: u8,
    },
    /// KVM_EXIT_INTERNAL_ERROR, any other suberror.
    Internal {
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
    },
    /// An exit that this Hostel does not know.
    Unknown {
        /// `KVM_EXIT_*`.
        reason: u32,
    },
}

/// What the vCPU gets back with the next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Go on.
    Resume,
    /// The value that was read.
    Value(u64),
    /// #GP instead of the MSR access.
    Fault,
}
