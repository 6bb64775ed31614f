//! A vCPU as KVM knows it: enters the guest, turns `kvm_run` into an [`Exit`] and a [`Reply`] back into `kvm_run`.
//!
//! String instructions are taken apart here: KVM gives `count` elements at once, the floors above see one access at a
//! time. Nothing borrowed from `kvm_run` leaves this file.
//! Source: KVM API §5 "The kvm_run structure".

use super::calls::KvmFd;
use super::exit::{Exit, Failure, Reply};
use super::registers;
use super::stats::Stats;
use super::system::{self, KvmError};
use crate::arch::cpu_state::CpuState;
use crate::arch::cpuid::CpuidLeaf;
use crate::arch::msr;
use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_HYPERCALL, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
    KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO, KVM_EXIT_SET_TPR,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR, KVM_MP_STATE_HALTED,
    KVM_MP_STATE_RUNNABLE, KVM_MSR_EXIT_REASON_FILTER, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, Msrs, kvm_msr_entry,
    kvm_regs, kvm_run, kvm_sregs,
};
use kvm_ioctls::VcpuFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// KVM_INTERNAL_ERROR_EMULATION (KVM API §5, `internal.suberror`).
const SUBERROR_EMULATION: u32 = 1;
/// KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES.
const HAS_INSTRUCTION_BYTES: u64 = 1;

/// A vCPU.
pub struct Vcpu {
    pub(super) fd: KvmFd<VcpuFd>,
    id: u32,
    has_lapic: bool,
    /// Registers that KVM can sync, and those that it does.
    can_sync: Synced,
    synced: Synced,
    pending: Pending,
    returns: Arc<AtomicU64>,
}

/// What the last exit still wants before the guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Nothing,
    /// Elements `next..count` of an IN or OUT, at `data` bytes into the mapping of `kvm_run`.
    Pio {
        write: bool,
        port: u16,
        size: u8,
        next: u32,
        count: u32,
        data: u64,
    },
    MmioRead,
    MsrRead,
    MsrWrite,
    Hypercall,
}

/// Registers that KVM copies into `kvm_run` at each exit (KVM API §5 KVM_CAP_SYNC_REGS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Synced {
    /// None.
    #[default]
    Nothing,
    /// General registers, RIP and RFLAGS.
    General,
    /// These, segments and control registers.
    All,
}

/// Whether a vCPU can ever run again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Runs, or will when an interrupt comes.
    Alive,
    /// Waits for INIT or SIPI: it was never started.
    NotStarted,
    /// Halted with interrupts off and none pending that could pass: only a machine reset wakes it.
    HaltedForGood,
}

impl Vcpu {
    pub(super) fn new(fd: KvmFd<VcpuFd>, id: u32, has_lapic: bool, can_sync: Synced) -> Vcpu {
        let (synced, pending) = (Synced::Nothing, Pending::Nothing);
        Vcpu { fd, id, has_lapic, can_sync, synced, pending, returns: Arc::default() }
    }

    /// Number of the vCPU: its APIC id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What KVM counts of the vCPU; `None` where it counts nothing.
    pub fn stats(&self) -> Option<Stats> {
        Stats::open(&self.fd)
    }

    /// How often KVM_RUN has returned with an exit so far; to be read from any thread.
    pub fn returns(&self) -> Arc<AtomicU64> {
        self.returns.clone()
    }

    /// Gives the vCPU its CPUID. Before the first entry.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn set_cpuid(&self, leaves: &[CpuidLeaf]) -> Result<(), KvmError> {
        let cpuid = system::cpuid(leaves);
        self.fd.call("KVM_SET_CPUID2", format_args!("{} leaves", leaves.len()), |fd| fd.set_cpuid2(&cpuid))
    }

    /// Sets a model-specific register.
    ///
    /// # Errors
    /// KVM does not know it, or refuses the value.
    pub fn set_msr(&self, index: u32, value: u64) -> Result<(), KvmError> {
        let msrs = one_msr(index, value);
        let words = format_args!("{index:#x} ({}) = {value:#x}", msr::name(index).unwrap_or("no name"));
        self.fd.call("KVM_SET_MSRS", words, |fd| accepted(fd.set_msrs(&msrs)))
    }

    /// A model-specific register.
    ///
    /// # Errors
    /// KVM does not know it.
    pub fn msr(&self, index: u32) -> Result<u64, KvmError> {
        let mut msrs = one_msr(index, 0);
        let words = format_args!("{index:#x} ({})", msr::name(index).unwrap_or("no name"));
        self.fd.call("KVM_GET_MSRS", words, |fd| accepted(fd.get_msrs(&mut msrs)))?;
        Ok(msrs.as_slice()[0].data)
    }

    /// Sets the registers that `state` decides; the others stay as after reset.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn set_state(&self, state: &CpuState) -> Result<(), KvmError> {
        let mut sregs = self.sregs()?;
        registers::overlay_sregs(&mut sregs, state);
        let words = format_args!(
            "cr0 {:#x}, cr3 {:#x}, efer {:#x}, cs {:#x} of {} bits",
            state.cr0,
            state.cr3,
            state.efer,
            state.cs.selector,
            state.code_bits()
        );
        self.fd.call("KVM_SET_SREGS", words, |fd| fd.set_sregs(&sregs))?;
        let (regs, words) = (&state.regs, format_args!("rip {:#x}, rsp {:#x}", state.regs.rip, state.regs.rsp));
        self.fd.call("KVM_SET_REGS", words, |fd| fd.set_regs(&registers::to_regs(regs)))
    }

    /// Registers as they are now.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn state(&self) -> Result<CpuState, KvmError> {
        Ok(registers::state(&self.regs()?, &self.sregs()?))
    }

    fn regs(&self) -> Result<kvm_regs, KvmError> {
        self.fd.call("KVM_GET_REGS", format_args!(""), VcpuFd::get_regs)
    }

    fn sregs(&self) -> Result<kvm_sregs, KvmError> {
        self.fd.call("KVM_GET_SREGS", format_args!(""), VcpuFd::get_sregs)
    }

    /// Has KVM copy at least `registers` at each exit from now on. Where it cannot (before Linux 4.17), nothing is synced.
    pub fn sync(&mut self, registers: Synced) {
        self.synced = self.synced.max(registers).min(self.can_sync);
        self.fd.area().kvm_valid_regs = match self.synced {
            Synced::Nothing => 0,
            Synced::General => KVM_SYNC_X86_REGS,
            Synced::All => KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS,
        }
        .into();
    }

    /// RIP as the last exit left it, relative to CS; `None` unless it is synced.
    pub fn synced_rip(&self) -> Option<u64> {
        (self.synced != Synced::Nothing).then(|| self.fd.synced().regs.rip)
    }

    /// Registers as the last exit left them; `None` unless all are synced.
    pub fn synced_state(&self) -> Option<CpuState> {
        let synced = (self.synced == Synced::All).then(|| self.fd.synced())?;
        Some(registers::state(&synced.regs, &synced.sregs))
    }

    /// Injects a non-maskable interrupt.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn inject_nmi(&self) -> Result<(), KvmError> {
        self.fd.call("KVM_NMI", format_args!(""), VcpuFd::nmi)
    }

    /// Whether the vCPU can ever run again by itself. Only at an instruction boundary, from its own thread.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn activity(&self) -> Result<Activity, KvmError> {
        if !self.has_lapic {
            return Ok(Activity::Alive);
        }
        let mp_state = self.fd.call("KVM_GET_MP_STATE", format_args!(""), VcpuFd::get_mp_state)?.mp_state;
        if mp_state == KVM_MP_STATE_RUNNABLE {
            return Ok(Activity::Alive);
        }
        if mp_state != KVM_MP_STATE_HALTED {
            return Ok(Activity::NotStarted);
        }
        let interrupts_on = self.regs()?.rflags & crate::arch::cpu_state::RFLAGS_IF != 0;
        let events = self.fd.call("KVM_GET_VCPU_EVENTS", format_args!(""), VcpuFd::get_vcpu_events)?;
        let pending = events.nmi.pending != 0 || events.nmi.injected != 0 || events.smi.pending != 0;
        Ok(if interrupts_on || pending { Activity::Alive } else { Activity::HaltedForGood })
    }

    /// Makes this thread the vCPU's: from now on the kick signal interrupts it (see [`super::kick`]).
    pub fn bind_to_thread(&mut self) {
        super::kick::bind(&raw mut self.fd.area().immediate_exit);
    }

    /// Ends what [`Vcpu::bind_to_thread`] began, on the same thread: the vCPU may go to another one then.
    pub fn unbind_from_thread(&mut self) {
        super::kick::unbind(&raw mut self.fd.area().immediate_exit);
    }

    /// Enters the guest with the answer to the last exit, until the next one.
    ///
    /// # Errors
    /// KVM refuses to run the vCPU.
    pub fn run(&mut self, reply: Reply) -> Result<Exit, KvmError> {
        match self.settle(reply) {
            Some(next) => Ok(next),
            None => self.enter(),
        }
    }

    /// Hands `reply` over without running further guest code: see [`crate::vcpu::cpu::Cpu::complete`]. The next
    /// [`Vcpu::run`] may return [`Exit::Interrupted`] once for it.
    ///
    /// # Errors
    /// KVM refuses to run the vCPU.
    pub fn complete(&mut self, reply: Reply) -> Result<Option<Exit>, KvmError> {
        if let Some(next) = self.settle(reply) {
            return Ok(Some(next));
        }
        self.fd.area().immediate_exit = 1;
        let exit = self.enter()?;
        // A kick that came meanwhile must not be lost: the flag goes up again, and the next run takes it down.
        self.fd.area().immediate_exit = 1;
        Ok((exit != Exit::Interrupted).then_some(exit))
    }

    fn enter(&mut self) -> Result<Exit, KvmError> {
        if let Err(error) = self.fd.run() {
            return match error.errno() {
                // EAGAIN: an AP that waits for SIPI was woken by INIT (KVM API KVM_RUN).
                Some(libc::EINTR | libc::EAGAIN) => {
                    self.fd.area().immediate_exit = 0;
                    Ok(Exit::Interrupted)
                }
                _ => Err(error),
            };
        }
        self.returns.fetch_add(1, Ordering::Relaxed);
        let (exit, pending) = decode(self.fd.area());
        self.pending = pending;
        match pending {
            Pending::Pio { .. } => Ok(self.next_element().expect("KVM reports at least one element")),
            _ => Ok(exit),
        }
    }

    /// Puts `reply` where KVM looks for it. Returns the next element of a string instruction, if one is left.
    fn settle(&mut self, reply: Reply) -> Option<Exit> {
        let value = match reply {
            Reply::Value(value) => value,
            Reply::Resume | Reply::Fault => 0,
        };
        let run = self.fd.area();
        match self.pending {
            Pending::Nothing => return None,
            Pending::Pio { write: false, size, next, data, .. } => {
                let bytes = value.to_le_bytes();
                // SAFETY: `decode` checked that elements 0..count lie within the vCPU's mapping behind `run`, and `next - 1`
                // is the element that was last handed out.
                unsafe { element(run, data, size, next - 1).copy_from_nonoverlapping(bytes.as_ptr(), size.into()) };
                return self.next_element();
            }
            Pending::Pio { write: true, .. } => return self.next_element(),
            Pending::MmioRead => run.__bindgen_anon_1.mmio.data = value.to_le_bytes(),
            Pending::MsrRead | Pending::MsrWrite => {
                // SAFETY: the exit reason was KVM_EXIT_X86_RDMSR or KVM_EXIT_X86_WRMSR, so `msr` is the valid arm.
                let msr = unsafe { &mut run.__bindgen_anon_1.msr };
                msr.error = (reply == Reply::Fault).into();
                msr.data = value;
            }
            Pending::Hypercall => run.__bindgen_anon_1.hypercall.ret = value,
        }
        self.pending = Pending::Nothing;
        None
    }

    /// The next element of the pending IN or OUT; nothing is pending any more when there is none.
    fn next_element(&mut self) -> Option<Exit> {
        let Pending::Pio { write, port, size, next, count, data } = self.pending else { return None };
        if next == count {
            self.pending = Pending::Nothing;
            return None;
        }
        self.pending = Pending::Pio { write, port, size, next: next + 1, count, data };
        if !write {
            return Some(Exit::PioRead { port, size });
        }
        let mut bytes = [0; 8];
        // SAFETY: `decode` checked that elements 0..count lie within the vCPU's mapping behind `run`.
        unsafe { element(self.fd.area(), data, size, next).copy_to_nonoverlapping(bytes.as_mut_ptr(), size.into()) };
        Some(Exit::PioWrite { port, size, value: u64::from_le_bytes(bytes) })
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.unbind_from_thread();
    }
}

/// Address of element `index` of a string access.
///
/// # Safety
/// Elements up to `index` lie within the mapping that begins at `run`.
unsafe fn element(run: &mut kvm_run, data: u64, size: u8, index: u32) -> *mut u8 {
    let offset = data as usize + index as usize * usize::from(size);
    // SAFETY: by the caller's promise.
    unsafe { (&raw mut *run).cast::<u8>().add(offset) }
}

/// Bytes of the mapping behind `kvm_run` that port data may use: the page after it (KVM_PIO_PAGE_OFFSET is 1).
const PIO_DATA_END: u64 = 2 * 4096;

fn decode(run: &kvm_run) -> (Exit, Pending) {
    let data = &run.__bindgen_anon_1;
    let nothing = |exit| (exit, Pending::Nothing);
    match run.exit_reason {
        KVM_EXIT_IO => {
            // SAFETY: the exit reason names the valid arm of the union, here and in each arm below.
            let io = unsafe { data.io };
            let end = io.data_offset.checked_add(u64::from(io.size) * u64::from(io.count));
            if io.count == 0 || !matches!(io.size, 1 | 2 | 4) || end.is_none_or(|end| end > PIO_DATA_END) {
                return nothing(Exit::Failure(Failure::Unknown { reason: run.exit_reason }));
            }
            let write = io.direction == KVM_EXIT_IO_OUT as u8;
            let (port, size, count) = (io.port, io.size, io.count);
            let pending = Pending::Pio { write, port, size, next: 0, count, data: io.data_offset };
            (Exit::PioRead { port, size }, pending)
        }
        KVM_EXIT_MMIO => {
            // SAFETY: as above.
            let mmio = unsafe { data.mmio };
            let (addr, size) = (mmio.phys_addr, mmio.len.min(8) as u8);
            if mmio.is_write != 0 {
                // What stands behind the bytes that were written is left from an earlier exit.
                let mut bytes = mmio.data;
                bytes[size.into()..].fill(0);
                nothing(Exit::MmioWrite { addr, size, value: u64::from_le_bytes(bytes) })
            } else {
                (Exit::MmioRead { addr, size }, Pending::MmioRead)
            }
        }
        KVM_EXIT_X86_RDMSR => {
            // SAFETY: as above.
            let msr = unsafe { data.msr };
            let filtered = msr.reason & KVM_MSR_EXIT_REASON_FILTER != 0;
            (Exit::MsrRead { index: msr.index, filtered }, Pending::MsrRead)
        }
        KVM_EXIT_X86_WRMSR => {
            // SAFETY: as above.
            let msr = unsafe { data.msr };
            let filtered = msr.reason & KVM_MSR_EXIT_REASON_FILTER != 0;
            (Exit::MsrWrite { index: msr.index, filtered, value: msr.data }, Pending::MsrWrite)
        }
        KVM_EXIT_HYPERCALL => {
            // SAFETY: as above.
            let hypercall = unsafe { data.hypercall };
            (Exit::Hypercall { number: hypercall.nr }, Pending::Hypercall)
        }
        // SAFETY: as above.
        KVM_EXIT_IOAPIC_EOI => nothing(Exit::IoapicEoi { vector: unsafe { data.eoi.vector } }),
        // SAFETY: as above.
        KVM_EXIT_SYSTEM_EVENT => nothing(Exit::SystemEvent { kind: unsafe { data.system_event.type_ } }),
        KVM_EXIT_DEBUG => {
            // SAFETY: as above.
            let debug = unsafe { data.debug.arch };
            nothing(Exit::Debug { vector: debug.exception as u8, rip: debug.pc, dr6: debug.dr6 })
        }
        KVM_EXIT_HLT => nothing(Exit::Halt),
        KVM_EXIT_SHUTDOWN => nothing(Exit::Shutdown),
        KVM_EXIT_INTR => nothing(Exit::Interrupted),
        KVM_EXIT_SET_TPR => nothing(Exit::SetTpr),
        KVM_EXIT_IRQ_WINDOW_OPEN => nothing(Exit::IrqWindowOpen),
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: as above.
            let reason = unsafe { data.fail_entry.hardware_entry_failure_reason };
            nothing(Exit::Failure(Failure::FailedEntry { reason }))
        }
        KVM_EXIT_INTERNAL_ERROR => nothing(Exit::Failure(internal_error(run))),
        reason => nothing(Exit::Failure(Failure::Unknown { reason })),
    }
}

fn internal_error(run: &kvm_run) -> Failure {
    // SAFETY: the exit reason was KVM_EXIT_INTERNAL_ERROR, so `internal` and, for its suberror 1, `emulation_failure` are
    // valid arms.
    let (internal, emulation) = unsafe { (run.__bindgen_anon_1.internal, run.__bindgen_anon_1.emulation_failure) };
    if internal.suberror != SUBERROR_EMULATION {
        return Failure::Internal { suberror: internal.suberror };
    }
    // SAFETY: every bit pattern is valid for this arm, a length and bytes.
    let bytes = unsafe { emulation.__bindgen_anon_1.__bindgen_anon_1 };
    let has_bytes = emulation.ndata >= 1 && emulation.flags & HAS_INSTRUCTION_BYTES != 0;
    let code_len = if has_bytes { bytes.insn_size.min(15) } else { 0 };
    Failure::Emulation { code: bytes.insn_bytes, code_len }
}

fn one_msr(index: u32, data: u64) -> Msrs {
    Msrs::from_entries(&[kvm_msr_entry { index, data, ..kvm_msr_entry::default() }]).expect("one is not too many")
}

/// KVM_GET_MSRS and KVM_SET_MSRS refuse a register by telling how many came before it.
fn accepted(count: Result<usize, kvm_ioctls::Error>) -> Result<(), kvm_ioctls::Error> {
    if count? == 1 { Ok(()) } else { Err(kvm_ioctls::Error::new(libc::EINVAL)) }
}
