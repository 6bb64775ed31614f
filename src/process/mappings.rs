//! What is mapped where in an address space: ranges, and where their content comes from. Nothing here touches a page.
//!
//! Anonymous shared pages belong to an object that all mappings name. Mappings that touch and are alike become one, so that programs that
//! map page by page have few.
//! Source: mmap(2).

use super::files::OpenFile;
use super::frames::Frames;
use super::space::{STACK_SIZE, USER_START};
use super::tables::{Rights, USER_END};
use crate::bus::bus::lock;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Below this, mappings are placed that name no address: a stack and a gap from the end.
pub const MAP_TOP: u64 = USER_END - STACK_SIZE - (128 << 20);
/// Most mappings of an address space (Linux `vm.max_map_count`).
pub const MAPPINGS_MAX: usize = 65_530;

/// Where a mapping's content comes from.
#[derive(Clone)]
pub enum Backing {
    /// Zeros.
    Anonymous,
    /// Pages that all mappings of the object share, from this byte of it on.
    Shared(Arc<SharedPages>, u64),
    /// A private copy of a file, from this byte of it on.
    File(Arc<OpenFile>, u64),
}

impl Backing {
    /// Anonymous memory that several address spaces can share.
    pub fn shared(frames: Arc<Frames>) -> Backing {
        Backing::Shared(Arc::new(SharedPages { frames, pages: Mutex::default() }), 0)
    }

    /// It begins so many bytes later.
    pub fn skip(&mut self, bytes: u64) {
        match self {
            Backing::Anonymous => {}
            Backing::Shared(_, offset) | Backing::File(_, offset) => *offset += bytes,
        }
    }
}

/// Anonymous memory that several address spaces share.
pub struct SharedPages {
    frames: Arc<Frames>,
    pages: Mutex<BTreeMap<u64, u64>>,
}

impl SharedPages {
    /// The frame of the page at `offset`, with a user more.
    pub fn frame(&self, offset: u64) -> Option<u64> {
        let mut pages = lock(&self.pages);
        let frame = match pages.get(&offset) {
            Some(frame) => *frame,
            None => *pages.entry(offset).or_insert(self.frames.allocate()?),
        };
        self.frames.share(frame);
        Some(frame)
    }
}

impl Drop for SharedPages {
    fn drop(&mut self) {
        self.frames.release(lock(&self.pages).values().copied().collect());
    }
}

/// A range with one content and the same rights throughout.
#[derive(Clone)]
pub struct Mapping {
    /// First address behind it.
    pub end: u64,
    /// What it may be used for.
    pub rights: Rights,
    /// Its content.
    pub backing: Backing,
}

/// The mappings of an address space, by where they begin; none overlap.
#[derive(Clone, Default)]
pub struct Mappings(BTreeMap<u64, Mapping>);

impl Mappings {
    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&u64, &Mapping)> {
        self.0.iter()
    }

    /// Whether there may be no more.
    pub fn is_full(&self) -> bool {
        self.0.len() >= MAPPINGS_MAX
    }

    /// Whether all of `start..end` is mapped.
    pub fn is_mapped(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        while at < end {
            match self.find(at) {
                Some((_, mapping)) => at = mapping.end,
                None => return false,
            }
        }
        true
    }

    /// Takes away those that begin in `start..end`; they are what was there.
    pub fn take(&mut self, start: u64, end: u64) -> Vec<(u64, Mapping)> {
        let starts: Vec<u64> = self.0.range(start..end).map(|(start, _)| *start).collect();
        starts.into_iter().filter_map(|start| Some((start, self.0.remove(&start)?))).collect()
    }

    /// Takes away those behind the one at `last`.
    pub fn forget_behind(&mut self, last: u64) {
        self.0.retain(|start, _| *start <= last);
    }

    /// The mapping in which `address` lies, and where it begins.
    pub fn find(&self, address: u64) -> Option<(u64, &Mapping)> {
        let (start, mapping) = self.0.range(..=address).next_back()?;
        (address < mapping.end).then_some((*start, mapping))
    }

    /// Whether nothing is mapped in `start..end`, nor at `start`.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        self.find(start).is_none() && self.0.range(start..end.max(start)).next().is_none()
    }

    /// The highest room of `size` bytes.
    pub fn find_free(&self, size: u64) -> Option<u64> {
        let mut end = MAP_TOP;
        for (start, mapping) in self.0.range(..MAP_TOP).rev() {
            if mapping.end.checked_add(size).is_some_and(|needed| needed <= end) {
                break;
            }
            end = end.min(*start);
        }
        end.checked_sub(size).filter(|start| *start >= USER_START)
    }

    /// Makes `start` and `end` borders of mappings.
    ///
    /// # Errors
    /// ENOMEM: there would be more mappings than there may be.
    pub fn split_at(&mut self, start: u64, end: u64) -> Result<(), Errno> {
        let inside = |address| self.find(address).is_some_and(|(start, _)| start < address);
        let more = [start, end].into_iter().filter(|address| inside(*address)).count();
        if more > 0 && self.0.len() + more > MAPPINGS_MAX {
            return Err(Errno::NOMEM);
        }
        self.split(start);
        self.split(end);
        Ok(())
    }

    /// Makes `address` the border of mappings.
    fn split(&mut self, address: u64) {
        let Some((start, mapping)) = self.0.range_mut(..address).next_back() else { return };
        if mapping.end > address {
            let mut upper = mapping.clone();
            mapping.end = address;
            upper.backing.skip(address - start);
            self.0.insert(address, upper);
        }
    }

    /// Inserts a mapping where there is none; anonymous ones that touch and are alike become one.
    pub fn insert(&mut self, mut start: u64, mut mapping: Mapping) {
        let like = |other: &Mapping| {
            matches!((&other.backing, &mapping.backing), (Backing::Anonymous, Backing::Anonymous))
                && other.rights == mapping.rights
        };
        let below = self.0.range(..start).next_back().filter(|(_, below)| below.end == start && like(below));
        let (below, above) = (below.map(|(start, _)| *start), self.0.get(&mapping.end).filter(|above| like(above)));
        if let Some(above) = above.map(|above| above.end) {
            self.0.remove(&mapping.end);
            mapping.end = above;
        }
        start = below.unwrap_or(start);
        self.0.insert(start, mapping);
    }
}
