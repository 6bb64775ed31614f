//! What a guest finds at ports and where no memory is: serial port, debug console, the ways out, the LAPIC.
//!
//! The serial port has the two registers by which something is sent; nothing arrives. Whatever is not here reads as ones and forgets what
//! is written, as on a bus without a device, and so does memory beyond the guest's: the other guest's, the monitor's and the machine's
//! devices.
//! Sources: PC16550D §8 (registers); ACPI 6.5 §4.8.3.6, §4.8.3.7; QEMU docs/specs/pvpanic.rst; QEMU hw/misc/debugexit.c.

use guest::{apic::LAPIC, memory::*, power, print, serial};

use crate::{lapic::Lapic, report, vm::Vm};

/// Longest piece of a line that is printed at once.
const LINE: usize = 128;
const DEBUG_CONSOLE: u16 = 0xe9;

pub struct Devices {
    pub lapic: Lapic,
    line: [u8; LINE],
    length: usize,
}

impl Vm {
    /// Prints a letter: lines of two guests come out whole, each with its guest's name.
    fn put(&mut self, byte: u8) {
        if byte == b'\n' || self.devices.length == LINE {
            report::name(self);
            print!("| ");
            serial::write(&self.devices.line[..self.devices.length]);
            print!("\n");
            self.devices.length = 0;
        }
        if byte != b'\n' {
            self.devices.line[self.devices.length] = byte;
            self.devices.length += 1;
        }
    }

    /// Prints what there is of a line, if a guest leaves one without an end.
    pub fn end_line(&mut self) {
        if self.devices.length > 0 {
            self.put(b'\n');
        }
    }

    /// IN.
    pub fn read_port(&self, port: u16, size: u8) -> u64 {
        let sends = port == serial::LINE_STATUS && size == 1;
        if sends { serial::TRANSMITTER_EMPTY.into() } else { u64::MAX }
    }

    /// OUT.
    pub fn write_port(&mut self, port: u16, size: u8, value: u64) {
        let byte = value as u8;
        match port {
            serial::DATA | DEBUG_CONSOLE if size == 1 => self.put(byte),
            power::SLEEP_CONTROL if byte & 0x3c == power::SOFT_OFF => self.end("powered off"),
            power::RESET if byte == power::RESET_VALUE => self.end("reset itself"),
            power::DEBUG_EXIT => self.end("exited by the debug port"),
            power::PVPANIC if byte & 1 != 0 => self.end("panicked"),
            _ => {}
        }
    }

    /// The offset of a register of the LAPIC, if it is accessed as it must be.
    fn lapic_register(address: u64, size: u64) -> Option<u64> {
        let offset = address.wrapping_sub(LAPIC);
        (offset < PAGE && size == 4 && offset % 16 == 0).then_some(offset)
    }

    /// Reads up to eight bytes of guest-physical memory within a page.
    pub fn read_physical(&mut self, address: u64, size: u64) -> u64 {
        if let Some(machine) = self.ram_at(address, size) {
            return (0..size).rev().fold(0, |value, index| value << 8 | u64::from(read8(machine + index)));
        }
        match Self::lapic_register(address, size) {
            Some(offset) => self.devices.lapic.read(offset).into(),
            None => u64::MAX >> (64 - 8 * size),
        }
    }

    /// Writes up to eight bytes of guest-physical memory within a page.
    pub fn write_physical(&mut self, address: u64, size: u64, value: u64) {
        if let Some(machine) = self.ram_at(address, size) {
            self.changes(address, size);
            (0..size).for_each(|index| write8(machine + index, (value >> (8 * index)) as u8));
        } else if let Some(offset) = Self::lapic_register(address, size) {
            self.devices.lapic.write(offset, value as u32);
        }
    }
}
