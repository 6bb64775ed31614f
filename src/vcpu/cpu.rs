//! What the run loop and its handlers may do with a vCPU. `kvm::Vcpu` is one implementation, the tests' scripted CPU the
//! other.

use crate::arch::cpu_state::CpuState;
use crate::arch::fpu::FpuState;
use crate::kvm::debug::GuestDebug;
use crate::kvm::exit::{Exit, Reply};
use crate::kvm::system::KvmError;
use crate::kvm::vcpu::{Activity, Synced, Vcpu};

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

    /// Sets the registers that `state` has. Only at an instruction boundary.
    ///
    /// # Errors
    /// The host refuses the values.
    fn set_state(&mut self, state: &CpuState) -> Result<(), CpuError>;

    /// The x87 and SSE registers.
    ///
    /// # Errors
    /// The host's KVM refuses to tell.
    fn fpu(&self) -> Result<FpuState, CpuError>;

    /// Sets the x87 and SSE registers.
    ///
    /// # Errors
    /// The host's KVM refuses.
    fn set_fpu(&mut self, state: &FpuState) -> Result<(), CpuError>;

    /// What of the guest's execution becomes [`Exit::Debug`] from now on.
    ///
    /// # Errors
    /// The host's KVM cannot do it.
    fn debug(&mut self, wanted: &GuestDebug) -> Result<(), CpuError>;

    /// Takes back the exception that KVM holds ready after [`crate::kvm::exit::Failure::Emulation`].
    ///
    /// # Errors
    /// The host's KVM refuses.
    fn drop_exception(&mut self) -> Result<(), CpuError>;

    /// Has KVM leave at least these registers beside each exit from now on, to be read without a further call.
    fn sync(&mut self, registers: Synced);

    /// RIP as the last exit left it, relative to CS; `None` unless general registers are synced.
    fn synced_rip(&self) -> Option<u64>;

    /// Registers as the last exit left them; `None` unless all are synced.
    fn synced_state(&self) -> Option<CpuState>;

    /// A model-specific register, as KVM would have answered RDMSR.
    ///
    /// # Errors
    /// KVM does not know it.
    fn msr(&self, index: u32) -> Result<u64, CpuError>;

    /// Sets a model-specific register, as KVM would have done for WRMSR.
    ///
    /// # Errors
    /// KVM does not know it, or refuses the value.
    fn set_msr(&mut self, index: u32, value: u64) -> Result<(), CpuError>;

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
#[error("vCPU {vcpu}: {source}")]
pub struct CpuError {
    /// The vCPU.
    pub vcpu: u32,
    /// The call, and why it failed.
    pub source: KvmError,
}

impl Cpu for Vcpu {
    fn id(&self) -> u32 {
        Vcpu::id(self)
    }

    fn bind_to_thread(&mut self) {
        Vcpu::bind_to_thread(self);
    }

    fn run(&mut self, reply: Reply) -> Result<Exit, CpuError> {
        Vcpu::run(self, reply).map_err(|source| failed(self, source))
    }

    fn complete(&mut self, reply: Reply) -> Result<Option<Exit>, CpuError> {
        Vcpu::complete(self, reply).map_err(|source| failed(self, source))
    }

    fn state(&self) -> Result<CpuState, CpuError> {
        Vcpu::state(self).map_err(|source| failed(self, source))
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), CpuError> {
        Vcpu::set_state(self, state).map_err(|source| failed(self, source))
    }

    fn fpu(&self) -> Result<FpuState, CpuError> {
        Vcpu::fpu(self).map_err(|source| failed(self, source))
    }

    fn set_fpu(&mut self, state: &FpuState) -> Result<(), CpuError> {
        Vcpu::set_fpu(self, state).map_err(|source| failed(self, source))
    }

    fn debug(&mut self, wanted: &GuestDebug) -> Result<(), CpuError> {
        Vcpu::debug(self, wanted).map_err(|source| failed(self, source))
    }

    fn drop_exception(&mut self) -> Result<(), CpuError> {
        Vcpu::drop_exception(self).map_err(|source| failed(self, source))
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

    fn msr(&self, index: u32) -> Result<u64, CpuError> {
        Vcpu::msr(self, index).map_err(|source| failed(self, source))
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<(), CpuError> {
        Vcpu::set_msr(self, index, value).map_err(|source| failed(self, source))
    }

    fn activity(&self) -> Result<Activity, CpuError> {
        Vcpu::activity(self).map_err(|source| failed(self, source))
    }

    fn inject_nmi(&mut self) -> Result<(), CpuError> {
        Vcpu::inject_nmi(self).map_err(|source| failed(self, source))
    }
}

fn failed(vcpu: &Vcpu, source: KvmError) -> CpuError {
    CpuError { vcpu: vcpu.id(), source }
}
