//! The program in Hostel's embedded initramfs: `hostel run /boot/vmlinuz` shows something with it at once.
//!
//! It loads the modules that Hostel put beside it and mounts proc, sys and dev. With `--root` it makes a directory of the host the root, and
//! runs a command there (`root.rs`). Else it says what it is and reads commands from the console; end of input powers off. Words after
//! `--` on the kernel's command line are commands too and run first, as the kernel hands them to init:
//! `hostel run vmlinuz --cmdline='-- cpus poweroff'`. Static, without a C library; left out: a shell's syntax, signals,
//! job control. Sources: Linux init.rst and kernel-parameters.rst for what the kernel gives to init, proc(5), sysrq.rst.

#![no_std]
#![no_main]

mod agent;
#[path = "../lib/bytes.rs"]
mod bytes;
mod calls;
mod commands;
mod console;
mod execute;
mod filesystems;
mod frames;
mod modules;
mod network;
mod processes;
mod root;
mod syscalls;

use core::arch::naked_asm;
use core::ffi::CStr;
use core::fmt::{self, Write};
use syscalls::Ending;

/// Standard input and output, which the kernel opens on `/dev/console`.
const INPUT: usize = 0;
const OUTPUT: usize = 1;
/// The longest command line; a terminal hands over at most 4096 bytes (termios(3), canonical mode).
const LINE: usize = 4096;
/// Status of an init that gives up.
const FAILED: usize = 1;
/// The most words of a command.
const WORDS: usize = 16;

/// The console.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        syscalls::write_all(OUTPUT, text.as_bytes()).map_err(|_| fmt::Error)
    }
}

/// Prints to the console; a console that takes nothing is no reason to stop.
macro_rules! print {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        let _ = $crate::Console.write_fmt(format_args!($($argument)*));
    }};
}
use print;

/// Where the kernel enters: the stack holds argc, then argv (System V ABI AMD64 §3.4.1).
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("mov rdi, [rsp]", "lea rsi, [rsp + 8]", "call {main}", "ud2", main = sym main)
}

extern "C" fn main(count: usize, arguments: *const *const i8) -> ! {
    modules::load();
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        if let Err(error) = syscalls::mount(kind, target) {
            print!("cannot mount {target}: {error}\n");
        }
    }
    root::start();
    console::take();
    agent::start();
    commands::greet();
    for index in 1..count {
        // SAFETY: the kernel passes `count` pointers to strings that end with a zero byte and stay.
        let word = unsafe { CStr::from_ptr(*arguments.add(index)) };
        commands::execute(word.to_bytes());
    }
    prompt();
    end(Ending::PowerOff)
}

/// Executes one line of input after the other, to the end of input.
fn prompt() {
    let mut line = [0; LINE];
    loop {
        print!("hostel# ");
        match syscalls::read(INPUT, &mut line) {
            Ok(0) => return,
            Ok(bytes) => commands::execute(&line[..bytes]),
            Err(error) => {
                print!("cannot read the console: {error}\n");
                return;
            }
        }
    }
}

/// Ends the machine; when the kernel refuses, leaving is a kernel panic that nobody can overlook.
fn end(ending: Ending) -> ! {
    let error = syscalls::end(ending);
    print!("the kernel does not end the machine: {error}\n");
    syscalls::exit(FAILED)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    print!("init: {info}\n");
    syscalls::exit(FAILED)
}
