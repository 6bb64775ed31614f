//! Processes: an address space, threads, open files, a parent.
//!
//! A process is a virtual processor with a world of its own: it sees its registers and its memory, and what it asks for. It ends by
//! itself, by its last thread, by another process, or by an exception; what remains is how it ended, until its parent asks.

use core::cell::Cell;

use guest::print;

use super::Locked;
use super::abi::{ANY_CPU, ARGUMENT_BYTES_MAX, END_EXIT, Ended, Error, PAGE, USER_END};
use super::files::{self, File, Kind};
use super::frames;
use super::list::{FAMILY, List};
use super::programs::Program;
use super::space::{Access, Space};
use super::thread::{State, Thread};
use super::wait::{self, child_key, thread_key};
use super::{elf, processor, scheduler, session};

/// Most processes at a time.
pub const PROCESSES_MAX: u64 = 256;
/// Most open files of a process.
pub const FILES_MAX: usize = 64;
/// Bytes that the first thread's stack may grow to.
const STACK_BYTES: u64 = 256 << 10;

/// A process. Once made it stays at its place, to be had again.
pub struct Process {
    /// Unique: the place plus a multiple of [`PROCESSES_MAX`]. 0: the shell, which is none.
    pub pid: Cell<u64>,
    pub used: Cell<bool>,
    pub parent: Cell<u64>,
    pub program: Cell<Option<&'static Program>>,
    pub space: Space,
    pub threads: List<FAMILY>,
    pub thread_count: Cell<u64>,
    /// Of all threads that it ever had.
    pub system_calls: Cell<u64>,
    /// How it ended; its threads may still be on their way.
    pub ended: Cell<Option<Ended>>,
    /// No thread, memory or file is left.
    pub is_gone: Cell<bool>,
    /// What is typed is for it.
    pub is_foreground: Cell<bool>,
    pub files: [File; FILES_MAX],
}

const _: () = assert!(size_of::<Process>() as u64 <= PAGE);

static PROCESSES: Locked<[Cell<Option<&'static Process>>; PROCESSES_MAX as usize]> =
    Locked([const { Cell::new(None) }; PROCESSES_MAX as usize]);

/// Where the next is looked for, and how far they were ever made.
static NEXT: Locked<Cell<u64>> = Locked(Cell::new(1));
static MADE: Locked<Cell<u64>> = Locked(Cell::new(0));

impl Process {
    /// The process with this id.
    pub fn find(pid: u64) -> Option<&'static Process> {
        let process = PROCESSES.get((pid % PROCESSES_MAX) as usize)?.get()?;
        (process.pid.get() == pid && process.used.get()).then_some(process)
    }

    /// Every process.
    pub fn all() -> impl Iterator<Item = &'static Process> {
        PROCESSES.iter().take(MADE.get() as usize).filter_map(Cell::get).filter(|process| process.used.get())
    }

    /// A process that can be had.
    fn new() -> Result<&'static Process, Error> {
        for _ in 0..PROCESSES_MAX {
            // In turn, so that a number comes again as late as can be.
            let place = NEXT.get() % PROCESSES_MAX;
            NEXT.set(place + 1);
            let slot = &PROCESSES[place as usize];
            let process = match slot.get() {
                Some(process) if process.used.get() => continue,
                Some(process) => process,
                // Nobody has the number 0.
                None if place == 0 => continue,
                None => {
                    let frame = frames::KERNEL.zeroed().ok_or(Error::NoMemory)?;
                    // SAFETY: the kernel's own memory for ever; zeroes are what is expected below: numbers, `None`, empty lists.
                    let process = unsafe { &*(frame as *const Process) };
                    process.pid.set(place.wrapping_sub(PROCESSES_MAX));
                    slot.set(Some(process));
                    MADE.set(MADE.get().max(place + 1));
                    process
                }
            };
            process.pid.set(process.pid.get().wrapping_add(PROCESSES_MAX));
            process.used.set(true);
            process.ended.set(None);
            process.is_gone.set(false);
            return Ok(process);
        }
        Err(Error::NoMemory)
    }

    /// Starts `program` with these arguments as a child of `parent`.
    pub fn spawn(
        program: &'static Program,
        arguments: &[u8],
        parent: u64,
        is_foreground: bool,
    ) -> Result<&'static Process, Error> {
        let process = Process::new()?;
        process.parent.set(parent);
        process.program.set(Some(program));
        process.is_foreground.set(is_foreground);
        match process.fill(program, arguments) {
            Ok(thread) => {
                scheduler::make_ready(thread);
                Ok(process)
            }
            Err(error) => {
                process.each_thread(Thread::forget);
                process.space.free();
                process.used.set(false);
                Err(error)
            }
        }
    }

    /// Gives a new process its memory, files and first thread.
    fn fill(&'static self, program: &'static Program, arguments: &[u8]) -> Result<&'static Thread, Error> {
        self.space.init()?;
        let entry = elf::load(program.image, &self.space)?;
        let top = USER_END - PAGE; // nothing above, so that what runs over the top faults
        self.space.add_range(top - STACK_BYTES, top - PAGE)?;
        let frame = self.space.frame()?;
        self.space.map(top - PAGE, frame, Access::Data)?;
        let bytes = (arguments.len() as u64).min(ARGUMENT_BYTES_MAX);
        let place = top - ARGUMENT_BYTES_MAX;
        frames::copy(frame + (place & (PAGE - 1)), arguments.as_ptr() as u64, bytes);
        for file in &self.files {
            file.kind.set(Kind::Closed);
        }
        self.files[0].kind.set(Kind::Console);
        self.files[1].kind.set(Kind::Console);
        let thread = Thread::new(self, entry, place - 8, place)?;
        thread.context.rsi.set(bytes);
        self.system_calls.set(0);
        Ok(thread)
    }

    /// The program's name.
    pub fn name(&self) -> &'static str {
        self.program.get().map_or("", |program| program.name)
    }

    /// Ends the process: its threads are gone as soon as they can be. `current` is the thread that asks, if it is one of them.
    pub fn end(&'static self, ended: Ended) {
        if self.ended.get().is_some() {
            return;
        }
        self.ended.set(Some(ended));
        self.each_thread(|thread| match thread.state.get() {
            State::Running => {
                thread.killed.set(true);
                processor::interrupt(thread.cpu.get());
            }
            _ => {
                wait::forget(thread);
                scheduler::forget(thread);
                thread.forget();
            }
        });
        self.finish_if_empty();
    }

    /// Ends a thread that runs on this processor, with a value that another may take.
    pub fn end_thread(&'static self, thread: &'static Thread, value: u64) {
        thread.value.set(value);
        let running = self.thread_count.get() > 1 && self.ended.get().is_none();
        if running && self.has_another_alive(thread) {
            thread.state.set(State::Ended);
            wait::wake(thread_key(thread.tid.get()), u64::MAX, 0);
            return;
        }
        // The last: the process ends with it, and so do those that ended before and were never asked.
        if self.ended.get().is_none() {
            thread.forget();
            self.end(Ended { kind: END_EXIT, value: 0 });
        } else {
            thread.forget();
            self.finish_if_empty();
        }
    }

    /// Whether a thread other than `thread` has not ended.
    fn has_another_alive(&self, thread: &Thread) -> bool {
        let mut next = self.threads.first();
        while let Some(other) = next {
            if !core::ptr::eq(other, thread) && other.state.get() != State::Ended {
                return true;
            }
            next = List::<FAMILY>::after(other);
        }
        false
    }

    /// Frees what it had when its last thread is gone, and tells its parent.
    fn finish_if_empty(&'static self) {
        if self.thread_count.get() != 0 || self.is_gone.replace(true) {
            return;
        }
        for file in &self.files {
            files::close(file);
        }
        processor::leave_space(&self.space);
        self.space.free();
        for child in Process::all().filter(|child| child.parent.get() == self.pid.get()) {
            child.parent.set(0);
        }
        match Process::find(self.parent.get()).filter(|parent| parent.ended.get().is_none()) {
            Some(parent) => {
                wait::wake(child_key(parent.pid.get()), u64::MAX, 0);
            }
            None => {
                self.parent.set(0);
                session::wake();
            }
        }
    }

    /// Forgets a process that is gone; how it ended.
    pub fn reap(&self) -> Ended {
        self.used.set(false);
        self.ended.get().unwrap_or_default()
    }

    /// Tells on the console that an exception ended it.
    pub fn tell_fault(&self, thread: &Thread, name: &str) {
        print!("process ", self.pid.get(), " (", self.name(), "), thread ", thread.tid.get(), ": killed by ", name);
    }
}

/// The processor number that a thread may be bound to.
pub fn valid_cpu(cpu: u64) -> Result<u64, Error> {
    if cpu == ANY_CPU || cpu < processor::count() { Ok(cpu) } else { Err(Error::Invalid) }
}
