//! The C runtime's streams as functions: opening, closing, positions and states; what goes through them is in [`super::crt_transfer`] and
//! [`super::crt_print`].
//!
//! A pointer to `FILE` is the address of one of the program's array; any other is an error and not a fault. Leaves out temporary
//! files and wide streams.
//! Sources: ISO C §7.21.5 (file access), §7.21.9 (positioning), §7.21.10 (errors); Microsoft "_setmode".

use super::call::{Answer, Call, Stop};
use super::layout::{STREAM_SIZE, VARIABLES, variable};
use super::paths;
use super::streams::{self, Stream, Streams};
use crate::process::host_files::{FileKind, Files};
use rustix::io::Errno;
use std::io::SeekFrom;

/// EOF, and what functions return that failed.
pub(super) const EOF: u64 = -1i32 as u32 as u64;
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
pub(super) fn with<T>(
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
pub(super) fn write(call: &mut Call, at: u64, bytes: &[u8], answer: u64) -> Answer {
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

pub(super) fn remove(call: &mut Call) -> Answer {
    let path = call.text(call.registers[0])?;
    let Some(path) = paths::to_linux(&path) else { return call.fail(Errno::NOENT, EOF) };
    match call.files.remove(&path) {
        Ok(()) => Ok(0),
        Err(error) => call.fail(error, EOF),
    }
}

#[cfg(test)]
mod tests {
    use super::super::crt_transfer::{get, put, read_items, write_items};
    use super::super::fake::Desk;
    use super::*;

    #[test]
    fn what_is_no_stream_is_an_error() {
        let mut desk = Desk::new();
        for at in [0, address(0) + 1, address(3), address(10_000), u64::MAX] {
            assert_eq!(get(&mut desk.call([at, 0, 0, 0])), Ok(EOF), "{at:#x}");
            assert_eq!(put(&mut desk.call([65, at, 0, 0])), Ok(EOF));
            assert_eq!(close(&mut desk.call([at, 0, 0, 0])), Ok(EOF));
            assert_eq!(desk.call([0; 4]).memory.u32(VARIABLES + variable::ERROR), Ok(9));
        }
    }

    #[test]
    fn a_file_is_written_and_read_back() {
        let mut desk = Desk::new();
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
}
