//! The kernel below the threads, played by Linux: the same program runs there, to be tested and to be compared with.
//!
//! Sources: System V ABI AMD64 §A.2.1 (registers of a system call), Linux syscall_64.tbl, clone(2), futex(2).

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Memory;
use crate::thread::Thread;

#[path = "../../../lib/bytes.rs"]
mod bytes;

const WRITE: usize = 1;
const MMAP: usize = 9;
const SCHED_YIELD: usize = 24;
const NANOSLEEP: usize = 35;
const CLONE: usize = 56;
const EXIT: usize = 60;
const FUTEX: usize = 202;
const SCHED_SETAFFINITY: usize = 203;
const SCHED_GETAFFINITY: usize = 204;
const CLOCK_GETTIME: usize = 228;
const EXIT_GROUP: usize = 231;

/// mmap(2): pages to read and write, private, of no file.
const READ_WRITE: usize = 3;
const PRIVATE_ANONYMOUS: usize = 0x22;
/// clone(2): a thread of the same process (VM, FS, FILES, SIGHAND, THREAD, SYSVSEM), whose end clears a word (CHILD_CLEARTID).
const THREAD_FLAGS: usize = 0x0025_0f00;
/// clock_gettime(2): CLOCK_MONOTONIC.
const MONOTONIC: usize = 1;
const FUTEX_WAIT: usize = 0;
const FUTEX_WAKE: usize = 1;

/// Calls so far, but those that measuring makes: Linux does not count them.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Makes a system call. Negative: an error number.
///
/// # Safety
/// The arguments must be what this call takes.
unsafe fn call(number: usize, arguments: [usize; 4]) -> isize {
    CALLS.fetch_add(1, Ordering::Relaxed);
    let [a, b, c, d] = arguments;
    let result;
    // SAFETY: the kernel changes RAX, RCX, R11 and what the arguments point to, for which the caller vouches.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") usize::MAX, in("r9") 0, out("rcx") _, out("r11") _, options(nostack));
    }
    result
}

/// Memory of so many bytes, all zero; its address.
pub fn map(bytes: usize) -> Option<usize> {
    // SAFETY: no pointer is given. The file, in R8, is none.
    let address = unsafe { call(MMAP, [0, bytes, READ_WRITE, PRIVATE_ANONYMOUS]) };
    usize::try_from(address).ok()
}

/// Starts a thread of the kernel's that runs `begin` below `thread`'s block; its number. `None`: the kernel has no more of them.
pub fn start_thread(begin: extern "C" fn(u64) -> !, thread: &'static Thread) -> Option<usize> {
    CALLS.fetch_add(1, Ordering::Relaxed);
    let result: isize;
    // At its end the kernel clears `alive` and wakes who waits for it: nobody is on the stack any more.
    // SAFETY: the new thread has the registers of this one, but RAX and the stack, which is its own and empty.
    unsafe {
        asm!("syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "mov rdi, r12", "call r13", "ud2", "2:",
            inlateout("rax") CLONE => result, in("rdi") THREAD_FLAGS, in("rsi") thread.address(), in("rdx") 0,
            in("r10") thread.alive.as_ptr(), in("r8") 0, in("r12") thread.address(), in("r13") begin, out("rcx") _, out("r11") _);
    }
    usize::try_from(result).ok()
}

/// Waits until a thread of the kernel's has ended.
pub fn join_thread(_number: usize, thread: &'static Thread) {
    while thread.is_alive() {
        wait(&thread.alive, 1);
    }
}

/// Has the calling thread run on the first processor only, or on any again.
pub fn bind(to_first: bool) {
    let mut mask = [u64::MAX; 128];
    if to_first {
        mask = [0; 128];
        // SAFETY: the kernel writes at most the size of `mask`.
        unsafe { call(SCHED_GETAFFINITY, [0, size_of_val(&mask), mask.as_mut_ptr() as usize, 0]) };
        let word = mask.iter().position(|&word| word != 0).unwrap_or(0);
        let first = mask[word] & mask[word].wrapping_neg();
        mask = [0; 128];
        mask[word] = first;
    }
    // SAFETY: the kernel reads the mask.
    unsafe { call(SCHED_SETAFFINITY, [0, size_of_val(&mask), mask.as_ptr() as usize, 0]) };
}

/// Ends the calling thread of the kernel's.
pub fn exit_thread() -> ! {
    loop {
        // SAFETY: takes no pointer.
        unsafe { call(EXIT, [0; 4]) };
    }
}

/// Lets another thread of the kernel's have the processor.
pub fn yield_now() {
    // SAFETY: takes no pointer.
    unsafe { call(SCHED_YIELD, [0; 4]) };
}

/// Waits until the word is woken, unless it is not `value`; or for no reason.
pub fn wait(word: &AtomicU32, value: u32) {
    // SAFETY: the word is one; no time limit is given.
    unsafe { call(FUTEX, [word.as_ptr() as usize, FUTEX_WAIT, value as usize, 0]) };
}

/// Wakes so many who wait for the word.
pub fn wake(word: &AtomicU32, threads: usize) {
    // SAFETY: the word's address is only compared.
    unsafe { call(FUTEX, [word.as_ptr() as usize, FUTEX_WAKE, threads.min(i32::MAX as usize), 0]) };
}

/// Sleeps so long.
pub fn sleep(nanoseconds: u64) {
    let duration = [nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000];
    // SAFETY: the kernel reads two words.
    unsafe { call(NANOSLEEP, [duration.as_ptr() as usize, 0, 0, 0]) };
}

/// Processors that the program may use.
pub fn cpus() -> usize {
    let mut mask = [0u64; 128];
    // SAFETY: the kernel writes at most the size of `mask`.
    unsafe { call(SCHED_GETAFFINITY, [0, size_of_val(&mask), mask.as_mut_ptr() as usize, 0]) };
    mask.iter().map(|word| word.count_ones() as usize).sum()
}

/// Nanoseconds since some moment.
pub fn now() -> u64 {
    let mut time = [0u64; 2];
    // SAFETY: the kernel writes two words.
    unsafe { call(CLOCK_GETTIME, [MONOTONIC, time.as_mut_ptr() as usize, 0, 0]) };
    CALLS.fetch_sub(1, Ordering::Relaxed);
    time[0] * 1_000_000_000 + time[1]
}

/// Writes to the standard output.
pub fn write(bytes: &[u8]) {
    // SAFETY: the kernel reads the bytes.
    unsafe { call(WRITE, [1, bytes.as_ptr() as usize, bytes.len(), 0]) };
}

/// System calls of the process so far.
pub fn system_calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// What the process and its threads have. Linux tells it only in files.
pub fn memory() -> Option<Memory> {
    None
}

/// Ends the process.
pub fn exit(status: usize) -> ! {
    loop {
        // SAFETY: takes no pointer.
        unsafe { call(EXIT_GROUP, [status, 0, 0, 0]) };
    }
}

/// Makes `main`, a `fn(&'static [u8]) -> u64`, what the program begins with.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn linux_main(arguments: *const u8, bytes: usize) -> u64 {
            // SAFETY: `start` has put them together, and they stay.
            $main(unsafe { core::slice::from_raw_parts(arguments, bytes) })
        }
    };
}

unsafe extern "C" {
    fn linux_main(arguments: *const u8, bytes: usize) -> u64;
}

global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {start}", "ud2", start = sym start);

/// Most bytes of the arguments, as on the sample kernel.
const ARGUMENT_BYTES_MAX: usize = 512;

/// Where a program starts: on its stack are a number, pointers to so many strings, and a null pointer (System V ABI AMD64 §3.4.1). The
/// sample kernel hands over a line, so the strings behind the program's name are put together.
unsafe extern "C" fn start(stack: *const usize) -> ! {
    let (mut line, mut length) = ([0; ARGUMENT_BYTES_MAX], 0);
    // SAFETY: the kernel has put that there, and each string ends with a zero byte.
    let words = (2..).map_while(|index| unsafe {
        let word = stack.add(index).read() as *const core::ffi::c_char;
        (!word.is_null()).then(|| core::ffi::CStr::from_ptr(word).to_bytes())
    });
    for &byte in words.flat_map(|word| word.iter().chain(b" ")) {
        assert!(length < ARGUMENT_BYTES_MAX, "the arguments are too long");
        line[length] = byte;
        length += 1;
    }
    // SAFETY: `program!` has made it, and `line` is there until the process ends.
    exit(unsafe { linux_main(line.as_ptr(), length) } as usize)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    crate::line!("{info}");
    exit(101)
}
