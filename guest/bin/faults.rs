//! faults: runs into five exceptions and returns from each.
//!
//! The processor finds the handler in the IDT, the handler sends the program past the instruction that faulted
//! (`guest/lib/fault.rs`). None of this leaves the guest, but for one: an MSR that KVM does not know goes to Hostel, which
//! names it on stderr and answers with #GP. Powers off; exits with 1 (status 3) when an exception did not come.

#![no_std]
#![no_main]

use guest::fault::Fault;
use guest::{attempt, fault, interrupt, power, print};

/// A model-specific register that no processor has.
const UNKNOWN_MSR: u32 = 0x1234_5678;
/// An address beyond the first GiB, which is all that is mapped.
const UNMAPPED: u64 = 0x40_0000_1000;
/// Bits 47 to 63 differ: not an address in 4-level paging.
const NOT_CANONICAL: u64 = 0x8000_0000_0000_0000;

#[unsafe(no_mangle)]
extern "C" fn guest_main(_boot_information: u64) -> ! {
    interrupt::init();
    fault::init();

    let mut as_expected = true;
    let mut check = |what: &str, fault: Option<Fault>, vector: u8| {
        print!(what, ": ");
        match &fault {
            Some(fault) => fault.print(),
            None => print!("no exception\n"),
        }
        as_expected &= fault.is_some_and(|fault| fault.vector == vector);
    };
    let fault = attempt!("div ecx"; in("ecx") 0, inout("eax") 1 => _, inout("edx") 0 => _);
    check("division by zero", fault, interrupt::DIVIDE_ERROR);
    let fault = attempt!("ud2");
    check("an instruction that does not exist", fault, interrupt::INVALID_OPCODE);
    let fault = attempt!("mov rax, [rax]"; inout("rax") NOT_CANONICAL => _);
    check("an address that is none", fault, interrupt::GENERAL_PROTECTION);
    let fault = attempt!("mov rax, [rax]"; inout("rax") UNMAPPED => _);
    check("a page that is not mapped", fault, interrupt::PAGE_FAULT);
    let fault = attempt!("rdmsr"; in("ecx") UNKNOWN_MSR, out("eax") _, out("edx") _);
    check("reading an MSR that is not there", fault, interrupt::GENERAL_PROTECTION);
    let fault = attempt!("wrmsr"; in("ecx") UNKNOWN_MSR, in("eax") 0, in("edx") 0);
    check("writing it", fault, interrupt::GENERAL_PROTECTION);

    if as_expected { power::off() } else { power::exit(1) }
}
