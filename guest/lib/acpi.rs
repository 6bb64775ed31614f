//! The ACPI tables as far as these guests read them: which processors there are, which IOAPIC input the PIT has.
//!
//! RSDP -> XSDT -> MADT. What is not asked for here stays unread, checksums too: the tables come from Hostel.
//! Source: ACPI 6.5 §5.2.5.3 (RSDP), §5.2.8 (XSDT), §5.2.12 (MADT).

use core::ptr::read_unaligned;

/// Bytes of a table before its own contents.
const HEADER_BYTES: u64 = 36;
/// Offset of a table's length.
const LENGTH: u64 = 4;
/// Offset of the XSDT's address in the RSDP.
const RSDP_XSDT: u64 = 24;
/// Offset of the MADT's entries.
const MADT_ENTRIES: u64 = 44;

/// An entry of the MADT.
pub enum Entry {
    /// A processor that may be used, by its APIC id.
    Processor(u8),
    /// The interrupt of an old PC is wired to another input of the IOAPIC than its number says.
    Override {
        /// Number on the old PC.
        irq: u8,
        /// Input of the IOAPIC.
        input: u32,
    },
    /// Anything else.
    Other,
}

/// Calls `visit` with each entry of the MADT that is found from the RSDP at `rsdp`; says whether there is a MADT.
pub fn for_each_madt_entry(rsdp: u64, mut visit: impl FnMut(Entry)) -> bool {
    if rsdp == 0 {
        return false;
    }
    let xsdt: u64 = field(rsdp + RSDP_XSDT);
    let tables = (u64::from(field::<u32>(xsdt + LENGTH)) - HEADER_BYTES) / 8;
    for index in 0..tables {
        let table: u64 = field(xsdt + HEADER_BYTES + 8 * index);
        if field::<u32>(table) == u32::from_le_bytes(*b"APIC") {
            let end = table + u64::from(field::<u32>(table + LENGTH));
            let mut entry = table + MADT_ENTRIES;
            while entry < end {
                visit(parse(entry));
                entry += u64::from(field::<u8>(entry + 1)).max(2);
            }
            return true;
        }
    }
    false
}

/// The MADT entry at `at` (§5.2.12.2, §5.2.12.5).
fn parse(at: u64) -> Entry {
    const PROCESSOR_LOCAL_APIC: u8 = 0;
    const INTERRUPT_SOURCE_OVERRIDE: u8 = 2;
    const ENABLED: u32 = 1 << 0;
    match field::<u8>(at) {
        PROCESSOR_LOCAL_APIC if field::<u32>(at + 4) & ENABLED != 0 => Entry::Processor(field(at + 3)),
        INTERRUPT_SOURCE_OVERRIDE => Entry::Override { irq: field(at + 3), input: field(at + 4) },
        _ => Entry::Other,
    }
}

/// A number in a table; tables are packed.
fn field<T: Copy>(address: u64) -> T {
    // SAFETY: the tables lie in RAM that is mapped, and any bytes make a number.
    unsafe { read_unaligned(address as *const T) }
}
