//! Requests about what is known of a file: attributes, extended attributes, where a symbolic link points, the file system.
//!
//! Sources: `fuse.h`; statx(2), utimensat(2), chown(2), xattr(7), statfs(2).

use super::host::Inode;
use super::protocol::{ATTR_OUT, Arguments, Fields, InHeader, NAME_MAX, setattr};
use super::request::Request;
use super::server::{Answer, Reply, Server};
use super::table::Handle;
use rustix::fs::{AtFlags, OFlags, Statx, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Seconds for which a client may believe what it was told of attributes and names. What the host changes is seen after these.
pub(super) const VALID_S: u64 = 1;
/// Most bytes of an extended attribute and of a list of their names (XATTR_SIZE_MAX and XATTR_LIST_MAX in `limits.h`).
const EXTENDED_MAX: u64 = 64 << 10;

impl Server {
    pub(super) fn get_attributes(&self, header: &InHeader, request: &Request) -> Answer {
        let inode = self.table.node(header.nodeid)?;
        // By handle or not: it is the same file.
        request.arguments(16)?;
        Ok(Reply::Body(self.attributes(&inode.stat()?)))
    }

    pub(super) fn set_attributes(&self, header: &InHeader, request: &Request) -> Answer {
        let arguments = request.arguments(88)?;
        let mut arguments = Arguments::new(&arguments);
        let [valid, _] = arguments.words()?;
        let [handle, size, _lock_owner] = [arguments.long()?, arguments.long()?, arguments.long()?];
        let seconds = [arguments.long()?, arguments.long()?, arguments.long()?];
        let nanoseconds: [u32; 3] = arguments.words()?;
        let [mode, _, uid, gid, _] = arguments.words()?;
        let inode = self.table.node(header.nodeid)?;
        if inode.is_made_up() || request.room() < ATTR_OUT as u64 {
            return Err(Errno::PERM);
        }
        let has = |bit: u32| valid & bit != 0;
        if has(setattr::UID | setattr::GID) {
            // All ones would mean that it stays.
            let id = |valid: bool, id: u32| match id {
                u32::MAX if valid => Err(Errno::INVAL),
                id => Ok(valid.then_some(id)),
            };
            let uid = id(has(setattr::UID), uid)?.map(Uid::from_raw);
            let gid = id(has(setattr::GID), gid)?.map(Gid::from_raw);
            rustix::fs::chownat(inode.fd(), c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if has(setattr::MODE) {
            self.host.set_mode(&inode, mode)?;
        }
        if has(setattr::SIZE) {
            let handle = has(setattr::FH).then_some(handle);
            self.truncate(&inode, handle, size, has(setattr::KILL_SUIDGID))?;
        }
        let time = |bit: u32, now: u32, index: usize| match (has(bit), has(now)) {
            (false, _) => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }),
            (true, true) => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }),
            (true, false) if nanoseconds[index] >= 1_000_000_000 => Err(Errno::INVAL),
            (true, false) => Ok(Timespec { tv_sec: seconds[index] as i64, tv_nsec: nanoseconds[index].into() }),
        };
        if has(setattr::ATIME | setattr::MTIME) {
            let times = Timestamps {
                last_access: time(setattr::ATIME, setattr::ATIME_NOW, 0)?,
                last_modification: time(setattr::MTIME, setattr::MTIME_NOW, 1)?,
            };
            rustix::fs::utimensat(inode.fd(), c"", &times, AtFlags::EMPTY_PATH)?;
        }
        Ok(Reply::Body(self.attributes(&inode.stat()?)))
    }

    fn truncate(&self, inode: &Inode, handle: Option<u64>, size: u64, ends_privileges: bool) -> Result<(), Errno> {
        let on = |file: BorrowedFd<'_>| {
            rustix::fs::ftruncate(file, size)?;
            if ends_privileges { end_privileges(file) } else { Ok(()) }
        };
        match handle.map(|handle| self.table.handle(handle)).transpose()?.as_deref() {
            Some(Handle::File(file)) => on(file.as_fd()),
            Some(Handle::Directory(_)) => Err(Errno::ISDIR),
            None => on(self.host.reopen(inode, OFlags::WRONLY)?.as_fd()),
        }
    }

    pub(super) fn read_link(&self, header: &InHeader, request: &Request) -> Answer {
        let inode = self.table.node(header.nodeid)?;
        let target = rustix::fs::readlinkat(inode.fd(), c"", Vec::new())?.into_bytes();
        if target.len() as u64 > request.room() { Err(Errno::NAMETOOLONG) } else { Ok(Reply::Body(target)) }
    }

    pub(super) fn statistics(&self, header: &InHeader) -> Answer {
        let inode = self.table.node(header.nodeid)?;
        let found = rustix::fs::fstatvfs(inode.fd())?;
        let counts = [found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree];
        let reply = counts.into_iter().fold(Fields::default(), Fields::long);
        let reply = reply.word(found.f_bsize as u32).word(NAME_MAX as u32).word(found.f_frsize as u32);
        Ok(Reply::Body(reply.zeroes_to(80).done()))
    }

    pub(super) fn set_extended(&self, header: &InHeader, request: &Request) -> Answer {
        let arguments = request.arguments(u64::MAX)?;
        let mut arguments = Arguments::new(&arguments);
        let [size, flags] = arguments.words()?;
        let name = extended_name(&mut arguments)?;
        let value = arguments.rest();
        let flags =
            XattrFlags::from_bits(flags).filter(|_| value.len() as u64 == u64::from(size)).ok_or(Errno::INVAL)?;
        rustix::fs::setxattr(self.extended(header)?.path(), name, value, flags)?;
        Ok(Reply::Body(Vec::new()))
    }

    pub(super) fn get_extended(&self, header: &InHeader, request: &Request) -> Answer {
        let arguments = request.arguments(u64::MAX)?;
        let mut arguments = Arguments::new(&arguments);
        let [size, _] = arguments.words()?;
        let name = extended_name(&mut arguments)?;
        let path = self.extended(header)?.path();
        match size {
            0 => Ok(counted(rustix::fs::getxattr_query(&path, name)?)),
            _ => sized(request, size, |value| rustix::fs::getxattr(&path, name, value)),
        }
    }

    pub(super) fn list_extended(&self, header: &InHeader, request: &Request) -> Answer {
        let arguments = request.arguments(8)?;
        let [size, _] = Arguments::new(&arguments).words()?;
        let path = self.extended(header)?.path();
        match size {
            0 => Ok(counted(rustix::fs::listxattr_query(&path)?)),
            _ => sized(request, size, |names| rustix::fs::listxattr(&path, names)),
        }
    }

    pub(super) fn remove_extended(&self, header: &InHeader, request: &Request) -> Answer {
        let arguments = request.arguments(u64::MAX)?;
        let name = extended_name(&mut Arguments::new(&arguments))?;
        rustix::fs::removexattr(self.extended(header)?.path(), name)?;
        Ok(Reply::Body(Vec::new()))
    }

    /// A node whose extended attributes may be worked with.
    fn extended(&self, header: &InHeader) -> Result<Arc<Inode>, Errno> {
        let inode = self.table.node(header.nodeid)?;
        if inode.is_made_up() { Err(Errno::OPNOTSUPP) } else { Ok(inode) }
    }

    /// `struct fuse_attr_out`.
    fn attributes(&self, stat: &Statx) -> Vec<u8> {
        Fields::of(ATTR_OUT).long(VALID_S).long(0).bytes(&self.attr(stat)).done()
    }

    /// `struct fuse_attr`.
    pub(super) fn attr(&self, stat: &Statx) -> Vec<u8> {
        let stat = self.guise.as_ref().map_or(*stat, |guise| guise.of(stat));
        let number = self.host.number((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino);
        let times = [stat.stx_atime, stat.stx_mtime, stat.stx_ctime];
        let fields = Fields::of(ATTR_OUT).long(number).long(stat.stx_size).long(stat.stx_blocks);
        let fields = times.iter().fold(fields, |fields, time| fields.long(time.tv_sec as u64));
        let fields = times.iter().fold(fields, |fields, time| fields.word(time.tv_nsec));
        let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
        // As new_encode_dev() in `kdev_t.h` has it.
        let device = (minor & 0xff) | major << 8 | (minor & !0xff) << 12;
        let fields = fields.word(stat.stx_mode.into()).word(stat.stx_nlink).word(stat.stx_uid).word(stat.stx_gid);
        let flags = 0;
        fields.word(device).word(stat.stx_blksize).word(flags).done()
    }
}

/// Takes set-user-ID and, of a program, set-group-ID from a file whose content a guest has changed without the right to keep them.
pub(super) fn end_privileges(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let mode = u32::from(super::host::stat(file)?.stx_mode);
    let ended = libc::S_ISUID | if mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
    if mode & ended == 0 {
        return Ok(());
    }
    rustix::fs::fchmod(file, rustix::fs::Mode::from_bits_truncate(mode & !ended))
}

fn extended_name<'a>(arguments: &mut Arguments<'a>) -> Result<&'a CStr, Errno> {
    match arguments.text()? {
        name if name.is_empty() || name.count_bytes() > NAME_MAX => Err(Errno::RANGE),
        name => Ok(name),
    }
}

/// Answers with how many bytes it would be (`struct fuse_getxattr_out`).
fn counted(bytes: usize) -> Reply {
    Reply::Body(Fields::default().word(bytes as u32).word(0).done())
}

/// Answers with what `get` puts into a buffer of `size` bytes.
fn sized(request: &Request, size: u32, get: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Answer {
    let mut value = vec![0; u64::from(size).min(request.room()).min(EXTENDED_MAX) as usize];
    let bytes = get(&mut value)?;
    value.truncate(bytes);
    Ok(Reply::Body(value))
}
