//! What a client knows of a share: nodes, which it has looked up so many times, and handles, which it has opened.
//!
//! Numbers are never given twice. Both tables are bounded, and a client that is full gets ENFILE; one that forgets more often than
//! it looked up has forgotten. What a request works with is held by it, whatever is forgotten meanwhile. Source: `fuse.h`.

use super::directory::Listing;
use super::host::{Inode, Key};
use super::protocol::ROOT;
use crate::bus::bus::lock;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

/// Descriptors that are kept for everything else in the process.
const DESCRIPTORS_KEPT: usize = 256;
/// Most nodes of a share, however many descriptors there are.
const NODES_MAX: usize = 1 << 20;
/// Most handles of a share.
const HANDLES_MAX: usize = 1 << 16;

/// Something open.
pub enum Handle {
    /// A regular file.
    File(File),
    /// A directory that is being listed.
    Directory(Mutex<Listing>),
}

/// Most entries of both tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes; each costs a descriptor.
    pub nodes: usize,
    /// Handles; each costs a descriptor.
    pub handles: usize,
}

impl Limits {
    /// Limits for each of `shares` shares, after this process may have as many descriptors as the host lets it.
    pub fn of_each(shares: usize) -> Limits {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // More than the limit's own limit only root can have, and nobody more than `fs.nr_open` (proc_sys_fs(5)).
        let all = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
        for most in [all, maximum] {
            if most.is_some() && setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).is_ok() {
                break;
            }
        }
        let descriptors = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| most as usize);
        let each = descriptors.saturating_sub(DESCRIPTORS_KEPT) / shares.max(1);
        Limits { nodes: (each / 4 * 3).min(NODES_MAX), handles: (each / 4).min(HANDLES_MAX) }
    }
}

/// The tables.
pub struct Table {
    limits: Limits,
    root: Arc<Inode>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    nodes: HashMap<u64, Node>,
    by_key: HashMap<Key, u64>,
    handles: HashMap<u64, Arc<Handle>>,
    last_node: u64,
    last_handle: u64,
}

struct Node {
    inode: Arc<Inode>,
    lookups: u64,
}

impl Table {
    /// Tables with nothing in them but the shared directory.
    pub fn new(root: Inode, limits: Limits) -> Table {
        let entries = Entries { last_node: ROOT, ..Entries::default() };
        Table { limits, root: Arc::new(root), entries: Mutex::new(entries) }
    }

    /// A node.
    ///
    /// # Errors
    /// ESTALE: it is not known, or not any more.
    pub fn node(&self, id: u64) -> Result<Arc<Inode>, Errno> {
        if id == ROOT {
            return Ok(self.root.clone());
        }
        lock(&self.entries).nodes.get(&id).map(|node| node.inode.clone()).ok_or(Errno::STALE)
    }

    /// Whether this is the shared directory itself.
    pub fn is_root(&self, inode: &Inode) -> bool {
        inode.key == self.root.key
    }

    /// Notes that a file was looked up, and returns its node.
    ///
    /// # Errors
    /// ENFILE: the table is full.
    pub fn look_up(&self, inode: Inode) -> Result<(u64, Arc<Inode>), Errno> {
        if inode.key == self.root.key {
            return Ok((ROOT, self.root.clone()));
        }
        let entries = &mut *lock(&self.entries);
        if let Some(id) = entries.by_key.get(&inode.key).copied() {
            let node = entries.nodes.get_mut(&id).expect("both maps have it");
            node.lookups = node.lookups.saturating_add(1);
            return Ok((id, node.inode.clone()));
        }
        if entries.nodes.len() >= self.limits.nodes {
            return Err(Errno::NFILE);
        }
        entries.last_node += 1;
        let (id, inode) = (entries.last_node, Arc::new(inode));
        entries.by_key.insert(inode.key, id);
        entries.nodes.insert(id, Node { inode: inode.clone(), lookups: 1 });
        Ok((id, inode))
    }

    /// Whether a file has a node.
    pub fn knows(&self, key: &Key) -> bool {
        lock(&self.entries).by_key.contains_key(key)
    }

    /// Notes that a file was looked up, if it has a node, and returns that.
    pub fn look_up_known(&self, key: &Key) -> Option<u64> {
        let entries = &mut *lock(&self.entries);
        let id = *entries.by_key.get(key)?;
        let node = entries.nodes.get_mut(&id).expect("both maps have it");
        node.lookups = node.lookups.saturating_add(1);
        Some(id)
    }

    /// Takes `lookups` of a node back; it is gone with the last.
    pub fn forget(&self, id: u64, lookups: u64) {
        let gone = {
            let entries = &mut *lock(&self.entries);
            let Some(node) = entries.nodes.get_mut(&id) else { return };
            node.lookups = node.lookups.saturating_sub(lookups);
            if node.lookups > 0 {
                return;
            }
            entries.by_key.remove(&node.inode.key);
            entries.nodes.remove(&id)
        };
        // Let go here, without the lock: of a file that was removed this is the end, which may take long.
        drop(gone);
    }

    /// Whether another node can be had: to be asked before something is made that needs one.
    ///
    /// # Errors
    /// ENFILE: the table is full.
    pub fn has_node(&self) -> Result<(), Errno> {
        if lock(&self.entries).nodes.len() < self.limits.nodes { Ok(()) } else { Err(Errno::NFILE) }
    }

    /// Whether another handle can be had: to be asked before something is made or cut short that needs one.
    ///
    /// # Errors
    /// ENFILE: the table is full.
    pub fn has_handle(&self) -> Result<(), Errno> {
        if lock(&self.entries).handles.len() < self.limits.handles { Ok(()) } else { Err(Errno::NFILE) }
    }

    /// Notes that something was opened, and returns its handle.
    ///
    /// # Errors
    /// ENFILE: the table is full.
    pub fn open(&self, handle: Handle) -> Result<u64, Errno> {
        let entries = &mut *lock(&self.entries);
        if entries.handles.len() >= self.limits.handles {
            return Err(Errno::NFILE);
        }
        entries.last_handle += 1;
        entries.handles.insert(entries.last_handle, Arc::new(handle));
        Ok(entries.last_handle)
    }

    /// A handle.
    ///
    /// # Errors
    /// EBADF: it is not open.
    pub fn handle(&self, id: u64) -> Result<Arc<Handle>, Errno> {
        lock(&self.entries).handles.get(&id).cloned().ok_or(Errno::BADF)
    }

    /// Closes a handle.
    ///
    /// # Errors
    /// EBADF: it is not open.
    pub fn close(&self, id: u64) -> Result<(), Errno> {
        let closed = lock(&self.entries).handles.remove(&id);
        // As above, without the lock.
        closed.map(drop).ok_or(Errno::BADF)
    }

    /// Forgets everything. Numbers go on.
    pub fn clear(&self) {
        let Entries { last_node, last_handle, .. } = *lock(&self.entries);
        let fresh = Entries { last_node, last_handle, ..Entries::default() };
        drop(std::mem::replace(&mut *lock(&self.entries), fresh));
    }

    /// Nodes besides the root, and handles.
    pub fn counts(&self) -> (usize, usize) {
        let entries = lock(&self.entries);
        (entries.nodes.len(), entries.handles.len())
    }
}
