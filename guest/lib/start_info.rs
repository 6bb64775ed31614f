//! What PVH hands over: memory map, command line, the way to the ACPI tables. Read by who is started, written by who starts another.
//!
//! Source: Xen pvh.pandoc; Xen `public/arch-x86/hvm/start_info.h`.

use core::slice;

use crate::memory::{write32, write64};

/// `hvm_start_info`, version 1.
#[repr(C)]
pub struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// `hvm_memmap_table_entry`: one range of physical addresses.
#[repr(C)]
pub struct MemoryRange {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// What it is: [`RAM`] or one of the kinds of [`MemoryRange::kind_name`].
    pub kind: u32,
    reserved: u32,
}

/// "xEn3", the first word of every `hvm_start_info`.
const MAGIC: u32 = 0x336e_c578;
/// [`MemoryRange::kind`]: RAM.
pub const RAM: u32 = 1;

impl StartInfo {
    /// What a machine with these ranges of RAM, from and to, is handed over, which `at` becomes: no ACPI tables, the command line at
    /// `command_line`, and the memory map at `memory_map`, both as that machine addresses them; `ram` is added to reach them here.
    pub fn write(ram: u64, at: u64, command_line: u64, memory_map: u64, ranges: &[(u64, u64)]) {
        for (offset, value) in [(0, MAGIC), (4, 1), (48, ranges.len() as u32)] {
            write32(ram + at + offset, value);
        }
        write64(ram + at + 24, command_line);
        write64(ram + at + 40, memory_map);
        for (index, &(start, end)) in ranges.iter().enumerate() {
            let entry = ram + memory_map + index as u64 * 24;
            write64(entry, start);
            write64(entry + 8, end - start);
            write32(entry + 16, RAM);
        }
    }

    /// The start info at `address`, as `guest_main` gets it. Panics where there is none.
    pub fn at(address: u64) -> &'static StartInfo {
        assert!(address != 0, "this guest needs to be started by PVH");
        // SAFETY: PVH promises the structure there; the magic number is checked before anything else is believed.
        let info = unsafe { &*(address as *const StartInfo) };
        assert!(info.magic == MAGIC && info.version >= 1, "the start info has another magic number or no memory map");
        info
    }

    /// The ranges of physical memory.
    pub fn memory_map(&self) -> &'static [MemoryRange] {
        if self.memory_map_entries == 0 {
            return &[];
        }
        // SAFETY: PVH promises that many entries there.
        unsafe { slice::from_raw_parts(self.memory_map as *const MemoryRange, self.memory_map_entries as usize) }
    }

    /// The command line; empty where there is none.
    pub fn command_line(&self) -> &'static [u8] {
        if self.command_line == 0 {
            return &[];
        }
        let start = self.command_line as *const u8;
        let mut length = 0;
        // SAFETY: PVH promises a string that ends with a zero byte.
        unsafe {
            while *start.add(length) != 0 {
                length += 1;
            }
            slice::from_raw_parts(start, length)
        }
    }

    /// Address of the ACPI root system description pointer; 0: none.
    pub fn rsdp(&self) -> u64 {
        self.rsdp
    }
}

impl MemoryRange {
    /// What is in the range (ACPI 6.5 §15, table 15.1).
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            RAM => "RAM",
            2 => "reserved",
            3 => "ACPI tables",
            4 => "ACPI, kept over sleep",
            5 => "broken",
            _ => "of unknown kind",
        }
    }
}
