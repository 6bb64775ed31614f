//! The guest's RAM: anonymous private memory behind each RAM range, reached only by checked copies.
//!
//! Nothing here hands out a reference into guest memory: the guest changes it at any time. Each structure of the guest is
//! copied once and the copy is validated. Mappings are `MAP_NORESERVE`, so RAM costs what the guest touches.

use super::map::{GuestRange, MemoryMap};
use super::window::Window;
use crate::arch::layout::HUGE_PAGE;
use crate::arch::layout::PAGE_SIZE;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionCollection, GuestRegionMmap, VolatileMemory, VolatileSlice,
};

/// Most holes in the address space that are found too small for RAM in its place.
const HOLES_MAX: usize = 8;

/// The guest's RAM.
pub struct GuestRam {
    memory: GuestMemoryMmap,
    /// The same, to be looked through: there are three ranges at most.
    ranges: Vec<(GuestRange, Arc<MmapRegion>)>,
}

/// A range of RAM as KVM wants it: a memory slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// First guest-physical address.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
    /// Where the range begins in this process.
    pub hva: u64,
}

/// What can fail around RAM.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The host gives no address space.
    #[error("map {size} bytes of guest RAM: {source}")]
    Map {
        /// Bytes wanted.
        size: u64,
        /// Why not.
        source: std::io::Error,
    },
    /// A range that is not RAM throughout.
    #[error("{what} {size} bytes at {gpa:#x}: not guest RAM")]
    NotRam {
        /// What was tried: "read", "write", "find", "map a file over".
        what: &'static str,
        /// First address.
        gpa: u64,
        /// Bytes.
        size: u64,
    },
}

impl GuestRam {
    /// Maps RAM for each range of `map`.
    ///
    /// # Errors
    /// The host refuses the address space.
    pub fn new(map: &MemoryMap) -> Result<GuestRam, RamError> {
        let mut ranges = Vec::with_capacity(map.ram().len());
        let mut regions = Vec::with_capacity(map.ram().len());
        for range in map.ram() {
            let failed = |source| RamError::Map { size: range.size, source };
            let size = usize::try_from(range.size).expect("x86-64 only");
            let mapping = Arc::new(map_ram(size).map_err(|error| failed(std::io::Error::other(error)))?);
            let region = GuestRegionMmap::with_arc(mapping.clone(), GuestAddress(range.start));
            regions.push(region.expect("a MemoryMap's ranges never wrap"));
            ranges.push((*range, mapping));
        }
        let memory =
            GuestRegionCollection::from_regions(regions).expect("a MemoryMap's ranges ascend and never overlap");
        Ok(GuestRam { memory, ranges })
    }

    /// The RAM as the rust-vmm crates know it.
    pub fn backend(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The memory slots, ascending.
    pub fn slots(&self) -> Vec<Slot> {
        let slot = |region: &GuestRegionMmap| Slot {
            gpa: region.start_addr().0,
            size: region.len(),
            hva: region.as_ptr() as u64,
        };
        self.memory.iter().map(slot).collect()
    }

    /// Copies `bytes` to `gpa`.
    ///
    /// # Errors
    /// Not RAM throughout; nothing has been written then, unless the range runs over the end of one.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), RamError> {
        if let Some(slice) = self.slice(gpa, bytes.len()) {
            slice.copy_from(bytes);
            return Ok(());
        }
        let not_ram = |_: GuestMemoryError| RamError::NotRam { what: "write", gpa, size: bytes.len() as u64 };
        self.memory.write_slice(bytes, GuestAddress(gpa)).map_err(not_ram)
    }

    /// Fills `bytes` from `gpa`.
    ///
    /// # Errors
    /// Not RAM throughout.
    pub fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), RamError> {
        if let Some(slice) = self.slice(gpa, bytes.len()) {
            slice.copy_to(bytes);
            return Ok(());
        }
        let size = bytes.len() as u64;
        let not_ram = |_: GuestMemoryError| RamError::NotRam { what: "read", gpa, size };
        self.memory.read_slice(bytes, GuestAddress(gpa)).map_err(not_ram)
    }

    /// Reads a little-endian 64-bit word; `None` outside RAM. The reader of page-table walks.
    pub fn read_u64(&self, gpa: u64) -> Option<u64> {
        let mut word = [0; 8];
        self.read(gpa, &mut word).ok()?;
        Some(u64::from_le_bytes(word))
    }

    /// Whether `size` bytes at `gpa` are RAM throughout, in one range.
    pub fn contains(&self, gpa: u64, size: u64) -> bool {
        self.find(gpa, size).is_some()
    }

    /// A part of RAM, found once to be accessed often.
    ///
    /// # Errors
    /// Not RAM throughout, in one range.
    pub fn window(&self, range: GuestRange) -> Result<Window, RamError> {
        let GuestRange { start: gpa, size } = range;
        let (memory, offset) = self.find(gpa, size).ok_or(RamError::NotRam { what: "find", gpa, size })?;
        Ok(Window::new(memory.clone(), offset, size as usize))
    }

    /// Where a range lies in this process: for system calls that read or write it in place, not for references.
    ///
    /// # Errors
    /// Not RAM throughout, in one range.
    pub fn host_address(&self, range: GuestRange) -> Result<u64, RamError> {
        let GuestRange { start: gpa, size } = range;
        let (memory, offset) = self.find(gpa, size).ok_or(RamError::NotRam { what: "find", gpa, size })?;
        Ok(memory.as_ptr() as u64 + offset as u64)
    }

    /// The memory behind `size` bytes at `gpa`, and where in it they begin, if they lie in one range.
    fn find(&self, gpa: u64, size: u64) -> Option<(&Arc<MmapRegion>, usize)> {
        self.ranges.iter().find_map(|(range, memory)| {
            let offset = gpa.checked_sub(range.start)?;
            (offset < range.size && size <= range.size - offset).then_some((memory, offset as usize))
        })
    }

    /// The same for a copy, which takes less time so than by [`GuestRam::backend`].
    fn slice(&self, gpa: u64, size: usize) -> Option<VolatileSlice<'_>> {
        let (memory, offset) = self.find(gpa, size as u64)?;
        memory.get_slice(offset, size).ok()
    }

    /// The guest-physical address of what lies at `hva` in this process: [`GuestRam::host_address`] reversed.
    pub fn guest_address(&self, hva: u64) -> Option<u64> {
        let slots = self.slots();
        let slot = slots.iter().find(|slot| hva.checked_sub(slot.hva).is_some_and(|offset| offset < slot.size))?;
        Some(slot.gpa + (hva - slot.hva))
    }

    /// Asks the host for huge pages behind all RAM: fewer faults for a guest that touches much. Only advice.
    pub fn advise_huge_pages(&self) {
        for slot in self.slots() {
            // SAFETY: the slot is a live anonymous mapping of this GuestRam, and MADV_HUGEPAGE changes no content.
            unsafe { libc::madvise(slot.hva as *mut libc::c_void, slot.size as usize, libc::MADV_HUGEPAGE) };
        }
    }

    /// Gives the whole pages of a range back to the host. When they are touched again they read as zeroes, or as the file that was
    /// mapped over them. Only advice: the host keeps what is locked into memory.
    ///
    /// # Errors
    /// Not RAM throughout, in one range.
    pub fn give_back(&self, range: GuestRange) -> Result<(), RamError> {
        let hva = self.host_address(range)?;
        let (first, end) = (hva.next_multiple_of(PAGE_SIZE), (hva + range.size) / PAGE_SIZE * PAGE_SIZE);
        if let Some(size @ 1..) = end.checked_sub(first) {
            // SAFETY: the pages lie inside a private mapping that this GuestRam owns (checked by `host_address`), and no reference into
            // it exists: that their content changes under the guest is what the guest asked for.
            unsafe { libc::madvise(first as *mut libc::c_void, size as usize, libc::MADV_DONTNEED) };
        }
        Ok(())
    }

    /// Has KVM forget how it translates a range, on every vCPU: what the guest touches there next is looked up in its page tables
    /// anew. For page tables that this process writes, of which a KVM that shadows them learns nothing. The content stays, and whoever
    /// uses it meanwhile waits. Each change of a mapping's rights has this effect, so they are changed there and back; execution is
    /// the only right whose loan disturbs nobody.
    ///
    /// # Errors
    /// Not RAM throughout, in one range, or the host refuses the change.
    pub fn revoke(&self, range: GuestRange) -> Result<(), RamError> {
        let hva = self.host_address(range)?;
        let (first, end) = (hva / PAGE_SIZE * PAGE_SIZE, (hva + range.size).next_multiple_of(PAGE_SIZE));
        let kept = libc::PROT_READ | libc::PROT_WRITE;
        for rights in [kept | libc::PROT_EXEC, kept] {
            // SAFETY: the pages lie inside a private mapping that this GuestRam owns (checked by `host_address`) and stay readable
            // and writable throughout.
            if unsafe { libc::mprotect(first as *mut libc::c_void, (end - first) as usize, rights) } != 0 {
                return Err(RamError::Map { size: range.size, source: std::io::Error::last_os_error() });
            }
        }
        Ok(())
    }

    /// Maps the first `size` bytes of `file` privately over RAM at `gpa`: the pages come from the page cache as they are
    /// touched, writes stay in this process. Both are multiples of the page size. Only for files that nobody rewrites or
    /// truncates: a page beyond the file's end kills the process (SIGBUS).
    ///
    /// # Errors
    /// Not RAM throughout, not whole pages, or the host refuses the mapping.
    pub fn map_file(&self, gpa: u64, file: &File, size: u64) -> Result<(), RamError> {
        let not_ram = RamError::NotRam { what: "map a file over", gpa, size };
        let aligned = gpa.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE) && size > 0;
        let slot = self
            .slots()
            .into_iter()
            .find(|slot| gpa >= slot.gpa && gpa.checked_add(size).is_some_and(|end| end <= slot.gpa + slot.size));
        let (Some(slot), true) = (slot, aligned) else { return Err(not_ram) };
        let address = (slot.hva + (gpa - slot.gpa)) as *mut libc::c_void;
        // SAFETY: the range lies inside a mapping that this GuestRam owns (checked above) and no reference into it exists;
        // MAP_FIXED replaces just these pages.
        let mapped = unsafe {
            libc::mmap(
                address,
                size as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(RamError::Map { size, source: std::io::Error::last_os_error() });
        }
        Ok(())
    }
}

/// Maps memory so that its pages and the guest's lie alike in huge pages, without which neither the host nor KVM uses any: RAM
/// begins at a multiple of 2 MiB for the guest. Linux does so by itself since 6.7. Before, it puts a mapping right below the
/// last one that fits there, so that one whose end is where it should be goes first. That may not fit into the hole where this one
/// does: then the hole is kept full and the next one tried. Memory that comes out wrong even so serves all the same.
fn map_ram(size: usize) -> Result<MmapRegion, MmapRegionError> {
    let huge = HUGE_PAGE as usize;
    let mut in_the_way = Vec::new();
    loop {
        let mapping = map_anonymous(size)?;
        let too_much = mapping.as_ptr() as usize % huge;
        if too_much == 0 || size < huge || in_the_way.len() == HOLES_MAX {
            return Ok(mapping);
        }
        drop(mapping);
        let _above = map_anonymous(size.next_multiple_of(huge) + too_much);
        let mapping = map_anonymous(size)?;
        if (mapping.as_ptr() as usize).is_multiple_of(huge) {
            return Ok(mapping);
        }
        in_the_way.push(mapping);
    }
}

fn map_anonymous(size: usize) -> Result<MmapRegion, MmapRegionError> {
    MmapRegionBuilder::new(size)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::{GIB, HOLE_START, MIB};

    fn ram(size: u64) -> GuestRam {
        GuestRam::new(&MemoryMap::new(size).unwrap()).unwrap()
    }

    #[test]
    fn huge_pages_of_the_host_and_the_guest_lie_alike() {
        for size in [2 * MIB, 5 * MIB, 300 * MIB + 4096] {
            let lies_alike = || {
                let slots = GuestRam::new(&MemoryMap::new(size).unwrap()).unwrap().slots();
                slots.iter().all(|slot| slot.hva % HUGE_PAGE == slot.gpa % HUGE_PAGE)
            };
            // Holes into which just this much fits.
            let walls: Vec<_> = (0..6).map(|_| map_anonymous(size as usize).unwrap()).collect();
            let _walls: Vec<_> = walls.into_iter().step_by(2).collect();
            // A test beside this one may take the place that was to be RAM's.
            assert!((0..100).any(|_| lies_alike()), "{size}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let ram = ram(4 * GIB);
        ram.write(4 * GIB, &7u64.to_le_bytes()).unwrap();
        assert_eq!(ram.read_u64(4 * GIB), Some(7));
        assert_eq!(ram.slots().len(), 2);
    }

    #[test]
    fn sec15_ranges_that_leave_ram_are_refused() {
        let ram = ram(4 * GIB);
        for gpa in [HOLE_START - 1, HOLE_START, 5 * GIB, u64::MAX - 3, u64::MAX] {
            assert!(matches!(ram.write(gpa, &[0; 8]), Err(RamError::NotRam { .. })), "{gpa:#x}");
            assert_eq!(ram.read_u64(gpa), None);
        }
    }

    #[test]
    fn whole_pages_are_given_back() {
        let ram = ram(MIB);
        ram.write(0, &[0x5a; 5 * 4096]).unwrap();
        ram.give_back(GuestRange { start: 4096 - 1, size: 2 * 4096 + 2 }).unwrap();
        let words = [0, 4088, 4096, 3 * 4096 - 8, 3 * 4096].map(|gpa| ram.read_u64(gpa).unwrap() as u8);
        assert_eq!(words, [0x5a, 0x5a, 0, 0, 0x5a]);
        for (start, size) in [(1, 4096), (4095, 1), (MIB - 1, 1)] {
            ram.give_back(GuestRange { start, size }).unwrap();
        }
        assert_eq!(ram.read_u64(0), Some(0x5a5a_5a5a_5a5a_5a5a), "no whole page is in there");
    }

    #[test]
    fn sec53_what_is_no_ram_cannot_be_given_back() {
        let ram = ram(4 * GIB);
        for (start, size) in
            [(HOLE_START - 4096, 8192), (HOLE_START, 4096), (5 * GIB, 1), (u64::MAX - 4095, 4096), (u64::MAX, u64::MAX)]
        {
            assert!(ram.give_back(GuestRange { start, size }).is_err(), "{start:#x}");
        }
    }

    #[test]
    fn a_file_is_mapped_privately() {
        let ram = ram(2 * MIB);
        let path = std::env::temp_dir().join(format!("hostel-map-{}", std::process::id()));
        std::fs::write(&path, [0x5a; 8192]).unwrap();
        let file = File::open(&path).unwrap();
        ram.map_file(MIB, &file, 8192).unwrap();
        assert_eq!(ram.read_u64(MIB), Some(0x5a5a_5a5a_5a5a_5a5a));
        ram.write(MIB, &[1]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[0], 0x5a);
        assert!(ram.map_file(MIB + 1, &file, 4096).is_err());
        assert!(ram.map_file(MIB, &file, 4097).is_err());
        assert!(ram.map_file(2 * MIB, &file, 4096).is_err());
        assert!(ram.map_file(MIB, &file, 2 * MIB).is_err());
        std::fs::remove_file(path).unwrap();
    }
}
