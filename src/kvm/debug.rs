//! What a debugger asks of a vCPU: to leave the guest at breakpoints and after each instruction, and the x87 and SSE registers.
//!
//! Source: KVM API KVM_SET_GUEST_DEBUG, KVM_GET_FPU, KVM_SET_VCPU_EVENTS; Intel SDM vol. 3B §18.2 (debug registers).

use super::system::{KvmError, System};
use super::vcpu::Vcpu;
use crate::arch::fpu::FpuState;
use kvm_bindings::{
    KVM_CAP_SET_GUEST_DEBUG2, KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP,
    KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, kvm_fpu, kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;

/// Debug registers that hold an address: DR0 to DR3.
pub const DEBUG_ADDRESSES: usize = 4;

/// What of the guest's execution becomes [`super::exit::Exit::Debug`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestDebug {
    /// The next instruction; for further ones it is asked for again, since KVM forgets it behind an instruction that it emulates.
    pub step: bool,
    /// No interrupt comes while stepping; where KVM_CAP_SET_GUEST_DEBUG2 has KVM_GUESTDBG_BLOCKIRQ.
    pub step_without_interrupts: bool,
    /// Each INT3, in place of the guest's #BP.
    pub int3: bool,
    /// What DR0 to DR3 point at. The guest's own debug registers rest as long as `dr7` is not 0.
    pub addresses: [u64; DEBUG_ADDRESSES],
    /// DR7, which says what counts at these addresses.
    pub dr7: u64,
    /// Once, with the next entry: the guest's #BP for an INT3 of its own.
    pub inject_int3: bool,
}

/// Whether KVM takes [`GuestDebug::step_without_interrupts`].
pub fn can_hold_interrupts(system: &System) -> bool {
    system.capability(KVM_CAP_SET_GUEST_DEBUG2) as u32 & KVM_GUESTDBG_BLOCKIRQ != 0
}

impl Vcpu {
    /// Sets what of the guest's execution leaves it.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn debug(&self, wanted: &GuestDebug) -> Result<(), KvmError> {
        let flags = [
            (wanted.step, KVM_GUESTDBG_SINGLESTEP),
            (wanted.step && wanted.step_without_interrupts, KVM_GUESTDBG_BLOCKIRQ),
            (wanted.int3, KVM_GUESTDBG_USE_SW_BP),
            (wanted.dr7 != 0, KVM_GUESTDBG_USE_HW_BP),
            (wanted.inject_int3, KVM_GUESTDBG_INJECT_BP),
        ];
        let control = flags.iter().filter(|(on, _)| *on).fold(0, |control, (_, flag)| control | flag);
        let enable = if control == 0 { 0 } else { KVM_GUESTDBG_ENABLE };
        let mut debug = kvm_guest_debug { control: control | enable, ..kvm_guest_debug::default() };
        debug.arch.debugreg[..DEBUG_ADDRESSES].copy_from_slice(&wanted.addresses);
        debug.arch.debugreg[7] = wanted.dr7;
        let words = format_args!("control {:#x}, dr7 {:#x}", debug.control, wanted.dr7);
        self.fd.call("KVM_SET_GUEST_DEBUG", words, |fd| fd.set_guest_debug(&debug))
    }

    /// Takes back the exception that KVM holds ready for the guest: #UD after [`super::exit::Failure::Emulation`].
    ///
    /// # Errors
    /// KVM refuses.
    pub fn drop_exception(&self) -> Result<(), KvmError> {
        let mut events = self.fd.call("KVM_GET_VCPU_EVENTS", format_args!(""), VcpuFd::get_vcpu_events)?;
        (events.exception.injected, events.exception.pending) = (0, 0);
        self.fd.call("KVM_SET_VCPU_EVENTS", format_args!("no exception"), |fd| fd.set_vcpu_events(&events))
    }

    /// x87 and SSE registers.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn fpu(&self) -> Result<FpuState, KvmError> {
        let fpu = self.fd.call("KVM_GET_FPU", format_args!(""), VcpuFd::get_fpu)?;
        Ok(FpuState {
            st: fpu.fpr.map(|register| register.first_chunk().copied().expect("16 bytes hold 10")),
            control: fpu.fcw,
            status: fpu.fsw,
            tags: fpu.ftwx,
            last_opcode: fpu.last_opcode,
            last_instruction: fpu.last_ip,
            last_operand: fpu.last_dp,
            xmm: fpu.xmm.map(u128::from_le_bytes),
            mxcsr: fpu.mxcsr,
        })
    }

    /// Sets the x87 and SSE registers.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn set_fpu(&self, state: &FpuState) -> Result<(), KvmError> {
        let mut fpu = kvm_fpu {
            fcw: state.control,
            fsw: state.status,
            ftwx: state.tags,
            last_opcode: state.last_opcode,
            last_ip: state.last_instruction,
            last_dp: state.last_operand,
            xmm: state.xmm.map(u128::to_le_bytes),
            mxcsr: state.mxcsr,
            ..kvm_fpu::default()
        };
        for (register, value) in fpu.fpr.iter_mut().zip(&state.st) {
            register[..value.len()].copy_from_slice(value);
        }
        self.fd.call("KVM_SET_FPU", format_args!(""), |fd| fd.set_fpu(&fpu))
    }
}
