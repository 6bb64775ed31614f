//! What the sample kernel and its ring-3 programs agree on: numbers of the system calls, their arguments, errors, structures.
//!
//! A call is the instruction `INT 0x80` with the number in RAX and up to five arguments in RDI, RSI, RDX, R10 and R8, where Linux has
//! them. RAX comes back with the result, or with an error as a small negative number. A call is a call: whatever a function may
//! change by the System V calling convention it may change too, vector registers included, so the kernel need not save them there;
//! a thread that is preempted keeps all its registers. Pointers that do not lead to the caller's own memory give [`Error::Fault`].
//!
//! Left out: signals, a tree of files, users. Both sides compile this file, so it names nothing of either.
//! Sources: System V ABI AMD64 §3.2.1 (registers), §A.2 (system calls); Linux `include/uapi/asm-generic/errno-base.h` (errors).

/// The numbers of the calls. What each takes and gives stands beside it; all may fail with an [`Error`].
pub mod number {
    /// `(status)`: ends the process, all its threads. Does not return.
    pub const EXIT: u64 = 0;
    /// `(name, name_bytes, arguments, argument_bytes)` -> process id: starts a built-in program.
    pub const SPAWN: u64 = 1;
    /// `(pid or 0 for any child, *mut Ended, flags)` -> process id: waits for a child's end and forgets it. [`super::NO_BLOCK`].
    pub const WAIT: u64 = 2;
    /// `()` -> the caller's process id.
    pub const GETPID: u64 = 3;
    /// `(pid)` -> 0: ends another process, or this one, as [`super::END_KILLED`].
    pub const KILL: u64 = 4;
    /// `(entry, stack_top, argument, tls, cpu)` -> thread id: a thread of this process that begins at `entry` with `argument` in
    /// RDI, 16-byte aligned `stack_top` less 8 in RSP, FS base `tls`. `cpu`: as for [`THREAD_BIND`].
    pub const THREAD_CREATE: u64 = 5;
    /// `(value)`: ends this thread; the process ends with its last one, as [`super::END_EXIT`] 0. Does not return.
    pub const THREAD_EXIT: u64 = 6;
    /// `(tid, *mut u64 or null, flags)` -> 0: waits for the end of a thread of this process, takes the value that it ended with and
    /// forgets it. One thread may wait for each. [`super::NO_BLOCK`].
    pub const THREAD_JOIN: u64 = 7;
    /// `()` -> 0: lets another thread run, if one is ready.
    pub const YIELD: u64 = 8;
    /// `()` -> the caller's thread id, unique in the machine.
    pub const GETTID: u64 = 9;
    /// `(cpu or ANY_CPU)` -> 0: this thread runs on that processor alone from the time that the call returns: what makes a thread
    /// of the kernel the light-weight process of one processor.
    pub const THREAD_BIND: u64 = 10;
    /// `(*const u32, expected, timeout_ns)` -> 0 when woken: sleeps if the word at the address, aligned to 4, is `expected`, else
    /// [`super::Error::Again`]; [`super::Error::TimedOut`] after `timeout_ns`, where [`super::FOREVER`] is no limit.
    pub const FUTEX_WAIT: u64 = 11;
    /// `(*const u32, count)` -> how many: wakes so many of those that sleep at the address.
    pub const FUTEX_WAKE: u64 = 12;
    /// `(bytes)` -> address: pages of zeroes, which get memory when they are touched first.
    pub const MAP: u64 = 13;
    /// `(address, bytes)` -> 0: gives pages back; both multiples of [`super::PAGE`].
    pub const UNMAP: u64 = 14;
    /// `()` -> nanoseconds since the kernel started.
    pub const CLOCK: u64 = 15;
    /// `(duration_ns)` -> 0.
    pub const SLEEP: u64 = 16;
    /// `()` -> the processor, from 0 on, that the caller runs on.
    pub const CPU: u64 = 17;
    /// `(*mut System)` -> 0: what the machine is.
    pub const SYSTEM: u64 = 18;
    /// `(*mut Usage)` -> 0: what the calling thread and its process have used.
    pub const USAGE: u64 = 19;
    /// `(*mut Row, rows)` -> how many there are: the threads of all processes; at most `rows` are written.
    pub const SNAPSHOT: u64 = 20;
    /// `(name, name_bytes)` -> descriptor: [`super::NET`], [`super::DISK`] or [`super::CONSOLE`]. Files are what a program makes
    /// of the disk.
    pub const OPEN: u64 = 21;
    /// `(descriptor)` -> 0.
    pub const CLOSE: u64 = 22;
    /// `(descriptor, *mut u8, bytes, offset, flags)` -> bytes read; 0 at the end. A console waits for what is typed (and until the
    /// program is in front), a network card for a frame, of which what does not fit is lost; neither has offsets. A disk gives
    /// at most [`super::FILE_READ_MAX`] bytes and none across a multiple of that; each descriptor keeps the part that it read last.
    /// With [`super::NO_BLOCK`] a wait is [`super::Error::Again`]; a disk's read has then begun, [`POLL`] tells when it is done, and
    /// the same call gives the bytes.
    pub const READ: u64 = 23;
    /// `(descriptor, *const u8, bytes)` -> bytes written: to the console, or one frame to the network card.
    pub const WRITE: u64 = 24;
    /// `(descriptor)` -> bytes of the disk.
    pub const SIZE: u64 = 25;
    /// `(*mut Poll, entries, timeout_ns, *const u32 or null, expected)` -> how many are ready: waits until one is, or the time is over
    /// (0). With an address it also returns 0 when the word there is not `expected`, or becomes so and [`FUTEX_WAKE`] is called there.
    pub const POLL: u64 = 26;
    /// `(base)` -> 0: this thread's FS base, which is the thread's own.
    pub const SET_TLS: u64 = 27;
}

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// A timeout that never comes.
pub const FOREVER: u64 = u64::MAX;
/// Any processor.
pub const ANY_CPU: u64 = u64::MAX;
/// Flag: fail with [`Error::Again`] rather than wait.
pub const NO_BLOCK: u64 = 1 << 0;

/// Descriptors that each process begins with: the console, to read from and to write to.
pub const INPUT: u64 = 0;
/// See [`INPUT`].
pub const OUTPUT: u64 = 1;
/// Name of the console.
pub const CONSOLE: &[u8] = b"/console";
/// Name of the network card, in raw Ethernet frames.
pub const NET: &[u8] = b"/net";
/// Name of the disk, in raw sectors.
pub const DISK: &[u8] = b"/disk";

/// Most bytes of a name, and of the arguments of a program.
pub const NAME_BYTES_MAX: u64 = 64;
/// See [`NAME_BYTES_MAX`].
pub const ARGUMENT_BYTES_MAX: u64 = 512;
/// Most bytes that one [`number::WRITE`] to the console takes; it writes the first so many of more.
pub const WRITE_MAX: u64 = 256;
/// Most bytes that one read of the disk gives.
pub const FILE_READ_MAX: u64 = PAGE;
/// Most bytes of a frame: Ethernet's 1514.
pub const FRAME_BYTES_MAX: u64 = 1514;
/// Most entries of one [`number::POLL`], and most open files of a process.
pub const POLL_MAX: u64 = 64;

/// Where the memory of a process begins and ends; below lies the kernel, which ring 3 cannot reach.
pub const USER_BASE: u64 = 1 << 39;
/// See [`USER_BASE`].
pub const USER_END: u64 = 2 << 39;

/// Why a call failed: the numbers are Linux's.
#[repr(i64)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// No such program, file or device.
    NoEntry = 2,
    /// No such process or thread.
    NoProcess = 3,
    /// The device failed.
    Io = 5,
    /// No such descriptor, or not for this.
    BadFile = 9,
    /// No child to wait for.
    NoChild = 10,
    /// It would have to wait; the futex has another value.
    Again = 11,
    /// No memory, or no process, thread or descriptor left.
    NoMemory = 12,
    /// A pointer does not lead to the caller's memory.
    Fault = 14,
    /// An argument makes no sense.
    Invalid = 22,
    /// No such call.
    NoCall = 38,
    /// The time is over.
    TimedOut = 110,
}

impl Error {
    /// Every error.
    pub const ALL: [Error; 11] = [
        Error::NoEntry,
        Error::NoProcess,
        Error::Io,
        Error::BadFile,
        Error::NoChild,
        Error::Again,
        Error::NoMemory,
        Error::Fault,
        Error::Invalid,
        Error::NoCall,
        Error::TimedOut,
    ];

    /// The result that tells of it.
    pub const fn result(self) -> u64 {
        -(self as i64) as u64
    }
}

/// [`Ended::kind`]: by [`number::EXIT`], `value` is the status.
pub const END_EXIT: u64 = 0;
/// [`Ended::kind`]: by [`number::KILL`].
pub const END_KILLED: u64 = 1;
/// [`Ended::kind`]: by an exception, whose vector is `value`.
pub const END_FAULT: u64 = 2;

/// How a process ended.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Ended {
    /// One of the `END_` numbers.
    pub kind: u64,
    /// What the kind says.
    pub value: u64,
}

/// What the machine is.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct System {
    /// Processors that run.
    pub cpus: u64,
    /// The time stamp counter's ticks a millisecond, as measured against the LAPIC timer; the counters of all processors agree.
    pub ticks_per_ms: u64,
    /// Time between two interrupts of the scheduler's timer.
    pub slice_ns: u64,
    /// Bytes of the kernel's memory for a thread.
    pub thread_bytes: u64,
    /// Bytes of memory that no process has.
    pub free_bytes: u64,
    /// The network card's address in the low six bytes, first byte lowest; 0: no card.
    pub mac: u64,
    /// Bytes of the disk; 0: no disk.
    pub disk_bytes: u64,
}

/// What a thread and its process have used.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Usage {
    /// System calls of this thread, this one included.
    pub system_calls: u64,
    /// How often the thread lost the processor by waiting or yielding.
    pub voluntary_switches: u64,
    /// How often the timer took the processor from it.
    pub preemptions: u64,
    /// Time stamp ticks that the thread ran, its system calls included.
    pub cpu_ticks: u64,
    /// Pages of memory that the process has, its page tables included.
    pub process_pages: u64,
    /// Threads that the process has.
    pub process_threads: u64,
    /// System calls of all threads that the process ever had.
    pub process_system_calls: u64,
}

/// [`Row::state`]: runs on `cpu`.
pub const STATE_RUNNING: u64 = 0;
/// [`Row::state`]: could run.
pub const STATE_READY: u64 = 1;
/// [`Row::state`]: waits; `waits_for` says what for.
pub const STATE_WAITING: u64 = 2;
/// [`Row::state`]: has ended and has not been waited for.
pub const STATE_ENDED: u64 = 3;

/// A thread in the table of processes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Row {
    /// Its process.
    pub pid: u64,
    /// The process that started that; 0: the kernel's shell.
    pub parent: u64,
    /// The thread.
    pub tid: u64,
    /// One of the `STATE_` numbers.
    pub state: u64,
    /// One of the call numbers that it waits in, if it waits.
    pub waits_for: u64,
    /// The processor that it runs on or ran on last.
    pub cpu: u64,
    /// Root of the page tables: the address space.
    pub cr3: u64,
    /// Where in ring 3 it is.
    pub rip: u64,
    /// Its stack pointer.
    pub rsp: u64,
    /// Time stamp ticks that it ran.
    pub cpu_ticks: u64,
    /// Open descriptors of the process, a bit each.
    pub open_files: u64,
    /// The program's name, padded by zeroes.
    pub name: [u8; 16],
}

/// [`Poll::wanted`] and [`Poll::ready`]: a read would not wait.
pub const READABLE: u32 = 1 << 0;
/// [`Poll::wanted`] and [`Poll::ready`]: a write would not wait.
pub const WRITABLE: u32 = 1 << 1;
/// [`Poll::ready`]: no such descriptor.
pub const INVALID: u32 = 1 << 2;

/// A descriptor that [`number::POLL`] looks at. For a disk, readable is: the read that began last has ended.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Poll {
    /// The descriptor.
    pub descriptor: u32,
    /// What is asked for.
    pub wanted: u32,
    /// What of it is so; written by the call.
    pub ready: u32,
    /// 0.
    pub reserved: u32,
}
