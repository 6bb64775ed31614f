//! Time: nanoseconds out of the time stamp counter, deadlines, and the timer that interrupts when the next has come.
//!
//! How fast the counter is comes from KVM's clock where there is one; otherwise it is measured against the LAPIC's timer.
//! Sources: Linux `Documentation/virt/kvm/x86/msr.rst` (MSR_KVM_SYSTEM_TIME_NEW), `Documentation/virt/kvm/x86/cpuid.rst`.

use core::cell::Cell;
use core::ptr::addr_of;

use guest::{apic, attempt, cpu};

use super::Locked;
use super::list::{List, TIMER};
use super::processor::{self, Cpu};
use super::thread::Thread;
use super::wait;

/// How long a thread runs while others wait for the processor.
pub const SLICE_NS: u64 = 10_000_000;
/// How long the counter is measured where nobody tells its speed.
const MEASURED_MS: u32 = 10;

/// `pvclock_vcpu_time_info`.
#[repr(C, align(64))]
struct KvmClock([u32; 8]);

static mut CLOCK: KvmClock = KvmClock([0; 8]);

struct Scale {
    /// The counter when the kernel started.
    start: Cell<u64>,
    /// Nanoseconds of 2^32 ticks.
    ns_per_2_32: Cell<u64>,
}

static SCALE: Locked<Scale> = Locked(Scale { start: Cell::new(0), ns_per_2_32: Cell::new(0) });
/// Threads with a deadline, the next first.
static DEADLINES: Locked<List<TIMER>> = Locked(List::new());

/// Begins to count.
pub fn init() {
    SCALE.ns_per_2_32.set(told_by_kvm().unwrap_or_else(measure));
    SCALE.start.set(cpu::time_stamp());
}

/// What KVM's clock says of the counter: a multiplier of 2^-32 after a shift.
fn told_by_kvm() -> Option<u64> {
    const SIGNATURE: u32 = 0x4000_0000;
    const FEATURES: u32 = 0x4000_0001;
    const CLOCKSOURCE2: u32 = 1 << 3;
    const SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    const ENABLE: u64 = 1 << 0;
    if cpu::cpuid(SIGNATURE, 0).ebx != u32::from_le_bytes(*b"KVMK") || cpu::cpuid(FEATURES, 0).eax & CLOCKSOURCE2 == 0 {
        return None;
    }
    let address = addr_of!(CLOCK) as u64;
    let set = |value: u64| {
        attempt!("wrmsr"; in("ecx") SYSTEM_TIME_NEW, in("eax") value as u32, in("edx") (value >> 32) as u32).is_none()
    };
    // Only the speed is asked for: it stays, and the page need not be written again.
    if !set(address | ENABLE) || !set(0) {
        return None;
    }
    // SAFETY: two words of the page that KVM has filled.
    let (multiplier, shift) = unsafe {
        let words = addr_of!(CLOCK).cast::<u32>();
        (words.add(6).read_volatile(), words.add(7).read_volatile() as u8 as i8)
    };
    let scaled = u64::from(multiplier);
    (multiplier != 0).then(|| if shift < 0 { scaled >> -shift } else { scaled << shift })
}

/// The same from the LAPIC's timer, whose speed is KVM's convention (`guest/lib/apic.rs`).
fn measure() -> u64 {
    let start = cpu::time_stamp();
    apic::wait_until(MEASURED_MS, || false);
    (u64::from(MEASURED_MS) * 1_000_000 << 32) / (cpu::time_stamp() - start)
}

/// Nanoseconds since the kernel started.
pub fn now_ns() -> u64 {
    let ticks = cpu::time_stamp() - SCALE.start.get();
    (u128::from(ticks) * u128::from(SCALE.ns_per_2_32.get()) >> 32) as u64
}

/// Ticks of the counter in a millisecond.
pub fn ticks_per_ms() -> u64 {
    (1_000_000 << 32) / SCALE.ns_per_2_32.get().max(1)
}

/// Has `thread`, which waits, woken at its deadline.
pub fn watch(thread: &'static Thread) {
    DEADLINES.insert_sorted(thread, |other| other.deadline_ns.get() <= thread.deadline_ns.get());
}

/// Its deadline does not matter any more.
pub fn forget(thread: &Thread) {
    DEADLINES.remove(thread);
}

/// Wakes those whose deadline has come.
pub fn expire() {
    let Some(first) = DEADLINES.first() else { return };
    let now = now_ns();
    let mut next = Some(first);
    while let Some(thread) = next
        && thread.deadline_ns.get() <= now
    {
        wait::expire(thread);
        next = DEADLINES.first();
    }
}

/// Sets this processor's timer so that it fires at `at_ns`, or at the next deadline if that is earlier. One that will fire before is
/// left.
pub fn arm(cpu: &Cpu, now: u64, at_ns: u64) {
    /// The timer counts 32 bits of 16 ns; later deadlines are waited for in turns.
    const FURTHEST_NS: u64 = 60_000_000_000;
    let wanted = DEADLINES.first().map_or(at_ns, |thread| thread.deadline_ns.get().min(at_ns));
    let set = cpu.timer_ns.get();
    if wanted != u64::MAX && (set > wanted || set <= now) {
        let delay = wanted.saturating_sub(now).clamp(1000, FURTHEST_NS);
        cpu.timer_ns.set(now + delay);
        apic::fire_after(processor::TIMER, delay);
    }
}
