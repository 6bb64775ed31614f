//! Exceptions and interrupts: the interrupt descriptor table and who is called for which vector.
//!
//! Source: Intel SDM vol. 3A §6.10 (IDT), §6.14.1 (64-bit gates), §6.14.2 (stack frame), table 6-1 (vectors).

use core::arch::asm;
use core::mem::transmute;
use core::ptr::{addr_of, addr_of_mut};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::{cpu, print, text::Hex};

/// #DE, a division by zero or with too large a result.
pub const DIVIDE_ERROR: u8 = 0;
/// #UD, an instruction that does not exist.
pub const INVALID_OPCODE: u8 = 6;
/// #GP, what no other exception covers.
pub const GENERAL_PROTECTION: u8 = 13;
/// #PF, an access that the page tables forbid.
pub const PAGE_FAULT: u8 = 14;
/// The first vector that no exception has.
pub const FIRST_FREE: u8 = 32;

/// Vectors that have a stub in `guest/asm/interrupt.s`, and the distance between two.
const VECTORS: usize = 64;
const STUB_BYTES: u64 = 16;
/// Code segment of the GDT in `guest/asm/entry.s`.
const CODE_SEGMENT: u64 = 0x08;
/// Gate: present, ring 0, 64-bit interrupt gate, which clears IF on entry.
const INTERRUPT_GATE: u64 = 0x8e00;

/// The interrupted program as it lies on the stack, last pushed first.
#[repr(C)]
pub struct Frame {
    /// R15 down to RAX, as `interrupt_common` pushes them.
    pub registers: [u64; 15],
    /// Which exception or interrupt.
    pub vector: u64,
    /// The processor's error code; 0 for vectors without.
    pub error_code: u64,
    /// Where it happened: a fault names the instruction itself, which runs again on return.
    pub rip: u64,
    /// Code segment.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
}

/// Called with interrupts off; may change the frame, which is where the program goes on.
pub type Handler = fn(&mut Frame);

static HANDLERS: [AtomicUsize; VECTORS] = [const { AtomicUsize::new(0) }; VECTORS];
static mut TABLE: [[u64; 2]; VECTORS] = [[0; 2]; VECTORS];

/// What LIDT takes.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

unsafe extern "C" {
    static interrupt_stubs: u8;
}

/// Points every vector to its stub and loads the table. For the first processor, once.
pub fn init() {
    let stubs = addr_of!(interrupt_stubs) as u64;
    let table = addr_of_mut!(TABLE).cast::<[u64; 2]>();
    for vector in 0..VECTORS {
        let stub = stubs + vector as u64 * STUB_BYTES;
        let low = stub & 0xffff | CODE_SEGMENT << 16 | INTERRUPT_GATE << 32 | (stub >> 16 & 0xffff) << 48;
        // SAFETY: `vector` is an index of the table, which nobody else writes.
        unsafe { *table.add(vector) = [low, stub >> 32] };
    }
    load();
}

/// Loads the table that `init` has filled. For every further processor that is to be interrupted.
pub fn load() {
    let table = addr_of!(TABLE) as u64;
    let pointer = TablePointer { limit: (size_of::<[[u64; 2]; VECTORS]>() - 1) as u16, base: table };
    // SAFETY: the table is complete and lives as long as the guest.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags)) };
}

/// From now on `vector`, one of the first 64, calls `handler`.
pub fn on(vector: u8, handler: Handler) {
    if let Some(slot) = HANDLERS.get(usize::from(vector)) {
        slot.store(handler as usize, Ordering::Release);
    }
}

/// Every stub ends here.
#[unsafe(no_mangle)]
extern "C" fn guest_interrupt(frame: &mut Frame) {
    let handler = HANDLERS.get(frame.vector as usize).map_or(0, |slot| slot.load(Ordering::Acquire));
    if handler == 0 {
        unexpected(frame);
    }
    // SAFETY: `on` stores nothing but handlers.
    let handler: Handler = unsafe { transmute(handler) };
    handler(frame);
}

/// Ends the machine for an exception or interrupt that nobody expects, and says which.
pub fn unexpected(frame: &Frame) -> ! {
    print!("vector ", frame.vector, " at ", Hex(frame.rip), ", error code ", Hex(frame.error_code));
    print!(", CR2 ", Hex(cpu::page_fault_address()), "\n");
    panic!("an exception or interrupt that nobody expects");
}
