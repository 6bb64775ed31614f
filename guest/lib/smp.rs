//! More processors: starting those that the MADT lists, one after the other.
//!
//! Source: Intel SDM vol. 3A §9.4.4 (INIT, start-up IPI), §9.4.3.

use core::mem::transmute;
use core::ptr::{addr_of, addr_of_mut, copy_nonoverlapping};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::{apic, cpu, power};

/// Processors that a guest can start beside the first.
pub const MAX_STARTED: usize = 63;
/// Bytes of a started processor's stack.
const STACK_BYTES: usize = 4096;
/// How long a processor may take to say that it runs.
const START_LIMIT_MS: u32 = 5000;
/// The page that started processors begin on: RAM below 640 KiB that holds no boot information.
const TRAMPOLINE_PAGE: u8 = 0x20;

#[repr(align(16))]
struct Stack {
    _bytes: [u8; STACK_BYTES],
}

static mut STACKS: [Stack; MAX_STARTED] = [const { Stack { _bytes: [0; STACK_BYTES] } }; MAX_STARTED];
/// Where the next processor's stack begins, for `guest/asm/processor.s`.
#[unsafe(no_mangle)]
static processor_stack: AtomicU32 = AtomicU32::new(0);
/// What started processors run, as an address.
static MAIN: AtomicUsize = AtomicUsize::new(0);
/// How many have said that they run.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    static processor_trampoline: u8;
    static processor_trampoline_end: u8;
}

/// Starts the processor with this APIC id, which runs `main` and then halts. Says whether it came up. At most
/// [`MAX_STARTED`] calls; `apic::enable` comes first.
pub fn start(apic_id: u32, main: fn()) -> bool {
    let index = RUNNING.load(Ordering::Relaxed);
    assert!(index < MAX_STARTED, "no stack left for a further processor");
    // SAFETY: the stack is handed out once; the trampoline's page is free RAM, see `TRAMPOLINE_PAGE`.
    unsafe {
        let stack = addr_of_mut!(STACKS).cast::<Stack>().add(index + 1);
        processor_stack.store(stack as u32, Ordering::Relaxed);
        let from = addr_of!(processor_trampoline);
        let length = addr_of!(processor_trampoline_end).offset_from(from) as usize;
        copy_nonoverlapping(from, (usize::from(TRAMPOLINE_PAGE) << 12) as *mut u8, length);
    }
    MAIN.store(main as usize, Ordering::Release);
    apic::start_processor(apic_id, TRAMPOLINE_PAGE);
    apic::wait_until(START_LIMIT_MS, || RUNNING.load(Ordering::Acquire) > index)
}

/// A started processor's first Rust.
#[unsafe(no_mangle)]
extern "C" fn processor_main() -> ! {
    apic::switch_on();
    RUNNING.fetch_add(1, Ordering::Release);
    // SAFETY: `start` stores a function before it sends the IPI.
    let main: fn() = unsafe { transmute(MAIN.load(Ordering::Acquire)) };
    main();
    cpu::disable_interrupts();
    power::halt()
}
