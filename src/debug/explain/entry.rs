//! What the table tells of one exit or instruction.
//!
//! Sources: Popek and Goldberg "Instruction Behavior"; Robin and Irvine (the seventeen sensitive, unprivileged instructions of x86).

use super::trial::Trial;
use crate::debug::event::ExitKind;

/// A row of the table.
#[derive(Debug)]
pub struct Entry {
    /// What a user types, in lower case: the name of an exit kind or of an instruction.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// The exit kind that it explains.
    pub kind: Option<ExitKind>,
    /// One line: what it is.
    pub summary: &'static str,
    /// Whether it is privileged, sensitive, both or neither.
    pub nature: Nature,
    /// Why it traps or does not.
    pub why: &'static str,
    /// Who decides on Intel's processors: VMCS controls by name.
    pub vmx: &'static str,
    /// Who decides on AMD's processors: VMCB intercepts by name.
    pub svm: &'static str,
    /// What KVM does.
    pub kvm: &'static str,
    /// What Hostel does.
    pub hostel: &'static str,
    /// Where Hostel does it, below the repository's root.
    pub files: &'static [&'static str],
    /// What the manuals say of it.
    pub sources: &'static [&'static str],
    /// Code that shows it.
    pub shown_by: ShownBy,
}

/// How an entry is held against the facts.
#[derive(Debug)]
pub enum ShownBy {
    /// Code that a test runs on each KVM.
    Trials(&'static [Trial]),
    /// No instruction alone brings it about: why.
    Nothing(&'static str),
}

impl Entry {
    /// Its trials; none where no instruction brings it about.
    pub fn trials(&self) -> &'static [Trial] {
        match self.shown_by {
            ShownBy::Trials(trials) => trials,
            ShownBy::Nothing(_) => &[],
        }
    }
}

/// What Popek and Goldberg would call it. A machine can be virtualized by running the guest's kernel without privilege if all
/// sensitive instructions are privileged, because then each of them traps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// No instruction: an event.
    Event,
    /// Faults outside ring 0 and touches the machine's state.
    Privileged,
    /// Faults where the current ring is above RFLAGS.IOPL, unless the TSS lets it touch the port.
    PrivilegedByIopl,
    /// Reads or changes the machine's state in any ring, without a fault: the hole in x86.
    Sensitive,
    /// Came with virtualization, as a way to the hypervisor.
    Hypervisor,
    /// Touches nothing that a guest must not touch.
    Innocuous,
}

impl Nature {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Nature::Event => "no instruction: an event",
            Nature::Privileged => {
                "sensitive and privileged: it faults outside ring 0, so even a guest in ring 3 could be caught"
            }
            Nature::PrivilegedByIopl => "sensitive, and privileged by IOPL: it faults in rings above RFLAGS.IOPL",
            Nature::Sensitive => {
                "sensitive and not privileged: in ring 3 it does not fault, but tells or does the wrong thing. \
                 Popek and Goldberg's condition fails here"
            }
            Nature::Hypervisor => "made for virtualization: it leads to the hypervisor",
            Nature::Innocuous => "innocuous: neither privileged nor sensitive",
        }
    }
}
