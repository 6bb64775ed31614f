//! What a vCPU needs that runs programs instead of a kernel: its general registers exchanged without a call, its extended state.
//!
//! Registers go through `kvm_run` both ways, so a trap costs one KVM_RUN and nothing else. Leaves out states beyond 4 KiB of XSAVE
//! area (AMX), which KVM offers to none that has not asked for them.
//! Sources: KVM API KVM_CAP_SYNC_REGS, KVM_GET_XSAVE, KVM_SET_XCRS; Intel SDM vol. 1 §13.3 (XCR0).

use super::registers;
use super::system::KvmError;
use super::vcpu::{Synced, Vcpu};
use crate::arch::cpu_state::Registers;
use kvm_bindings::{kvm_xcr, kvm_xcrs, kvm_xsave};
use kvm_ioctls::VcpuFd;

/// x87, SSE, AVX, AVX-512 and protection keys: what fits into the area that KVM_GET_XSAVE gives.
const STATES: u64 = 0x2e7;

/// Those extended states of `wanted` that are known here.
pub fn known(wanted: u64) -> u64 {
    wanted & STATES
}

/// Extended state of a vCPU: x87, vector registers, MXCSR.
pub struct Extended(Box<kvm_xsave>);

impl Extended {
    /// The XSAVE area in its standard form.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.region.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// What [`Extended::bytes`] gave; what is missing at the end is zero.
    pub fn from_bytes(bytes: &[u8]) -> Extended {
        let mut state = Box::<kvm_xsave>::default();
        for (word, bytes) in state.region.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Extended(state)
    }
}

impl Vcpu {
    /// Has general registers come with each exit; false where KVM cannot (before Linux 4.17).
    pub fn exchange_registers(&mut self) -> bool {
        self.sync(Synced::General);
        self.synced_rip().is_some()
    }

    /// General registers as the last exit left them, where they are exchanged.
    pub fn exchanged(&self) -> Registers {
        registers::from_regs(&self.fd.synced().regs)
    }

    /// Whether an exception is on its way to the guest: registers are not to be changed before it has arrived.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn has_exception(&self) -> Result<bool, KvmError> {
        let events = self.fd.call("KVM_GET_VCPU_EVENTS", format_args!(""), VcpuFd::get_vcpu_events)?;
        Ok(events.exception.injected != 0 || events.exception.pending != 0)
    }

    /// General registers with which the next entry begins, where they are exchanged.
    pub fn exchange(&mut self, regs: &Registers) {
        self.fd.load(registers::to_regs(regs));
    }

    /// Switches on the extended states of `wanted` that are known here. Before the first entry, after CPUID and CR4.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn enable_states(&self, wanted: u64) -> Result<(), KvmError> {
        let value = known(wanted);
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
        xcrs.xcrs[0] = kvm_xcr { xcr: 0, value, ..kvm_xcr::default() };
        self.fd.call("KVM_SET_XCRS", format_args!("xcr0 {value:#x}"), |fd| fd.set_xcrs(&xcrs))
    }

    /// The extended state.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn extended(&self) -> Result<Extended, KvmError> {
        self.fd.call("KVM_GET_XSAVE", format_args!(""), VcpuFd::get_xsave).map(|state| Extended(Box::new(state)))
    }

    /// Sets the extended state to what [`Vcpu::extended`] gave of a vCPU of the same machine.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn set_extended(&self, state: &Extended) -> Result<(), KvmError> {
        // SAFETY: KVM reads as much as the states that are enabled take, which `STATES` keeps within the 4 KiB of `kvm_xsave`.
        let set = |fd: &VcpuFd| unsafe { fd.set_xsave(&state.0) };
        self.fd.call("KVM_SET_XSAVE", format_args!(""), set)
    }
}
