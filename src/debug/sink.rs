//! What a trace is shown to: lines, summary, export, report, golden file and budget each implement [`TraceSink`] and know
//! nothing of each other.
//!
//! Sinks run on the trace's own thread, in the order of the exits; none may block on the guest.

use super::counters::Counted;
use super::event::ExitEvent;
use super::locate::Located;
use std::io;

/// An exit as a sink sees it.
#[derive(Clone, Copy, Debug)]
pub struct Traced<'a> {
    /// The exit and its answer.
    pub event: &'a ExitEvent,
    /// The instruction that caused it, where that can be told.
    pub instruction: Option<&'a Located>,
    /// Symbol of that instruction: "start+0x12".
    pub symbol: Option<&'a str>,
}

/// A point in the life of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Milestone {
    /// The program's own code begins; the time 0.
    ProcessStart,
    /// RAM is mapped, and empty.
    RamMapped,
    /// The image is in RAM.
    ImageLoaded,
    /// The virtual machine and its vCPUs exist.
    KvmReady,
    /// vCPU 0 is about to enter the guest.
    FirstEntry,
    /// The guest sends its first byte over COM1.
    FirstSerialByte,
    /// A LAPIC sees the first end of an interrupt that the IOAPIC sent.
    FirstInterrupt,
    /// The guest says by a write to port 0x80 or 0xe9 that it has come to user space, or wherever it marks.
    Mark,
    /// The end of the run is decided.
    End,
}

impl Milestone {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Milestone::ProcessStart => "process start",
            Milestone::RamMapped => "memory",
            Milestone::ImageLoaded => "image loaded",
            Milestone::KvmReady => "KVM ready",
            Milestone::FirstEntry => "first entry",
            Milestone::FirstSerialByte => "first serial byte",
            Milestone::FirstInterrupt => "first interrupt",
            Milestone::Mark => "mark",
            Milestone::End => "end",
        }
    }
}

/// What is known when a run is over.
#[derive(Clone, Debug, Default)]
pub struct TraceEnd {
    /// When the run's end was decided.
    pub ended_ns: u64,
    /// How it ended, in one line.
    pub reason: String,
    /// Exits that no sink saw because the trace fell behind.
    pub dropped: u64,
    /// The milestones that were reached, ascending by time.
    pub milestones: Vec<(Milestone, u64)>,
    /// What KVM and Hostel counted.
    pub counted: Counted,
    /// What was run and on what, for the head of a report: pairs of name and value ("image", "host kernel").
    pub facts: Vec<(&'static str, String)>,
}

/// What a sink has found when the run is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to object.
    Fine,
    /// The run does not keep to what was asked for: why, in lines for the user.
    Broken(String),
}

/// Something that looks at a trace.
pub trait TraceSink: Send {
    /// Takes the next exit.
    ///
    /// # Errors
    /// What it writes to refuses; it is shown no further exit, and the error is told at the end.
    fn exit(&mut self, exit: &Traced) -> io::Result<()>;

    /// Everything that was shown at once has been shown: a sink for eyes writes out what it held back.
    ///
    /// # Errors
    /// As [`TraceSink::exit`].
    fn pause(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The run is over: writes what is left.
    ///
    /// # Errors
    /// What it writes to refuses.
    fn finish(&mut self, end: &TraceEnd) -> io::Result<Verdict>;
}
