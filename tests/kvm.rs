//! KVM's side of the contract, a dozen bytes of machine code at a time: which exits a guest's instruction gives, what a reply
//! does, and when the registers are whole. Read it beside `src/kvm/vcpu.rs`.
//!
//! The code runs in real mode at address 0 of 1 MiB of RAM; what lies above is no RAM. Source: Intel SDM vol. 2.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::kvm;
use hostel::arch::cpu_state::CpuState;
use hostel::arch::irqchip::Irqchip;
use hostel::arch::layout::MIB;
use hostel::kvm::exit::{Exit, Reply};
use hostel::kvm::kick;
use hostel::kvm::system::System;
use hostel::kvm::vcpu::Vcpu;
use hostel::kvm::vm::Vm;
use hostel::memory::map::MemoryMap;
use hostel::memory::ram::GuestRam;
use hostel::vcpu::cpu::Cpu;
use hostel::vcpu::handler::{ExitHandler, StopReason};
use hostel::vcpu::thread::VcpuThread;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

/// Where the tests put data.
const DATA: u64 = 0x2000;
/// HLT.
const HLT: u8 = 0xf4;

/// A machine in front of `code`, in real mode at 0:0x1000.
fn machine(code: &[u8]) -> (Vm, Vcpu) {
    let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
    ram.write(0x1000, code).unwrap();
    ram.write(DATA, b"abc").unwrap();
    let system = System::open().unwrap();
    let vm = Vm::new(&system, Irqchip::None, ram).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    vcpu.set_cpuid(&system.supported_cpuid().unwrap()).unwrap();
    let mut state = CpuState::real_mode(0, 0x1000);
    state.regs.rsp = 0x8000;
    vcpu.set_state(&state).unwrap();
    (vm, vcpu)
}

/// Runs until HLT, answering reads with 1, 2, 3 and so on; returns the exits before it.
fn exits_until_halt(vcpu: &mut Vcpu) -> Vec<Exit> {
    let mut exits = Vec::new();
    let mut reply = Reply::Resume;
    let mut next = 0;
    loop {
        let exit = vcpu.run(reply).unwrap();
        reply = match exit {
            Exit::Halt => return exits,
            Exit::PioRead { .. } | Exit::MmioRead { .. } => {
                next += 1;
                Reply::Value(next)
            }
            _ => Reply::Resume,
        };
        exits.push(exit);
        assert!(exits.len() < 100, "{exits:?}");
    }
}

fn pio_write(port: u16, size: u8, value: u64) -> Exit {
    Exit::PioWrite { port, size, value }
}

#[test]
fn an_out_of_each_size_is_one_exit() {
    if !kvm::available() {
        return;
    }
    // mov eax, 0x12345678; out 0x10, al; out 0x10, ax; out 0x10, eax; hlt
    let code = [0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, 0xe6, 0x10, 0xe7, 0x10, 0x66, 0xe7, 0x10, HLT];
    let (_vm, mut vcpu) = machine(&code);
    let expected = [pio_write(0x10, 1, 0x78), pio_write(0x10, 2, 0x5678), pio_write(0x10, 4, 0x1234_5678)];
    assert_eq!(exits_until_halt(&mut vcpu), expected);
}

#[test]
fn a_string_output_is_an_exit_an_element() {
    if !kvm::available() {
        return;
    }
    // mov dx, 0x3f8; mov si, 0x2000; mov cx, 3; cld; rep outsb; hlt
    let code = [0xba, 0xf8, 0x03, 0xbe, 0x00, 0x20, 0xb9, 0x03, 0x00, 0xfc, 0xf3, 0x6e, HLT];
    let (_vm, mut vcpu) = machine(&code);
    let expected = b"abc".map(|byte| pio_write(0x3f8, 1, byte.into()));
    assert_eq!(exits_until_halt(&mut vcpu), expected);
}

#[test]
fn a_string_input_stores_each_reply() {
    if !kvm::available() {
        return;
    }
    // mov dx, 0x60; mov di, 0x2000; mov cx, 2; cld; rep insw; hlt
    let code = [0xba, 0x60, 0x00, 0xbf, 0x00, 0x20, 0xb9, 0x02, 0x00, 0xfc, 0xf3, 0x6d, HLT];
    let (vm, mut vcpu) = machine(&code);
    assert_eq!(exits_until_halt(&mut vcpu), [Exit::PioRead { port: 0x60, size: 2 }; 2]);
    let mut stored = [0; 4];
    vm.ram().read(DATA, &mut stored).unwrap();
    assert_eq!(stored, [1, 0, 2, 0]);
}

#[test]
fn an_access_without_ram_is_mmio_and_may_come_in_parts() {
    if !kvm::available() {
        return;
    }
    // mov ax, 0xffff; mov ds, ax; mov byte [0x20], 7; mov dword [0x100e], 0x44332211; hlt
    let code = [
        0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xc6, 0x06, 0x20, 0x00, 0x07, 0x66, 0xc7, 0x06, 0x0e, 0x10, 0x11, 0x22, 0x33,
        0x44, HLT,
    ];
    let (_vm, mut vcpu) = machine(&code);
    let write = |addr, size, value| Exit::MmioWrite { addr, size, value };
    // 0xffff0 + 0x100e is two bytes below a page's end: the second page has its own exit.
    let expected = [write(0x10_0010, 1, 7), write(0x10_0ffe, 2, 0x2211), write(0x10_1000, 2, 0x4433)];
    assert_eq!(exits_until_halt(&mut vcpu), expected);
}

#[test]
fn a_completed_read_is_in_the_registers_before_the_next_instruction() {
    if !kvm::available() {
        return;
    }
    // in al, 0x60; hlt
    let (_vm, mut vcpu) = machine(&[0xe4, 0x60, HLT]);
    assert_eq!(vcpu.run(Reply::Resume).unwrap(), Exit::PioRead { port: 0x60, size: 1 });
    assert_eq!(vcpu.complete(Reply::Value(0x42)).unwrap(), None);
    let state = vcpu.state().unwrap();
    assert_eq!((state.regs.rax & 0xff, state.regs.rip), (0x42, 0x1002));
    assert_eq!(vcpu.run(Reply::Resume).unwrap(), Exit::Interrupted, "the flag of the completion");
    assert_eq!(vcpu.run(Reply::Resume).unwrap(), Exit::Halt);
}

#[test]
fn a_completion_hands_out_the_other_elements() {
    if !kvm::available() {
        return;
    }
    // mov dx, 0x3f8; mov si, 0x2000; mov cx, 2; cld; rep outsb; hlt
    let code = [0xba, 0xf8, 0x03, 0xbe, 0x00, 0x20, 0xb9, 0x02, 0x00, 0xfc, 0xf3, 0x6e, HLT];
    let (_vm, mut vcpu) = machine(&code);
    let mut exit = Some(vcpu.run(Reply::Resume).unwrap());
    let mut written = Vec::new();
    // KVM may stop between the elements of one instruction: the rest comes with the next entries.
    while let Some(Exit::PioWrite { value, .. }) = exit {
        written.push(value as u8);
        exit = vcpu.complete(Reply::Resume).unwrap();
        while exit.is_none() && written.len() < 2 {
            exit = Some(vcpu.run(Reply::Resume).unwrap()).filter(|exit| *exit != Exit::Interrupted);
        }
    }
    assert_eq!((exit, written.as_slice()), (None, &b"ab"[..]));
}

#[test]
fn a_refused_msr_is_a_general_protection_fault() {
    if !kvm::available() {
        return;
    }
    // mov ecx, 0x12345678; rdmsr; (0x1008:) hlt; the handler at 0x1010: mov al, 0xaa; hlt
    let mut code = vec![0x66, 0xb9, 0x78, 0x56, 0x34, 0x12, 0x0f, 0x32, HLT];
    code.resize(0x10, 0x90);
    code.extend([0xb0, 0xaa, HLT]);
    let (vm, mut vcpu) = machine(&code);
    vm.ram().write(13 * 4, &[0x10, 0x10, 0, 0]).unwrap();
    assert_eq!(vcpu.run(Reply::Resume).unwrap(), Exit::MsrRead { index: 0x1234_5678, filtered: false });
    assert_eq!(vcpu.run(Reply::Fault).unwrap(), Exit::Halt);
    assert_eq!(vcpu.state().unwrap().regs.rax & 0xff, 0xaa, "the handler of #GP ran");
}

/// wrmsr; rdmsr; hlt, with the register's number in ECX and what is written in EAX.
fn write_and_read_msr(index: u32, value: u32) -> Vec<u8> {
    let [mov_ecx, mov_eax] = [(0xb9, index), (0xb8, value)].map(|(opcode, operand)| {
        let [a, b, c, d] = operand.to_le_bytes();
        [0x66, opcode, a, b, c, d]
    });
    // xor edx, edx
    [&mov_ecx[..], &mov_eax, &[0x66, 0x31, 0xd2, 0x0f, 0x30, 0x66, 0x31, 0xc0, 0x0f, 0x32, HLT]].concat()
}

#[test]
fn a_filtered_msr_exits_and_kvm_still_has_its_value() {
    if !kvm::available() {
        return;
    }
    const SYSENTER_EIP: u32 = 0x176;
    let code = write_and_read_msr(SYSENTER_EIP, 0x1234);
    for filter in ["SYSENTER_EIP", "0x100-0x200,0xc0000080", "all"] {
        let (vm, mut vcpu) = machine(&code);
        if let Err(error) = vm.filter_msrs(&filter.parse().unwrap()) {
            return kvm::skip(&format!("no MSR filter: {error}"));
        }
        let write = Exit::MsrWrite { index: SYSENTER_EIP, filtered: true, value: 0x1234 };
        assert_eq!(vcpu.run(Reply::Resume).unwrap(), write);
        vcpu.set_msr(SYSENTER_EIP, 0x1234).unwrap();
        assert_eq!(vcpu.run(Reply::Resume).unwrap(), Exit::MsrRead { index: SYSENTER_EIP, filtered: true });
        let value = vcpu.msr(SYSENTER_EIP).unwrap();
        assert_eq!(vcpu.run(Reply::Value(value)).unwrap(), Exit::Halt);
        assert_eq!(vcpu.state().unwrap().regs.rax, 0x1234);
        assert!(vcpu.msr(0x1234_5678).is_err(), "KVM knows no such register");
    }
    let (vm, mut vcpu) = machine(&code);
    vm.filter_msrs(&"0x174-0x175,0x177".parse().unwrap()).unwrap();
    assert_eq!(exits_until_halt(&mut vcpu), [], "its neighbours are filtered, it is not");
}

#[test]
fn a_fault_without_handlers_is_a_shutdown() {
    if !kvm::available() {
        return;
    }
    // ud2 in protected mode, with an interrupt table of no length
    let (_vm, mut vcpu) = machine(&[0x0f, 0x0b]);
    vcpu.set_state(&CpuState::protected_mode(0x1000)).unwrap();
    assert_eq!(vcpu.run(Reply::Resume).unwrap(), Exit::Shutdown);
}

#[test]
fn kvm_counts_what_it_does_and_the_vcpu_what_it_returns() {
    if !kvm::available() {
        return;
    }
    // out 0x10, al; out 0x10, al; hlt
    let (vm, mut vcpu) = machine(&[0xe6, 0x10, 0xe6, 0x10, HLT]);
    let (Some(of_vcpu), Some(of_vm)) = (vcpu.stats(), vm.stats()) else {
        return kvm::skip("this KVM has no KVM_GET_STATS_FD");
    };
    let exits = || of_vcpu.read().unwrap().iter().find(|stat| stat.name == "exits").map(|exits| exits.value);
    assert_eq!((exits(), vcpu.returns().load(Ordering::Relaxed)), (Some(0), 0));
    exits_until_halt(&mut vcpu);
    assert_eq!(vcpu.returns().load(Ordering::Relaxed), 3);
    assert!(exits() >= Some(3), "{:#?}", of_vcpu.read());
    assert_ne!(of_vm.read().unwrap(), []);
}

/// Answers nothing: its guest does not exit.
struct Nothing;

impl ExitHandler for Nothing {
    fn handle(&mut self, _exit: Exit, _cpu: &mut dyn Cpu) -> ControlFlow<StopReason, Reply> {
        ControlFlow::Continue(Reply::Resume)
    }
}

#[test]
fn a_guest_that_never_exits_does_tasks_and_stops() {
    if !kvm::available() {
        return;
    }
    kick::install_handler().unwrap();
    // jmp $
    let (_vm, vcpu) = machine(&[0xeb, 0xfe]);
    let (ends, ended) = channel();
    let thread = VcpuThread {
        cpu: Box::new(vcpu),
        handler: Box::new(Nothing),
        observer: None,
        entering: Box::new(|| {}),
        ended: Box::new(move |result, _| ends.send(result.unwrap()).unwrap()),
    };
    let handle = thread.spawn().unwrap();
    handle.resume();
    for _ in 0..5 {
        let (rips, rip) = channel();
        handle.send(Box::new(move |cpu| rips.send(cpu.state().unwrap().regs.rip).unwrap()));
        assert_eq!(rip.recv(), Ok(0x1000));
    }
    handle.pause();
    handle.resume();
    handle.stop();
    assert_eq!(ended.recv(), Ok(StopReason::Told));
    handle.wait();
}
