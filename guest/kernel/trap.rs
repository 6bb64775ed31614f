//! Out of ring 3: interrupts, exceptions, and what becomes of a process that runs into one.
//!
//! Source: Intel SDM vol. 3A §6.10 (IDT), §6.14.1 (64-bit gates), §6.14.5 (IST), table 6-1 (vectors), §6.15 (#PF).

use core::arch::asm;
use core::ptr::{addr_of, addr_of_mut};
use core::sync::atomic::{AtomicU64, Ordering};

use guest::memory::read16;
use guest::text::Hex;
use guest::{apic, cpu, interrupt, print};

use super::abi::{END_FAULT, Ended, PAGE, USER_BASE};
use super::thread::{self, Thread};
use super::{calls, console, disk, net, processor, scheduler, time};

/// Vectors with a stub in `entry.s`, and the distance between two.
const VECTORS: usize = 64;
/// The vector of system calls, behind them, with a gate that ring 3 may use.
const SYSTEM_CALL: usize = 0x80;
const GATE_RING_3: u64 = GATE | 0x6000;
const STUB_BYTES: u64 = 16;
/// Code segment of ring 0.
const CODE_0: u64 = 0x08;
/// Gate: present, for ring 0, interrupts off; with the stack of IST 1.
const GATE: u64 = 0x8e00;
const GATE_IST: u64 = GATE | 1;
/// Exceptions that may come while the stack is ring 3's: NMI, #DF, #MC.
const ON_STACK_OF_THEIR_OWN: [usize; 3] = [2, 8, 18];
/// The LAPIC's vector for what was withdrawn (`guest/lib/apic.rs`).
const SPURIOUS: u8 = 0x3f;

static mut TABLE: [[u64; 2]; SYSTEM_CALL + 1] = [[0; 2]; SYSTEM_CALL + 1];
/// Interrupts that came and were not looked at, a bit each from vector 32 on.
static NOTED: AtomicU64 = AtomicU64::new(0);

/// What LIDT takes.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

unsafe extern "C" {
    static kernel_trap_stubs: u8;
    static kernel_system_call: u8;
}

/// Fills the table. Once.
pub fn init() {
    let stubs = addr_of!(kernel_trap_stubs) as u64;
    for vector in 0..VECTORS {
        let gate = if ON_STACK_OF_THEIR_OWN.contains(&vector) { GATE_IST } else { GATE };
        set_gate(vector, stubs + vector as u64 * STUB_BYTES, gate);
    }
    set_gate(SYSTEM_CALL, addr_of!(kernel_system_call) as u64, GATE_RING_3);
    interrupt::on(SPURIOUS, |_| {});
}

/// Has `vector` lead to `code`.
fn set_gate(vector: usize, code: u64, gate: u64) {
    let low = code & 0xffff | CODE_0 << 16 | gate << 32 | (code >> 16 & 0xffff) << 48;
    // SAFETY: the vectors are indices of the table, which nobody else writes.
    unsafe { *addr_of_mut!(TABLE).cast::<[u64; 2]>().add(vector) = [low, code >> 32] };
}

/// Has this processor use the table.
pub fn load() {
    let pointer =
        TablePointer { limit: (size_of::<[[u64; 2]; SYSTEM_CALL + 1]>() - 1) as u16, base: addr_of!(TABLE) as u64 };
    // SAFETY: the table is complete and lives as long as the guest.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags)) };
}

/// Notes that the interrupt `vector` came. Without the lock.
pub fn note(vector: u64) {
    NOTED.fetch_or(1 << (vector % 64), Ordering::Release);
}

/// Deals with the interrupts that were noted.
pub fn events() {
    let noted = match NOTED.load(Ordering::Relaxed) {
        0 => return,
        _ => NOTED.swap(0, Ordering::Acquire),
    };
    let came = |vector: u8| noted & 1 << (vector % 64) != 0;
    if came(processor::TIMER) {
        time::expire();
    }
    if came(console::VECTOR) {
        console::arrived();
    }
    if came(processor::DISK) {
        disk::interrupted();
    }
    if came(processor::NET) {
        net::interrupted();
    }
}

/// An interrupt or exception in ring 3.
#[unsafe(no_mangle)]
extern "C" fn kernel_interrupted(context: u64) -> ! {
    // SAFETY: `entry.s` gives the context of the thread that ran.
    let thread = unsafe { thread::of_context(context) };
    let vector = thread.context.vector.get();
    let is_exception = vector < u64::from(interrupt::FIRST_FREE);
    // Before anything else can fault; and a processor that waits here to flush would wait for a holder that waits for it.
    let address = if vector == u64::from(interrupt::PAGE_FAULT) { cpu::page_fault_address() } else { 0 };
    let cpu = processor::get(thread.cpu.get());
    // What the LAPIC withdrew needs no end.
    if !is_exception && vector != u64::from(SPURIOUS) {
        if vector == u64::from(processor::FLUSH) {
            processor::flush_if_asked(cpu.index());
        } else {
            note(vector);
            if vector == u64::from(processor::TIMER) {
                cpu.timer_fired.set(true);
                cpu.timer_ns.set(u64::MAX);
            }
        }
        apic::end_of_interrupt();
    }
    processor::lock(cpu);
    if vector == u64::from(interrupt::INVALID_OPCODE) && is_software_interrupt(thread) {
        calls::enter(thread);
    } else if is_exception && !thread.killed.get() {
        exception(thread, vector, address);
    }
    events();
    scheduler::leave(cpu)
}

/// Whether what does not exist for this processor is `INT 0x80`: a KVM that runs ring 3 natively and interprets the rest may not know
/// software interrupts. Then the thread stands behind it, as after one.
fn is_software_interrupt(thread: &Thread) -> bool {
    /// The instruction, as a number.
    const INT_0X80: u16 = 0x80cd;
    let rip = thread.context.rip.get();
    // Where a page ends the next may not be there. What is executed is never unmapped, and mapped as it is for ring 3.
    let is_call = rip % PAGE != PAGE - 1 && read16(rip) == INT_0X80;
    if is_call && !thread.killed.get() {
        thread.context.rip.set(rip + size_of::<u16>() as u64);
    }
    is_call
}

/// An exception of ring 3: a page that is due appears, anything else ends the process.
fn exception(thread: &'static Thread, vector: u64, address: u64) {
    /// #PF's error code: the page is there, and does not allow it; it was a write.
    const FORBIDDEN: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    let (process, context) = (thread.process(), &thread.context);
    let code = context.error_code.get();
    let is_page_fault = vector == u64::from(interrupt::PAGE_FAULT);
    if is_page_fault && code & FORBIDDEN == 0 && process.space.resolve(address, code & WRITE != 0).is_some() {
        return;
    }
    let name = match vector as u8 {
        interrupt::DIVIDE_ERROR => "#DE, divide error",
        interrupt::INVALID_OPCODE => "#UD, invalid opcode",
        interrupt::GENERAL_PROTECTION => "#GP, general protection",
        interrupt::PAGE_FAULT if code & WRITE != 0 => "#PF, writing to ",
        interrupt::PAGE_FAULT => "#PF, reading from ",
        _ => "an exception",
    };
    process.tell_fault(thread, name);
    if is_page_fault {
        print!(Hex(address));
        print!(match () {
            () if process.space.is_due(address) && code & FORBIDDEN == 0 => ", for which there is no memory left",
            () if address < USER_BASE => ", the kernel's memory",
            () if code & FORBIDDEN != 0 => ", which it may not",
            () => ", which is not its memory",
        });
    }
    print!(", at ", Hex(context.rip.get()), "\n");
    process.end(Ended { kind: END_FAULT, value: vector });
}
