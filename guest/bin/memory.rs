//! memory: walks the memory map that PVH hands over and touches both ends of every range of RAM.
//!
//! A machine has RAM where the map says so and nowhere else: below 640 KiB, from 1 MiB up to the hole that ends at 4 GiB, and
//! from 4 GiB up. Each end is written, read back and restored. Words on the command line are further addresses to try. Powers off;
//! exits with 1 (status 3) when RAM does not keep.

#![no_std]
#![no_main]

use guest::memory::{map_gib, read64, write64};
use guest::start_info::{MemoryRange, RAM, StartInfo};
use guest::text::Hex;
use guest::words::Words;
use guest::{power, print};

#[unsafe(no_mangle)]
extern "C" fn guest_main(boot_information: u64) -> ! {
    let mut total_bytes = 0;
    let mut kept = true;
    let info = StartInfo::at(boot_information);
    for range in info.memory_map() {
        print!(Hex(range.start), " to ", Hex(range.start + range.bytes - 1), ": ", range.kind_name());
        if range.kind == RAM {
            total_bytes += range.bytes;
            kept &= report_ends(range);
        }
        print!("\n");
    }
    print!(total_bytes >> 10, " KiB of RAM\n");
    let mut words = Words::of(info.command_line());
    while let Some(address) = words.number() {
        assert!(map_gib(address), "an address beyond what this guest maps");
        print!("at ", Hex(address), ": ", Hex(read64(address)));
        print!(if keeps(address) { ", keeps what is written\n" } else { ", does not keep what is written\n" });
    }
    if kept { power::off() } else { power::exit(1) }
}

/// Touches the first and the last word of a range of RAM and prints the result.
fn report_ends(range: &MemoryRange) -> bool {
    let (first, last) = (range.start, range.start + range.bytes - 8);
    if !(map_gib(first) && map_gib(last)) {
        print!(", beyond what this guest maps");
        return true;
    }
    let kept = keeps(first) && keeps(last);
    print!(if kept { ", both ends keep what is written" } else { ", does NOT keep what is written" });
    kept
}

/// Whether the word at `address` keeps two patterns; its old value comes back.
fn keeps(address: u64) -> bool {
    let old = read64(address);
    let kept = [0x5555_aaaa_0f0f_f0f0, address].into_iter().all(|pattern| {
        write64(address, pattern);
        read64(address) == pattern
    });
    write64(address, old);
    kept
}
