//! interrupts: a timer that ticks, and a serial port that tells when something is typed.
//!
//! The processor sleeps in HLT and wakes for each interrupt. First three ticks of the LAPIC's timer; then three of the PIT,
//! the PC's old timer, if the machine has one (`--irqchip full`); then every key typed comes back, until `q` or the end of
//! input. Powers off.
//! Sources: Intel SDM vol. 3A §11.5.4 (LAPIC timer); Intel 8254 data sheet (PIT); ACPI 6.5 §5.2.12.5.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use guest::acpi::{Entry, for_each_madt_entry};
use guest::interrupt::{self, Frame};
use guest::port::{in8, out8};
use guest::start_info::StartInfo;
use guest::{apic, cpu, power, print, serial, typed};

const LAPIC_TIMER: u8 = interrupt::FIRST_FREE;
const PIT: u8 = interrupt::FIRST_FREE + 1;
/// Time between two ticks of either timer.
const TICK_MS: u32 = 10;

/// PIT: the counter of channel 0, and the register that says how it counts.
const PIT_CHANNEL_0: u16 = 0x40;
const PIT_MODE: u16 = 0x43;
/// `PIT_MODE`: channel 0, low byte then high byte, mode 2 "rate generator".
const RATE_GENERATOR: u8 = 0x34;
/// `PIT_MODE`: read back the status of channel 0, whose low bits repeat the mode.
const READ_BACK_STATUS: u8 = 0xe2;
/// The PIT counts at 1.193182 MHz.
const PIT_PER_MS: u32 = 1193;

static TICKS: AtomicU64 = AtomicU64::new(0);

#[unsafe(no_mangle)]
extern "C" fn guest_main(boot_information: u64) -> ! {
    interrupt::init();
    apic::enable();
    interrupt::on(LAPIC_TIMER, tick);
    interrupt::on(PIT, tick);

    apic::start_timer(LAPIC_TIMER, TICK_MS);
    wait_for_ticks("LAPIC timer");
    apic::stop_timer();

    if start_pit() {
        apic::route(pit_input(StartInfo::at(boot_information).rsdp()), PIT);
        wait_for_ticks("PIT");
    } else {
        print!("no PIT in this machine; --irqchip full has one\n");
    }

    typed::init();
    print!("type something, q ends\n");
    loop {
        match typed::read() {
            b'q' | typed::END_OF_INPUT => break,
            b'\r' => print!("\n"),
            byte => serial::write(&[byte]),
        }
    }
    print!("\nbye\n");
    power::off()
}

/// The handler of both timers: counts, and says that it has been served.
fn tick(_: &mut Frame) {
    TICKS.fetch_add(1, Ordering::Relaxed);
    apic::end_of_interrupt();
}

/// Sleeps through three ticks.
fn wait_for_ticks(timer: &str) {
    TICKS.store(0, Ordering::Relaxed);
    for number in 1..=3 {
        while TICKS.load(Ordering::Relaxed) < number {
            cpu::wait_for_interrupt();
        }
        print!(timer, ": tick ", number, "\n");
    }
}

/// Lets the PIT tick. Says whether there is one: it repeats the mode it was given, while an empty bus reads as ones.
fn start_pit() -> bool {
    let count = TICK_MS * PIT_PER_MS;
    out8(PIT_MODE, RATE_GENERATOR);
    out8(PIT_CHANNEL_0, count as u8);
    out8(PIT_CHANNEL_0, (count >> 8) as u8);
    out8(PIT_MODE, READ_BACK_STATUS);
    in8(PIT_CHANNEL_0) & 0x3f == RATE_GENERATOR
}

/// The IOAPIC input of the PIT: interrupt 0 of an old PC, wherever the ACPI tables say that it went.
fn pit_input(rsdp: u64) -> u32 {
    let mut pit_input = 0;
    for_each_madt_entry(rsdp, |entry| {
        if let Entry::Override { irq: 0, input } = entry {
            pit_input = input;
        }
    });
    pit_input
}
