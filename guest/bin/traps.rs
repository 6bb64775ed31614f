//! traps: the trap laboratory. Does, one after the other, what may leave a guest, and checks what came of it.
//!
//! Run it under `hostel trace` to see which of the steps reach user space: port and memory-mapped I/O without a device in the
//! kernel, and what KVM does not know. All else is answered by the processor or by KVM, and only the checks here tell that it
//! worked. What a step does is printed through the debug console, one OUT a letter, so that a trace reads as a protocol.
//!
//! Words on the command line are names of steps: `hostel run traps -- msr cr` does these alone, `-- -wbinvd` all but this one,
//! where the KVM at hand fails at it.
//! Without a LAPIC (`--irqchip none`) it ends by a HLT for good, with one it powers off; a check that fails ends it with the
//! status 3.
//! Sources: Intel SDM vol. 2 (each instruction), vol. 3C §26.1.2 and §26.1.3 (which of them trap); AMD APM vol. 2 §15.9;
//! Linux hypercalls.rst.

#![no_std]
#![no_main]

use core::arch::asm;
use core::ptr::addr_of_mut;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use guest::acpi::{Entry, for_each_madt_entry};
use guest::interrupt::{self, Frame};
use guest::memory::{GIB, map_gib, page_directory_entry, read32, read64, write32, write64};
use guest::port::{in8, in16, in32, out8, out16, out32};
use guest::start_info::StartInfo;
use guest::words::Words;
use guest::{apic, attempt, cpu, fault, power, smp};

/// What came of a step.
enum Found {
    /// The machine did what its manual says.
    Right,
    /// It did not.
    Wrong,
    /// This machine or this processor does not have it.
    NotHere,
}

impl From<bool> for Found {
    fn from(right: bool) -> Found {
        if right { Found::Right } else { Found::Wrong }
    }
}

struct Step {
    name: &'static str,
    does: &'static str,
    run: fn() -> Found,
}

const fn step(name: &'static str, does: &'static str, run: fn() -> Found) -> Step {
    Step { name, does, run }
}

static STEPS: [Step; 19] = [
    step("pio", "OUT and IN of 1, 2 and 4 bytes at a port without a device", pio),
    step("rep", "REP OUTS and REP INS: one instruction, many accesses", rep),
    step("mmio", "writes and reads of 1, 2, 4 and 8 bytes where no memory is", mmio),
    step("split", "8 bytes across a page boundary there: two accesses of 4", split),
    step("cpuid", "CPUID: there is a hypervisor", cpuid),
    step("msr", "WRMSR and RDMSR of a known register", known_msr),
    step("nomsr", "RDMSR and WRMSR of a register that nobody has: #GP", unknown_msr),
    step("rdtsc", "RDTSC, twice: time goes on", rdtsc),
    step("cr", "CR0, CR3, CR4 and CR8, written and read back", control_registers),
    step("invlpg", "a page-table entry changed, then INVLPG", invlpg),
    step("wbinvd", "WBINVD", wbinvd),
    step("tables", "LGDT and LIDT of what SGDT and SIDT say", tables),
    step("pause", "PAUSE", pause),
    step("mwait", "MONITOR and MWAIT", mwait),
    step("vmcall", "a hypercall by VMCALL or VMMCALL: one that exists, one that does not", hypercall),
    step("rdonly", "a write to a read-only page: #PF", read_only),
    step("window", "an interrupt that has to wait for STI", window),
    step("hlt", "HLT until the LAPIC's timer interrupts", hlt),
    step("ipi", "an interrupt from one processor to another, which sleeps in HLT", ipi),
];

/// A port and an address that no device of the machine has; the hole below 4 GiB begins there.
const NO_DEVICE: u16 = 0x700;
const NO_MEMORY: u64 = 3 * GIB;
/// The debug console: what is written there appears.
const DEBUG_CONSOLE: u16 = 0xe9;
/// The vectors of all interrupts here, and of one that ends a step that takes too long.
const VECTOR: u8 = interrupt::FIRST_FREE;
const DEADLINE: u8 = VECTOR + 1;
/// How long another processor may take to answer.
const ANSWER_LIMIT_MS: u32 = 5000;

/// How long a hypercall may take.
const HYPERCALL_LIMIT_MS: u32 = 500;

/// Where the ACPI tables are; 0: a machine without interrupt controllers has none.
static RSDP: AtomicU64 = AtomicU64::new(0);
/// Interrupts so far.
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);

#[unsafe(no_mangle)]
extern "C" fn guest_main(boot_information: u64) -> ! {
    let info = StartInfo::at(boot_information);
    interrupt::init();
    fault::init();
    interrupt::on(VECTOR, count);
    assert!(map_gib(NO_MEMORY), "no page table left for the hole");
    RSDP.store(info.rsdp(), Ordering::Relaxed);
    if has_lapic() {
        apic::enable();
    }

    let mut all_right = true;
    for step in &STEPS {
        let Some(wanted) = wanted(step.name.as_bytes(), info.command_line()) else { continue };
        say(step.name);
        say(": ");
        say(step.does);
        say(match if wanted { (step.run)() } else { Found::NotHere } {
            Found::Right => ": right\n",
            Found::NotHere => ": not here\n",
            Found::Wrong => {
                all_right = false;
                ": WRONG\n"
            }
        });
    }
    if !all_right {
        power::exit(1);
    }
    if has_lapic() {
        power::off();
    }
    say("HLT, and nothing that could wake this processor\n");
    power::halt()
}

/// Whether the command line has the step done (it names the step, or none at all), or left out; `None`: it names others.
fn wanted(name: &[u8], command_line: &[u8]) -> Option<bool> {
    let mut wanted = Some(true);
    for word in Words::of(command_line) {
        match word.strip_prefix(b"-") {
            Some(left_out) if left_out == name => return Some(false),
            Some(_) => {}
            None if word == name => return Some(true),
            None => wanted = None,
        }
    }
    wanted
}

/// Prints `text` by one OUT a letter.
fn say(text: &str) {
    for &byte in text.as_bytes() {
        out8(DEBUG_CONSOLE, byte);
    }
}

/// Every interrupt ends here.
fn count(_: &mut Frame) {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
    apic::end_of_interrupt();
}

/// Whether this machine has interrupt controllers.
fn has_lapic() -> bool {
    RSDP.load(Ordering::Relaxed) != 0
}

// ---- To user space: each access below leaves the guest and KVM, and Hostel answers it.

/// Ones come back from where nothing is.
fn pio() -> Found {
    out8(NO_DEVICE, 0x11);
    out16(NO_DEVICE, 0x2222);
    out32(NO_DEVICE, 0x4444_4444);
    (in8(NO_DEVICE) == u8::MAX && in16(NO_DEVICE) == u16::MAX && in32(NO_DEVICE) == u32::MAX).into()
}

fn rep() -> Found {
    static mut WORDS: [u16; 3] = [1, 2, 3];
    let (letters, words) = ("...", addr_of_mut!(WORDS));
    // SAFETY: OUTS reads `letters` and `words`, INS fills `words` again, each as often as RCX says; DF is clear.
    unsafe {
        asm!("rep outsb", in("dx") DEBUG_CONSOLE, inout("rsi") letters.as_ptr() => _, inout("rcx") letters.len() => _);
        asm!("rep outsw", in("dx") NO_DEVICE, inout("rsi") words => _, inout("rcx") 3 => _);
        asm!("rep insw", in("dx") NO_DEVICE, inout("rdi") words => _, inout("rcx") 3 => _);
        words.read_volatile().iter().all(|&word| word == u16::MAX).into()
    }
}

fn mmio() -> Found {
    let (byte, word): (u8, u16);
    // SAFETY: the hole is mapped, and no device is there.
    unsafe {
        asm!("mov byte ptr [{}], 0x11", in(reg) NO_MEMORY);
        asm!("mov word ptr [{}], 0x2222", in(reg) NO_MEMORY);
        asm!("mov {}, [{}]", out(reg_byte) byte, in(reg) NO_MEMORY);
        asm!("mov {:x}, [{}]", out(reg) word, in(reg) NO_MEMORY);
    }
    write32(NO_MEMORY, 0x4444_4444);
    write64(NO_MEMORY, 0x8888_8888_8888_8888);
    let (double, quad) = (read32(NO_MEMORY), read64(NO_MEMORY));
    (byte == u8::MAX && word == u16::MAX && double == u32::MAX && quad == u64::MAX).into()
}

fn split() -> Found {
    let across = NO_MEMORY + 0x1000 - 4;
    write64(across, 0x2222_2222_1111_1111);
    (read64(across) == u64::MAX).into()
}

/// KVM does not know the register and asks; Hostel does not know it either.
fn unknown_msr() -> Found {
    const UNKNOWN: u32 = 0x1234_5678;
    let is_gp = |fault: Option<fault::Fault>| fault.is_some_and(|fault| fault.vector == interrupt::GENERAL_PROTECTION);
    let read = attempt!("rdmsr"; in("ecx") UNKNOWN, out("eax") _, out("edx") _);
    let write = attempt!("wrmsr"; in("ecx") UNKNOWN, in("eax") 0, in("edx") 0);
    (is_gp(read) && is_gp(write)).into()
}

// ---- Not to user space: KVM answers, or the processor does and nothing traps at all.

/// Traps always with VMX, by an intercept with SVM: KVM answers from the table that Hostel gave it.
fn cpuid() -> Found {
    const HYPERVISOR: u32 = 1 << 31;
    (cpu::cpuid(1, 0).ecx & HYPERVISOR != 0).into()
}

/// The page attributes, which every guest may set. `hostel trace --msr 0x277` makes KVM ask Hostel first.
fn known_msr() -> Found {
    const PAGE_ATTRIBUTES: u32 = 0x277;
    let (low, high) = read_msr(PAGE_ATTRIBUTES);
    // SAFETY: a legal value: it has the first type in the place of the last, which no page table here uses.
    unsafe { asm!("wrmsr", in("ecx") PAGE_ATTRIBUTES, in("eax") low, in("edx") high & 0x00ff_ffff | low << 24) };
    let written = read_msr(PAGE_ATTRIBUTES);
    // SAFETY: the value that was there before.
    unsafe { asm!("wrmsr", in("ecx") PAGE_ATTRIBUTES, in("eax") low, in("edx") high) };
    (written == (low, high & 0x00ff_ffff | low << 24) && read_msr(PAGE_ATTRIBUTES) == (low, high)).into()
}

/// Low and high half of a register that exists.
fn read_msr(number: u32) -> (u32, u32) {
    let (low, high);
    // SAFETY: the registers that are read here exist.
    unsafe { asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nomem, nostack)) };
    (low, high)
}

fn rdtsc() -> Found {
    let earlier = cpu::time_stamp();
    (cpu::time_stamp() > earlier).into()
}

fn control_registers() -> Found {
    const NO_TIME_STAMPS: u64 = 1 << 2; // for ring 3
    let (cr0, cr3, cr4): (u64, u64, u64);
    let (new0, new3, new4, raised, lowered): (u64, u64, u64, u64, u64);
    // SAFETY: each value is legal, ring 0 minds none of them, and the old ones come back.
    unsafe {
        asm!("mov {}, cr0", out(reg) cr0);
        asm!("mov cr0, {1}", "mov {0}, cr0", "mov cr0, {2}", out(reg) new0, in(reg) cr0 | cpu::CR0_TS, in(reg) cr0);
        asm!("mov {0}, cr3", "mov cr3, {0}", "mov {1}, cr3", out(reg) cr3, out(reg) new3);
        asm!("mov {}, cr4", out(reg) cr4);
        asm!("mov cr4, {1}", "mov {0}, cr4", "mov cr4, {2}", out(reg) new4, in(reg) cr4 ^ NO_TIME_STAMPS, in(reg) cr4);
        asm!("mov cr8, {1}", "mov {0}, cr8", out(reg) raised, in(reg) 5u64);
        asm!("mov cr8, {1}", "mov {0}, cr8", out(reg) lowered, in(reg) 0u64);
    }
    let written = new0 == cr0 | cpu::CR0_TS && new3 == cr3 && new4 == cr4 ^ NO_TIME_STAMPS;
    (written && raised == 5 && lowered == 0).into()
}

/// Two physical pages by turns at one address: without INVLPG the processor may go on with the old one.
fn invlpg() -> Found {
    let entry = page_directory_entry(SPARE);
    // SAFETY: nothing else uses the large page at SPARE; the entry is put back.
    unsafe {
        let mapped = entry.read_volatile();
        let before = read32(SPARE + CODE);
        entry.write_volatile(mapped - SPARE); // the page at 0 now, where this program is
        flush(SPARE);
        let moved = read32(SPARE + CODE);
        entry.write_volatile(mapped);
        flush(SPARE);
        (moved == read32(CODE) && read32(SPARE + CODE) == before).into()
    }
}

/// A large page that nothing uses, and where in the first one this program is.
const SPARE: u64 = 2 << 20;
const CODE: u64 = 1 << 20;

/// Forgets how `address` is mapped.
fn flush(address: u64) {
    // SAFETY: the page tables are looked at again, nothing else.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

fn wbinvd() -> Found {
    // SAFETY: writes caches back, which takes time.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
    Found::Right
}

fn tables() -> Found {
    let (mut before, mut after) = ([[0u8; 10]; 2], [[0u8; 10]; 2]);
    // SAFETY: the tables that are loaded are those in use.
    unsafe {
        let ([gdt, idt], [new_gdt, new_idt]) = (&mut before, &mut after);
        asm!("sgdt [{0}]", "sidt [{1}]", "lgdt [{0}]", "lidt [{1}]", "sgdt [{2}]", "sidt [{3}]",
            in(reg) gdt, in(reg) idt, in(reg) new_gdt, in(reg) new_idt);
    }
    (before == after).into()
}

/// Traps only where a guest does nothing else for long: KVM then lets another processor run.
fn pause() -> Found {
    core::hint::spin_loop();
    Found::Right
}

/// KVM offers them only where it was told that guests may make the host's processor wait (KVM_CAP_X86_DISABLE_EXITS).
fn mwait() -> Found {
    const MONITOR: u32 = 1 << 3;
    if cpu::cpuid(1, 0).ecx & MONITOR == 0 {
        return Found::NotHere;
    }
    let watched = 0u64;
    // SAFETY: the write between the two is what MWAIT would wait for, so it ends at once.
    unsafe {
        asm!("monitor", in("rax") &raw const watched, in("ecx") 0, in("edx") 0);
        asm!("mov [{}], {}", in(reg) &raw const watched, in(reg) 1u64);
        asm!("mwait", in("eax") 0, in("ecx") 0);
    }
    Found::Right
}

/// A KVM that interprets its guests' kernels may try the instruction for ever: a timer ends that, and needs a LAPIC.
fn hypercall() -> Found {
    const POLL_INTERRUPTS: i64 = 1; // KVM_HC_VAPIC_POLL_IRQ: does nothing, returns 0
    const NOT_ONE: i64 = 0x7777;
    const NO_SUCH_CALL: i64 = -1000; // -KVM_ENOSYS
    if !has_lapic() {
        return Found::NotHere;
    }
    let vendor = cpu::cpuid(0, 0).ebx.to_le_bytes();
    let is_amd = vendor == *b"Auth" || vendor == *b"Hygo"; // "AuthenticAMD", "HygonGenuine"
    // KVM changes RAX only (hypercalls.rst).
    let call = |number: i64| {
        let mut answer = number;
        let fault = if is_amd {
            attempt!("sti", "vmmcall", "cli"; inout("rax") answer)
        } else {
            attempt!("sti", "vmcall", "cli"; inout("rax") answer)
        };
        cpu::disable_interrupts();
        fault.map_or(Ok(answer), Err)
    };
    interrupt::on(DEADLINE, fault::leave);
    apic::start_timer(DEADLINE, HYPERCALL_LIMIT_MS);
    let found = match call(POLL_INTERRUPTS) {
        Ok(answer) => (answer == 0 && call(NOT_ONE).is_ok_and(|answer| answer == NO_SUCH_CALL)).into(),
        Err(fault) if fault.vector == DEADLINE => {
            apic::end_of_interrupt();
            Found::NotHere
        }
        Err(_) => Found::Wrong,
    };
    apic::stop_timer();
    found
}

/// CR0.WP is set, so that the page tables bind ring 0 too. The fault goes straight to the handler: no exit.
fn read_only() -> Found {
    const WRITABLE: u64 = 1 << 1;
    const PRESENT_AND_WRITE: u32 = 1 << 0 | 1 << 1;
    let entry = page_directory_entry(SPARE);
    // SAFETY: nothing else uses the large page at SPARE; the entry is put back.
    unsafe {
        entry.write_volatile(entry.read_volatile() & !WRITABLE);
        flush(SPARE);
        let fault = attempt!("mov [rax], eax"; in("rax") SPARE);
        entry.write_volatile(entry.read_volatile() | WRITABLE);
        flush(SPARE);
        fault.is_some_and(|fault| fault.vector == interrupt::PAGE_FAULT && fault.error_code == PRESENT_AND_WRITE).into()
    }
}

// ---- Interrupts: KVM's LAPIC sends, holds back and delivers them.

/// With interrupts off the interrupt stays in the LAPIC. KVM asks the processor to tell when they are on: an exit to KVM.
fn window() -> Found {
    if !has_lapic() {
        return Found::NotHere;
    }
    INTERRUPTS.store(0, Ordering::Relaxed);
    apic::interrupt(apic::id(), VECTOR);
    let early = INTERRUPTS.load(Ordering::Relaxed);
    cpu::enable_interrupts();
    let came = apic::wait_until(ANSWER_LIMIT_MS, || INTERRUPTS.load(Ordering::Relaxed) == 1);
    cpu::disable_interrupts();
    (early == 0 && came).into()
}

/// KVM sees the HLT, and lets the host's thread sleep until the timer strikes.
fn hlt() -> Found {
    if !has_lapic() {
        return Found::NotHere;
    }
    INTERRUPTS.store(0, Ordering::Relaxed);
    apic::start_timer(VECTOR, 1);
    while INTERRUPTS.load(Ordering::Relaxed) == 0 {
        cpu::wait_for_interrupt();
    }
    apic::stop_timer();
    Found::Right
}

static ANSWERED: AtomicBool = AtomicBool::new(false);

fn ipi() -> Found {
    let mut other = None;
    for_each_madt_entry(RSDP.load(Ordering::Relaxed), |entry| match entry {
        Entry::Processor(id) if u32::from(id) != apic::id() => other = Some(u32::from(id)),
        _ => {}
    });
    let Some(other) = other else { return Found::NotHere };
    let started = smp::start(other, answer);
    apic::interrupt(other, VECTOR);
    (started && apic::wait_until(ANSWER_LIMIT_MS, || ANSWERED.load(Ordering::Acquire))).into()
}

/// What the other processor runs.
fn answer() {
    interrupt::load();
    cpu::wait_for_interrupt();
    ANSWERED.store(true, Ordering::Release);
}
