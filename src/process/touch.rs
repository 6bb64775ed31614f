//! Pages of an address space as they are first touched, and copies from and to a program's memory.
//!
//! Private pages are copied when they are written and shared. A file's content is read when a page is first touched, so what is written to
//! the file later is not seen.
//! Sources: mmap(2); Intel SDM vol. 3A §4.7 (page-fault exceptions).

use super::mappings::{Backing, Mapping};
use super::space::{Access, Fault, Space};
use super::tables::{Page, Rights, USER_END};
use crate::arch::layout::PAGE_SIZE;
use rustix::io::Errno;

/// Pages that come in together with one that is touched.
const AROUND: u64 = 16;

impl Space {
    /// Makes `access` to `address` possible, if it is allowed.
    ///
    /// # Errors
    /// It is not.
    pub fn fault(&mut self, address: u64, access: Access) -> Result<(), Fault> {
        let (start, mapping) = self.mappings.find(address).ok_or(Fault::Unmapped)?;
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
}

#[cfg(test)]
mod tests {
    use super::super::space::tests::{READ, RW, space};
    use super::super::space::{Place, USER_START};
    use super::*;
    use crate::arch::layout::MIB;

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
