//! trap-cost: what a trap costs, measured from inside by the time stamp counter.
//!
//! Each row does one thing again and again and keeps the shortest time: longer ones were interrupted. Where the answer comes
//! from is what Intel's and AMD's processors do with nested paging; a KVM that interprets its guests' kernels answers all of
//! it. An access without a device in the kernel goes to user space on every KVM. Powers off; exits with 1 (status 3) when the
//! counter stands still.
//! Sources: Intel SDM vol. 3C §26.1.2, §26.1.3; AMD APM vol. 2 §15.9.

#![no_std]
#![no_main]

use core::arch::asm;

use guest::memory::{GIB, map_gib, page_directory_entry, read32, write32};
use guest::port::{in8, out8};
use guest::text::{Column, Left};
use guest::{attempt, cpu, fault, interrupt, power, print};

/// How often each thing is done.
const REPETITIONS: u32 = 32;
/// A port and an address without a device; the address lies in the hole below 4 GiB.
const NO_DEVICE: u16 = 0x700;
const NO_MEMORY: u64 = 3 * GIB;
/// The page attributes, which every guest may set.
const PAGE_ATTRIBUTES: u32 = 0x277;
/// A large page that nothing uses.
const SPARE: u64 = 2 << 20;

/// Who answers.
const PROCESSOR: &str = "the processor: no exit";
const KVM: &str = "KVM: an exit to the kernel";
const HOSTEL: &str = "Hostel: an exit to user space";

struct Row {
    what: &'static str,
    answered_by: &'static str,
    once: fn(),
}

const fn row(what: &'static str, answered_by: &'static str, once: fn()) -> Row {
    Row { what, answered_by, once }
}

static ROWS: [Row; 13] = [
    row("nothing", PROCESSOR, || {}),
    row("RDTSC", PROCESSOR, || _ = cpu::time_stamp()),
    row("MOV from CR0", PROCESSOR, || _ = read_cr0()),
    row("MOV to CR3", PROCESSOR, reload_cr3),
    row("INVLPG", PROCESSOR, flush),
    row("#PF and its handler", PROCESSOR, page_fault),
    row("CPUID", KVM, || _ = cpu::cpuid(0, 0)),
    row("WRMSR", KVM, write_msr),
    row("IN, 1 byte", HOSTEL, || _ = in8(NO_DEVICE)),
    row("OUT, 1 byte", HOSTEL, || out8(NO_DEVICE, 0)),
    row("REP OUTSB, 64 bytes", HOSTEL, out_string),
    row("read of a device", HOSTEL, || _ = read32(NO_MEMORY)),
    row("write to a device", HOSTEL, || write32(NO_MEMORY, 0)),
];

#[unsafe(no_mangle)]
extern "C" fn guest_main(_boot_information: u64) -> ! {
    interrupt::init();
    fault::init();
    assert!(map_gib(NO_MEMORY), "no page table left for the hole");
    // SAFETY: an entry for memory that nothing uses: an access faults from now on.
    unsafe { page_directory_entry(SPARE).write_volatile(0) };

    print!("    cycles  what                 answered, with VMX or SVM, by\n");
    let mut costs_time = true;
    for row in &ROWS {
        let cycles = shortest(row.once);
        costs_time &= cycles > 0;
        print!(Column(cycles, 10), "  ", Left(row.what, 21), row.answered_by, "\n");
    }
    if costs_time { power::off() } else { power::exit(1) }
}

/// The fewest cycles that `once` takes, the measurement itself included.
fn shortest(once: fn()) -> u64 {
    let mut fewest = u64::MAX;
    for _ in 0..REPETITIONS {
        let start = cpu::time_stamp();
        once();
        fewest = fewest.min(cpu::time_stamp() - start);
    }
    fewest
}

fn read_cr0() -> u64 {
    let value;
    // SAFETY: reads a register, in ring 0.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

fn reload_cr3() {
    // SAFETY: the tables stay the same.
    unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags)) };
}

fn flush() {
    // SAFETY: the page tables are looked at again, nothing else.
    unsafe { asm!("invlpg [{}]", in(reg) SPARE, options(nostack, preserves_flags)) };
}

fn page_fault() {
    attempt!("mov eax, [rax]"; inout("rax") SPARE => _);
}

/// The types as they are after reset (Intel SDM vol. 3A §12.12.4).
fn write_msr() {
    // SAFETY: a legal value, and no page table here uses any but the first type.
    unsafe { asm!("wrmsr", in("ecx") PAGE_ATTRIBUTES, in("eax") 0x0007_0406, in("edx") 0x0007_0406) };
}

fn out_string() {
    static BYTES: [u8; 64] = [0; 64];
    // SAFETY: reads as many bytes as there are; DF is clear.
    unsafe {
        asm!("rep outsb", in("dx") NO_DEVICE, inout("rsi") BYTES.as_ptr() => _, inout("rcx") BYTES.len() => _, options(nostack));
    }
}
