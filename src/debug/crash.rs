//! What happened to a vCPU that stopped, in words: where it stood, why, with which registers, page tables and stack, and which
//! exits came before.
//!
//! The guest's memory is read through its own page tables; nothing of it is trusted, and what cannot be read is said.
//! Source: AMD APM vol. 2 §15.14.3 (shutdown intercept: the saved state is undefined, so KVM resets it).

use super::decode::{INSTRUCTION_BYTES_MAX, describe as instruction};
use super::occasion::{AFTER_RESET, Occasion};
use super::recorder::Recorded;
use super::symbols::Symbols;
use super::{cause, listing, mapping, recording, registers, standstill};
use crate::arch::cpu_state::{CR0_PE, CpuState};
use crate::arch::paging::read_linear;
use crate::kvm::exit::{Exit, Failure};
use std::fmt::Write;

/// Stack words shown.
const STACK_WORDS: u64 = 16;

/// What there is to tell from besides the registers.
pub struct Evidence<'a> {
    /// Names for code; may be empty.
    pub symbols: &'a Symbols,
    /// A 64-bit word of guest-physical memory; `None` where there is no RAM.
    pub read: &'a mut dyn FnMut(u64) -> Option<u64>,
}

/// A vCPU that is told about.
#[derive(Clone, Copy, Debug)]
pub struct Stop<'a> {
    /// Why.
    pub occasion: Occasion,
    /// Number of the vCPU.
    pub vcpu: u32,
    /// Its registers at one or more looks, the last ones last; none where KVM did not even tell that.
    pub looks: &'a [CpuState],
    /// Its last exits, oldest first; none without a flight recorder.
    pub exits: &'a [Recorded],
}

/// Several lines about a vCPU.
pub fn describe(stop: &Stop, evidence: &mut Evidence) -> String {
    let mut text = format!("vCPU {}: {}", stop.vcpu, stop.occasion.name());
    let Some(state) = stop.looks.last() else {
        text.push_str("; its registers are not known\n");
        text.push_str(&recording::describe(stop.exits, None, evidence));
        return text;
    };
    if is_after_reset(state) && stop.exits.is_empty() && stop.occasion != Occasion::TripleFault {
        return format!("vCPU {}: never started\n", stop.vcpu);
    }
    let rip = state.linear_rip();
    let symbol = evidence.symbols.describe(rip).map_or_else(String::new, |symbol| format!(" ({symbol})"));
    let mut line = |line: &str| writeln!(text, "{line}").expect("writing to a string cannot fail");
    line(&format!(" at rip {rip:#x}{symbol}"));
    line(&format!("  {}", instruction(state.code_bits(), state.regs.rip, &code(stop.occasion, state, evidence))));
    for sentence in explanation(stop, state, evidence) {
        line(&format!("  {sentence}"));
    }
    if stop.occasion == Occasion::TripleFault && is_after_reset(state) {
        text.push_str(&registers::describe(state));
        // Where the guest stood is lost, and so are its tables: 64-bit code at its physical address is assumed.
        let assumed = CpuState { cr0: CR0_PE, ..CpuState::long_mode(0) };
        let exits: Vec<_> = stop.exits.iter().map(without_place_of_reset).collect();
        text.push_str(&recording::describe(&exits, Some(&assumed), evidence));
        return text;
    }
    text.push_str(&listing::describe(state, evidence));
    text.push_str(&registers::describe(state));
    text.push_str(&mapping::describe(state, rip, stack_top(state), evidence.read));
    text.push_str(&stack(state, evidence));
    text.push_str(&recording::describe(stop.exits, Some(state), evidence));
    text
}

/// Why it stopped, and what such a stop means.
fn explanation(stop: &Stop, state: &CpuState, evidence: &mut Evidence) -> Vec<String> {
    let reset = stop.occasion == Occasion::TripleFault && is_after_reset(state);
    let mut lines = match stop.occasion {
        Occasion::TripleFault if reset => Vec::new(),
        Occasion::TripleFault => cause::of_triple_fault(state, evidence.read),
        Occasion::Failed(_) => cause::place(state, evidence.read),
        Occasion::Deadline => standstill::describe(stop.looks, evidence).into_iter().collect(),
        Occasion::Panicked | Occasion::Asked => Vec::new(),
    };
    let meaning = if reset { AFTER_RESET } else { stop.occasion.meaning() };
    lines.extend(meaning.lines().map(str::to_owned));
    if reset {
        lines.extend(last_place(stop.exits, evidence));
    }
    lines
}

/// Where the last exit before the end was made.
fn last_place(exits: &[Recorded], evidence: &Evidence) -> Option<String> {
    let rip = exits.iter().rev().find(|exit| exit.exit != Exit::Shutdown)?.rip?;
    let symbol = evidence.symbols.describe(rip).map_or_else(String::new, |symbol| format!(" ({symbol})"));
    Some(format!("The last exit before it was made at rip {rip:#x}{symbol}: the fault came after that."))
}

/// RIP of a triple fault is that of the reset.
fn without_place_of_reset(exit: &Recorded) -> Recorded {
    Recorded { rip: exit.rip.filter(|_| exit.exit != Exit::Shutdown), ..*exit }
}

/// State of a processor after reset (Intel SDM vol. 3A "Processor State After Reset").
fn is_after_reset(state: &CpuState) -> bool {
    state.regs.rip == 0xfff0 && state.cs.selector == 0xf000
}

/// The bytes at RIP: as KVM saw them, else as the page tables show them.
fn code(occasion: Occasion, state: &CpuState, evidence: &mut Evidence) -> Vec<u8> {
    if let Occasion::Failed(Failure::Emulation { code, code_len }) = occasion
        && code_len > 0
    {
        return code[..usize::from(code_len).min(code.len())].to_vec();
    }
    let mut bytes = vec![0; INSTRUCTION_BYTES_MAX];
    let count = read_linear(state, state.linear_rip(), &mut bytes, evidence.read);
    bytes.truncate(count);
    bytes
}

/// The words on top of the stack, those that point into code by name.
fn stack(state: &CpuState, evidence: &mut Evidence) -> String {
    let bits = state.code_bits();
    let bytes = u64::from(bits / 8);
    let top = stack_top(state);
    let mut text = String::new();
    for index in 0..STACK_WORDS {
        let address = top.wrapping_add(index * bytes);
        let mut word = [0; 8];
        let word_bytes = &mut word[..bytes as usize];
        if read_linear(state, address, word_bytes, evidence.read) < word_bytes.len() {
            writeln!(text, "  [rsp+{:02x}] not readable", index * bytes).expect("strings take all");
            break;
        }
        let value = u64::from_le_bytes(word);
        let symbol = evidence.symbols.describe(value).map_or_else(String::new, |symbol| format!("  {symbol}"));
        let digits = bytes as usize * 2;
        writeln!(text, "  [rsp+{:02x}] {value:0digits$x}{symbol}", index * bytes).expect("strings take all");
    }
    text
}

/// Linear address of the stack's top.
fn stack_top(state: &CpuState) -> u64 {
    if state.is_long() { state.regs.rsp } else { state.ss.base.wrapping_add(state.regs.rsp) & 0xffff_ffff }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::BOOT_PML4;
    use crate::arch::paging::identity_map;
    use crate::boot::image::Image;

    /// What `describe` says of a guest with an identity map, `code` at 1 MiB and a return address on its stack.
    fn told(occasion: Occasion, state: &CpuState, code: &[u8]) -> String {
        let map = b"0000000000100000 T start\n0000000000100100 t idle_loop\n";
        let symbols = Symbols::read(&Image::from_bytes("System.map", map)).unwrap();
        let tables = identity_map(BOOT_PML4);
        let mut read = |gpa: u64| {
            if let Some(entry) = gpa.checked_sub(BOOT_PML4).and_then(|at| tables.as_flattened().get(at as usize / 8)) {
                return Some(*entry);
            }
            match gpa {
                0x10_0000..0x10_1000 => {
                    let mut word = [0x90; 8];
                    let at = (gpa - 0x10_0000) as usize;
                    word.iter_mut().zip(code.iter().skip(at)).for_each(|(to, from)| *to = *from);
                    Some(u64::from_le_bytes(word))
                }
                0x20_0000..0x20_0010 => Some(0x10_0123),
                0x20_0010..0x20_1000 => Some(0),
                _ => None,
            }
        };
        let stop = Stop { occasion, vcpu: 1, looks: &[*state, *state], exits: &[] };
        describe(&stop, &mut Evidence { symbols: &symbols, read: &mut read })
    }

    fn long_mode() -> CpuState {
        let mut state = CpuState::long_mode(0x10_0000);
        state.regs.rsp = 0x20_0000;
        state
    }

    #[test]
    fn a_triple_fault_shows_the_instruction_and_the_missing_idt() {
        let text = told(Occasion::TripleFault, &long_mode(), &[0x0f, 0x0b]);
        assert!(
            text.starts_with("vCPU 1: triple fault (KVM_EXIT_SHUTDOWN) at rip 0x100000 (start)\n  ud2   (0f 0b)\n"),
            "{text}"
        );
        assert!(text.contains("  #UD: `ud2` at 0x100000; there is no handler: the IDT's limit 0x0 has no"), "{text}");
        assert!(text.contains("  > 0x100000  ud2  (start)\n"), "{text}");
        assert!(text.contains("  rip 0x100000 leads to physical 0x100000\n    PML4 0x"), "{text}");
        assert!(text.contains("  stack 0x200000 leads to physical 0x200000\n"), "{text}");
    }

    #[test]
    fn a_reset_state_is_not_mistaken_for_the_place_of_the_fault() {
        let mut state = CpuState::real_mode(0xf000, 0xfff0);
        state.cs.base = 0xffff_0000;
        let text = told(Occasion::TripleFault, &state, &[]);
        assert!(text.contains("at rip 0xfffffff0\n  not readable\n") && text.contains("on AMD"), "{text}");
        let exit = Exit::PioWrite { port: 0x3f8, size: 1, value: 0x0a };
        let exits = [Recorded { ago_ns: 2000, rip: Some(0x1234), exit, reply: None, register: None }];
        let (looks, symbols) = ([state], Symbols::default());
        let stop = Stop { occasion: Occasion::TripleFault, vcpu: 0, looks: &looks, exits: &exits };
        let text = describe(&stop, &mut Evidence { symbols: &symbols, read: &mut |_| Some(0xee) });
        assert!(
            text.contains("  The last exit before it was made at rip 0x1234: the fault came after that.\n"),
            "{text}"
        );
        assert!(text.ends_with("pio-write   port 0x3f8      0xa                0x1234\n"), "{text}");
    }

    #[test]
    fn an_emulation_failure_shows_the_bytes_that_kvm_saw() {
        let mut code = [0; 15];
        code[..3].copy_from_slice(&[0x0f, 0x28, 0x00]);
        let text = told(Occasion::Failed(Failure::Emulation { code, code_len: 3 }), &long_mode(), &[0xf4]);
        assert!(text.contains("  movaps xmm0, [rax]   (0f 28 00)\n"), "{text}");
        assert!(text.contains("This KVM could not run that instruction"), "{text}");
        let unknown = Occasion::Failed(Failure::Emulation { code, code_len: 0 });
        assert!(told(unknown, &long_mode(), &[0xf4]).contains("hlt   (f4)"), "from memory where KVM tells none");
    }

    #[test]
    fn a_deadline_shows_where_the_guest_is_and_how_it_came_there() {
        let text = told(Occasion::Deadline, &long_mode(), &[0xf4]);
        assert!(text.contains("deadline passed at rip 0x100000 (start)"), "{text}");
        assert!(
            text.contains("  In 2 looks it was in an instruction at 0x100000 (start): it spins there.\n"),
            "{text}"
        );
        assert!(text.contains("  [rsp+00] 0000000000100123  idle_loop+0x23\n"), "{text}");
        assert!(text.contains("  [rsp+78] 0000000000000000\n"), "{text}");
    }

    #[test]
    fn failures_are_named() {
        let entry = Occasion::Failed(Failure::FailedEntry { reason: 0x8000_0021 });
        assert!(told(entry, &long_mode(), &[]).contains("the guest's state is invalid"));
        let internal = Occasion::Failed(Failure::Internal { suberror: 3 });
        assert!(told(internal, &long_mode(), &[]).contains("an exit while an event was delivered"));
        let symbols = Symbols::default();
        let mut evidence = Evidence { symbols: &symbols, read: &mut |_| None };
        let stop = Stop { occasion: Occasion::TripleFault, vcpu: 0, looks: &[], exits: &[] };
        let text = describe(&stop, &mut evidence);
        assert_eq!(text, "vCPU 0: triple fault (KVM_EXIT_SHUTDOWN); its registers are not known\n");
    }

    #[test]
    fn hostile_states_are_only_told() {
        for rsp in [0, 0x20_0ffc, u64::MAX, 1 << 47] {
            for cr3 in [0, BOOT_PML4, u64::MAX] {
                for template in [long_mode(), CpuState::protected_mode(u64::MAX), CpuState::real_mode(0xffff, 0xffff)] {
                    let mut state = template;
                    (state.regs.rsp, state.cr3, state.idt.base, state.ss.base) = (rsp, cr3, u64::MAX, u64::MAX);
                    state.idt.limit = u16::MAX;
                    assert!(told(Occasion::TripleFault, &state, &[0x66; 15]).len() < 6000);
                }
            }
        }
        let code = [0xff; 15];
        told(Occasion::Failed(Failure::Emulation { code, code_len: 255 }), &long_mode(), &[]);
    }
}
