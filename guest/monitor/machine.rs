//! The machine that the monitor alone has: its memory, the ring of its guests, its timer.
//!
//! Everything of the monitor lies in one window of linear addresses, which every address space has for ring 0 only: a trap needs
//! no other page tables, and no guest can read what is there. Linear and machine addresses are equal in the window. Segments, TSS and
//! the entry of SYSCALL are those of any kernel with programs (`guest/lib/ring3.rs`): whatever selector of its own a guest's kernel
//! loads, it faults, for these tables have no segment but their own.
//! Sources: Intel SDM vol. 3A §2.5 (CR4.UMIP), §4.1.1 (EFER.NXE), §11.5.4 (LAPIC timer).

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use guest::{apic, cpu, interrupt, memory::*, ring3};

/// The window's first address, where `build.rs` links the monitor, and its bytes.
pub const WINDOW: u64 = 128 << 20;
pub const WINDOW_BYTES: u64 = 64 << 20;
/// Bytes of RAM of each guest, and where in the window the first begins.
pub const RAM_BYTES: u64 = 8 << 20;
pub const RAMS: u64 = WINDOW + (16 << 20);
/// The last large page of the window shows the LAPIC.
pub const LAPIC_WINDOW: u64 = WINDOW + WINDOW_BYTES - LARGE_PAGE;
/// The vector of the timer, and its tick: 2 ms, as the LAPIC counts under KVM (`guest/lib/apic.rs`).
pub const TIMER: u8 = interrupt::FIRST_FREE;
const TICK_CLOCKS: u32 = 2_000_000;

/// Cycles of the time stamp counter in a millisecond.
static CYCLES_PER_MS: AtomicU64 = AtomicU64::new(1);

/// Takes the machine over; `umip`: has SGDT and its like fault in ring 3, where the processor can. Says whether they do.
pub fn take_over(umip: bool, system_call: interrupt::Handler) -> bool {
    apic::enable();
    ring3::load_tables();
    ring3::on_system_call(system_call);
    let umip = umip && cpu::cpuid(7, 0).ecx & 1 << 2 != 0;
    // SAFETY: both bits concern page tables and programs that are not there yet.
    unsafe {
        cpu::write_msr(cpu::MSR_EFER, cpu::read_msr(cpu::MSR_EFER) | cpu::EFER_NXE);
        asm!("mov {0}, cr4", "and {0}, {1}", "or {0}, {2}", "mov cr4, {0}", out(reg) _, in(reg) !cpu::CR4_UMIP,
            in(reg) if umip { cpu::CR4_UMIP } else { 0 });
    }
    CYCLES_PER_MS.store(apic::cycles_per_ms(), Ordering::Relaxed);
    umip
}

/// Cycles of the time stamp counter in a millisecond.
pub fn cycles_per_ms() -> u64 {
    CYCLES_PER_MS.load(Ordering::Relaxed)
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

/// Switches to the page tables at `root`; `again`: even to those in use, and so forgets what is known of them.
pub fn load_tables(root: u64, again: bool) {
    static TABLES: AtomicU64 = AtomicU64::new(0);
    if TABLES.swap(root, Ordering::Relaxed) != root || again {
        // SAFETY: every root here maps the window.
        unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
    }
}
