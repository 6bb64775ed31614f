//! The least that a system call into a VMM can cost on this KVM: SYSCALL, OUT and IRETQ, and nobody who answers.
//!
//! The machine is that of `hostel exec`, with its tables and its stub. What is left out is all that Hostel does between two runs of the
//! vCPU: registers are neither read nor written. The one instruction in ring 3 is the SYSCALL; RSP points to a frame that leads to it
//! again, so the IRETQ behind the stub's OUT needs no host. A KVM that acts the change of rings out leaves SYSCALL in ring 3, where
//! the fetch of the stub faults (`src/process/trap.rs`): the code for page faults is replaced by one that goes on by the same frame.

use anyhow::{Context, Result, bail};
use hostel::arch::cpuid;
use hostel::arch::irqchip::Irqchip;
use hostel::arch::layout::MIB;
use hostel::kvm::exit::{Exit, Reply};
use hostel::kvm::system::System;
use hostel::kvm::vcpu::Vcpu;
use hostel::kvm::vm::Vm;
use hostel::memory::map::MemoryMap;
use hostel::memory::ram::GuestRam;
use hostel::process::frames::Frames;
use hostel::process::stub;
use hostel::process::tables::{Page, Rights, Trees};
use std::sync::Arc;
use std::time::Instant;

/// Memory of the machine.
const RAM: u64 = 4 * MIB;
/// Where the program's page lies.
const USER: u64 = 0x40_0000;
/// Where in it the frame for the IRETQ lies.
const FRAME: u64 = 0x800;
/// syscall.
const PROGRAM: [u8; 2] = [0x0f, 0x05];
/// Offset of the code for page faults in the stub.
const PAGE_FAULT_CODE: u64 = 0x170;
/// out PAGE_FAULT, al; mov rsp, rbx; iretq.
const PAGE_FAULT: [u8; 7] = [0xe6, stub::PAGE_FAULT as u8, 0x48, 0x89, 0xdc, 0x48, 0xcf];
/// IF, and the bit that is always set.
const RFLAGS: u64 = 0x202;

/// A vCPU that does nothing but system calls.
pub struct Bare {
    vcpu: Vcpu,
    _vm: Vm,
}

impl Bare {
    /// Makes the machine.
    pub fn new() -> Result<Bare> {
        let system = System::open()?;
        let map = MemoryMap::new(RAM)?;
        let ram = Arc::new(GuestRam::new(&map)?);
        let frames = Arc::new(Frames::new(ram.clone(), &map));
        let trees = Arc::new(Trees::new(frames.clone()).context("no memory for the tables")?);
        let tables = trees.tables().context("no memory for an address space")?;
        let frame = frames.allocate().context("no memory for the program")?;
        let page = Page { frame, rights: Rights { read: true, write: true, execute: true } };
        anyhow::ensure!(tables.set(USER, page), "no memory for the program's tables");
        ram.write(frame, &PROGRAM)?;
        let words = [USER, stub::USER_CS.into(), RFLAGS, USER + FRAME, stub::USER_DS.into()];
        ram.write(frame + FRAME, words.map(u64::to_le_bytes).as_flattened())?;
        ram.write(trees.kernel_page(0) + PAGE_FAULT_CODE, &PAGE_FAULT)?;
        let vm = Vm::new(&system, Irqchip::None, ram)?;
        let vcpu = vm.create_vcpu(0)?;
        vcpu.set_cpuid(&cpuid::for_vcpu(&system.supported_cpuid()?, 0, 1, Irqchip::None))?;
        for (index, value) in stub::msrs() {
            vcpu.set_msr(index, value)?;
        }
        let mut state = stub::state(0, tables.root(), false);
        (state.regs.rsp, state.regs.rbx) = (USER + FRAME, USER + FRAME);
        vcpu.set_state(&state)?;
        Ok(Bare { vcpu, _vm: vm })
    }

    /// Nanoseconds of one of `count` system calls.
    pub fn time(&mut self, count: u32) -> Result<f64> {
        let start = Instant::now();
        let mut calls = 0;
        while calls < count {
            match self.vcpu.run(Reply::Resume)? {
                Exit::PioWrite { port: stub::SYSCALL | stub::PAGE_FAULT, .. } => calls += 1,
                Exit::Interrupted => {}
                exit => bail!("a bare system call: {exit:?}"),
            }
        }
        Ok(start.elapsed().as_nanos() as f64 / f64::from(count))
    }
}
