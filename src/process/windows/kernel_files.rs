//! KERNEL32's files and handles.
//!
//! Leaves out overlapped requests, sharing, attributes, security and directories. A bad pointer in a request is an error, as the system
//! reports it, and not a fault.
//! Sources: Microsoft "CreateFileA function", "ReadFile function", "WriteFile function", "SetFilePointer function", "System Error
//! Codes".

use super::call::{Answer, COPY_MAX, Call, Stop};
use super::kernel_wait;
use super::paths;
use crate::process::host_files::FileKind;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::io::SeekFrom;

const INVALID_HANDLE: u64 = u64::MAX;
const TRUE: u64 = 1;
const FALSE: u64 = 0;

pub(super) const ERROR_INVALID_HANDLE: u32 = 6;
pub(super) const ERROR_NOT_ENOUGH_MEMORY: u32 = 8;
pub(super) const ERROR_INVALID_PARAMETER: u32 = 87;
const ERROR_PATH_NOT_FOUND: u32 = 3;
const ERROR_TOO_MANY_OPEN_FILES: u32 = 4;
const ERROR_ACCESS_DENIED: u32 = 5;
const ERROR_NEGATIVE_SEEK: u32 = 131;
const ERROR_ALREADY_EXISTS: u32 = 183;
const ERROR_NOACCESS: u32 = 998;

const GENERIC_ALL: u64 = 1 << 28;
const GENERIC_WRITE: u64 = 1 << 30;
const GENERIC_READ: u64 = 1 << 31;
const FILE_APPEND_DATA: u64 = 4;

/// The error of Windows' that tells one of Linux'.
pub(super) fn error_code(error: Errno) -> u32 {
    match error {
        Errno::NOENT => 2,
        Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG => ERROR_PATH_NOT_FOUND,
        Errno::MFILE | Errno::NFILE => ERROR_TOO_MANY_OPEN_FILES,
        Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::ISDIR => ERROR_ACCESS_DENIED,
        Errno::BADF => ERROR_INVALID_HANDLE,
        Errno::NOMEM => ERROR_NOT_ENOUGH_MEMORY,
        Errno::EXIST => 80,
        Errno::INVAL => ERROR_INVALID_PARAMETER,
        Errno::PIPE => 109,
        Errno::NOSPC | Errno::DQUOT => 112,
        _ => 31,
    }
}

/// The file behind the handle, or the answer of a function that got none.
fn file(call: &mut Call, handle: u64) -> Result<Result<u32, u64>, Stop> {
    Ok(match call.process.file(handle) {
        Some(file) => Ok(file),
        None => Err(call.refuse(ERROR_INVALID_HANDLE, FALSE)?),
    })
}

pub(super) fn create(call: &mut Call) -> Answer {
    let [path, access, _, _, disposition] = call.arguments()?;
    let path = call.text(path)?;
    let Some(path) = paths::to_linux(&path) else { return call.refuse(ERROR_PATH_NOT_FOUND, INVALID_HANDLE) };
    let (read, write) = (access & (GENERIC_READ | GENERIC_ALL) != 0, access & (GENERIC_WRITE | GENERIC_ALL) != 0);
    let append = access & FILE_APPEND_DATA != 0 && !write;
    let how = match (read, write || append) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        _ => OFlags::RDONLY,
    } | if append { OFlags::APPEND } else { OFlags::empty() };
    let creation = match disposition as u32 {
        1 => OFlags::CREATE | OFlags::EXCL,
        2 => OFlags::CREATE | OFlags::TRUNC,
        3 => OFlags::empty(),
        4 => OFlags::CREATE,
        5 if write => OFlags::TRUNC,
        _ => return call.refuse(ERROR_INVALID_PARAMETER, INVALID_HANDLE),
    };
    // CREATE_ALWAYS and OPEN_ALWAYS tell whether the file was there.
    let was_there = matches!(disposition as u32, 2 | 4)
        && call.files.open(&path, OFlags::PATH).map(|file| call.files.close(file)).is_ok();
    match call.files.open(&path, how | creation) {
        Ok(file) => match call.process.open_handle(file) {
            Some(handle) => call.refuse(if was_there { ERROR_ALREADY_EXISTS } else { 0 }, handle),
            None => {
                call.files.close(file);
                call.refuse(ERROR_TOO_MANY_OPEN_FILES, INVALID_HANDLE)
            }
        },
        Err(error) => call.refuse(error_code(error), INVALID_HANDLE),
    }
}

pub(super) fn read(call: &mut Call) -> Answer {
    let [handle, buffer, size, count, overlapped] = call.arguments()?;
    call.put_u32(count, 0)?;
    let file = match file(call, handle)? {
        Ok(file) if overlapped == 0 => file,
        Ok(_) => return call.refuse(ERROR_INVALID_PARAMETER, FALSE),
        Err(answer) => return Ok(answer),
    };
    let (mut done, mut bytes) = (0, vec![0; COPY_MAX.min(size as u32 as usize)]);
    while done < size as u32 {
        let room = bytes.len().min((size as u32 - done) as usize);
        match call.files.read(file, &mut bytes[..room]) {
            Ok(0) => break,
            Ok(read) => {
                if call.memory.write(buffer.wrapping_add(done.into()), &bytes[..read]).is_err() {
                    return call.refuse(ERROR_NOACCESS, FALSE);
                }
                done += read as u32;
                // What is not a file on a disk gives what there is now.
                if read < room || call.files.kind(file) != FileKind::Disk {
                    break;
                }
            }
            Err(error) => return call.refuse(error_code(error), FALSE),
        }
    }
    call.put_u32(count, done)?;
    Ok(TRUE)
}

pub(super) fn write(call: &mut Call) -> Answer {
    let [handle, buffer, size, count, overlapped] = call.arguments()?;
    call.put_u32(count, 0)?;
    let file = match file(call, handle)? {
        Ok(file) if overlapped == 0 => file,
        Ok(_) => return call.refuse(ERROR_INVALID_PARAMETER, FALSE),
        Err(answer) => return Ok(answer),
    };
    // What the C runtime holds back for the same file comes first.
    if let Some(stream) = call.process.streams.over(file) {
        let _ = stream.flush(call.files);
    }
    let (mut done, mut bytes) = (0, vec![0; COPY_MAX.min(size as u32 as usize)]);
    while done < size as u32 {
        let room = bytes.len().min((size as u32 - done) as usize);
        if call.memory.read(buffer.wrapping_add(done.into()), &mut bytes[..room]).is_err() {
            return call.refuse(ERROR_NOACCESS, FALSE);
        }
        match call.files.write(file, &bytes[..room]) {
            Ok(0) => break,
            Ok(written) => done += written as u32,
            Err(error) => return call.refuse(error_code(error), FALSE),
        }
    }
    call.put_u32(count, done)?;
    Ok(TRUE)
}

pub(super) fn close(call: &mut Call) -> Answer {
    match call.process.close_handle(call.registers[0]) {
        Some(file) => {
            call.files.close(file);
            Ok(TRUE)
        }
        None if kernel_wait::close(call, call.registers[0]) => Ok(TRUE),
        None => call.refuse(ERROR_INVALID_HANDLE, FALSE),
    }
}

pub(super) fn standard_handle(call: &mut Call) -> Answer {
    match call.registers[0] as i32 {
        which @ -12..=-10 => Ok((-10 - which + 1) as u64 * 4),
        _ => call.refuse(ERROR_INVALID_PARAMETER, INVALID_HANDLE),
    }
}

pub(super) fn kind(call: &mut Call) -> Answer {
    match file(call, call.registers[0])? {
        Ok(file) => Ok(match call.files.kind(file) {
            FileKind::Disk => 1,
            FileKind::Character => 2,
            FileKind::Pipe => 3,
        }),
        Err(answer) => Ok(answer),
    }
}

/// The size of an open file, whose position stays.
fn size_of(call: &mut Call, file: u32) -> Result<u64, Errno> {
    let position = call.files.seek(file, SeekFrom::Current(0))?;
    let size = call.files.seek(file, SeekFrom::End(0))?;
    call.files.seek(file, SeekFrom::Start(position))?;
    Ok(size)
}

pub(super) fn size(call: &mut Call) -> Answer {
    let [handle, high] = call.arguments()?;
    let Some(file) = call.process.file(handle) else { return call.refuse(ERROR_INVALID_HANDLE, u32::MAX.into()) };
    match size_of(call, file) {
        Ok(size) => {
            call.put_u32(high, (size >> 32) as u32)?;
            call.refuse(0, u64::from(size as u32))
        }
        Err(error) => call.refuse(error_code(error), u32::MAX.into()),
    }
}

pub(super) fn size_64(call: &mut Call) -> Answer {
    let [handle, out] = call.arguments()?;
    let file = match file(call, handle)? {
        Ok(file) => file,
        Err(answer) => return Ok(answer),
    };
    match size_of(call, file) {
        Ok(size) => {
            call.put(out, &size.to_le_bytes())?;
            Ok(TRUE)
        }
        Err(error) => call.refuse(error_code(error), FALSE),
    }
}

/// Where FILE_BEGIN, FILE_CURRENT or FILE_END, and a distance, lead.
fn target(distance: i64, method: u64) -> Result<SeekFrom, u32> {
    match method as u32 {
        0 => u64::try_from(distance).map(SeekFrom::Start).map_err(|_| ERROR_NEGATIVE_SEEK),
        1 => Ok(SeekFrom::Current(distance)),
        2 => Ok(SeekFrom::End(distance)),
        _ => Err(ERROR_INVALID_PARAMETER),
    }
}

fn seek(call: &mut Call, handle: u64, distance: i64, method: u64) -> Result<u64, u32> {
    let file = call.process.file(handle).ok_or(ERROR_INVALID_HANDLE)?;
    call.files.seek(file, target(distance, method)?).map_err(|error| match error {
        Errno::INVAL => ERROR_NEGATIVE_SEEK,
        error => error_code(error),
    })
}

pub(super) fn move_pointer(call: &mut Call) -> Answer {
    let [handle, low, high, method] = call.arguments()?;
    let distance = match high {
        0 => i64::from(low as i32),
        high => i64::from(call.memory.u32(high)? as i32) << 32 | i64::from(low as u32),
    };
    match seek(call, handle, distance, method) {
        Ok(position) => {
            call.put_u32(high, (position >> 32) as u32)?;
            call.refuse(0, u64::from(position as u32))
        }
        Err(code) => call.refuse(code, u32::MAX.into()),
    }
}

pub(super) fn move_pointer_64(call: &mut Call) -> Answer {
    let [handle, distance, out, method] = call.arguments()?;
    match seek(call, handle, distance as i64, method) {
        Ok(position) => {
            if out != 0 {
                call.put(out, &position.to_le_bytes())?;
            }
            Ok(TRUE)
        }
        Err(code) => call.refuse(code, FALSE),
    }
}

pub(super) fn delete(call: &mut Call) -> Answer {
    let path = call.text(call.registers[0])?;
    let Some(path) = paths::to_linux(&path) else { return call.refuse(ERROR_PATH_NOT_FOUND, FALSE) };
    match call.files.remove(&path) {
        Ok(()) => Ok(TRUE),
        Err(error) => call.refuse(error_code(error), FALSE),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Desk;
    use super::super::user::Memory;
    use super::*;
    use crate::process::fake_files::FakeFiles;

    fn open(desk: &mut Desk, path: &str, access: u64, disposition: u64) -> u64 {
        let path = desk.text(0, path);
        desk.memory.write(Desk::STACK + 40, &disposition.to_le_bytes()).unwrap();
        create(&mut desk.call([path, access, 0, 0])).unwrap()
    }

    fn desk() -> Desk {
        let mut files = FakeFiles::default();
        files.files.insert(b"/dir/in".to_vec(), b"0123456789".to_vec());
        Desk::with(files)
    }

    #[test]
    fn a_file_is_read_in_parts() {
        let mut desk = desk();
        let handle = open(&mut desk, r"C:\dir\in", GENERIC_READ, 3);
        let count = Desk::SPACE + 0x800;
        desk.memory.write(Desk::STACK + 40, &[0; 8]).unwrap();
        assert_eq!(move_pointer(&mut desk.call([handle, -4i32 as u32 as u64, 0, 2])), Ok(6));
        assert_eq!(read(&mut desk.call([handle, Desk::SPACE, 100, count])), Ok(TRUE));
        assert_eq!(
            (desk.memory.text_at(Desk::SPACE, 4), desk.call([0; 4]).memory.u32(count)),
            (b"6789".to_vec(), Ok(4))
        );
        assert_eq!(size(&mut desk.call([handle, 0, 0, 0])), Ok(10));
        assert_eq!(move_pointer_64(&mut desk.call([handle, -1i64 as u64, 0, 0])), Ok(FALSE));
        assert_eq!(desk.call([0; 4]).last_error(), Ok(ERROR_NEGATIVE_SEEK));
        assert_eq!(read(&mut desk.call([handle, 0x10, 100, 0])), Ok(TRUE), "the end: nothing is copied");
        move_pointer(&mut desk.call([handle, 0, 0, 0])).unwrap();
        assert_eq!(read(&mut desk.call([handle, 0x10, 100, 0])), Ok(FALSE));
        assert_eq!(desk.call([0; 4]).last_error(), Ok(ERROR_NOACCESS));
        assert_eq!(
            (close(&mut desk.call([handle, 0, 0, 0])), close(&mut desk.call([handle, 0, 0, 0]))),
            (Ok(TRUE), Ok(FALSE))
        );
    }

    #[test]
    fn errors_are_those_of_windows() {
        let mut desk = desk();
        for (path, access, disposition, code) in [
            (r"C:\missing", GENERIC_READ, 3, 2),
            (r"D:\dir\in", GENERIC_READ, 3, ERROR_PATH_NOT_FOUND),
            ("/dir/in", GENERIC_WRITE, 1, 80),
            ("/dir/in", GENERIC_READ, 9, ERROR_INVALID_PARAMETER),
        ] {
            assert_eq!(open(&mut desk, path, access, disposition), INVALID_HANDLE, "{path}");
            assert_eq!(desk.call([0; 4]).last_error(), Ok(code), "{path}");
        }
        assert_ne!(open(&mut desk, "/dir/in", GENERIC_WRITE, 2), INVALID_HANDLE);
        assert_eq!(desk.call([0; 4]).last_error(), Ok(ERROR_ALREADY_EXISTS));
        assert_eq!(write(&mut desk.call([0x1234, 0, 0, 0])), Ok(FALSE));
        assert_eq!(desk.call([0; 4]).last_error(), Ok(ERROR_INVALID_HANDLE));
    }

    #[test]
    fn handles_come_to_an_end() {
        let mut desk = desk();
        let opened = (0..).take_while(|_| open(&mut desk, "/dir/in", GENERIC_READ, 3) != INVALID_HANDLE).count();
        assert_eq!((opened, desk.call([0; 4]).last_error()), (509, Ok(ERROR_TOO_MANY_OPEN_FILES)));
    }
}
