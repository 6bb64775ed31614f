//! A virtio console in the place of the serial port, where the command line says so: its driver may be a module, so it comes after init.
//!
//! Source: Linux kernel-parameters.txt "console=".

use crate::commands::read_file;
use crate::syscalls::{self, Access, Errno};
use crate::{INPUT, OUTPUT, print};

/// The word of the command line, and the terminal that it means.
const WORD: &str = "console=hvc0";
const TERMINAL: &str = "/dev/hvc0";
/// How long the driver is waited for.
const STEPS: u32 = 500;
const STEP_MS: u64 = 10;

/// Has standard input and output on the virtio console, if it is to be the console.
pub fn take() {
    let mut buffer = [0; 4096];
    let line = read_file("/proc/cmdline", &mut buffer).unwrap_or_default();
    if !line.split_ascii_whitespace().take_while(|word| *word != "--").any(|word| word == WORD) {
        return;
    }
    match open() {
        Ok(terminal) => {
            for file in [INPUT, OUTPUT, OUTPUT + 1] {
                let _ = syscalls::duplicate(terminal, file);
            }
        }
        Err(error) => print!("no {TERMINAL}: {error}\n"),
    }
}

/// The terminal, when its driver has made it.
pub fn open() -> Result<usize, Errno> {
    for _ in 0..STEPS {
        if let Ok(terminal) = syscalls::open(TERMINAL, Access::Both) {
            return Ok(terminal);
        }
        syscalls::sleep(STEP_MS);
    }
    syscalls::open(TERMINAL, Access::Both)
}
