//! What the monitor tells of itself: each trap on request, and a table of all of them at the end.

use guest::text::{Hex, Show};
use guest::{print, serial};

use crate::machine::cycles_per_ms;
use crate::vm::Vm;

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
    Cli "#GP" "CLI",
    Sti "#GP" "STI",
    Hlt "#GP" "HLT",
    Table "#GP" "LGDT, LIDT, LTR, SGDT, STR, SMSW ...",
    Invlpg "#GP" "INVLPG",
    Swapgs "#GP" "SWAPGS",
    Sysret "#GP" "SYSRET",
    Control "#GP" "MOV to or from CR, CLTS",
    Msr "#GP" "RDMSR, WRMSR",
    Cache "#GP" "INVD, WBINVD",
    Pushf "HLT" "PUSHF, patched",
    Popf "HLT" "POPF, patched",
    Iret "HLT" "IRET, patched",
    Int "HLT" "INT n, INT3, patched",
    Segment "HLT" "segment register moved, patched",
    Inspect "HLT" "LAR, LSL, VERR, VERW, patched",
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

/// Most traps that are told one by one.
const TOLD: u64 = 300;

/// What happened in a guest.
pub struct Counts {
    number: [u64; KINDS],
    cycles: [u64; KINDS],
    /// Those that were told one by one.
    told: u64,
    /// Instructions that were looked at before they ran.
    pub scanned: u64,
    /// Times that a shadow was emptied, and pages that it was given.
    pub flushes: u64,
    pub fills: u64,
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
    if kind == Kind::Tick || vm.counts.told == TOLD {
        return;
    }
    vm.counts.told += 1;
    let (by, what) = NAMES[kind as usize];
    name(vm);
    print!("# ring ", u64::from(vm.ring()), " at ", Hex(rip), ": ", by, " ", what);
    if vm.code_length > 0 {
        print!(" [");
        for (index, byte) in vm.code.iter().take(vm.code_length).enumerate() {
            print!(if index > 0 { " " } else { "" });
            for digit in [byte >> 4, byte & 15] {
                serial::write(&[if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }]);
            }
        }
        print!("]");
    }
    print!(if vm.counts.told == TOLD { "; further traps are only counted\n" } else { "\n" });
}

/// Prints a number at the end of `width` columns.
fn column(number: u64, width: u32) {
    for _ in number.checked_ilog10().unwrap_or(0) + 1..width {
        print!(" ");
    }
    number.show();
}

/// Prints what a guest's traps were.
pub fn table(vm: &Vm, alive: u64) {
    print!("\n");
    name(vm);
    let traps: u64 = vm.counts.number[..Kind::Interrupt as usize].iter().sum();
    print!(": ", vm.end.unwrap_or_default(), "; ", traps, " traps in ", alive / cycles_per_ms(), " ms\n");
    print!("   count  microseconds  by    what\n");
    for (index, (by, what)) in NAMES.iter().enumerate().filter(|(index, _)| vm.counts.number[*index] > 0) {
        column(vm.counts.number[index], 8);
        column(vm.counts.cycles[index] * 1000 / cycles_per_ms(), 14);
        print!("  ", *by);
        for _ in by.len()..6 {
            print!(" ");
        }
        print!(*what, "\n");
    }
    print!("scanned ", vm.counts.scanned, " instructions, patched ", vm.scan.patched as u64, "; shadow emptied ");
    print!(vm.counts.flushes, " times, given ", vm.counts.fills, " pages; ", vm.counts.turns, " turns\n");
}
