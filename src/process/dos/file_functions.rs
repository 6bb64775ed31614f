//! Functions for files, by handles: the numbers of Hostel's own table, from 3 on.
//!
//! Paths are as for Windows programs: drive `C:` is the root, and upper and lower case differ. Leaves out attributes, sharing, file
//! control blocks, directories, the handles 3 and 4 (AUX and PRN) and devices with names, but for `NUL`.
//! Source: Interrupt List, INT 21h functions 3Ch to 42h and 44h.

use super::call::{
    ACCESS_DENIED, Answer, Call, INVALID_ACCESS, INVALID_FUNCTION, INVALID_HANDLE, PATH_NOT_FOUND, Stop,
};
use crate::process::host_files::FileKind;
use crate::process::windows::paths::to_linux;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::io::SeekFrom;

fn path(call: &Call) -> Result<Vec<u8>, Stop> {
    to_linux(&call.path()?).ok_or(Stop::Error(PATH_NOT_FOUND))
}

fn open_as(call: &mut Call, how: OFlags) -> Answer {
    let path = path(call)?;
    // The table of files is bounded far below 65,536.
    call.regs.ax = call.files.open(&path, how)? as u16;
    Ok(())
}

pub(super) fn create(call: &mut Call) -> Answer {
    open_as(call, OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC)
}

pub(super) fn open(call: &mut Call) -> Answer {
    let [_, mode] = call.regs.a();
    let how = match mode & 7 {
        0 => OFlags::RDONLY,
        1 => OFlags::WRONLY,
        2 => OFlags::RDWR,
        _ => return Err(Stop::Error(INVALID_ACCESS)),
    };
    open_as(call, how)
}

pub(super) fn close(call: &mut Call) -> Answer {
    if call.files.close(call.regs.bx.into()) { Ok(()) } else { Err(Stop::Error(INVALID_HANDLE)) }
}

pub(super) fn read(call: &mut Call) -> Answer {
    let file = call.regs.bx.into();
    let mut bytes = vec![0; call.regs.cx.into()];
    let mut done = 0;
    while done < bytes.len() {
        let count = call.files.read(file, &mut bytes[done..])?;
        done += count;
        // Less than was wanted means the end to programs, but from a terminal, which gives lines: DOS has no pipes.
        if count == 0 || call.files.kind(file) == FileKind::Character {
            break;
        }
    }
    call.memory.write(call.regs.buffer(), &bytes[..done]);
    call.regs.ax = done as u16;
    Ok(())
}

/// Of no bytes: the file ends where it stands.
pub(super) fn write(call: &mut Call) -> Answer {
    let file = call.regs.bx.into();
    let bytes = call.memory.read(call.regs.buffer(), call.regs.cx.into());
    if bytes.is_empty() {
        let position = call.files.seek(file, SeekFrom::Current(0))?;
        call.files.cut(file, position).map_err(|_| Stop::Error(ACCESS_DENIED))?;
    }
    let mut done = 0;
    while done < bytes.len() {
        match call.files.write(file, &bytes[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if done == 0 => return Err(error.into()),
            // A disk that is full is told by a count that is too small.
            Err(_) => break,
        }
    }
    call.regs.ax = done as u16;
    Ok(())
}

pub(super) fn delete(call: &mut Call) -> Answer {
    let path = path(call)?;
    Ok(call.files.remove(&path)?)
}

pub(super) fn seek(call: &mut Call) -> Answer {
    let [_, origin] = call.regs.a();
    let offset = u32::from(call.regs.cx) << 16 | u32::from(call.regs.dx);
    let signed = i64::from(offset.cast_signed());
    let to = match origin {
        0 => SeekFrom::Start(offset.into()),
        1 => SeekFrom::Current(signed),
        2 => SeekFrom::End(signed),
        _ => return Err(Stop::Error(INVALID_FUNCTION)),
    };
    // Of a position beyond 4 GiB, which 42h cannot ask for but reach, the lower half is told, as DOS would count.
    let position = call.files.seek(call.regs.bx.into(), to)? as u32;
    (call.regs.dx, call.regs.ax) = ((position >> 16) as u16, position as u16);
    Ok(())
}

/// Function 44h asks for many things; the one that C libraries ask is whether a handle is a device.
pub(super) fn device(call: &mut Call) -> Answer {
    /// A file on drive C:, not written to.
    const FILE: u16 = 0x0042;
    /// A device, not at its end; it is the console.
    const CONSOLE: u16 = 0x80d3;
    let [_, what] = call.regs.a();
    if what != 0 {
        return Err(Stop::Missing);
    }
    let handle = call.regs.bx.into();
    // What has no position is open all the same.
    if call.files.seek(handle, SeekFrom::Current(0)) == Err(Errno::BADF) {
        return Err(Stop::Error(INVALID_HANDLE));
    }
    call.regs.dx = match call.files.kind(handle) {
        FileKind::Character => CONSOLE,
        FileKind::Disk | FileKind::Pipe => FILE,
    };
    call.regs.ax = call.regs.dx;
    Ok(())
}
