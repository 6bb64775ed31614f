//! The server of a share: one request in, one reply out, on whatever thread.
//!
//! Modelled: FUSE 7.31 to 7.38 without what a guest's kernel does by itself (locks, access checks: it is asked to check permissions,
//! as every virtio-fs driver does), without DAX, writeback caching and access control lists. A share that is only to be read
//! refuses here whatever would change it, before anything is looked at. Source: `fuse.h`.

use super::guise::Guise;
use super::host::{Host, ShareError};
use super::protocol::{ENTRY_OUT, Fields, InHeader, MAJOR, MINOR, MINOR_MIN, init, opcode};
use super::request::Request;
use super::table::{Limits, Table};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::thread::UnshareFlags;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most bytes of a READ or WRITE.
pub const TRANSFER_MAX: u32 = 1 << 20;
/// Most requests that the client may have under way of its own accord, as for reading ahead.
const BACKGROUND_MAX: u16 = 128;
/// So many of them, and it counts as busy.
const BACKGROUND_BUSY: u16 = 96;
/// What the server offers.
const OFFERED: u32 = init::ASYNC_READ
    | init::ATOMIC_O_TRUNC
    | init::BIG_WRITES
    | init::AUTO_INVAL_DATA
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::MAX_PAGES
    | init::CACHE_SYMLINKS
    | init::HANDLE_KILLPRIV_V2;
/// Bytes of `struct fuse_init_out`.
const INIT_OUT: usize = 64;

thread_local! {
    /// Set on a thread when it serves for the first time: from then on what it makes has the permissions that the guest asks for, and
    /// no umask of this process takes any away. False where the host refuses that.
    static MODES_ARE_EXACT: bool = {
        #[expect(deprecated, reason = "what makes unshare(2) unsafe is CLONE_FILES, which is not asked for")]
        let alone = rustix::thread::unshare(UnshareFlags::FS).is_ok();
        if alone {
            rustix::process::umask(Mode::empty());
        }
        alone
    };
}

/// What a request is answered with.
#[derive(Debug)]
pub enum Reply {
    /// Nothing: the client expects none.
    None,
    /// This.
    Body(Vec<u8>),
    /// So many bytes that are in the guest's buffers already.
    InPlace(u32),
}

/// A reply or an error.
pub type Answer = Result<Reply, Errno>;

/// What a client may do with a share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rights {
    /// Whatever this process may.
    #[default]
    Write,
    /// Only read it.
    Read,
    /// Only read it, its files being shown as something else.
    ReadAs(Arc<Guise>),
}

/// The server.
pub struct Server {
    pub(super) host: Host,
    pub(super) table: Table,
    pub(super) read_only: bool,
    pub(super) guise: Option<Arc<Guise>>,
    initialized: AtomicBool,
}

impl Server {
    /// A server of the directory at `path`, one of `shares` in this process.
    ///
    /// # Errors
    /// It cannot be shared.
    pub fn open(path: &Path, rights: Rights, shares: usize) -> Result<Server, ShareError> {
        Server::new(path, rights, Limits::of_each(shares))
    }

    /// A server of the directory at `path` with tables of these sizes.
    ///
    /// # Errors
    /// It cannot be shared.
    pub fn new(path: &Path, rights: Rights, limits: Limits) -> Result<Server, ShareError> {
        let (host, root) = Host::open(path)?;
        let table = Table::new(root, limits);
        let (read_only, guise) = match rights {
            Rights::Write => (false, None),
            Rights::Read => (true, None),
            Rights::ReadAs(guise) => (true, Some(guise)),
        };
        Ok(Server { host, table, read_only, guise, initialized: AtomicBool::new(false) })
    }

    /// Serves a request. Returns the bytes that were written into its buffers.
    pub fn serve(&self, request: &Request) -> u32 {
        MODES_ARE_EXACT.with(|_| ());
        let Some(header) = request.header() else { return 0 };
        let answer = match u64::from(header.len) == request.size() {
            true => self.answer(&header, request),
            false => Err(Errno::INVAL),
        };
        match answer {
            Ok(Reply::None) => 0,
            Ok(Reply::Body(body)) => request.reply(header.unique, None, &body, 0),
            Ok(Reply::InPlace(bytes)) => request.reply(header.unique, None, &[], bytes),
            Err(error) => request.reply(header.unique, Some(error), &[], 0),
        }
    }

    /// Serves a READ of what the host has in its page cache, for which nobody waits. Returns the bytes that were written into its
    /// buffers; `None`, and it is still to be served: it is something else, or not all of it is there.
    pub fn serve_cached(&self, request: &Request) -> Option<u32> {
        let header = request.header().filter(|header| header.opcode == opcode::READ)?;
        let is_served =
            self.initialized.load(Ordering::Relaxed) && request.has_reply() && u64::from(header.len) == request.size();
        let bytes = is_served.then(|| self.read_cached(request))?.ok().flatten()?;
        Some(request.reply(header.unique, None, &[], bytes))
    }

    /// Forgets the client.
    pub fn reset(&self) {
        self.initialized.store(false, Ordering::Relaxed);
        self.table.clear();
    }

    fn answer(&self, header: &InHeader, request: &Request) -> Answer {
        match header.opcode {
            // Nobody waits for an answer, be it an error.
            opcode::FORGET => return Ok(self.forget(header, request).map_or(Reply::None, |()| Reply::None)),
            opcode::BATCH_FORGET => return Ok(self.batch_forget(request).map_or(Reply::None, |()| Reply::None)),
            // Nothing here waits for what an interruption would end.
            opcode::INTERRUPT => return Ok(Reply::None),
            _ if !request.has_reply() => return Ok(Reply::None),
            _ => {}
        }
        match header.opcode {
            opcode::INIT => return self.initialize(request),
            _ if !self.initialized.load(Ordering::Relaxed) => return Err(Errno::IO),
            opcode if self.read_only && changes(opcode) => return Err(Errno::ROFS),
            opcode if makes_entry(opcode) && request.room() < ENTRY_OUT as u64 => return Err(Errno::INVAL),
            _ => {}
        }
        match header.opcode {
            opcode::LOOKUP => self.lookup(header, request),
            opcode::GETATTR => self.get_attributes(header, request),
            opcode::SETATTR => self.set_attributes(header, request),
            opcode::READLINK => self.read_link(header, request),
            opcode::SYMLINK => self.make_link(header, request),
            opcode::MKNOD => self.make_node(header, request),
            opcode::MKDIR => self.make_directory(header, request),
            opcode::UNLINK => self.remove(header, request, false),
            opcode::RMDIR => self.remove(header, request, true),
            opcode::RENAME => self.rename(header, request, false),
            opcode::RENAME2 => self.rename(header, request, true),
            opcode::LINK => self.link(header, request),
            opcode::OPEN => self.open_file(header, request),
            opcode::CREATE => self.create(header, request, false),
            opcode::TMPFILE => self.create(header, request, true),
            opcode::READ => self.read(request),
            opcode::WRITE => self.write(request),
            opcode::STATFS => self.statistics(header),
            opcode::RELEASE | opcode::RELEASEDIR => self.release(request),
            opcode::FSYNC | opcode::FSYNCDIR => self.sync(request),
            opcode::SYNCFS => self.sync_all(header),
            opcode::SETXATTR => self.set_extended(header, request),
            opcode::GETXATTR => self.get_extended(header, request),
            opcode::LISTXATTR => self.list_extended(header, request),
            opcode::REMOVEXATTR => self.remove_extended(header, request),
            opcode::OPENDIR => self.open_directory(header, request),
            opcode::READDIR => self.list(header, request, false),
            opcode::READDIRPLUS => self.list(header, request, true),
            opcode::FALLOCATE => self.allocate(request),
            opcode::LSEEK => self.seek(request),
            opcode::COPY_FILE_RANGE => self.copy(request),
            opcode::DESTROY => {
                self.reset();
                Ok(Reply::Body(Vec::new()))
            }
            // FLUSH too: there is nothing to be done when a file is closed, and it is not asked for again.
            _ => Err(Errno::NOSYS),
        }
    }

    /// FUSE_INIT: another client, or the first.
    fn initialize(&self, request: &Request) -> Answer {
        let arguments = request.arguments(INIT_OUT as u64)?;
        let [major, minor, read_ahead, flags] = super::protocol::Arguments::new(&arguments).words()?;
        if request.room() < INIT_OUT as u64 || major < MAJOR || (major == MAJOR && minor < MINOR_MIN) {
            return Err(Errno::PROTO);
        }
        let reply = Fields::default().word(MAJOR);
        if major > MAJOR {
            // It asks again, by the version that it hears of.
            return Ok(Reply::Body(reply.word(MINOR).zeroes_to(INIT_OUT).done()));
        }
        self.reset();
        self.initialized.store(true, Ordering::Relaxed);
        let background = u32::from(BACKGROUND_BUSY) << 16 | u32::from(BACKGROUND_MAX);
        let reply = reply.word(minor.min(MINOR)).word(read_ahead).word(flags & OFFERED).word(background);
        let granularity_ns = 1;
        let pages = TRANSFER_MAX / 4096;
        Ok(Reply::Body(reply.word(TRANSFER_MAX).word(granularity_ns).word(pages).zeroes_to(INIT_OUT).done()))
    }
}

/// Whether a request changes the share whatever its arguments are.
fn changes(opcode: u32) -> bool {
    use opcode::*;
    matches!(
        opcode,
        SETATTR | SYMLINK | MKNOD | MKDIR | UNLINK | RMDIR | RENAME | RENAME2 | LINK | CREATE | TMPFILE | WRITE
    ) || matches!(opcode, SETXATTR | REMOVEXATTR | FALLOCATE | COPY_FILE_RANGE)
}

/// Whether a request is answered with a node that counts as looked up: not without room to tell which.
fn makes_entry(opcode: u32) -> bool {
    use opcode::*;
    matches!(opcode, LOOKUP | SYMLINK | MKNOD | MKDIR | LINK | CREATE | TMPFILE)
}
