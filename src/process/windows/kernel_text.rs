//! KERNEL32's translation between bytes and 16-bit units.
//!
//! Every code page is UTF-8, whichever the program names: that is what the host's terminal and files speak. Leaves out default
//! characters and the flags: what is no text becomes U+FFFD or `?`.
//! Sources: Microsoft "MultiByteToWideChar function", "WideCharToMultiByte function".

use super::call::{Answer, COPY_MAX, Call, Stop, TEXT_MAX};
use super::kernel_files::ERROR_INVALID_PARAMETER;

const ERROR_INSUFFICIENT_BUFFER: u32 = 122;

/// Answers with so many units of `size` bytes each, or copies them to where there is room for `room`.
fn put(call: &mut Call, bytes: &[u8], size: usize, out: u64, room: u64) -> Answer {
    let count = (bytes.len() / size) as u64;
    match u64::from(room as u32) {
        0 => Ok(count),
        room if room < count => call.refuse(ERROR_INSUFFICIENT_BUFFER, 0),
        _ => {
            call.put(out, bytes)?;
            Ok(count)
        }
    }
}

/// The bytes at an address: so many, or -1 up to and with a zero unit of `size` bytes.
fn taken(call: &Call, at: u64, count: i32, size: usize) -> Result<Option<Vec<u8>>, Stop> {
    match usize::try_from(count) {
        Ok(count) if count > 0 && count * size <= TEXT_MAX => {
            let mut bytes = vec![0; count * size];
            for (part, offset) in bytes.chunks_mut(COPY_MAX).zip((0..).step_by(COPY_MAX)) {
                call.memory.read(at.wrapping_add(offset), part)?;
            }
            Ok(Some(bytes))
        }
        Err(_) if count == -1 && size == 1 => {
            let mut text = call.text(at)?;
            text.push(0);
            Ok(Some(text))
        }
        Err(_) if count == -1 => {
            let units = call.memory.wide_text(at, TEXT_MAX / 2)?;
            Ok(Some(units.iter().chain(&[0]).flat_map(|unit| unit.to_le_bytes()).collect()))
        }
        _ => Ok(None),
    }
}

pub(super) fn to_wide(call: &mut Call) -> Answer {
    let [_, _, text, count, out, room] = call.arguments()?;
    let Some(bytes) = taken(call, text, count as i32, 1)? else { return call.refuse(ERROR_INVALID_PARAMETER, 0) };
    let units: Vec<u8> = String::from_utf8_lossy(&bytes).encode_utf16().flat_map(u16::to_le_bytes).collect();
    put(call, &units, 2, out, room)
}

pub(super) fn from_wide(call: &mut Call) -> Answer {
    let [_, _, text, count, out, room] = call.arguments()?;
    let Some(bytes) = taken(call, text, count as i32, 2)? else { return call.refuse(ERROR_INVALID_PARAMETER, 0) };
    let units: Vec<u16> = bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    put(call, String::from_utf16_lossy(&units).as_bytes(), 1, out, room)
}

pub(super) fn no_lead_byte(_: &mut Call) -> Answer {
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::super::fake::Desk;
    use super::super::user::Memory;
    use super::*;

    #[test]
    fn texts_are_translated_both_ways() {
        let mut desk = Desk::new();
        let text = desk.text(0, "gr\u{fc}n");
        let wide = Desk::SPACE + 100;
        desk.memory.write(Desk::STACK + 40, &[wide, 5].map(u64::to_le_bytes).concat()).unwrap();
        assert_eq!(to_wide(&mut desk.call([0, 0, text, u32::MAX.into()])), Ok(5));
        assert_eq!(desk.memory.text_at(wide, 10), b"g\0r\0\xfc\0n\0\0\0");
        desk.memory.write(Desk::STACK + 40, &[Desk::SPACE + 200, 6].map(u64::to_le_bytes).concat()).unwrap();
        assert_eq!(from_wide(&mut desk.call([0, 0, wide, u32::MAX.into()])), Ok(6));
        assert_eq!(desk.memory.text_at(Desk::SPACE + 200, 6), "gr\u{fc}n\0".as_bytes());
        desk.memory.write(Desk::STACK + 48, &[2, 0, 0, 0]).unwrap();
        assert_eq!(from_wide(&mut desk.call([0, 0, wide, 4])), Ok(0), "there is no room");
        for count in [0, -2i32 as u32, i32::MAX as u32] {
            assert_eq!(to_wide(&mut desk.call([0, 0, text, count.into()])), Ok(0));
        }
    }
}
