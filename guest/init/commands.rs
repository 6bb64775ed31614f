//! What one can type at init's prompt.

use crate::syscalls::{self, Access, Ending, Errno};
use crate::{OUTPUT, WORDS, end, print};

/// Lines that `mem` and `dmesg` show.
const MEMORY_LINES: usize = 3;
const LOG_LINES: usize = 20;
/// The kernel's log levels "error" and "warning" (Linux printk-basics.rst).
const LEVEL_ERROR: u8 = b'3';
const LEVEL_WARNING: u8 = b'4';
/// How much of the kernel log is read at most; Debian's kernel keeps 128 KiB.
const LOG_BYTES: usize = 256 << 10;

type Action = fn(&[&str]) -> Result<(), Errno>;

/// Name, arguments, what it does, how.
const COMMANDS: &[(&str, &str, &str, Action)] = &[
    ("help", "", "this list", help),
    ("ls", "[DIRECTORY]", "what a directory holds", list),
    ("cat", "FILE...", "the contents of files", cat),
    ("cpus", "", "how many processors run (also nproc)", cpus),
    ("mem", "", "total and free memory", memory),
    ("dmesg", "[all|warn|err]", "the end of the kernel log, all of it, or what went wrong", kernel_log),
    ("cmdline", "", "the kernel's command line", command_line),
    ("run", "PROGRAM [ARG...]", "runs a program and tells its status", run),
    ("poweroff", "", "powers the machine off, as end of input does", |_| end(Ending::PowerOff)),
    ("reboot", "", "resets the machine", |_| end(Ending::Restart)),
    ("halt", "", "stops all processors for good", |_| end(Ending::Halt)),
    ("panic", "", "makes the kernel panic", |_| sysrq(&["c"])),
    ("sysrq", "KEY", "a key of Linux sysrq.rst", sysrq),
];

/// Says what runs here.
pub fn greet() {
    print!("\nHostel's embedded initramfs");
    let mut buffer = [0; 256];
    if let Ok(release) = read_file("/proc/sys/kernel/osrelease", &mut buffer) {
        print!(" on Linux {}", release.trim_end());
    }
    if let Ok(uptime) = read_file("/proc/uptime", &mut buffer) {
        print!(", up {} s", uptime.split(' ').next().unwrap_or_default());
    }
    print!("\n{} processors, ", syscalls::processors());
    if let Ok(text) = read_file("/proc/meminfo", &mut buffer) {
        let total = text.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
        print!("{} MiB of memory. Commands: help\n", total.unwrap_or(0) >> 10);
    }
}

/// Executes a command line, the first word of which names the command.
pub fn execute(line: &[u8]) {
    let Ok(line) = str::from_utf8(line) else {
        print!("that is not text\n");
        return;
    };
    let mut words = [""; WORDS];
    let mut count = 0;
    for (slot, word) in words.iter_mut().zip(line.split_ascii_whitespace()) {
        *slot = word;
        count += 1;
    }
    let Some((&name, arguments)) = words[..count].split_first() else { return };
    let name = if name == "nproc" { "cpus" } else { name };
    match COMMANDS.iter().find(|command| command.0 == name) {
        None => {
            print!("{name}: no such command; help lists them\n");
        }
        Some((.., action)) => {
            if let Err(error) = action(arguments) {
                print!("{name}: {error}\n");
            }
        }
    }
}

fn help(_: &[&str]) -> Result<(), Errno> {
    for (name, arguments, what, _) in COMMANDS {
        print!("{name:<9}{arguments:<17}{what}\n");
    }
    Ok(())
}

fn list(arguments: &[&str]) -> Result<(), Errno> {
    directory(arguments.first().unwrap_or(&"/"), |name| {
        print!("{}\n", str::from_utf8(name).unwrap_or("?"));
        None::<()>
    })?;
    Ok(())
}

/// What `look` finds first among the names in a directory, those that begin with a dot left out. An entry has its length at byte 16
/// and its name, ended by zero, from byte 19 (getdents(2)).
pub fn directory<T>(path: &str, mut look: impl FnMut(&[u8]) -> Option<T>) -> Result<Option<T>, Errno> {
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let directory = syscalls::open(path, Access::Directory)?;
    let mut buffer = [0; 4096];
    loop {
        let bytes = syscalls::directory_entries(directory, &mut buffer).unwrap_or(0);
        if bytes == 0 {
            syscalls::close(directory);
            return Ok(None);
        }
        let mut entries = &buffer[..bytes];
        while entries.len() > NAME {
            let length = usize::from(u16::from_le_bytes([entries[LENGTH], entries[LENGTH + 1]]));
            let (entry, rest) = entries.split_at(length);
            let name = entry[NAME..].split(|&byte| byte == 0).next().unwrap_or_default();
            if !name.starts_with(b".")
                && let Some(found) = look(name)
            {
                syscalls::close(directory);
                return Ok(Some(found));
            }
            entries = rest;
        }
    }
}

fn cat(arguments: &[&str]) -> Result<(), Errno> {
    let mut buffer = [0; 4096];
    for path in arguments {
        let file = syscalls::open(path, Access::Read)?;
        while let bytes @ 1.. = syscalls::read(file, &mut buffer)? {
            syscalls::write_all(OUTPUT, &buffer[..bytes])?;
        }
        syscalls::close(file);
    }
    Ok(())
}

fn cpus(_: &[&str]) -> Result<(), Errno> {
    print!("{}\n", syscalls::processors());
    Ok(())
}

fn memory(_: &[&str]) -> Result<(), Errno> {
    let mut buffer = [0; 256];
    for line in read_file("/proc/meminfo", &mut buffer)?.lines().take(MEMORY_LINES) {
        print!("{line}\n");
    }
    Ok(())
}

/// Lines as `<6>[    0.000000] text`: the level, when, what.
fn kernel_log(arguments: &[&str]) -> Result<(), Errno> {
    let mut buffer = [0; LOG_BYTES];
    let bytes = syscalls::kernel_log(&mut buffer)?;
    let lines = || buffer[..bytes].split_inclusive(|&byte| byte == b'\n');
    let (skipped, level) = match arguments {
        [] => (lines().count().saturating_sub(LOG_LINES), u8::MAX),
        ["err", ..] => (0, LEVEL_ERROR),
        ["warn", ..] => (0, LEVEL_WARNING),
        _ => (0, u8::MAX),
    };
    for line in lines().skip(skipped).filter(|line| line.get(1).is_some_and(|&digit| digit <= level)) {
        syscalls::write_all(OUTPUT, line)?;
    }
    Ok(())
}

fn command_line(_: &[&str]) -> Result<(), Errno> {
    cat(&["/proc/cmdline"])
}

fn run(arguments: &[&str]) -> Result<(), Errno> {
    let Some(program) = arguments.first() else { return Ok(()) };
    // wait(2): the low seven bits name a signal, the second byte is what the program passed to exit.
    match syscalls::run(program, arguments)? {
        status if status & 0x7f == 0 => print!("status {}\n", status >> 8 & 0xff),
        status => print!("ended by signal {}\n", status & 0x7f),
    }
    Ok(())
}

fn sysrq(arguments: &[&str]) -> Result<(), Errno> {
    let file = syscalls::open("/proc/sysrq-trigger", Access::Write)?;
    syscalls::write_all(file, arguments.first().unwrap_or(&"h").as_bytes())?;
    syscalls::close(file);
    Ok(())
}

/// The start of a file, as far as `buffer` holds it.
pub fn read_file<'a>(path: &str, buffer: &'a mut [u8]) -> Result<&'a str, Errno> {
    let file = syscalls::open(path, Access::Read)?;
    let bytes = syscalls::read(file, buffer);
    syscalls::close(file);
    Ok(str::from_utf8(&buffer[..bytes?]).unwrap_or_default())
}

/// `parts` behind each other; `None` where they do not fit.
pub fn joined<'a>(parts: &[&[u8]], buffer: &'a mut [u8]) -> Option<&'a str> {
    let mut length = 0;
    for part in parts {
        buffer.get_mut(length..length + part.len())?.copy_from_slice(part);
        length += part.len();
    }
    str::from_utf8(&buffer[..length]).ok()
}
