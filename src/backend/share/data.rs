//! Requests about what is in regular files: open, read, write, and what else can be done to an open file.
//!
//! Bytes go straight between the file and guest RAM. A guest's append is a write where the guest sees the end, and its direct I/O
//! goes through the host's page cache. Sources: `fuse.h`; open(2), preadv2(2), fallocate(2), lseek(2), copy_file_range(2).

use super::attributes::end_privileges;
use super::entries::permissions;
use super::host::{Inode, stat};
use super::protocol::{
    Arguments, ENTRY_OUT, FSYNC_DATA, Fields, InHeader, KEEP_CACHE, OPEN_KILL_SUIDGID, OPEN_OUT, WRITE_KILL_SUIDGID,
};
use super::request::Request;
use super::server::{Answer, Reply, Server, TRANSFER_MAX};
use super::table::Handle;
use crate::backend::block::buffers::HostBuffers;
use crate::backend::block::calls;
use crate::bus::bus::lock;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Most bytes of one COPY_FILE_RANGE; the client asks for the rest.
const COPY_MAX: u64 = 64 << 20;

/// Bytes of the arguments of READ and WRITE.
const TRANSFER_IN: u64 = 40;

/// What a guest may ask for when it opens a file; the rest is its own kernel's business.
const OPEN_FLAGS: OFlags = OFlags::RWMODE.union(OFlags::TRUNC).union(OFlags::SYNC).union(OFlags::DSYNC);

impl Server {
    pub(super) fn open_file(&self, header: &InHeader, request: &Request) -> Answer {
        let arguments = request.arguments(8)?;
        let [flags, how] = Arguments::new(&arguments).words()?;
        let inode = self.table.node(header.nodeid)?;
        if request.room() < OPEN_OUT as u64 {
            return Err(Errno::INVAL);
        }
        Ok(Reply::Body(self.open_node(&inode, flags, how)?))
    }

    /// CREATE, and TMPFILE: a file that no directory names.
    pub(super) fn create(&self, header: &InHeader, request: &Request, unnamed: bool) -> Answer {
        let arguments = request.arguments(u64::MAX)?;
        let mut arguments = Arguments::new(&arguments);
        let [flags, mode, _umask, how] = arguments.words()?;
        let parent = self.changeable(header.nodeid)?;
        if request.room() < (ENTRY_OUT + OPEN_OUT) as u64 {
            return Err(Errno::INVAL);
        }
        self.table.has_node().and_then(|()| self.table.has_handle())?;
        let asked = OFlags::from_bits_retain(flags);
        let open = |name: &std::ffi::CStr, make: OFlags| {
            let flags = (asked & OPEN_FLAGS) | make | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            self.host
                .identity
                .acting_as(header.uid, header.gid, || rustix::fs::openat(parent.fd(), name, flags, permissions(mode)))
        };
        let opened = match unnamed {
            true => open(c".", OFlags::TMPFILE | asked & OFlags::EXCL)?,
            false => {
                let name = arguments.name()?;
                arguments.end()?;
                match open(name, OFlags::CREATE | OFlags::EXCL) {
                    // Somebody was faster. What is there may be anything: it is looked at before it is opened.
                    Err(Errno::EXIST) if !asked.contains(OFlags::EXCL) => {
                        let (inode, stat) = self.host.child(&parent, name)?;
                        let (node, inode) = self.table.look_up(inode)?;
                        let opened = self.open_node(&inode, flags, how).inspect_err(|_| self.table.forget(node, 1))?;
                        return Ok(Reply::Body([self.known_entry(node, &stat), opened].concat()));
                    }
                    opened => opened?,
                }
            }
        };
        let entry = self.entry(self.host.opened(opened.as_fd(), &parent)?)?;
        let handle = self.table.open(Handle::File(opened.into()))?;
        Ok(Reply::Body([entry, open_out(handle, 0)].concat()))
    }

    /// `struct fuse_open_out` of a file that is open from now on.
    fn open_node(&self, inode: &Inode, flags: u32, how: u32) -> Result<Vec<u8>, Errno> {
        let flags = OFlags::from_bits_retain(flags) & OPEN_FLAGS;
        if inode.is_directory() {
            return Err(Errno::ISDIR);
        }
        if self.read_only && flags.intersects(OFlags::RWMODE | OFlags::TRUNC) {
            return Err(Errno::ROFS);
        }
        self.table.has_handle()?;
        let file = self.host.reopen(inode, flags)?;
        if flags.contains(OFlags::TRUNC) && how & OPEN_KILL_SUIDGID != 0 {
            end_privileges(file.as_fd())?;
        }
        let now = clock_gettime(ClockId::Realtime);
        let keeps = inode.is_unchanged(&stat(file.as_fd())?, now.tv_sec);
        let handle = self.table.open(Handle::File(file.into()))?;
        Ok(open_out(handle, if keeps { KEEP_CACHE } else { 0 }))
    }

    pub(super) fn read(&self, request: &Request) -> Answer {
        let (handle, offset, mut sink) = self.reading(request)?;
        on_file(&handle, |file| {
            let done = whole(&mut sink, offset, |buffers, at| calls::read_at(file, buffers, at))?;
            Ok(Reply::InPlace(done))
        })
    }

    /// READ, if all bytes that it asks for, or all up to the file's end, are in the host's page cache.
    pub(super) fn read_cached(&self, request: &Request) -> Result<Option<u32>, Errno> {
        let (handle, offset, sink) = self.reading(request)?;
        on_file(&handle, |file| {
            let Ok(done) = calls::read_at_once(file, &sink.front(u64::MAX), offset) else { return Ok(None) };
            let read = u64::from(done);
            let is_all = read == sink.bytes() || stat(file.as_fd())?.stx_size == offset + read;
            Ok(is_all.then_some(done))
        })
    }

    /// File, offset and buffers of a READ.
    fn reading(&self, request: &Request) -> Result<(Arc<Handle>, u64, HostBuffers), Errno> {
        let arguments = request.arguments(TRANSFER_IN)?;
        let (handle, offset, size, _) = transfer(&arguments)?;
        let bytes = u64::from(size.min(TRANSFER_MAX)).min(request.room());
        let sink = request.sink(bytes).ok_or(Errno::FAULT)?;
        Ok((self.table.handle(handle)?, offset, sink))
    }

    pub(super) fn write(&self, request: &Request) -> Answer {
        let arguments = request.arguments(TRANSFER_IN)?;
        let (handle, offset, size, flags) = transfer(&arguments)?;
        if request.room() < 8 || u64::from(size) > request.arguments_size() - TRANSFER_IN {
            return Err(Errno::INVAL);
        }
        let mut source = request.source(TRANSFER_IN, size.into()).ok_or(Errno::FAULT)?;
        on_file(&*self.table.handle(handle)?, |file| {
            let done = whole(&mut source, offset, |buffers, at| calls::write_at(file, buffers, at, false))?;
            if flags & WRITE_KILL_SUIDGID != 0 {
                end_privileges(file.as_fd())?;
            }
            Ok(written(done))
        })
    }

    pub(super) fn release(&self, request: &Request) -> Answer {
        let arguments = request.arguments(24)?;
        self.table.close(Arguments::new(&arguments).long()?)?;
        Ok(Reply::Body(Vec::new()))
    }

    pub(super) fn sync(&self, request: &Request) -> Answer {
        let arguments = request.arguments(16)?;
        let mut arguments = Arguments::new(&arguments);
        let (handle, flags) = (arguments.long()?, arguments.word()?);
        match &*self.table.handle(handle)? {
            Handle::File(file) if flags & FSYNC_DATA != 0 => rustix::fs::fdatasync(file)?,
            Handle::File(file) => rustix::fs::fsync(file)?,
            Handle::Directory(listing) => lock(listing).sync()?,
        }
        Ok(Reply::Body(Vec::new()))
    }

    /// SYNCFS: all of the file system that the node is on.
    pub(super) fn sync_all(&self, header: &InHeader) -> Answer {
        let inode = self.table.node(header.nodeid)?;
        if !self.read_only {
            rustix::fs::syncfs(self.host.reopen(&inode, OFlags::RDONLY)?)?;
        }
        Ok(Reply::Body(Vec::new()))
    }

    pub(super) fn allocate(&self, request: &Request) -> Answer {
        let arguments = request.arguments(32)?;
        let mut arguments = Arguments::new(&arguments);
        let [handle, offset, size] = [arguments.long()?, arguments.long()?, arguments.long()?];
        let known = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        let how = FallocateFlags::from_bits(arguments.word()?).filter(|how| known.contains(*how));
        let how = how.ok_or(Errno::OPNOTSUPP)?;
        on_file(&*self.table.handle(handle)?, |file| {
            rustix::fs::fallocate(file, how, offset, size)?;
            Ok(Reply::Body(Vec::new()))
        })
    }

    /// LSEEK: where data or a hole begins; all else the client knows by itself.
    pub(super) fn seek(&self, request: &Request) -> Answer {
        let arguments = request.arguments(24)?;
        let mut arguments = Arguments::new(&arguments);
        let (handle, offset) = (arguments.long()?, arguments.long()?);
        let to = match arguments.word()? as i32 {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        on_file(&*self.table.handle(handle)?, |file| {
            Ok(Reply::Body(Fields::default().long(rustix::fs::seek(file, to)?).done()))
        })
    }

    pub(super) fn copy(&self, request: &Request) -> Answer {
        let arguments = request.arguments(56)?;
        let mut arguments = Arguments::new(&arguments);
        let [from, mut from_at, _node] = [arguments.long()?, arguments.long()?, arguments.long()?];
        let [to, mut to_at, size] = [arguments.long()?, arguments.long()?, arguments.long()?];
        if arguments.long()? != 0 || request.room() < 8 {
            return Err(Errno::INVAL);
        }
        let size = size.min(COPY_MAX) as usize;
        let (from, to) = (self.table.handle(from)?, self.table.handle(to)?);
        on_file(&from, |from| {
            on_file(&to, |to| {
                let done = rustix::fs::copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), size)?;
                Ok(written(done as u32))
            })
        })
    }
}

/// Handle, offset, size and flags of a READ or WRITE.
fn transfer(arguments: &[u8]) -> Result<(u64, u64, u32, u32), Errno> {
    let mut arguments = Arguments::new(arguments);
    let (handle, offset) = (arguments.long()?, arguments.long()?);
    let [size, flags] = arguments.words()?;
    let [_lock_owner, _] = [arguments.long()?, arguments.long()?];
    // What would not fit into an offset of the host, and would mean something else there.
    let fits = offset.checked_add(size.into()).is_some_and(|end| i64::try_from(end).is_ok());
    if fits { Ok((handle, offset, size, flags)) } else { Err(Errno::INVAL) }
}

/// Moves all of `buffers`, or as much as there is. What went before an error counts, and the error comes with the next request.
fn whole(
    buffers: &mut HostBuffers,
    offset: u64,
    mut call: impl FnMut(&HostBuffers, u64) -> io::Result<u32>,
) -> Result<u32, Errno> {
    let mut done = 0;
    while buffers.bytes() > 0 {
        match call(&buffers.front(u64::MAX), offset + u64::from(done)) {
            Ok(0) => break,
            Ok(bytes) => {
                done += bytes;
                buffers.advance(bytes.into());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
    Ok(done)
}

fn on_file<T>(handle: &Handle, action: impl FnOnce(&File) -> Result<T, Errno>) -> Result<T, Errno> {
    match handle {
        Handle::File(file) => action(file),
        Handle::Directory(_) => Err(Errno::BADF),
    }
}

fn open_out(handle: u64, flags: u32) -> Vec<u8> {
    Fields::default().long(handle).word(flags).word(0).done()
}

/// `struct fuse_write_out`.
fn written(bytes: u32) -> Reply {
    Reply::Body(Fields::default().word(bytes).word(0).done())
}
