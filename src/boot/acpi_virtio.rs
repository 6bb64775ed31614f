//! How ACPI tells of the PCI bridge, and of virtio devices without PCI.
//!
//! Sources: ACPI 6.5 §6.4.3 (resource descriptors); PCI Firmware 3.2 §4.1.2 (MCFG), §4.1.3 (its range reserved by a motherboard
//! resource); virtio_mmio.c ("LNRO0005").

use super::acpi::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes_of};
use crate::arch::layout::{PCI_ECAM, PCI_WINDOW, PCI_WINDOW_SIZE, PORT_PCI};
use crate::bus::device::DeviceNode;
use crate::pci::root::ECAM_SIZE;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Path, ResourceTemplate,
};
use acpi_tables::mcfg::MCFG;

/// Where the configuration space of the one bus is.
pub(super) fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(PCI_ECAM, 0, 0, 0);
    bytes_of(&mcfg)
}

/// The bridge with its windows, and the reservation of its configuration space.
pub(super) fn pci_bridge() -> Vec<u8> {
    let zero = 0u8;
    let hid = Name::new(Path::new("_HID"), &EISAName::new("PNP0A08"));
    let cid = Name::new(Path::new("_CID"), &EISAName::new("PNP0A03"));
    let segment = Name::new(Path::new("_SEG"), &zero);
    let bus = Name::new(Path::new("_BBN"), &zero);
    let uid = Name::new(Path::new("_UID"), &zero);
    let buses = AddressSpace::new_bus_number(0u16, 0u16);
    let ports = IO::new(PORT_PCI, PORT_PCI, 1, 8);
    let last = (PCI_WINDOW + PCI_WINDOW_SIZE - 1) as u32;
    let window = AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, PCI_WINDOW as u32, last, None);
    let resources = ResourceTemplate::new(vec![&buses, &ports, &window]);
    let resources = Name::new(Path::new("_CRS"), &resources);
    let bridge = Device::new(Path::new("_SB_.PCI0"), vec![&hid, &cid, &segment, &bus, &uid, &resources]);

    let hid = Name::new(Path::new("_HID"), &EISAName::new("PNP0C02"));
    let ecam = Memory32Fixed::new(true, PCI_ECAM as u32, ECAM_SIZE as u32);
    let resources = ResourceTemplate::new(vec![&ecam]);
    let resources = Name::new(Path::new("_CRS"), &resources);
    let reservation = Device::new(Path::new("_SB_.ECAM"), vec![&hid, &uid, &resources]);
    [bytes_of(&bridge), bytes_of(&reservation)].concat()
}

/// Virtio device number `index`, by its registers and its interrupt.
pub(super) fn virtio_mmio(index: usize, node: &DeviceNode) -> Vec<u8> {
    let Some((base, size)) = node.mmio else { return Vec::new() };
    let hid = Name::new(Path::new("_HID"), &"LNRO0005");
    let number = index as u8;
    let uid = Name::new(Path::new("_UID"), &number);
    let registers = Memory32Fixed::new(true, base as u32, size as u32);
    // Level-triggered, active high, its own.
    let interrupt = Interrupt::new(true, false, false, false, node.irq.unwrap_or(0));
    let resources = ResourceTemplate::new(vec![&registers, &interrupt]);
    let resources = Name::new(Path::new("_CRS"), &resources);
    bytes_of(&Device::new(Path::new(&format!("_SB_.VR{index:02X}")), vec![&hid, &uid, &resources]))
}
