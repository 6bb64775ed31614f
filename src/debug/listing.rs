//! The instructions around RIP as a listing.
//!
//! What stands before RIP is found by decoding from farther back: x86 code falls into step with itself, so most starts lead to
//! the same instructions.

use super::crash::Evidence;
use super::decode;
use crate::arch::cpu_state::CpuState;
use crate::arch::paging::read_linear;
use iced_x86::{Decoder, DecoderOptions, Instruction};
use std::fmt::Write;

/// Instructions shown before RIP, and from RIP on.
const BEFORE: usize = 4;
const FROM: usize = 6;
/// Bytes before RIP in which a start is looked for: room for the instructions shown and for falling into step.
const REACH: usize = 64;

/// The listing, with a mark at RIP; empty if nothing can be read there.
pub fn describe(state: &CpuState, evidence: &mut Evidence) -> String {
    let rip = state.linear_rip();
    let mut lines = before(state, rip, evidence);
    let mut bytes = [0; FROM * decode::INSTRUCTION_BYTES_MAX];
    let count = read_linear(state, rip, &mut bytes, evidence.read);
    let from = instructions(state, rip, &bytes[..count]).take_while(|instruction| !instruction.is_invalid());
    lines.extend(from.take(FROM));
    let mut text = if lines.is_empty() { String::new() } else { "  code\n".to_owned() };
    for instruction in lines {
        let mark = if instruction.ip() == rip { '>' } else { ' ' };
        let symbol = evidence.symbols.describe(instruction.ip()).map_or_else(String::new, |name| format!("  ({name})"));
        writeln!(text, "  {mark} {:#x}  {}{symbol}", instruction.ip(), decode::text(&instruction))
            .expect("strings take all");
    }
    text
}

/// The instructions that end at `rip`: of all starts the farthest that leads there.
fn before(state: &CpuState, rip: u64, evidence: &mut Evidence) -> Vec<Instruction> {
    let mut bytes = [0; REACH];
    let start = (1..=REACH).rev().find(|reach| {
        let wanted = &mut bytes[REACH - reach..];
        read_linear(state, rip.wrapping_sub(*reach as u64), wanted, evidence.read) == wanted.len()
    });
    for reach in (1..=start.unwrap_or(0)).rev() {
        let at = rip.wrapping_sub(reach as u64);
        let found: Vec<_> = instructions(state, at, &bytes[REACH - reach..]).collect();
        if found.iter().all(|instruction| !instruction.is_invalid()) {
            // Empty memory decodes as `add [rax], al`, which nobody wrote.
            let is_code = |instruction: &&Instruction| {
                let offset = REACH - rip.wrapping_sub(instruction.ip()) as usize;
                bytes[offset..offset + instruction.len()].iter().any(|byte| *byte != 0)
            };
            let shown = &found[found.len().saturating_sub(BEFORE)..];
            return shown.iter().filter(is_code).copied().collect();
        }
    }
    Vec::new()
}

/// The instructions in `bytes`, which stand at `at`; one that is cut off is invalid.
fn instructions(state: &CpuState, at: u64, bytes: &[u8]) -> impl Iterator<Item = Instruction> {
    let mut decoder = Decoder::with_ip(state.code_bits(), bytes, at, DecoderOptions::NONE);
    std::iter::from_fn(move || decoder.can_decode().then(|| decoder.decode())).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::image::Image;
    use crate::debug::symbols::Symbols;

    #[test]
    fn the_listing_shows_both_sides_of_rip() {
        let map = b"0000000000001000 T start\n";
        let symbols = Symbols::read(&Image::from_bytes("System.map", map)).unwrap();
        // mov eax, 1; nop; ud2; hlt
        let code = *b"\xb8\x01\x00\x00\x00\x90\x0f\x0b\xf4\x06\x06\x06\x06\x06\x06\x06";
        let mut read = |gpa: u64| {
            let at = gpa.checked_sub(0x1000)? as usize;
            Some(u64::from_le_bytes(code.get(at..at + 8)?.try_into().ok()?))
        };
        let state = CpuState { cr0: 1, ..CpuState::long_mode(0x1006) };
        let text = describe(&state, &mut Evidence { symbols: &symbols, read: &mut read });
        let expected = "  \
  code
    0x1000  mov eax, 1  (start)
    0x1005  nop  (start+0x5)
  > 0x1006  ud2  (start+0x6)
    0x1008  hlt  (start+0x8)
";
        assert_eq!(text, expected);
        let none = Symbols::default();
        let mut after_nothing = |gpa: u64| Some(if gpa == 0x2000 { 0x0b0f } else { 0 });
        let state = CpuState { cr0: 1, ..CpuState::long_mode(0x2000) };
        let text = describe(&state, &mut Evidence { symbols: &none, read: &mut after_nothing });
        assert!(text.starts_with("  code\n  > 0x2000  ud2\n"), "{text}");
        assert_eq!(describe(&state, &mut Evidence { symbols: &none, read: &mut |_| None }), "");
        for byte in 0..=u8::MAX {
            let word = u64::from_ne_bytes([byte; 8]);
            describe(&state, &mut Evidence { symbols: &none, read: &mut |_| Some(word) });
        }
    }
}
