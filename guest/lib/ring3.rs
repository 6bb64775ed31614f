//! Ring 3: running code there, where every KVM lets the processor do it at full speed.
//!
//! A KVM without hardware assistance interprets what runs in ring 0 and leaves ring 3 to the processor, so whatever measures
//! something goes there. Such code reaches memory that was opened to it, registers of devices included, but no port. A kernel with
//! programs has [`load_tables`] and [`on_system_call`] instead of [`init`].
//! Source: Intel SDM vol. 3A §3.4.5 (segment descriptors), §4.6 (access rights), §5.8.8 (SYSCALL), §7.7 (64-bit TSS), §6.14.

use core::arch::asm;
use core::ptr::{addr_of, addr_of_mut};

use crate::interrupt::{self, Frame, Handler};
use crate::{cpu, memory};

/// Selectors of ring 0, in `guest/asm/entry.s`.
const CODE_0: u64 = 0x08;
const DATA_0: u64 = 0x10;
/// Selectors of ring 3: 32-bit code, data, 64-bit code.
pub const CODE_32_3: u64 = 0x23;
pub const DATA_3: u64 = 0x2b;
pub const CODE_3: u64 = 0x33;
/// The TSS in the table below.
const TASK: u16 = 0x38;
/// Descriptor: an available 64-bit TSS.
const TSS_TYPE: u64 = 0x89;
/// Bytes of the stack of ring 3.
const STACK_BYTES: usize = 16 << 10;

/// The descriptors of `guest/asm/entry.s` but the one for 16-bit code, then those of ring 3, then the TSS, whose address is put in.
static mut GDT: [u64; 9] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_9b00_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0,
    0,
];

/// A 64-bit TSS without a permission map: no port for ring 3. The stack of ring 0 is the second and third word.
static mut TSS: [u32; 26] = [0; 26];
/// Bytes of it.
const TSS_BYTES: u64 = 104;

#[repr(align(16))]
struct Stack {
    _bytes: [u8; STACK_BYTES],
}

static mut STACK: Stack = Stack { _bytes: [0; STACK_BYTES] };
/// The stack of what interrupts ring 3.
static mut STACK_0: Stack = Stack { _bytes: [0; STACK_BYTES] };

/// What LGDT takes.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

unsafe extern "C" {
    fn ring3_enter(main: u64, stack_top: u64, argument: u64);
    /// Where a function of ring 3 returns to, and where its caller goes on with which stack.
    static ring3_leave: u8;
    static ring3_back: u8;
    static ring3_caller: u64;
    static ring3_system_call: u8;
    static mut ring3_kernel_stack: u64;
    fn ring3_resume(frame: *const Frame) -> !;
}

/// The vector in the frame of a system call.
pub const SYSTEM_CALL: u8 = 62;
/// SYSCALL's own: segments; where it goes in 64-bit and in 32-bit code; flags that it clears.
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const FLAG_MASK: u32 = 0xc000_0084;
/// AC, NT, IOPL, DF, IF, TF.
const CLEARED: u64 = 0x4_7700;

/// Prepares the way down and opens the first GiB of memory to ring 3, this program included. Once, after
/// [`interrupt::init`]; #UD is this module's from then on.
pub fn init() {
    memory::open_to_ring_3(0);
    load_tables();
    interrupt::on(interrupt::INVALID_OPCODE, leave);
}

/// Loads descriptors with segments of ring 3, and a TSS with a stack for what interrupts it. Once.
pub fn load_tables() {
    // SAFETY: one processor runs, and nobody else names these statics.
    unsafe {
        let tss = addr_of_mut!(TSS).cast::<u32>();
        let stack = addr_of!(STACK_0) as u64 + STACK_BYTES as u64;
        tss.add(1).write(stack as u32);
        tss.add(2).write((stack >> 32) as u32);
        tss.add(25).write((TSS_BYTES as u32) << 16); // the permission map begins behind the end
        ring3_kernel_stack = stack;
        let base = tss as u64;
        let gdt = addr_of_mut!(GDT).cast::<u64>();
        let task = usize::from(TASK) / 8;
        gdt.add(task).write((TSS_BYTES - 1) | (base & 0xff_ffff) << 16 | TSS_TYPE << 40 | (base >> 24 & 0xff) << 56);
        gdt.add(task + 1).write(base >> 32);
        let pointer = TablePointer { limit: (size_of::<[u64; 9]>() - 1) as u16, base: gdt as u64 };
        asm!("lgdt [{}]", "ltr {1:x}", in(reg) &raw const pointer, in(reg) TASK, options(nostack, preserves_flags));
    }
}

/// Lets programs call `handler` by SYSCALL, with interrupts off. After [`load_tables`].
pub fn on_system_call(handler: Handler) {
    interrupt::on(SYSTEM_CALL, handler);
    let entry = addr_of!(ring3_system_call) as u64;
    // SAFETY: every x86-64 processor has these registers, and nothing uses SYSCALL before all are set.
    unsafe {
        cpu::write_msr(STAR, CODE_0 << 32);
        cpu::write_msr(LSTAR, entry);
        cpu::write_msr(CSTAR, entry);
        cpu::write_msr(FLAG_MASK, CLEARED);
        cpu::write_msr(cpu::MSR_EFER, cpu::read_msr(cpu::MSR_EFER) | cpu::EFER_SCE);
    }
}

/// Whether a page fault is a system call: a KVM that has nothing but ring 3 native may take SYSCALL to its entry and leave the ring
/// as it is, so that the entry faults. Then the frame is made that of a system call.
pub fn is_system_call(frame: &mut Frame) -> bool {
    let is_call = frame.rip == addr_of!(ring3_system_call) as u64;
    if is_call {
        (frame.rip, frame.rflags) = (frame.registers[12], frame.registers[4]); // RCX, R11
    }
    is_call
}

/// Goes to where a frame says, from outside of a handler.
///
/// # Safety
/// Its selectors are in the tables, and its code may run.
pub unsafe fn resume(frame: *const Frame) -> ! {
    // SAFETY: the caller's.
    unsafe { ring3_resume(frame) }
}

/// The handler of #UD, which is how ring 3 ends.
fn leave(frame: &mut Frame) {
    assert!(frame.rip == addr_of!(ring3_leave) as u64, "an instruction that does not exist");
    frame.rip = addr_of!(ring3_back) as u64;
    (frame.cs, frame.ss) = (CODE_0, DATA_0);
    // SAFETY: written by `ring3_enter`, which is on this stack.
    frame.rsp = unsafe { addr_of!(ring3_caller).read() };
}

/// Runs `main` in ring 3 until it returns.
pub fn run(main: extern "C" fn(u64), argument: u64) {
    let stack_top = addr_of!(STACK) as u64 + STACK_BYTES as u64;
    // SAFETY: `init` has prepared the way; the stack is that of one run at a time.
    unsafe { ring3_enter(main as usize as u64, stack_top, argument) };
}
