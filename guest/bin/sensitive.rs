//! sensitive: asks the processor what a kernel in ring 0 may ask, by instructions that do not trap in ring 3.
//!
//! On a machine of its own all answers are right. Under a monitor that runs it in ring 3 and only waits for traps they are not:
//! the instructions read or write the real machine's state, and nobody hears of it. `hostel run monitor -- noscan noumip sensitive`
//! shows that. The word `descriptors` adds two which a KVM that interprets ring 0 does not know. Powers off; exits with 1 (status 3)
//! when an answer is wrong.
//! Sources: Robin and Irvine; Intel SDM vol. 2 (each instruction), vol. 3A §2.5 (CR4.UMIP).

#![no_std]
#![no_main]

use core::arch::asm;
use core::mem::MaybeUninit;
use core::ptr::addr_of;
use core::sync::atomic::{AtomicU64, Ordering};

use guest::cpu::{CR0_TS, FLAG_IF};
use guest::interrupt::{self, Frame};
use guest::start_info::StartInfo;
use guest::text::Hex;
use guest::{apic, cpu, power, print};

const VECTOR: u8 = interrupt::FIRST_FREE;
/// Selectors of `guest/asm/entry.s`.
const CODE: u64 = 0x08;
const DATA: u64 = 0x10;
/// What the descriptor of the code segment there says, as LAR tells it (vol. 2): present, ring 0, code, accessed; 64 bits, 4 KiB units.
const CODE_RIGHTS: u64 = 0xa0_9b00;

/// How long the interrupt may take.
const ANSWER_LIMIT_MS: u32 = 50;

/// Interrupts so far.
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    /// What was loaded by LGDT.
    static gdt_pointer: [u8; 10];
}

#[unsafe(no_mangle)]
extern "C" fn guest_main(boot_information: u64) -> ! {
    interrupt::init();
    apic::enable();
    interrupt::on(VECTOR, count);
    let mut right = check("PUSHF after CLI: IF", flags() & FLAG_IF, 0);
    right &= check("POPF sets IF: interrupts that came", let_in_by_popf(), 1);
    right &= check("SGDT: base", global_table(), address_of_table());
    right &= check("SMSW: CR0.TS after it was set", status_word_after_ts(), CR0_TS);
    right &= check("MOV from CS: selector", code_selector(), CODE);
    if StartInfo::at(boot_information).command_line().starts_with(b"descriptors") {
        right &= check("LAR of CS: rights", access_rights(CODE), CODE_RIGHTS);
        right &= check("VERW of DS: may be written", may_be_written(DATA), 1);
    }
    if right { power::off() } else { power::exit(1) }
}

/// Prints an answer; says whether it is the right one.
fn check(what: &str, found: u64, wanted: u64) -> bool {
    print!(what);
    if found == wanted {
        print!(": right\n");
    } else {
        print!(": WRONG, ", Hex(found), " and not ", Hex(wanted), "\n");
    }
    found == wanted
}

fn count(_: &mut Frame) {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
    apic::end_of_interrupt();
}

fn flags() -> u64 {
    let flags;
    cpu::disable_interrupts();
    // SAFETY: what is pushed is popped.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    flags
}

/// How many interrupts come when POPF lets in one that waits.
fn let_in_by_popf() -> u64 {
    cpu::disable_interrupts();
    apic::interrupt(apic::id(), VECTOR);
    // SAFETY: what is pushed is popped; the handler is there.
    unsafe { asm!("push {}", "popfq", in(reg) FLAG_IF | 1 << 1) };
    apic::wait_until(ANSWER_LIMIT_MS, || INTERRUPTS.load(Ordering::Relaxed) > 0);
    cpu::disable_interrupts();
    INTERRUPTS.load(Ordering::Relaxed)
}

fn global_table() -> u64 {
    let mut table = MaybeUninit::<[u8; 10]>::uninit();
    // SAFETY: ten bytes are written: limit, then base.
    unsafe {
        asm!("sgdt [{}]", in(reg) table.as_mut_ptr(), options(nostack, preserves_flags));
        table.as_ptr().cast::<u8>().add(2).cast::<u64>().read_unaligned()
    }
}

fn address_of_table() -> u64 {
    // SAFETY: limit, then base, as LGDT takes them.
    unsafe { addr_of!(gdt_pointer).cast::<u8>().add(2).cast::<u64>().read_unaligned() }
}

fn status_word_after_ts() -> u64 {
    let word: u64;
    // SAFETY: nothing uses the registers that TS keeps, and it is cleared again.
    unsafe {
        asm!("mov {1}, cr0", "or {1}, {ts}", "mov cr0, {1}", "smsw {0:e}", "clts", out(reg) word, out(reg) _,
            ts = const CR0_TS, options(nomem, nostack));
    }
    word & CR0_TS
}

fn code_selector() -> u64 {
    let selector;
    // SAFETY: reads a register.
    unsafe { asm!("mov {0:e}, cs", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector
}

fn access_rights(selector: u64) -> u64 {
    let rights: u64;
    // SAFETY: reads a descriptor; without one the register keeps its value.
    unsafe { asm!("lar {0:e}, {1:e}", inout(reg) 0u64 => rights, in(reg) selector, options(nomem, nostack)) };
    rights & 0xf0_ff00
}

fn may_be_written(selector: u64) -> u64 {
    let zero_flag: u8;
    // SAFETY: reads a descriptor.
    unsafe { asm!("verw {0:x}", "setz {1}", in(reg) selector, out(reg_byte) zero_flag, options(nomem, nostack)) };
    zero_flag.into()
}
