//! What the monitor tells of itself: each trap on request, and a table of all of them at the end.

use guest::interrupt::Frame;
use guest::text::{Hex, Show};
use guest::{print, serial};

use crate::machine::cycles_per_ms;
use crate::vm::Vm;

/// What a trap was.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub enum Kind {
    In,
    Out,
    PortString,
    Cli,
    Sti,
    Hlt,
    Pushf,
    Popf,
    Iret,
    Far,
    Indirect,
    Int,
    Syscall,
    Sysret,
    Segment,
    Table,
    Inspect,
    Invlpg,
    Swapgs,
    Control,
    Debug,
    Msr,
    Cpuid,
    Cache,
    Device,
    Fill,
    Exception,
    Tick,
    Interrupt,
}

const KINDS: usize = Kind::Interrupt as usize + 1;

/// The exception by which each kind arrives, and what it is.
static NAMES: [(&str, &str); KINDS] = [
    ("#GP", "IN"),
    ("#GP", "OUT"),
    ("#GP", "INS, OUTS"),
    ("#GP", "CLI"),
    ("#GP", "STI"),
    ("#GP", "HLT"),
    ("HLT", "PUSHF, patched"),
    ("HLT", "POPF, patched"),
    ("HLT", "IRET, patched"),
    ("HLT", "far RET, JMP, CALL"),
    ("HLT", "indirect JMP, CALL, patched"),
    ("HLT", "INT n, INT3"),
    ("call", "SYSCALL"),
    ("#GP", "SYSRET"),
    ("HLT", "segment register moved, patched"),
    ("#GP", "LGDT, LIDT, LTR, SGDT, STR, SMSW ..."),
    ("HLT", "LAR, LSL, VERR, VERW, patched"),
    ("#GP", "INVLPG"),
    ("#GP", "SWAPGS"),
    ("#GP", "MOV to or from CR"),
    ("#GP", "MOV to or from DR"),
    ("#GP", "RDMSR, WRMSR"),
    ("HLT", "CPUID, patched"),
    ("#GP", "INVD, WBINVD"),
    ("#PF", "access where no RAM is, LAPIC"),
    ("#PF", "shadow page filled"),
    ("any", "exception passed on to the guest"),
    ("irq", "the monitor's timer"),
    ("", "(interrupts delivered to the guest)"),
];

/// Most traps that are told one by one.
const TOLD: u64 = 1000;

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
    pub const fn new() -> Counts {
        Counts { number: [0; KINDS], cycles: [0; KINDS], told: 0, scanned: 0, flushes: 0, fills: 0, turns: 0 }
    }

    /// Counts a trap and the time stamps between its arrival and the way back.
    pub fn add(&mut self, kind: Kind, cycles: u64) {
        self.number[kind as usize] += 1;
        self.cycles[kind as usize] += cycles;
    }

    /// All traps.
    fn total(&self) -> u64 {
        self.number[..Kind::Interrupt as usize].iter().sum()
    }
}

/// Prints a guest's number and name.
pub fn name(vm: &Vm) {
    print!(vm.number, ":", vm.name.unwrap_or_default());
}

/// Tells one trap: where, what, and the bytes of the instruction.
pub fn trap(vm: &mut Vm, rip: u64, kind: Kind, frame: &Frame) {
    if vm.counts.told == TOLD {
        return;
    }
    vm.counts.told += 1;
    name(vm);
    let (by, what) = NAMES[kind as usize];
    print!("# ring ", u64::from(vm.ring()), " at ", Hex(rip), ": ", by, " ", what);
    if kind == Kind::Exception {
        print!(" ", frame.vector);
    }
    if vm.code_length > 0 && !matches!(kind, Kind::Fill | Kind::Syscall) {
        print!(" [");
        for (index, byte) in vm.code.iter().take(vm.code_length).enumerate() {
            print!(if index > 0 { " " } else { "" });
            digits(*byte);
        }
        print!("]");
    }
    print!(if vm.counts.told == TOLD { "; further traps are only counted\n" } else { "\n" });
}

/// Two hexadecimal digits.
fn digits(byte: u8) {
    for digit in [byte >> 4, byte & 15] {
        serial::write(&[if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }]);
    }
}

/// Prints a number at the end of `width` columns.
fn column(number: u64, width: u32) {
    let digits = number.checked_ilog10().unwrap_or(0) + 1;
    for _ in digits..width {
        print!(" ");
    }
    number.show();
}

/// Prints what a guest's traps were.
pub fn table(vm: &Vm, alive: u64) {
    print!("\n");
    name(vm);
    print!(": ", vm.end.unwrap_or_default(), "; ", vm.counts.total(), " traps in ", alive / cycles_per_ms(), " ms\n");
    print!("   count  microseconds  by    what\n");
    for (index, (by, what)) in NAMES.iter().enumerate() {
        let number = vm.counts.number[index];
        if number == 0 {
            continue;
        }
        column(number, 8);
        column(vm.counts.cycles[index] * 1000 / cycles_per_ms(), 14);
        print!("  ", *by);
        for _ in by.len()..6 {
            print!(" ");
        }
        print!(*what, "\n");
    }
    print!("scanned ", vm.counts.scanned, " instructions, patched ", vm.scan.patched(), "; shadow emptied ");
    print!(vm.counts.flushes, " times, given ", vm.counts.fills, " pages; ", vm.counts.turns, " turns\n");
}
