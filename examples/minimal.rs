//! The smallest virtual machine monitor that boots a kernel: chapter one of the reading guide.
//!
//! ```sh
//! cargo run --example minimal
//! ```
//!
//! It uses the five crates of rust-vmm that Hostel stands on and nothing of Hostel, so that all the parts of a hosted
//! virtual machine monitor fit on four pages:
//!
//! | crate | here |
//! |---|---|
//! | `kvm-ioctls` | system calls on `/dev/kvm`: create the machine and its processor, run it |
//! | `kvm-bindings` | the structures that those calls take: registers, segments, memory slots |
//! | `vm-memory` | the guest's RAM: host memory under guest-physical addresses |
//! | `linux-loader` | reads the guest's ELF file into that RAM, writes the boot information |
//! | `vmm-sys-util` | the signal that gets a running processor out of the guest |
//!
//! The guest is `guest/bin/hello.rs`, which the build script has compiled. What it prints goes to stdout; each *exit*, the
//! return from the guest to us because it did something that only we can do, goes to stderr.
//!
//! What it leaves out: interrupts, further processors, every device but half a serial port and a power switch.
//! Sources: KVM API (Linux `Documentation/virt/kvm/api.rst`); Xen `pvh.pandoc`; Intel SDM vol. 3A ch. 3; PC16550D §8.

use std::error::Error;
use std::ffi::c_int;
use std::io::{self, Cursor, ErrorKind, Write, stdout};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{process, thread};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use linux_loader::configurator::{BootConfigurator, BootParams, pvh::PvhBootConfigurator};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_start_info};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// Whatever went wrong; it may come from the other thread.
type Failure = Box<dyn Error + Send + Sync>;

/// The kernel to boot: an ELF file with a PVH note.
const HELLO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello"));
const RAM_BYTES: usize = 16 << 20;
const DEADLINE: Duration = Duration::from_secs(10);

/// Where the boot information goes: low RAM that the kernel, linked at 1 MiB, does not cover.
const START_INFO: GuestAddress = GuestAddress(0x6000);
const MEMORY_MAP: GuestAddress = GuestAddress(0x7000);
/// Three pages that KVM needs on old Intel processors, away from RAM (KVM API KVM_SET_TSS_ADDR).
const KVM_TSS: usize = 0xfffb_d000;

/// The ports of the devices that this machine has; a machine is what answers its accesses.
const SERIAL_DATA: u16 = 0x3f8;
const SERIAL_LINE_STATUS: u16 = 0x3fd;
const POWER: u16 = 0x600;
/// Line status: the transmitter is empty, holding register and all (PC16550D §8.5).
const TRANSMITTER_EMPTY: u8 = 0x60;
/// SLP_EN with SLP_TYP 5: the value that turns the machine off (ACPI 6.5 §4.8.3.7).
const POWER_OFF: u8 = 0x34;

fn main() {
    let how = boot().unwrap_or_else(|error| {
        eprintln!("minimal: {error}");
        process::exit(1)
    });
    eprintln!("the guest {how}");
}

/// From nothing to a machine that has run; says how the guest ended.
fn boot() -> Result<&'static str, Failure> {
    // 1. A machine: at first a memory map without memory and without processors.
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    vm.set_tss_address(KVM_TSS)?;

    // 2. RAM, with the kernel in it.
    let ram = plug_ram(&vm)?;
    let entry = load_kernel(&ram)?;

    // 3. A processor, in the state that the boot protocol promises to the kernel.
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    set_pvh_entry_state(&vcpu, entry)?;

    // 4. The processor gets a thread: as long as the guest runs, the thread is inside KVM_RUN.
    register_signal_handler(SIGRTMIN(), interrupt_kvm_run)?;
    let (sender, ended) = mpsc::channel();
    let thread = thread::spawn(move || sender.send(run(&mut vcpu)).expect("boot waits for this message"));

    // 5. This thread waits. A guest that does not end is kicked out of KVM_RUN by a signal; one that arrives just before
    //    the thread enters KVM_RUN is lost, therefore again and again.
    let mut outcome = ended.recv_timeout(DEADLINE);
    while matches!(outcome, Err(RecvTimeoutError::Timeout)) {
        thread.kill(SIGRTMIN())?;
        outcome = ended.recv_timeout(Duration::from_millis(10));
    }
    thread.join().expect("it has sent its message");
    outcome?
}

/// Does nothing: that a handler exists makes the signal end KVM_RUN with EINTR instead of ending the process.
extern "C" fn interrupt_kvm_run<Info, Context>(_signal: c_int, _: *mut Info, _: *mut Context) {}

/// Maps host memory and tells KVM that it is the guest's from address 0 up.
fn plug_ram(vm: &VmFd) -> Result<GuestMemoryMmap, Failure> {
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES)])?;
    let slot = kvm_userspace_memory_region {
        slot: 0,
        guest_phys_addr: 0,
        memory_size: RAM_BYTES as u64,
        userspace_addr: ram.get_host_address(GuestAddress(0))? as u64,
        flags: 0,
    };
    // SAFETY: the mapping outlives the guest: `boot` keeps `ram` until the vCPU thread has been joined.
    unsafe { vm.set_user_memory_region(slot)? };
    Ok(ram)
}

/// Copies the kernel's segments into RAM and writes what PVH hands over; returns the address to enter.
fn load_kernel(ram: &GuestMemoryMmap) -> Result<GuestAddress, Failure> {
    let kernel = Elf::load(ram, None, &mut Cursor::new(HELLO), None)?;
    let PvhBootCapability::PvhEntryPresent(entry) = kernel.pvh_boot_cap else {
        return Err("the kernel has no PVH note".into());
    };

    let memory_map = [hvm_memmap_table_entry { addr: 0, size: RAM_BYTES as u64, type_: 1, reserved: 0 }]; // 1: RAM
    let start_info = hvm_start_info {
        magic: 0x336e_c578, // "xEn3"
        version: 1,         // the first that has a memory map
        memmap_paddr: MEMORY_MAP.0,
        memmap_entries: memory_map.len() as u32,
        ..Default::default()
    };
    let mut boot = BootParams::new(&start_info, START_INFO);
    boot.set_sections(&memory_map, MEMORY_MAP);
    PvhBootConfigurator::write_bootparams(&boot, ram)?;
    Ok(entry)
}

/// 32-bit protected mode without paging, flat segments, EBX = `hvm_start_info` (Xen pvh.pandoc).
fn set_pvh_entry_state(vcpu: &VcpuFd, entry: GuestAddress) -> Result<(), kvm_ioctls::Error> {
    let data = kvm_segment {
        limit: 0xffff_ffff,
        selector: 0x10,
        type_: 3, // data: writable, accessed (Intel SDM vol. 3A §3.4.5.1)
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    };
    let code = kvm_segment { selector: 0x08, type_: 11, ..data }; // code: readable, accessed

    let mut system = vcpu.get_sregs()?; // what is not named below stays as after reset
    (system.cs, system.ds, system.es, system.ss) = (code, data, data, data);
    system.cr0 = 0x11; // PE, protected mode; ET, always one
    vcpu.set_sregs(&system)?;

    // Bit 1 of the flags is always one; bit 9 is not, so interrupts are off.
    vcpu.set_regs(&kvm_regs { rip: entry.0, rbx: START_INFO.0, rflags: 1 << 1, ..Default::default() })
}

/// Runs the guest, answering its exits, until it ends; says how.
///
/// This loop is the whole of hosted virtualization: KVM runs the guest on the processor itself, and what the guest cannot
/// do there comes back as a value to be acted upon.
fn run(vcpu: &mut VcpuFd) -> Result<&'static str, Failure> {
    for count in 1.. {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                eprintln!("exit {count}: OUT to port {port:#x}, bytes {data:02x?}");
                match (port, data) {
                    (SERIAL_DATA, bytes) => stdout().write_all(bytes)?,
                    (POWER, [POWER_OFF]) => return Ok("powered off"),
                    _ => {} // nobody there: the write goes nowhere, as on a real bus
                }
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                // Answered by filling `data`; KVM gives it to the guest's register at the next run.
                data.fill(if port == SERIAL_LINE_STATUS { TRANSMITTER_EMPTY } else { 0xff });
                eprintln!("exit {count}: IN from port {port:#x}, answered {data:02x?}");
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                data.fill(0xff); // what an empty bus reads as
                eprintln!("exit {count}: read from {address:#x}, answered {data:02x?}");
            }
            Ok(VcpuExit::MmioWrite(address, _)) => eprintln!("exit {count}: write to {address:#x}, ignored"),
            Ok(VcpuExit::Hlt) => return Ok("halted, and nothing could wake it"),
            Ok(other) => return Err(format!("exit {count}: {other:?}: the guest cannot go on").into()),
            Err(error) if io::Error::from(error).kind() == ErrorKind::Interrupted => {
                return Err("the deadline has passed".into());
            }
            Err(error) => return Err(format!("KVM_RUN failed: {error}").into()),
        }
    }
    unreachable!("the loop has no end but those above")
}
