//! An address space: what is mapped where, pages as they are first touched, and copies from and to a program's memory.
//!
//! Private pages are copied when they are written and shared; anonymous shared ones belong to an object that all mappings name. A file's
//! content is read when a page is first touched, so what is written to the file later is not seen. Leaves out stacks that grow (a stack
//! is as large as its limit from the start), huge pages, and protection keys.
//! Sources: mmap(2), mprotect(2), brk(2), mremap(2); Intel SDM vol. 3A §4.6 (access rights).

use super::files::OpenFile;
use super::frames::Frames;
use super::tables::{Page, Rights, Tables, Trees, USER_END};
use crate::arch::layout::PAGE_SIZE;
use crate::bus::bus::lock;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Lowest address that can be mapped (Linux `vm.mmap_min_addr`).
pub const USER_START: u64 = 0x1_0000;
/// Bytes of a stack.
pub const STACK_SIZE: u64 = 8 << 20;
/// Below this, mappings are placed that name no address: a stack and a gap from the end.
const MAP_TOP: u64 = USER_END - STACK_SIZE - (128 << 20);
/// Most mappings of an address space (Linux `vm.max_map_count`).
const MAPPINGS_MAX: usize = 65_530;
/// Pages that come in together with one that is touched.
const AROUND: u64 = 16;

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
    fn skip(&mut self, bytes: u64) {
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
    fn frame(&self, offset: u64) -> Option<u64> {
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

#[derive(Clone)]
struct Mapping {
    end: u64,
    rights: Rights,
    backing: Backing,
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
    frames: Arc<Frames>,
    tables: Tables,
    mappings: BTreeMap<u64, Mapping>,
    /// What brk(2) moves the end of.
    heap: Range<u64>,
}

impl Space {
    /// Nothing mapped; `None` when there is no memory.
    pub fn new(frames: Arc<Frames>, trees: &Arc<Trees>) -> Option<Space> {
        Some(Space { frames, tables: trees.tables()?, mappings: BTreeMap::new(), heap: 0..0 })
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
        for (start, mapping) in &self.mappings {
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
                copy.mappings.retain(|place, _| place <= start);
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
        self.mappings.clear();
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
            Place::Anywhere(hint) if fits(hint) && self.is_free(hint, hint + size) => hint,
            Place::Anywhere(_) => self.find_free(size).ok_or(Errno::NOMEM)?,
            Place::Fixed(start) | Place::FixedFree(start) if !start.is_multiple_of(PAGE_SIZE) => {
                return Err(Errno::INVAL);
            }
            Place::Fixed(start) | Place::FixedFree(start) if !fits(start) => {
                return Err(if start < USER_START { Errno::PERM } else { Errno::NOMEM });
            }
            Place::FixedFree(start) if !self.is_free(start, start + size) => return Err(Errno::EXIST),
            Place::Fixed(start) | Place::FixedFree(start) => start,
        };
        if self.mappings.len() >= MAPPINGS_MAX {
            return Err(Errno::NOMEM);
        }
        self.unmap(start, start + size)?;
        self.insert(start, Mapping { end: start + size, rights, backing });
        Ok(start)
    }

    /// An object for shared anonymous memory.
    pub fn shared(&self) -> Backing {
        Backing::Shared(Arc::new(SharedPages { frames: self.frames.clone(), pages: Mutex::default() }), 0)
    }

    /// Unmaps whatever lies in `start..end`, whole pages.
    ///
    /// # Errors
    /// ENOMEM: more mappings would be left than there may be.
    pub fn unmap(&mut self, start: u64, end: u64) -> Result<(), Errno> {
        if self.is_free(start, end) {
            return Ok(());
        }
        self.split_at(start, end)?;
        let inside: Vec<u64> = self.mappings.range(start..end).map(|(start, _)| *start).collect();
        for start in inside {
            self.mappings.remove(&start);
        }
        self.frames.release(self.tables.clear(start, end));
        Ok(())
    }

    /// Changes what `start..end`, whole pages, may be used for.
    ///
    /// # Errors
    /// ENOMEM: something in it is not mapped, or there would be more mappings than there may be.
    pub fn protect(&mut self, start: u64, end: u64, rights: Rights) -> Result<(), Errno> {
        if !self.is_mapped(start, end) {
            return Err(Errno::NOMEM);
        }
        self.split_at(start, end)?;
        let inside: Vec<u64> = self.mappings.range(start..end).map(|(start, _)| *start).collect();
        for start in inside {
            let Some(mut mapping) = self.mappings.remove(&start) else { continue };
            mapping.rights = rights;
            self.insert(start, mapping);
        }
        // Writing comes back with the first write, which may have to copy the page.
        let lost =
            self.tables.protect(start, end, |_, page| Rights { write: rights.write && page.rights.write, ..rights });
        self.frames.revoke(&lost);
        Ok(())
    }

    /// What holds the byte at `address`, and where in it: a shared object, or else `own`. `None` where nothing is mapped.
    pub fn object_at(&self, address: u64, own: usize) -> Option<(usize, u64)> {
        let (start, mapping) = self.find(address)?;
        Some(match &mapping.backing {
            Backing::Shared(pages, first) => (Arc::as_ptr(pages) as usize, first + (address - start)),
            _ => (own, address),
        })
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

    /// Has the pages of `start..end` forget what was written to them: madvise(2) MADV_DONTNEED.
    pub fn forget(&mut self, start: u64, end: u64) {
        self.frames.release(self.tables.clear(start, end));
    }

    /// Moves or resizes the mapping `old`; mremap(2) with MREMAP_MAYMOVE where `may_move`. Returns where it is.
    ///
    /// # Errors
    /// EFAULT: it is not one mapping; ENOMEM.
    pub fn remap(&mut self, old: Range<u64>, size: u64, may_move: bool, to: Option<u64>) -> Result<u64, Errno> {
        let (first, mapping) = self.find(old.start).ok_or(Errno::FAULT)?;
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
        if let (None, Some(end)) = (to, grown.filter(|end| self.is_free(old.end, *end))) {
            let mut more = backing;
            more.skip(old_size);
            return self.map(Place::Fixed(old.end), end - old.end, rights, more).map(|_| old.start);
        }
        if !may_move {
            return Err(Errno::NOMEM);
        }
        // What could fail behind the move fails before.
        self.split_at(old.start, old.end)?;
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
                    if !self.is_free(old, new)
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

    /// Makes `access` to `address` possible, if it is allowed.
    ///
    /// # Errors
    /// It is not.
    pub fn fault(&mut self, address: u64, access: Access) -> Result<(), Fault> {
        let (start, mapping) = self.find(address).ok_or(Fault::Unmapped)?;
        let Rights { read, write, execute } = mapping.rights;
        let allowed = match access {
            Access::Read => read || write || execute,
            Access::Write => write,
            Access::Execute => execute,
        };
        if !allowed {
            return Err(Fault::Forbidden);
        }
        let (address, mapping) = (address / PAGE_SIZE * PAGE_SIZE, mapping.clone());
        match self.tables.get(address) {
            Some(page) => self.upgrade(address, page, &mapping, access),
            None => self.bring(address, start, &mapping),
        }
    }

    /// Gives a page that is there the rights of its mapping; one that is shared is copied before it is written.
    fn upgrade(&mut self, address: u64, page: Page, mapping: &Mapping, access: Access) -> Result<(), Fault> {
        let mut rights = mapping.rights;
        let must_copy = !matches!(mapping.backing, Backing::Shared(..)) && self.frames.is_shared(page.frame);
        if !must_copy || access != Access::Write {
            rights.write = rights.write && !must_copy;
            self.tables.set(address, Page { rights, ..page });
            return Ok(());
        }
        let copy = self.frames.allocate().ok_or(Fault::NoMemory)?;
        let mut bytes = [0; PAGE_SIZE as usize];
        self.frames.ram().read(page.frame, &mut bytes).expect("a frame is RAM");
        self.frames.ram().write(copy, &bytes).expect("a frame is RAM");
        self.tables.set(address, Page { frame: copy, rights });
        self.frames.release(vec![page.frame]);
        Ok(())
    }

    /// Brings a page in, and those around it that are not there.
    fn bring(&mut self, address: u64, start: u64, mapping: &Mapping) -> Result<(), Fault> {
        let window = AROUND * PAGE_SIZE;
        let first = (address / window * window).max(start);
        let end = (address / window * window + window).min(mapping.end);
        let mut content = Vec::new();
        if let Backing::File(file, offset) = &mapping.backing {
            content = file.read_at(offset + (first - start), (end - first) as usize);
        }
        for at in (first..end).step_by(PAGE_SIZE as usize) {
            if self.tables.get(at).is_some() {
                continue;
            }
            match self.bring_one(at, at - start, mapping, content.get((at - first) as usize..)) {
                Err(fault) if at == address => return Err(fault),
                Err(Fault::NoMemory) if at > address => break,
                _ => {}
            }
        }
        Ok(())
    }

    /// Brings the page at `address` in, which is `offset` into its mapping; `content` is the file's from there on.
    fn bring_one(&mut self, address: u64, offset: u64, mapping: &Mapping, content: Option<&[u8]>) -> Result<(), Fault> {
        let frame = match &mapping.backing {
            Backing::Shared(pages, first) => pages.frame(first + offset).ok_or(Fault::NoMemory)?,
            Backing::Anonymous => self.frames.allocate().ok_or(Fault::NoMemory)?,
            Backing::File(..) => {
                let content = content.filter(|content| !content.is_empty()).ok_or(Fault::BeyondFile)?;
                let frame = self.frames.allocate().ok_or(Fault::NoMemory)?;
                let content = &content[..content.len().min(PAGE_SIZE as usize)];
                self.frames.ram().write(frame, content).expect("a frame is RAM");
                frame
            }
        };
        if !self.tables.set(address, Page { frame, rights: mapping.rights }) {
            self.frames.release(vec![frame]);
            return Err(Fault::NoMemory);
        }
        Ok(())
    }

    /// Copies a program's memory out.
    ///
    /// # Errors
    /// Something of it cannot be read.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < bytes.len() {
            let (gpa, size) = self.reach(address, done, bytes.len(), Access::Read)?;
            self.frames.ram().read(gpa, &mut bytes[done..done + size]).expect("a frame is RAM");
            done += size;
        }
        Ok(())
    }

    /// Copies into a program's memory.
    ///
    /// # Errors
    /// Something of it cannot be written; what lies before has been.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < bytes.len() {
            let (gpa, size) = self.reach(address, done, bytes.len(), Access::Write)?;
            self.frames.ram().write(gpa, &bytes[done..done + size]).expect("a frame is RAM");
            done += size;
        }
        Ok(())
    }

    /// How many of `size` bytes at `address` can be accessed, from the first on.
    pub fn reachable(&mut self, address: u64, size: usize, access: Access) -> usize {
        let mut done = 0;
        while done < size {
            match self.reach(address, done, size, access) {
                Ok((_, more)) => done += more,
                Err(_) => break,
            }
        }
        done
    }

    /// The bytes at `address` up to a NUL.
    ///
    /// # Errors
    /// EFAULT; ENAMETOOLONG without a NUL among the first `max` bytes.
    pub fn read_text(&mut self, address: u64, max: usize) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        while text.len() < max {
            let (gpa, size) = self.reach(address, text.len(), max, Access::Read)?;
            let mut bytes = vec![0; size];
            self.frames.ram().read(gpa, &mut bytes).expect("a frame is RAM");
            if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
                text.extend(&bytes[..end]);
                return Ok(text);
            }
            text.extend(bytes);
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Where the byte `done` behind `address` lies, and how many up to `size` follow it in its page.
    fn reach(&mut self, address: u64, done: usize, size: usize, access: Access) -> Result<(u64, usize), Fault> {
        let at = address.checked_add(done as u64).filter(|at| *at < USER_END).ok_or(Fault::Unmapped)?;
        let allows = |page: &Page| if access == Access::Write { page.rights.write } else { page.rights.read };
        let page = match self.tables.get(at).filter(allows) {
            Some(page) => page,
            None => {
                self.fault(at, access)?;
                self.tables.get(at).ok_or(Fault::NoMemory)?
            }
        };
        let offset = at % PAGE_SIZE;
        Ok((page.frame + offset, ((PAGE_SIZE - offset) as usize).min(size - done)))
    }

    fn find(&self, address: u64) -> Option<(u64, &Mapping)> {
        let (start, mapping) = self.mappings.range(..=address).next_back()?;
        (address < mapping.end).then_some((*start, mapping))
    }

    fn is_free(&self, start: u64, end: u64) -> bool {
        self.find(start).is_none() && self.mappings.range(start..end.max(start)).next().is_none()
    }

    /// The highest room of `size` bytes.
    fn find_free(&self, size: u64) -> Option<u64> {
        let mut end = MAP_TOP;
        for (start, mapping) in self.mappings.range(..MAP_TOP).rev() {
            if mapping.end.checked_add(size).is_some_and(|needed| needed <= end) {
                break;
            }
            end = end.min(*start);
        }
        end.checked_sub(size).filter(|start| *start >= USER_START)
    }

    /// Makes `start` and `end` borders of mappings; ENOMEM where that makes too many.
    fn split_at(&mut self, start: u64, end: u64) -> Result<(), Errno> {
        let inside = |address| self.find(address).is_some_and(|(start, _)| start < address);
        let more = [start, end].into_iter().filter(|address| inside(*address)).count();
        if more > 0 && self.mappings.len() + more > MAPPINGS_MAX {
            return Err(Errno::NOMEM);
        }
        self.split(start);
        self.split(end);
        Ok(())
    }

    /// Makes `address` the border of mappings.
    fn split(&mut self, address: u64) {
        let Some((start, mapping)) = self.mappings.range_mut(..address).next_back() else { return };
        if mapping.end > address {
            let mut upper = mapping.clone();
            mapping.end = address;
            upper.backing.skip(address - start);
            self.mappings.insert(address, upper);
        }
    }

    /// Inserts a mapping where there is none; anonymous ones that touch and are alike become one.
    fn insert(&mut self, mut start: u64, mut mapping: Mapping) {
        let like = |other: &Mapping| {
            matches!((&other.backing, &mapping.backing), (Backing::Anonymous, Backing::Anonymous))
                && other.rights == mapping.rights
        };
        let below = self.mappings.range(..start).next_back().filter(|(_, below)| below.end == start && like(below));
        let (below, above) =
            (below.map(|(start, _)| *start), self.mappings.get(&mapping.end).filter(|above| like(above)));
        if let Some(above) = above.map(|above| above.end) {
            self.mappings.remove(&mapping.end);
            mapping.end = above;
        }
        start = below.unwrap_or(start);
        self.mappings.insert(start, mapping);
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::tests::frames;
    use super::*;
    use crate::arch::layout::MIB;

    const RW: Rights = Rights { read: true, write: true, execute: false };
    const READ: Rights = Rights { write: false, ..RW };

    fn space() -> Space {
        let frames = frames(4 * MIB);
        let trees = Arc::new(Trees::new(frames.clone()).unwrap());
        Space::new(frames, &trees).unwrap()
    }

    #[test]
    fn memory_is_there_when_it_is_touched_and_gone_when_it_is_unmapped() {
        let mut space = space();
        let used = space.frames.count().0;
        let at = space.map(Place::Anywhere(0), MIB, RW, Backing::Anonymous).unwrap();
        space.write(at + 4094, &[1, 2, 3]).unwrap();
        let mut bytes = [9; 4];
        space.read(at + 4094, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 0]);
        assert!(space.frames.count().0 <= used + 2 * AROUND + 3, "pages around two, and three tables");
        space.unmap(at, at + 4096).unwrap();
        assert_eq!(space.read(at, &mut bytes), Err(Fault::Unmapped));
        assert_eq!(space.reachable(at + 4096, 2 << 20, Access::Write) as u64, MIB - 4096);
        for address in [0, USER_START - 1, USER_END - 1, USER_END, u64::MAX - 1, 1 << 63] {
            assert!(space.write(address, &[0; 8]).is_err(), "{address:#x}");
        }
    }

    #[test]
    fn rights_are_kept_and_content_survives_their_loss() {
        let mut space = space();
        let at = space.map(Place::Fixed(0x10_0000), 0x3000, RW, Backing::Anonymous).unwrap();
        space.write(at + 0x1000, &[7]).unwrap();
        space.protect(at + 0x1000, at + 0x2000, Rights::default()).unwrap();
        let mut byte = [0];
        assert_eq!(space.read(at + 0x1000, &mut byte), Err(Fault::Forbidden));
        assert_eq!(space.mappings.len(), 3);
        space.protect(at, at + 0x3000, READ).unwrap();
        space.read(at + 0x1000, &mut byte).unwrap();
        assert_eq!((byte, space.write(at, &[1]), space.mappings.len()), ([7], Err(Fault::Forbidden), 1));
        assert_eq!(space.protect(at, at + 0x4000, RW), Err(Errno::NOMEM));
    }

    #[test]
    fn a_copy_shares_pages_until_one_side_writes() {
        let mut space = space();
        let private = space.map(Place::Anywhere(0), 0x1000, RW, Backing::Anonymous).unwrap();
        let backing = space.shared();
        let shared = space.map(Place::Anywhere(0), 0x1000, RW, backing).unwrap();
        space.write(private, &[1]).unwrap();
        space.write(shared, &[1]).unwrap();
        let mut copy = space.duplicate().unwrap();
        copy.write(private, &[2]).unwrap();
        copy.write(shared, &[2]).unwrap();
        let mut bytes = [[0]; 2];
        space.read(private, &mut bytes[0]).unwrap();
        space.read(shared, &mut bytes[1]).unwrap();
        assert_eq!(bytes, [[1], [2]]);
        let frames = space.frames.clone();
        drop(space);
        copy.read(private, &mut bytes[0]).unwrap();
        assert_eq!(bytes[0], [2]);
        drop(copy);
        let trees_only = frames.count().0;
        assert!(trees_only < 3 + stub_pages() + 2 * 8, "{trees_only} frames are left");
    }

    fn stub_pages() -> u64 {
        super::super::stub::PAGES
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
        assert!(space.is_free(moved + 0x1000, moved + 0x5000));
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
        assert!(full == Errno::NOMEM && space.mappings.len() <= MAPPINGS_MAX && page < at + size);
        assert_eq!(space.unmap(at + size - 2 * PAGE_SIZE, at + size - PAGE_SIZE), Err(Errno::NOMEM));
        assert_eq!(space.unmap(at, at + PAGE_SIZE), Ok(()), "it takes one away");
        assert_eq!(space.unmap(at, at + size), Ok(()));
        assert!(space.mappings.is_empty());
    }

    #[test]
    fn a_page_may_be_in_as_many_places_as_there_are_mappings() {
        let mut space = space();
        let backing = space.shared();
        for index in 0..33_000 {
            space.map(Place::Fixed(MIB + index * PAGE_SIZE), PAGE_SIZE, READ, backing.clone()).unwrap();
        }
        let mut byte = [0];
        for index in 0..33_000 {
            space.read(MIB + index * PAGE_SIZE, &mut byte).unwrap();
        }
        assert!(space.duplicate().is_ok(), "the frame has more than 65,536 users");
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

    #[test]
    fn text_ends_at_a_nul_or_is_too_long() {
        let mut space = space();
        let at = space.map(Place::Anywhere(0), 0x2000, RW, Backing::Anonymous).unwrap();
        space.write(at + 0xffe, b"abc\0").unwrap();
        assert_eq!(space.read_text(at + 0xffe, 4096), Ok(b"abc".to_vec()));
        space.write(at, &[b'x'; 0x2000]).unwrap();
        assert_eq!(space.read_text(at + 8, 4096), Err(Errno::NAMETOOLONG));
        assert_eq!(space.read_text(at + 8, 0x4000), Err(Errno::FAULT));
    }
}
