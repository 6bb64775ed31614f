//! The machine of the process VM, and its vCPUs: one a thread, used again when the thread has ended.
//!
//! No interrupt controller, no device: nothing but system calls and exceptions leaves a program.
//! Sources: KVM API KVM_CREATE_VCPU, KVM_SET_MSRS; Intel SDM vol. 2A CPUID leaf 0xd (XCR0).

use super::signal::extended::Layout;
use super::stub;
use super::task::{Reload, Task};
use super::world::World;
use crate::arch::cpuid::{self, CpuidLeaf};
use crate::arch::irqchip::Irqchip;
use crate::bus::bus::lock;
use crate::kvm::system::{KvmError, System};
use crate::kvm::user_mode::{self, Extended};
use crate::kvm::vcpu::Vcpu;
use crate::kvm::vm::Vm;
use crate::memory::ram::GuestRam;
use std::sync::{Arc, Mutex, OnceLock};

/// Why no machine for programs can be had.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM refuses.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Registers cannot be exchanged.
    #[error("run a program: this KVM has no KVM_CAP_SYNC_REGS (Linux 4.17 and later have it)")]
    NoSync,
    /// All are in use.
    #[error("{} threads run already, as many as a machine can have", stub::VCPUS_MAX)]
    TooMany,
}

/// The machine and its vCPUs.
pub struct Vcpus {
    vm: Vm,
    leaves: Vec<CpuidLeaf>,
    /// Extended states that the processor has; 0 without XSAVE.
    states: u64,
    layout: Layout,
    pool: Mutex<Pool>,
    /// Extended state after reset.
    reset: OnceLock<Extended>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Vcpu>,
    made: u32,
}

impl Vcpus {
    /// A machine on `ram`.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn new(ram: Arc<GuestRam>) -> Result<Vcpus, VcpuError> {
        let system = System::open()?;
        let leaves = system.supported_cpuid()?;
        let vm = Vm::new(&system, Irqchip::None, ram)?;
        let find = |function| leaves.iter().find(|leaf| leaf.function == function && leaf.index == 0);
        let has_xsave = find(1).is_some_and(|leaf| leaf.ecx & 1 << 26 != 0);
        let states = find(0xd).filter(|_| has_xsave).map_or(0, |leaf| u64::from(leaf.edx) << 32 | u64::from(leaf.eax));
        let place = |state: u32| {
            let leaf = leaves.iter().find(|leaf| leaf.function == 0xd && leaf.index == state);
            leaf.map_or((0, 0), |leaf| (leaf.ebx as usize, leaf.eax as usize))
        };
        let layout = Layout::new(user_mode::known(states), place);
        Ok(Vcpus { vm, leaves, states, layout, pool: Mutex::default(), reset: OnceLock::new() })
    }

    /// How the extended state of its vCPUs is laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// A vCPU that nobody uses.
    ///
    /// # Errors
    /// All are in use, or KVM refuses a new one.
    pub fn take(&self) -> Result<Vcpu, VcpuError> {
        let mut pool = lock(&self.pool);
        if let Some(vcpu) = pool.idle.pop() {
            return Ok(vcpu);
        }
        if u64::from(pool.made) == stub::VCPUS_MAX {
            return Err(VcpuError::TooMany);
        }
        let mut vcpu = self.vm.create_vcpu(pool.made)?;
        pool.made += 1;
        vcpu.set_cpuid(&cpuid::for_vcpu(&self.leaves, vcpu.id(), 1, Irqchip::None))?;
        for (index, value) in stub::msrs() {
            vcpu.set_msr(index, value)?;
        }
        if self.reset.get().is_none() {
            let _ = self.reset.set(vcpu.extended()?);
        }
        if vcpu.exchange_registers() { Ok(vcpu) } else { Err(VcpuError::NoSync) }
    }

    /// Nobody uses `vcpu` any more.
    pub fn give_back(&self, vcpu: Vcpu) {
        lock(&self.pool).idle.push(vcpu);
    }

    /// Makes `vcpu` ready for what `task` needs besides general registers.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn load(&self, vcpu: &Vcpu, task: &mut Task) -> Result<(), VcpuError> {
        match std::mem::replace(&mut task.reload, Reload::Nothing) {
            Reload::Nothing => {}
            Reload::Bases => {
                vcpu.set_msr(stub::FS_BASE, task.fs_base)?;
                vcpu.set_msr(stub::GS_BASE, task.gs_base)?;
            }
            Reload::Program => {
                let root = task.memory().root();
                let mut state = stub::state(vcpu.id(), root, self.states != 0);
                state.fs.base = task.fs_base;
                state.gs.base = task.gs_base;
                vcpu.set_state(&state)?;
                if self.states != 0 {
                    vcpu.enable_states(self.states)?;
                }
                let reset = self.reset.get().expect("a vCPU was made before this one was taken");
                vcpu.set_extended(task.extended.take().as_ref().unwrap_or(reset))?;
            }
        }
        Ok(())
    }

    /// Where `vcpu`'s stack in ring 0 ends.
    pub fn stack_end(&self, world: &World, vcpu: &Vcpu) -> u64 {
        world.trees.kernel_page(stub::stack_page(vcpu.id())) + crate::arch::layout::PAGE_SIZE
    }
}
