//! A process's own affairs: its end, its name, the bases of FS and GS.
//!
//! Sources: exit(2), exit_group(2), arch_prctl(2), prctl(2), set_tid_address(2).

use super::call::{Answer, Arguments};
use crate::bus::bus::lock;
use crate::process::tables::USER_END;
use crate::process::task::{End, Reload, Task};
use rustix::io::Errno;

/// exit(2): the end of the thread.
pub fn exit(task: &mut Task, [status, ..]: Arguments) -> Answer {
    task.end = Some(End::Exited(status as u8));
    Ok(0)
}

/// exit_group(2): the end of the process.
pub fn exit_group(task: &mut Task, [status, ..]: Arguments) -> Answer {
    task.world.processes.end(&task.process, End::Exited(status as u8));
    Ok(0)
}

/// set_tid_address(2).
pub fn set_tid_address(task: &mut Task, [address, ..]: Arguments) -> Answer {
    task.clear_at_end = address;
    Ok(task.id as u64)
}

/// arch_prctl(2).
pub fn arch_prctl(task: &mut Task, [code, value, ..]: Arguments) -> Answer {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    match code {
        SET_FS | SET_GS if value >= USER_END => return Err(Errno::PERM),
        SET_FS => task.fs_base = value,
        SET_GS => task.gs_base = value,
        GET_FS => task.write(value, &task.fs_base.to_le_bytes())?,
        GET_GS => task.write(value, &task.gs_base.to_le_bytes())?,
        _ => return Err(Errno::INVAL),
    }
    if matches!(code, SET_FS | SET_GS) {
        task.reload = Reload::Bases;
    }
    Ok(0)
}

/// prctl(2): the name.
pub fn prctl(task: &mut Task, [option, value, ..]: Arguments) -> Answer {
    match option as i32 {
        libc::PR_SET_NAME => {
            let mut name = [0; 16];
            // A name without a NUL among its first bytes is cut.
            let mut text = match task.memory().read_text(value, 15) {
                Err(Errno::NAMETOOLONG) => task.read::<15>(value)?.to_vec(),
                text => text?,
            };
            text.resize(16, 0);
            name.copy_from_slice(&text);
            *lock(&task.process.name) = name;
            Ok(0)
        }
        libc::PR_GET_NAME => {
            let name = *lock(&task.process.name);
            task.write(value, &name)?;
            Ok(0)
        }
        libc::PR_GET_DUMPABLE => Ok(1),
        libc::PR_GET_NO_NEW_PRIVS => Ok(0),
        _ => Err(Errno::INVAL),
    }
}
