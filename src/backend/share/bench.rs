//! What the tests of the server work on: a directory of their own, of which a client has one part.

use super::client::{Client, Entry, text};
use super::protocol::{Fields, opcode};
use super::server::Rights;
use super::table::Limits;
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Enough for all tests but those of the limits.
pub const LIMITS: Limits = Limits { nodes: 10_000, handles: 1000 };

/// A directory with `shared` in it, which is what a client gets, and `secret` beside that.
pub struct Bench {
    /// The client.
    pub client: Client,
    /// The directory above the shared one.
    pub outside: PathBuf,
    /// The shared one.
    pub path: PathBuf,
}

impl Bench {
    pub fn new(read_only: bool) -> Bench {
        Bench::with(read_only, LIMITS, |_| {})
    }

    /// A bench whose directory is filled first.
    pub fn with(read_only: bool, limits: Limits, fill: impl FnOnce(&Path)) -> Bench {
        let rights = if read_only { Rights::Read } else { Rights::Write };
        Bench::with_rights(limits, fill, |_| rights)
    }

    /// A bench whose client has what rights `rights` makes of the filled directory.
    pub fn with_rights(limits: Limits, fill: impl FnOnce(&Path), rights: impl FnOnce(&Path) -> Rights) -> Bench {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("hostel-share-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let outside = std::env::temp_dir().join(name);
        let path = outside.join("shared");
        fs::create_dir_all(&path).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        fill(&path);
        // As a machine does: each node costs a descriptor, and tests run side by side.
        let _ = Limits::of_each(1);
        let mut client = Client::new(&path, rights(&path), limits).unwrap();
        client.initialize().unwrap();
        // Whoever runs the tests, a guest's same user makes what they make.
        client.user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Bench { client, outside, path }
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path.join(name)).unwrap()
    }

    /// SETATTR of what `valid` says, the rest of the structure being `values` by offset.
    pub fn set(&mut self, node: u64, valid: u32, values: &[(usize, u64)]) -> Result<Entry, Errno> {
        let mut arguments = Fields::default().word(valid).zeroes_to(88).done();
        for (offset, value) in values {
            // Fields of 32 bits from `atimensec` on.
            let size = if *offset < 56 { 8 } else { 4 };
            arguments[*offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
        self.client.ask(opcode::SETATTR, node, &arguments, 104)?;
        self.client.attributes(node)
    }

    pub fn make(&mut self, opcode: u32, parent: u64, words: &[u32], names: &[&str]) -> Result<Entry, Errno> {
        let fields = words.iter().fold(Fields::default(), |fields, word| fields.word(*word));
        let fields = names.iter().fold(fields, |fields, name| fields.bytes(&text(name)));
        self.client.ask(opcode, parent, &fields.done(), 128).map(|reply| Entry::parse(&reply))
    }

    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str), flags: RenameFlags) -> Result<(), Errno> {
        let fields = Fields::default().long(to.0).word(flags.bits()).word(0).bytes(&text(from.1)).bytes(&text(to.1));
        self.client.ask(opcode::RENAME2, from.0, &fields.done(), 0).map(drop)
    }

    /// All names of a directory, with their types and, of a READDIRPLUS, their nodes, by requests of `size` bytes.
    pub fn list(&mut self, node: u64, plus: bool, size: u32) -> Vec<(String, u32, u64)> {
        let listed = self.list_entries(node, plus, size).into_iter();
        listed.map(|(name, kind, entry)| (name, kind, entry.map_or(0, |entry| entry.node))).collect()
    }

    /// The same with all that a READDIRPLUS tells of each.
    pub fn list_entries(&mut self, node: u64, plus: bool, size: u32) -> Vec<(String, u32, Option<Entry>)> {
        let (handle, _) = self.client.open_as(opcode::OPENDIR, node, 0).unwrap();
        let opcode = if plus { opcode::READDIRPLUS } else { opcode::READDIR };
        let (mut found, mut offset) = (Vec::new(), 0);
        loop {
            let arguments = Fields::default().long(handle).long(offset).word(size).zeroes_to(40).done();
            let reply = self.client.ask(opcode, node, &arguments, size).unwrap();
            if reply.is_empty() {
                self.client.release(handle).unwrap();
                return found;
            }
            let mut rest = &reply[..];
            while !rest.is_empty() {
                let mut entry = None;
                if plus {
                    entry = Some(Entry::parse(rest));
                    rest = &rest[128..];
                }
                offset = u64::from_le_bytes(rest[8..16].try_into().unwrap());
                let length = u32::from_le_bytes(rest[16..20].try_into().unwrap()) as usize;
                let kind = u32::from_le_bytes(rest[20..24].try_into().unwrap());
                found.push((String::from_utf8(rest[24..24 + length].to_vec()).unwrap(), kind, entry));
                rest = &rest[(24 + length).next_multiple_of(8)..];
            }
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A directory that stays is no failure of what was tested.
        let _ = fs::remove_dir_all(&self.outside);
    }
}

/// Path, mode and content of all that is below a directory.
pub fn tree(directory: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let metadata = fs::symlink_metadata(entry.path()).unwrap();
        let content = match metadata.file_type() {
            kind if kind.is_symlink() => fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes(),
            kind if kind.is_file() => fs::read(entry.path()).unwrap(),
            _ => Vec::new(),
        };
        if metadata.is_dir() {
            found.extend(tree(&entry.path()));
        }
        found.insert(entry.path(), (metadata.mode(), content));
    }
    found
}

/// Whether root runs the tests.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
