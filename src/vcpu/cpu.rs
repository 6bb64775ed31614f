//! What the run loop and its handlers may do with a vCPU. `kvm::Vcpu` is one implementation, the tests' scripted CPU the
//! other.

use crate::arch::cpu_state::CpuState;
use crate::kvm::exit::{Exit, Reply};
use crate::kvm::vcpu::{Activity, Synced, Vcpu};
use std::io;

/// A virtual CPU.
pub trait Cpu {
    /// Number of the vCPU.
    fn id(&self) -> u32;

    /// Makes this thread the one that runs the vCPU, and that a kick interrupts.
    fn bind_to_thread(&mut self);

    /// Enters the guest with the answer to the last exit, until the next one.
    ///
    /// # Errors
    /// The host's KVM refuses to run the vCPU.
    fn run(&mut self, reply: Reply) -> Result<Exit, CpuError>;

    /// Hands `reply` to a pending access without running further guest code. Repeat until `None`: a completion can yield
    /// the next part of a page-crossing access or the next element of a string instruction. Only then are the registers
    /// those of an instruction boundary (KVM API §5).
    ///
    /// # Errors
    /// The host's KVM refuses to run the vCPU.
    fn complete(&mut self, reply: Reply) -> Result<Option<Exit>, CpuError>;

    /// Registers as they are now.
    ///
    /// # Errors
    /// The host's KVM refuses to tell.
    fn state(&self) -> Result<CpuState, CpuError>;

    /// Has KVM leave at least these registers beside each exit from now on, to be read without a further call.
    fn sync(&mut self, registers: Synced);

    /// RIP as the last exit left it, relative to CS; `None` unless general registers are synced.
    fn synced_rip(&self) -> Option<u64>;

    /// Registers as the last exit left them; `None` unless all are synced.
    fn synced_state(&self) -> Option<CpuState>;

    /// Whether the vCPU can ever run again by itself.
    ///
    /// # Errors
    /// The host's KVM refuses to tell.
    fn activity(&self) -> Result<Activity, CpuError>;

    /// Injects a non-maskable interrupt.
    ///
    /// # Errors
    /// The host's KVM refuses.
    fn inject_nmi(&mut self) -> Result<(), CpuError>;
}

/// A vCPU operation that the host refused.
#[derive(Debug, thiserror::Error)]
#[error("{what} of vCPU {vcpu}: {source}")]
pub struct CpuError {
    /// What was tried.
    pub what: &'static str,
    /// On which vCPU.
    pub vcpu: u32,
    /// Why it failed.
    pub source: io::Error,
}

impl Cpu for Vcpu {
    fn id(&self) -> u32 {
        Vcpu::id(self)
    }

    fn bind_to_thread(&mut self) {
        Vcpu::bind_to_thread(self);
    }

    fn run(&mut self, reply: Reply) -> Result<Exit, CpuError> {
        Vcpu::run(self, reply).map_err(|source| failed("KVM_RUN", self, source))
    }

    fn complete(&mut self, reply: Reply) -> Result<Option<Exit>, CpuError> {
        Vcpu::complete(self, reply).map_err(|source| failed("complete the exit", self, source))
    }

    fn state(&self) -> Result<CpuState, CpuError> {
        Vcpu::state(self).map_err(|source| failed("read the registers", self, source))
    }

    fn sync(&mut self, registers: Synced) {
        Vcpu::sync(self, registers);
    }

    fn synced_rip(&self) -> Option<u64> {
        Vcpu::synced_rip(self)
    }

    fn synced_state(&self) -> Option<CpuState> {
        Vcpu::synced_state(self)
    }

    fn activity(&self) -> Result<Activity, CpuError> {
        Vcpu::activity(self).map_err(|source| failed("read the activity", self, source))
    }

    fn inject_nmi(&mut self) -> Result<(), CpuError> {
        Vcpu::inject_nmi(self).map_err(|source| failed("KVM_NMI", self, source))
    }
}

fn failed(what: &'static str, vcpu: &Vcpu, source: io::Error) -> CpuError {
    CpuError { what, vcpu: vcpu.id(), source }
}
