//! Which instruction caused an exit. RIP stands at it or behind it. Which of both is the same for most kinds of exits, because
//! the same code of KVM makes them whatever the back end: at it for what wants an answer (IN, reads of memory, MSRs) and for all
//! but the last element of a string instruction; behind it for writes to memory and HLT. Only OUT differs: with VMX and SVM RIP
//! stands at it, a KVM that interprets the guest leaves it behind.
//!
//! So the expected side is looked at first: is there an instruction that can have caused this exit, by its port, its memory
//! operand, its size? If not, the other side. The side of OUT is learned where only one side fits;
//! until then it is that of VMX and SVM.
//! What stands before RIP is found by decoding from each byte before it: x86 code falls into step with itself. Of a compiler's
//! writes to memory all but one in 200 are so found, which a test here counts.
//! Source: `arch/x86/kvm/x86.c` (kvm_fast_pio, x86_emulate_instruction).

use super::decode;
use super::event::{CODE_REACH, Code};
use crate::kvm::exit::Exit;
use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, UsedMemory,
};
use std::cmp::Ordering;
use std::collections::HashMap;

/// Bytes by which the LAPIC's registers are written (Intel SDM vol. 3A §11.4.1).
const LAPIC_REGISTER_BYTES: u8 = 4;

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

/// Finds instructions, and remembers on which side of RIP an OUT was.
#[derive(Debug, Default)]
pub struct Locator {
    /// Whether RIP stands behind an OUT; `None` until that was seen.
    out_passed: Option<bool>,
    /// Where in `found` the answer for an exit stands.
    known: HashMap<(Exit, Code), usize>,
    found: Vec<Option<Located>>,
}

impl Locator {
    /// The instruction in `code` that caused `exit`; `None` if there is none that can have.
    pub fn locate(&mut self, exit: Exit, code: &Code) -> Option<&Located> {
        // The value that was written does not matter to the code.
        let key = match exit {
            Exit::PioWrite { port, size, .. } => Exit::PioWrite { port, size, value: 0 },
            Exit::MmioWrite { addr, size, .. } => Exit::MmioWrite { addr, size, value: 0 },
            Exit::MsrWrite { index, filtered, .. } => Exit::MsrWrite { index, filtered, value: 0 },
            other => other,
        };
        let index = match self.known.get(&(key, *code)) {
            Some(index) => *index,
            None => {
                if self.found.len() >= CACHE_MAX {
                    self.forget();
                }
                let found = self.find(exit, code);
                self.found.push(found);
                self.known.insert((key, *code), self.found.len() - 1);
                self.found.len() - 1
            }
        };
        self.found[index].as_ref()
    }

    fn forget(&mut self) {
        self.known.clear();
        self.found.clear();
    }

    fn find(&mut self, exit: Exit, code: &Code) -> Option<Located> {
        let at = decode_at(code, 0).filter(|instruction| fit(exit, instruction, code) != Fit::No);
        let behind = ending_at_rip(exit, code);
        if let (Exit::PioWrite { .. }, true) = (exit, at.is_none() != behind.is_none())
            && at.or(behind).is_some_and(|instruction| instruction.mnemonic() == Mnemonic::Out)
            && self.out_passed != Some(behind.is_some())
        {
            self.out_passed = Some(behind.is_some());
            // What was decided without knowing it may be wrong.
            self.forget();
        }
        // A string instruction that is not at its end is where RIP stands.
        let repeats = at.is_some_and(|instruction| instruction.has_rep_prefix() && instruction.is_string_instruction());
        let expect_behind = !repeats
            && match exit {
                Exit::PioWrite { .. } => self.out_passed.unwrap_or(false),
                Exit::MmioWrite { .. } | Exit::Halt | Exit::IoapicEoi { .. } | Exit::SetTpr => true,
                _ => false,
            };
        let (instruction, passed) = match (at, behind) {
            (Some(instruction), None) => (instruction, false),
            (None, Some(instruction)) => (instruction, true),
            (Some(at), Some(behind)) => (if expect_behind { behind } else { at }, expect_behind),
            (None, None) => return None,
        };
        Some(Located {
            rip: instruction.ip(),
            length: instruction.len(),
            text: decode::text(&instruction),
            passed,
            is_string: instruction.is_string_instruction(),
        })
    }
}

/// How well an instruction explains an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// It cannot have caused it.
    No,
    /// It can, by a part of what it accesses.
    Part,
    /// It can.
    Whole,
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
/// instructions; of those that end exactly at RIP, the one that fits best counts, and of several the one that most runs
/// agree on.
fn ending_at_rip(exit: Exit, code: &Code) -> Option<Instruction> {
    let mut candidates = [(Fit::No, 0u32); CODE_REACH + 1];
    for start in 1..=isize::from(code.before) {
        let mut offset = -start;
        while offset < 0 {
            let Some(instruction) = decode_at(code, offset) else { break };
            let next = offset + instruction.len() as isize;
            if next == 0 {
                let (best, votes) = &mut candidates[offset.unsigned_abs()];
                *best = fit(exit, &instruction, code);
                *votes += 1;
            }
            offset = next;
        }
    }
    let (length, (best, _)) = candidates.iter().enumerate().max_by_key(|(_, candidate)| **candidate)?;
    if *best == Fit::No { None } else { decode_at(code, -(length as isize)) }
}

/// Whether `instruction` can leave the guest with `exit`.
fn fit(exit: Exit, instruction: &Instruction, code: &Code) -> Fit {
    use Mnemonic as M;
    let mnemonic = instruction.mnemonic();
    let whole = |fits| if fits { Fit::Whole } else { Fit::No };
    match exit {
        Exit::PioRead { port, size } => whole(match mnemonic {
            M::In => is_port(instruction, 1, port, code) && accumulator(instruction.op0_register()) == Some(size),
            M::Insb => code.dx == port && size == 1,
            M::Insw => code.dx == port && size == 2,
            M::Insd => code.dx == port && size == 4,
            _ => false,
        }),
        Exit::PioWrite { port, size, .. } => whole(match mnemonic {
            M::Out => is_port(instruction, 0, port, code) && accumulator(instruction.op1_register()) == Some(size),
            M::Outsb => code.dx == port && size == 1,
            M::Outsw => code.dx == port && size == 2,
            M::Outsd => code.dx == port && size == 4,
            _ => false,
        }),
        Exit::MmioRead { size, .. } => accesses_memory(instruction, size, false),
        Exit::MmioWrite { size, value, .. } => match written_immediate(instruction, size) {
            Some(other) if other != value => Fit::No,
            _ => accesses_memory(instruction, size, true),
        },
        // By a write to the LAPIC's registers, in memory or, in x2APIC mode, by WRMSR.
        Exit::IoapicEoi { .. } if mnemonic == M::Wrmsr => Fit::Whole,
        Exit::IoapicEoi { .. } => accesses_memory(instruction, LAPIC_REGISTER_BYTES, true),
        Exit::MsrRead { .. } => whole(mnemonic == M::Rdmsr),
        Exit::MsrWrite { .. } => whole(mnemonic == M::Wrmsr),
        Exit::SetTpr => whole(mnemonic == M::Mov && instruction.op0_register() == Register::CR8),
        Exit::Halt => whole(mnemonic == M::Hlt),
        Exit::Hypercall { .. } => whole(matches!(mnemonic, M::Vmcall | M::Vmmcall)),
        // Not caused by one instruction, or by any: what stands at RIP is shown.
        Exit::Shutdown | Exit::Debug { .. } | Exit::Failure(_) => whole(instruction.ip() == code.rip),
        Exit::SystemEvent { .. } | Exit::IrqWindowOpen | Exit::Interrupted => Fit::No,
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

/// How well a read or write of `size` bytes of memory fits `instruction`. KVM splits an access at a page and at eight bytes, so
/// the instruction's may be larger. Registers of devices are seldom changed in place, and zeroes before RIP decode as that.
fn accesses_memory(instruction: &Instruction, size: u8, write: bool) -> Fit {
    let mut factory = InstructionInfoFactory::new();
    let fit = |memory: &UsedMemory| {
        let direction = match (memory.access(), write) {
            (OpAccess::Read | OpAccess::CondRead, false) | (OpAccess::Write | OpAccess::CondWrite, true) => Fit::Whole,
            (OpAccess::ReadWrite | OpAccess::ReadCondWrite, _) => Fit::Part,
            _ => Fit::No,
        };
        let bytes = match memory.memory_size().size().cmp(&usize::from(size)) {
            Ordering::Less => Fit::No,
            Ordering::Equal => Fit::Whole,
            Ordering::Greater => Fit::Part,
        };
        direction.min(bytes)
    };
    factory.info(instruction).used_memory().iter().map(fit).max().unwrap_or(Fit::No)
}

/// The low `size` bytes of the immediate that a MOV writes.
fn written_immediate(instruction: &Instruction, size: u8) -> Option<u64> {
    let is_immediate = instruction.op_count() == 2
        && matches!(
            instruction.op1_kind(),
            OpKind::Immediate8 | OpKind::Immediate16 | OpKind::Immediate32 | OpKind::Immediate32to64
        );
    let mask = u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
    let whole = instruction.memory_size().size() == usize::from(size);
    (instruction.mnemonic() == Mnemonic::Mov && is_immediate && whole).then(|| instruction.immediate(1) & mask)
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
    fn a_string_instruction_teaches_nothing_about_out() {
        let mut locator = Locator::default();
        // rep outsb, whose last element leaves RIP behind it
        assert!(located(&mut locator, OUT_DX_AL, &code(64, &[0xf3, 0x6e], &[0x90])).unwrap().2);
        let both = code(64, &[0x90, 0xee], &[0xee]);
        assert_eq!(located(&mut locator, OUT_DX_AL, &both).unwrap().1, 0x1000);
        // and while it repeats, RIP stands at it
        located(&mut locator, OUT_DX_AL, &code(64, &[0xee], &[0xc3]));
        let repeating = located(&mut locator, OUT_DX_AL, &code(64, &[0xee], &[0xf3, 0x6e]));
        assert_eq!(repeating, Some(("rep outsb dx, [rsi]".into(), 0x1000, false)));
        assert_eq!(located(&mut locator, OUT_DX_AL, &both).unwrap().1, 0xfff, "what was told before was forgotten");
    }

    #[test]
    fn memory_is_accessed_in_the_exits_direction_size_and_value() {
        let write = |size, value| Exit::MmioWrite { addr: 0xfec0_0010, size, value };
        let find = |exit, before: &[u8], after: &[u8]| {
            located(&mut Locator::default(), exit, &code(64, before, after)).map(|found| found.0)
        };
        // mov [rdi], eax; mov ecx, [rsi]
        let pair = (&[0x89, 0x07][..], &[0x8b, 0x0e][..]);
        assert_eq!(find(write(4, 1), pair.0, pair.1).unwrap(), "mov [rdi], eax");
        assert_eq!(find(Exit::MmioRead { addr: 0, size: 4 }, pair.0, pair.1).unwrap(), "mov ecx, [rsi]");
        assert_eq!(find(write(8, 1), pair.0, pair.1), None);
        assert_eq!(find(write(3, 1), pair.0, pair.1).unwrap(), "mov [rdi], eax", "the part before a page's end");
        // mov byte ptr [rdi], 5
        assert_eq!(find(write(1, 5), &[0xc6, 0x07, 0x05], &[]).unwrap(), "mov byte ptr [rdi], 5");
        assert_eq!(find(write(1, 6), &[0xc6, 0x07, 0x05], &[]), None);
        // lea rax, [rdi] touches nothing; push does
        assert_eq!(find(Exit::MmioRead { addr: 0, size: 8 }, &[], &[0x48, 0x8d, 0x07]), None);
        assert_eq!(find(write(8, 0), &[0x50], &[]).unwrap(), "push rax");
    }

    /// Real code, as a compiler writes it: this program's own. Each write to memory is looked for as an exit behind it shows it.
    #[test]
    fn of_a_programs_writes_to_memory_nearly_all_are_found() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let half = |at: usize| usize::from(u16::from_le_bytes([own[at], own[at + 1]]));
        let word = |at: usize| u64::from_le_bytes(own[at..at + 8].try_into().unwrap()) as usize;
        // The program header of the code: PT_LOAD, PF_X.
        let mut headers = (0..half(56)).map(|index| word(32) + index * half(54));
        let header = headers.find(|&at| own[at] == 1 && own[at + 4] & 1 != 0).unwrap();
        let text = &own[word(header + 8)..][..word(header + 32)];
        // From the middle on, where the compiler's own code is.
        let text = &text[text.len() / 2..];
        let (mut seen, mut right) = (0, 0);
        for instruction in Decoder::with_ip(64, text, 0, DecoderOptions::NONE).iter().skip(100).take(50_000) {
            let (end, size) = (instruction.next_ip() as usize, instruction.memory_size().size() as u8);
            let writes = matches!(size, 1 | 2 | 4 | 8) && accesses_memory(&instruction, size, true) != Fit::No;
            if instruction.is_invalid() || instruction.is_string_instruction() || !writes {
                continue;
            }
            let value = written_immediate(&instruction, size).unwrap_or(0x5a);
            let around = code(64, &text[end - CODE_REACH..end], &text[end..end + CODE_REACH]);
            let exit = Exit::MmioWrite { addr: 0xfec0_0010, size, value };
            let found = ending_at_rip(exit, &Code { rip: end as u64, ..around });
            seen += 1;
            right += u32::from(found.is_some_and(|found| found.ip() == instruction.ip()));
        }
        assert!(seen > 1000 && right * 1000 >= seen * 995, "{right} of {seen}");
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
