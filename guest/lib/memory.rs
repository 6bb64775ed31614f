//! Physical memory: access to any address, and the mapping of more than the first GiB.
//!
//! The entry code maps the first GiB one to one. Source: Intel SDM vol. 3A §4.5 (4-level paging, table 4-18).

use core::arch::asm;
use core::ptr::{addr_of, addr_of_mut};
use core::sync::atomic::{AtomicUsize, Ordering};

/// Bytes in a gibibyte.
pub const GIB: u64 = 1 << 30;
/// Bytes that one entry of a page directory maps.
pub const LARGE_PAGE: u64 = 2 << 20;
/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Page table entry: present, writable, for ring 3 too, used, written to, maps a large page, forbids execution; and where it leads.
pub const PRESENT: u64 = 1 << 0;
pub const WRITABLE: u64 = 1 << 1;
pub const USER: u64 = 1 << 2;
pub const ACCESSED: u64 = 1 << 5;
pub const DIRTY: u64 = 1 << 6;
pub const LARGE: u64 = 1 << 7;
pub const NO_EXECUTE: u64 = 1 << 63;
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// A page directory: 512 large pages, 1 GiB.
#[repr(align(4096))]
struct PageDirectory([u64; 512]);

/// Page directories for the GiBs that a guest asks for.
const SPARE_DIRECTORIES: usize = 8;
static mut SPARE: [PageDirectory; SPARE_DIRECTORIES] = [const { PageDirectory([0; 512]) }; SPARE_DIRECTORIES];
static SPARE_USED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    /// The root, in `guest/asm/entry.s`.
    static mut page_map: [u64; 512];
    /// One entry a GiB, in `guest/asm/entry.s`.
    static mut page_directory_pointers: [u64; 512];
    /// Entries for the first GiB, in the same file.
    static mut page_directory: [u64; 512];
}

/// Maps the GiB around `address` one to one, if it is not mapped yet. Says whether it is mapped now: the tables reach
/// 512 GiB and there are [`SPARE_DIRECTORIES`].
///
/// For the first processor only, before it starts others.
pub fn map_gib(address: u64) -> bool {
    let gib = address / GIB;
    if gib >= 512 {
        return false;
    }
    // SAFETY: `gib` is an index of the table; only one processor runs.
    let entry = unsafe { &mut *addr_of_mut!(page_directory_pointers).cast::<u64>().add(gib as usize) };
    if *entry != 0 {
        return true;
    }
    let next = SPARE_USED.load(Ordering::Relaxed);
    if next == SPARE_DIRECTORIES {
        return false;
    }
    SPARE_USED.store(next + 1, Ordering::Relaxed);
    // SAFETY: `next` is below the number of directories and handed out once.
    let directory = unsafe { &mut *addr_of_mut!(SPARE).cast::<PageDirectory>().add(next) };
    let mut page = gib * GIB | LARGE | PRESENT | WRITABLE;
    for slot in &mut directory.0 {
        *slot = page;
        page += LARGE_PAGE;
    }
    // An entry that was not present is not cached: no TLB flush (Intel SDM vol. 3A §4.10.2.3).
    *entry = addr_of!(*directory) as u64 | PRESENT | WRITABLE;
    true
}

/// Lets ring 3 reach the GiB around `address`, which is mapped. Before its first access: entries are changed that may be cached.
pub fn open_to_ring_3(address: u64) {
    let gib = (address / GIB) as usize;
    assert!(gib < 512, "the tables reach 512 GiB");
    // SAFETY: indices of the tables; the directory's address is in its entry, and one processor runs.
    unsafe {
        *addr_of_mut!(page_map).cast::<u64>() |= USER;
        let pointer = addr_of_mut!(page_directory_pointers).cast::<u64>().add(gib);
        *pointer |= USER;
        let directory = (*pointer & ADDRESS) as *mut u64;
        for index in 0..512 {
            *directory.add(index) |= USER;
        }
        // The tables are looked at again.
        asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags));
    }
}

/// The entry that maps the large page at `address`, below 1 GiB.
pub fn page_directory_entry(address: u64) -> *mut u64 {
    let index = (address % GIB / LARGE_PAGE) as usize;
    // SAFETY: `index` is one of 512.
    unsafe { addr_of_mut!(page_directory).cast::<u64>().add(index) }
}

/// Clears a page. By words: where ring 0 is interpreted, eight bytes at a time are eight times as fast.
pub fn clear_page(address: u64) {
    // SAFETY: the caller means this page, and owns it; DF is clear.
    unsafe {
        asm!("rep stosq", inout("rdi") address => _, inout("ecx") 512 => _, in("rax") 0, options(nostack, preserves_flags));
    }
}

/// Reads a byte at `address`: RAM that a device may have written.
pub fn read8(address: u64) -> u8 {
    let value;
    // SAFETY: the caller means this address; a page that is not mapped faults.
    unsafe { asm!("mov {}, [{}]", out(reg_byte) value, in(reg) address, options(nostack, preserves_flags)) };
    value
}

/// Writes a byte at `address`.
pub fn write8(address: u64, value: u8) {
    // SAFETY: the caller means this address, and owns it; a page that is not mapped faults.
    unsafe { asm!("mov [{}], {}", in(reg) address, in(reg_byte) value, options(nostack, preserves_flags)) };
}

/// Reads two bytes at `address`.
pub fn read16(address: u64) -> u16 {
    let value;
    // SAFETY: the caller means this address; a page that is not mapped faults.
    unsafe { asm!("mov {:x}, [{}]", out(reg) value, in(reg) address, options(nostack, preserves_flags)) };
    value
}

/// Reads four bytes at `address`. In assembler, for address 0 is as good as any and devices count accesses.
pub fn read32(address: u64) -> u32 {
    let value;
    // SAFETY: the caller means this address; a page that is not mapped faults.
    unsafe { asm!("mov {:e}, [{}]", out(reg) value, in(reg) address, options(nostack, preserves_flags)) };
    value
}

/// Writes four bytes at `address`.
pub fn write32(address: u64, value: u32) {
    // SAFETY: as above; the caller owns the memory or the device there.
    unsafe { asm!("mov [{}], {:e}", in(reg) address, in(reg) value, options(nostack, preserves_flags)) };
}

/// Reads eight bytes at `address`.
pub fn read64(address: u64) -> u64 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) address, options(nostack, preserves_flags)) };
    value
}

/// Writes eight bytes at `address`.
pub fn write64(address: u64, value: u64) {
    // SAFETY: as above.
    unsafe { asm!("mov [{}], {}", in(reg) address, in(reg) value, options(nostack, preserves_flags)) };
}
