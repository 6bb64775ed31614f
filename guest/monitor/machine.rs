//! The machine that the monitor alone has: its memory, the ring of its guests, its timer.
//!
//! Everything of the monitor lies in one window of linear addresses, which every address space has for ring 0 only: a trap needs
//! no other page tables, and no guest can read what is there. Linear and machine addresses are equal in the window. Segments, TSS and
//! the entry of SYSCALL are those of any kernel with programs (`guest/lib/ring3.rs`): whatever selector of its own a guest's kernel
//! loads, it faults, for these tables have no segment but their own.
//! Sources: Intel SDM vol. 3A §2.5 (CR4.UMIP), §4.1.1 (EFER.NXE), §11.5.4 (LAPIC timer).

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use guest::memory::write32;
use guest::{apic, cpu, interrupt, ring3};

/// The window's first address, where `build.rs` links the monitor, and its bytes.
pub const WINDOW: u64 = 128 << 20;
pub const WINDOW_BYTES: u64 = 64 << 20;
/// Bytes of RAM of each guest, and where in the window the first begins.
pub const RAM_BYTES: u64 = 8 << 20;
const RAMS: u64 = WINDOW + (16 << 20);
/// Where the LAPIC is on the machine; the last large page of the window shows it.
pub const LAPIC: u64 = 0xfee0_0000;
pub const LAPIC_WINDOW: u64 = WINDOW + WINDOW_BYTES - LARGE_PAGE;
pub const LARGE_PAGE: u64 = 2 << 20;
/// The vector of the timer, and its tick: 2 ms, as the LAPIC counts under KVM (`guest/lib/apic.rs`).
pub const TIMER: u8 = interrupt::FIRST_FREE;
const TICK_CLOCKS: u32 = 2_000_000;
/// EFER: entries may forbid execution. CR4: SGDT and its like fault in ring 3.
const EFER: u32 = 0xc000_0080;
const EFER_NXE: u64 = 1 << 11;
const CR4_UMIP: u64 = 1 << 11;

/// How often a millisecond is measured: the shortest counts, for others were interrupted by the host.
const CALIBRATIONS: u32 = 4;

/// Cycles of the time stamp counter in a millisecond.
static CYCLES_PER_MS: AtomicU64 = AtomicU64::new(u64::MAX);

/// Takes the machine over; `umip`: has SGDT and its like fault in ring 3, where the processor can. Says whether they do.
pub fn take_over(umip: bool, system_call: interrupt::Handler) -> bool {
    apic::enable();
    ring3::load_tables();
    ring3::on_system_call(system_call);
    let umip = umip && cpu::cpuid(7, 0).ecx & 1 << 2 != 0;
    // SAFETY: both bits concern page tables and programs that are not there yet.
    unsafe {
        cpu::write_msr(EFER, cpu::read_msr(EFER) | EFER_NXE);
        asm!("mov {0}, cr4", "and {0}, {1}", "or {0}, {2}", "mov cr4, {0}", out(reg) _, in(reg) !CR4_UMIP,
            in(reg) if umip { CR4_UMIP } else { 0 });
    }
    for _ in 0..CALIBRATIONS {
        let start = cpu::time_stamp();
        apic::wait_until(1, || false);
        CYCLES_PER_MS.fetch_min(cpu::time_stamp() - start, Ordering::Relaxed);
    }
    umip
}

/// Cycles of the time stamp counter in a millisecond.
pub fn cycles_per_ms() -> u64 {
    CYCLES_PER_MS.load(Ordering::Relaxed)
}

/// The machine address of the RAM of guest `index`.
pub fn ram(index: usize) -> u64 {
    RAMS + index as u64 * RAM_BYTES
}

/// Interrupts by [`TIMER`] once, after a tick: were it periodic, a guest whose traps take longer than a tick would never run. Like the
/// next one it goes through the window: in the guest's address space there may be anything at [`LAPIC`].
pub fn start_tick() {
    write32(LAPIC_WINDOW + 0x3e0, 0b1011); // every clock
    write32(LAPIC_WINDOW + 0x320, TIMER.into());
    write32(LAPIC_WINDOW + 0x380, TICK_CLOCKS);
}

/// Says that the timer has been served.
pub fn end_of_interrupt() {
    write32(LAPIC_WINDOW + 0xb0, 0);
}

/// Puts flat data into DS and ES, which a guest may have emptied: the next one may be in 32-bit code, which needs them.
pub fn load_data_segments() {
    // SAFETY: ring 0 in 64-bit code does not use them.
    unsafe { asm!("mov ds, {0:e}", "mov es, {0:e}", in(reg) ring3::DATA_3 as u32, options(nostack, preserves_flags)) };
}

/// The page tables in use.
static TABLES: AtomicU64 = AtomicU64::new(0);

/// Switches to the page tables at `root`, if they are others.
pub fn switch_tables(root: u64) {
    if TABLES.load(Ordering::Relaxed) != root {
        load_tables(root);
    }
}

/// Loads the page tables at `root`, and so forgets what is known of them.
pub fn load_tables(root: u64) {
    TABLES.store(root, Ordering::Relaxed);
    // SAFETY: every root here maps the window.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Clears a page of tables. By words: where ring 0 is interpreted, eight bytes at a time are eight times as fast.
pub fn clear_page(address: u64) {
    // SAFETY: a page of which nothing in use is left; DF is clear.
    unsafe {
        asm!("rep stosq", inout("rdi") address => _, inout("ecx") 512 => _, in("rax") 0, options(nostack, preserves_flags))
    };
}
