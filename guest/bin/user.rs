//! user: a kernel with two programs in ring 3, each in an address space of its own.
//!
//! Both run the same code at the same addresses, and each finds its own word there. Neither gives the processor away: the LAPIC's
//! timer interrupts them, and the kernel lets the other go on. They ask the kernel by SYSCALL. At last one of them reads the kernel's
//! memory, which the page tables keep from ring 3, and is ended. Powers off.
//! Sources: Intel SDM vol. 3A §4.5, §4.6 (paging), §5.8.8 (SYSCALL), §6.14 (interrupts in 64-bit mode), §11.5.4 (LAPIC timer).

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::mem::MaybeUninit;
use core::ptr::{addr_of, addr_of_mut, copy_nonoverlapping};

use guest::interrupt::{self, Frame};
use guest::memory::{PRESENT, USER, WRITABLE};
use guest::ring3::{self, CODE_3, DATA_3};
use guest::text::Hex;
use guest::{apic, cpu, power, print};

/// Where programs see their code, and their data with the stack above it: beyond what the kernel maps for itself.
const CODE: u64 = 512 << 30;
const DATA: u64 = CODE + 0x1000;
const STACK_TOP: u64 = DATA + 0x1000;
/// Words of the data: how often the program was interrupted, a counter, and what the program calls its own.
const INTERRUPTED: usize = 0;
const OWN: usize = 2;
/// How often each program is to be interrupted before it goes on. The second one finds itself alone in the end.
const TURNS: [u64; PROGRAMS] = [3, 8];
const TURN_MS: u32 = 5;

const TIMER: u8 = interrupt::FIRST_FREE;
/// System calls, in RAX; the argument is in RDI.
const START: u64 = 0;
const TELL: u64 = 1;
const EXIT: u64 = 2;

// The program, RDI: an address to read at the end, or 0; RSI: its number; RDX: its turns.
global_asm!(
    ".section .text.user, \"ax\"",
    ".globl user_program, user_program_end",
    "user_program:",
    "mov rbx, {data}",
    "mov r12, rdi",
    "mov r13, rdx",
    "mov [rbx + {own} * 8], rsi",
    "mov eax, {start}",
    "syscall",
    "2:",
    "inc qword ptr [rbx + 8]",
    "cmp [rbx], r13",
    "jb 2b",
    "mov rdi, [rbx + {own} * 8]",
    "mov eax, {tell}",
    "syscall",
    "test r12, r12",
    "jz 3f",
    "mov rax, [r12]",
    "3:",
    "mov eax, {exit}",
    "syscall",
    "user_program_end:",
    ".text",
    data = const DATA,
    own = const OWN,
    start = const START,
    tell = const TELL,
    exit = const EXIT,
);

unsafe extern "C" {
    static user_program: u8;
    static user_program_end: u8;
    static page_map: [u64; 512];
}

#[repr(align(4096))]
struct Page([u64; 512]);

/// An address space: four levels of tables for one page of code and one of data.
struct Space {
    tables: [Page; 4],
    code: Page,
    data: Page,
}

/// A program: its registers while it does not run, and whether it has ended.
struct Process {
    frame: MaybeUninit<Frame>,
    ended: bool,
}

const PROGRAMS: usize = 2;
static mut SPACES: [Space; PROGRAMS] =
    [const { Space { tables: [const { Page([0; 512]) }; 4], code: Page([0; 512]), data: Page([0; 512]) } }; PROGRAMS];
static mut PROCESSES: [Process; PROGRAMS] =
    [const { Process { frame: MaybeUninit::zeroed(), ended: false } }; PROGRAMS];
static mut CURRENT: usize = 0;

#[unsafe(no_mangle)]
extern "C" fn guest_main(_boot_information: u64) -> ! {
    interrupt::init();
    apic::enable();
    ring3::load_tables();
    ring3::on_system_call(call);
    interrupt::on(TIMER, turn);
    interrupt::on(interrupt::PAGE_FAULT, fault);
    create(0, 0);
    create(1, addr_of!(user_program) as u64);
    print!("two programs, each in ring 3 and in an address space of its own\n");
    load_root(0);
    // SAFETY: `create` has filled the frame.
    unsafe { ring3::resume(process(0).frame.as_ptr()) }
}

/// Makes a program that reads at `reads` at its end, unless that is 0.
fn create(index: usize, reads: u64) {
    // SAFETY: an index of the array, and nobody else uses the space.
    let space = unsafe { &mut *addr_of_mut!(SPACES).cast::<Space>().add(index) };
    let address = |page: &Page| addr_of!(*page) as u64;
    for level in 0..3 {
        space.tables[level].0[usize::from(level == 0)] = address(&space.tables[level + 1]) | PRESENT | WRITABLE | USER;
    }
    // SAFETY: the kernel's half, in `guest/asm/entry.s`; the program lies between two labels.
    unsafe {
        space.tables[0].0[0] = addr_of!(page_map).cast::<u64>().read();
        let length = addr_of!(user_program_end) as usize - addr_of!(user_program) as usize;
        copy_nonoverlapping(addr_of!(user_program), addr_of_mut!(space.code).cast(), length);
    }
    space.tables[3].0[0] = address(&space.code) | PRESENT | USER;
    space.tables[3].0[1] = address(&space.data) | PRESENT | WRITABLE | USER;
    let frame = process(index).frame.as_mut_ptr();
    // SAFETY: the frame is all zeros, which is a frame.
    let frame = unsafe { &mut *frame };
    (frame.rip, frame.cs, frame.ss, frame.rsp) = (CODE, CODE_3, DATA_3, STACK_TOP);
    frame.rflags = 0x202; // interrupts on
    frame.registers[9] = reads; // RDI
    frame.registers[10] = index as u64 + 1; // RSI
    frame.registers[11] = TURNS[index]; // RDX
}

fn process(index: usize) -> &'static mut Process {
    // SAFETY: an index of the array; one processor runs, with interrupts off in the kernel.
    unsafe { &mut *addr_of_mut!(PROCESSES).cast::<Process>().add(index % PROGRAMS) }
}

fn current() -> usize {
    // SAFETY: as above.
    unsafe { addr_of!(CURRENT).read() }
}

/// The handler of the timer: the other program's turn.
fn turn(frame: &mut Frame) {
    apic::end_of_interrupt();
    // SAFETY: the page of the program that was interrupted; the kernel reaches it at its own address.
    unsafe { (*addr_of_mut!(SPACES).cast::<Space>().add(current())).data.0[INTERRUPTED] += 1 };
    switch(frame);
}

/// The handler of SYSCALL.
fn call(frame: &mut Frame) {
    let number = current() as u64 + 1;
    match frame.registers[14] {
        START => {
            print!("program ", number, " starts\n");
            // Turns begin when all have started.
            if current() + 1 < PROGRAMS {
                switch(frame);
            } else {
                apic::start_timer(TIMER, TURN_MS);
            }
        }
        TELL => {
            print!(
                "program ",
                number,
                " was interrupted ",
                TURNS[current()],
                " times; its word at ",
                Hex(DATA + OWN as u64 * 8)
            );
            print!(" is ", frame.registers[9], "\n");
        }
        EXIT => {
            print!("program ", number, " ends\n");
            end(frame);
        }
        _ => panic!("a system call that does not exist"),
    }
}

/// The handler of #PF.
fn fault(frame: &mut Frame) {
    if ring3::is_system_call(frame) {
        return call(frame);
    }
    print!("program ", current() as u64 + 1, " reads the kernel's memory: ");
    let is_kernel = cpu::page_fault_address() == addr_of!(user_program) as u64;
    print!(
        if is_kernel { "#PF there" } else { "#PF elsewhere" },
        ", error code ",
        Hex(frame.error_code),
        "; it is ended\n"
    );
    end(frame);
}

/// Ends the program that runs; the last one's end is the machine's.
fn end(frame: &mut Frame) {
    process(current()).ended = true;
    if (0..PROGRAMS).all(|index| process(index).ended) {
        print!("both have ended, powering off\n");
        power::off();
    }
    switch(frame);
}

/// Puts the registers of one program aside and takes those of the other, unless it has ended.
fn switch(frame: &mut Frame) {
    let (from, to) = (current(), (current() + 1) % PROGRAMS);
    if process(to).ended {
        return;
    }
    // SAFETY: frames of the same kind; the other one was filled by `create` or here.
    unsafe {
        copy_nonoverlapping(&raw const *frame, process(from).frame.as_mut_ptr(), 1);
        copy_nonoverlapping(process(to).frame.as_ptr(), &raw mut *frame, 1);
        addr_of_mut!(CURRENT).write(to);
    }
    load_root(to);
}

/// Switches to the address space of a program.
fn load_root(index: usize) {
    // SAFETY: each space has the kernel's half.
    unsafe {
        let root = addr_of!((*addr_of!(SPACES).cast::<Space>().add(index)).tables) as u64;
        asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags));
    }
}
