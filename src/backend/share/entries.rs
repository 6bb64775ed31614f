//! Requests about the entries of directories: look up, forget, make, link, rename, remove.
//!
//! Special files can be made, for sockets and pipes of the guest are its own kernel's, but no device: the host's users could open it.
//! The one exception is the device 0:0, by which overlay file systems say that an entry is gone (`overlayfs.rst`).
//! Sources: `fuse.h`; openat2(2), mknod(2), linkat(2), rename(2).

use super::attributes::VALID_S;
use super::host::Inode;
use super::protocol::{Arguments, ENTRY_OUT, Fields, InHeader};
use super::request::Request;
use super::server::{Answer, Reply, Server};
use rustix::fs::{AtFlags, FileType, Mode, RenameFlags, Statx};
use rustix::io::Errno;
use std::ffi::CStr;
use std::sync::Arc;

impl Server {
    pub(super) fn lookup(&self, header: &InHeader, request: &Request) -> Answer {
        let arguments = request.arguments(u64::MAX)?;
        let mut arguments = Arguments::new(&arguments);
        let name = arguments.name()?;
        arguments.end()?;
        let parent = self.table.node(header.nodeid)?;
        match self.host.child(&parent, name) {
            // Node 0: there is none, and that may be remembered too.
            Err(Errno::NOENT) => Ok(Reply::Body(Fields::default().long(0).long(0).long(VALID_S).zeroes_to(128).done())),
            found => Ok(Reply::Body(self.entry(found?)?)),
        }
    }

    pub(super) fn forget(&self, header: &InHeader, request: &Request) -> Result<(), Errno> {
        let arguments = request.arguments(8)?;
        self.table.forget(header.nodeid, Arguments::new(&arguments).long()?);
        Ok(())
    }

    pub(super) fn batch_forget(&self, request: &Request) -> Result<(), Errno> {
        let arguments = request.arguments(u64::MAX)?;
        let mut arguments = Arguments::new(&arguments);
        let [count, _] = arguments.words()?;
        for _ in 0..count {
            // As many as there are, whatever it says.
            let (node, lookups) = (arguments.long()?, arguments.long()?);
            self.table.forget(node, lookups);
        }
        Ok(())
    }

    pub(super) fn make_directory(&self, header: &InHeader, request: &Request) -> Answer {
        let arguments = request.arguments(u64::MAX)?;
        let mut arguments = Arguments::new(&arguments);
        let [mode, _umask] = arguments.words()?;
        self.make(header, arguments, |parent, name| rustix::fs::mkdirat(parent.fd(), name, permissions(mode)))
    }

    pub(super) fn make_node(&self, header: &InHeader, request: &Request) -> Answer {
        let arguments = request.arguments(u64::MAX)?;
        let mut arguments = Arguments::new(&arguments);
        let [mode, device, _umask, _] = arguments.words()?;
        let kind = FileType::from_raw_mode(mode);
        match kind {
            FileType::RegularFile | FileType::Fifo | FileType::Socket => {}
            FileType::CharacterDevice if device == 0 => {}
            _ => return Err(Errno::PERM),
        }
        self.make(header, arguments, |parent, name| rustix::fs::mknodat(parent.fd(), name, kind, permissions(mode), 0))
    }

    pub(super) fn make_link(&self, header: &InHeader, request: &Request) -> Answer {
        let arguments = request.arguments(u64::MAX)?;
        let mut rest = Arguments::new(&arguments);
        rest.name()?;
        let target = rest.text()?;
        rest.end()?;
        let name_only = Arguments::new(&arguments[..arguments.len() - target.count_bytes() - 1]);
        self.make(header, name_only, |parent, name| rustix::fs::symlinkat(target, parent.fd(), name))
    }

    pub(super) fn link(&self, header: &InHeader, request: &Request) -> Answer {
        let arguments = request.arguments(u64::MAX)?;
        let mut arguments = Arguments::new(&arguments);
        let inode = self.table.node(arguments.long()?)?;
        let name = arguments.name()?;
        arguments.end()?;
        let parent = self.changeable(header.nodeid)?;
        let (directory, entry) = self.host.entry(inode.fd());
        rustix::fs::linkat(directory, entry, parent.fd(), name, AtFlags::SYMLINK_FOLLOW)?;
        Ok(Reply::Body(self.entry(self.host.child(&parent, name)?)?))
    }

    pub(super) fn remove(&self, header: &InHeader, request: &Request, directory: bool) -> Answer {
        let arguments = request.arguments(u64::MAX)?;
        let mut arguments = Arguments::new(&arguments);
        let name = arguments.name()?;
        arguments.end()?;
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(self.changeable(header.nodeid)?.fd(), name, flags)?;
        Ok(Reply::Body(Vec::new()))
    }

    pub(super) fn rename(&self, header: &InHeader, request: &Request, has_flags: bool) -> Answer {
        let arguments = request.arguments(u64::MAX)?;
        let mut arguments = Arguments::new(&arguments);
        let target = arguments.long()?;
        let [flags, _] = if has_flags { arguments.words()? } else { [0, 0] };
        let known = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE | RenameFlags::WHITEOUT;
        let flags = RenameFlags::from_bits(flags).filter(|flags| known.contains(*flags)).ok_or(Errno::INVAL)?;
        let (old, new) = (arguments.name()?, arguments.name()?);
        arguments.end()?;
        let (from, to) = (self.changeable(header.nodeid)?, self.changeable(target)?);
        rustix::fs::renameat_with(from.fd(), old, to.fd(), new, flags)?;
        Ok(Reply::Body(Vec::new()))
    }

    /// Makes what is named last in `arguments` as the user who asks, and looks it up.
    fn make(
        &self,
        header: &InHeader,
        mut arguments: Arguments<'_>,
        make: impl FnOnce(&Inode, &CStr) -> Result<(), Errno>,
    ) -> Answer {
        let name = arguments.name()?;
        arguments.end()?;
        let parent = self.changeable(header.nodeid)?;
        self.table.has_node()?;
        self.host.identity.acting_as(header.uid, header.gid, || make(&parent, name))?;
        Ok(Reply::Body(self.entry(self.host.child(&parent, name)?)?))
    }

    /// A directory in which something may be made or removed.
    pub(super) fn changeable(&self, node: u64) -> Result<Arc<Inode>, Errno> {
        let inode = self.table.node(node)?;
        if inode.is_made_up() { Err(Errno::PERM) } else { Ok(inode) }
    }

    /// `struct fuse_entry_out` of a file that counts as looked up from now on.
    pub(super) fn entry(&self, (inode, stat): (Inode, Statx)) -> Result<Vec<u8>, Errno> {
        let (node, _) = self.table.look_up(inode)?;
        Ok(self.known_entry(node, &stat))
    }

    /// `struct fuse_entry_out` of a node.
    pub(super) fn known_entry(&self, node: u64, stat: &Statx) -> Vec<u8> {
        let generation = 0; // no node's number is given twice
        let fields = Fields::of(ENTRY_OUT).long(node).long(generation).long(VALID_S).long(VALID_S).word(0).word(0);
        fields.bytes(&self.attr(stat)).done()
    }
}

/// Permission bits, with set-user-ID and its like.
pub(super) fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & 0o7777)
}
