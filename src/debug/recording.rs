//! The flight recorder's exits as text: oldest first, each with its time before the end, device, value and instruction, and
//! repetitions folded.
//!
//! Instructions are decoded from what the guest's memory holds now, through the page tables as they are now.

use super::crash::Evidence;
use super::event::{Code, ExitEvent, ExitKind};
use super::locate::Locator;
use super::recorder::Recorded;
use crate::arch::cpu_state::{CpuState, Registers};
use crate::kvm::exit::Exit;
use std::fmt::Write;

/// Longest pattern of exits that is found to repeat: a polled character takes two, a string of words four.
const PATTERN_MAX: usize = 4;
/// Characters shown of what a guest wrote byte by byte.
const TEXT_MAX: usize = 40;

/// An exit as it is printed, without what differs from one repetition to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    kind: ExitKind,
    target: String,
    rip: Option<u64>,
    instruction: String,
}

/// Lines about `exits`, which ended in `state` (`None`: no instruction can be decoded); empty without exits.
pub fn describe(exits: &[Recorded], state: Option<&CpuState>, evidence: &mut Evidence) -> String {
    if exits.is_empty() {
        return String::new();
    }
    let mut locator = Locator::default();
    let shown: Vec<Shown> = exits.iter().map(|exit| show(exit, state, &mut locator, evidence)).collect();
    let mut text = format!("  last {} exits, oldest first, in seconds before the end\n", exits.len());
    let mut at = 0;
    while at < exits.len() {
        let (period, times) = repetition(&shown[at..]);
        for first in at..at + period {
            let all: Vec<&Recorded> = exits[first..at + period * times].iter().step_by(period).collect();
            line(&mut text, &shown[first], &all, evidence);
        }
        at += period * times;
    }
    text
}

fn line(text: &mut String, shown: &Shown, all: &[&Recorded], evidence: &Evidence) {
    let Shown { kind, target, rip, instruction } = shown;
    let symbol = rip.and_then(|rip| evidence.symbols.describe(rip)).map_or(String::new(), |name| format!(" ({name})"));
    let rip = rip.map_or(String::new(), |rip| format!("{rip:#x}"));
    let times = if all.len() > 1 { format!("  x {}", all.len()) } else { String::new() };
    let ago = all[0].ago_ns as f64 / 1e9;
    let value = values(all);
    let place = format!("{rip} {instruction}");
    let place = place.trim_end();
    let line = format!("  {ago:11.6} {:11} {target:15} {value:18} {place}{symbol}{times}", kind.name());
    writeln!(text, "{}", line.trim_end()).expect("strings take all");
}

/// What was read or written: text, one value, or the first and the last of several.
fn values(all: &[&Recorded]) -> String {
    let events: Vec<ExitEvent> = all.iter().map(|exit| event(exit)).collect();
    let values: Vec<u64> = events.iter().filter_map(ExitEvent::value).collect();
    let is_text = |value: &u64| matches!(u8::try_from(*value), Ok(b' '..=b'~' | b'\n' | b'\r' | b'\t'));
    let bytes = matches!(all[0].exit, Exit::PioWrite { size: 1, .. });
    match (values.first(), values.last()) {
        _ if bytes && values.len() > 1 && values.iter().all(is_text) => {
            let characters: String = values.iter().take(TEXT_MAX).map(|value| *value as u8 as char).collect();
            format!("{characters:?}{}", if values.len() > TEXT_MAX { "..." } else { "" })
        }
        (Some(first), _) if values.iter().all(|value| value == first) => format!("{first:#x}"),
        (Some(first), Some(last)) => format!("{first:#x}..{last:#x}"),
        _ => String::new(),
    }
}

fn show(recorded: &Recorded, state: Option<&CpuState>, locator: &mut Locator, evidence: &mut Evidence) -> Shown {
    let place = recorded.rip.zip(state).map(|(rip, state)| {
        // DX names the port where the instruction does not.
        let rdx = match recorded.exit {
            Exit::PioRead { port, .. } | Exit::PioWrite { port, .. } => port.into(),
            _ => 0,
        };
        let at = CpuState { regs: Registers { rip, rdx, ..state.regs }, ..*state };
        Code::around(&at, evidence.read)
    });
    let found = place.and_then(|code| locator.locate(recorded.exit, &code));
    Shown {
        kind: ExitKind::of(&recorded.exit),
        target: event(recorded).target(),
        rip: found.map(|found| found.rip).or(place.map(|code| code.rip)).or(recorded.rip),
        instruction: found.map_or(String::new(), |found| found.text.clone()),
    }
}

fn event(recorded: &Recorded) -> ExitEvent {
    let Recorded { exit, reply, register, .. } = *recorded;
    ExitEvent { vcpu: 0, at_ns: 0, guest_ns: 0, host_ns: 0, exit, reply, register, code: None }
}

/// The pattern that the exits begin with, by its length, and how often it stands there: the one that covers most, of those
/// the shortest.
fn repetition(exits: &[Shown]) -> (usize, usize) {
    let mut best = (1, 1);
    for period in 1..=PATTERN_MAX.min(exits.len() / 2) {
        let pattern = &exits[..period];
        let times = exits.chunks_exact(period).take_while(|chunk| *chunk == pattern).count();
        if times > 1 && period * times > best.0 * best.1 {
            best = (period, times);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::event::DeviceRegister;
    use super::*;
    use crate::debug::symbols::Symbols;
    use crate::kvm::exit::Reply;

    const LSR: DeviceRegister = DeviceRegister { device: "COM1", register: "LSR" };
    const THR: DeviceRegister = DeviceRegister { device: "COM1", register: "THR" };

    fn read(ago_ns: u64) -> Recorded {
        let exit = Exit::PioRead { port: 0x3fd, size: 1 };
        Recorded { ago_ns, rip: Some(0x1000), exit, reply: Some(Reply::Value(0x60)), register: Some(LSR) }
    }

    fn write(ago_ns: u64, value: u8) -> Recorded {
        let exit = Exit::PioWrite { port: 0x3f8, size: 1, value: value.into() };
        Recorded { ago_ns, rip: Some(0x1003), exit, reply: Some(Reply::Resume), register: Some(THR) }
    }

    /// in al, dx; jmp +1; out dx, al
    fn memory(gpa: u64) -> Option<u64> {
        (0xff0..0x1010).contains(&gpa).then_some(if gpa == 0x1000 {
            u64::from_le_bytes(*b"\xec\xeb\x00\xee\x90\x90\x90\x90")
        } else {
            0
        })
    }

    fn told(exits: &[Recorded], state: Option<&CpuState>) -> String {
        let symbols = Symbols::default();
        describe(exits, state, &mut Evidence { symbols: &symbols, read: &mut memory })
    }

    #[test]
    fn polled_output_folds_into_two_lines_with_its_text() {
        let mut exits: Vec<Recorded> =
            b"Hi!\n".iter().flat_map(|byte| [read(3_000_000), write(2_500_000, *byte)]).collect();
        let shutdown = Recorded { ago_ns: 1000, rip: Some(0x1004), exit: Exit::Shutdown, reply: None, register: None };
        exits.push(shutdown);
        let text = told(&exits, Some(&CpuState::protected_mode(0)));
        let expected = "  \
  last 9 exits, oldest first, in seconds before the end
     0.003000 pio-read    COM1 LSR        0x60               0x1000 in al, dx  x 4
     0.002500 pio-write   COM1 THR        \"Hi!\\n\"            0x1003 out dx, al  x 4
     0.000001 shutdown                                       0x1004 nop
";
        assert_eq!(text, expected);
    }

    #[test]
    fn without_registers_only_the_exits_are_told() {
        let text = told(&[write(0, 7), write(0, 9)], None);
        assert!(text.ends_with("     0.000000 pio-write   COM1 THR        0x7..0x9           0x1003  x 2\n"), "{text}");
        let halt = Recorded { ago_ns: 0, rip: None, exit: Exit::Halt, reply: None, register: None };
        assert!(told(&[halt], None).ends_with("     0.000000 hlt\n"));
        assert_eq!(told(&[], None), "");
    }

    #[test]
    fn the_pattern_that_covers_most_counts() {
        let shown = |kinds: &[ExitKind]| {
            let shown = |&kind| Shown { kind, target: String::new(), rip: None, instruction: String::new() };
            repetition(&kinds.iter().map(shown).collect::<Vec<_>>())
        };
        use ExitKind::{Halt as H, PioRead as R, PioWrite as W};
        assert_eq!(shown(&[R, R, R]), (1, 3));
        assert_eq!(shown(&[R, W, R, W, R]), (2, 2));
        assert_eq!(shown(&[R, R, W, R, R, W]), (3, 2));
        assert_eq!(shown(&[R, R, R, R, W]), (1, 4));
        assert_eq!(shown(&[H]), (1, 1));
        assert_eq!(shown(&[H, R, W]), (1, 1));
    }
}
