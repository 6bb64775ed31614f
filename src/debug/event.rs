//! The event that this room looks at: one exit with its answer, as a plain value. It is made on the vCPU's thread
//! (`tracer.rs`) and looked at on another one (`trace_thread.rs`).
//!
//! Times are nanoseconds since the program's begin.

use crate::arch::cpu_state::CpuState;
use crate::arch::paging::read_linear;
use crate::kvm::exit::{Exit, Reply};

/// Bytes of code kept on each side of RIP: an instruction has at most 15 (Intel SDM vol. 2A §2.3.11).
pub const CODE_REACH: usize = 16;

/// An exit and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitEvent {
    /// vCPU that left the guest.
    pub vcpu: u32,
    /// When it left.
    pub at_ns: u64,
    /// How long the guest had run before, since its entry. KVM's own work for it is part of that.
    pub guest_ns: u64,
    /// How long the answer took.
    pub host_ns: u64,
    /// Why it left.
    pub exit: Exit,
    /// What it got back; `None` where its run ended.
    pub reply: Option<Reply>,
    /// The register of the device that was accessed; `None` where no device stands, or for an exit that is no access.
    pub register: Option<DeviceRegister>,
    /// The code around the instruction; `None` where KVM does not sync registers.
    pub code: Option<Code>,
}

impl ExitEvent {
    /// What was accessed or is meant: "COM1 THR", "port 0x80", "0xfec00000", "MSR 0x10", "vector 0x24"; empty for an exit
    /// without such a thing.
    pub fn target(&self) -> String {
        match (self.register, self.exit) {
            (Some(to), _) => format!("{} {}", to.device, to.register),
            (None, Exit::PioRead { port, .. } | Exit::PioWrite { port, .. }) => format!("port {port:#x}"),
            (None, Exit::MmioRead { addr, .. } | Exit::MmioWrite { addr, .. }) => format!("{addr:#x}"),
            (None, Exit::MsrRead { index, .. } | Exit::MsrWrite { index, .. }) => format!("MSR {index:#x}"),
            (None, Exit::IoapicEoi { vector }) => format!("vector {vector:#x}"),
            (None, Exit::SystemEvent { kind }) => format!("event {kind}"),
            (None, Exit::Hypercall { number }) => format!("number {number}"),
            _ => String::new(),
        }
    }

    /// What was written or read.
    pub fn value(&self) -> Option<u64> {
        match (self.exit, self.reply) {
            (Exit::PioWrite { value, .. } | Exit::MmioWrite { value, .. } | Exit::MsrWrite { value, .. }, _) => {
                Some(value)
            }
            (_, Some(Reply::Value(value))) => Some(value),
            _ => None,
        }
    }
}

/// A device's register by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceRegister {
    /// The device, as its `DeviceNode` has it: "COM1".
    pub device: &'static str,
    /// The register, as its specification has it: "THR".
    pub register: &'static str,
}

/// Code around RIP, as the exit left RIP: it stands at the instruction or behind it (see `locate.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code {
    /// Linear address.
    pub rip: u64,
    /// Width of the code: 16, 32 or 64 bits.
    pub bits: u8,
    /// DX, by which IN and OUT name their port.
    pub dx: u16,
    /// What stands from `rip - CODE_REACH` to `rip + CODE_REACH`.
    pub bytes: [u8; 2 * CODE_REACH],
    /// Bytes of it before RIP that could be read.
    pub before: u8,
    /// Bytes of it from RIP on that could be read.
    pub after: u8,
}

impl Code {
    /// The code where the vCPU in `state` stands; `read` gives a 64-bit word of guest-physical memory.
    pub fn around(state: &CpuState, read: &mut dyn FnMut(u64) -> Option<u64>) -> Code {
        let rip = state.linear_rip();
        let mut bytes = [0; 2 * CODE_REACH];
        let (low, high) = bytes.split_at_mut(CODE_REACH);
        let after = read_linear(state, rip, high, read);
        // Where the bytes before cross into a page that is not there, those of RIP's own page are kept.
        let in_page = (rip & 0xfff).min(CODE_REACH as u64) as usize;
        let mut before = CODE_REACH;
        if read_linear(state, rip.wrapping_sub(CODE_REACH as u64), low, read) < CODE_REACH {
            before = in_page;
            let start = rip.wrapping_sub(in_page as u64);
            if read_linear(state, start, &mut low[CODE_REACH - in_page..], read) < in_page {
                before = 0;
            }
        }
        let (bits, dx) = (state.code_bits() as u8, state.regs.rdx as u16);
        Code { rip, bits, dx, bytes, before: before as u8, after: after as u8 }
    }
}

/// Kinds of exits, as filters, budgets, golden traces and explanations name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names of Exit")]
pub enum ExitKind {
    PioRead,
    PioWrite,
    MmioRead,
    MmioWrite,
    MsrRead,
    MsrWrite,
    IoapicEoi,
    Halt,
    Shutdown,
    SystemEvent,
    Debug,
    Hypercall,
    SetTpr,
    IrqWindow,
    Interrupted,
    Failure,
}

impl ExitKind {
    /// All, in the order of [`Exit`].
    pub const ALL: [ExitKind; 16] = [
        ExitKind::PioRead,
        ExitKind::PioWrite,
        ExitKind::MmioRead,
        ExitKind::MmioWrite,
        ExitKind::MsrRead,
        ExitKind::MsrWrite,
        ExitKind::IoapicEoi,
        ExitKind::Halt,
        ExitKind::Shutdown,
        ExitKind::SystemEvent,
        ExitKind::Debug,
        ExitKind::Hypercall,
        ExitKind::SetTpr,
        ExitKind::IrqWindow,
        ExitKind::Interrupted,
        ExitKind::Failure,
    ];

    /// The kind of `exit`.
    pub fn of(exit: &Exit) -> ExitKind {
        match exit {
            Exit::PioRead { .. } => ExitKind::PioRead,
            Exit::PioWrite { .. } => ExitKind::PioWrite,
            Exit::MmioRead { .. } => ExitKind::MmioRead,
            Exit::MmioWrite { .. } => ExitKind::MmioWrite,
            Exit::MsrRead { .. } => ExitKind::MsrRead,
            Exit::MsrWrite { .. } => ExitKind::MsrWrite,
            Exit::IoapicEoi { .. } => ExitKind::IoapicEoi,
            Exit::Halt => ExitKind::Halt,
            Exit::Shutdown => ExitKind::Shutdown,
            Exit::SystemEvent { .. } => ExitKind::SystemEvent,
            Exit::Debug { .. } => ExitKind::Debug,
            Exit::Hypercall { .. } => ExitKind::Hypercall,
            Exit::SetTpr => ExitKind::SetTpr,
            Exit::IrqWindowOpen => ExitKind::IrqWindow,
            Exit::Interrupted => ExitKind::Interrupted,
            Exit::Failure(_) => ExitKind::Failure,
        }
    }

    /// Its name: "pio-write".
    pub fn name(self) -> &'static str {
        match self {
            ExitKind::PioRead => "pio-read",
            ExitKind::PioWrite => "pio-write",
            ExitKind::MmioRead => "mmio-read",
            ExitKind::MmioWrite => "mmio-write",
            ExitKind::MsrRead => "msr-read",
            ExitKind::MsrWrite => "msr-write",
            ExitKind::IoapicEoi => "eoi",
            ExitKind::Halt => "hlt",
            ExitKind::Shutdown => "shutdown",
            ExitKind::SystemEvent => "system-event",
            ExitKind::Debug => "debug",
            ExitKind::Hypercall => "hypercall",
            ExitKind::SetTpr => "set-tpr",
            ExitKind::IrqWindow => "irq-window",
            ExitKind::Interrupted => "interrupted",
            ExitKind::Failure => "failure",
        }
    }

    /// Whether a user's `word` means it: its name, or what it shares with its sibling ("pio").
    pub fn is_meant_by(self, word: &str) -> bool {
        let name = self.name();
        name == word || name.strip_suffix("-read").or(name.strip_suffix("-write")) == Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_what_was_accessed_and_with_which_value() {
        let event = |exit, reply, register| {
            let (vcpu, at_ns, guest_ns, host_ns, code) = (0, 0, 0, 0, None);
            let event = ExitEvent { vcpu, at_ns, guest_ns, host_ns, exit, reply, register, code };
            (event.target(), event.value())
        };
        let com1 = Some(DeviceRegister { device: "COM1", register: "THR" });
        let write = Exit::PioWrite { port: 0x3f8, size: 1, value: 0x41 };
        assert_eq!(event(write, Some(Reply::Resume), com1), ("COM1 THR".into(), Some(0x41)));
        let read = Exit::PioRead { port: 0x80, size: 1 };
        assert_eq!(event(read, Some(Reply::Value(0xff)), None), ("port 0x80".into(), Some(0xff)));
        assert_eq!(event(read, None, None).1, None);
        let msr = Exit::MsrWrite { index: 0x10, filtered: true, value: 7 };
        assert_eq!(event(msr, Some(Reply::Fault), None), ("MSR 0x10".into(), Some(7)));
        assert_eq!(event(Exit::MmioRead { addr: 1 << 32, size: 4 }, None, None), ("0x100000000".into(), None));
        assert_eq!(event(Exit::IoapicEoi { vector: 0x24 }, None, None), ("vector 0x24".into(), None));
        assert_eq!(event(Exit::Halt, None, None), (String::new(), None));
    }

    #[test]
    fn a_word_means_a_kind_or_both_directions() {
        let meant = |word: &str| ExitKind::ALL.into_iter().filter(|kind| kind.is_meant_by(word)).count();
        assert_eq!((meant("pio"), meant("pio-write"), meant("hlt"), meant("p"), meant("")), (2, 1, 1, 0, 0));
        assert!(ExitKind::of(&Exit::Halt).is_meant_by("hlt"));
    }
}
