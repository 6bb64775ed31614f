//! shell: a tiny kernel with a prompt, booted where no image is named.
//!
//! It reads lines from the serial port and obeys; `help` lists the commands. Words on its command line
//! (`hostel run -- cpuid`) are one command to run instead of the prompt. End of input powers off. Behind it is a kernel for ring-3
//! programs (`guest/kernel`), which starts when the first of them does: `NAME ARGUMENTS`, or `NAME ARGUMENTS &` to go on meanwhile.
//! Sources: Intel SDM vol. 2A CPUID; Linux `Documentation/virt/kvm/x86/cpuid.rst` (leaf 0x40000000).

#![no_std]
#![no_main]

#[path = "../kernel/kernel.rs"]
mod kernel;

use core::ptr::addr_of_mut;
use core::slice;

use guest::port::{in8, in32, out8, out32};
use guest::start_info::StartInfo;
use guest::text::{Hex, Letters, Padded};
use guest::words::Words;
use guest::{apic, attempt, clock, cpu, fault, interrupt, power, print, serial, typed};

use kernel::abi::{END_EXIT, END_FAULT, END_KILLED, Ended};
use kernel::{programs, session};

/// A command. What it runs says whether the arguments make sense.
struct Command {
    name: &'static str,
    arguments: &'static str,
    does: &'static str,
    run: fn(&StartInfo, &mut Words) -> Option<()>,
}

const fn command(
    name: &'static str,
    arguments: &'static str,
    does: &'static str,
    run: fn(&StartInfo, &mut Words) -> Option<()>,
) -> Command {
    Command { name, arguments, does, run }
}

static COMMANDS: [Command; 16] = [
    command("help", "", "this list", help),
    command("cpuid", " [LEAF [SUBLEAF]]", "who the processor says it is, or one leaf", cpuid),
    command("mem", "", "the memory map", mem),
    command("peek", " ADDRESS [COUNT]", "memory, in words of four bytes", peek),
    command("in", " PORT [4]", "read a port: one byte, or four", read_port),
    command("out", " PORT VALUE [4]", "write a port: one byte, or four", write_port),
    command("time", "", "the clock, and the time stamp counter", time),
    command("trap", " de|ud|gp|pf", "raise an exception and come back", trap),
    command(
        "programs",
        "",
        "the ring-3 programs; NAME [ARGUMENTS] starts one, with & behind it in the background",
        list,
    ),
    command("ps", "", "the processes' threads, each with its context", ps),
    command("kill", " PID", "end a process", kill),
    command("wait", "", "wait for the processes in the background", wait),
    command("exit", " VALUE", "end by isa-debug-exit: status VALUE * 2 + 1", exit),
    command("reboot", "", "reset the machine", |_, _| power::reset()),
    command("halt", "", "halt with interrupts off", |_, _| power::halt()),
    command("poweroff", "", "power off, as does Ctrl-D", |_, _| power::off()),
];

/// Longest line that the prompt takes.
const LINE_BYTES: usize = 80;
/// What the two keys that delete a character send.
const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;

#[unsafe(no_mangle)]
extern "C" fn guest_main(boot_information: u64) -> ! {
    let info = StartInfo::at(boot_information);
    interrupt::init();
    fault::init();
    if Words::of(info.command_line()).next().is_some() {
        obey_line(info, info.command_line());
        power::off();
    }

    apic::enable();
    typed::init();
    print!("Hostel's sample kernel. help lists the commands, poweroff or Ctrl-D ends.\n");
    static mut LINE: [u8; LINE_BYTES] = [0; LINE_BYTES];
    loop {
        while let Some((pid, name, ended)) = session::ended_one() {
            print!("[", pid, "] ", name);
            tell(ended);
        }
        print!("> ");
        // SAFETY: nothing else uses `LINE`, and one processor runs.
        let line = unsafe { slice::from_raw_parts_mut(addr_of_mut!(LINE).cast(), LINE_BYTES) };
        match read_line(line) {
            Some(length) => obey_line(info, line.get(..length).unwrap_or_default()),
            None => {
                print!("\n");
                power::off();
            }
        }
    }
}

/// Reads a line with echo, up to its end or the end of input (`None`). Returns its length; what does not fit is refused.
fn read_line(line: &mut [u8]) -> Option<usize> {
    let mut length = 0;
    loop {
        match session::read() {
            typed::END_OF_INPUT => return None,
            b'\r' | b'\n' => {
                print!("\n");
                return Some(length);
            }
            BACKSPACE | DELETE if length > 0 => {
                length -= 1;
                print!("\x08 \x08"); // back, wipe, back
            }
            byte @ b' '..=b'~' => {
                if let Some(slot) = line.get_mut(length) {
                    *slot = byte;
                    length += 1;
                    serial::write(&[byte]);
                }
            }
            _ => {}
        }
    }
}

/// Runs the commands of a line: what stands before an `&` does not keep the next waiting.
fn obey_line(info: &StartInfo, mut line: &[u8]) {
    while let Some(end) = line.iter().position(|&byte| byte == b'&') {
        obey(info, line.get(..end).unwrap_or_default(), true);
        line = line.get(end + 1..).unwrap_or_default();
    }
    obey(info, line, false);
}

/// Runs a command, or starts a program.
fn obey(info: &StartInfo, line: &[u8], in_background: bool) {
    let mut words = Words::of(line);
    let Some(name) = words.next() else { return };
    if programs::find(name).is_some() {
        let arguments = line.trim_ascii().get(name.len()..).unwrap_or_default().trim_ascii();
        return start(info, name, arguments, in_background);
    }
    match COMMANDS.iter().find(|command| command.name.as_bytes() == name) {
        Some(command) => {
            if (command.run)(info, &mut words).is_none() {
                print!("usage: ", command.name, command.arguments, "\n");
            }
        }
        None => print!("no such command; help lists them\n"),
    }
}

/// Starts a program, and waits for it unless it goes to the background.
fn start(info: &StartInfo, name: &[u8], arguments: &[u8], in_background: bool) {
    let Ok(pid) = session::spawn(info, name, arguments, !in_background) else {
        print!("no memory, or no process left\n");
        return;
    };
    if in_background {
        print!("[", pid, "]\n");
        return;
    }
    let ended = session::wait_for(pid).filter(|ended| ended.kind != END_EXIT || ended.value != 0);
    if let Some(ended) = ended {
        print!("it");
        tell(ended);
    }
}

/// How a process ended, as the end of a line.
fn tell(ended: Ended) {
    match ended.kind {
        END_EXIT => print!(" ended, status ", ended.value, "\n"),
        END_KILLED => print!(" was killed\n"),
        END_FAULT => print!(" was ended by exception ", ended.value, "\n"),
        _ => print!("\n"),
    }
}

fn list(_: &StartInfo, _: &mut Words) -> Option<()> {
    for program in programs::PROGRAMS {
        print!(program.name, program.arguments, ": ", program.does, "\n");
    }
    Some(())
}

fn ps(_: &StartInfo, _: &mut Words) -> Option<()> {
    session::print_table();
    Some(())
}

fn kill(_: &StartInfo, words: &mut Words) -> Option<()> {
    if !session::kill(words.number()?) {
        print!("no such process\n");
    }
    Some(())
}

fn wait(_: &StartInfo, _: &mut Words) -> Option<()> {
    while let Some(pid) = session::running_one() {
        if let Some(ended) = session::wait_for(pid) {
            print!("[", pid, "]");
            tell(ended);
        }
    }
    Some(())
}

fn help(_: &StartInfo, _: &mut Words) -> Option<()> {
    for command in &COMMANDS {
        print!(command.name, command.arguments, ": ", command.does, "\n");
    }
    print!("numbers are decimal, or hexadecimal after 0x\n");
    Some(())
}

fn cpuid(_: &StartInfo, words: &mut Words) -> Option<()> {
    /// Leaf 1, ECX: a hypervisor is there and has leaves of its own.
    const HYPERVISOR: u32 = 1 << 31;
    let Some(leaf) = words.next() else {
        let vendor = cpu::cpuid(0, 0);
        print!("vendor ", Letters(vendor.ebx), Letters(vendor.edx), Letters(vendor.ecx));
        if cpu::cpuid(1, 0).ecx & HYPERVISOR != 0 {
            let hypervisor = cpu::cpuid(0x4000_0000, 0);
            print!(", hypervisor ", Letters(hypervisor.ebx), Letters(hypervisor.ecx), Letters(hypervisor.edx));
        }
        print!("\n");
        if cpu::cpuid(0x8000_0000, 0).eax >= 0x8000_0004 {
            for leaf in 0x8000_0002..=0x8000_0004 {
                let name = cpu::cpuid(leaf, 0);
                print!(Letters(name.eax), Letters(name.ebx), Letters(name.ecx), Letters(name.edx));
            }
            print!("\n");
        }
        return Some(());
    };
    let leaf = Words::of(leaf).number()?.try_into().ok()?;
    let subleaf = words.number().unwrap_or(0).try_into().ok()?;
    let answer = cpu::cpuid(leaf, subleaf);
    print!("eax ", Hex(answer.eax.into()), ", ebx ", Hex(answer.ebx.into()));
    print!(", ecx ", Hex(answer.ecx.into()), ", edx ", Hex(answer.edx.into()), "\n");
    Some(())
}

fn mem(info: &StartInfo, _: &mut Words) -> Option<()> {
    for range in info.memory_map() {
        print!(Hex(range.start), " to ", Hex(range.start + range.bytes - 1), ": ", range.kind_name(), "\n");
    }
    Some(())
}

fn peek(_: &StartInfo, words: &mut Words) -> Option<()> {
    let address = words.number()?;
    for address in (address..).step_by(4).take(words.number().unwrap_or(1) as usize) {
        let value: u64;
        let fault = attempt!("mov eax, [rax]"; inout("rax") address => value);
        print!(Hex(address), ": ");
        match fault {
            None => print!(Hex(value), "\n"),
            Some(fault) => {
                fault.print();
                break;
            }
        }
    }
    Some(())
}

fn read_port(_: &StartInfo, words: &mut Words) -> Option<()> {
    let port = words.number()?.try_into().ok()?;
    let value = match words.number() {
        Some(4) => u64::from(in32(port)),
        _ => u64::from(in8(port)),
    };
    print!(Hex(value), "\n");
    Some(())
}

fn write_port(_: &StartInfo, words: &mut Words) -> Option<()> {
    let port = words.number()?.try_into().ok()?;
    let value = words.number()?;
    match words.number() {
        Some(4) => out32(port, value.try_into().ok()?),
        _ => out8(port, value.try_into().ok()?),
    }
    Some(())
}

fn time(_: &StartInfo, _: &mut Words) -> Option<()> {
    match clock::now() {
        Some([year, month, day, hour, minute, second]) => {
            print!("20", Padded(year), "-", Padded(month), "-", Padded(day), " ");
            print!(Padded(hour), ":", Padded(minute), ":", Padded(second), " UTC");
        }
        None => print!("no clock"),
    }
    print!(", time stamp ", cpu::time_stamp(), "\n");
    Some(())
}

fn trap(_: &StartInfo, words: &mut Words) -> Option<()> {
    let fault = match words.next()? {
        b"de" => attempt!("div ecx"; in("ecx") 0, inout("eax") 1 => _, inout("edx") 0 => _),
        b"ud" => attempt!("ud2"),
        b"gp" => attempt!("mov rax, [rax]"; inout("rax") 1u64 << 63 => _), // bits 47 to 63 differ
        b"pf" => attempt!("mov rax, [rax]"; inout("rax") 1u64 << 40 => _), // beyond what is mapped
        _ => return None,
    };
    match fault {
        Some(fault) => fault.print(),
        None => print!("no exception\n"),
    }
    Some(())
}

fn exit(_: &StartInfo, words: &mut Words) -> Option<()> {
    power::exit(words.number()?.try_into().ok()?)
}
