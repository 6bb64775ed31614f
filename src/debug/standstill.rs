//! What a vCPU was doing when the deadline passed, from several looks at its registers: waiting, spinning, or working.

use super::crash::Evidence;
use super::decode;
use crate::arch::cpu_state::{CpuState, RFLAGS_IF};
use crate::arch::paging::read_linear;
use iced_x86::{Decoder, DecoderOptions};

/// Largest loop that is recognized, in bytes from the lowest to the highest RIP seen.
const LOOP_MAX: u64 = 512;

/// One sentence about a vCPU whose registers were `looks`, the last ones last; `None` without any.
pub fn describe(looks: &[CpuState], evidence: &mut Evidence) -> Option<String> {
    let state = looks.last()?;
    let rips: Vec<u64> = looks.iter().map(CpuState::linear_rip).collect();
    let (low, high) = (*rips.iter().min()?, *rips.iter().max()?);
    let place = |rip: u64| match evidence.symbols.describe(rip) {
        Some(symbol) => format!("{rip:#x} ({symbol})"),
        None => format!("{rip:#x}"),
    };
    if low == high && follows_hlt(state, evidence.read) {
        return Some(if state.regs.rflags & RFLAGS_IF != 0 {
            format!("It is halted at {} with interrupts on, and waits for one.", place(low.wrapping_sub(1)))
        } else {
            format!("It is halted at {} with interrupts off: only an NMI wakes it.", place(low.wrapping_sub(1)))
        });
    }
    let times = looks.len();
    if looks.len() < 2 {
        return None;
    }
    let span = high - low;
    if span > LOOP_MAX {
        return Some(format!("In {times} looks it was at work between {} and {}.", place(low), place(high)));
    }
    let count = instructions(state, low, high, evidence.read)?;
    let what = if count == 1 { "an instruction".to_owned() } else { format!("a loop of {count} instructions or more") };
    Some(format!("In {times} looks it was in {what} at {}: it spins there.", place(low)))
}

/// Whether the instruction before RIP is HLT.
fn follows_hlt(state: &CpuState, read: &mut dyn FnMut(u64) -> Option<u64>) -> bool {
    const HLT: u8 = 0xf4;
    let mut byte = [0];
    read_linear(state, state.linear_rip().wrapping_sub(1), &mut byte, read) == 1 && byte == [HLT]
}

/// Instructions from `low` to `high`, both counted; `None` if decoding from the one misses the other.
fn instructions(state: &CpuState, low: u64, high: u64, read: &mut dyn FnMut(u64) -> Option<u64>) -> Option<usize> {
    let mut bytes = vec![0; (high - low) as usize + decode::INSTRUCTION_BYTES_MAX];
    let count = read_linear(state, low, &mut bytes, read);
    let mut decoder = Decoder::with_ip(state.code_bits(), &bytes[..count], low, DecoderOptions::NONE);
    let mut found = 0;
    while decoder.can_decode() {
        let instruction = decoder.decode();
        found += 1;
        if instruction.is_invalid() || instruction.ip() > high {
            return None;
        }
        if instruction.ip() == high {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debug::symbols::Symbols;

    /// sti; hlt; jmp -3; nop; pause; jmp -4
    const CODE: [u8; 16] = *b"\xfb\xf4\xeb\xfd\x90\xf3\x90\xeb\xfc\x90\x90\x90\x90\x90\x90\x90";

    fn told(rips: &[u64], rflags: u64) -> Option<String> {
        let look = |rip: &u64| {
            let mut state = CpuState::protected_mode(*rip);
            state.regs.rflags = rflags;
            state
        };
        let looks: Vec<_> = rips.iter().map(look).collect();
        let symbols = Symbols::default();
        let mut read = |gpa: u64| {
            let at = gpa.checked_sub(0x1000)? as usize;
            Some(u64::from_le_bytes(CODE.get(at..at + 8)?.try_into().ok()?))
        };
        describe(&looks, &mut Evidence { symbols: &symbols, read: &mut read })
    }

    #[test]
    fn waiting_spinning_and_working_are_told_apart() {
        let halted = |text: &str| Some(format!("It is halted at 0x1001 with interrupts {text}"));
        assert_eq!(told(&[0x1002, 0x1002], RFLAGS_IF), halted("on, and waits for one."));
        assert_eq!(told(&[0x1002], 0), halted("off: only an NMI wakes it."));
        let spins = told(&[0x1005, 0x1007, 0x1005], 0);
        assert_eq!(
            spins.as_deref(),
            Some("In 3 looks it was in a loop of 2 instructions or more at 0x1005: it spins there.")
        );
        let one = told(&[0x1007, 0x1007], 0);
        assert_eq!(one.as_deref(), Some("In 2 looks it was in an instruction at 0x1007: it spins there."));
        let works = told(&[0x1000, 0x9000], 0);
        assert_eq!(works.as_deref(), Some("In 2 looks it was at work between 0x1000 and 0x9000."));
        assert_eq!(told(&[0x1000, 0x1006], 0), None, "no instruction begins there");
        assert_eq!((told(&[0x1005], 0), told(&[], 0), told(&[u64::MAX, u64::MAX], 0)), (None, None, None));
    }
}
