//! Listing directories: READDIR, and READDIRPLUS, by which each name comes with what a lookup of it would tell.
//!
//! An offset is what the host's file system gives as the place behind an entry, so a listing may go on anywhere and nothing is kept
//! between two requests but the place. Sources: `fuse.h`; getdents(2).

use super::host::Inode;
use super::protocol::{Arguments, DIRENT, ENTRY_OUT, Fields, InHeader, OPEN_OUT};
use super::request::Request;
use super::server::{Answer, Reply, Server};
use super::table::Handle;
use crate::bus::bus::lock;
use rustix::fs::{RawDir, RawDirEntry, SeekFrom};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

/// Most bytes of a listing in one reply.
const REPLY_MAX: u64 = 128 << 10;
/// Most bytes that are asked of the host at once, and fewest: an entry with the longest name takes 280.
const HOST_BYTES: (usize, usize) = (512, 32 << 10);
/// An entry of a READDIRPLUS takes so many times what it takes on the host, where names are short.
const PLUS_FACTOR: usize = 5;

/// A directory that is being listed.
pub struct Listing {
    directory: OwnedFd,
    /// Where its descriptor stands; `None` where that was not the end of what was taken.
    place: Option<u64>,
}

impl Listing {
    /// Brings the directory onto the medium.
    ///
    /// # Errors
    /// What the host says.
    pub fn sync(&self) -> Result<(), Errno> {
        rustix::fs::fsync(&self.directory)
    }
}

impl Server {
    pub(super) fn open_directory(&self, header: &InHeader, request: &Request) -> Answer {
        let inode = self.table.node(header.nodeid)?;
        if !inode.is_directory() {
            return Err(Errno::NOTDIR);
        }
        if request.room() < OPEN_OUT as u64 {
            return Err(Errno::INVAL);
        }
        let directory = self.host.reopen_directory(&inode)?;
        let handle = self.table.open(Handle::Directory(Mutex::new(Listing { directory, place: Some(0) })))?;
        Ok(Reply::Body(Fields::default().long(handle).word(0).word(0).done()))
    }

    pub(super) fn list(&self, header: &InHeader, request: &Request, plus: bool) -> Answer {
        let arguments = request.arguments(40)?;
        let mut arguments = Arguments::new(&arguments);
        let (handle, offset, size) = (arguments.long()?, arguments.long()?, arguments.word()?);
        let inode = self.table.node(header.nodeid)?;
        let size = u64::from(size).min(request.room()).min(REPLY_MAX) as usize;
        match &*self.table.handle(handle)? {
            Handle::Directory(listing) => {
                let mut listing = lock(listing);
                let mut reply = Vec::with_capacity(size);
                match self.fill(&mut reply, size, &inode, &mut listing, offset, plus) {
                    Err(error) if reply.is_empty() => Err(error),
                    _ => Ok(Reply::Body(reply)),
                }
            }
            Handle::File(_) => Err(Errno::NOTDIR),
        }
    }

    /// Adds entries from `offset` on as long as they fit.
    fn fill(
        &self,
        reply: &mut Vec<u8>,
        size: usize,
        inode: &Inode,
        listing: &mut Listing,
        offset: u64,
        plus: bool,
    ) -> Result<(), Errno> {
        let mut buffer = Vec::with_capacity(HOST_BYTES.1);
        let mut at = offset;
        while size - reply.len() >= HOST_BYTES.0 || reply.is_empty() {
            if listing.place != Some(at) {
                rustix::fs::seek(&listing.directory, SeekFrom::Start(at))?;
            }
            listing.place = None;
            let bytes = (size - reply.len()) / if plus { PLUS_FACTOR } else { 1 };
            let bytes = bytes.clamp(HOST_BYTES.0, HOST_BYTES.1);
            let mut entries = RawDir::new(&listing.directory, &mut buffer.spare_capacity_mut()[..bytes]);
            loop {
                let Some(entry) = entries.next() else {
                    listing.place = Some(at);
                    return Ok(());
                };
                let entry = entry?;
                if !self.add(reply, size, inode, &entry, plus) {
                    return Ok(());
                }
                at = entry.next_entry_cookie();
                if entries.is_buffer_empty() {
                    break;
                }
            }
            listing.place = Some(at);
        }
        Ok(())
    }

    /// What a lookup of a name would tell that the host has listed with this number. A file that the client knows is held already:
    /// one call of the host tells its attributes, where to hold it anew and let go of it takes three.
    fn listed(&self, directory: &Inode, name: &CStr, number: u64) -> Result<Vec<u8>, Errno> {
        if self.table.knows(&directory.key.beside(number)) {
            // Whatever has that name by now: it is told of if it is known, else it is looked up like any other.
            let (key, stat) = self.host.look(directory, name)?;
            if let Some(node) = self.table.look_up_known(&key) {
                return Ok(self.known_entry(node, &stat));
            }
        }
        self.entry(self.host.child(directory, name)?)
    }

    /// Adds an entry, if it fits. A file that is gone already, or for which there is no room, comes without a node, as READDIR has it.
    fn add(&self, reply: &mut Vec<u8>, size: usize, inode: &Inode, entry: &RawDirEntry<'_>, plus: bool) -> bool {
        let name = entry.file_name();
        let dots = matches!(name.to_bytes(), b"." | b"..");
        let whole = (DIRENT + name.count_bytes()).next_multiple_of(8) + if plus { ENTRY_OUT } else { 0 };
        if reply.len() + whole > size {
            return false;
        }
        if inode.is_made_up() && !dots {
            return true;
        }
        let end = reply.len() + whole;
        if plus {
            let node = (!dots).then(|| self.listed(inode, name, entry.ino()).ok());
            reply.extend(node.flatten().unwrap_or_else(|| vec![0; ENTRY_OUT]));
        }
        // What is above the shared directory is nothing of the guest's, not even by number.
        let number = match name.to_bytes() == b".." && self.table.is_root(inode) {
            true => inode.key.number(),
            false => entry.ino(),
        };
        reply.extend(self.host.number(inode.key.device(), number).to_le_bytes());
        reply.extend(entry.next_entry_cookie().to_le_bytes());
        reply.extend((name.count_bytes() as u32).to_le_bytes());
        // The type as directories have it: bits 12 to 15 of a mode.
        let kind = self.guise.as_ref().and_then(|guise| guise.kind(entry.ino())).unwrap_or(entry.file_type());
        reply.extend((kind.as_raw_mode() >> 12).to_le_bytes());
        reply.extend(name.to_bytes());
        reply.resize(end, 0);
        true
    }
}
