//! The interrupt controllers: this processor's LAPIC, and the IOAPIC that devices are wired to.
//!
//! A device raises an input of the IOAPIC; the IOAPIC's table turns the input into a vector for a LAPIC; the LAPIC
//! interrupts its processor. Under Hostel's split irqchip the LAPIC is KVM's and each access stays in the kernel, while each
//! access to the IOAPIC is an exit to Hostel.
//! Sources: Intel SDM vol. 3A ch. 11 (LAPIC); Intel 82093AA (IOAPIC) §3.

use crate::cpu;
use crate::memory::{map_gib, read32, write32};
use crate::port::out8;

/// LAPIC registers, of whichever processor looks.
pub const LAPIC: u64 = 0xfee0_0000;
const ID: u64 = LAPIC + 0x20;
const END_OF_INTERRUPT: u64 = LAPIC + 0xb0;
const SPURIOUS_VECTOR: u64 = LAPIC + 0xf0;
const COMMAND_LOW: u64 = LAPIC + 0x300;
const COMMAND_HIGH: u64 = LAPIC + 0x310;
const TIMER: u64 = LAPIC + 0x320;
const TIMER_INITIAL: u64 = LAPIC + 0x380;
const TIMER_CURRENT: u64 = LAPIC + 0x390;
const TIMER_DIVIDE: u64 = LAPIC + 0x3e0;

/// `SPURIOUS_VECTOR`: the LAPIC is on. The vector itself is one that never comes here.
const ENABLE: u32 = 1 << 8 | 0x3f;
/// `TIMER`: keeps silent.
const MASKED: u32 = 1 << 16;
/// `TIMER`: starts over when it reaches zero.
const PERIODIC: u32 = 1 << 17;
/// `TIMER_DIVIDE`: counts every 16th clock.
const DIVIDE_BY_16: u32 = 0b0011;
/// `COMMAND_LOW`: an INIT, as a level that is asserted; a SIPI, whose vector is the page to start at.
const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600;
/// `COMMAND_LOW`: not delivered yet.
const PENDING: u32 = 1 << 12;

/// Clocks of the timer, after division, in a millisecond. KVM's LAPIC runs at 1 GHz unless told otherwise (KVM API
/// KVM_CAP_X86_APIC_BUS_CYCLES_NS).
const TIMER_PER_MS: u32 = 1_000_000 / 16;

/// How often [`cycles_per_ms`] measures: the shortest time counts, for others were interrupted by the host.
const CALIBRATIONS: u32 = 4;

/// The interrupt masks of the two PICs (Intel 8259A "OCW1").
const PIC_MASKS: [u16; 2] = [0x21, 0xa1];

/// IOAPIC: the register to talk about, and that register.
const IOAPIC_SELECT: u64 = 0xfec0_0000;
const IOAPIC_WINDOW: u64 = IOAPIC_SELECT + 0x10;
/// The first of two registers for input 0.
const REDIRECTION: u32 = 0x10;

/// Makes both controllers reachable and switches the first processor's LAPIC on. The PIC, where there is one, is silenced:
/// it would deliver the same interrupts again, by vectors that belong to exceptions.
pub fn enable() {
    assert!(map_gib(LAPIC), "no page table left for the interrupt controllers");
    for mask in PIC_MASKS {
        out8(mask, 0xff);
    }
    switch_on();
}

/// Switches this processor's LAPIC on; `enable` has been called by the first one.
pub fn switch_on() {
    write32(SPURIOUS_VECTOR, ENABLE);
}

/// This processor's APIC id.
pub fn id() -> u32 {
    read32(ID) >> 24
}

/// Says that the interrupt has been served; the next one of its priority may come.
pub fn end_of_interrupt() {
    write32(END_OF_INTERRUPT, 0);
}

/// Interrupts this processor every `period_ms` by `vector`, from now on.
pub fn start_timer(vector: u8, period_ms: u32) {
    write32(TIMER_DIVIDE, DIVIDE_BY_16);
    write32(TIMER, u32::from(vector) | PERIODIC);
    write32(TIMER_INITIAL, period_ms * TIMER_PER_MS);
}

/// Sets this processor's timer up for [`fire_after`].
pub fn prepare_timer() {
    write32(TIMER_DIVIDE, DIVIDE_BY_16);
}

/// Interrupts this processor once by `vector`, in so many nanoseconds (up to a minute), and not when it was to before.
pub fn fire_after(vector: u8, delay_ns: u64) {
    write32(TIMER, u32::from(vector));
    write32(TIMER_INITIAL, ((delay_ns * u64::from(TIMER_PER_MS)) / 1_000_000) as u32 + 1);
}

/// Stops the timer.
pub fn stop_timer() {
    write32(TIMER, MASKED);
    write32(TIMER_INITIAL, 0);
}

/// Waits until `done` is true, at most `limit_ms`, by the silent timer; says whether it is.
pub fn wait_until(limit_ms: u32, done: impl Fn() -> bool) -> bool {
    write32(TIMER_DIVIDE, DIVIDE_BY_16);
    write32(TIMER, MASKED);
    write32(TIMER_INITIAL, limit_ms * TIMER_PER_MS);
    while !done() {
        if read32(TIMER_CURRENT) == 0 {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Cycles of the time stamp counter in a millisecond, measured by the silent timer.
pub fn cycles_per_ms() -> u64 {
    let mut fewest = u64::MAX;
    for _ in 0..CALIBRATIONS {
        let start = cpu::time_stamp();
        wait_until(1, || false);
        fewest = fewest.min(cpu::time_stamp() - start);
    }
    fewest
}

/// Sends INIT and then a start-up IPI: the processor `id` begins in real mode at the start of `page`.
pub fn start_processor(id: u32, page: u8) {
    send(id, INIT);
    send(id, STARTUP | u32::from(page));
}

/// Interrupts the processor `id`, which may be this one, by `vector`: an inter-processor interrupt.
pub fn interrupt(id: u32, vector: u8) {
    send(id, u32::from(vector));
}

/// Sends one command to the processor `id`.
fn send(id: u32, command: u32) {
    write32(COMMAND_HIGH, id << 24);
    write32(COMMAND_LOW, command);
    while read32(COMMAND_LOW) & PENDING != 0 {}
}

/// Connects an input of the IOAPIC to `vector` of this processor: fixed delivery, active high, edge, unmasked.
pub fn route(input: u32, vector: u8) {
    write_ioapic(REDIRECTION + 2 * input + 1, id() << 24);
    write_ioapic(REDIRECTION + 2 * input, u32::from(vector));
}

/// Writes a register of the IOAPIC: first which one, then the value.
fn write_ioapic(register: u32, value: u32) {
    write32(IOAPIC_SELECT, register);
    write32(IOAPIC_WINDOW, value);
}
