//! ACPI tables of a hardware-reduced platform: what a guest cannot find out by itself.
//!
//! RSDP -> XSDT -> FADT (-> DSDT), MADT. Power off goes by the sleep control register, reset by the reset register, and the
//! power button is an event of a Generic Event Device; all are registers of `devices/acpi_pm.rs`. There is no fixed
//! hardware: no PM timer, no SCI, no FACS. Processors stand in the MADT and once more in the DSDT, because Linux 6.11 and
//! later miss them there. Interrupt 0 has no source override: KVM's own IOAPIC has the PIT at input 0.
//! Sources: ACPI 6.5 §4.1 (hardware-reduced), §5.2 (tables), §5.6.9 (Generic Event Device), §19 (AML); QEMU
//! docs/specs/pvpanic.rst.

use super::acpi_virtio;
use crate::arch::irqchip::Irqchip;
use crate::arch::layout::{ACPI_TABLES, IOAPIC, LAPIC, PORT_ACPI, PORT_ACPI_RESET};
use crate::bus::device::DeviceNode;
use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Method,
    Name, Notify, OpRegion, OpRegionSpace, Package, Path, ResourceTemplate,
};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

/// A table and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiTable {
    /// Its signature; "RSDP" for that one.
    pub name: &'static str,
    /// Guest-physical address.
    pub address: u64,
    /// The table.
    pub bytes: Vec<u8>,
}

/// Who made the tables.
pub(super) const OEM_ID: [u8; 6] = *b"HOSTEL";
/// Which tables these are.
pub(super) const OEM_TABLE_ID: [u8; 8] = *b"HOSTEL  ";
/// Version of these tables.
pub(super) const OEM_REVISION: u32 = 1;
/// Tables begin at multiples of this: the RSDP must (§5.2.5.1).
const ALIGNMENT: u64 = 16;

/// SLP_TYP of soft off, as `devices/acpi_pm.rs` takes it.
const SLP_TYP_S5: u8 = 5;
/// Sleep control, sleep status and event status registers, from [`PORT_ACPI`] on.
const SLEEP_CONTROL: u16 = PORT_ACPI;
/// See [`SLEEP_CONTROL`].
const SLEEP_STATUS: u16 = PORT_ACPI + 1;
/// See [`SLEEP_CONTROL`].
const EVENT_STATUS: u16 = PORT_ACPI + 3;
/// Value that resets.
const RESET_VALUE: u8 = 1;

/// IAPC_BOOT_ARCH (§5.2.9.3): there is no VGA. Clear, and so said: no 8042 to probe, MSIs work, there is a CMOS clock.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
/// Cell of the CMOS memory that holds the century.
const CMOS_CENTURY: u8 = 0x32;
/// MADT flag (§5.2.12): there are two 8259 PICs too.
const PCAT_COMPAT: u32 = 1 << 0;
/// Notification that a control method power button was pressed (§5.6.6).
const NOTIFY_PRESSED: u8 = 0x80;

/// The tables of a machine, to be written at their addresses; the first is the RSDP, at [`ACPI_TABLES`]. A machine without
/// interrupt controllers has no MADT.
pub fn tables(cpus: u32, irqchip: Irqchip, nodes: &[DeviceNode]) -> Vec<AcpiTable> {
    let mut next = ACPI_TABLES;
    let mut place = |name, bytes: Vec<u8>| {
        let table = AcpiTable { name, address: next, bytes };
        next = (next + table.bytes.len() as u64).next_multiple_of(ALIGNMENT);
        table
    };
    let mut rsdp = place("RSDP", vec![0; Rsdp::len()]);
    let dsdt = place("DSDT", dsdt(cpus, nodes));
    let mut listed = vec![place("FACP", fadt(dsdt.address))];
    if irqchip != Irqchip::None {
        listed.push(place("APIC", madt(cpus, irqchip)));
    }
    if nodes.iter().any(|node| node.name == "PCI") {
        listed.push(place("MCFG", acpi_virtio::mcfg()));
    }
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    listed.iter().for_each(|table| xsdt.add_entry(table.address));
    let xsdt = place("XSDT", bytes_of(&xsdt));
    rsdp.bytes = bytes_of(&Rsdp::new(OEM_ID, xsdt.address));
    let mut tables = vec![rsdp, dsdt];
    tables.append(&mut listed);
    tables.push(xsdt);
    tables
}

pub(super) fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    // Grown once: a table comes byte by byte.
    let mut bytes = Vec::with_capacity(512);
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// Fixed ACPI description table (§5.2.9).
fn fadt(dsdt: u64) -> Vec<u8> {
    let register = |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into());
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton) // the power button is not fixed hardware; there is no sleep button
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = BOOT_ARCH_NO_VGA.into();
    fadt.century = CMOS_CENTURY;
    fadt.reset_reg = register(PORT_ACPI_RESET);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = register(SLEEP_CONTROL);
    fadt.sleep_status_reg = register(SLEEP_STATUS);
    bytes_of(&fadt.finalize())
}

/// Multiple APIC description table (§5.2.12): a LAPIC a processor, by its number; one IOAPIC; NMIs at LINT1 of all.
fn madt(cpus: u32, irqchip: Irqchip) -> Vec<u8> {
    const REVISION: u8 = 6;
    const PROCESSOR_LOCAL_APIC: u8 = 0;
    const IO_APIC: u8 = 1;
    const LOCAL_APIC_NMI: u8 = 4;
    const ENABLED: u32 = 1 << 0;
    let flags = if irqchip == Irqchip::Full { PCAT_COMPAT } else { 0 };
    let mut structures = Vec::with_capacity(512);
    structures.extend((LAPIC as u32).to_le_bytes());
    structures.extend(flags.to_le_bytes());
    for cpu in 0..cpus as u8 {
        structures.extend([PROCESSOR_LOCAL_APIC, 8, cpu, cpu]);
        structures.extend(ENABLED.to_le_bytes());
    }
    structures.extend([IO_APIC, 12, 0, 0]); // its id
    structures.extend((IOAPIC as u32).to_le_bytes());
    structures.extend(0u32.to_le_bytes()); // number of its first input
    structures.extend([LOCAL_APIC_NMI, 6, 0xff, 0, 0, 1]); // all processors, flags of the bus, LINT1
    let mut madt = Sdt::new(*b"APIC", 36, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.append_slice(&structures); // at once: it sums the table up each time
    madt.as_slice().to_vec()
}

/// Differentiated system description table (§5.2.11.1): AML for the sleep state, the processors and the devices.
fn dsdt(cpus: u32, nodes: &[DeviceNode]) -> Vec<u8> {
    const REVISION: u8 = 2; // integers of 64 bits
    let soft_off = Package::new(vec![&SLP_TYP_S5, &0u8, &0u8, &0u8]);
    let mut terms = bytes_of(&Name::new(Path::new("_S5_"), &soft_off));
    for cpu in 0..cpus {
        terms.extend(processor(cpu));
    }
    for (index, node) in nodes.iter().enumerate() {
        terms.extend(match node.name {
            "COM1" => device(node, "_SB_.COM1", &EISAName::new("PNP0501")),
            "RTC" => device(&DeviceNode { irq: None, ..node.clone() }, "_SB_.RTC_", &EISAName::new("PNP0B00")),
            "pvpanic" => device(node, "_SB_.PEVT", &"QEMU0001"),
            "ACPI" => node.irq.map_or(Vec::new(), event_devices),
            "PCI" => acpi_virtio::pci_bridge(),
            name if name.starts_with("virtio") => acpi_virtio::virtio_mmio(index, node),
            _ => Vec::new(), // found without ACPI, or known to those who use it
        });
    }
    let mut dsdt = Sdt::new(*b"DSDT", 36, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&terms);
    dsdt.as_slice().to_vec()
}

/// A processor (§8.4), by the number that it has in the MADT.
fn processor(cpu: u32) -> Vec<u8> {
    let hid = Name::new(Path::new("_HID"), &"ACPI0007");
    let uid = Name::new(Path::new("_UID"), &cpu);
    bytes_of(&Device::new(Path::new(&format!("_SB_.C{cpu:03X}")), vec![&hid, &uid]))
}

/// A device that is present, with its ports and its interrupt.
fn device(node: &DeviceNode, path: &str, id: &dyn Aml) -> Vec<u8> {
    const PRESENT: u8 = 0x0f; // present, enabled, shown, working (§6.3.7)
    let ports = node.ports.iter().map(|&(first, count)| IO::new(first, first, 1, count as u8));
    let ports: Vec<_> = ports.collect();
    let interrupt = node.irq.map(edge_interrupt);
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|port| port as &dyn Aml).collect();
    resources.extend(interrupt.iter().map(|interrupt| interrupt as &dyn Aml));
    let resources = ResourceTemplate::new(resources);
    let hid = Name::new(Path::new("_HID"), id);
    let uid = Name::new(Path::new("_UID"), &0u8);
    let status = Name::new(Path::new("_STA"), &PRESENT);
    let resources = Name::new(Path::new("_CRS"), &resources);
    bytes_of(&Device::new(Path::new(path), vec![&hid, &uid, &status, &resources]))
}

/// The power button, and the Generic Event Device whose method reads what happened and tells it on.
fn event_devices(irq: u32) -> Vec<u8> {
    let button_id = Name::new(Path::new("_HID"), &EISAName::new("PNP0C0C"));
    let button = Device::new(Path::new("_SB_.PWRB"), vec![&button_id]);

    let id = Name::new(Path::new("_HID"), &"ACPI0013");
    let interrupt = edge_interrupt(irq);
    let resources = ResourceTemplate::new(vec![&interrupt]);
    let resources = Name::new(Path::new("_CRS"), &resources);
    let region = OpRegion::new(Path::new("EVST"), OpRegionSpace::SystemIO, &EVENT_STATUS, &1u8);
    let pressed = Field::new(
        Path::new("EVST"),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![FieldEntry::Named(*b"PRSD", 1)],
    );
    let button_path = Path::new("\\_SB_.PWRB");
    let notify = Notify::new(&button_path, &NOTIFY_PRESSED);
    let was_pressed = Path::new("PRSD");
    let if_pressed = If::new(&was_pressed, vec![&notify]);
    let on_event = Method::new(Path::new("_EVT"), 1, true, vec![&if_pressed]);
    let events = Device::new(Path::new("_SB_.GED_"), vec![&id, &resources, &region, &pressed, &on_event]);
    [bytes_of(&button), bytes_of(&events)].concat()
}

/// An interrupt that its device alone drives, active high, edge-triggered.
fn edge_interrupt(irq: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, irq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::MAX_CPUS;
    use crate::boot::reset_vector::RESET_VECTOR;

    fn nodes() -> Vec<DeviceNode> {
        let node = |name, ports: (u16, u16), irq| DeviceNode { name, what: "", ports: Some(ports), mmio: None, irq };
        vec![
            node("COM1", (0x3f8, 8), Some(4)),
            node("RTC", (0x70, 2), Some(8)),
            node("pvpanic", (0x505, 1), None),
            node("debug-exit", (0xf4, 4), None),
            node("ACPI", (0x600, 4), Some(9)),
        ]
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
        bytes[offset..offset + size].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn find<'a>(tables: &'a [AcpiTable], name: &str) -> &'a AcpiTable {
        tables.iter().find(|table| table.name == name).expect(name)
    }

    #[test]
    fn each_pointer_leads_to_a_table_with_signature_length_and_checksum() {
        for (cpus, irqchip) in [(1, Irqchip::Split), (MAX_CPUS, Irqchip::Full), (1, Irqchip::None)] {
            let tables = tables(cpus, irqchip, &nodes());
            for table in &tables[1..] {
                assert_eq!(&table.bytes[..4], table.name.as_bytes());
                assert_eq!(number(&table.bytes, 4, 4), table.bytes.len() as u64);
                assert_eq!((sum(&table.bytes), table.address % ALIGNMENT), (0, 0));
            }
            let at = |address| tables.iter().find(|table| table.address == address).expect("a table").name;
            let rsdp = &tables[0];
            assert_eq!((rsdp.name, rsdp.address, &rsdp.bytes[..8]), ("RSDP", ACPI_TABLES, &b"RSD PTR "[..]));
            assert_eq!((sum(&rsdp.bytes[..20]), sum(&rsdp.bytes), rsdp.bytes[15]), (0, 0, 2));
            assert_eq!(at(number(&rsdp.bytes, 24, 8)), "XSDT");
            let xsdt = find(&tables, "XSDT");
            let listed: Vec<_> =
                (36..xsdt.bytes.len()).step_by(8).map(|at| number(&xsdt.bytes, at, 8)).map(at).collect();
            assert_eq!(listed, if irqchip == Irqchip::None { vec!["FACP"] } else { vec!["FACP", "APIC"] });
            assert_eq!(at(number(&find(&tables, "FACP").bytes, 140, 8)), "DSDT");
        }
    }

    #[test]
    fn tables_follow_each_other_inside_the_acpi_area() {
        let tables = tables(MAX_CPUS, Irqchip::Full, &nodes());
        for pair in tables.windows(2) {
            assert!(pair[0].address + pair[0].bytes.len() as u64 <= pair[1].address);
        }
        let last = tables.last().unwrap();
        assert!(last.address + last.bytes.len() as u64 <= RESET_VECTOR);
    }

    #[test]
    fn the_fadt_names_the_registers_of_a_reduced_platform() {
        let tables = tables(1, Irqchip::Split, &nodes());
        let fadt = &find(&tables, "FACP").bytes;
        assert_eq!(number(fadt, 112, 4), 1 << 20 | 1 << 10 | 1 << 5 | 1 << 4 | 1, "flags");
        assert_eq!((number(fadt, 109, 2), fadt[108]), (0x04, 0x32));
        let io_byte = |port: u64| port << 32 | 0x0100_0801;
        assert_eq!((number(fadt, 116, 8), fadt[128]), (io_byte(0x602), 1));
        assert_eq!((number(fadt, 244, 8), number(fadt, 256, 8)), (io_byte(0x600), io_byte(0x601)));
    }

    #[test]
    fn the_madt_lists_processors_ioapic_and_nmi() {
        let tables = tables(3, Irqchip::Full, &nodes());
        let madt = &find(&tables, "APIC").bytes;
        assert_eq!((number(madt, 36, 4), number(madt, 40, 4)), (0xfee0_0000, 1));
        assert_eq!(&madt[44..52], [0, 8, 0, 0, 1, 0, 0, 0]);
        assert_eq!(&madt[60..68], [0, 8, 2, 2, 1, 0, 0, 0]);
        assert_eq!(&madt[68..80], [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        assert_eq!(&madt[80..], [4, 6, 0xff, 0, 0, 1]);
    }

    #[test]
    fn the_dsdt_describes_the_devices_it_is_given() {
        let has = |nodes: &[DeviceNode], name: &[u8]| {
            let tables = tables(1, Irqchip::Split, nodes);
            find(&tables, "DSDT").bytes.windows(name.len()).any(|window| window == name)
        };
        for name in [&b"_S5_"[..], b"C000", b"COM1", b"RTC_", b"QEMU0001", b"PWRB", b"ACPI0013"] {
            assert!(has(&nodes(), name), "{name:?}");
        }
        assert!(!has(&nodes()[..4], b"ACPI0013"));
        assert!(!has(&nodes()[1..], b"COM1"));
    }
}
