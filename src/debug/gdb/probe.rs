//! What of debugging this host's KVM really does, found out by trying it on a machine of a few bytes.
//!
//! KVM_CAP_SET_GUEST_DEBUG2 tells which flags the call takes, not what comes of them: where guest code is interpreted, INT3
//! may end in an internal error or go to the guest, and debug registers may never be looked at.
//! Sources: KVM API KVM_SET_GUEST_DEBUG; Intel SDM vol. 3B §18.2.4 (DR7), vol. 3A §21.1.4 (real-mode vectors).

use crate::arch::cpu_state::{CR0_PE, CpuState};
use crate::arch::cpuid;
use crate::arch::irqchip::Irqchip;
use crate::arch::layout::{BOOT_GDT, BOOT_PML4, FLAT64_ENTRY, MIN_RAM};
use crate::arch::paging::identity_map;
use crate::kvm::debug::{self, GuestDebug};
use crate::kvm::exit::{Exit, Failure, Reply};
use crate::kvm::system::{KvmError, System};
use crate::kvm::vcpu::Vcpu;
use crate::kvm::vm::Vm;
use crate::memory::map::MemoryMap;
use crate::memory::ram::{GuestRam, RamError};
use std::io;
use std::sync::Arc;

/// What a KVM does for a debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// It stops after each instruction.
    pub step: bool,
    /// It stops at INT3 in 64-bit ring 0, by whichever exit: where software emulates SVM, #BP may reach the guest regardless.
    pub int3: bool,
    /// It stops at INT3 in real mode.
    pub int3_in_real_mode: bool,
    /// It stops at an instruction that a debug register points at.
    pub hardware_breakpoints: bool,
    /// It stops behind an access to data that a debug register points at.
    pub watchpoints: bool,
    /// It can hold interrupts back while it steps.
    pub step_without_interrupts: bool,
}

/// The guest: each trial enters it somewhere. What is not stopped ends at the HLT.
const CODE: [u8; 10] = [
    0x90, //                           nop
    0x90, //                           nop
    0x88, 0x05, 0x08, 0x00, 0x00, 0x00, // mov [rip+8], al
    0xf4, //                           hlt
    0xcc, //                           int3
];
/// Offsets: the second NOP, the store and what it writes to, HLT and INT3.
const NOP: u64 = 1;
const STORE: u64 = 2;
const STORED: u64 = 16;
const HLT: u64 = 8;
const INT3: u64 = 9;

/// Where real mode, which reaches no further than 64 KiB with segment 0, finds the same code.
const REAL_MODE_CODE: u64 = 0x7c00;
/// The real-mode vector of INT3: offset, then segment.
const REAL_MODE_VECTOR: u64 = 3 * 4;
/// DR7: DR0 counts, in all tasks (G0).
const DR7_G0: u64 = 1 << 1;
/// DR7: R/W0, what counts at DR0: 0 execution, 1 writes.
const DR7_RW0: u32 = 16;

/// Why nothing could be tried.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// KVM gives no machine.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The host gives no memory for it.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// A call on the vCPU.
    #[error("try out debugging: {0}")]
    Call(#[from] io::Error),
}

impl Abilities {
    /// Whether a vCPU in `state` stops at INT3.
    pub fn stops_at_int3(&self, state: &CpuState) -> bool {
        if state.cr0 & CR0_PE == 0 { self.int3_in_real_mode } else { self.int3 }
    }

    /// Tries out the KVM of this host, on a machine of its own.
    ///
    /// # Errors
    /// There is no machine to try it on.
    pub fn probe(system: &System) -> Result<Abilities, ProbeError> {
        let ram = GuestRam::new(&MemoryMap::new(MIN_RAM).expect("the least that there is"))?;
        let tables = identity_map(BOOT_PML4);
        ram.write(BOOT_PML4, &bytes(tables.as_flattened()))?;
        ram.write(BOOT_GDT, &bytes(&CpuState::boot_gdt(true)))?;
        ram.write(FLAT64_ENTRY, &CODE)?;
        ram.write(REAL_MODE_CODE, &CODE)?;
        ram.write(REAL_MODE_VECTOR, &((REAL_MODE_CODE + HLT) as u32).to_le_bytes())?;
        let vm = Vm::new(system, Irqchip::None, Arc::new(ram))?;
        let vcpu = vm.create_vcpu(0)?;
        vcpu.set_cpuid(&cpuid::for_vcpu(&system.supported_cpuid()?, 0, 1, Irqchip::None))?;
        let mut trial = Trial { vcpu };
        let (long, real) = (CpuState::long_mode, |offset| CpuState::real_mode(0, (REAL_MODE_CODE + offset) as u16));
        let int3 = GuestDebug { int3: true, ..GuestDebug::default() };
        let point = |offset: u64, kind: u64| GuestDebug {
            addresses: [FLAT64_ENTRY + offset, 0, 0, 0],
            dr7: DR7_G0 | kind << DR7_RW0,
            ..GuestDebug::default()
        };
        Ok(Abilities {
            step: trial.stops(&long(FLAT64_ENTRY), &GuestDebug { step: true, ..GuestDebug::default() })?,
            int3: trial.stops(&long(FLAT64_ENTRY + INT3), &int3)?,
            int3_in_real_mode: trial.stops(&real(INT3), &int3)?,
            hardware_breakpoints: trial.stops(&long(FLAT64_ENTRY), &point(NOP, 0))?,
            watchpoints: trial.stops(&long(FLAT64_ENTRY + STORE), &point(STORED, 1))?,
            step_without_interrupts: debug::can_hold_interrupts(system),
        })
    }
}

/// A vCPU that is sent into the guest again and again.
struct Trial {
    vcpu: Vcpu,
}

impl Trial {
    /// Whether the guest, entered in `state`, stops for a debugger that asked for `wanted`.
    fn stops(&mut self, state: &CpuState, wanted: &GuestDebug) -> Result<bool, ProbeError> {
        self.vcpu.set_state(state)?;
        if self.vcpu.debug(wanted).is_err() {
            return Ok(false);
        }
        let exit = loop {
            match self.vcpu.run(Reply::Resume)? {
                Exit::Interrupted => {}
                exit => break exit,
            }
        };
        self.vcpu.drop_exception()?;
        self.vcpu.debug(&GuestDebug::default())?;
        Ok(match exit {
            Exit::Debug { .. } => true,
            Exit::Failure(Failure::Emulation { code, code_len: 1.. }) => wanted.int3 && code[0] == CODE[INT3 as usize],
            _ => false,
        })
    }
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
