//! Address spaces: page tables of four levels, and the ranges that get memory when it is touched.
//!
//! The first 512 GiB of each are the kernel's own tables, for ring 0 only; the second are the process's. The kernel reaches a
//! process's memory through its own map, page by page, after looking it up: it never follows a pointer of ring 3.
//! Source: Intel SDM vol. 3A §4.5 (4-level paging), §4.6 (access rights), §4.10.4 (what must be flushed).

use core::arch::asm;
use core::cell::Cell;
use core::ptr::addr_of;

use guest::memory::{read64, write64};

use super::abi::{Error, PAGE, USER_BASE, USER_END};
use super::frames::{self, Owner};

/// Entry: there is something; ring 3 may use it; it may be written; no instruction may be fetched from it.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const NO_EXECUTE: u64 = 1 << 63;
/// Entry: the address of a table or page.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where memory is given from and up to: behind any program, before the first stack.
pub const MAP_BASE: u64 = USER_BASE + (4 << 30);
const MAP_END: u64 = USER_END - (4 << 30);

/// Most ranges of a process: a frame holds their table.
const RANGES_MAX: u64 = PAGE / 16;

unsafe extern "C" {
    /// The kernel's root, in `guest/asm/entry.s`.
    static page_map: u64;
}

/// What a page may be used for.
#[derive(Clone, Copy, PartialEq)]
pub enum Access {
    /// Reading and executing.
    Code,
    /// Reading and writing.
    Data,
}

/// The memory of one process.
pub struct Space {
    root: Cell<u64>,
    /// A frame of ranges, each a start and an end, in order: there memory appears when it is touched.
    ranges: Cell<u64>,
    range_count: Cell<u64>,
    /// Its frames, tables included.
    frames: Owner,
}

/// The kernel's own root.
pub fn kernel_root() -> u64 {
    addr_of!(page_map) as u64
}

impl Space {
    /// The value of CR3.
    pub fn root(&self) -> u64 {
        self.root.get()
    }

    /// Begins: the kernel, and nothing of the process.
    pub fn init(&self) -> Result<(), Error> {
        self.range_count.set(0);
        self.root.set(self.frames.zeroed().ok_or(Error::NoMemory)?);
        write64(self.root.get(), read64(kernel_root()));
        self.ranges.set(self.frames.any().ok_or(Error::NoMemory)?);
        Ok(())
    }

    /// Where the entry for the page at `address` stands. Tables on the way are made if `make`.
    fn entry(&self, address: u64, make: bool) -> Option<u64> {
        let mut table = self.root.get();
        for shift in [39, 30, 21] {
            let at = table + (address >> shift & 511) * 8;
            let mut entry = read64(at);
            if entry & PRESENT == 0 {
                if !make {
                    return None;
                }
                entry = self.frames.zeroed()? | PRESENT | WRITABLE | USER;
                write64(at, entry);
            }
            table = entry & ADDRESS;
        }
        Some(table + (address >> 12 & 511) * 8)
    }

    /// Maps a page that is not mapped: a frame of [`Space::frame`], or a page of the kernel's that is shared.
    pub fn map(&self, address: u64, frame: u64, access: Access) -> Result<(), Error> {
        let at = self.entry(address, true).ok_or(Error::NoMemory)?;
        let rights = if access == Access::Data { WRITABLE | NO_EXECUTE } else { 0 };
        write64(at, frame | PRESENT | USER | rights);
        Ok(())
    }

    /// A frame of zeroes that belongs to this space.
    pub fn frame(&self) -> Result<u64, Error> {
        self.frames.zeroed().ok_or(Error::NoMemory)
    }

    /// How many frames belong to it, its tables included.
    pub fn pages(&self) -> u64 {
        self.frames.count()
    }

    /// The physical address behind one of ring 3's, if it may read there, or write; memory appears where it is due.
    pub fn resolve(&self, address: u64, write: bool) -> Option<u64> {
        if !(USER_BASE..USER_END).contains(&address) {
            return None;
        }
        let entry = self.entry(address, false).map_or(0, read64);
        if entry & PRESENT != 0 {
            return (!write || entry & WRITABLE != 0).then_some(entry & ADDRESS | address & (PAGE - 1));
        }
        self.find(address)?;
        let frame = self.frame().ok()?;
        self.map(address & !(PAGE - 1), frame, Access::Data).ok()?;
        Some(frame | address & (PAGE - 1))
    }

    /// Copies from ring 3's memory.
    pub fn copy_in(&self, to: u64, from: u64, bytes: u64) -> Result<(), Error> {
        self.copy(from, bytes, false, |physical, done, part| frames::copy(to + done, physical, part))
    }

    /// Copies to ring 3's memory.
    pub fn copy_out(&self, to: u64, from: u64, bytes: u64) -> Result<(), Error> {
        self.copy(to, bytes, true, |physical, done, part| frames::copy(physical, from + done, part))
    }

    /// Has `copy` take so many bytes of ring 3's from `address` on in parts: where each lies, how many were before it, its bytes.
    fn copy(&self, address: u64, bytes: u64, write: bool, copy: impl Fn(u64, u64, u64)) -> Result<(), Error> {
        let mut done = 0;
        while done < bytes {
            let at = address.wrapping_add(done);
            let physical = self.resolve(at, write).ok_or(Error::Fault)?;
            let part = (PAGE - at % PAGE).min(bytes - done);
            copy(physical, done, part);
            done += part;
        }
        Ok(())
    }

    /// Range `index`.
    fn range(&self, index: u64) -> (u64, u64) {
        let at = self.ranges.get() + 16 * index;
        (read64(at), read64(at + 8))
    }

    fn set_range(&self, index: u64, (start, end): (u64, u64)) {
        let at = self.ranges.get() + 16 * index;
        write64(at, start);
        write64(at + 8, end);
    }

    /// Whether memory is to appear at `address`.
    pub fn is_due(&self, address: u64) -> bool {
        self.find(address).is_some()
    }

    /// The range with `address` in it.
    fn find(&self, address: u64) -> Option<(u64, u64)> {
        (0..self.range_count.get())
            .map(|index| self.range(index))
            .find(|&(start, end)| start <= address && address < end)
    }

    /// Lets memory appear from `start` to `end`, where none does yet.
    pub fn add_range(&self, start: u64, end: u64) -> Result<(), Error> {
        let count = self.range_count.get();
        let place = (0..count).find(|&index| self.range(index).0 >= end).unwrap_or(count);
        if place > 0 && self.range(place - 1).1 == start {
            let (first, _) = self.range(place - 1);
            self.set_range(place - 1, (first, end));
            return Ok(());
        }
        if place < count && self.range(place).0 == end {
            let (_, last) = self.range(place);
            self.set_range(place, (start, last));
            return Ok(());
        }
        if count == RANGES_MAX {
            return Err(Error::NoMemory);
        }
        for index in (place..count).rev() {
            self.set_range(index + 1, self.range(index));
        }
        self.set_range(place, (start, end));
        self.range_count.set(count + 1);
        Ok(())
    }

    /// The first place for so many bytes, a multiple of the page's: memory appears there from now on.
    pub fn reserve(&self, bytes: u64) -> Result<u64, Error> {
        let mut place = MAP_BASE;
        for index in 0..self.range_count.get() {
            let (start, end) = self.range(index);
            if end > place {
                if start >= place + bytes {
                    break;
                }
                place = end;
            }
        }
        if bytes > MAP_END - MAP_BASE || place + bytes > MAP_END {
            return Err(Error::NoMemory);
        }
        self.add_range(place, place + bytes)?;
        Ok(place)
    }

    /// Takes memory from `start` to `end` away, which lies in one range; its frames are freed. The caller has other processors flush.
    pub fn release(&self, start: u64, end: u64) -> Result<(), Error> {
        let count = self.range_count.get();
        let found = (0..count).find(|&index| self.range(index).0 <= start && end <= self.range(index).1);
        let index = found.filter(|_| start >= MAP_BASE && end <= MAP_END && start < end).ok_or(Error::Invalid)?;
        let (first, last) = self.range(index);
        match (first < start, end < last) {
            (true, true) if count == RANGES_MAX => return Err(Error::NoMemory),
            (true, true) => {
                for index in (index + 1..count).rev() {
                    self.set_range(index + 1, self.range(index));
                }
                self.set_range(index, (first, start));
                self.set_range(index + 1, (end, last));
                self.range_count.set(count + 1);
            }
            (true, false) => self.set_range(index, (first, start)),
            (false, true) => self.set_range(index, (end, last)),
            (false, false) => {
                for index in index + 1..count {
                    self.set_range(index - 1, self.range(index));
                }
                self.range_count.set(count - 1);
            }
        }
        self.unmap(start, end);
        Ok(())
    }

    /// Frees the pages from `start` to `end` that are there.
    fn unmap(&self, start: u64, end: u64) {
        /// What one page table maps.
        const TABLE_SPAN: u64 = PAGE * 512;
        let mut address = start;
        while address < end {
            let Some(at) = self.entry(address, false) else {
                address = (address / TABLE_SPAN + 1) * TABLE_SPAN;
                continue;
            };
            let entry = read64(at);
            if entry & PRESENT != 0 {
                write64(at, 0);
                // SAFETY: forgets a translation.
                unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
                self.frames.free(entry & ADDRESS);
            }
            address += PAGE;
        }
    }

    /// Frees everything. No processor has these tables any more.
    pub fn free(&self) {
        self.frames.free_all();
        self.root.set(0);
    }
}
