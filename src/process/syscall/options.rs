//! Options of sockets: getsockopt(2), setsockopt(2). Which there are is [`crate::backend::socket_options`]'s list; others get ENOPROTOOPT.
//!
//! Source: socket(7).

use super::call::{Answer, Arguments};
use crate::backend::socket_options::{SIZE_MAX, SocketOption};
use crate::process::task::Task;
use rustix::io::Errno;

/// getsockopt(2).
pub fn getsockopt(task: &mut Task, [fd, level, name, value, size, _]: Arguments) -> Answer {
    let socket = task.file(fd)?;
    let option = find(&socket, level, name)?;
    let room = usize::try_from(i32::from_le_bytes(task.read(size)?)).map_err(|_| Errno::INVAL)?;
    let mut bytes = [0; SIZE_MAX];
    let bytes = &mut bytes[..room.min(option.size())];
    let count = option.get(socket.fd(), bytes)?;
    task.write(value, &bytes[..count])?;
    task.write(size, &(count as u32).to_le_bytes())?;
    Ok(0)
}

/// setsockopt(2).
pub fn setsockopt(task: &mut Task, [fd, level, name, value, size, _]: Arguments) -> Answer {
    let size = usize::try_from(size as i32).map_err(|_| Errno::INVAL)?;
    let socket = task.file(fd)?;
    let option = find(&socket, level, name)?;
    let bytes = task.read_vec(value, size.min(option.size()))?;
    option.set(socket.fd(), &bytes).map(|()| 0)
}

/// # Errors
/// ENOTSOCK, ENOPROTOOPT.
fn find(socket: &crate::process::files::OpenFile, level: u64, name: u64) -> Result<SocketOption, Errno> {
    rustix::net::sockopt::socket_type(socket.fd())?;
    SocketOption::find(level as i32, name as i32).ok_or(Errno::NOPROTOOPT)
}
