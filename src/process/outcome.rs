//! How `hostel exec` ends: what is told of a program, or why there was none, and the status that tells it.
//!
//! Sources: exit statuses as in POSIX "Exit Status for Commands", with 125 as timeout(1) and env(1) have it.

use super::dos::program::LoadError;
use super::paths::RootError;
use super::trap;
use super::vcpus::VcpuError;
use super::windows::start::StartError;
use crate::memory::map::MapError;
use crate::memory::ram::RamError;
use std::ffi::OsString;

/// Status when Hostel or the machine failed.
pub const FAILED: i32 = 125;
/// Status when the program is there and cannot be executed.
const NOT_EXECUTABLE: i32 = 126;
/// Status when there is no such program.
const NOT_FOUND: i32 = 127;
/// Status when the deadline passed.
pub const DEADLINE: i32 = 124;

/// Why a program did not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Its root.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Memory of that size.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Too little memory for the machine's own tables.
    #[error("too little memory for ring 0's pages")]
    NoMemory,
    /// The machine.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The program's file.
    #[error("{}: {source}", .program.display())]
    Program {
        /// What was asked for.
        program: OsString,
        /// Why not.
        source: std::io::Error,
    },
    /// The program's file, where it is one for Windows.
    #[error("{}: {source}", .program.display())]
    Foreign {
        /// What was asked for.
        program: OsString,
        /// Why not.
        source: StartError,
    },
    /// The program's file, where it is one for DOS.
    #[error("{}: {source}", .program.display())]
    Dos {
        /// What was asked for.
        program: OsString,
        /// Why not.
        source: LoadError,
    },
    /// Options that mean nothing to it.
    #[error("{}: --deny and --allow name system calls of Linux, and this is a program for {system}", .program.display())]
    Rules {
        /// What was asked for.
        program: OsString,
        /// What it is for.
        system: &'static str,
    },
    /// Memory that it cannot have.
    #[error("{}: --mem bounds nothing: a program for DOS has a megabyte", .program.display())]
    Megabyte {
        /// What was asked for.
        program: OsString,
    },
    /// No thread of the host's.
    #[error("start a thread for the program: {0}")]
    Thread(std::io::Error),
    /// The handler that takes threads out of the guest.
    #[error("install the handler that ends a program's threads: {0}")]
    Kick(std::io::Error),
    /// The first thread.
    #[error(transparent)]
    Start(#[from] trap::StartError),
}

impl ExecError {
    /// The exit status that tells it.
    pub fn status(&self) -> i32 {
        match self {
            ExecError::Program { source, .. } if source.kind() == std::io::ErrorKind::NotFound => NOT_FOUND,
            ExecError::Program { .. } | ExecError::Foreign { .. } | ExecError::Dos { .. } => NOT_EXECUTABLE,
            _ => FAILED,
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit status.
    pub status: i32,
    /// What is to be said.
    pub said: Vec<String>,
    /// The signal by which this process is to end, where its user has ended it.
    pub signal: Option<i32>,
}

/// What was met and how often, behind a word about it; nothing where it was not.
pub fn listed(about: &str, what: impl Iterator<Item = (String, u64)>) -> Option<String> {
    let word = |(name, count)| if count == 1 { name } else { format!("{name} ({count} times)") };
    let words: Vec<_> = what.map(word).collect();
    (!words.is_empty()).then(|| format!("{about}: {}", words.join(", ")))
}
