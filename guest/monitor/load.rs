//! The loader: the very files that run directly under Hostel, into a guest's RAM, and what PVH hands over.
//!
//! Sources: ELF gABI "Program Header"; Xen pvh.pandoc "Booting"; Xen `public/arch-x86/hvm/start_info.h`, `public/elfnote.h`.

use core::ptr;

use guest::{memory::write8, start_info::StartInfo};

use crate::{decode::*, machine::RAM_BYTES, vm::Vm};

macro_rules! images {
    ($($name:literal)+) => {
        &[$(($name, include_bytes!(concat!(env!("OUT_DIR"), "/", $name)))),+]
    };
}

/// The guests, by their names: made by `build.rs` before the monitor, which embeds the files as they are.
pub static IMAGES: &[(&str, &[u8])] = images!("hello" "user" "sensitive" "faults" "traps" "trap-cost" "memory" "crash");

/// Guest-physical addresses, as Hostel has them.
const START_INFO: u64 = 0x7000;
const MEMORY_MAP: u64 = START_INFO + 0x100;
const COMMAND_LINE: u64 = 0x9000;
const COMMAND_LINE_BYTES: u64 = 1024;
const LOW_RAM_END: u64 = 0x9_fc00;
const HIGH_RAM: u64 = 0x10_0000;

/// Program headers: to be loaded; a note, and the one that says where PVH enters.
const SEGMENT_LOAD: u64 = 1;
const SEGMENT_NOTE: u64 = 4;
const NOTE_ENTRY: u64 = 18;

/// The little-endian number of `size` bytes at `offset`.
fn number(image: &[u8], offset: u64, size: u64) -> Option<u64> {
    let bytes = image.get(offset as usize..(offset + size) as usize)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// Copies the segments into the guest's RAM, and sets the state at the entry. `None`: it is not such an image, or too large.
pub fn load(image: &[u8], vm: &mut Vm) -> Option<()> {
    let (table, size, count) = (number(image, 32, 8)?, number(image, 54, 2)?, number(image, 56, 2)?);
    for header in (0..count).map(|index| table + index * size) {
        let (offset, address) = (number(image, header + 8, 8)?, number(image, header + 24, 8)?);
        let (file_bytes, bytes) = (number(image, header + 32, 8)?, number(image, header + 40, 8)?);
        match number(image, header, 4)? {
            SEGMENT_LOAD => {
                let from = image.get(offset as usize..(offset + file_bytes) as usize)?;
                let to = vm.ram_at(address, bytes.max(file_bytes))?;
                // SAFETY: the range is RAM of the guest, which is no memory of ours; the rest of it is zero.
                unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
            }
            // The linker script keeps this note alone in its segment: its value is behind the name, padded to four bytes.
            SEGMENT_NOTE if number(image, offset + 8, 4)? == NOTE_ENTRY => {
                vm.frame.rip = number(image, offset + 12 + number(image, offset, 4)?.next_multiple_of(4), 4)?;
            }
            _ => {}
        }
    }
    StartInfo::write(vm.ram, START_INFO, COMMAND_LINE, MEMORY_MAP, &[(0, LOW_RAM_END), (HIGH_RAM, RAM_BYTES)]);
    *register(&mut vm.frame, RBX) = START_INFO;
    (vm.frame.rip != 0).then_some(())
}

/// Appends a word to the guest's command line, `used` bytes of which are there. Returns how many it is then.
pub fn append(vm: &Vm, used: u64, word: &[u8]) -> u64 {
    let mut at = used;
    for &byte in word.iter().chain(b" ").take((COMMAND_LINE_BYTES - used) as usize) {
        write8(vm.ram + COMMAND_LINE + at, byte);
        at += 1;
    }
    at
}
