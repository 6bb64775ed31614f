//! monitor: a virtual machine monitor on the bare machine, which runs two guests in ring 3 by trapping and emulating.
//!
//! It boots like any guest, and is the lowest software then: a *native* VMM. Its guests are the images that run directly under
//! Hostel, byte for byte. Their kernels believe to be in ring 0 and are in ring 3: what is privileged traps, and the monitor does
//! to the virtual machine what the instruction would have done to the real one. `docs/native-vmm.md` tells how and why, and what x86
//! puts in the way.
//!
//! `hostel run monitor -- [trace] [noscan] [noumip] GUEST [WORDS] [+ GUEST [WORDS]]`; without words: `user + hello`. Powers off when
//! both have ended; exits with 1 (status 3) where it has no such guest.
//! Sources: Popek and Goldberg; Intel SDM vol. 3A §5.5, §5.9 (privilege levels, privileged instructions), §6.14.

#![no_std]
#![no_main]

use core::arch::asm;
use core::mem::MaybeUninit;
use core::ptr::{addr_of_mut, copy_nonoverlapping};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use guest::interrupt::{self, Frame, GENERAL_PROTECTION, INVALID_OPCODE, PAGE_FAULT};
use guest::start_info::{RAM, StartInfo};
use guest::text::Hex;
use guest::words::Words;
use guest::{cpu, power, print, ring3};

#[path = "../monitor"]
mod monitor {
    pub mod decode;
    pub mod deliver;
    pub mod devices;
    pub mod emulate;
    pub mod lapic;
    pub mod load;
    pub mod machine;
    pub mod paging;
    pub mod report;
    pub mod scan;
    pub mod shadow;
    pub mod vm;
}

use monitor::*;

use machine::TIMER;
use report::Kind;
use vm::{Fault, State, Vm};

/// Guests at a time.
const GUESTS: usize = 2;
/// Ticks of the monitor's timer in a guest's turn, of 2 ms each.
const TURN_TICKS: u64 = 2;

static mut VMS: MaybeUninit<[Vm; GUESTS]> = MaybeUninit::zeroed();
/// FPU and SSE registers of each guest while the other one runs (Intel SDM vol. 1 §10.5.1).
static mut VECTORS: [[Aligned; 32]; GUESTS] = [const { [const { Aligned(0) }; 32] }; GUESTS];
/// The guest that has the processor, and how many ticks of its turn are left.
static CURRENT: AtomicUsize = AtomicUsize::new(0);
static TURN: AtomicU64 = AtomicU64::new(TURN_TICKS);
/// By the time stamp counter: when the guests started; until when time has passed for them.
static START: AtomicU64 = AtomicU64::new(0);
static PASSED: AtomicU64 = AtomicU64::new(0);
/// Whether each trap is told.
static TRACE: AtomicBool = AtomicBool::new(false);

/// FPU control word and MXCSR at the start, the latter at offset 24.
const FPU_CONTROL: u128 = 0x37f;
const MXCSR: u128 = 0x1f80;

#[repr(align(16))]
struct Aligned(u128);

#[unsafe(no_mangle)]
extern "C" fn guest_main(boot_information: u64) -> ! {
    let info = StartInfo::at(boot_information);
    let end = machine::WINDOW + machine::WINDOW_BYTES;
    let holds = info.memory_map().iter().any(|range| range.kind == RAM && range.start + range.bytes >= end);
    assert!(holds, "the monitor needs 192 MiB: --mem 192M");
    let mut words = Words::of(info.command_line());
    let mut word = words.next();
    let (mut scan, mut umip) = (true, true);
    while let Some(option @ (b"trace" | b"noscan" | b"noumip")) = word {
        TRACE.fetch_or(option == b"trace", Ordering::Relaxed);
        (scan, umip) = (scan && option != b"noscan", umip && option != b"noumip");
        word = words.next();
    }
    match word {
        Some(name) => choose(name, words, scan),
        None => choose(b"user", Words::of(b"+ hello"), scan),
    }
    interrupt::init();
    (0..32).for_each(|exception| interrupt::on(exception, trap));
    interrupt::on(TIMER, trap);
    let umip = machine::take_over(umip, trap);
    print!("a monitor in ring 0, guests in ring 3; code is ", if scan { "scanned" } else { "not scanned" });
    print!(", UMIP is ", if umip { "on\n" } else { "off\n" });
    // SAFETY: as after FNINIT and reset: all exceptions masked (Intel SDM vol. 1 §8.1.5, §10.2.3). The guests do not run yet.
    for area in unsafe { &mut *addr_of_mut!(VECTORS) } {
        (area[0].0, area[1].0) = (FPU_CONTROL, MXCSR << 64);
    }
    let first = vm_at(0);
    first.counts.turns = 1;
    machine::load_data_segments();
    machine::load_tables(first.shadow.root(false));
    machine::start_tick();
    START.store(cpu::time_stamp(), Ordering::Relaxed);
    PASSED.store(cpu::time_stamp(), Ordering::Relaxed);
    // SAFETY: the frame is one of ring 3, in the address space that was loaded.
    unsafe { ring3::resume(&raw const first.frame) }
}

/// Switches the guests on that the words name, each with the words up to the next `+` as its command line.
fn choose(first: &[u8], mut words: Words, scan: bool) {
    let mut name = Some(first);
    for index in 0..GUESTS {
        let vm = vm_at(index);
        vm.init_shadow();
        vm.scan.disabled = !scan;
        let Some(wanted) = name.take() else { continue };
        let Some(image) = load::IMAGES.iter().find(|image| image.name.as_bytes() == wanted) else {
            print!("no such guest; there are:");
            load::IMAGES.iter().for_each(|image| print!(" ", image.name));
            print!("\n");
            power::exit(1);
        };
        vm.switch_on(index, image.name);
        assert!(image.load(vm).is_some(), "an image of this build is not one that PVH can enter");
        let mut used = 0;
        while let Some(word) = words.next() {
            if word == b"+" {
                name = words.next();
                break;
            }
            used = load::append(vm, used, word);
        }
    }
}

/// A virtual machine by its index.
fn vm_at(index: usize) -> &'static mut Vm {
    // SAFETY: all zeros are machines that are off; one processor runs, with interrupts off wherever a machine is used.
    unsafe { &mut (*addr_of_mut!(VMS).cast::<[Vm; GUESTS]>())[index] }
}

/// Every exception and interrupt of the machine comes here.
fn trap(frame: &mut Frame) {
    let arrived = cpu::time_stamp();
    let vector = frame.vector as u8;
    if vector == TIMER {
        machine::end_of_interrupt();
    }
    if frame.cs & 3 == 0 {
        // Either it waited for this, or something is wrong.
        if vector != TIMER {
            print!("vector ", frame.vector, " at ", Hex(frame.rip), ", error code ", Hex(frame.error_code));
            print!(", CR2 ", Hex(cpu::page_fault_address()), "\n");
            panic!("an exception in the monitor");
        }
        return;
    }
    pass_time(arrived);
    let (vm, rip) = (vm_at(CURRENT.load(Ordering::Relaxed)), frame.rip);
    vm.code_length = 0;
    let kind = answer(vm, frame, vector).unwrap_or_else(|fault| {
        vm.raise(frame, fault);
        Kind::Exception
    });
    vm.counts.add(kind, cpu::time_stamp() - arrived);
    if TRACE.load(Ordering::Relaxed) {
        report::trap(vm, rip, kind);
    }
    if vm.state == State::Ended {
        vm.end_line();
        vm.ended = cpu::time_stamp();
    }
    go_on(frame);
    if vector == TIMER {
        machine::start_tick();
    }
    PASSED.store(cpu::time_stamp(), Ordering::Relaxed);
}

/// Lets the time until `now` pass for the guest that ran, and for one that halts.
fn pass_time(now: u64) {
    let passed = now - PASSED.swap(now, Ordering::Relaxed);
    for index in 0..GUESTS {
        let vm = vm_at(index);
        if vm.state == State::Halted || index == CURRENT.load(Ordering::Relaxed) {
            vm.devices.lapic.pass(passed);
        }
    }
}

/// Does what a trap of the guest asks for; says what it was.
///
/// # Errors
/// The guest is to get an exception.
fn answer(vm: &mut Vm, frame: &mut Frame, vector: u8) -> Result<Kind, Fault> {
    let real = Fault { vector, code: frame.error_code as u32 };
    match vector {
        TIMER => {
            TURN.store(TURN.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
            Ok(Kind::Tick)
        }
        ring3::SYSTEM_CALL => vm.system_call(frame),
        PAGE_FAULT if ring3::is_system_call(frame) => vm.system_call(frame),
        PAGE_FAULT => {
            let access = real.code & (paging::WRITE | paging::FETCH);
            if vm.fill(cpu::page_fault_address(), access, frame.rip)? {
                return Ok(Kind::Fill);
            }
            if access & paging::FETCH != 0 || !take_apart(vm, frame)? {
                vm.end("ended by the monitor: it runs where no memory is");
                return Ok(Kind::Device);
            }
            vm.access(frame, decode::room(decode::TRAPPED))
        }
        GENERAL_PROTECTION | INVALID_OPCODE if take_apart(vm, frame)? => {
            vm.emulate(frame, decode::room(decode::TRAPPED), real)
        }
        _ => Err(real),
    }
}

/// Takes the instruction at the guest's RIP apart; says whether it is one.
fn take_apart(vm: &mut Vm, frame: &Frame) -> Result<bool, Fault> {
    let instruction = decode::room(decode::TRAPPED);
    let available = vm.fetch(frame.rip)?;
    let known = instruction.decode(&vm.code[..available], vm.long).is_some();
    vm.code_length = if known { instruction.length as usize } else { 0 };
    Ok(known)
}

/// Finds out who has the processor next, and lets him go on: at the end of a turn the other one, if he has something to do.
fn go_on(frame: &mut Frame) {
    let current = CURRENT.load(Ordering::Relaxed);
    let next = loop {
        let first = current + usize::from(TURN.load(Ordering::Relaxed) == 0);
        let mut order = (first..first + GUESTS).map(|index| index % GUESTS);
        if let Some(next) = order.find(|index| vm_at(*index).can_run()) {
            break next;
        }
        if (0..GUESTS).all(|index| matches!(vm_at(index).state, State::Off | State::Ended)) {
            finish();
        }
        machine::start_tick();
        cpu::wait_for_interrupt();
        pass_time(cpu::time_stamp());
    };
    if next != current || TURN.load(Ordering::Relaxed) == 0 {
        TURN.store(TURN_TICKS, Ordering::Relaxed);
    }
    if next != current {
        switch(frame, current, next);
    }
    let vm = vm_at(next);
    // IRET to an address that is none would fault here, in ring 0: SYSRET may lead to one, and the end of what is canonical.
    if !vm::is_canonical(frame.rip) {
        vm.raise(frame, vm::PROTECTION);
    }
    vm.interrupt(frame);
    vm.shadowed = false;
    machine::switch_tables(vm.shadow.root(vm.user));
}

/// Puts the registers of one guest aside and takes those of the other.
fn switch(frame: &mut Frame, from: usize, to: usize) {
    // SAFETY: areas of 512 bytes, aligned to 16, one a guest (Intel SDM vol. 2 FXSAVE); frames of two machines.
    unsafe {
        let areas = addr_of_mut!(VECTORS).cast::<[Aligned; 32]>();
        asm!("fxsave [{}]", "fxrstor [{}]", in(reg) areas.add(from), in(reg) areas.add(to), options(nostack));
        copy_nonoverlapping(&raw const *frame, &raw mut vm_at(from).frame, 1);
        copy_nonoverlapping(&raw const vm_at(to).frame, &raw mut *frame, 1);
    }
    let vm = vm_at(to);
    vm.counts.turns += 1;
    vm.load_bases();
    machine::load_data_segments();
    CURRENT.store(to, Ordering::Relaxed);
}

/// All have ended: tells what they did.
fn finish() -> ! {
    for vm in (0..GUESTS).map(vm_at).filter(|vm| vm.state == State::Ended) {
        report::table(vm, vm.ended - START.load(Ordering::Relaxed));
    }
    power::off()
}
