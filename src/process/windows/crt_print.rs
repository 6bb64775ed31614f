//! Formatted output of the C runtime, to streams and into memory: `printf` to `perror`. The formats themselves are [`super::printf`]'s.
//!
//! Leaves out wide texts.
//! Sources: ISO C §7.21.6 (formatted input and output); Microsoft "_snprintf".

use super::call::{Answer, Call};
use super::crt_process::error_text;
use super::crt_streams::{EOF, address, write};
use super::layout::{VARIABLES, variable};

/// Writes formatted text; answers with its length.
fn write_formatted(call: &mut Call, at: u64, text: &[u8]) -> Answer {
    write(call, at, text, text.len() as u64)
}

pub(super) fn print(call: &mut Call) -> Answer {
    let text = call.format(call.registers[0], 1)?;
    write_formatted(call, address(1), &text)
}

pub(super) fn print_to(call: &mut Call) -> Answer {
    let [at, template] = call.arguments()?;
    let text = call.format(template, 2)?;
    write_formatted(call, at, &text)
}

pub(super) fn print_list(call: &mut Call) -> Answer {
    let [template, list] = call.arguments()?;
    let text = call.format_list(template, list)?;
    write_formatted(call, address(1), &text)
}

pub(super) fn print_list_to(call: &mut Call) -> Answer {
    let [at, template, list] = call.arguments()?;
    let text = call.format_list(template, list)?;
    write_formatted(call, at, &text)
}

/// Puts formatted text and its end into memory.
fn put_formatted(call: &mut Call, out: u64, text: Vec<u8>) -> Answer {
    let length = text.len() as u64;
    call.put(out, &[text.as_slice(), b"\0"].concat())?;
    Ok(length)
}

/// The same where there is room for `room` bytes: without an end where that no longer fits, and -1 where the text does not.
fn put_bounded(call: &mut Call, out: u64, room: u64, mut text: Vec<u8>) -> Answer {
    let length = text.len() as u64;
    text.push(0);
    text.truncate(usize::try_from(room).unwrap_or(usize::MAX));
    call.put(out, &text)?;
    Ok(if length > room { EOF } else { length })
}

pub(super) fn print_text(call: &mut Call) -> Answer {
    let [out, template] = call.arguments()?;
    let text = call.format(template, 2)?;
    put_formatted(call, out, text)
}

pub(super) fn print_text_list(call: &mut Call) -> Answer {
    let [out, template, list] = call.arguments()?;
    let text = call.format_list(template, list)?;
    put_formatted(call, out, text)
}

pub(super) fn print_text_bounded(call: &mut Call) -> Answer {
    let [out, room, template] = call.arguments()?;
    let text = call.format(template, 3)?;
    put_bounded(call, out, room, text)
}

pub(super) fn print_text_bounded_list(call: &mut Call) -> Answer {
    let [out, room, template, list] = call.arguments()?;
    let text = call.format_list(template, list)?;
    put_bounded(call, out, room, text)
}

pub(super) fn complain(call: &mut Call) -> Answer {
    let prefix = match call.registers[0] {
        0 => Vec::new(),
        text => [call.text(text)?.as_slice(), b": "].concat(),
    };
    let error = call.memory.u32(VARIABLES + variable::ERROR)?;
    let line = [prefix.as_slice(), error_text(error as i32).as_bytes(), b"\n"].concat();
    write(call, address(2), &line, 0)
}

#[cfg(test)]
mod tests {
    use super::super::crt_streams::open;
    use super::super::fake::Desk;
    use super::super::user::Memory;
    use super::*;

    #[test]
    fn texts_are_formatted_into_the_room_there_is() {
        let mut desk = Desk::new();
        let template = desk.text(0, "%d-%d");
        let out = Desk::SPACE + 100;
        desk.memory.write(Desk::STACK + 40, &34u64.to_le_bytes()).unwrap();
        assert_eq!(print_text_bounded(&mut desk.call([out, 4, template, 12])), Ok(EOF));
        assert_eq!(desk.memory.text_at(out, 5), b"12-3\0");
        assert_eq!(print_text_bounded(&mut desk.call([out, 6, template, 12])), Ok(5));
        assert_eq!(desk.memory.text_at(out, 6), b"12-34\0");
    }

    #[test]
    fn errors_are_told_in_words() {
        let mut desk = Desk::new();
        let path = desk.text(0, "none");
        assert_eq!(open(&mut desk.call([path, path, 0, 0])), Ok(0), "no mode begins so");
        let mode = desk.text(50, "r");
        assert_eq!(open(&mut desk.call([path, mode, 0, 0])), Ok(0));
        assert_eq!(complain(&mut desk.call([path, 0, 0, 0])), Ok(0));
        assert_eq!(desk.files.output[1], b"none: No such file or directory\r\n");
    }
}
