//! What a guest finds at ports and where no memory is: serial port, debug console, the ways out, the LAPIC.
//!
//! The serial port sends; nothing arrives. Whatever is not here reads as ones and forgets what is written, as on a bus without a
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
/// LCR: the first two registers are the divisor's.
const DIVISOR_LATCH: u8 = 1 << 7;
/// LSR: transmitter empty, and so is its FIFO.
const TRANSMITTER_EMPTY: u8 = 1 << 6 | 1 << 5;
/// IIR: no interrupt.
const NO_INTERRUPT: u8 = 1 << 0;
/// MSR: the other end is there.
const CARRIER: u8 = 0xb0;

pub struct Devices {
    pub lapic: Lapic,
    /// Registers of the serial port that keep what is written; the first is the divisor's low byte.
    serial: [u8; 8],
    line: [u8; LINE],
    length: usize,
}

impl Devices {
    pub const fn new() -> Devices {
        Devices { lapic: Lapic::new(), serial: [0; 8], line: [0; LINE], length: 0 }
    }
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
            self.end_line();
        }
    }

    /// Prints what there is of a line.
    fn end_line(&mut self) {
        report::name(self);
        print!("| ");
        serial::write(&self.devices.line[..self.devices.length]);
        print!("\n");
        self.devices.length = 0;
    }

    /// Prints a line that the guest has not ended.
    pub fn flush_line(&mut self) {
        if self.devices.length > 0 {
            self.end_line();
        }
    }

    /// IN.
    pub fn read_port(&mut self, port: u16, size: u8) -> u64 {
        let register = port.wrapping_sub(COM1);
        if register >= 8 || size != 1 {
            return u64::MAX;
        }
        u64::from(match register {
            0 if self.devices.serial[3] & DIVISOR_LATCH == 0 => 0,
            2 => NO_INTERRUPT,
            5 => TRANSMITTER_EMPTY,
            6 => CARRIER,
            _ => self.devices.serial[usize::from(register)],
        })
    }

    /// OUT.
    pub fn write_port(&mut self, port: u16, size: u8, value: u64) {
        let byte = value as u8;
        match port {
            DEBUG_CONSOLE if size == 1 => self.put(byte),
            COM1 if size == 1 && self.devices.serial[3] & DIVISOR_LATCH == 0 => self.put(byte),
            COM1..=0x3ff if size == 1 => self.devices.serial[usize::from(port - COM1)] = byte,
            // Enabled (bit 5), type 5: what this machine has for "off".
            SLEEP_CONTROL if byte & 0x3c == 1 << 5 | 5 << 2 => self.end("powered off"),
            RESET if byte == 1 => self.end("reset itself"),
            DEBUG_EXIT => {
                self.end(if value as u32 == 0 { "exited with 0" } else { "exited with another value than 0" })
            }
            PVPANIC if byte & 1 != 0 => self.end("panicked"),
            _ => {}
        }
    }

    /// Reads up to eight bytes of guest-physical memory within a page.
    pub fn read_physical(&mut self, address: u64, size: u64) -> u64 {
        if let Some(machine) = self.ram_at(address, size) {
            return (0..size).rev().fold(0, |value, index| value << 8 | u64::from(read8(machine + index)));
        }
        let offset = address.wrapping_sub(LAPIC);
        if offset < PAGE && size == 4 && offset % 16 == 0 {
            return self.devices.lapic.read(offset).into();
        }
        u64::MAX >> (64 - 8 * size)
    }

    /// Writes up to eight bytes of guest-physical memory within a page.
    pub fn write_physical(&mut self, address: u64, size: u64, value: u64) {
        if let Some(machine) = self.ram_at(address, size) {
            let page = address / PAGE;
            if self.scan.is_scanned(page) {
                self.unscan(page);
            }
            for index in 0..size {
                write8(machine + index, (value >> (8 * index)) as u8);
            }
            return;
        }
        let offset = address.wrapping_sub(LAPIC);
        if offset < PAGE && size == 4 && offset % 16 == 0 {
            self.devices.lapic.write(offset, value as u32);
        }
    }
}
