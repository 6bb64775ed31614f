//! Bytes, lines and items through the C runtime's streams: `fread` to `ungetc`.
//!
//! Leaves out `scanf`.
//! Sources: ISO C §7.21.7 (characters), §7.21.8 (direct input and output).

use super::call::{Answer, COPY_MAX, Call, Stop};
use super::crt_streams::{EOF, address, with, write};

pub(super) fn write_items(call: &mut Call) -> Answer {
    let [from, size, count, at] = call.arguments()?;
    let Some(total) = size.checked_mul(count).filter(|total| *total > 0) else { return Ok(0) };
    let mut bytes = vec![0; COPY_MAX.min(total as usize)];
    for done in (0..total).step_by(COPY_MAX) {
        let part = (total - done).min(COPY_MAX as u64) as usize;
        call.memory.read(from.wrapping_add(done), &mut bytes[..part])?;
        if write(call, at, &bytes[..part], 0)? != 0 {
            return Ok(done / size);
        }
    }
    Ok(count)
}

/// Reads up to `max` bytes and tells how many; the last may be a line's end, where `line` says so.
fn read_into(call: &mut Call, at: u64, out: u64, max: u64, line: bool) -> Result<u64, Stop> {
    let mut done = 0;
    let mut ended = false;
    while done < max && !ended {
        let room = (max - done).min(COPY_MAX as u64) as usize;
        let part = with(call, at, |stream, files| {
            let mut part = Vec::new();
            while part.len() < room && !(line && part.last() == Some(&b'\n')) {
                match stream.next(files) {
                    Ok(Some(byte)) => part.push(byte),
                    Ok(None) => break,
                    Err(error) if part.is_empty() => return Err(error),
                    Err(_) => break,
                }
            }
            Ok(part)
        })?;
        let Ok(part) = part else { break };
        call.put(out.wrapping_add(done), &part)?;
        done += part.len() as u64;
        ended = part.len() < room || (line && part.last() == Some(&b'\n'));
    }
    Ok(done)
}

pub(super) fn read_items(call: &mut Call) -> Answer {
    let [out, size, count, at] = call.arguments()?;
    match size.checked_mul(count) {
        Some(total) if total > 0 => Ok(read_into(call, at, out, total, false)? / size),
        _ => Ok(0),
    }
}

pub(super) fn read_line(call: &mut Call) -> Answer {
    let [out, room, at] = call.arguments()?;
    let Some(max) = u64::try_from(room as i32).ok().and_then(|room| room.checked_sub(1)) else { return Ok(0) };
    let count = read_into(call, at, out, max, true)?;
    if count == 0 && max > 0 {
        return Ok(0);
    }
    call.put(out.wrapping_add(count), b"\0")?;
    Ok(out)
}

fn read_byte(call: &mut Call, at: u64) -> Answer {
    Ok(match with(call, at, |stream, files| stream.next(files))? {
        Ok(byte) => byte.map_or(EOF, u64::from),
        Err(failed) => failed,
    })
}

pub(super) fn get(call: &mut Call) -> Answer {
    read_byte(call, call.registers[0])
}

pub(super) fn get_standard(call: &mut Call) -> Answer {
    read_byte(call, address(0))
}

pub(super) fn put_back(call: &mut Call) -> Answer {
    let [byte, at] = call.arguments()?;
    if byte as u32 == u32::MAX {
        return Ok(EOF);
    }
    Ok(with(call, at, |stream, _| stream.put_back(byte as u8))?.map_or_else(|failed| failed, |()| byte & 0xff))
}

pub(super) fn put(call: &mut Call) -> Answer {
    let [byte, at] = call.arguments()?;
    write(call, at, &[byte as u8], byte & 0xff)
}

pub(super) fn put_standard(call: &mut Call) -> Answer {
    let byte = call.registers[0];
    write(call, address(1), &[byte as u8], byte & 0xff)
}

pub(super) fn put_text(call: &mut Call) -> Answer {
    let [text, at] = call.arguments()?;
    let text = call.text(text)?;
    write(call, at, &text, 0)
}

pub(super) fn put_line(call: &mut Call) -> Answer {
    let mut line = call.text(call.registers[0])?;
    line.push(b'\n');
    write(call, address(1), &line, 0)
}

#[cfg(test)]
mod tests {
    use super::super::crt_streams::at_end;
    use super::super::fake::Desk;
    use super::*;
    use crate::process::fake_files::FakeFiles;

    fn desk(input: &str) -> Desk {
        Desk::with(FakeFiles { input: input.as_bytes().to_vec(), ..FakeFiles::default() })
    }

    #[test]
    fn lines_are_read_in_the_room_there_is() {
        let mut desk = desk("first\r\nsecond");
        let line = |desk: &mut Desk, room: u64| {
            let answer = read_line(&mut desk.call([Desk::SPACE, room, address(0), 0])).unwrap();
            (answer != 0).then(|| desk.call([0; 4]).text(Desk::SPACE).unwrap())
        };
        assert_eq!(line(&mut desk, 4), Some(b"fir".to_vec()));
        assert_eq!(line(&mut desk, 100), Some(b"st\n".to_vec()));
        assert_eq!((line(&mut desk, 0), line(&mut desk, u64::MAX), line(&mut desk, 1)), (None, None, Some(Vec::new())));
        assert_eq!((line(&mut desk, 100), line(&mut desk, 100)), (Some(b"second".to_vec()), None));
        assert_eq!(at_end(&mut desk.call([address(0), 0, 0, 0])), Ok(1));
    }
}
