//! The rest of the C runtime: its beginning and end, memory, numbers, time, errors.
//!
//! The locale is "C". Handlers of signals and of mathematical errors are taken and never called. Leaves out functions that take or
//! return floating-point numbers: those lie in vector registers, which a trap does not carry.
//! Sources: Microsoft "__getmainargs", "_amsg_exit", "abort"; ISO C §7.22 (general utilities), §7.27 (time), §7.11 (locale).

use super::call::{Answer, Call, Stop};
use super::kernel_memory;
use super::layout::{VARIABLES, variable};
use rustix::io::Errno;
use std::time::{SystemTime, UNIX_EPOCH};

/// Status of a program that could not begin or go on (Microsoft "_amsg_exit").
const RUNTIME_ERROR: u32 = 255;
/// Largest number that `rand` makes.
const RANDOM_MASK: u32 = 0x7fff;

pub(super) fn main_arguments(call: &mut Call) -> Answer {
    let [count, arguments, environment] = call.arguments()?;
    let texts = call.process.texts;
    call.put(count, &texts.count.to_le_bytes())?;
    call.put(arguments, &texts.arguments.to_le_bytes())?;
    call.put(environment, &texts.environment.to_le_bytes())?;
    Ok(0)
}

pub(super) fn nothing(_: &mut Call) -> Answer {
    Ok(0)
}

pub(super) fn one(_: &mut Call) -> Answer {
    Ok(1)
}

pub(super) fn abort(_: &mut Call) -> Answer {
    Err(Stop::Abort)
}

pub(super) fn end_with_message(call: &mut Call) -> Answer {
    let line = format!("runtime error {}\n", call.registers[0] as i32);
    if let Some(errors) = call.process.streams.find(2) {
        let _ = errors.write(line.as_bytes(), call.files);
    }
    Err(Stop::Exit(RUNTIME_ERROR))
}

pub(super) fn locale(_: &mut Call) -> Answer {
    Ok(VARIABLES + variable::LOCALE)
}

pub(super) fn error_address(_: &mut Call) -> Answer {
    Ok(VARIABLES + variable::ERROR)
}

/// The words for a number of `errno`, whose numbers up to 34 are those of Linux.
pub(super) fn error_text(error: i32) -> &'static str {
    match error {
        0 => "No error",
        1 => "Operation not permitted",
        2 => "No such file or directory",
        5 => "Input/output error",
        9 => "Bad file descriptor",
        12 => "Not enough space",
        13 => "Permission denied",
        17 => "File exists",
        20 => "Not a directory",
        21 => "Is a directory",
        22 => "Invalid argument",
        24 => "Too many open files",
        28 => "No space left on device",
        29 => "Invalid seek",
        30 => "Read-only file system",
        32 => "Broken pipe",
        34 => "Result too large",
        _ => "Unknown error",
    }
}

pub(super) fn describe_error(call: &mut Call) -> Answer {
    let text = error_text(call.registers[0] as i32);
    let at = VARIABLES + variable::ERROR_TEXT;
    call.put(at, &[text.as_bytes(), b"\0"].concat())?;
    Ok(at)
}

pub(super) fn environment_variable(call: &mut Call) -> Answer {
    let name = call.text(call.registers[0])?;
    let mut at = call.process.texts.variables;
    for (key, value) in &call.process.environment {
        if key.eq_ignore_ascii_case(&name) {
            return Ok(at + key.len() as u64 + 1);
        }
        at += (key.len() + value.len() + 2) as u64;
    }
    Ok(0)
}

pub(super) fn allocate(call: &mut Call) -> Answer {
    match kernel_memory::block(call, call.registers[0]) {
        0 => call.fail(Errno::NOMEM, 0),
        block => Ok(block),
    }
}

pub(super) fn allocate_clear(call: &mut Call) -> Answer {
    let [count, size] = call.arguments()?;
    let Some(total) = count.checked_mul(size) else { return call.fail(Errno::NOMEM, 0) };
    match kernel_memory::block_of_zeros(call, total)? {
        0 => call.fail(Errno::NOMEM, 0),
        block => Ok(block),
    }
}

pub(super) fn resize(call: &mut Call) -> Answer {
    let [old, size] = call.arguments()?;
    let moved = match (old, size) {
        (0, size) => kernel_memory::block(call, size),
        (old, 0) if call.process.heap.release(old) => return Ok(0),
        (old, _) if call.process.heap.size(old).is_none() => return Err(Stop::Abort),
        (old, size) => kernel_memory::resize(call, old, size)?,
    };
    if moved == 0 { call.fail(Errno::NOMEM, 0) } else { Ok(moved) }
}

/// A pointer that is no block is a heap that was overwritten: Windows ends the program.
pub(super) fn release(call: &mut Call) -> Answer {
    match call.registers[0] {
        0 => Ok(0),
        block if call.process.heap.release(block) => Ok(0),
        _ => Err(Stop::Abort),
    }
}

pub(super) fn duplicate(call: &mut Call) -> Answer {
    if call.registers[0] == 0 {
        return Ok(0);
    }
    let text = [call.text(call.registers[0])?.as_slice(), b"\0"].concat();
    match kernel_memory::block(call, text.len() as u64) {
        0 => call.fail(Errno::NOMEM, 0),
        block => {
            call.put(block, &text)?;
            Ok(block)
        }
    }
}

/// A number at the beginning of `text`: its value, clamped to 32 bits with or without a sign, how many bytes it takes, and whether it
/// fitted. A base of 0 is told from the number itself.
fn number(text: &[u8], base: u64, signed: bool) -> (i64, usize, bool) {
    let mut at = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).count();
    let negative = text.get(at) == Some(&b'-');
    at += usize::from(matches!(text.get(at), Some(b'-' | b'+')));
    let hexadecimal = matches!(text.get(at..), Some([b'0', b'x' | b'X', digit, ..]) if digit.is_ascii_hexdigit());
    let base = match base {
        0 if hexadecimal => 16,
        0 if text.get(at) == Some(&b'0') => 8,
        0 => 10,
        base => base as u32,
    };
    at += if hexadecimal && base == 16 { 2 } else { 0 };
    let start = at;
    let mut value = 0i64;
    while let Some(digit) = text.get(at).and_then(|byte| char::from(*byte).to_digit(36)).filter(|digit| *digit < base) {
        value = (value * i64::from(base) + i64::from(digit)).min(1 << 40);
        at += 1;
    }
    let value = if negative { -value } else { value };
    let range =
        if signed { i64::from(i32::MIN)..=i64::from(i32::MAX) } else { -i64::from(u32::MAX)..=i64::from(u32::MAX) };
    let clamped = match range.contains(&value) {
        true => value,
        false if signed => value.clamp(*range.start(), *range.end()),
        false => u32::MAX.into(),
    };
    (clamped, if at == start { 0 } else { at }, range.contains(&value))
}

fn convert(call: &mut Call, signed: bool) -> Answer {
    let [at, end, base] = call.arguments()?;
    if base as u32 == 1 || base as u32 > 36 {
        return call.fail(Errno::INVAL, 0);
    }
    let (value, taken, fits) = number(&call.text(at)?, base as u32 as u64, signed);
    if end != 0 {
        call.put(end, &(at + taken as u64).to_le_bytes())?;
    }
    let answer = u64::from(value as u32);
    if fits { Ok(answer) } else { call.fail(Errno::RANGE, answer) }
}

pub(super) fn to_signed(call: &mut Call) -> Answer {
    convert(call, true)
}

pub(super) fn to_unsigned(call: &mut Call) -> Answer {
    convert(call, false)
}

pub(super) fn to_integer(call: &mut Call) -> Answer {
    let (value, _, _) = number(&call.text(call.registers[0])?, 10, true);
    Ok(u64::from(value as u32))
}

pub(super) fn time(call: &mut Call) -> Answer {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match call.registers[0] {
        0 => {}
        at => call.put(at, &now.to_le_bytes())?,
    }
    Ok(now)
}

pub(super) fn clock(call: &mut Call) -> Answer {
    Ok(u64::from(call.process.started.elapsed().as_millis() as u32))
}

pub(super) fn seed(call: &mut Call) -> Answer {
    call.process.random = call.registers[0] as u32;
    Ok(0)
}

/// The sequence of msvcrt: programs may have written its numbers down.
pub(super) fn random(call: &mut Call) -> Answer {
    call.process.random = call.process.random.wrapping_mul(214_013).wrapping_add(2_531_011);
    Ok((call.process.random >> 16 & RANDOM_MASK).into())
}

#[cfg(test)]
mod tests {
    use super::super::fake::Desk;
    use super::*;

    #[test]
    fn numbers_are_read_as_far_as_they_go() {
        for (text, base, signed, want) in [
            ("  -12x", 10, true, (-12, 5, true)),
            ("0x1F", 0, true, (31, 4, true)),
            ("0x", 0, true, (0, 1, true)),
            ("017", 0, true, (15, 3, true)),
            ("zz", 36, true, (35 * 36 + 35, 2, true)),
            ("99999999999", 10, true, (i64::from(i32::MAX), 11, false)),
            ("-99999999999", 10, true, (i64::from(i32::MIN), 12, false)),
            ("4294967295", 10, false, (i64::from(u32::MAX), 10, true)),
            ("-1", 10, false, (-1, 2, true)),
            ("", 10, true, (0, 0, true)),
            ("+", 10, true, (0, 0, true)),
        ] {
            assert_eq!(number(text.as_bytes(), base, signed), want, "{text}");
        }
    }

    #[test]
    fn memory_that_is_none_ends_the_program() {
        let mut desk = Desk::new();
        let block = allocate_clear(&mut desk.call([4, 4, 0, 0])).unwrap();
        assert_eq!(desk.memory.text_at(block, 16), [0; 16]);
        assert_eq!(allocate_clear(&mut desk.call([u64::MAX, 2, 0, 0])), Ok(0));
        assert_eq!(desk.call([0; 4]).memory.u32(VARIABLES + variable::ERROR), Ok(12));
        let copy = desk.text(0, "copied");
        let copy = duplicate(&mut desk.call([copy, 0, 0, 0])).unwrap();
        assert_eq!(desk.memory.text_at(copy, 7), b"copied\0");
        assert_eq!(release(&mut desk.call([block, 0, 0, 0])), Ok(0));
        for call in [release, resize] {
            assert_eq!(call(&mut desk.call([block, 8, 0, 0])), Err(Stop::Abort));
        }
    }

    #[test]
    fn random_numbers_are_those_of_msvcrt() {
        let mut desk = Desk::new();
        seed(&mut desk.call([1, 0, 0, 0])).unwrap();
        let numbers: Vec<_> = (0..4).map(|_| random(&mut desk.call([0; 4])).unwrap()).collect();
        assert_eq!(numbers, [41, 18467, 6334, 26500]);
    }

    #[test]
    fn a_variable_lies_behind_its_name() {
        let mut desk = Desk::new();
        desk.process.environment = vec![(b"A".to_vec(), b"1".to_vec()), (b"Path".to_vec(), b"x".to_vec())];
        desk.process.texts.variables = 0x5000;
        let name = desk.text(0, "PATH");
        assert_eq!(environment_variable(&mut desk.call([name, 0, 0, 0])), Ok(0x5000 + 4 + 5));
        let none = desk.text(0, "P");
        assert_eq!(environment_variable(&mut desk.call([none, 0, 0, 0])), Ok(0));
    }
}
