//! The system calls as functions: one each, pointers checked by the types. What each does stands in `guest/kernel/abi.rs`.

use core::arch::asm;
use core::ptr::null_mut;
use core::sync::atomic::AtomicU32;

use crate::abi::{Ended, Error, NO_BLOCK, Poll, Row, System, Usage, number};

/// What a call gives.
pub type Result<T> = core::result::Result<T, Error>;

/// Makes the call `number`. Whatever a function may change may have changed on return.
///
/// # Safety
/// Pointers among the arguments must be good for what the call does with them.
pub unsafe fn raw(number: u64, arguments: [u64; 5]) -> Result<u64> {
    let result: u64;
    let [a, b, c, d, e] = arguments;
    // SAFETY: as the caller says; `clobber_abi` names what the kernel does not keep.
    unsafe {
        asm!("int 0x80", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            clobber_abi("sysv64"), options(nostack));
    }
    Error::ALL.into_iter().find(|error| error.result() == result).map_or(Ok(result), Err)
}

/// A call that is given no memory of ours.
fn plain(number: u64, arguments: [u64; 5]) -> Result<u64> {
    // SAFETY: the callers below give numbers.
    unsafe { raw(number, arguments) }
}

/// Ends the process.
pub fn exit(status: u64) -> ! {
    let _ = plain(number::EXIT, [status, 0, 0, 0, 0]);
    unreachable!()
}

/// Starts the built-in program `name`; its process id.
pub fn spawn(name: &[u8], arguments: &[u8]) -> Result<u64> {
    let pointers = [name.as_ptr() as u64, name.len() as u64, arguments.as_ptr() as u64, arguments.len() as u64, 0];
    // SAFETY: both are slices, which the call reads.
    unsafe { raw(number::SPAWN, pointers) }
}

/// Waits for a child's end (0: any child's); its id and how it ended.
pub fn wait(pid: u64) -> Result<(u64, Ended)> {
    wait_with(pid, 0)
}

/// As [`wait`], without waiting: [`Error::Again`] while none has ended.
pub fn try_wait(pid: u64) -> Result<(u64, Ended)> {
    wait_with(pid, NO_BLOCK)
}

fn wait_with(pid: u64, flags: u64) -> Result<(u64, Ended)> {
    let mut ended = Ended::default();
    // SAFETY: the call writes one `Ended`.
    let pid = unsafe { raw(number::WAIT, [pid, &raw mut ended as u64, flags, 0, 0]) }?;
    Ok((pid, ended))
}

/// This process.
pub fn getpid() -> u64 {
    plain(number::GETPID, [0; 5]).unwrap_or_default()
}

/// Ends a process.
pub fn kill(pid: u64) -> Result<()> {
    plain(number::KILL, [pid, 0, 0, 0, 0]).map(drop)
}

/// Starts a thread at `entry`, which must not return, on a stack that ends at `stack_top`; its id. See `thread` for the safe way.
///
/// # Safety
/// The stack must be this thread's alone for as long as it runs.
pub unsafe fn thread_create(
    entry: extern "C" fn(u64) -> !,
    stack_top: u64,
    argument: u64,
    tls: u64,
    cpu: u64,
) -> Result<u64> {
    // SAFETY: as the caller says.
    unsafe { raw(number::THREAD_CREATE, [entry as usize as u64, stack_top, argument, tls, cpu]) }
}

/// Ends this thread.
pub fn thread_exit(value: u64) -> ! {
    let _ = plain(number::THREAD_EXIT, [value, 0, 0, 0, 0]);
    unreachable!()
}

/// Waits for the end of a thread of this process; the value that it ended with.
pub fn thread_join(tid: u64) -> Result<u64> {
    let mut value = 0;
    // SAFETY: the call writes one number.
    unsafe { raw(number::THREAD_JOIN, [tid, &raw mut value as u64, 0, 0, 0]) }?;
    Ok(value)
}

/// Whether a thread of this process has ended: then with which value. [`Error::Again`]: not yet.
pub fn try_thread_join(tid: u64) -> Result<u64> {
    let mut value = 0;
    // SAFETY: the call writes one number.
    unsafe { raw(number::THREAD_JOIN, [tid, &raw mut value as u64, NO_BLOCK, 0, 0]) }?;
    Ok(value)
}

/// Lets another thread run.
pub fn yield_now() {
    let _ = plain(number::YIELD, [0; 5]);
}

/// This thread.
pub fn gettid() -> u64 {
    plain(number::GETTID, [0; 5]).unwrap_or_default()
}

/// From now on this thread runs on `cpu` alone, or on any with [`ANY_CPU`](crate::abi::ANY_CPU).
pub fn thread_bind(cpu: u64) -> Result<()> {
    plain(number::THREAD_BIND, [cpu, 0, 0, 0, 0]).map(drop)
}

/// Sleeps while `word` is `expected`, until woken or for `timeout_ns`.
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout_ns: u64) -> Result<()> {
    plain(number::FUTEX_WAIT, [word.as_ptr() as u64, expected.into(), timeout_ns, 0, 0]).map(drop)
}

/// Wakes up to `count` that sleep at `word`; how many.
pub fn futex_wake(word: &AtomicU32, count: u64) -> Result<u64> {
    plain(number::FUTEX_WAKE, [word.as_ptr() as u64, count, 0, 0, 0])
}

/// So many bytes of zeroes, rounded up to pages.
pub fn map(bytes: u64) -> Result<*mut u8> {
    plain(number::MAP, [bytes, 0, 0, 0, 0]).map(|address| address as *mut u8)
}

/// Gives pages back.
///
/// # Safety
/// Nobody may use them any more.
pub unsafe fn unmap(address: *mut u8, bytes: u64) -> Result<()> {
    plain(number::UNMAP, [address as u64, bytes, 0, 0, 0]).map(drop)
}

/// Nanoseconds since the kernel started.
pub fn clock_ns() -> u64 {
    plain(number::CLOCK, [0; 5]).unwrap_or_default()
}

/// The time stamp counter, which ring 3 reads without a call. [`System::ticks_per_ms`] says how fast it is.
pub fn ticks() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Sleeps.
pub fn sleep_ns(duration_ns: u64) {
    let _ = plain(number::SLEEP, [duration_ns, 0, 0, 0, 0]);
}

/// The processor that runs this.
pub fn cpu() -> u64 {
    plain(number::CPU, [0; 5]).unwrap_or_default()
}

/// What the machine is.
pub fn system() -> System {
    let mut system = System::default();
    // SAFETY: the call writes one `System`.
    let _ = unsafe { raw(number::SYSTEM, [&raw mut system as u64, 0, 0, 0, 0]) };
    system
}

/// What this thread has used.
pub fn usage() -> Usage {
    let mut usage = Usage::default();
    // SAFETY: the call writes one `Usage`.
    let _ = unsafe { raw(number::USAGE, [&raw mut usage as u64, 0, 0, 0, 0]) };
    usage
}

/// The table of threads, as far as `rows` reaches; how many there are.
pub fn snapshot(rows: &mut [Row]) -> Result<u64> {
    // SAFETY: the call writes so many rows.
    unsafe { raw(number::SNAPSHOT, [rows.as_mut_ptr() as u64, rows.len() as u64, 0, 0, 0]) }
}

/// Opens a file of the disk, or a device by one of the names in `abi`.
pub fn open(name: &[u8]) -> Result<u64> {
    // SAFETY: a slice, which the call reads.
    unsafe { raw(number::OPEN, [name.as_ptr() as u64, name.len() as u64, 0, 0, 0]) }
}

/// Closes a descriptor.
pub fn close(descriptor: u64) -> Result<()> {
    plain(number::CLOSE, [descriptor, 0, 0, 0, 0]).map(drop)
}

/// Reads from `offset` on, which devices without offsets ignore; how many bytes.
pub fn read(descriptor: u64, buffer: &mut [u8], offset: u64) -> Result<usize> {
    read_with(descriptor, buffer, offset, 0)
}

/// As [`read`], without waiting.
pub fn try_read(descriptor: u64, buffer: &mut [u8], offset: u64) -> Result<usize> {
    read_with(descriptor, buffer, offset, NO_BLOCK)
}

fn read_with(descriptor: u64, buffer: &mut [u8], offset: u64, flags: u64) -> Result<usize> {
    let arguments = [descriptor, buffer.as_mut_ptr() as u64, buffer.len() as u64, offset, flags];
    // SAFETY: a slice, which the call writes.
    unsafe { raw(number::READ, arguments) }.map(|bytes| bytes as usize)
}

/// Writes to the console, or sends one frame; how many bytes were taken.
pub fn write(descriptor: u64, bytes: &[u8]) -> Result<usize> {
    // SAFETY: a slice, which the call reads.
    unsafe { raw(number::WRITE, [descriptor, bytes.as_ptr() as u64, bytes.len() as u64, 0, 0]) }
        .map(|taken| taken as usize)
}

/// Bytes of a file or disk.
pub fn size(descriptor: u64) -> Result<u64> {
    plain(number::SIZE, [descriptor, 0, 0, 0, 0])
}

/// Waits until one of `entries` is ready; how many are, 0 after `timeout_ns`.
pub fn poll(entries: &mut [Poll], timeout_ns: u64) -> Result<u64> {
    // SAFETY: a slice, which the call reads and writes.
    unsafe {
        raw(number::POLL, [entries.as_mut_ptr() as u64, entries.len() as u64, timeout_ns, null_mut::<u32>() as u64, 0])
    }
}

/// As [`poll`]; also ends with 0 when `word` is not `expected`, or when it is woken by [`futex_wake`].
pub fn poll_or_woken(entries: &mut [Poll], timeout_ns: u64, word: &AtomicU32, expected: u32) -> Result<u64> {
    let pointers =
        [entries.as_mut_ptr() as u64, entries.len() as u64, timeout_ns, word.as_ptr() as u64, expected.into()];
    // SAFETY: a slice, which the call reads and writes.
    unsafe { raw(number::POLL, pointers) }
}

/// Sets this thread's FS base: `fs:0` is then the memory at `base`.
///
/// # Safety
/// Whoever uses FS must find there what it expects.
pub unsafe fn set_tls(base: u64) -> Result<()> {
    plain(number::SET_TLS, [base, 0, 0, 0, 0]).map(drop)
}
