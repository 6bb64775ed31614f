//! A machine that runs a few instructions many times, in ring 0 or 3 of 64-bit mode, and tells what is seen of them: from outside
//! the exits to user space and KVM's counters, from inside the exceptions.
//!
//! ```text
//!  0x01000  page tables: the first 4 GiB onto themselves, open to ring 3
//!  0x08000  GDT    0x09000  TSS    0x0a000  IDT
//!  0x0b000  a stub of 16 bytes for each vector, then what they share, then the entry of SYSCALL
//!  0x10000  the code    0x20000  data of the trials    0x30000 and 0x40000  where the stacks of ring 0 and 3 begin
//!  0x50000  pages that nobody touches but the trial of first touches
//! ```
//!
//! R12 to R15 are the machine's: the last vector, the address behind the trial's code, exceptions so far, repetitions left.
//! Sources: Intel SDM vol. 2 (instructions), vol. 3A §6.14 (64-bit interrupts), §8.7 (64-bit TSS).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use hostel::arch::cpu_state::{CpuState, TableRegister};
use hostel::arch::cpuid::CpuidLeaf;
use hostel::arch::layout::{MIB, PAGE_SIZE};
use hostel::arch::paging::{USER, identity_map};
use hostel::arch::segment::Segment;
use hostel::debug::explain::trial::{Feature, Host, Ring, Trial, XSAVE};
use hostel::kvm::debug::GuestDebug;
use hostel::kvm::exit::{Exit, Reply};
use hostel::kvm::kick;
use hostel::kvm::stats::Stats;
use hostel::kvm::system::System;
use hostel::kvm::vcpu::Vcpu;
use hostel::kvm::vm::Vm;
use hostel::memory::map::MemoryMap;
use hostel::memory::ram::GuestRam;
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// How often a trial's code runs.
pub const REPETITIONS: u32 = 64;

/// Long enough for each trial that ends by itself, also in software emulation.
const PATIENCE: Duration = Duration::from_secs(60);
/// When a trial is kicked that ends by nothing else.
const UNTIL_KICK: Duration = Duration::from_millis(200);

const PAGE_TABLES: u64 = 0x1000;
const GDT: u64 = 0x8000;
const TSS: u64 = 0x9000;
const IDT: u64 = 0xa000;
const STUBS: u64 = 0xb000;
const STUB_COMMON: u64 = STUBS + 256 * 16;
const SYSCALL_ENTRY: u64 = STUB_COMMON + 32;
const CODE: u64 = 0x1_0000;
const STACK_0: u64 = 0x3_0000;
const STACK_3: u64 = 0x4_0000;

/// Where a trial finds read-only memory.
const ROM: u64 = 0xe000_0000;
/// A slot that no RAM has.
const ROM_SLOT: u32 = 8;
/// `_IOW(KVMIO, 0x46, struct kvm_userspace_memory_region)` (Linux include/uapi/linux/kvm.h).
const KVM_SET_USER_MEMORY_REGION: libc::c_ulong = 0x4020_ae46;

const CODE_0: u16 = 0x10;
const DATA_0: u16 = 0x18;
const TASK: u16 = 0x20;
const DATA_3: u16 = 0x30 | 3;
const CODE_3: u16 = 0x38 | 3;
/// EFER: SYSCALL is on.
const EFER_SCE: u64 = 1;
/// CR4: XSETBV is on.
const CR4_OSXSAVE: u64 = 1 << 18;
const IA32_STAR: u32 = 0xc000_0081;
const IA32_LSTAR: u32 = 0xc000_0082;

/// Where the code tells that the repetitions begin and end.
const PORT_BEGIN: u8 = 0xe0;
const PORT_END: u8 = 0xe1;

/// What was seen of one trial.
#[derive(Debug)]
pub struct Sight {
    /// Exits to user space, in order.
    pub exits: Vec<Exit>,
    /// By how much each counter of KVM moved.
    pub moved: BTreeMap<String, u64>,
    /// Exceptions and interrupts that the guest took.
    pub faults: u64,
    /// Vector of the last.
    pub vector: u64,
}

/// Whether `leaves` offer `feature`.
pub fn offers(leaves: &[CpuidLeaf], feature: Feature) -> bool {
    let mut leaves = leaves.iter().filter(|leaf| (leaf.function, leaf.index) == (feature.leaf, 0));
    leaves.any(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx][feature.register] >> feature.bit & 1 == 1)
}

/// Runs the trial to its end, or to an exit behind which there is no going on.
pub fn observe(trial: &'static Trial) -> Sight {
    let patience = if trial.host == Host::Kicks { UNTIL_KICK } else { PATIENCE };
    kick::install_handler().unwrap();
    let (sights, sight) = channel();
    let vcpu_thread = thread::spawn(move || sights.send(watch(trial)).unwrap());
    loop {
        match sight.recv_timeout(patience) {
            Ok(sight) => return sight,
            Err(RecvTimeoutError::Timeout) => kick::kick(&vcpu_thread),
            Err(RecvTimeoutError::Disconnected) => panic!("{}: the vCPU's thread panicked", trial.asm),
        }
    }
}

fn watch(trial: &Trial) -> Sight {
    let (_vm, mut vcpu) = machine(trial);
    vcpu.bind_to_thread();
    let stats = vcpu.stats().expect("this KVM has counters");
    let (mut exits, mut before) = (Vec::new(), BTreeMap::new());
    let mut reply = Reply::Resume;
    loop {
        let exit = vcpu.run(reply).unwrap();
        reply = match exit {
            Exit::PioRead { .. } | Exit::MmioRead { .. } | Exit::MsrRead { .. } | Exit::Hypercall { .. } => {
                Reply::Value(0)
            }
            _ => Reply::Resume,
        };
        match exit {
            Exit::PioWrite { port, .. } if port == u16::from(PORT_BEGIN) => {
                if trial.host == Host::Steps {
                    vcpu.debug(&GuestDebug { step: true, ..GuestDebug::default() }).unwrap();
                }
                before = counters(&stats);
            }
            Exit::PioWrite { port, .. } if port == u16::from(PORT_END) => break,
            _ => exits.push(exit),
        }
        let is_last = matches!(exit, Exit::Shutdown | Exit::Failure(_) | Exit::Interrupted);
        if is_last || exits.len() > 2 * REPETITIONS as usize {
            break;
        }
    }
    let moved = counters(&stats).into_iter().map(|(name, now)| (name.clone(), now - before.get(&name).unwrap_or(&0)));
    let moved = moved.collect();
    let regs = vcpu.state().unwrap().regs;
    Sight { exits, moved, faults: regs.r14, vector: regs.r12 }
}

fn counters(stats: &Stats) -> BTreeMap<String, u64> {
    stats.read().unwrap().into_iter().map(|stat| (stat.name, stat.value)).collect()
}

/// A machine in front of the trial's code.
fn machine(trial: &Trial) -> (Vm, Vcpu) {
    let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
    let opened = identity_map(PAGE_TABLES).as_flattened().iter().map(|entry| entry | USER).collect::<Vec<_>>();
    write_words(&ram, PAGE_TABLES, &opened);
    let task = Segment { base: TSS, ..Segment::task_state(TASK) };
    write_tables(&ram, &task);
    ram.write(STUB_COMMON, &STUB).unwrap();
    ram.write(SYSCALL_ENTRY, &syscall_entry()).unwrap();
    ram.write(CODE, &program(trial)).unwrap();

    let system = System::open().unwrap();
    let vm = Vm::new(&system, trial.irqchip, ram).unwrap();
    match trial.host {
        Host::FiltersMsr(name) => vm.filter_msrs(&name.parse().unwrap()).unwrap(),
        Host::MapsRom => map_rom(&vm),
        Host::Idle | Host::Kicks | Host::Steps => {}
    }
    let vcpu = vm.create_vcpu(0).unwrap();
    let cpuid = system.supported_cpuid().unwrap();
    vcpu.set_cpuid(&cpuid).unwrap();
    let mut state = CpuState::long_mode(CODE);
    state.cr3 = PAGE_TABLES;
    state.cr4 |= if offers(&cpuid, XSAVE) { CR4_OSXSAVE } else { 0 };
    state.efer |= EFER_SCE;
    state.regs.rsp = STACK_0;
    state.gdt = TableRegister { base: GDT, limit: 8 * 8 - 1 };
    state.idt = TableRegister { base: IDT, limit: 0xfff };
    state.tr = task;
    vcpu.set_state(&state).unwrap();
    vcpu.set_msr(IA32_STAR, u64::from(CODE_0) << 32).unwrap();
    vcpu.set_msr(IA32_LSTAR, SYSCALL_ENTRY).unwrap();
    (vm, vcpu)
}

/// Shows the guest the first page of its RAM a second time, read-only. Hostel has no such memory, so the call is made here.
fn map_rom(vm: &Vm) {
    let region = kvm_userspace_memory_region {
        slot: ROM_SLOT,
        flags: KVM_MEM_READONLY,
        guest_phys_addr: ROM,
        memory_size: PAGE_SIZE,
        userspace_addr: vm.ram().slots()[0].hva,
    };
    let fds = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let is_vm = |path: &PathBuf| fs::read_link(path).is_ok_and(|link| link.as_os_str() == "anon_inode:kvm-vm");
    let fd: i32 = fds.into_iter().find(is_vm).unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
    // SAFETY: the slot is RAM of this machine, the only one of the process, which holds it as long as KVM does.
    let result = unsafe { libc::ioctl(fd, KVM_SET_USER_MEMORY_REGION, &region) };
    assert_eq!(result, 0, "KVM_SET_USER_MEMORY_REGION: {}", std::io::Error::last_os_error());
}

/// GDT, TSS and IDT with its stubs.
fn write_tables(ram: &GuestRam, task: &Segment) {
    let [code_0, data_0] = [Segment::flat_code(CODE_0, true), Segment::flat_data(DATA_0)].map(|s| s.descriptor());
    let [data_3, code_3] = [Segment::flat_data(DATA_3), Segment::flat_code(CODE_3, true)]
        .map(|segment| Segment { dpl: 3, ..segment }.descriptor());
    write_words(ram, GDT, &[0, 0, code_0, data_0, task.descriptor(), 0, data_3, code_3]);
    ram.write(TSS + 4, &STACK_0.to_le_bytes()).unwrap(); // the stack of ring 0
    ram.write(TSS + 0x66, &0x68u16.to_le_bytes()).unwrap(); // no permission map: no port for ring 3
    for vector in 0..=255 {
        let stub_at = STUBS + u64::from(vector) * 16;
        // An interrupt gate that ring 3 may use (Intel SDM vol. 3A §6.14.1).
        let gate = stub_at & 0xffff | u64::from(CODE_0) << 16 | 0xee00 << 32 | (stub_at >> 16 & 0xffff) << 48;
        write_words(ram, IDT + u64::from(vector) * 16, &[gate, 0]);
        ram.write(stub_at, &stub(vector)).unwrap();
    }
}

fn write_words(ram: &GuestRam, gpa: u64, words: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    ram.write(gpa, &bytes).unwrap();
}

/// What a vector's gate leads to: drops the error code, tells the vector.
fn stub(vector: u8) -> [u8; 16] {
    let has_error_code = matches!(vector, 8 | 10..=14 | 17 | 21);
    let mut stub = [0x90; 16];
    if has_error_code {
        stub[..4].copy_from_slice(&[0x48, 0x83, 0xc4, 0x08]); // add rsp, 8
    }
    stub[4..10].copy_from_slice(&[0x41, 0xbb, vector, 0, 0, 0]); // mov r11d, vector
    stub[10] = 0xe9; // jmp STUB_COMMON
    let next = STUBS as i32 + i32::from(vector) * 16 + 15;
    stub[11..15].copy_from_slice(&(STUB_COMMON as i32 - next).to_le_bytes());
    stub
}

/// What all stubs share: goes on behind the trial's code, or tells the end if no repetitions are left.
const STUB: [u8; 19] = [
    0x45, 0x85, 0xff, // test r15d, r15d
    0x74, 12, // jz to the end
    0x41, 0xff, 0xc6, // inc r14d
    0x45, 0x89, 0xdc, // mov r12d, r11d
    0x4c, 0x89, 0x2c, 0x24, // mov [rsp], r13
    0x48, 0xcf, // iretq
    0xe6, PORT_END, // out PORT_END, al
];

/// Goes on in ring 3 behind the trial's code.
fn syscall_entry() -> Vec<u8> {
    let mut code = push_stack_3();
    code.extend([0x41, 0x53]); // push r11: the flags
    code.extend([0x6a, CODE_3 as u8]); // push CODE_3
    code.extend([0x41, 0x55]); // push r13
    code.extend([0x48, 0xcf]); // iretq
    code
}

/// push DATA_3; push STACK_3
fn push_stack_3() -> Vec<u8> {
    [&[0x6a, DATA_3 as u8, 0x68], &(STACK_3 as u32).to_le_bytes()[..]].concat()
}

/// Code that repeats the trial's and tells its begin and end.
fn program(trial: &Trial) -> Vec<u8> {
    let ring_3 = trial.ring == Ring::Three;
    let mut code = vec![0x45, 0x31, 0xe4, 0x45, 0x31, 0xf6]; // xor r12d, r12d; xor r14d, r14d
    code.extend([0x41, 0xbf]); // mov r15d, REPETITIONS
    code.extend(REPETITIONS.to_le_bytes());
    code.extend([0xe6, PORT_BEGIN]); // out PORT_BEGIN, al
    if ring_3 {
        code.extend(push_stack_3());
        code.push(0x9c); // pushfq
        code.extend([0x6a, CODE_3 as u8, 0x68]); // push CODE_3; push the loop's start
        let start = CODE as u32 + code.len() as u32 + 4 + 2;
        code.extend(start.to_le_bytes());
        code.extend([0x48, 0xcf]); // iretq
    }
    let start = code.len();
    code.push(0xbc); // mov esp, the stack
    code.extend((if ring_3 { STACK_3 } else { STACK_0 } as u32).to_le_bytes());
    code.extend([0x41, 0xbd]); // mov r13d, the address behind the trial's code
    let behind = CODE as u32 + (code.len() + 4 + trial.code.len()) as u32;
    code.extend(behind.to_le_bytes());
    code.extend(trial.code);
    code.extend([0x41, 0xff, 0xcf]); // dec r15d
    code.extend([0x0f, 0x85]); // jnz start
    code.extend((start as i32 - (code.len() as i32 + 4)).to_le_bytes());
    // In ring 3 HLT faults, and the stub finds no repetitions left.
    code.extend(if ring_3 { &[0xf4][..] } else { &[0xe6, PORT_END] });
    code
}
