//! trespass kernel|process|code|port: touches what is not its own, and is ended for it.
//!
//! `kernel` reads the kernel's first page, `process` what another process has at the same address, `code` writes its own code, which
//! it shares with all others that run the program, `port` powers the machine off by hand. None of them gets to its last line.
//! Source: Intel SDM vol. 3A §4.6 (access rights), vol. 1 §19.5.1 (ports).

#![no_std]
#![no_main]

use core::arch::asm;
use core::hint::black_box;

use process::abi::END_FAULT;
use process::{call, print};

process::program!(main);

/// Where the kernel lies.
const KERNEL: u64 = 0x10_0000;
/// The switch that powers off (`guest/lib/power.rs`).
const SLEEP_CONTROL: u16 = 0x600;
const SOFT_OFF: u8 = 1 << 5 | 5 << 2;

fn main(arguments: &[u8]) -> u64 {
    match arguments {
        b"kernel" => print!("read {:#x} from the kernel\n", read(KERNEL)),
        b"process" => return between_processes(),
        b"secret" => hold_a_secret(),
        b"peek" => print!("another process has {:#x}\n", read(secret_place())),
        b"code" => {
            let place = main as *const () as *mut u8;
            // SAFETY: none: it is this that must fail.
            unsafe { place.write_volatile(0) };
            print!("wrote over its own code\n");
        }
        b"port" => {
            // SAFETY: none, as above.
            unsafe { asm!("out dx, al", in("dx") SLEEP_CONTROL, in("al") SOFT_OFF) };
            print!("the machine is still on\n");
        }
        _ => {
            print!("usage: trespass kernel|process|code|port\n");
            return 2;
        }
    }
    1
}

/// Reads eight bytes that may not be ours.
fn read(address: u64) -> u64 {
    // SAFETY: none: the kernel sees to it.
    unsafe { black_box(address as *const u64).read_volatile() }
}

/// Where the first pages that a process asks for lie: the same address in every process.
fn secret_place() -> u64 {
    const PLACE: u64 = process::abi::USER_BASE + (4 << 30);
    PLACE
}

/// Has memory with something in it, and goes on for a while.
fn hold_a_secret() {
    let Ok(place) = call::map(8) else { return };
    // SAFETY: memory that was just given.
    unsafe { place.cast::<u64>().write_volatile(0x5ec2e7) };
    print!("a process has {:#x} at {:#x}\n", read(place as u64), place as u64);
    call::sleep_ns(300_000_000);
    print!("and still has {:#x} there\n", read(place as u64));
    call::exit(0)
}

/// Starts one process with a secret and another that looks for it; both are right if the second is ended and the first goes on.
fn between_processes() -> u64 {
    let Ok(holder) = call::spawn(b"trespass", b"secret") else { return 1 };
    call::sleep_ns(100_000_000);
    let Ok(reader) = call::spawn(b"trespass", b"peek") else { return 1 };
    let ends = (call::wait(reader), call::wait(holder));
    match ends {
        (Ok((_, reader)), Ok((_, holder))) if reader.kind == END_FAULT && holder.kind == 0 && holder.value == 0 => 0,
        _ => 1,
    }
}
