//! gdb's `monitor` commands: what gdb itself has no word for.

use super::memory::Space;
use super::target::Machine;
use crate::arch::{msr, paging};
use std::fmt::Write;

/// Bytes that `xp` shows at most.
const SHOWN_MAX: usize = 4096;
/// Bytes in a line of it.
const LINE: usize = 16;

const HELP: &str = "\
help             this list
regs             this vCPU's registers, flags by name
walk ADDRESS     the page tables on the way to a linear address
msr NUMBER       a model-specific register of this vCPU
xp ADDRESS N     N bytes of guest-physical memory
physical on|off  gdb's addresses are guest-physical ones
abilities        what of debugging this KVM does
";

/// Does what the line says and returns the answer.
pub fn obey(line: &str, machine: &mut Machine) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let answer = match *words.as_slice() {
        [] | ["help"] => Some(HELP.to_owned()),
        ["regs"] => Some(machine.describe_registers()),
        ["walk", address] => number(address).map(|address| walk(address, machine)),
        ["msr", index] => number(index).and_then(|index| u32::try_from(index).ok()).map(|index| msr(index, machine)),
        ["xp", address, count] => number(address).zip(number(count)).map(|(at, count)| dump(at, count, machine)),
        ["physical", "on"] => Some(switch(true, machine)),
        ["physical", "off"] => Some(switch(false, machine)),
        ["abilities"] => Some(abilities(machine)),
        _ => None,
    };
    answer.unwrap_or_else(|| format!("not understood: {line}\n{HELP}"))
}

/// A number, with 0x in hexadecimal.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn switch(physical: bool, machine: &mut Machine) -> String {
    machine.physical = physical;
    let space = if physical { "guest-physical" } else { "linear" };
    format!("addresses are {space} ones\n")
}

fn walk(address: u64, machine: &mut Machine) -> String {
    let Some(state) = machine.control.state(machine.current()) else { return "no registers\n".to_owned() };
    let ram = &machine.control.desk.ram;
    let walk = paging::walk(&state, address, &mut |gpa| ram.read_u64(gpa));
    let mut text = String::new();
    for step in &walk.steps {
        let entry = step.entry.map_or("not in RAM".to_owned(), |entry| format!("{entry:#018x}"));
        let _ = writeln!(text, "{:5} at {:#x}: {entry}", step.table, step.entry_gpa);
    }
    let _ = match walk.gpa {
        Some(gpa) => writeln!(text, "{address:#x} is at guest-physical {gpa:#x}"),
        None => writeln!(text, "{address:#x} is not mapped"),
    };
    text
}

fn msr(index: u32, machine: &Machine) -> String {
    let name = msr::name(index).map(|name| format!(" ({name})")).unwrap_or_default();
    match machine.control.ask(machine.current(), move |cpu| cpu.msr(index).ok()).flatten() {
        Some(value) => format!("{index:#x}{name} = {value:#x}\n"),
        None => format!("KVM does not tell {index:#x}{name}\n"),
    }
}

fn dump(address: u64, count: u64, machine: &mut Machine) -> String {
    let mut bytes = vec![0; usize::try_from(count).unwrap_or(SHOWN_MAX).min(SHOWN_MAX)];
    let desk = &machine.control.desk;
    let read = Space::Physical.read(address, &mut bytes, &desk.ram, &desk.rules().breakpoints);
    let mut text = String::new();
    for (index, line) in bytes[..read].chunks(LINE).enumerate() {
        let hex: String = line.iter().map(|byte| format!(" {byte:02x}")).collect();
        let _ = writeln!(text, "{:#x}:{hex}", address + (index * LINE) as u64);
    }
    if read < bytes.len() {
        let _ = writeln!(text, "no RAM at {:#x}", address.wrapping_add(read as u64));
    }
    text
}

fn abilities(machine: &Machine) -> String {
    let abilities = machine.control.desk.abilities;
    let rows = [
        ("single step", abilities.step),
        ("... with interrupts held back", abilities.step_without_interrupts),
        ("INT3 as a breakpoint", abilities.int3),
        ("... in real mode", abilities.int3_in_real_mode),
        ("hardware breakpoints", abilities.hardware_breakpoints),
        ("watchpoints", abilities.watchpoints),
    ];
    rows.iter().map(|(name, able)| format!("{name:36} {}\n", if *able { "yes" } else { "no" })).collect()
}
