//! The 64-bit Linux boot protocol: long mode on an identity map, RSI = `boot_params`.
//!
//! Leaves out EFI, screen and disk information: this machine has none of them, and zero says so.
//! Source: Linux boot.rst "64-bit Boot Protocol", "Details of Header Fields"; Linux zero-page.rst.

use super::error::Problem;
use super::flat;
use super::placement::Placement;
use super::pvh::BootInfo;
use crate::arch::cpu_state::CpuState;
use crate::arch::layout::{CMDLINE_SIZE, PAGE_SIZE, ZERO_PAGE};
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::GuestAddress;

/// `hdr.boot_flag`.
const BOOT_FLAG: u16 = 0xaa55;
/// `hdr.header`: "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
/// `hdr.type_of_loader`: a loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;

/// The setup header of a kernel that comes without one, as an ELF file.
pub fn plain_setup_header() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        cmdline_size: CMDLINE_SIZE as u32 - 1,
        ..setup_header::default()
    }
}

/// Writes `boot_params` to [`ZERO_PAGE`], made of a kernel's setup header and what this machine is.
///
/// # Errors
/// The room is taken.
pub fn write(placement: &mut Placement, header: setup_header, info: &BootInfo) -> Result<(), Problem> {
    placement.claim("boot_params", ZERO_PAGE, PAGE_SIZE)?;
    let low = |address: u64| u32::try_from(address).expect("command line and initrd lie below 4 GiB");
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: info.rsdp.unwrap_or(0), ..boot_params::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = low(info.cmdline.unwrap_or(0));
    if let Some(initrd) = info.initrd {
        params.hdr.ramdisk_image = low(initrd.start);
        params.hdr.ramdisk_size = low(initrd.size);
    }
    let entries = placement.map().entries();
    for (slot, entry) in params.e820_table.iter_mut().zip(&entries) {
        *slot = boot_e820_entry { addr: entry.range.start, size: entry.range.size, r#type: entry.kind };
    }
    params.e820_entries = u8::try_from(entries.len()).expect("four entries at most");
    let params = BootParams::new(&params, GuestAddress(ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&params, placement.ram().backend())
        .map_err(|source| Problem::Parameters { what: "write boot_params", source })
}

/// Writes GDT and page tables and gives the state in which a Linux kernel is entered at `entry`.
///
/// # Errors
/// The room is taken.
pub fn entry_state(placement: &mut Placement, entry: u64) -> Result<CpuState, Problem> {
    let mut state = flat::long_mode(placement, entry)?;
    state.regs.rsi = ZERO_PAGE;
    Ok(state)
}
