//! Flat binaries: loaded as they are and entered at their first byte.
//!
//! 16-bit: real mode, as a BIOS enters a boot sector, but without a BIOS behind it. 64-bit: long mode on an identity map of
//! the first 4 GiB by 2 MiB pages, interrupts off, RDI = `hvm_start_info` (Xen start_info.h).
//! Sources: Intel SDM vol. 3A §21.1.1 (real-address mode), §4.5 (4-level paging).

use super::error::Problem;
use super::image::Image;
use super::placement::Placement;
use crate::arch::cpu_state::CpuState;
use crate::arch::layout::{BOOT_GDT, BOOT_PML4, BOOT_STACK, FLAT64_ENTRY, LOW_RAM_END, START_INFO};
use crate::arch::paging::identity_map;

/// Lowest address that the boot stack may grow down to.
const BOOT_STACK_LOW: u64 = 0xa000;

/// Loads a 16-bit image to `gpa` and gives the state that enters it: segment 0 up to 64 KiB, then the paragraph that the
/// address is in.
///
/// # Errors
/// It does not lie in RAM below 640 KiB.
pub fn load_16(image: &Image, gpa: u64, placement: &mut Placement) -> Result<CpuState, Problem> {
    let limit = LOW_RAM_END;
    if gpa >= limit || image.size() > limit - gpa {
        return Err(Problem::NoRoom { what: format!("a 16-bit image at {gpa:#x}"), size: image.size(), limit });
    }
    copy(image, gpa, placement)?;
    match u16::try_from(gpa) {
        Ok(offset) => Ok(CpuState::real_mode(0, offset)),
        Err(_) => Ok(CpuState::real_mode((gpa >> 4) as u16, (gpa & 0xf) as u16)),
    }
}

/// Loads a 64-bit image to [`FLAT64_ENTRY`] and gives the state that enters it.
///
/// # Errors
/// It does not fit into RAM below 640 KiB.
pub fn load_64(image: &Image, placement: &mut Placement) -> Result<CpuState, Problem> {
    let limit = LOW_RAM_END;
    if image.size() > limit - FLAT64_ENTRY {
        let what = format!("a flat 64-bit image at {FLAT64_ENTRY:#x}");
        return Err(Problem::NoRoom { what, size: image.size(), limit });
    }
    copy(image, FLAT64_ENTRY, placement)?;
    let mut state = long_mode(placement, FLAT64_ENTRY)?;
    state.regs.rdi = START_INFO;
    Ok(state)
}

/// Writes GDT and page tables and gives the state that enters 64-bit code at `entry`.
///
/// # Errors
/// The room is taken.
pub fn long_mode(placement: &mut Placement, entry: u64) -> Result<CpuState, Problem> {
    placement.write("boot GDT", BOOT_GDT, CpuState::boot_gdt(true).map(u64::to_le_bytes).as_flattened())?;
    let tables = identity_map(BOOT_PML4);
    let tables: Vec<_> = tables.as_flattened().iter().map(|entry| entry.to_le_bytes()).collect();
    placement.write("identity map", BOOT_PML4, tables.as_flattened())?;
    placement.claim("boot stack", BOOT_STACK_LOW, BOOT_STACK - BOOT_STACK_LOW)?;
    Ok(CpuState::long_mode(entry))
}

fn copy(image: &Image, gpa: u64, placement: &mut Placement) -> Result<(), Problem> {
    let bytes = image.read(0, image.size())?;
    placement.write("flat image", gpa, &bytes)
}
