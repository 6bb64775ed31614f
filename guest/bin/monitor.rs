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
use core::ptr::addr_of_mut;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use guest::interrupt::{self, Frame, GENERAL_PROTECTION, INVALID_OPCODE, PAGE_FAULT};
use guest::start_info::{RAM, StartInfo};
use guest::text::Hex;
use guest::words::Words;
use guest::{cpu, power, print};

#[path = "../monitor/decode.rs"]
mod decode;
#[path = "../monitor/deliver.rs"]
mod deliver;
#[path = "../monitor/devices.rs"]
mod devices;
#[path = "../monitor/emulate.rs"]
mod emulate;
#[path = "../monitor/fault.rs"]
mod fault;
#[path = "../monitor/lapic.rs"]
mod lapic;
#[path = "../monitor/load.rs"]
mod load;
#[path = "../monitor/machine.rs"]
mod machine;
#[path = "../monitor/paging.rs"]
mod paging;
#[path = "../monitor/report.rs"]
mod report;
#[path = "../monitor/scan.rs"]
mod scan;
#[path = "../monitor/shadow.rs"]
mod shadow;
#[path = "../monitor/vm.rs"]
mod vm;

use decode::Instruction;
use fault::Fault;
use machine::{SYSCALL, SYSCALL_32, TIMER};
use report::Kind;
use shadow::Filled;
use vm::{State, Vm};

/// Guests at a time.
const GUESTS: usize = 2;
/// Ticks of the monitor's timer in a guest's turn, of 2 ms each.
const SLICE_TICKS: u64 = 2;

static mut VMS: [Vm; GUESTS] = [const { Vm::new() }; GUESTS];
/// The one that has the processor.
static CURRENT: AtomicUsize = AtomicUsize::new(0);
/// Ticks left of its turn.
static TURN: AtomicU64 = AtomicU64::new(SLICE_TICKS);
/// When the last guest went on, or the clocks of those that halt were last set, by the time stamp counter.
static SEEN: AtomicU64 = AtomicU64::new(0);
/// Whether each trap is told.
static TRACE: AtomicBool = AtomicBool::new(false);
/// When the guests started, by the time stamp counter.
static START: AtomicU64 = AtomicU64::new(0);
/// FPU and SSE registers of each guest while the other one runs (Intel SDM vol. 1 §10.5.1).
static mut VECTORS: [[Aligned; 32]; GUESTS] = [const { [const { Aligned(0) }; 32] }; GUESTS];

#[repr(align(16))]
struct Aligned(#[allow(dead_code, reason = "FXSAVE and FXRSTOR use it")] u128);

#[unsafe(no_mangle)]
extern "C" fn guest_main(boot_information: u64) -> ! {
    let info = StartInfo::at(boot_information);
    let end = machine::WINDOW + machine::WINDOW_BYTES;
    let holds = info.memory_map().iter().any(|range| range.kind == RAM && range.start + range.bytes >= end);
    assert!(holds, "the monitor needs 192 MiB: --mem 192M");
    interrupt::init();
    for vector in 0..64 {
        interrupt::on(vector, trap);
    }
    let mut words = Words::of(info.command_line());
    let mut next = words.next();
    let (mut scan, mut umip) = (true, true);
    loop {
        match next {
            Some(b"trace") => TRACE.store(true, Ordering::Relaxed),
            Some(b"noscan") => scan = false,
            Some(b"noumip") => umip = false,
            _ => break,
        }
        next = words.next();
    }
    match next {
        Some(_) => choose(next, &mut words),
        None => choose(Some(b"user"), &mut Words::of(b"+ hello")),
    }
    let umip = machine::take_over(umip);
    print!("a monitor in ring 0, guests in ring 3; code is ", if scan { "scanned" } else { "not scanned" });
    print!(", UMIP is ", if umip { "on\n" } else { "off\n" });
    for index in 0..GUESTS {
        let vm = machine_of(index);
        vm.scan.disabled = !scan;
        vm.init_shadow();
    }
    START.store(cpu::time_stamp(), Ordering::Relaxed);
    let first = machine_of(0);
    machine::load_data_segments();
    machine::load_tables(first.shadow.root(false));
    machine::start_tick();
    SEEN.store(cpu::time_stamp(), Ordering::Relaxed);
    first.counts.turns += 1;
    machine::resume(&first.frame)
}

/// Switches the guests on that the words name, each with the words up to the next `+` as its command line.
fn choose(first: Option<&[u8]>, words: &mut Words) {
    let mut name = first;
    for index in 0..GUESTS {
        let Some(wanted) = name else { return };
        let Some(image) = load::IMAGES.iter().find(|image| image.name.as_bytes() == wanted) else {
            print!("no such guest; there are:");
            for image in &load::IMAGES {
                print!(" ", image.name);
            }
            print!("\n");
            power::exit(1);
        };
        let vm = machine_of(index);
        vm.switch_on(index, image.name);
        assert!(image.load(vm).is_some(), "an image of this build is not one that PVH can enter");
        let mut used = 0;
        name = None;
        while let Some(word) = words.next() {
            if word == b"+" {
                name = words.next();
                break;
            }
            used = load::append(vm, used, word);
        }
    }
}

/// The virtual machine with a number.
fn machine_of(index: usize) -> &'static mut Vm {
    // SAFETY: one processor runs, with interrupts off wherever a machine is used; `index` is below the number of guests.
    unsafe { &mut *addr_of_mut!(VMS).cast::<Vm>().add(index % GUESTS) }
}

/// Every exception and interrupt of the machine comes here.
fn trap(frame: &mut Frame) {
    let vector = frame.vector as u8;
    if vector == TIMER {
        machine::end_of_interrupt();
    }
    if frame.cs & 3 == 0 {
        if vector != TIMER {
            print!("vector ", frame.vector, " at ", Hex(frame.rip), ", error code ", Hex(frame.error_code));
            print!(", CR2 ", Hex(cpu::page_fault_address()), "\n");
            panic!("an exception in the monitor");
        }
        return; // it waited for this
    }
    let arrived = cpu::time_stamp();
    let vm = machine_of(CURRENT.load(Ordering::Relaxed));
    let rip = frame.rip;
    pass_time(arrived);
    vm.code_length = 0;
    let kind = match answer(vm, frame, vector) {
        Ok(kind) => kind,
        Err(fault) => {
            vm.raise(frame, fault);
            Kind::Exception
        }
    };
    vm.counts.add(kind, cpu::time_stamp() - arrived);
    if TRACE.load(Ordering::Relaxed) && kind != Kind::Tick {
        report::trap(vm, rip, kind, frame);
    }
    if vm.state == State::Ended {
        vm.flush_line();
        vm.ended = cpu::time_stamp();
    }
    go_on(frame);
    if vector == TIMER {
        machine::start_tick();
    }
    SEEN.store(cpu::time_stamp(), Ordering::Relaxed);
}

/// Lets the time until `now` pass for the guest that ran, and for one that halts.
fn pass_time(now: u64) {
    let passed = now - SEEN.swap(now, Ordering::Relaxed);
    for index in 0..GUESTS {
        let vm = machine_of(index);
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
        SYSCALL => vm.system_call(frame),
        SYSCALL_32 => {
            frame.rip = frame.rip.wrapping_sub(2);
            Err(Fault::undefined())
        }
        // A KVM that has nothing but ring 3 native may take SYSCALL to its entry and leave the ring as it is: then the entry faults.
        PAGE_FAULT if frame.rip == machine::system_call_entry() => {
            frame.rip = frame.registers[12]; // RCX
            frame.rflags = frame.registers[4]; // R11
            vm.system_call(frame)
        }
        PAGE_FAULT => {
            let access = real.code & (paging::WRITE | paging::FETCH);
            if let Filled::Mapped = vm.fill(cpu::page_fault_address(), access)? {
                return Ok(Kind::Fill);
            }
            if access & paging::FETCH != 0 || !take_apart(vm, frame)? {
                vm.end("ended by the monitor: it runs where no memory is");
                return Ok(Kind::Device);
            }
            vm.access(frame, instruction())
        }
        GENERAL_PROTECTION | INVALID_OPCODE => {
            if !take_apart(vm, frame)? {
                return Err(real);
            }
            vm.emulate(frame, instruction(), real)
        }
        _ => Err(real),
    }
}

/// Takes the instruction at the guest's RIP apart; says whether it is one.
fn take_apart(vm: &mut Vm, frame: &Frame) -> Result<bool, Fault> {
    let instruction = instruction();
    let available = vm.fetch(frame.rip)?;
    let known = instruction.decode(&vm.code[..available], vm.long).is_some();
    vm.code_length = if known { instruction.length as usize } else { 0 };
    Ok(known)
}

/// The instruction that trapped.
fn instruction() -> &'static mut Instruction {
    static mut INSTRUCTION: Instruction = Instruction::new();
    // SAFETY: one trap at a time, on one processor.
    unsafe { &mut *addr_of_mut!(INSTRUCTION) }
}

/// Finds out who has the processor next, and lets him go on: at the end of a turn the other one, if he has something to do.
fn go_on(frame: &mut Frame) {
    let current = CURRENT.load(Ordering::Relaxed);
    let next = loop {
        let first = if TURN.load(Ordering::Relaxed) == 0 { current + 1 } else { current };
        if let Some(next) =
            (first..first + GUESTS).map(|index| index % GUESTS).find(|index| machine_of(*index).can_run())
        {
            break next;
        }
        if (0..GUESTS).all(|index| matches!(machine_of(index).state, State::Off | State::Ended)) {
            finish();
        }
        machine::start_tick();
        machine::wait();
        pass_time(cpu::time_stamp());
    };
    if next != current || TURN.load(Ordering::Relaxed) == 0 {
        TURN.store(SLICE_TICKS, Ordering::Relaxed);
    }
    if next != current {
        switch(frame, current, next);
    }
    let vm = machine_of(next);
    if vm.interrupt(frame) {
        vm.counts.add(Kind::Interrupt, 0);
    }
    vm.shadowed = false;
    machine::load_tables(vm.shadow.root(vm.user));
}

/// Puts the registers of one guest aside and takes those of the other.
fn switch(frame: &mut Frame, from: usize, to: usize) {
    // SAFETY: areas of 512 bytes, aligned to 16, one a guest (Intel SDM vol. 2 FXSAVE).
    unsafe {
        let areas = addr_of_mut!(VECTORS).cast::<[Aligned; 32]>();
        asm!("fxsave [{}]", in(reg) areas.add(from), options(nostack));
        asm!("fxrstor [{}]", in(reg) areas.add(to), options(nostack));
        core::ptr::copy_nonoverlapping(&raw const *frame, &raw mut machine_of(from).frame, 1);
        core::ptr::copy_nonoverlapping(&raw const machine_of(to).frame, &raw mut *frame, 1);
    }
    let vm = machine_of(to);
    vm.counts.turns += 1;
    machine::write_msr(machine::MSR_FS_BASE, vm.fs_base);
    machine::write_msr(machine::MSR_GS_BASE, vm.gs_base);
    machine::load_data_segments();
    CURRENT.store(to, Ordering::Relaxed);
}

/// All have ended: tells what they did.
fn finish() -> ! {
    for index in 0..GUESTS {
        let vm = machine_of(index);
        if vm.state == State::Ended {
            report::table(vm, vm.ended - START.load(Ordering::Relaxed));
        }
    }
    power::off()
}
