//! The system calls that init makes, without a C library.
//!
//! Number in RAX, arguments in RDI, RSI, RDX, R10, R8; a result from -4095 to -1 is a negated error number.
//! Sources: System V ABI AMD64 §A.2.1 for the registers, Linux syscall_64.tbl for the numbers, the manual page of each call.

use core::arch::asm;
use core::fmt;

/// An error number (errno(3)).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub isize);

/// The argument is longer than [`Path`] holds.
const TOO_LONG: Errno = Errno(36);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            2 => f.write_str("no such file or directory"),
            8 => f.write_str("not a program"),
            13 => f.write_str("permission denied"),
            20 => f.write_str("not a directory"),
            21 => f.write_str("is a directory"),
            number => write!(f, "error {number}"),
        }
    }
}

/// A string as the kernel takes it: ended by a zero byte.
pub struct Path {
    bytes: [u8; Self::LIMIT],
}

impl Path {
    const LIMIT: usize = 256;

    /// `text` with its zero byte.
    pub fn new(text: &str) -> Result<Self, Errno> {
        let mut bytes = [0; Self::LIMIT];
        bytes[..Self::LIMIT - 1].get_mut(..text.len()).ok_or(TOO_LONG)?.copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }

    /// Where it starts; valid as long as `self`.
    pub fn pointer(&self) -> usize {
        self.bytes.as_ptr() as usize
    }
}

/// Makes a system call.
///
/// # Safety
/// The arguments must be what this call takes: pointers to memory of the size that it reads or writes.
pub unsafe fn call(number: usize, arguments: [usize; 5]) -> Result<usize, Errno> {
    let [a, b, c, d, e] = arguments;
    let result: isize;
    // SAFETY: the kernel changes RAX, RCX, R11 and what the arguments point to, for which the caller vouches.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, out("rcx") _, out("r11") _, options(nostack));
    }
    if (-4095..0).contains(&result) { Err(Errno(-result)) } else { Ok(result as usize) }
}

/// `read(2)` into `buffer`.
pub fn read(file: usize, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most the length of `buffer`.
    unsafe { call(0, [file, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0]) }
}

/// `write(2)` until all of `bytes` is written.
pub fn write_all(file: usize, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        // SAFETY: the kernel reads at most the length of `bytes`.
        let written = unsafe { call(1, [file, bytes.as_ptr() as usize, bytes.len(), 0, 0]) }?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// How a file is opened (open(2), `O_*`).
#[derive(Clone, Copy)]
pub enum Access {
    /// To read from it.
    Read = 0,
    /// To write to it.
    Write = 1,
    /// To do both, and not to have a terminal as the controlling one (`O_NOCTTY`).
    Both = 0o402,
    /// To list what it holds.
    Directory = 0o200_000,
}

/// `open(2)`.
pub fn open(path: &str, access: Access) -> Result<usize, Errno> {
    let path = Path::new(path)?;
    // SAFETY: `path` ends with a zero byte.
    unsafe { call(2, [path.pointer(), access as usize, 0, 0, 0]) }
}

/// `dup2(2)`: has `copy` be the open file `file`.
pub fn duplicate(file: usize, copy: usize) -> Result<(), Errno> {
    // SAFETY: takes no pointer.
    unsafe { call(33, [file, copy, 0, 0, 0]) }?;
    Ok(())
}

/// `nanosleep(2)` of so many milliseconds, less than a second.
pub fn sleep(milliseconds: u64) {
    let duration = [0, milliseconds * 1_000_000];
    // SAFETY: the kernel reads two 64-bit numbers; a null pointer asks for no rest.
    let _ = unsafe { call(35, [duration.as_ptr() as usize, 0, 0, 0, 0]) };
}

/// `close(2)`; there is nothing to do about an error.
pub fn close(file: usize) {
    // SAFETY: takes no pointer.
    let _ = unsafe { call(3, [file, 0, 0, 0, 0]) };
}

/// `getdents64(2)`: entries of the open directory, in the kernel's form.
pub fn directory_entries(directory: usize, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most the length of `buffer`.
    unsafe { call(217, [directory, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0]) }
}

/// `mount(2)` of a file system without a device, at a directory that exists.
pub fn mount(kind: &str, target: &str) -> Result<(), Errno> {
    let (kind, target) = (Path::new(kind)?, Path::new(target)?);
    // SAFETY: both end with a zero byte; a null data pointer means no options.
    unsafe { call(165, [kind.pointer(), target.pointer(), kind.pointer(), 0, 0]) }?;
    Ok(())
}

/// `finit_module(2)`: loads the kernel module in this open file, without parameters.
pub fn load_module(file: usize) -> Result<(), Errno> {
    let parameters = Path::new("")?;
    // SAFETY: `parameters` ends with a zero byte.
    unsafe { call(313, [file, parameters.pointer(), 0, 0, 0]) }?;
    Ok(())
}

/// `sched_getaffinity(2)`: how many processors this process may run on.
pub fn processors() -> u32 {
    let mut mask = [0u8; 1024];
    // SAFETY: the kernel writes at most the length of `mask`; process 0 is the caller.
    let bytes = unsafe { call(204, [0, mask.len(), mask.as_mut_ptr() as usize, 0, 0]) }.unwrap_or(0);
    mask[..bytes].iter().map(|byte| byte.count_ones()).sum()
}

/// `syslog(2)`, `SYSLOG_ACTION_READ_ALL`: the last part of the kernel log that fits.
pub fn kernel_log(buffer: &mut [u8]) -> Result<usize, Errno> {
    const READ_ALL: usize = 3;
    // SAFETY: the kernel writes at most the length of `buffer`.
    unsafe { call(103, [READ_ALL, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0]) }
}

/// What `reboot(2)` does (linux/reboot.h, `LINUX_REBOOT_CMD_*`).
#[derive(Clone, Copy)]
pub enum Ending {
    /// `RESTART`
    Restart = 0x0123_4567,
    /// `HALT`
    Halt = 0xcdef_0123,
    /// `POWER_OFF`
    PowerOff = 0x4321_fedc,
}

/// `sync(2)`, then `reboot(2)`; comes back only when the kernel refuses.
pub fn end(ending: Ending) -> Errno {
    const MAGIC: usize = 0xfee1_dead;
    const MAGIC2: usize = 672_274_793;
    // SAFETY: neither call takes a pointer here.
    let result = unsafe { call(162, [0; 5]).and_then(|_| call(169, [MAGIC, MAGIC2, ending as usize, 0, 0])) };
    result.err().unwrap_or(Errno(0))
}

/// Status of a program that could not be started, as shells have it.
pub const NOT_STARTED: usize = 127;

/// `exit(2)`. For init itself this is a kernel panic.
pub fn exit(status: usize) -> ! {
    loop {
        // SAFETY: takes no pointer, and does not come back.
        let _ = unsafe { call(60, [status, 0, 0, 0, 0]) };
    }
}

/// Runs the program at `path` with these arguments, waits for it and returns its wait status (wait(2)).
pub fn run(path: &str, arguments: &[&str]) -> Result<u32, Errno> {
    /// A program, its arguments and the null pointer behind them.
    const POINTERS: usize = super::WORDS + 1;
    const NONE: Path = Path { bytes: [0; Path::LIMIT] };
    let path = Path::new(path)?;
    let mut strings = [NONE; super::WORDS];
    let mut pointers = [0usize; POINTERS];
    for (index, argument) in arguments.iter().enumerate() {
        strings[index] = Path::new(argument)?;
        pointers[index] = strings[index].pointer();
    }
    let environment = [0usize];
    // SAFETY: fork(2) copies this process; the child only starts the program or exits.
    let child = unsafe { call(57, [0; 5]) }?;
    if child == 0 {
        // SAFETY: the strings end with zero bytes, both lists with a null pointer.
        unsafe {
            let _ = call(59, [path.pointer(), pointers.as_ptr() as usize, environment.as_ptr() as usize, 0, 0]);
        }
        exit(NOT_STARTED)
    }
    let mut status = 0u32;
    // SAFETY: the kernel writes one u32.
    unsafe { call(61, [child, &raw mut status as usize, 0, 0, 0]) }?;
    Ok(status)
}
