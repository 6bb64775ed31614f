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
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use guest::interrupt::{self, Frame, GENERAL_PROTECTION, INVALID_OPCODE, PAGE_FAULT};
use guest::{cpu, power, print, ring3, start_info::*, words::Words};

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

use monitor::{machine::TIMER, report::Kind, vm::*, *};

/// Guests at a time.
const GUESTS: usize = 2;
/// Ticks of the monitor's timer in a guest's turn, of 2 ms each.
const TURN_TICKS: u64 = 2;

static mut VMS: MaybeUninit<[Vm; GUESTS]> = MaybeUninit::zeroed();
/// The guest that has the processor, and how many ticks of its turn are left.
static CURRENT: AtomicUsize = AtomicUsize::new(0);
static TURN: AtomicU64 = AtomicU64::new(TURN_TICKS);
/// By the time stamp counter: when the guests started; until when time has passed for them.
static START: AtomicU64 = AtomicU64::new(0);
static PASSED: AtomicU64 = AtomicU64::new(0);
/// Whether each trap is told.
static TRACE: AtomicBool = AtomicBool::new(false);

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
        TRACE.fetch_or(option == b"trace", Relaxed);
        (scan, umip) = (scan && option != b"noscan", umip && option != b"noumip");
        word = words.next();
    }
    if word.is_none() {
        words = Words::of(b"user + hello");
        word = words.next();
    }
    for index in 0..GUESTS {
        let vm = vm_at(index);
        vm.init_shadow();
        vm.scan.disabled = !scan;
        if let Some(name) = word {
            switch_on(vm, index, name, &mut words);
            word = words.next();
        }
    }
    interrupt::init();
    (0..=TIMER).for_each(|vector| interrupt::on(vector, trap));
    let umip = machine::take_over(umip, trap);
    print!("a monitor in ring 0, guests in ring 3; code is ", if scan { "scanned" } else { "not scanned" });
    print!(", UMIP is ", if umip { "on\n" } else { "off\n" });
    let first = vm_at(0);
    first.take_processor();
    machine::load_tables(first.root(), true);
    machine::start_tick();
    START.store(cpu::time_stamp(), Relaxed);
    PASSED.store(cpu::time_stamp(), Relaxed);
    // SAFETY: the frame is one of ring 3, in the address space that was loaded.
    unsafe { ring3::resume(&raw const first.frame) }
}

/// Switches a guest on by its name, with the words up to the next `+` as its command line.
fn switch_on(vm: &mut Vm, index: usize, name: &[u8], words: &mut Words) {
    let Some((name, image)) = load::IMAGES.iter().find(|image| image.0.as_bytes() == name) else {
        print!("no such guest; there are:");
        load::IMAGES.iter().for_each(|image| print!(" ", image.0));
        print!("\n");
        power::exit(1);
    };
    vm.switch_on(index, name);
    assert!(load::load(image, vm).is_some(), "an image of this build is not one that PVH can enter");
    words.take_while(|word| *word != b"+").fold(0, |used, word| load::append(vm, used, word));
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
        TURN.store(TURN.load(Relaxed).saturating_sub(1), Relaxed);
    }
    match (frame.cs & 3, vector) {
        (0, TIMER) => return, // the monitor waited for it
        (0, _) => interrupt::unexpected(frame),
        _ => pass_time(arrived),
    }
    let (vm, rip) = (vm_at(CURRENT.load(Relaxed)), frame.rip);
    vm.code_length = 0;
    let kind = answer(vm, frame, vector).unwrap_or_else(|fault| {
        vm.raise(frame, fault);
        Kind::Exception
    });
    vm.counts.add(kind, cpu::time_stamp() - arrived);
    if TRACE.load(Relaxed) && kind != Kind::Tick {
        report::trap(vm, rip, kind);
    }
    if vm.is_halted && !vm.accepts_interrupts() {
        vm.end("halted for good");
    }
    if vm.end.is_some() {
        vm.end_line();
        vm.alive = cpu::time_stamp() - START.load(Relaxed);
    }
    go_on(frame);
    if vector == TIMER {
        machine::start_tick();
    }
    PASSED.store(cpu::time_stamp(), Relaxed);
}

/// Lets the time until `now` pass for the guest that ran, and for one that halts.
fn pass_time(now: u64) {
    let passed = now - PASSED.swap(now, Relaxed);
    for (index, vm) in (0..GUESTS).map(vm_at).enumerate() {
        if vm.is_halted || index == CURRENT.load(Relaxed) {
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
        TIMER => Ok(Kind::Tick),
        ring3::SYSTEM_CALL => vm.system_call(frame),
        PAGE_FAULT if ring3::is_system_call(frame) => vm.system_call(frame),
        PAGE_FAULT => {
            let access = real.code & (paging::WRITE | paging::FETCH);
            if vm.fill(cpu::page_fault_address(), access)? {
                return Ok(Kind::Fill);
            }
            if access & paging::FETCH != 0 || !vm.fetch(frame.rip)? {
                vm.end("ended by the monitor: it runs where no memory is");
                return Ok(Kind::Device);
            }
            vm.access(frame)
        }
        GENERAL_PROTECTION | INVALID_OPCODE if vm.fetch(frame.rip)? => vm.emulate(frame, real),
        _ => Err(real),
    }
}

/// Finds out who has the processor next, and lets him go on: at the end of a turn the other one, if he has something to do.
fn go_on(frame: &mut Frame) {
    let current = CURRENT.load(Relaxed);
    let next = loop {
        let first = current + usize::from(TURN.load(Relaxed) == 0);
        let mut order = (first..first + GUESTS).map(|index| index % GUESTS);
        if let Some(next) = order.find(|index| vm_at(*index).can_run()) {
            break next;
        }
        if !(0..GUESTS).any(|index| vm_at(index).is_alive()) {
            (0..GUESTS).map(vm_at).for_each(|vm| report::table(vm));
            power::off();
        }
        machine::start_tick();
        cpu::wait_for_interrupt();
        pass_time(cpu::time_stamp());
    };
    if next != current || TURN.load(Relaxed) == 0 {
        TURN.store(TURN_TICKS, Relaxed);
    }
    let vm = vm_at(next);
    if next != current {
        // SAFETY: areas of 512 bytes, aligned to 16, one a guest (Intel SDM vol. 2 FXSAVE); frames of two machines.
        unsafe {
            let old = vm_at(current);
            asm!("fxsave [{}]", in(reg) &raw mut old.vectors, options(nostack));
            copy_nonoverlapping(&raw const *frame, &raw mut old.frame, 1);
            copy_nonoverlapping(&raw const vm.frame, &raw mut *frame, 1);
        }
        vm.take_processor();
        CURRENT.store(next, Relaxed);
    }
    // IRET to an address that is none would fault here, in ring 0: SYSRET may lead to one, and the end of what is canonical.
    if !is_canonical(frame.rip) {
        vm.raise(frame, PROTECTION);
    }
    vm.interrupt(frame);
    vm.shadowed = false;
    machine::load_tables(vm.root(), false);
}
