//! A vCPU's registers as gdb knows them: gdbstub's x86-64 core and SSE registers, and behind them segment bases and control
//! registers, in the order of `target.xml`.
//!
//! Leaves out AVX, CR8, debug registers and the other model-specific registers.
//! Sources: GDB manual "i386 Features"; Intel SDM vol. 1 §8.1.7 (tag word).

use crate::arch::cpu_state::{CR0_PE, CpuState, Registers};
use crate::arch::fpu::FpuState;
use crate::arch::segment::Segment;
use gdbstub::arch;
use gdbstub_arch::x86::reg::{X86_64CoreRegs, X86SegmentRegs, X87FpuInternalRegs};

/// x86-64 with the registers of system code.
pub struct X86_64System;

impl arch::Arch for X86_64System {
    type Usize = u64;
    type Registers = GdbRegisters;
    type BreakpointKind = usize;
    type RegId = ();

    fn target_description_xml() -> Option<&'static str> {
        Some(include_str!("target.xml"))
    }
}

/// Registers behind gdbstub's.
const SYSTEM_REGISTERS: usize = 7;
/// Bytes of gdbstub's registers in a `g` packet: 24 of 8 bytes less seven halves, eight of 10, eight of 4, sixteen of 16, one of 4.
const CORE_BYTES: usize = 0x218;

/// The registers of a `g` packet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GdbRegisters {
    core: X86_64CoreRegs,
    /// FS base, GS base, CR0, CR2, CR3, CR4, EFER.
    system: [u64; SYSTEM_REGISTERS],
}

impl arch::Registers for GdbRegisters {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.core.rip
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.core.gdb_serialize(&mut write_byte);
        self.system.iter().flat_map(|register| register.to_le_bytes()).for_each(|byte| write_byte(Some(byte)));
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let (core, system) = bytes.split_at_checked(CORE_BYTES).ok_or(())?;
        self.core.gdb_deserialize(core)?;
        let (words, rest) = system.as_chunks();
        if words.len() != SYSTEM_REGISTERS || !rest.is_empty() {
            return Err(());
        }
        for (register, word) in self.system.iter_mut().zip(words) {
            *register = u64::from_le_bytes(*word);
        }
        Ok(())
    }
}

impl GdbRegisters {
    /// The registers of a vCPU.
    pub fn of(state: &CpuState, fpu: &FpuState) -> GdbRegisters {
        let r = &state.regs;
        let selector = |segment: &Segment| u32::from(segment.selector);
        let core = X86_64CoreRegs {
            regs: [
                r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
                r.r15,
            ],
            eflags: r.rflags as u32,
            rip: r.rip,
            segments: X86SegmentRegs {
                cs: selector(&state.cs),
                ss: selector(&state.ss),
                ds: selector(&state.ds),
                es: selector(&state.es),
                fs: selector(&state.fs),
                gs: selector(&state.gs),
            },
            st: fpu.st,
            fpu: X87FpuInternalRegs {
                fctrl: fpu.control.into(),
                fstat: fpu.status.into(),
                ftag: full_tags(fpu.tags),
                fioff: fpu.last_instruction as u32,
                fooff: fpu.last_operand as u32,
                fop: fpu.last_opcode.into(),
                ..X87FpuInternalRegs::default()
            },
            xmm: fpu.xmm,
            mxcsr: fpu.mxcsr,
        };
        let system = [state.fs.base, state.gs.base, state.cr0, state.cr2, state.cr3, state.cr4, state.efer];
        GdbRegisters { core, system }
    }

    /// Puts them into a vCPU's registers. False: a selector was changed in protected mode, where it cannot be loaded from here.
    pub fn apply(&self, state: &mut CpuState, fpu: &mut FpuState) -> bool {
        let core = &self.core;
        let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15] = core.regs;
        let rflags = state.regs.rflags & !u64::from(u32::MAX) | u64::from(core.eflags);
        let (rip, old) = (core.rip, GdbRegisters::of(state, fpu));
        state.regs =
            Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags };
        [state.fs.base, state.gs.base, state.cr0, state.cr2, state.cr3, state.cr4, state.efer] = self.system;
        fpu.st = core.st;
        fpu.control = core.fpu.fctrl as u16;
        fpu.status = core.fpu.fstat as u16;
        fpu.tags = abridged_tags(core.fpu.ftag);
        fpu.last_opcode = core.fpu.fop as u16;
        fpu.xmm = core.xmm;
        fpu.mxcsr = core.mxcsr;
        if core.segments != old.core.segments {
            if state.cr0 & CR0_PE != 0 {
                return false;
            }
            let X86SegmentRegs { cs, ss, ds, es, fs, gs } = core.segments;
            let segments = [&mut state.cs, &mut state.ss, &mut state.ds, &mut state.es, &mut state.fs, &mut state.gs];
            for (segment, selector) in segments.into_iter().zip([cs, ss, ds, es, fs, gs]) {
                if u32::from(segment.selector) != selector {
                    (segment.selector, segment.base) = (selector as u16, u64::from(selector as u16) << 4);
                }
            }
        }
        true
    }
}

/// The tag word, of which gdb wants two bits a register: 00 in use, 11 empty.
fn full_tags(abridged: u8) -> u32 {
    (0..8).filter(|register| abridged >> register & 1 == 0).map(|register| 0b11 << (2 * register)).sum()
}

fn abridged_tags(full: u32) -> u8 {
    (0..8).filter(|register| full >> (2 * register) & 0b11 != 0b11).map(|register| 1 << register).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gdbstub::arch::Registers as _;

    fn bytes(registers: &GdbRegisters) -> Vec<u8> {
        let mut bytes = Vec::new();
        registers.gdb_serialize(|byte| bytes.extend(byte));
        bytes
    }

    #[test]
    fn registers_survive_the_way_through_gdb() {
        let mut state = CpuState::long_mode(0x1234_5678_9abc);
        (state.regs.r15, state.gs.base, state.cr2) = (15, 0xffff_8880_0000_0000, 0xdead_0000);
        let fpu = FpuState {
            st: [[3; 10]; 8],
            tags: 0b1010_0101,
            xmm: [u128::MAX; 16],
            mxcsr: 0x1f80,
            ..FpuState::default()
        };
        let mut received = GdbRegisters::default();
        received.gdb_deserialize(&bytes(&GdbRegisters::of(&state, &fpu))).unwrap();
        assert_eq!(received.pc(), 0x1234_5678_9abc);
        let (mut new_state, mut new_fpu) = (CpuState::long_mode(0), FpuState::default());
        assert!(received.apply(&mut new_state, &mut new_fpu));
        assert_eq!((new_state, new_fpu), (state, fpu));
    }

    #[test]
    fn the_description_has_as_many_bytes_as_the_packet() {
        let description = <X86_64System as arch::Arch>::target_description_xml().unwrap();
        let sizes = description.split("bitsize=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        let described: usize = sizes.map(|bits| bits.parse::<usize>().unwrap() / 8).sum();
        assert_eq!(bytes(&GdbRegisters::default()).len(), described);
    }

    #[test]
    fn packets_of_a_wrong_length_are_refused() {
        let right = bytes(&GdbRegisters::default());
        for length in (0..right.len()).chain([right.len() + 1, right.len() + 8]) {
            let mut wrong = right.clone();
            wrong.resize(length, 0);
            assert_eq!(GdbRegisters::default().gdb_deserialize(&wrong), Err(()), "{length}");
        }
    }

    #[test]
    fn a_selector_is_written_in_real_mode_only() {
        let written = |mut state: CpuState| {
            let mut registers = GdbRegisters::of(&state, &FpuState::default());
            registers.core.segments.ds = 0x1000;
            registers.apply(&mut state, &mut FpuState::default()).then_some(state.ds.base)
        };
        assert_eq!(written(CpuState::real_mode(0, 0)), Some(0x10000));
        assert_eq!(written(CpuState::long_mode(0)), None);
    }
}
