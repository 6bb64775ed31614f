//! Code that shows an entry, and what is claimed to be seen of it from outside.
//!
//! The code runs in 64-bit mode, in ring 0 or 3, on a machine with 1 MiB of RAM, interrupts off and IOPL 0. A claim is stated for
//! each way in which KVM enters guests: VMX with EPT, SVM with nested paging, and software, where the guest's ring 0 is interpreted
//! by KVM and its ring 3 runs in the host's ring 3.

use crate::arch::irqchip::Irqchip;
use crate::debug::event::ExitKind;

/// Instructions to run, and the claims about them.
#[derive(Debug)]
pub struct Trial {
    /// The instructions as text, separated by "; ". The first stands at address 0, for jumps.
    pub asm: &'static str,
    /// The same as bytes.
    pub code: &'static [u8],
    /// Where they run.
    pub ring: Ring,
    /// Interrupt controllers of the machine.
    pub irqchip: Irqchip,
    /// What the host does besides.
    pub host: Host,
    /// What CPUID must offer.
    pub needs: Option<Feature>,
    /// What is seen with VMX.
    pub vmx: Claim,
    /// What is seen with SVM.
    pub svm: Claim,
    /// What is seen without hardware virtualization.
    pub software: Claim,
}

/// A privilege level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// The kernel's.
    Zero,
    /// Programs'.
    Three,
}

/// What the host does besides running the vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Nothing.
    Idle,
    /// Kicks the vCPU after a while.
    Kicks,
    /// Steps it instruction by instruction.
    Steps,
    /// Has mapped a page at 0xe0000000 read-only.
    MapsRom,
    /// Has KVM ask about the accesses to this model-specific register.
    FiltersMsr(&'static str),
}

/// A bit of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// EAX that selects the leaf.
    pub leaf: u32,
    /// Which of EAX, EBX, ECX and EDX.
    pub register: usize,
    /// Bit in it.
    pub bit: u32,
}

/// Extended states and their register XCR0.
pub const XSAVE: Feature = Feature { name: "XSAVE", leaf: 1, register: 2, bit: 26 };
/// The instruction.
pub const RDRAND: Feature = Feature { name: "RDRAND", leaf: 1, register: 2, bit: 30 };
/// The instruction.
pub const RDTSCP: Feature = Feature { name: "RDTSCP", leaf: 0x8000_0001, register: 3, bit: 27 };
/// The instruction.
pub const INVPCID: Feature = Feature { name: "INVPCID", leaf: 7, register: 1, bit: 10 };

/// What is claimed to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Something or nothing, as each repetition has it.
    Seen {
        /// From outside.
        by: Seen,
        /// From inside: the vector of the exception or interrupt that it ends with.
        vector: Option<u8>,
    },
    /// It cannot be shown: why.
    NotHere(&'static str),
}

/// What is seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// User space gets an exit of this kind.
    ByHostel(ExitKind),
    /// User space gets none, but this counter of KVM moves.
    ByKvm(&'static str),
    /// The processor does it alone.
    ByNobody,
}

/// The processor does it alone.
pub const NATIVE: Claim = Claim::Seen { by: Seen::ByNobody, vector: None };
/// The guest is left and KVM answers.
pub const KVM: Claim = Claim::by_kvm("exits");
/// KVM's instruction emulator does it.
pub const INTERPRETED: Claim = Claim::by_kvm("insn_emulation");

impl Claim {
    /// User space gets an exit of this kind.
    pub const fn to_user(kind: ExitKind) -> Claim {
        Claim::Seen { by: Seen::ByHostel(kind), vector: None }
    }

    /// KVM answers, and counts it as `counter`.
    pub const fn by_kvm(counter: &'static str) -> Claim {
        Claim::Seen { by: Seen::ByKvm(counter), vector: None }
    }

    /// The guest takes an exception.
    pub const fn with(self, vector: u8) -> Claim {
        match self {
            Claim::Seen { by, .. } => Claim::Seen { by, vector: Some(vector) },
            Claim::NotHere(_) => self,
        }
    }
}

impl Trial {
    /// Code for ring 0. Unless said otherwise the processor runs it alone, and software interprets it.
    pub const fn ring0(asm: &'static str, code: &'static [u8]) -> Trial {
        let (ring, irqchip, host, needs) = (Ring::Zero, Irqchip::None, Host::Idle, None);
        Trial { asm, code, ring, irqchip, host, needs, vmx: NATIVE, svm: NATIVE, software: INTERPRETED }
    }

    /// Code for ring 3. Unless said otherwise the processor runs it alone.
    pub const fn ring3(asm: &'static str, code: &'static [u8]) -> Trial {
        Trial { ring: Ring::Three, software: NATIVE, ..Trial::ring0(asm, code) }
    }

    /// On a machine with these interrupt controllers.
    pub const fn on(self, irqchip: Irqchip) -> Trial {
        Trial { irqchip, ..self }
    }

    /// While the host does this.
    pub const fn while_host(self, host: Host) -> Trial {
        Trial { host, ..self }
    }

    /// Only where CPUID offers `feature`.
    pub const fn needs(self, feature: Feature) -> Trial {
        Trial { needs: Some(feature), ..self }
    }

    /// What is seen with VMX.
    pub const fn vmx(self, claim: Claim) -> Trial {
        Trial { vmx: claim, ..self }
    }

    /// What is seen with SVM.
    pub const fn svm(self, claim: Claim) -> Trial {
        Trial { svm: claim, ..self }
    }

    /// What is seen with VMX and SVM.
    pub const fn hardware(self, claim: Claim) -> Trial {
        Trial { vmx: claim, svm: claim, ..self }
    }

    /// What is seen without hardware virtualization.
    pub const fn software(self, claim: Claim) -> Trial {
        Trial { software: claim, ..self }
    }

    /// What is seen on each KVM.
    pub const fn everywhere(self, claim: Claim) -> Trial {
        self.hardware(claim).software(claim)
    }
}
