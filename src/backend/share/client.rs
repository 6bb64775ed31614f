//! The client's side of the FUSE protocol, on plain RAM: for tests and fuzzing of the server. It keeps the rules only as far as it is
//! asked to.
//!
//! Source: `fuse.h`.

use super::host::ShareError;
use super::protocol::{Fields, IN_HEADER, OUT_HEADER, ROOT, opcode};
use super::request::Request;
use super::server::{Rights, Server};
use super::table::Limits;
use crate::arch::layout::MIB;
use crate::memory::map::{GuestRange, MemoryMap};
use crate::memory::ram::{GuestRam, RamError};
use rustix::io::Errno;
use std::path::Path;
use std::sync::Arc;

/// Where requests and replies lie in RAM, and how long they may be.
const REQUEST: u64 = MIB;
const REPLY: u64 = 4 * MIB;
const SIZE: u64 = 3 * MIB;

/// A client of a server of its own.
pub struct Client {
    /// The server.
    pub server: Server,
    /// User and group that ask.
    pub user: (u32, u32),
    ram: Arc<GuestRam>,
}

/// What a client is told of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the header's own names")]
pub struct Entry {
    pub node: u64,
    pub number: u64,
    pub size: u64,
    pub mode: u32,
    pub links: u32,
    pub owner: (u32, u32),
}

impl Client {
    /// A client of the directory at `path`, before FUSE_INIT.
    ///
    /// # Errors
    /// It cannot be shared.
    pub fn new(path: &Path, rights: Rights, limits: Limits) -> Result<Client, ShareError> {
        let ram = Client::ram().map_err(|error| ShareError::Threads(std::io::Error::other(error)))?;
        Client::on(Arc::new(ram), path, rights, limits)
    }

    /// RAM that a client can work on.
    ///
    /// # Errors
    /// The host has none.
    pub fn ram() -> Result<GuestRam, RamError> {
        GuestRam::new(&MemoryMap::new(8 * MIB).expect("a size that RAM can have"))
    }

    /// A client like [`Client::new`]'s on RAM from [`Client::ram`], which may hold what another one left.
    ///
    /// # Errors
    /// The directory cannot be shared.
    pub fn on(ram: Arc<GuestRam>, path: &Path, rights: Rights, limits: Limits) -> Result<Client, ShareError> {
        let server = Server::new(path, rights, limits)?;
        Ok(Client { server, user: (0, 0), ram })
    }

    /// FUSE_INIT as Linux sends it, everything wished for. Returns the reply.
    ///
    /// # Errors
    /// The server's answer.
    pub fn initialize(&mut self) -> Result<Vec<u8>, Errno> {
        let wishes = Fields::default().word(7).word(38).word(1 << 17).word(u32::MAX).zeroes_to(64);
        self.ask(opcode::INIT, 0, &wishes.done(), 64)
    }

    /// A request whose reply may have `room` bytes behind its header. Returns what it has.
    ///
    /// # Errors
    /// The server's answer; EPROTO where it is no reply to this request.
    pub fn ask(&mut self, opcode: u32, node: u64, arguments: &[u8], room: u32) -> Result<Vec<u8>, Errno> {
        let message = message(opcode, node, self.user, arguments);
        let reply = self.send(&message, OUT_HEADER as u32 + room).ok_or(Errno::PROTO)?;
        body(&message, &reply)
    }

    /// The same of what can be answered without waiting; `None` where it cannot.
    pub fn ask_cached(
        &mut self,
        opcode: u32,
        node: u64,
        arguments: &[u8],
        room: u32,
    ) -> Option<Result<Vec<u8>, Errno>> {
        let message = message(opcode, node, self.user, arguments);
        let request = self.request(&message, OUT_HEADER as u32 + room);
        let bytes = self.server.serve_cached(&request)?;
        Some(body(&message, &self.reply(bytes)))
    }

    /// Has bytes served as they are, with so much room for a reply. `None`: there was none.
    pub fn send(&mut self, message: &[u8], room: u32) -> Option<Vec<u8>> {
        let request = self.request(message, room);
        let bytes = self.server.serve(&request);
        assert!(bytes <= room, "more than there is room for");
        (bytes > 0).then(|| self.reply(bytes))
    }

    /// A request in RAM, with so much room for a reply.
    fn request(&self, message: &[u8], room: u32) -> Request {
        let range = |start, size: u64| GuestRange { start, size: size.min(SIZE) };
        self.ram.write(REQUEST, message).expect("it is RAM");
        // In pieces: nothing depends on where a buffer ends.
        let (begin, size) = (message.len() as u64 / 3, message.len() as u64);
        let readable = vec![range(REQUEST, begin), range(REQUEST + begin, size - begin)];
        let half = u64::from(room) / 2;
        let writable = vec![range(REPLY, half), range(REPLY + half, u64::from(room) - half)];
        Request::new(self.ram.clone(), readable, writable)
    }

    fn reply(&self, bytes: u32) -> Vec<u8> {
        let mut reply = vec![0; bytes as usize];
        self.ram.read(REPLY, &mut reply).expect("it is RAM");
        reply
    }

    /// LOOKUP; a name that does not exist is an error here.
    ///
    /// # Errors
    /// The server's answer.
    pub fn lookup(&mut self, parent: u64, name: &str) -> Result<Entry, Errno> {
        let entry = Entry::parse(&self.ask(opcode::LOOKUP, parent, &text(name), 128)?);
        if entry.node == 0 { Err(Errno::NOENT) } else { Ok(entry) }
    }

    /// LOOKUP of each component from the shared directory on.
    ///
    /// # Errors
    /// The server's answer.
    pub fn walk(&mut self, path: &str) -> Result<Entry, Errno> {
        let mut entry = Entry { node: ROOT, number: 0, size: 0, mode: 0, links: 0, owner: (0, 0) };
        for name in path.split('/') {
            entry = self.lookup(entry.node, name)?;
        }
        Ok(entry)
    }

    /// GETATTR.
    ///
    /// # Errors
    /// The server's answer.
    pub fn attributes(&mut self, node: u64) -> Result<Entry, Errno> {
        let reply = self.ask(opcode::GETATTR, node, &[0; 16], 104)?;
        Ok(Entry::parse_attributes(node, &reply[16..]))
    }

    /// OPEN. Returns the handle.
    ///
    /// # Errors
    /// The server's answer.
    pub fn open(&mut self, node: u64, flags: i32) -> Result<u64, Errno> {
        self.open_as(opcode::OPEN, node, flags).map(|(handle, _)| handle)
    }

    /// OPEN or OPENDIR. Returns the handle, and the flags that come with it.
    ///
    /// # Errors
    /// The server's answer.
    pub fn open_as(&mut self, opcode: u32, node: u64, flags: i32) -> Result<(u64, u32), Errno> {
        let reply = self.ask(opcode, node, &Fields::default().word(flags as u32).word(0).done(), 16)?;
        let flags = u32::from_le_bytes(reply[8..12].try_into().expect("four bytes"));
        Ok((u64::from_le_bytes(reply[..8].try_into().expect("eight bytes")), flags))
    }

    /// CREATE. Returns the file, and its handle.
    ///
    /// # Errors
    /// The server's answer.
    pub fn create(&mut self, parent: u64, name: &str, flags: i32, mode: u32) -> Result<(Entry, u64), Errno> {
        let arguments = Fields::default().word(flags as u32).word(mode).word(0o22).word(0).bytes(&text(name));
        let reply = self.ask(opcode::CREATE, parent, &arguments.done(), 144)?;
        Ok((Entry::parse(&reply), u64::from_le_bytes(reply[128..136].try_into().expect("eight bytes"))))
    }

    /// READ.
    ///
    /// # Errors
    /// The server's answer.
    pub fn read(&mut self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let arguments = Fields::default().long(handle).long(offset).word(size).zeroes_to(40);
        self.ask(opcode::READ, ROOT, &arguments.done(), size)
    }

    /// WRITE. Returns the bytes that were written.
    ///
    /// # Errors
    /// The server's answer.
    pub fn write(&mut self, handle: u64, offset: u64, bytes: &[u8], flags: u32) -> Result<u32, Errno> {
        let arguments = Fields::default().long(handle).long(offset).word(bytes.len() as u32).word(flags).zeroes_to(40);
        let reply = self.ask(opcode::WRITE, ROOT, &arguments.bytes(bytes).done(), 8)?;
        Ok(u32::from_le_bytes(reply[..4].try_into().expect("four bytes")))
    }

    /// RELEASE.
    ///
    /// # Errors
    /// The server's answer.
    pub fn release(&mut self, handle: u64) -> Result<(), Errno> {
        self.ask(opcode::RELEASE, ROOT, &Fields::default().long(handle).zeroes_to(24).done(), 0).map(drop)
    }

    /// FORGET.
    pub fn forget(&mut self, node: u64, lookups: u64) {
        let message = message(opcode::FORGET, node, self.user, &lookups.to_le_bytes());
        assert_eq!(self.send(&message, 0), None, "there is no reply");
    }
}

impl Entry {
    /// `struct fuse_entry_out`.
    pub fn parse(reply: &[u8]) -> Entry {
        let node = u64::from_le_bytes(reply[..8].try_into().expect("eight bytes"));
        Entry::parse_attributes(node, &reply[40..])
    }

    /// `struct fuse_attr`.
    fn parse_attributes(node: u64, attributes: &[u8]) -> Entry {
        let word = |at: usize| u32::from_le_bytes(attributes[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(attributes[at..at + 8].try_into().expect("eight bytes"));
        Entry { node, number: long(0), size: long(8), mode: word(60), links: word(64), owner: (word(68), word(72)) }
    }
}

/// What a reply has behind its header, if it is one to this request.
fn body(message: &[u8], reply: &[u8]) -> Result<Vec<u8>, Errno> {
    let word = |at: usize| u32::from_le_bytes(reply[at..at + 4].try_into().expect("four bytes"));
    let whole = word(0) as usize == reply.len() && reply[8..16] == message[8..16];
    match (whole, word(4) as i32) {
        (true, 0) => Ok(reply[OUT_HEADER..].to_vec()),
        (true, error) if reply.len() == OUT_HEADER => Err(Errno::from_raw_os_error(-error)),
        _ => Err(Errno::PROTO),
    }
}

/// The bytes of a request.
pub fn message(opcode: u32, node: u64, (uid, gid): (u32, u32), arguments: &[u8]) -> Vec<u8> {
    let unique = 0x1122_3344_5566_7788 ^ node;
    let header = Fields::default().word((IN_HEADER + arguments.len()) as u32).word(opcode).long(unique).long(node);
    header.word(uid).word(gid).word(1).word(0).bytes(arguments).done()
}

/// A name as it stands in a request.
pub fn text(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}
