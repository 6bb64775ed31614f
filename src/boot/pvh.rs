//! The PVH boot protocol: 32-bit protected mode without paging, EBX = `hvm_start_info`.
//!
//! Flat 64-bit images get the same structure. Version 1, with memory map, one module (the initrd), command line and RSDP.
//! Source: Xen pvh.pandoc, Xen start_info.h.

use super::error::Problem;
use super::placement::Placement;
use crate::arch::cpu_state::CpuState;
use crate::arch::layout::{BOOT_GDT, START_INFO, START_INFO_SIZE};
use crate::memory::map::GuestRange;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::GuestAddress;

/// Where the module list stands.
const MODULES: u64 = START_INFO + 0x40;
/// Where the memory map stands.
const MEMORY_MAP: u64 = START_INFO + 0x80;

const _: () = {
    assert!(START_INFO + size_of::<hvm_start_info>() as u64 <= MODULES);
    assert!(MODULES + size_of::<hvm_modlist_entry>() as u64 <= MEMORY_MAP);
    // A map has four entries at most: low RAM, the ACPI area, RAM below the hole, RAM above.
    assert!(MEMORY_MAP + 4 * (size_of::<hvm_memmap_table_entry>() as u64) <= START_INFO + START_INFO_SIZE);
};

/// What a guest is told besides its memory map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootInfo {
    /// Address of the command line.
    pub cmdline: Option<u64>,
    /// The initrd.
    pub initrd: Option<GuestRange>,
    /// Address of the RSDP.
    pub rsdp: Option<u64>,
}

/// Writes `hvm_start_info` with its lists to [`START_INFO`].
///
/// # Errors
/// The room is taken.
pub fn write_start_info(placement: &mut Placement, info: &BootInfo) -> Result<(), Problem> {
    placement.claim("PVH start info", START_INFO, START_INFO_SIZE)?;
    let entry = |entry: crate::memory::map::MapEntry| hvm_memmap_table_entry {
        addr: entry.range.start,
        size: entry.range.size,
        type_: entry.kind,
        reserved: 0,
    };
    let map: Vec<_> = placement.map().entries().into_iter().map(entry).collect();
    let start_info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        nr_modules: u32::from(info.initrd.is_some()),
        modlist_paddr: if info.initrd.is_some() { MODULES } else { 0 },
        cmdline_paddr: info.cmdline.unwrap_or(0),
        rsdp_paddr: info.rsdp.unwrap_or(0),
        memmap_paddr: MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).expect("four entries at most"),
        ..hvm_start_info::default()
    };
    let mut params = BootParams::new(&start_info, GuestAddress(START_INFO));
    params.set_sections(&map, GuestAddress(MEMORY_MAP));
    if let Some(initrd) = info.initrd {
        let module = hvm_modlist_entry { paddr: initrd.start, size: initrd.size, ..hvm_modlist_entry::default() };
        params.set_modules(&[module], GuestAddress(MODULES));
    }
    PvhBootConfigurator::write_bootparams(&params, placement.ram().backend())
        .map_err(|source| Problem::Parameters { what: "write the PVH start info", source })
}

/// Writes the boot GDT and gives the state in which a PVH kernel is entered at `entry`.
///
/// # Errors
/// The room is taken.
pub fn entry_state(placement: &mut Placement, entry: u64) -> Result<CpuState, Problem> {
    placement.write("boot GDT", BOOT_GDT, CpuState::boot_gdt(false).map(u64::to_le_bytes).as_flattened())?;
    let mut state = CpuState::protected_mode(entry);
    state.regs.rbx = START_INFO;
    Ok(state)
}
