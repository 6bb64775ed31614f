//! Which instruction caused an exit. RIP stands at it or behind it, and which of both depends on the kind of the exit and
//! on the back end: with VMX and SVM a plain OUT leaves RIP at the instruction, a KVM that interprets leaves it behind; MMIO
//! writes and HLT leave it behind, reads and MSR accesses at it (KVM API §5 "The kvm_run structure").
//!
//! So both are tried: an instruction that can have caused this exit, at RIP or ending there. Where only one can, it is that
//! one, and the side is remembered for exits of this kind; where both can, the side that was remembered counts.
//! What stands before RIP is found by decoding from each byte before it: x86 code falls into step with itself.

use super::decode;
use super::event::{CODE_REACH, Code, ExitKind};
use crate::kvm::exit::Exit;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use std::collections::HashMap;

/// Instructions kept; the hot ones of a guest are few.
const CACHE_MAX: usize = 4096;

/// The instruction that caused an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Linear address of its first byte.
    pub rip: u64,
    /// Bytes it has.
    pub length: usize,
    /// Its text: "out dx, al".
    pub text: String,
    /// Whether the exit left RIP behind it.
    pub passed: bool,
    /// Whether it is a string instruction, whose elements are exits of their own.
    pub is_string: bool,
}

/// Finds instructions, and remembers on which side of RIP they were.
#[derive(Debug, Default)]
pub struct Locator {
    passed: HashMap<ExitKind, bool>,
    known: HashMap<(Exit, Code), Option<Located>>,
}

impl Locator {
    /// The instruction in `code` that caused `exit`; `None` if there is none that can have.
    pub fn locate(&mut self, exit: Exit, code: &Code) -> Option<&Located> {
        // The value that was written does not matter to the code.
        let key = match exit {
            Exit::PioWrite { port, size, .. } => Exit::PioWrite { port, size, value: 0 },
            Exit::MmioWrite { addr, size, .. } => Exit::MmioWrite { addr, size, value: 0 },
            other => other,
        };
        if self.known.len() >= CACHE_MAX {
            self.known.clear();
        }
        let passed = &mut self.passed;
        self.known.entry((key, *code)).or_insert_with(|| find(exit, code, passed)).as_ref()
    }
}

fn find(exit: Exit, code: &Code, passed: &mut HashMap<ExitKind, bool>) -> Option<Located> {
    let kind = ExitKind::of(&exit);
    let at = decode_at(code, 0).filter(|instruction| can_cause(exit, instruction, code));
    let behind = ending_at_rip(exit, code);
    let use_behind = match (&at, &behind) {
        (None, None) => return None,
        (Some(_), None) => false,
        (None, Some(_)) => true,
        (Some(_), Some(_)) => passed.get(&kind).copied().unwrap_or(leaves_rip_behind(kind)),
    };
    if at.is_none() != behind.is_none() {
        passed.insert(kind, use_behind);
    }
    let instruction = if use_behind { behind? } else { at? };
    Some(Located {
        rip: instruction.ip(),
        length: instruction.len(),
        text: decode::text(&instruction),
        passed: use_behind,
        is_string: instruction.is_string_instruction(),
    })
}

/// Where hardware back ends leave RIP.
fn leaves_rip_behind(kind: ExitKind) -> bool {
    matches!(kind, ExitKind::MmioWrite | ExitKind::Halt | ExitKind::IoapicEoi | ExitKind::Hypercall | ExitKind::SetTpr)
}

/// The instruction that begins `offset` bytes from RIP (which may be negative).
fn decode_at(code: &Code, offset: isize) -> Option<Instruction> {
    let start = CODE_REACH.checked_add_signed(offset)?;
    let readable = CODE_REACH - usize::from(code.before)..CODE_REACH + usize::from(code.after);
    let bytes = code.bytes.get(start.max(readable.start)..readable.end)?;
    if start < readable.start || bytes.is_empty() {
        return None;
    }
    let ip = code.rip.wrapping_add_signed(offset as i64);
    let instruction = Decoder::with_ip(u32::from(code.bits), bytes, ip, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// The instruction that ends at RIP and can have caused `exit`. Each byte before RIP is tried as the start of a run of
/// instructions; of the runs that end exactly at RIP, most agree on the last instruction.
fn ending_at_rip(exit: Exit, code: &Code) -> Option<Instruction> {
    let mut votes = [0u32; CODE_REACH + 1];
    for start in 1..=isize::from(code.before) {
        let mut offset = -start;
        while offset < 0 {
            let Some(instruction) = decode_at(code, offset) else { break };
            let next = offset + instruction.len() as isize;
            if next == 0 && can_cause(exit, &instruction, code) {
                votes[offset.unsigned_abs()] += 1;
            }
            offset = next;
        }
    }
    let (length, count) = votes.iter().enumerate().max_by_key(|(_, count)| **count)?;
    if *count == 0 { None } else { decode_at(code, -(length as isize)) }
}

/// Whether `instruction` can leave the guest with `exit`.
fn can_cause(exit: Exit, instruction: &Instruction, code: &Code) -> bool {
    use Mnemonic as M;
    let mnemonic = instruction.mnemonic();
    match exit {
        Exit::PioRead { port, size } => match mnemonic {
            M::In => is_port(instruction, 1, port, code) && accumulator(instruction.op0_register()) == Some(size),
            M::Insb => code.dx == port && size == 1,
            M::Insw => code.dx == port && size == 2,
            M::Insd => code.dx == port && size == 4,
            _ => false,
        },
        Exit::PioWrite { port, size, .. } => match mnemonic {
            M::Out => is_port(instruction, 0, port, code) && accumulator(instruction.op1_register()) == Some(size),
            M::Outsb => code.dx == port && size == 1,
            M::Outsw => code.dx == port && size == 2,
            M::Outsd => code.dx == port && size == 4,
            _ => false,
        },
        Exit::MmioRead { .. } | Exit::MmioWrite { .. } | Exit::IoapicEoi { .. } => {
            mnemonic == M::Wrmsr && matches!(exit, Exit::IoapicEoi { .. }) || accesses_memory(instruction)
        }
        Exit::MsrRead { .. } => mnemonic == M::Rdmsr,
        Exit::MsrWrite { .. } => mnemonic == M::Wrmsr,
        Exit::Halt => mnemonic == M::Hlt,
        Exit::SetTpr => mnemonic == M::Mov && instruction.op0_register() == Register::CR8,
        Exit::Hypercall { .. } => matches!(mnemonic, M::Vmcall | M::Vmmcall),
        // Not caused by one instruction, or by any: what stands at RIP is shown.
        Exit::Shutdown | Exit::Debug { .. } | Exit::Failure(_) => instruction.ip() == code.rip,
        Exit::SystemEvent { .. } | Exit::IrqWindowOpen | Exit::Interrupted => false,
    }
}

fn is_port(instruction: &Instruction, operand: u32, port: u16, code: &Code) -> bool {
    match instruction.op_kind(operand) {
        OpKind::Immediate8 => port == u16::from(instruction.immediate8()),
        _ => port == code.dx,
    }
}

/// Bytes of AL, AX or EAX.
fn accumulator(register: Register) -> Option<u8> {
    match register {
        Register::AL => Some(1),
        Register::AX => Some(2),
        Register::EAX => Some(4),
        _ => None,
    }
}

fn accesses_memory(instruction: &Instruction) -> bool {
    let is_memory = |kind: OpKind| {
        !matches!(
            kind,
            OpKind::Register
                | OpKind::NearBranch16
                | OpKind::NearBranch32
                | OpKind::NearBranch64
                | OpKind::FarBranch16
                | OpKind::FarBranch32
                | OpKind::Immediate8
                | OpKind::Immediate8_2nd
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64
        )
    };
    let implicit = matches!(instruction.mnemonic(), Mnemonic::Push | Mnemonic::Pop | Mnemonic::Call | Mnemonic::Ret);
    !matches!(instruction.mnemonic(), Mnemonic::Lea | Mnemonic::Nop)
        && (implicit || instruction.op_kinds().any(is_memory))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code `before` RIP and from there on, DX = 0x3f8.
    fn code(bits: u8, before: &[u8], after: &[u8]) -> Code {
        let mut bytes = [0; 2 * CODE_REACH];
        bytes[CODE_REACH - before.len()..CODE_REACH].copy_from_slice(before);
        bytes[CODE_REACH..CODE_REACH + after.len()].copy_from_slice(after);
        Code { rip: 0x1000, bits, dx: 0x3f8, bytes, before: before.len() as u8, after: after.len() as u8 }
    }

    const OUT_DX_AL: Exit = Exit::PioWrite { port: 0x3f8, size: 1, value: 0x41 };

    fn located(locator: &mut Locator, exit: Exit, code: &Code) -> Option<(String, u64, bool)> {
        locator.locate(exit, code).map(|found| (found.text.clone(), found.rip, found.passed))
    }

    #[test]
    fn an_out_is_found_on_either_side() {
        let mut locator = Locator::default();
        let at = located(&mut locator, OUT_DX_AL, &code(64, &[0x90, 0xb0, 0x41], &[0xee, 0xc3]));
        assert_eq!(at, Some(("out dx, al".into(), 0x1000, false)));
        let behind = located(&mut locator, OUT_DX_AL, &code(64, &[0x90, 0xb0, 0x41, 0xee], &[0xc3]));
        assert_eq!(behind, Some(("out dx, al".into(), 0xfff, true)));
    }

    #[test]
    fn where_both_sides_fit_the_side_seen_before_counts() {
        let both = code(64, &[0x90, 0xee], &[0xee]);
        let hardware = located(&mut Locator::default(), OUT_DX_AL, &both);
        assert_eq!(hardware, Some(("out dx, al".into(), 0x1000, false)));
        let mut interpreting = Locator::default();
        located(&mut interpreting, OUT_DX_AL, &code(64, &[0xee], &[0xc3]));
        assert_eq!(located(&mut interpreting, OUT_DX_AL, &both), Some(("out dx, al".into(), 0xfff, true)));
    }

    #[test]
    fn port_and_size_tell_instructions_apart() {
        let out = |size| Exit::PioWrite { port: 0x80, size, value: 0 };
        // out 0x80, al; out 0x80, eax
        let pair = code(32, &[0xe6, 0x80], &[0xe7, 0x80]);
        let mut locator = Locator::default();
        assert_eq!(located(&mut locator, out(1), &pair), Some(("out 0x80, al".into(), 0xffe, true)));
        assert_eq!(located(&mut locator, out(4), &pair), Some(("out 0x80, eax".into(), 0x1000, false)));
        assert_eq!(located(&mut locator, out(2), &pair), None);
        // rep outsw; in ax, dx
        let strings = code(16, &[0xf3, 0x6f], &[0xed]);
        let outs = Exit::PioWrite { port: 0x3f8, size: 2, value: 0 };
        assert_eq!(located(&mut locator, outs, &strings).unwrap().0, "rep outsw dx, [si]");
        let read = Exit::PioRead { port: 0x3f8, size: 2 };
        assert_eq!(located(&mut locator, read, &strings), Some(("in ax, dx".into(), 0x1000, false)));
    }

    #[test]
    fn an_mmio_write_is_found_whole_behind_other_code() {
        // mov ebx, eax; mov dword ptr [rdi+0x20], 0x12345678; ret
        let before = [0x89, 0xc3, 0xc7, 0x47, 0x20, 0x78, 0x56, 0x34, 0x12];
        let write = Exit::MmioWrite { addr: 0xfec0_0020, size: 4, value: 0x1234_5678 };
        let found = located(&mut Locator::default(), write, &code(64, &before, &[0xc3]));
        assert_eq!(found, Some(("mov dword ptr [rdi+0x20], 0x12345678".into(), 0xff9, true)));
    }

    #[test]
    fn other_kinds_find_their_instruction() {
        let mut locator = Locator::default();
        let halt = located(&mut locator, Exit::Halt, &code(64, &[0xfb, 0xf4], &[0xeb, 0xfc]));
        assert_eq!(halt, Some(("hlt".into(), 0xfff, true)));
        let msr = Exit::MsrRead { index: 0x10, filtered: true };
        assert_eq!(located(&mut locator, msr, &code(64, &[], &[0x0f, 0x32])).unwrap().0, "rdmsr");
        assert_eq!(located(&mut locator, Exit::Shutdown, &code(64, &[0x90], &[0x0f, 0x0b])).unwrap().0, "ud2");
        assert_eq!(located(&mut locator, Exit::Halt, &code(64, &[], &[])), None);
    }
}
