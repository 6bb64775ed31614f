//! Threads: what ring 3 had in its registers, and what the thread waits for.
//!
//! Sources: Intel SDM vol. 1 §10.5 (FXSAVE area), vol. 3A §6.14.2 (64-bit stack frame).

use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;

use super::Locked;
use super::abi::{ANY_CPU, Error, PAGE};
use super::frames;
use super::list::{FAMILY, LINKS, Link, List, QUEUE};
use super::process::Process;

/// Most threads at a time.
pub const THREADS_MAX: u64 = 4096;
/// Bytes of one: a frame has four.
pub const THREAD_BYTES: u64 = PAGE / 4;

/// Selectors of ring 3's code and data, and its flags at first: interrupts on.
pub const CODE_3: u64 = 0x33;
const DATA_3: u64 = 0x2b;
const FLAGS: u64 = 0x202;

/// The registers of ring 3, as `entry.s` pushes them.
#[repr(C)]
#[derive(Default)]
pub struct Context {
    pub r15: Cell<u64>,
    pub r14: Cell<u64>,
    pub r13: Cell<u64>,
    pub r12: Cell<u64>,
    pub r11: Cell<u64>,
    pub r10: Cell<u64>,
    pub r9: Cell<u64>,
    pub r8: Cell<u64>,
    pub rbp: Cell<u64>,
    pub rdi: Cell<u64>,
    pub rsi: Cell<u64>,
    pub rdx: Cell<u64>,
    pub rcx: Cell<u64>,
    pub rbx: Cell<u64>,
    pub rax: Cell<u64>,
    /// Which exception or interrupt; of a system call, nothing.
    pub vector: Cell<u64>,
    pub error_code: Cell<u64>,
    pub rip: Cell<u64>,
    pub cs: Cell<u64>,
    pub rflags: Cell<u64>,
    pub rsp: Cell<u64>,
    pub ss: Cell<u64>,
}

/// What a thread is doing.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub enum State {
    /// Nobody: this one can be had.
    Free,
    /// In the queue of those that can run.
    Ready,
    /// On its processor.
    Running,
    /// Until a key is woken, or the deadline comes.
    Waiting,
    /// Ended with a value, which nobody has taken yet.
    Ended,
}

/// A thread. Once made it stays at its place, to be had again when it has ended.
#[repr(C, align(16))]
pub struct Thread {
    /// First, for `entry.s`.
    pub context: Context,
    /// The stack of the processor that runs it, for `entry.s`.
    pub processor_stack: Cell<u64>,
    /// The processor that runs it or ran it last.
    pub cpu: Cell<u64>,
    /// The vector registers, if `vectors_kept`: of one that was preempted.
    pub vectors: UnsafeCell<[u8; 512]>,
    pub vectors_kept: Cell<bool>,
    /// It is to end as soon as it comes into the kernel.
    pub killed: Cell<bool>,
    pub state: Cell<State>,
    /// Unique: the place plus a multiple of [`THREADS_MAX`].
    pub tid: Cell<u64>,
    pub process: Cell<Option<&'static Process>>,
    pub links: [Link; LINKS],
    /// Where `fs:0` is.
    pub tls: Cell<u64>,
    /// The one processor that it may run on, or [`ANY_CPU`].
    pub bound: Cell<u64>,
    /// What it waits for, and when it stops to, in ns; see `wait.rs`.
    pub key: Cell<u64>,
    pub deadline_ns: Cell<u64>,
    /// The result of the call if the deadline comes; `None`: the call is made anew.
    pub late_result: Cell<Option<u64>>,
    /// When the poll that is made again and again is over; 0: it begins.
    pub poll_deadline_ns: Cell<u64>,
    /// What it ended with.
    pub value: Cell<u64>,
    pub system_calls: Cell<u64>,
    pub voluntary_switches: Cell<u64>,
    pub preemptions: Cell<u64>,
    pub cpu_ticks: Cell<u64>,
}

const _: () = assert!(size_of::<Context>() == 176 && offset_of!(Thread, processor_stack) == 176);
const _: () = assert!(size_of::<Thread>() as u64 <= THREAD_BYTES && offset_of!(Thread, vectors) % 16 == 0);

static THREADS: Locked<[Cell<Option<&'static Thread>>; THREADS_MAX as usize]> =
    Locked([const { Cell::new(None) }; THREADS_MAX as usize]);
/// How many were ever made: the places below have one.
static MADE: Locked<Cell<u64>> = Locked(Cell::new(0));
static FREE: Locked<List<QUEUE>> = Locked(List::new());

impl Thread {
    /// A new thread of `process` that will begin at `entry`; nobody runs it yet.
    pub fn new(process: &'static Process, entry: u64, rsp: u64, argument: u64) -> Result<&'static Thread, Error> {
        if FREE.first().is_none() {
            make()?;
        }
        let thread = FREE.pop().ok_or(Error::NoMemory)?;
        let context = &thread.context;
        for register in context.all() {
            register.set(0);
        }
        context.rdi.set(argument);
        context.rip.set(entry);
        context.cs.set(CODE_3);
        context.rflags.set(FLAGS);
        context.rsp.set(rsp);
        context.ss.set(DATA_3);
        thread.tid.set(thread.tid.get().wrapping_add(THREADS_MAX));
        thread.process.set(Some(process));
        thread.state.set(State::Waiting);
        thread.vectors_kept.set(false);
        thread.killed.set(false);
        thread.tls.set(0);
        thread.bound.set(ANY_CPU);
        thread.poll_deadline_ns.set(0);
        thread.late_result.set(None);
        for counter in [&thread.system_calls, &thread.voluntary_switches, &thread.preemptions, &thread.cpu_ticks] {
            counter.set(0);
        }
        process.threads.push(thread);
        process.thread_count.set(process.thread_count.get() + 1);
        Ok(thread)
    }

    /// The thread with this id.
    pub fn find(tid: u64) -> Option<&'static Thread> {
        let thread = THREADS.get((tid % THREADS_MAX) as usize)?.get()?;
        (thread.tid.get() == tid && thread.state.get() != State::Free).then_some(thread)
    }

    /// Every thread, at each place.
    pub fn all() -> impl Iterator<Item = &'static Thread> {
        THREADS
            .iter()
            .take(MADE.get() as usize)
            .filter_map(Cell::get)
            .filter(|thread| thread.state.get() != State::Free)
    }

    /// Its process.
    pub fn process(&self) -> &'static Process {
        self.process.get().expect("a thread that is not free has a process")
    }

    /// Forgets it: the place can be had again. It is in no list but its family's.
    pub fn forget(&'static self) {
        let process = self.process();
        process.threads.remove(self);
        process.thread_count.set(process.thread_count.get() - 1);
        self.state.set(State::Free);
        self.process.set(None);
        FREE.push(self);
    }
}

/// Makes four more out of a frame.
fn make() -> Result<(), Error> {
    let first = MADE.get();
    if first == THREADS_MAX {
        return Err(Error::NoMemory);
    }
    let frame = frames::KERNEL.zeroed().ok_or(Error::NoMemory)?;
    for index in 0..PAGE / THREAD_BYTES {
        let at = frame + index * THREAD_BYTES;
        // SAFETY: the kernel's own memory for ever; zeroes are what `new` expects: numbers, `None`, `State::Free`, no neighbours.
        let thread = unsafe { &*(at as *const Thread) };
        let place = first + index;
        // Nobody has the id 0: that place stays empty.
        if place != 0 {
            thread.tid.set(place.wrapping_sub(THREADS_MAX));
            THREADS[place as usize].set(Some(thread));
            FREE.push(thread);
        }
    }
    MADE.set(first + PAGE / THREAD_BYTES);
    Ok(())
}

impl Context {
    /// Every register.
    fn all(&self) -> &[Cell<u64>; 22] {
        // SAFETY: the structure is so many cells, one after the other.
        unsafe { &*(&raw const *self).cast() }
    }

    /// The arguments of a system call.
    pub fn arguments(&self) -> [u64; 5] {
        [self.rdi.get(), self.rsi.get(), self.rdx.get(), self.r10.get(), self.r8.get()]
    }
}

/// The thread at this address of its context.
///
/// # Safety
/// For `entry.s`, which gives the address of a thread that was entered.
pub unsafe fn of_context(context: u64) -> &'static Thread {
    // SAFETY: the context is the first field of a thread, and those stay.
    unsafe { &*(context as *const Thread) }
}

impl Process {
    /// Its threads, one after the other; a visited one may be forgotten.
    pub fn each_thread(&self, mut visit: impl FnMut(&'static Thread)) {
        let mut next = self.threads.first();
        while let Some(thread) = next {
            next = List::<FAMILY>::after(thread);
            visit(thread);
        }
    }
}
