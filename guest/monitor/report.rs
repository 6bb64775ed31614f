//! What the monitor tells of itself: each trap on request, and a table of all of them at the end.

use guest::{print, text::*};

use crate::{machine::cycles_per_ms, vm::Vm};

/// What a trap was, the exception by which it arrives, and what it is called.
macro_rules! kinds {
    ($($kind:ident $by:literal $what:literal,)+) => {
        #[derive(Clone, Copy, PartialEq)]
        pub enum Kind { $($kind),+ }

        const KINDS: usize = [$($by),+].len();
        static NAMES: [(&str, &str); KINDS] = [$(($by, $what)),+];
    };
}

kinds! {
    In "#GP" "IN",
    Out "#GP" "OUT",
    PortString "#GP" "INS, OUTS",
    InterruptFlag "#GP" "CLI, STI",
    Hlt "#GP" "HLT",
    Table "#GP" "LGDT, LIDT, LTR, SGDT, STR, SMSW ...",
    Cache "#GP" "INVLPG, INVD, WBINVD",
    Sysret "#GP" "SYSRET",
    Control "#GP" "MOV to or from CR, CLTS",
    Msr "#GP" "RDMSR, WRMSR",
    Flags "HLT" "PUSHF, POPF, patched",
    Iret "HLT" "IRET, patched",
    Segment "HLT" "segment register moved, patched",
    Inspect "HLT" "LAR, VERR, VERW, patched",
    Far "HLT" "far JMP, patched",
    Indirect "HLT" "indirect JMP, CALL, patched",
    Cpuid "HLT" "CPUID, patched",
    Syscall "call" "SYSCALL",
    Device "#PF" "access where no RAM is, LAPIC",
    Fill "#PF" "shadow page filled",
    Exception "any" "exception passed on to the guest",
    Tick "irq" "the monitor's timer",
    Interrupt "" "(interrupts delivered to the guest)",
}

/// What happened in a guest.
pub struct Counts {
    number: [u64; KINDS],
    cycles: [u64; KINDS],
    /// Times that the processor was given to it.
    pub turns: u64,
}

impl Counts {
    /// Counts a trap and the time stamps between its arrival and the way back.
    pub fn add(&mut self, kind: Kind, cycles: u64) {
        self.number[kind as usize] += 1;
        self.cycles[kind as usize] += cycles;
    }
}

/// Prints a guest's number and name.
pub fn name(vm: &Vm) {
    print!(vm.number, ":", vm.name.unwrap_or_default());
}

/// Tells one trap: where, what, and the bytes of the instruction.
pub fn trap(vm: &mut Vm, rip: u64, kind: Kind) {
    let (by, what) = NAMES[kind as usize];
    name(vm);
    print!("# ring ", u64::from(vm.ring()), " at ", Hex(rip), ": ", by, " ", what);
    if vm.code_length > 0 {
        print!(" [", Bytes(&vm.code[..vm.code_length]), "]");
    }
    print!("\n");
}

/// Prints what a guest's traps were.
pub fn table(vm: &Vm) {
    let Some(end) = vm.end else { return };
    print!("\n");
    name(vm);
    let traps: u64 = vm.counts.number[..Kind::Interrupt as usize].iter().sum();
    print!(": ", end, "; ", traps, " traps in ", vm.alive / cycles_per_ms(), " ms\n");
    print!("   count  microseconds  by    what\n");
    for (index, (by, what)) in NAMES.iter().enumerate().filter(|(index, _)| vm.counts.number[*index] > 0) {
        print!(Column(vm.counts.number[index], 8), Column(vm.counts.cycles[index] * 1000 / cycles_per_ms(), 14));
        print!("  ", Left(by, 6), *what, "\n");
    }
    print!("patched ", vm.scan.patched as u64, " instructions; ", vm.counts.turns, " turns\n");
}
