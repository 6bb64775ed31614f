//! What a guest finds at ports and where no memory is: serial port, debug console, the ways out, the LAPIC.
//!
//! The serial port has the two registers by which something is sent; nothing arrives. Whatever is not here reads as ones and forgets what is written, as on a bus without a
//! device, and so does memory beyond the guest's: the other guest's, the monitor's and the machine's devices.
//! Sources: PC16550D §8 (registers); ACPI 6.5 §4.8.3.6, §4.8.3.7; QEMU docs/specs/pvpanic.rst; QEMU hw/misc/debugexit.c.

use guest::memory::{read8, write8};
use guest::{print, serial};

use crate::lapic::Lapic;
use crate::machine::LAPIC;
use crate::paging::PAGE;
use crate::report;
use crate::vm::Vm;

/// Longest piece of a line that is printed at once.
const LINE: usize = 128;
const COM1: u16 = 0x3f8;
const DEBUG_CONSOLE: u16 = 0xe9;
const SLEEP_CONTROL: u16 = 0x600;
const RESET: u16 = 0x602;
const DEBUG_EXIT: u16 = 0xf4;
const PVPANIC: u16 = 0x505;
/// The serial port's line status: transmitter empty, and so is its FIFO.
const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u64 = 1 << 6 | 1 << 5;

pub struct Devices {
    pub lapic: Lapic,
    line: [u8; LINE],
    length: usize,
}

impl Vm {
    /// Prints a letter: lines of two guests come out whole, each with its guest's name.
    fn put(&mut self, byte: u8) {
        let devices = &mut self.devices;
        if byte != b'\n' {
            devices.line[devices.length] = byte;
            devices.length += 1;
        }
        if byte == b'\n' || devices.length == LINE {
            report::name(self);
            print!("| ");
            serial::write(&self.devices.line[..self.devices.length]);
            print!("\n");
            self.devices.length = 0;
        }
    }

    /// Prints what there is of a line, if a guest leaves one without an end.
    pub fn end_line(&mut self) {
        if self.devices.length > 0 {
            self.put(b'\n');
        }
    }

    /// IN.
    pub fn read_port(&mut self, port: u16, size: u8) -> u64 {
        if port == LINE_STATUS && size == 1 { TRANSMITTER_EMPTY } else { u64::MAX }
    }

    /// OUT.
    pub fn write_port(&mut self, port: u16, size: u8, value: u64) {
        let byte = value as u8;
        match port {
            COM1 | DEBUG_CONSOLE if size == 1 => self.put(byte),
            // Enabled (bit 5), type 5: what this machine has for "off".
            SLEEP_CONTROL if byte & 0x3c == 1 << 5 | 5 << 2 => self.end("powered off"),
            RESET if byte == 1 => self.end("reset itself"),
            DEBUG_EXIT if value as u32 == 0 => self.end("exited with 0"),
            DEBUG_EXIT => self.end("exited with another value than 0"),
            PVPANIC if byte & 1 != 0 => self.end("panicked"),
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
            if self.scan.pages[(address / PAGE) as usize] {
                self.unscan();
            }
            for index in 0..size {
                write8(machine + index, (value >> (8 * index)) as u8);
            }
        } else if let Some(offset) = Self::lapic_register(address, size) {
            self.devices.lapic.write(offset, value as u32);
        }
    }
}
