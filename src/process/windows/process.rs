//! What Hostel keeps of a foreign program that runs.
//!
//! One thread. Source: Microsoft "About Processes and Threads".

use super::heap::Heap;
use super::kernel_wait::Semaphore;
use super::layout::{HEAP, HEAP_END};
use super::regions::Regions;
use super::streams::Streams;
use crate::process::host_files::Files;
use std::collections::BTreeMap;
use std::time::Instant;

/// Most handles that are open at a time.
const HANDLES_MAX: usize = 512;

/// A process.
#[derive(Debug)]
pub struct Process {
    /// What `malloc` and `HeapAlloc` give.
    pub heap: Heap,
    /// What lies where.
    pub regions: Regions,
    /// The C runtime's files.
    pub streams: Streams,
    /// The files behind handles.
    handles: BTreeMap<u64, u32>,
    /// Bits of the thread-local slots that are taken.
    pub slots: u64,
    /// Semaphores by their number.
    pub semaphores: Vec<Option<Semaphore>>,
    /// What `rand` makes its next number of.
    pub random: u32,
    /// When it began.
    pub started: Instant,
    /// Where the program lies.
    pub base: u64,
    /// Name and value of each variable of its environment.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Addresses of what was put into memory at the start.
    pub texts: Texts,
}

/// Where the arguments and the environment lie.
#[derive(Clone, Copy, Debug, Default)]
pub struct Texts {
    /// How many arguments.
    pub count: u32,
    /// The list of their addresses.
    pub arguments: u64,
    /// The list of addresses of the environment.
    pub environment: u64,
    /// The command line.
    pub command_line: u64,
    /// The program's own path.
    pub path: u64,
    /// Where values of variables lie, each behind its name and `=`.
    pub variables: u64,
}

impl Process {
    /// A process before its first instruction.
    pub fn new(files: &dyn Files) -> Process {
        Process {
            heap: Heap::new(HEAP, HEAP_END),
            regions: Regions::default(),
            streams: Streams::new(files),
            handles: (0..3).map(|file| (handle(file), file)).collect(),
            slots: 0,
            semaphores: Vec::new(),
            random: 1,
            started: Instant::now(),
            base: 0,
            environment: Vec::new(),
            texts: Texts::default(),
        }
    }

    /// The file behind a handle.
    pub fn file(&self, handle: u64) -> Option<u32> {
        self.handles.get(&handle).copied()
    }

    /// A handle for an open file; `None`: there are as many as can be.
    pub fn open_handle(&mut self, file: u32) -> Option<u64> {
        if self.handles.len() == HANDLES_MAX {
            return None;
        }
        self.handles.insert(handle(file), file);
        Some(handle(file))
    }

    /// Forgets a handle; the file behind it.
    pub fn close_handle(&mut self, handle: u64) -> Option<u32> {
        self.handles.remove(&handle)
    }
}

/// The handle of a file: a multiple of 4, and not 0.
fn handle(file: u32) -> u64 {
    (u64::from(file) + 1) * 4
}
