//! What the run loop and its handlers may do with a vCPU. `kvm::Vcpu` is one implementation, the tests' scripted CPU the
//! other.

use crate::arch::cpu_state::CpuState;
use crate::kvm::exit::{Exit, Reply};

/// A virtual CPU.
pub trait Cpu {
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
}

/// A vCPU operation that the host refused.
#[derive(Debug, thiserror::Error)]
#[error("{what} of vCPU {vcpu}: {source}")]
pub struct CpuError {
    /// What was tried, by its KVM name.
    pub what: &'static str,
    /// On which vCPU.
    pub vcpu: u32,
    /// Why it failed.
    pub source: std::io::Error,
}
