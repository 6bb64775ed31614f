//! The guest-physical address map and the port map, each address once.
//!
//! ```text
//!  0x0_0000_0500  GDT of the boot state
//!  0x0_0000_1000  PML4, PDPT, four PDs: the identity map of the first 4 GiB
//!  0x0_0000_7000  start info: hvm_start_info (PVH) or the Multiboot information structure
//!  0x0_0000_7c00  flat 16-bit image                       (only where there is no start info)
//!  0x0_0000_8000  boot_params, Linux' zero page
//!  0x0_0000_9000  command line
//!  0x0_0000_a000  boot stack, grows down from 0x1_0000
//!  0x0_0001_0000  flat 64-bit image
//!  0x0_0009_fc00  end of low RAM as the guest's map gives it
//!  0x0_000e_0000  RSDP and ACPI tables                    (reserved)
//!  0x0_000f_fff0  code that resets the machine, where a BIOS begins
//!  0x0_0010_0000  RAM: ELF images, kernels; the initrd at its upper end
//!  0x0_c000_0000  the 4 GiB hole: no RAM
//!  0x0_d000_0000    registers of PCI functions, or of virtio devices over plain memory
//!  0x0_e000_0000    PCI configuration space
//!  0x0_fec0_0000    IOAPIC
//!  0x0_fee0_0000    LAPIC
//!  0x0_fffb_c000    KVM's identity map page and TSS (VMX without unrestricted guest)
//!  0x1_0000_0000  RAM continues
//! ```
//!
//! Sources: Linux boot.rst "Memory Layout"; Intel SDM vol. 3A §11.4.1 (LAPIC base); Intel 82093AA §3.0 (IOAPIC base);
//! KVM API KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR; ACPI 6.5 §5.2.5.1 (RSDP below 1 MiB).

/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;
/// Bytes of a huge page (Intel SDM vol. 3A §4.5).
pub const HUGE_PAGE: u64 = 2 * MIB;
/// One gibibyte, in bytes.
pub const GIB: u64 = 1 << 30;
/// Size of a page, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Where the boot state's GDT stands.
pub const BOOT_GDT: u64 = 0x500;
/// Page tables of the identity map: PML4, PDPT, then [`IDENTITY_PD_COUNT`] page directories.
pub const BOOT_PML4: u64 = 0x1000;
/// Page directories of the identity map: 1 GiB each.
pub const IDENTITY_PD_COUNT: u64 = 4;
/// `hvm_start_info` with its lists, or the Multiboot information structure.
pub const START_INFO: u64 = 0x7000;
/// Bytes kept for [`START_INFO`].
pub const START_INFO_SIZE: u64 = 0x1000;
/// Load and entry address of a flat 16-bit image, where a BIOS puts a boot sector.
pub const FLAT16_ENTRY: u64 = 0x7c00;
/// Linux' `boot_params`.
pub const ZERO_PAGE: u64 = 0x8000;
/// The command line, NUL-terminated.
pub const CMDLINE: u64 = 0x9000;
/// Longest command line with its NUL, in bytes: Linux' `COMMAND_LINE_SIZE`.
pub const CMDLINE_SIZE: u64 = 2048;
/// Initial stack pointer of 64-bit entries; the stack may grow down to 0xa000.
pub const BOOT_STACK: u64 = 0x1_0000;
/// Load and entry address of a flat 64-bit image.
pub const FLAT64_ENTRY: u64 = 0x1_0000;
/// First byte after the low RAM that the guest's memory map shows.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// RSDP, with the other ACPI tables behind it.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// First byte after the ACPI area.
pub const ACPI_END: u64 = 0x10_0000;
/// Where RAM above the legacy area begins.
pub const HIGH_RAM: u64 = 0x10_0000;
/// First address of the hole below 4 GiB.
pub const HOLE_START: u64 = 0xc000_0000;
/// First address after the hole.
pub const HOLE_END: u64 = 0x1_0000_0000;

/// Window in which the memory BARs of PCI functions lie.
pub const PCI_WINDOW: u64 = 0xd000_0000;
/// Bytes of the window.
pub const PCI_WINDOW_SIZE: u64 = 0x1000_0000;
/// PCI configuration space (ECAM) of bus 0.
pub const PCI_ECAM: u64 = 0xe000_0000;
/// Registers of the first virtio device where they are reached without PCI.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// From one device's registers to the next's.
pub const VIRTIO_MMIO_STEP: u64 = 0x1000;
/// IOAPIC input of the first such device; the next has the next.
pub const VIRTIO_MMIO_IRQ: u32 = 16;
/// Devices for which there are inputs.
pub const VIRTIO_MMIO_MAX: usize = 8;
/// IOAPIC registers.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Bytes of the IOAPIC's window.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// LAPIC registers.
pub const LAPIC: u64 = 0xfee0_0000;
/// KVM's one-page identity map.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// KVM's three-page TSS.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// CMOS index and data ports.
pub const PORT_RTC: u16 = 0x70;
/// i8042 data port.
pub const PORT_I8042_DATA: u16 = 0x60;
/// i8042 command and status port.
pub const PORT_I8042_COMMAND: u16 = 0x64;
/// Where firmware writes its progress codes; nothing answers there, guests mark points in time by it.
pub const PORT_POST: u16 = 0x80;
/// Debug console.
pub const PORT_DEBUG_CONSOLE: u16 = 0xe9;
/// isa-debug-exit.
pub const PORT_DEBUG_EXIT: u16 = 0xf4;
/// First port of COM1.
pub const PORT_COM1: u16 = 0x3f8;
/// pvpanic.
pub const PORT_PVPANIC: u16 = 0x505;
/// PCI configuration address and data.
pub const PORT_PCI: u16 = 0xcf8;
/// ACPI sleep control register, then status and reset register ([`PORT_ACPI_SIZE`] ports).
pub const PORT_ACPI: u16 = 0x600;
/// Ports of the ACPI block: sleep control 0, sleep status 1, reset 2, event status 3.
pub const PORT_ACPI_SIZE: u16 = 4;
/// ACPI reset register.
pub const PORT_ACPI_RESET: u16 = PORT_ACPI + 2;

/// Interrupt input of the RTC.
pub const IRQ_RTC: u32 = 8;
/// Interrupt input of COM1.
pub const IRQ_COM1: u32 = 4;
/// Interrupt input of the ACPI Generic Event Device.
pub const IRQ_ACPI_EVENTS: u32 = 9;

/// Most vCPUs that a machine can have: CPUID leaf 4 can number so many cores of a package (six bits of EAX), and xAPIC ids reach far beyond.
pub const MAX_CPUS: u32 = 64;
/// Least RAM that a machine can have, in bytes.
pub const MIN_RAM: u64 = MIB;

const _: () = {
    assert!(BOOT_PML4 + (2 + IDENTITY_PD_COUNT) * PAGE_SIZE <= START_INFO);
    assert!(START_INFO + START_INFO_SIZE <= ZERO_PAGE);
    assert!(ZERO_PAGE + PAGE_SIZE <= CMDLINE);
    assert!(CMDLINE + CMDLINE_SIZE <= 0xa000);
    assert!(BOOT_STACK <= FLAT64_ENTRY && FLAT64_ENTRY < LOW_RAM_END);
    assert!(LOW_RAM_END < ACPI_TABLES && ACPI_END == HIGH_RAM);
    assert!(HOLE_START < IOAPIC && IOAPIC + IOAPIC_SIZE <= LAPIC && LAPIC < KVM_IDENTITY_MAP);
    assert!(KVM_IDENTITY_MAP + PAGE_SIZE == KVM_TSS && KVM_TSS + 3 * PAGE_SIZE <= HOLE_END);
};
