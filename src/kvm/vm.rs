//! A machine as KVM knows it: memory slots, interrupt controllers, vCPUs.
//!
//! Source: KVM API KVM_CREATE_VM, KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG, KVM_CREATE_IRQCHIP, KVM_CAP_SPLIT_IRQCHIP,
//! KVM_CREATE_PIT2, KVM_CAP_X86_USER_SPACE_MSR, KVM_X86_SET_MSR_FILTER.

use super::calls::{KvmFd, Target};
use super::doorbells::KvmDoorbells;
use super::irq::{KvmLine, KvmMsiSink};
use super::msr_filter::MsrFilter;
use super::stats::Stats;
use super::system::{KvmError, System};
use super::vcpu::{Synced, Vcpu};
use crate::arch::irqchip::Irqchip;
use crate::arch::layout::{KVM_IDENTITY_MAP, KVM_TSS, MIB};
use crate::memory::dirty::PageSet;
use crate::memory::ram::GuestRam;
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_SYNC_REGS, KVM_CAP_X86_USER_SPACE_MSR, KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_UNKNOWN, KVM_PIT_SPEAKER_DUMMY, KVM_SYNC_X86_REGS,
    KVM_SYNC_X86_SREGS, kvm_enable_cap, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;
use std::sync::{Arc, Mutex};

/// Inputs of the IOAPIC, in the kernel or ours (Intel 82093AA §2.0).
pub const IOAPIC_INPUTS: u32 = 24;

/// A virtual machine.
pub struct Vm {
    fd: Arc<KvmFd<VmFd>>,
    irqchip: Irqchip,
    /// Registers that its vCPUs can sync.
    can_sync: Synced,
    /// KVM reads and writes it behind the guest's accesses: it lives as long as the machine.
    ram: Arc<GuestRam>,
}

impl Vm {
    /// Creates a machine with `ram` in its memory slots and the given interrupt controllers.
    ///
    /// # Errors
    /// KVM refuses one of the calls; the error names it.
    pub fn new(system: &System, irqchip: Irqchip, ram: Arc<GuestRam>) -> Result<Vm, KvmError> {
        Vm::with_log(system, irqchip, ram, None)
    }

    /// As [`Vm::new`]; of memory slot `logged` it is known which pages the guest has written ([`Vm::take_written`]).
    ///
    /// # Errors
    /// As [`Vm::new`].
    pub fn with_log(
        system: &System,
        irqchip: Irqchip,
        ram: Arc<GuestRam>,
        logged: Option<u32>,
    ) -> Result<Vm, KvmError> {
        let fd = create_vm(system)?;
        // VMX without unrestricted guest keeps two helpers in guest-physical space; elsewhere these calls do nothing.
        fd.call("KVM_SET_IDENTITY_MAP_ADDR", format_args!("{KVM_IDENTITY_MAP:#x}"), |fd| {
            fd.set_identity_map_address(KVM_IDENTITY_MAP)
        })?;
        fd.call("KVM_SET_TSS_ADDR", format_args!("{KVM_TSS:#x}"), |fd| fd.set_tss_address(KVM_TSS as usize))?;
        create_irqchip(&fd, irqchip)?;
        // Without it (Linux before 5.10) KVM answers unknown MSRs with #GP itself: only the message is lost.
        let _ = ask_for_msrs(&fd, KVM_MSR_EXIT_REASON_UNKNOWN, "unknown MSRs exit");
        for (number, slot) in (0u32..).zip(ram.slots()) {
            let region = kvm_userspace_memory_region {
                slot: number,
                guest_phys_addr: slot.gpa,
                memory_size: slot.size,
                userspace_addr: slot.hva,
                flags: if logged == Some(number) { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            };
            let words = format_args!(
                "slot {number}: RAM {:#x}..{:#x} ({} MiB) at {:#x} of this process",
                slot.gpa,
                slot.gpa + slot.size,
                slot.size / MIB,
                slot.hva
            );
            // SAFETY: the slot is a mapping that `ram` owns and never moves, and the Vm holds `ram` as long as the fd.
            let set = |fd: &VmFd| unsafe { fd.set_user_memory_region(region) };
            fd.call("KVM_SET_USER_MEMORY_REGION", words, set)?;
        }
        let syncs = system.capability(KVM_CAP_SYNC_REGS) as u32;
        let all = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
        let can_sync = if syncs & all == all { Synced::All } else { Synced::Nothing };
        Ok(Vm { fd: Arc::new(fd), irqchip, can_sync, ram })
    }

    /// Creates vCPU number `id`: 0 starts, the others wait for INIT and SIPI where there are LAPICs.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn create_vcpu(&self, id: u32) -> Result<Vcpu, KvmError> {
        let create = |fd: &VmFd| fd.create_vcpu(id.into());
        let fd = self.fd.create(Target::Vcpu(id), "KVM_CREATE_VCPU", format_args!("number {id}"), create)?;
        Ok(Vcpu::new(fd, id, self.irqchip != Irqchip::None, self.can_sync))
    }

    /// Has the accesses that `filter` means exit, so that they are seen; a vCPU's `msr` and `set_msr` answer them.
    ///
    /// # Errors
    /// This KVM has no filter, or refuses it.
    pub fn filter_msrs(&self, filter: &MsrFilter) -> Result<(), KvmError> {
        let reasons = KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER;
        ask_for_msrs(&self.fd, reasons, "unknown and filtered MSRs exit")?;
        let (default, ranges) = (filter.default_action(), filter.ranges());
        self.fd.call("KVM_X86_SET_MSR_FILTER", format_args!("{filter}"), |fd| fd.set_msr_filter(default, &ranges))
    }

    /// Adds to `pages` what the guest has written of memory slot `slot` since the last call, and begins anew. The slot is logged.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn take_written(&self, slot: u32, pages: &mut PageSet) -> Result<(), KvmError> {
        let size = pages.range().size as usize;
        let bits = self.fd.call("KVM_GET_DIRTY_LOG", format_args!("slot {slot}"), |fd| fd.get_dirty_log(slot, size))?;
        pages.insert_bits(&bits);
        Ok(())
    }

    /// Input `gsi` of the in-kernel PIC and IOAPIC.
    ///
    /// # Panics
    /// The machine has no full irqchip, or not that input: a mistake in the wiring.
    pub fn line(&self, gsi: u32) -> KvmLine {
        assert!(self.irqchip == Irqchip::Full && gsi < IOAPIC_INPUTS, "input {gsi} of an in-kernel IOAPIC");
        KvmLine { vm: self.fd.clone(), gsi }
    }

    /// Where messages to the LAPICs go.
    pub fn msi_sink(&self) -> KvmMsiSink {
        KvmMsiSink { vm: self.fd.clone() }
    }

    /// Doorbells for one device.
    pub fn doorbells(&self) -> KvmDoorbells {
        KvmDoorbells { vm: self.fd.clone(), armed: Mutex::default() }
    }

    /// What KVM counts of the machine; `None` where it counts nothing.
    pub fn stats(&self) -> Option<Stats> {
        Stats::open(&self.fd)
    }

    /// The machine's RAM.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }
}

/// A signal that comes meanwhile ends KVM_CREATE_VM with EINTR (`kvm_arch_init_vm` may wait for a thread of the kernel). Its
/// handler has run then, and what it means is the control loop's business.
fn create_vm(system: &System) -> Result<KvmFd<VmFd>, KvmError> {
    loop {
        match system.fd.create(Target::Machine, "KVM_CREATE_VM", format_args!(""), |fd| fd.create_vm()) {
            Err(error) if error.errno() == Some(libc::EINTR) => {}
            result => return result,
        }
    }
}

fn create_irqchip(fd: &KvmFd<VmFd>, irqchip: Irqchip) -> Result<(), KvmError> {
    match irqchip {
        Irqchip::None => Ok(()),
        Irqchip::Split => {
            let mut split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..kvm_enable_cap::default() };
            split.args[0] = IOAPIC_INPUTS.into();
            let words = format_args!("KVM_CAP_SPLIT_IRQCHIP: LAPICs in KVM, an IOAPIC of {IOAPIC_INPUTS} inputs not");
            fd.call("KVM_ENABLE_CAP", words, |fd| fd.enable_cap(&split))
        }
        Irqchip::Full => {
            fd.call("KVM_CREATE_IRQCHIP", format_args!("PIC, IOAPIC, and LAPICs"), |fd| fd.create_irq_chip())?;
            // Port 0x61 is answered in the kernel too: guests time loops with it.
            let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
            fd.call("KVM_CREATE_PIT2", format_args!("with port 0x61"), |fd| fd.create_pit2(pit))
        }
    }
}

/// Has accesses to MSRs exit for `reasons`, which `words` tell.
fn ask_for_msrs(fd: &KvmFd<VmFd>, reasons: u32, words: &str) -> Result<(), KvmError> {
    let mut msrs = kvm_enable_cap { cap: KVM_CAP_X86_USER_SPACE_MSR, ..kvm_enable_cap::default() };
    msrs.args[0] = reasons.into();
    fd.call("KVM_ENABLE_CAP", format_args!("KVM_CAP_X86_USER_SPACE_MSR: {words}"), |fd| fd.enable_cap(&msrs))
}
