//! The machine that the monitor alone has: descriptor tables, the ring of its guests, timer, memory.
//!
//! Everything of the monitor lies in one window of linear addresses, which every address space has for ring 0 only: a trap needs
//! no other page tables, and no guest can read what is there. Linear and machine addresses are equal in the window.
//!
//! The selectors of ring 3 are those of Linux. Any would do with hardware virtualization; a KVM without it runs ring 3 by the
//! selectors of its host, whatever a guest's tables hold.
//! Sources: Intel SDM vol. 3A §3.4.5 (segment descriptors), §7.7 (64-bit TSS), §5.8.8 (SYSCALL), §11.5.4 (LAPIC timer), §2.5.

use core::arch::{asm, global_asm};
use core::ptr::{addr_of, addr_of_mut};

use guest::interrupt::Frame;
use guest::memory::write32;
use guest::{apic, cpu};

/// First address of the window; `build.rs` links the monitor here.
pub const WINDOW: u64 = 128 << 20;
/// Bytes of the window.
pub const WINDOW_BYTES: u64 = 64 << 20;
/// Bytes of RAM of each guest, and where in the window the first begins.
pub const RAM_BYTES: u64 = 8 << 20;
const RAMS: u64 = WINDOW + (16 << 20);
/// The last large page of the window shows the LAPIC.
pub const LAPIC_WINDOW: u64 = WINDOW + WINDOW_BYTES - LARGE_PAGE;
/// Bytes of a large page.
pub const LARGE_PAGE: u64 = 2 << 20;
/// Where the LAPIC is on the machine.
pub const LAPIC: u64 = 0xfee0_0000;

/// Selectors of ring 3: 32-bit code, data, 64-bit code.
pub const CODE_32: u64 = 0x23;
pub const DATA: u64 = 0x2b;
pub const CODE_64: u64 = 0x33;
/// The task in the table below, and what SYSCALL loads (§5.8.8): the same code and data that the guest library has.
const TASK: u16 = 0x38;
const STAR: u64 = 0x0008 << 32;

/// A tick: 2 ms, as the LAPIC counts under KVM (`guest/lib/apic.rs`).
const TICK_CLOCKS: u32 = 2_000_000;

/// Vectors: the timer's, and two that the entries below make up.
pub const TIMER: u8 = 32;
pub const SYSCALL: u8 = 62;
pub const SYSCALL_32: u8 = 63;

/// MSRs.
pub const EFER: u32 = 0xc000_0080;
pub const MSR_STAR: u32 = 0xc000_0081;
pub const MSR_LSTAR: u32 = 0xc000_0082;
pub const MSR_CSTAR: u32 = 0xc000_0083;
pub const MSR_SFMASK: u32 = 0xc000_0084;
pub const MSR_FS_BASE: u32 = 0xc000_0100;
pub const MSR_GS_BASE: u32 = 0xc000_0101;
/// `EFER`: SYSCALL exists; entries may forbid execution.
pub const EFER_SCE: u64 = 1 << 0;
pub const EFER_NXE: u64 = 1 << 11;
/// CR4: SGDT and its like fault in ring 3.
const CR4_UMIP: u64 = 1 << 11;

// Frames are those of `guest/asm/interrupt.s`. SYSCALL switches no stack (Intel SDM vol. 2 SYSCALL): RIP is in RCX, flags in R11.
// No interrupt comes in between: the mask of flags clears IF.
global_asm!(
    ".section .text.monitor, \"ax\"",
    ".globl monitor_syscall, monitor_syscall_32, monitor_resume",
    "monitor_syscall:",
    "mov [rip + monitor_rsp], rsp",
    "lea rsp, [rip + monitor_stack_top]",
    "push {data}",
    "push [rip + monitor_rsp]",
    "push r11",
    "push {code}",
    "push rcx",
    "push 0",
    "push {vector}",
    "jmp interrupt_common",
    "monitor_syscall_32:",
    "mov [rip + monitor_rsp], rsp",
    "lea rsp, [rip + monitor_stack_top]",
    "push {data}",
    "push [rip + monitor_rsp]",
    "push r11",
    "push {code_32}",
    "push rcx",
    "push 0",
    "push {vector_32}",
    "jmp interrupt_common",
    // RDI: a frame.
    "monitor_resume:",
    "mov rsp, rdi",
    "jmp interrupt_return",
    ".section .bss.monitor, \"aw\", @nobits",
    ".balign 16",
    ".zero 32768",
    "monitor_stack_top:",
    "monitor_rsp: .zero 8",
    ".text",
    data = const DATA,
    code = const CODE_64,
    code_32 = const CODE_32,
    vector = const SYSCALL,
    vector_32 = const SYSCALL_32,
);

unsafe extern "C" {
    static monitor_syscall: u8;
    static monitor_syscall_32: u8;
    static monitor_stack_top: u8;
    fn monitor_resume(frame: *const Frame) -> !;
}

/// What ring 0 needs, nothing that a guest could load but the three segments that it runs with: whatever selector of its own a
/// guest loads, it faults, and the monitor looks into the guest's table.
static mut GDT: [u64; 9] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0x0000_8900_0000_0067,
    0,
];
/// A 64-bit TSS without a permission map: no port for ring 3.
static mut TSS: [u32; 26] = [0; 26];

/// What LGDT takes.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Cycles of the time stamp counter in a millisecond.
static mut CYCLES_PER_MS: u64 = 0;

/// Takes the machine over; `umip`: has SGDT and its like fault in ring 3, where the processor can. Says whether they do.
pub fn take_over(umip: bool) -> bool {
    apic::enable();
    // SAFETY: one processor runs, interrupts are off, and nobody else names these statics.
    unsafe {
        let tss = addr_of_mut!(TSS).cast::<u32>();
        tss.add(1).write(addr_of!(monitor_stack_top) as u32); // the window is below 4 GiB
        tss.add(25).write(104 << 16); // the permission map begins behind the end
        let gdt = addr_of_mut!(GDT).cast::<u64>();
        let base = tss as u64;
        let task = gdt.add(usize::from(TASK) / 8);
        *task |= (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56;
        let pointer = TablePointer { limit: (size_of::<[u64; 9]>() - 1) as u16, base: gdt as u64 };
        asm!("lgdt [{}]", "ltr {1:x}", in(reg) &raw const pointer, in(reg) TASK, options(nostack, preserves_flags));
        write_msr(EFER, read_msr(EFER) | EFER_SCE | EFER_NXE);
        write_msr(MSR_STAR, STAR);
        write_msr(MSR_LSTAR, addr_of!(monitor_syscall) as u64);
        write_msr(MSR_CSTAR, addr_of!(monitor_syscall_32) as u64);
        write_msr(MSR_SFMASK, 0x4_7700); // AC, NT, IOPL, DF, IF, TF
    }
    let has_umip = cpu::cpuid(7, 0).ecx & 1 << 2 != 0;
    let cr4: u64;
    // SAFETY: the bit concerns ring 3 only.
    unsafe {
        asm!("mov {}, cr4", out(reg) cr4);
        let bit = if umip && has_umip { CR4_UMIP } else { 0 };
        asm!("mov cr4, {}", in(reg) cr4 & !CR4_UMIP | bit);
    }
    let start = cpu::time_stamp();
    apic::wait_until(4, || false);
    // SAFETY: as above.
    unsafe { CYCLES_PER_MS = (cpu::time_stamp() - start) / 4 };
    umip && has_umip
}

/// Where SYSCALL goes.
pub fn system_call_entry() -> u64 {
    addr_of!(monitor_syscall) as u64
}

/// Cycles of the time stamp counter in a millisecond.
pub fn cycles_per_ms() -> u64 {
    // SAFETY: written once, before guests run.
    unsafe { CYCLES_PER_MS }
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

/// Sleeps until the next interrupt; its handler finds ring 0 interrupted and returns.
pub fn wait() {
    cpu::wait_for_interrupt();
}

/// Goes to ring 3 as the frame says; does not return.
pub fn resume(frame: &Frame) -> ! {
    // SAFETY: the frame's selectors are those of ring 3, and the address space is a guest's.
    unsafe { monitor_resume(frame) }
}

/// Puts flat data into DS and ES, which a guest may have emptied: the next one may be in 32-bit code, which needs them.
pub fn load_data_segments() {
    // SAFETY: ring 0 in 64-bit code does not use them.
    unsafe { asm!("mov ds, {0:e}", "mov es, {0:e}", in(reg) DATA as u32, options(nostack, preserves_flags)) };
}

/// Switches to the page tables at `root`, and forgets what is known of others.
pub fn load_tables(root: u64) {
    // SAFETY: every root here maps the window.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Clears a page of the monitor's. By words: where ring 0 is interpreted, eight at a time are eight times as fast.
pub fn clear_page(address: u64) {
    // SAFETY: a page of tables, of which nothing in use is left; DF is clear.
    unsafe {
        asm!("rep stosq", inout("rdi") address => _, inout("ecx") 512 => _, in("rax") 0, options(nostack, preserves_flags))
    };
}

/// Reads a register that exists.
pub fn read_msr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading has no effect.
    unsafe { asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a register that exists, with a value that it takes.
pub fn write_msr(number: u32, value: u64) {
    // SAFETY: the callers write bases of FS and GS, which ring 0 does not use, and what `take_over` writes.
    unsafe {
        asm!("wrmsr", in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack))
    };
}
