//! An address space: what is mapped where, and how that changes. How pages come when they are touched is in [`super::touch`].
//!
//! Leaves out stacks that grow (a stack is as large as its limit from the start), huge pages, and protection keys.
//! Sources: mmap(2), mprotect(2), brk(2), mremap(2), fork(2); Intel SDM vol. 3A §4.6 (access rights).

use super::frames::Frames;
use super::mappings::{Backing, MAP_TOP, Mapping, Mappings};
use super::tables::{Page, Rights, Tables, Trees, USER_END};
use crate::arch::layout::PAGE_SIZE;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::Arc;

/// Lowest address that can be mapped (Linux `vm.mmap_min_addr`).
pub const USER_START: u64 = 0x1_0000;
/// Bytes of a stack.
pub const STACK_SIZE: u64 = 8 << 20;

/// What is done with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It is read.
    Read,
    /// It is written.
    Write,
    /// Instructions are fetched.
    Execute,
}

/// Why an access is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is mapped there.
    Unmapped,
    /// Not with these rights.
    Forbidden,
    /// The mapped file is shorter.
    BeyondFile,
    /// All frames are in use.
    NoMemory,
}

impl From<Fault> for Errno {
    fn from(_: Fault) -> Errno {
        Errno::FAULT
    }
}

/// Where a mapping is to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where there is room, at this address if it is there.
    Anywhere(u64),
    /// Here, in the place of what is there.
    Fixed(u64),
    /// Here, if nothing is.
    FixedFree(u64),
}

/// An address space.
pub struct Space {
    pub(super) frames: Arc<Frames>,
    pub(super) tables: Tables,
    pub(super) mappings: Mappings,
    /// What brk(2) moves the end of.
    heap: Range<u64>,
}

impl Space {
    /// Nothing mapped; `None` when there is no memory.
    pub fn new(frames: Arc<Frames>, trees: &Arc<Trees>) -> Option<Space> {
        Some(Space { frames, tables: trees.tables()?, mappings: Mappings::default(), heap: 0..0 })
    }

    /// What goes into CR3.
    pub fn root(&self) -> u64 {
        self.tables.root()
    }

    /// A copy, as fork(2) makes it: private pages are copied when either side writes them.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn duplicate(&mut self) -> Result<Space, Errno> {
        let tables = self.tables.trees().tables().ok_or(Errno::NOMEM)?;
        let mappings = self.mappings.clone();
        let mut copy = Space { frames: self.frames.clone(), tables, mappings, heap: self.heap.clone() };
        let mut lost = Vec::new();
        for (start, mapping) in self.mappings.iter() {
            let shared = matches!(mapping.backing, Backing::Shared(..));
            let read_only = |rights: Rights| Rights { write: rights.write && shared, ..rights };
            let mut enough = true;
            lost.extend(self.tables.protect(*start, mapping.end, |address, page| {
                let rights = read_only(page.rights);
                enough = enough && copy.tables.set(address, Page { rights, ..page });
                if enough {
                    self.frames.share(page.frame);
                }
                rights
            }));
            if !enough {
                copy.mappings.forget_behind(*start);
                self.frames.revoke(&lost);
                return Err(Errno::NOMEM);
            }
        }
        lost.sort_unstable();
        self.frames.revoke(&lost);
        Ok(copy)
    }

    /// Unmaps all.
    pub fn clear(&mut self) {
        self.mappings = Mappings::default();
        self.heap = 0..0;
        self.frames.release(self.tables.clear(0, USER_END));
    }

    /// Maps `size` bytes, whole pages; returns where.
    ///
    /// # Errors
    /// ENOMEM, EINVAL, EEXIST: mmap(2).
    pub fn map(&mut self, place: Place, size: u64, rights: Rights, backing: Backing) -> Result<u64, Errno> {
        let fits = |start: u64| {
            start >= USER_START
                && start.is_multiple_of(PAGE_SIZE)
                && start.checked_add(size).is_some_and(|end| end <= USER_END)
        };
        let start = match place {
            Place::Anywhere(hint) if fits(hint) && self.mappings.is_free(hint, hint + size) => hint,
            Place::Anywhere(_) => self.mappings.find_free(size).ok_or(Errno::NOMEM)?,
            Place::Fixed(start) | Place::FixedFree(start) if !start.is_multiple_of(PAGE_SIZE) => {
                return Err(Errno::INVAL);
            }
            Place::Fixed(start) | Place::FixedFree(start) if !fits(start) => {
                return Err(if start < USER_START { Errno::PERM } else { Errno::NOMEM });
            }
            Place::FixedFree(start) if !self.mappings.is_free(start, start + size) => return Err(Errno::EXIST),
            Place::Fixed(start) | Place::FixedFree(start) => start,
        };
        if self.mappings.is_full() {
            return Err(Errno::NOMEM);
        }
        self.unmap(start, start + size)?;
        self.mappings.insert(start, Mapping { end: start + size, rights, backing });
        Ok(start)
    }

    /// An object for shared anonymous memory.
    pub fn shared(&self) -> Backing {
        Backing::shared(self.frames.clone())
    }

    /// Unmaps whatever lies in `start..end`, whole pages.
    ///
    /// # Errors
    /// ENOMEM: more mappings would be left than there may be.
    pub fn unmap(&mut self, start: u64, end: u64) -> Result<(), Errno> {
        if self.mappings.is_free(start, end) {
            return Ok(());
        }
        self.mappings.split_at(start, end)?;
        self.mappings.take(start, end);
        self.frames.release(self.tables.clear(start, end));
        Ok(())
    }

    /// Changes what `start..end`, whole pages, may be used for.
    ///
    /// # Errors
    /// ENOMEM: something in it is not mapped, or there would be more mappings than there may be.
    pub fn protect(&mut self, start: u64, end: u64, rights: Rights) -> Result<(), Errno> {
        if !self.mappings.is_mapped(start, end) {
            return Err(Errno::NOMEM);
        }
        self.mappings.split_at(start, end)?;
        for (start, mapping) in self.mappings.take(start, end) {
            self.mappings.insert(start, Mapping { rights, ..mapping });
        }
        // Writing comes back with the first write, which may have to copy the page.
        let lost =
            self.tables.protect(start, end, |_, page| Rights { write: rights.write && page.rights.write, ..rights });
        self.frames.revoke(&lost);
        Ok(())
    }

    /// What holds the byte at `address`, and where in it: a shared object, or else `own`. `None` where nothing is mapped.
    pub fn object_at(&self, address: u64, own: usize) -> Option<(usize, u64)> {
        let (start, mapping) = self.mappings.find(address)?;
        Some(match &mapping.backing {
            Backing::Shared(pages, first) => (Arc::as_ptr(pages) as usize, first + (address - start)),
            _ => (own, address),
        })
    }

    /// Whether all of `start..end` is mapped.
    pub fn is_mapped(&self, start: u64, end: u64) -> bool {
        self.mappings.is_mapped(start, end)
    }

    /// Has the pages of `start..end` forget what was written to them: madvise(2) MADV_DONTNEED.
    pub fn forget(&mut self, start: u64, end: u64) {
        self.frames.release(self.tables.clear(start, end));
    }

    /// Moves or resizes the mapping `old`; mremap(2) with MREMAP_MAYMOVE where `may_move`. Returns where it is.
    ///
    /// # Errors
    /// EFAULT: it is not one mapping; ENOMEM.
    pub fn remap(&mut self, old: Range<u64>, size: u64, may_move: bool, to: Option<u64>) -> Result<u64, Errno> {
        let (first, mapping) = self.mappings.find(old.start).ok_or(Errno::FAULT)?;
        let mut mapping = mapping.clone();
        if old.end > mapping.end {
            return Err(Errno::FAULT);
        }
        mapping.backing.skip(old.start - first);
        let old_size = old.end - old.start;
        if to.is_none() && size <= old_size {
            return self.unmap(old.start + size, old.end).map(|()| old.start);
        }
        let Mapping { rights, backing, .. } = mapping;
        let grown = old.start.checked_add(size).filter(|end| *end <= USER_END);
        if let (None, Some(end)) = (to, grown.filter(|end| self.mappings.is_free(old.end, *end))) {
            let mut more = backing;
            more.skip(old_size);
            return self.map(Place::Fixed(old.end), end - old.end, rights, more).map(|_| old.start);
        }
        if !may_move {
            return Err(Errno::NOMEM);
        }
        // What could fail behind the move fails before.
        self.mappings.split_at(old.start, old.end)?;
        let place = to.map_or(Place::Anywhere(0), Place::Fixed);
        let new = self.map(place, size, rights, backing)?;
        let mut moved = Vec::new();
        self.tables
            .for_each(old.start, old.start + old_size.min(size), |_, _, address, page| moved.push((address, page)));
        for (address, page) in moved {
            // The frame has a user at each place until the old place is unmapped below.
            self.frames.share(page.frame);
            if !self.tables.set(new + (address - old.start), page) {
                self.frames.release(vec![page.frame]);
                // A page that is at both places would be written at both.
                self.unmap(new, new + size)?;
                return Err(Errno::NOMEM);
            }
        }
        self.unmap(old.start, old.end).map(|()| new)
    }

    /// Where the heap begins.
    pub fn set_heap(&mut self, start: u64) {
        self.heap = start..start;
    }

    /// Moves the end of the heap to `end`, if that is possible; returns where it is.
    pub fn set_break(&mut self, end: u64) -> u64 {
        let (old, new) = (self.heap.end.next_multiple_of(PAGE_SIZE), end.checked_next_multiple_of(PAGE_SIZE));
        match new {
            Some(new) if end >= self.heap.start && new <= MAP_TOP => {
                let rights = Rights { read: true, write: true, execute: false };
                if new > old {
                    if !self.mappings.is_free(old, new)
                        || self.map(Place::Fixed(old), new - old, rights, Backing::Anonymous).is_err()
                    {
                        return self.heap.end;
                    }
                } else if self.unmap(new, old).is_err() {
                    return self.heap.end;
                }
                self.heap.end = end;
                end
            }
            _ => self.heap.end,
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::frames::tests::frames;
    use super::super::mappings::MAPPINGS_MAX;
    use super::*;
    use crate::arch::layout::MIB;

    pub const RW: Rights = Rights { read: true, write: true, execute: false };
    pub const READ: Rights = Rights { write: false, ..RW };

    pub fn space() -> Space {
        let frames = frames(4 * MIB);
        let trees = Arc::new(Trees::new(frames.clone()).unwrap());
        Space::new(frames, &trees).unwrap()
    }

    #[test]
    fn rights_are_kept_and_content_survives_their_loss() {
        let mut space = space();
        let at = space.map(Place::Fixed(0x10_0000), 0x3000, RW, Backing::Anonymous).unwrap();
        space.write(at + 0x1000, &[7]).unwrap();
        space.protect(at + 0x1000, at + 0x2000, Rights::default()).unwrap();
        let mut byte = [0];
        assert_eq!(space.read(at + 0x1000, &mut byte), Err(Fault::Forbidden));
        assert_eq!(space.mappings.iter().count(), 3);
        space.protect(at, at + 0x3000, READ).unwrap();
        space.read(at + 0x1000, &mut byte).unwrap();
        assert_eq!((byte, space.write(at, &[1]), space.mappings.iter().count()), ([7], Err(Fault::Forbidden), 1));
        assert_eq!(space.protect(at, at + 0x4000, RW), Err(Errno::NOMEM));
    }

    #[test]
    fn a_mapping_moves_with_its_content() {
        let mut space = space();
        let at = space.map(Place::Fixed(0x10_0000), 0x2000, RW, Backing::Anonymous).unwrap();
        space.write(at + 0x1000, &[5]).unwrap();
        assert_eq!(space.remap(at..at + 0x2000, 0x3000, false, None), Ok(at));
        space.map(Place::Fixed(at + 0x3000), 0x1000, READ, Backing::Anonymous).unwrap();
        assert_eq!(space.remap(at..at + 0x3000, 0x5000, false, None), Err(Errno::NOMEM));
        let moved = space.remap(at..at + 0x3000, 0x5000, true, None).unwrap();
        let mut byte = [0];
        space.read(moved + 0x1000, &mut byte).unwrap();
        assert_eq!((byte, space.is_mapped(at, at + 1)), ([5], false));
        assert_eq!(space.remap(moved..moved + 0x5000, 0x1000, false, None), Ok(moved));
        assert!(space.mappings.is_free(moved + 0x1000, moved + 0x5000));
    }

    #[test]
    fn mappings_are_bounded_however_they_are_made() {
        let mut space = space();
        let size = 2 * MAPPINGS_MAX as u64 * PAGE_SIZE;
        let at = space.map(Place::Anywhere(0), size, RW, Backing::Anonymous).unwrap();
        let mut page = at;
        let full = loop {
            match space.protect(page, page + PAGE_SIZE, READ) {
                Ok(()) => page += 2 * PAGE_SIZE,
                Err(error) => break error,
            }
        };
        assert!(full == Errno::NOMEM && space.mappings.iter().count() <= MAPPINGS_MAX && page < at + size);
        assert_eq!(space.unmap(at + size - 2 * PAGE_SIZE, at + size - PAGE_SIZE), Err(Errno::NOMEM));
        assert_eq!(space.unmap(at, at + PAGE_SIZE), Ok(()), "it takes one away");
        assert_eq!(space.unmap(at, at + size), Ok(()));
        assert!(space.mappings.iter().next().is_none());
    }

    #[test]
    fn the_heap_grows_and_shrinks() {
        let mut space = space();
        space.set_heap(0x50_0123);
        assert_eq!(space.set_break(0), 0x50_0123);
        assert_eq!(space.set_break(0x50_3000), 0x50_3000);
        space.write(0x50_2fff, &[1]).unwrap();
        assert_eq!(space.set_break(0x50_1800), 0x50_1800);
        assert_eq!(space.write(0x50_2fff, &[1]), Err(Fault::Unmapped));
        assert_eq!(space.set_break(u64::MAX), 0x50_1800);
    }
}
