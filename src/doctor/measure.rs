//! How fast guest code runs and what an exit costs: one guest of nine bytes, timed from outside.
//!
//! The guest asks by IN how many rounds it shall do, does them and asks again, so a time from answer to question is that of
//! the rounds and one exit. It runs in 64-bit mode, in ring 0 or 3, on a machine without interrupt controllers.
//! Sources: Intel SDM vol. 2 (encodings), vol. 1 §19.5.1 (IOPL).

use crate::arch::cpu_state::{BOOT_CS, BOOT_DS, CpuState, RFLAGS_IOPL3};
use crate::arch::cpuid;
use crate::arch::irqchip::Irqchip;
use crate::arch::layout::{BOOT_GDT, BOOT_PML4, FLAT64_ENTRY, MIN_RAM};
use crate::arch::paging::{PRESENT, USER, identity_map};
use crate::arch::segment::Segment;
use crate::kvm::exit::{Exit, Reply};
use crate::kvm::system::{KvmError, System};
use crate::kvm::vcpu::Vcpu;
use crate::kvm::vm::Vm;
use crate::memory::map::{MapError, MemoryMap};
use crate::memory::ram::{GuestRam, RamError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The guest.
const CODE: [u8; 9] = [
    0xed, //       ask:   in eax, dx
    0x89, 0xc1, //        mov ecx, eax
    0xff, 0xc9, // round: dec ecx
    0x75, 0xfc, //        jnz round
    0xeb, 0xf7, //        jmp ask
];
/// Instructions in a round.
const ROUND: u64 = 2;

/// A speed is believed when its rounds took this long. They double until then, so all of them take at most four times as
/// long: three measurements stay within 100 ms.
const LONG_ENOUGH: Duration = Duration::from_millis(8);
/// Rounds to begin with: 1 ms where ring 0 is interpreted at a million instructions a second.
const FIRST_ROUNDS: u32 = 500;

/// Privilege of the guest's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// A kernel's.
    Kernel = 0,
    /// A program's.
    User = 3,
}

/// Why the guest did not run.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// KVM gives no machine.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// No RAM for it.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// No such RAM size.
    #[error(transparent)]
    Map(#[from] MapError),
    /// KVM_RUN failed.
    #[error("KVM_RUN: {0}")]
    Run(#[from] std::io::Error),
    /// The guest did something else than asking.
    #[error("a loop of {ROUND} instructions in ring {ring} ended with {exit:?}")]
    Exit {
        /// Ring of the guest.
        ring: u8,
        /// What came instead.
        exit: Exit,
    },
}

/// The guest, which has asked and waits for an answer.
pub struct Guest {
    vcpu: Vcpu,
    ring: Ring,
    /// Lives as long as its vCPU.
    _vm: Vm,
}

impl Guest {
    /// Starts the guest in `ring`.
    ///
    /// # Errors
    /// KVM refuses the machine or cannot run it.
    pub fn start(system: &System, ring: Ring) -> Result<Guest, MeasureError> {
        let (vm, vcpu) = machine(system, ring, &CODE)?;
        let mut guest = Guest { vcpu, ring, _vm: vm };
        guest.answer(Reply::Resume)?;
        Ok(guest)
    }

    /// Instructions a second, in a loop of two.
    ///
    /// # Errors
    /// KVM cannot run the guest.
    pub fn instructions_per_second(&mut self) -> Result<u64, MeasureError> {
        let mut rounds = FIRST_ROUNDS;
        loop {
            let time = self.time(rounds, 1)?;
            if time >= LONG_ENOUGH || rounds > u32::MAX / 2 {
                let instructions = u128::from(u64::from(rounds) * ROUND);
                return Ok((instructions * 1_000_000_000 / time.as_nanos().max(1)) as u64);
            }
            rounds *= 2;
        }
    }

    /// Nanoseconds of an exit for IN, with the way through this process and back.
    ///
    /// # Errors
    /// KVM cannot run the guest.
    pub fn port_exit_ns(&mut self) -> Result<u64, MeasureError> {
        let mut exits = 1;
        loop {
            let time = self.time(1, exits)?;
            if time >= LONG_ENOUGH || exits > u32::MAX / 2 {
                return Ok(time.as_nanos() as u64 / u64::from(exits));
            }
            exits *= 2;
        }
    }

    /// How long it takes to do `rounds`, `times` times.
    fn time(&mut self, rounds: u32, times: u32) -> Result<Duration, MeasureError> {
        let start = Instant::now();
        for _ in 0..times {
            self.answer(Reply::Value(rounds.into()))?;
        }
        Ok(start.elapsed())
    }

    /// Answers the guest and waits until it asks again.
    fn answer(&mut self, mut reply: Reply) -> Result<(), MeasureError> {
        loop {
            match self.vcpu.run(reply)? {
                Exit::PioRead { .. } => return Ok(()),
                Exit::Interrupted => reply = Reply::Resume,
                exit => return Err(MeasureError::Exit { ring: self.ring as u8, exit }),
            }
        }
    }
}

/// A machine without interrupt controllers whose vCPU is about to run `code` in `ring`. It lives as long as its vCPU.
///
/// # Errors
/// KVM refuses the machine.
pub fn machine(system: &System, ring: Ring, code: &[u8]) -> Result<(Vm, Vcpu), MeasureError> {
    let state = entry_state(ring);
    let ram = GuestRam::new(&MemoryMap::new(MIN_RAM)?)?;
    let mut tables = identity_map(BOOT_PML4);
    for entry in tables.as_flattened_mut().iter_mut().filter(|entry| **entry & PRESENT != 0) {
        *entry |= USER;
    }
    ram.write(BOOT_PML4, &bytes(tables.as_flattened()))?;
    ram.write(BOOT_GDT, &bytes(&[0, 0, state.cs.descriptor(), state.ss.descriptor(), state.tr.descriptor()]))?;
    ram.write(FLAT64_ENTRY, code)?;
    let vm = Vm::new(system, Irqchip::None, Arc::new(ram))?;
    let vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid(&cpuid::for_vcpu(&system.supported_cpuid()?, 0, 1, Irqchip::None))?;
    vcpu.set_state(&state)?;
    Ok((vm, vcpu))
}

/// 64-bit mode in `ring`, which may use ports.
fn entry_state(ring: Ring) -> CpuState {
    let dpl = ring as u8;
    let mut state = CpuState::long_mode(FLAT64_ENTRY);
    state.regs.rflags |= RFLAGS_IOPL3;
    state.cs = Segment { dpl, ..Segment::flat_code(BOOT_CS | u16::from(dpl), true) };
    for segment in [&mut state.ds, &mut state.es, &mut state.fs, &mut state.gs, &mut state.ss] {
        *segment = Segment { dpl, ..Segment::flat_data(BOOT_DS | u16::from(dpl)) };
    }
    state
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

    #[test]
    fn the_guest_is_the_code_that_its_comments_show() {
        let code: Vec<_> = Decoder::with_ip(64, &CODE, 0, DecoderOptions::NONE)
            .iter()
            .map(|i| (i.mnemonic(), i.near_branch64()))
            .collect();
        use Mnemonic::{Dec, In, Jmp, Jne, Mov};
        assert_eq!(code, [(In, 0), (Mov, 0), (Dec, 0), (Jne, 3), (Jmp, 0)]);
    }

    #[test]
    fn ring_3_is_entered_with_its_own_segments() {
        let state = entry_state(Ring::User);
        assert_eq!((state.cs.selector, state.cs.dpl, state.ss.selector, state.ss.dpl), (0x13, 3, 0x1b, 3));
        assert_eq!(entry_state(Ring::Kernel).cs, CpuState::long_mode(0).cs);
    }
}
