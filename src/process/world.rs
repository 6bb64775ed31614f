//! What all programs of a machine share: frames, the root, rules about system calls, the table of processes.

use super::frames::Frames;
use super::futex::Futexes;
use super::paths::Root;
use super::processes::Processes;
use super::signal::state::Signals;
use super::signal::terminal::Terminal;
use super::signal::timers::Timers;
use super::sockets::Sockets;
use super::tables::Trees;
use super::task::End;
use super::trace::Trace;
use crate::bus::bus::lock;
use crate::memory::map::MemoryMap;
use crate::memory::ram::GuestRam;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// Number of the first process.
pub const FIRST_ID: i32 = 2;

/// A process.
pub struct Process {
    /// Its number.
    pub id: i32,
    /// Number of its parent.
    pub parent: AtomicI32,
    /// Number of its group.
    pub group: AtomicI32,
    /// Path of its program.
    pub program: Mutex<Vec<u8>>,
    /// The name that prctl(2) PR_SET_NAME gives.
    pub name: Mutex<[u8; 16]>,
    /// What it does about signals, and which are pending.
    pub signals: Mutex<Signals>,
    /// Told of each signal that comes, and of its end.
    pub signalled: Condvar,
    /// Timers that send signals.
    pub timers: Mutex<Timers>,
    /// The signal that its parent gets at its end; 0 for none.
    pub end_signal: i32,
    ending: Mutex<Option<End>>,
}

impl Process {
    /// A process that has done nothing yet.
    pub fn new(id: i32, parent: i32, group: i32) -> Process {
        Process {
            id,
            parent: AtomicI32::new(parent),
            group: AtomicI32::new(group),
            program: Mutex::default(),
            name: Mutex::default(),
            signals: Mutex::default(),
            signalled: Condvar::new(),
            timers: Mutex::default(),
            end_signal: libc::SIGCHLD,
            ending: Mutex::default(),
        }
    }

    /// A child of `parent`, which inherits what fork(2) says; the parent is to get `end_signal` at its end.
    pub fn child(parent: &Process, id: i32, end_signal: i32) -> Process {
        let mut child = Process::new(id, parent.id, parent.group());
        lock(&child.program).clone_from(&lock(&parent.program));
        *lock(&child.name) = *lock(&parent.name);
        *lock(&child.signals) = lock(&parent.signals).for_child();
        child.end_signal = end_signal;
        child
    }

    /// How it is to end, if it is.
    pub fn ending(&self) -> Option<End> {
        *lock(&self.ending)
    }

    /// From now on it is to end; the first reason counts.
    pub fn begin_end(&self, end: End) {
        lock(&self.ending).get_or_insert(end);
        self.signalled.notify_all();
    }

    /// Number of its parent.
    pub fn parent(&self) -> i32 {
        self.parent.load(Ordering::Relaxed)
    }

    /// Whether a call in which this thread of it waits is to give EINTR.
    pub fn interrupts(&self, thread: i32) -> bool {
        self.ending().is_some() || lock(&self.signals).are_due(thread)
    }

    /// Its group.
    pub fn group(&self) -> i32 {
        self.group.load(Ordering::Relaxed)
    }
}

/// Which system calls programs may make.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Those that are answered with EPERM.
    pub denied: BTreeSet<u64>,
    /// If not empty, all others are too.
    pub allowed: BTreeSet<u64>,
    /// Whether sockets lead to the host's networks and to its own sockets.
    pub net: bool,
}

impl Rules {
    /// Whether a call is answered with EPERM.
    pub fn forbid(&self, number: u64) -> bool {
        let ends = matches!(number as i64, libc::SYS_exit | libc::SYS_exit_group);
        !ends && (self.denied.contains(&number) || !(self.allowed.is_empty() || self.allowed.contains(&number)))
    }
}

/// What all programs of a machine share.
pub struct World {
    /// Memory.
    pub frames: Arc<Frames>,
    /// Page tables that are not used, and ring 0's.
    pub trees: Arc<Trees>,
    /// What programs see of the host's files.
    pub root: Root,
    /// What they may do.
    pub rules: Rules,
    /// Who is shown their calls.
    pub trace: Option<Trace>,
    /// Processes and threads.
    pub processes: Processes,
    /// Words that threads wait for.
    pub futexes: Futexes,
    /// Who gets what is typed to interrupt.
    pub terminal: Terminal,
    /// Names of sockets.
    pub sockets: Sockets,
    /// When it began.
    pub start: Instant,
    /// How often each call was made that is not known here; numbers of any size, so there is a bound.
    unknown: Mutex<BTreeMap<u64, u64>>,
    reason: Mutex<Option<String>>,
}

/// Most numbers of unknown calls that are told apart.
const UNKNOWN_MAX: usize = 256;

impl World {
    /// A machine's world in `ram`, laid out as `map` says; `None` where it is too small for ring 0's pages.
    pub fn new(ram: Arc<GuestRam>, map: &MemoryMap, root: Root, rules: Rules, trace: Option<Trace>) -> Option<World> {
        let frames = Arc::new(Frames::new(ram, map));
        let trees = Arc::new(Trees::new(frames.clone())?);
        Some(World::over(frames, trees, root, rules, trace))
    }

    /// A world that begins on frames and ring 0's pages that there are already.
    pub fn over(frames: Arc<Frames>, trees: Arc<Trees>, root: Root, rules: Rules, trace: Option<Trace>) -> World {
        let sockets = Sockets::new(rules.net);
        World {
            frames,
            trees,
            root,
            rules,
            trace,
            processes: Processes::default(),
            futexes: Futexes::default(),
            sockets,
            terminal: Terminal::default(),
            start: Instant::now(),
            unknown: Mutex::default(),
            reason: Mutex::default(),
        }
    }

    /// Counts a call that is not known.
    pub fn note_unknown(&self, number: u64) {
        let mut unknown = lock(&self.unknown);
        if unknown.len() < UNKNOWN_MAX || unknown.contains_key(&number) {
            *unknown.entry(number).or_default() += 1;
        }
    }

    /// The calls that were not known, and how often each was made.
    pub fn unknown(&self) -> Vec<(u64, u64)> {
        lock(&self.unknown).iter().map(|(number, count)| (*number, *count)).collect()
    }

    /// Notes what a process did to be ended; that of the first process is told at last.
    pub fn note_reason(&self, id: i32, reason: String) {
        if id == FIRST_ID {
            lock(&self.reason).get_or_insert(reason);
        }
    }

    /// What the first process did to be ended.
    pub fn reason(&self) -> Option<String> {
        lock(&self.reason).clone()
    }

    /// What is to be said of a process's end, if anything.
    pub fn tell_end(&self, id: i32, end: End) {
        if let Some(trace) = &self.trace {
            trace.ended(id, end);
        }
    }
}
