//! Functions for characters: what is typed, and what is shown.
//!
//! Standard input is what was typed. Its end is Ctrl-Z (1Ah), which is what DOS has for that. On a terminal a line's end is Enter, 0Dh; a
//! terminal echoes by itself, from anything else the functions that echo write what they read. Nothing is edited but by the terminal.
//! Leaves out Ctrl-C, by which the host ends Hostel and the program with it, and keys that give no character.
//! Source: Interrupt List, INT 21h functions 01h, 02h, 07h to 0Ah.

use super::call::{Answer, Call, Stop};
use super::memory::{Far, SEGMENT};
use crate::process::host_files::FileKind;
use rustix::io::Errno;

const INPUT: u32 = 0;
const OUTPUT: u32 = 1;
const ENTER: u8 = b'\r';
const END_OF_INPUT: u8 = 0x1a;

/// Writes all of `bytes` to standard output.
fn show(call: &mut Call, mut bytes: &[u8]) -> Answer {
    while !bytes.is_empty() {
        match call.files.write(OUTPUT, bytes) {
            Ok(0) => return Err(Stop::Output(Errno::IO)),
            Ok(count) => bytes = &bytes[count..],
            Err(error) => return Err(Stop::Output(error)),
        }
    }
    Ok(())
}

fn is_terminal(call: &Call) -> bool {
    call.files.kind(INPUT) == FileKind::Character
}

/// The next byte of standard input; `None` at its end, or where it cannot be read.
fn next(call: &mut Call) -> Option<u8> {
    let mut byte = [0];
    (call.files.read(INPUT, &mut byte) == Ok(1)).then_some(byte[0])
}

fn read(call: &mut Call) -> u8 {
    match next(call) {
        Some(b'\n') if is_terminal(call) => ENTER,
        byte => byte.unwrap_or(END_OF_INPUT),
    }
}

pub(super) fn read_silently(call: &mut Call) -> Answer {
    let byte = read(call);
    call.regs.set_al(byte);
    Ok(())
}

pub(super) fn read_and_show(call: &mut Call) -> Answer {
    read_silently(call)?;
    let [_, byte] = call.regs.a();
    if is_terminal(call) { Ok(()) } else { show(call, &[byte]) }
}

pub(super) fn show_character(call: &mut Call) -> Answer {
    let [_, character] = call.regs.dx.to_be_bytes();
    call.regs.set_al(character);
    show(call, &[character])
}

pub(super) fn show_text(call: &mut Call) -> Answer {
    let at = call.regs.buffer();
    // A text without an end goes round the segment once.
    let text = call.memory.text(at, b'$', SEGMENT).unwrap_or_else(|| call.memory.read(at, SEGMENT));
    call.regs.set_al(b'$');
    show(call, &text)
}

/// At DS:DX is the room for the line with its Enter; then come how much was read, and the line.
pub(super) fn read_line(call: &mut Call) -> Answer {
    let at = call.regs.buffer();
    let room = usize::from(call.memory.read(at, 1)[0]);
    if room == 0 {
        return Ok(());
    }
    let mut line = Vec::new();
    loop {
        match next(call) {
            Some(b'\n') => break,
            None => {
                if line.is_empty() {
                    line.push(END_OF_INPUT);
                }
                break;
            }
            // It belongs to the line's end. What has no room is not taken, as when DOS beeps.
            Some(ENTER) => {}
            Some(byte) if line.len() + 1 < room => line.push(byte),
            Some(_) => {}
        }
    }
    line.truncate(room - 1);
    let length = line.len() as u8;
    line.push(ENTER);
    call.memory.write(Far { offset: at.offset.wrapping_add(1), ..at }, &[[length].as_slice(), &line].concat());
    if is_terminal(call) { Ok(()) } else { show(call, &line) }
}
