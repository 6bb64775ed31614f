//! One trap: which function was called, what it answers, and how the trace shows it.
//!
//! The number in EAX is the program's to choose, for it may execute SYSCALL itself: what is none is refused as Windows refuses it.
//! Source: Microsoft "NTSTATUS Values".

use super::call::{Answer, Call, Stop};
use super::functions::{Binding, FUNCTIONS, Function};
use std::fmt::Write;

/// STATUS_INVALID_SYSTEM_SERVICE.
const NO_SUCH_SERVICE: u64 = 0xc000_001c;
/// Longest part of a text that a trace shows.
const SHOWN_MAX: usize = 32;

/// The function that a number names.
pub fn function(number: u64) -> Option<&'static Function> {
    FUNCTIONS.get(usize::try_from(number).ok()?).filter(|function| matches!(function.binding, Binding::Trap(..)))
}

/// Answers the call of the function that `number` names.
///
/// # Errors
/// The program ends.
pub fn answer(number: u64, call: &mut Call) -> Answer {
    match function(number).map(|function| function.binding) {
        Some(Binding::Trap(handler, _)) => handler(call),
        _ => Ok(NO_SUCH_SERVICE),
    }
}

/// The call as a trace shows it, before it is answered.
pub fn describe(number: u64, call: &Call) -> String {
    let Some(Function { library, name, binding: Binding::Trap(_, letters), .. }) = function(number) else {
        return format!("syscall {number:#x}");
    };
    let show = |(index, letter): (usize, char)| {
        let Ok(value) = call.argument(index) else { return "?".to_string() };
        match letter {
            's' => text(call.memory.text(value, SHOWN_MAX + 1).ok(), value),
            'w' => {
                let units = call.memory.wide_text(value, SHOWN_MAX + 1).ok();
                text(units.map(|units| String::from_utf16_lossy(&units).into_bytes()), value)
            }
            'n' => value.to_string(),
            'i' => (value as i32).to_string(),
            '.' => "...".to_string(),
            _ => format!("{value:#x}"),
        }
    };
    let arguments: Vec<_> = letters.chars().enumerate().map(show).collect();
    format!("{library}.{name}({})", arguments.join(", "))
}

/// How the trace shows the answer.
pub fn describe_answer(answer: &Answer) -> String {
    match answer {
        Ok(value) if *value < 10 => value.to_string(),
        Ok(value) => format!("{value:#x}"),
        Err(Stop::Exit(status)) => format!("ends with {status}"),
        Err(Stop::Abort) => "ends: abort".to_string(),
        Err(Stop::Fault(fault)) => format!("ends: no access to {:#x}", fault.address),
    }
}

/// A text in quotes, cut off; its address where there is none.
fn text(bytes: Option<Vec<u8>>, address: u64) -> String {
    let Some(bytes) = bytes else { return format!("{address:#x}") };
    let mut out = String::from("\"");
    for byte in bytes.iter().take(SHOWN_MAX) {
        let _ = write!(out, "{}", byte.escape_ascii());
    }
    out.push('"');
    if bytes.len() > SHOWN_MAX {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::fake::Desk;
    use super::*;
    use proptest::prelude::*;

    fn number(name: &str) -> u64 {
        FUNCTIONS.iter().position(|function| function.name == name).unwrap() as u64
    }

    #[test]
    fn calls_are_shown_with_their_arguments() {
        let mut desk = Desk::new();
        let path = desk.text(0, "a\n and more than thirty-two bytes of it");
        let shown = describe(number("fopen"), &desk.call([path, 0x10, 0, 0]));
        assert_eq!(shown, r#"msvcrt.fopen("a\n and more than thirty-two byte"..., 0x10)"#);
        assert_eq!(
            describe(number("GetStdHandle"), &desk.call([-11i32 as u32 as u64, 0, 0, 0])),
            "kernel32.GetStdHandle(-11)"
        );
        assert_eq!(describe_answer(&Ok(8)), "8");
        assert_eq!(describe_answer(&Ok(0x1234)), "0x1234");
    }

    #[test]
    fn a_number_that_is_none_is_refused() {
        let mut desk = Desk::new();
        for number in [number("strlen"), FUNCTIONS.len() as u64, u64::MAX] {
            assert_eq!(answer(number, &mut desk.call([0; 4])), Ok(NO_SUCH_SERVICE));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever the arguments are, each function answers or ends the program.
        #[test]
        fn no_argument_breaks_a_function(calls in prop::collection::vec((0..FUNCTIONS.len() as u64, any::<[u8; 8]>()), 1..40)) {
            let values = [0, 1, 2, 8, 48, 0x1000, Desk::SPACE, Desk::SPACE + 100, Desk::SPACE_END - 1, super::super::layout::HEAP,
                super::super::layout::VARIABLES + super::super::layout::variable::STREAMS, u32::MAX.into(), i64::MAX as u64, u64::MAX];
            let mut desk = Desk::new();
            desk.text(0, "C:\\text %d %s %*.*f");
            for (number, picks) in calls {
                let pick = |index: usize| values[usize::from(picks[index]) % values.len()];
                let _ = super::super::user::Memory::write(&mut desk.memory, Desk::STACK + 40, &[pick(4), pick(5), pick(6)].map(u64::to_le_bytes).concat());
                let mut call = desk.call([pick(0), pick(1), pick(2), pick(3)]);
                describe(number, &call);
                describe_answer(&answer(number, &mut call));
            }
        }
    }
}
