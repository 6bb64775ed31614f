//! smp: starts every processor that the ACPI tables list and lets them work on shared memory.
//!
//! Each one says its APIC id. Then all increment two numbers at the same time: one under a lock, one by an atomic
//! instruction. No increment may get lost. Powers off; exits with 1 (status 3) when a processor or an increment is missing.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use guest::acpi::{Entry, for_each_madt_entry};
use guest::lock::Lock;
use guest::start_info::StartInfo;
use guest::{apic, power, print, smp};

/// How often each processor increments each number.
const ROUNDS: u64 = 100;

static LOCK: Lock = Lock::new();
/// Incremented by a load and a store: right only because of the lock.
static LOCKED: AtomicU64 = AtomicU64::new(0);
static ATOMIC: AtomicU64 = AtomicU64::new(0);
static ALL_STARTED: AtomicBool = AtomicBool::new(false);
static DONE: AtomicU64 = AtomicU64::new(0);

#[unsafe(no_mangle)]
extern "C" fn guest_main(boot_information: u64) -> ! {
    apic::enable();
    let first = apic::id();
    print!("processor ", u64::from(first), " runs, it started the guest\n");

    let mut processors = 1;
    let mut missing = 0;
    let found = for_each_madt_entry(StartInfo::at(boot_information).rsdp(), |entry| {
        if let Entry::Processor(id) = entry
            && u32::from(id) != first
        {
            if smp::start(u32::from(id), introduce_and_count) {
                processors += 1;
            } else {
                LOCK.hold(|| print!("processor ", u64::from(id), " does not start\n"));
                missing += 1;
            }
        }
    });
    assert!(found, "the machine has no ACPI tables that list its processors");

    ALL_STARTED.store(true, Ordering::Release);
    count();
    while DONE.load(Ordering::Acquire) != processors {
        core::hint::spin_loop();
    }
    let (locked, atomic) = (LOCKED.load(Ordering::Relaxed), ATOMIC.load(Ordering::Relaxed));
    print!("processors: ", processors, ", increments by each: ", ROUNDS);
    print!(", counted under the lock: ", locked, ", atomically: ", atomic, "\n");
    let right = processors * ROUNDS;
    if missing == 0 && locked == right && atomic == right { power::off() } else { power::exit(1) }
}

/// What the started processors run.
fn introduce_and_count() {
    LOCK.hold(|| print!("processor ", u64::from(apic::id()), " runs\n"));
    while !ALL_STARTED.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    count();
}

/// Increments both numbers, at the same time as everybody else.
fn count() {
    for _ in 0..ROUNDS {
        LOCK.hold(|| LOCKED.store(LOCKED.load(Ordering::Relaxed) + 1, Ordering::Relaxed));
        ATOMIC.fetch_add(1, Ordering::Relaxed);
    }
    DONE.fetch_add(1, Ordering::Release);
}
