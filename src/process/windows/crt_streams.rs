//! The C runtime's streams as functions: `fopen` to `perror`.
//!
//! A pointer to `FILE` is the address of one of the program's array; any other is an error and not a fault. Leaves out `scanf`,
//! temporary files and wide streams.
//! Sources: ISO C §7.21 (input and output); Microsoft "_setmode", "_snprintf".

use super::call::{Answer, COPY_MAX, Call, Stop};
use super::layout::{STREAM_SIZE, VARIABLES, variable};
use super::paths;
use super::streams::{self, Stream, Streams};
use super::user::{FileKind, Files};
use rustix::io::Errno;
use std::io::SeekFrom;

/// EOF, and what functions return that failed.
const EOF: u64 = -1i32 as u32 as u64;
const SEEK_CUR: u64 = 1;
const SEEK_END: u64 = 2;
const UNBUFFERED: u64 = 4;
const MODE_TEXT: u64 = 0x4000;
const MODE_BINARY: u64 = 0x8000;

/// The address of a stream's `FILE`.
pub(super) fn address(index: usize) -> u64 {
    VARIABLES + variable::STREAMS + index as u64 * STREAM_SIZE
}

/// The index of the stream whose `FILE` is at an address.
fn index(at: u64) -> Option<usize> {
    let offset = at.checked_sub(VARIABLES + variable::STREAMS)?;
    (offset % STREAM_SIZE == 0).then_some((offset / STREAM_SIZE) as usize)
}

fn find(streams: &mut Streams, at: u64) -> Result<&mut Stream, Errno> {
    index(at).and_then(|index| streams.find(index)).ok_or(Errno::BADF)
}

/// Does something with the stream at `at`; where that fails, tells `errno` and answers `failed`.
fn with<T>(
    call: &mut Call,
    at: u64,
    act: impl FnOnce(&mut Stream, &mut dyn Files) -> Result<T, Errno>,
) -> Result<Result<T, u64>, Stop> {
    let done = find(&mut call.process.streams, at).and_then(|stream| act(stream, call.files));
    match done {
        Ok(value) => Ok(Ok(value)),
        Err(error) => Ok(Err(call.fail(error, EOF)?)),
    }
}

/// Writes bytes to the stream at `at`: `answer`, or EOF.
fn write(call: &mut Call, at: u64, bytes: &[u8], answer: u64) -> Answer {
    Ok(with(call, at, |stream, files| stream.write(bytes, files))?.map_or_else(|failed| failed, |()| answer))
}

pub(super) fn array(_: &mut Call) -> Answer {
    Ok(address(0))
}

pub(super) fn open(call: &mut Call) -> Answer {
    let [path, mode] = call.arguments()?;
    let (path, mode) = (call.text(path)?, call.text(mode)?);
    let Some((how, text)) = streams::mode(&mode) else { return call.fail(Errno::INVAL, 0) };
    let Some(path) = paths::to_linux(&path) else { return call.fail(Errno::NOENT, 0) };
    let file = match call.files.open(&path, how) {
        Ok(file) => file,
        Err(error) => return call.fail(error, 0),
    };
    let terminal = call.files.kind(file) == FileKind::Character;
    match call.process.streams.add(Stream::new(file, text, terminal)) {
        Some(index) => Ok(address(index)),
        None => {
            call.files.close(file);
            call.fail(Errno::MFILE, 0)
        }
    }
}

pub(super) fn close(call: &mut Call) -> Answer {
    let stream = index(call.registers[0]).and_then(|index| call.process.streams.remove(index));
    let Some(mut stream) = stream else { return call.fail(Errno::BADF, EOF) };
    let flushed = stream.flush(call.files);
    call.files.close(stream.file);
    match flushed {
        Ok(()) => Ok(0),
        Err(error) => call.fail(error, EOF),
    }
}

pub(super) fn flush(call: &mut Call) -> Answer {
    match call.registers[0] {
        0 if call.process.streams.flush(call.files) => Ok(0),
        0 => Ok(EOF),
        at => Ok(with(call, at, |stream, files| stream.flush(files))?.map_or_else(|failed| failed, |()| 0)),
    }
}

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

pub(super) fn seek(call: &mut Call) -> Answer {
    let [at, offset, origin] = call.arguments()?;
    let offset = i64::from(offset as i32);
    let to = match (origin, u64::try_from(offset)) {
        (SEEK_CUR, _) => SeekFrom::Current(offset),
        (SEEK_END, _) => SeekFrom::End(offset),
        (0, Ok(offset)) => SeekFrom::Start(offset),
        _ => return call.fail(Errno::INVAL, EOF),
    };
    Ok(with(call, at, |stream, files| stream.seek(to, files))?.map_or_else(|failed| failed, |_| 0))
}

pub(super) fn rewind(call: &mut Call) -> Answer {
    let _ = with(call, call.registers[0], |stream, files| {
        stream.failed = false;
        stream.seek(SeekFrom::Start(0), files)
    })?;
    Ok(0)
}

pub(super) fn tell(call: &mut Call) -> Answer {
    let position = with(call, call.registers[0], |stream, files| stream.tell(files))?;
    Ok(position.map_or_else(|failed| failed, |position| u64::from(u32::try_from(position).unwrap_or(u32::MAX))))
}

pub(super) fn at_end(call: &mut Call) -> Answer {
    Ok(find(&mut call.process.streams, call.registers[0]).is_ok_and(|stream| stream.ended).into())
}

pub(super) fn has_failed(call: &mut Call) -> Answer {
    Ok(find(&mut call.process.streams, call.registers[0]).is_ok_and(|stream| stream.failed).into())
}

pub(super) fn clear(call: &mut Call) -> Answer {
    if let Ok(stream) = find(&mut call.process.streams, call.registers[0]) {
        (stream.ended, stream.failed) = (false, false);
    }
    Ok(0)
}

pub(super) fn buffer(call: &mut Call) -> Answer {
    let [at, _, mode] = call.arguments()?;
    let set = with(call, at, |stream, files| {
        stream.unbuffered = mode == UNBUFFERED;
        stream.flush(files)
    })?;
    Ok(set.map_or_else(|failed| failed, |()| 0))
}

pub(super) fn number(call: &mut Call) -> Answer {
    let file = with(call, call.registers[0], |stream, _| Ok(stream.file))?;
    Ok(file.map_or_else(|failed| failed, u64::from))
}

pub(super) fn set_mode(call: &mut Call) -> Answer {
    let [file, mode] = call.arguments()?;
    let (MODE_TEXT | MODE_BINARY) = mode else { return call.fail(Errno::INVAL, EOF) };
    let Some(stream) = call.process.streams.over(file as u32) else { return call.fail(Errno::BADF, EOF) };
    let before = std::mem::replace(&mut stream.text, mode == MODE_TEXT);
    Ok(if before { MODE_TEXT } else { MODE_BINARY })
}

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

pub(super) fn remove(call: &mut Call) -> Answer {
    let path = call.text(call.registers[0])?;
    let Some(path) = paths::to_linux(&path) else { return call.fail(Errno::NOENT, EOF) };
    match call.files.remove(&path) {
        Ok(()) => Ok(0),
        Err(error) => call.fail(error, EOF),
    }
}

pub(super) fn complain(call: &mut Call) -> Answer {
    let prefix = match call.registers[0] {
        0 => Vec::new(),
        text => [call.text(text)?.as_slice(), b": "].concat(),
    };
    let error = call.memory.u32(VARIABLES + variable::ERROR)?;
    let line = [prefix.as_slice(), super::crt_process::error_text(error as i32).as_bytes(), b"\n"].concat();
    write(call, address(2), &line, 0)
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Desk, FakeFiles};
    use super::super::user::Memory;
    use super::*;

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

    #[test]
    fn what_is_no_stream_is_an_error() {
        let mut desk = desk("");
        for at in [0, address(0) + 1, address(3), address(10_000), u64::MAX] {
            assert_eq!(get(&mut desk.call([at, 0, 0, 0])), Ok(EOF), "{at:#x}");
            assert_eq!(put(&mut desk.call([65, at, 0, 0])), Ok(EOF));
            assert_eq!(close(&mut desk.call([at, 0, 0, 0])), Ok(EOF));
            assert_eq!(desk.call([0; 4]).memory.u32(VARIABLES + variable::ERROR), Ok(9));
        }
    }

    #[test]
    fn a_file_is_written_and_read_back() {
        let mut desk = desk("");
        let (path, mode) = (desk.text(0, r"C:\new"), desk.text(50, "w+b"));
        let stream = open(&mut desk.call([path, mode, 0, 0])).unwrap();
        let text = desk.text(100, "line\n");
        assert_eq!(write_items(&mut desk.call([text, 1, 5, stream])), Ok(5));
        assert_eq!(seek(&mut desk.call([stream, 1, 0, 0])), Ok(0));
        assert_eq!(read_items(&mut desk.call([Desk::SPACE, 2, 10, stream])), Ok(2));
        assert_eq!(desk.memory.text_at(Desk::SPACE, 4), b"ine\n");
        assert_eq!(write_items(&mut desk.call([text, u64::MAX, 2, stream])), Ok(0));
        assert!(matches!(write_items(&mut desk.call([text, 1, 1 << 40, stream])), Err(Stop::Fault(_))));
        assert_eq!(close(&mut desk.call([stream, 0, 0, 0])), Ok(0));
        assert!(desk.files.files[&b"/new"[..]].starts_with(b"line\n"));
    }

    #[test]
    fn texts_are_formatted_into_the_room_there_is() {
        let mut desk = desk("");
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
        let mut desk = desk("");
        let path = desk.text(0, "none");
        assert_eq!(open(&mut desk.call([path, path, 0, 0])), Ok(0), "no mode begins so");
        let mode = desk.text(50, "r");
        assert_eq!(open(&mut desk.call([path, mode, 0, 0])), Ok(0));
        assert_eq!(complain(&mut desk.call([path, 0, 0, 0])), Ok(0));
        assert_eq!(desk.files.output[1], b"none: No such file or directory\r\n");
    }
}
