//! What unpacking may take, whatever an archive says: bytes, members, and what is said of a member before its content.

use super::error::Problem;
use std::cell::Cell;
use std::io::{self, ErrorKind, Read};

/// Bytes that are read and written at a time.
pub const PIECE: usize = 128 << 10;

/// Most bytes of all streams together when they are decoded, and most bytes of all files.
pub const BYTES_MAX: u64 = 16 << 30;
/// Most members of all archives together. Each may cost memory until the machine ends.
pub const MEMBERS_MAX: u64 = 1 << 20;
/// Most bytes of what is said of one member: its header, long names, extended headers, maps of holes.
pub const NOTES_MAX: u64 = 1 << 20;
/// Most directories in each other: what removes them later goes down as deep.
pub const DEPTH_MAX: usize = 256;

/// What is left of all of it.
pub struct Budget {
    decoded: Cell<u64>,
    written: Cell<u64>,
    members: Cell<u64>,
    notes: Cell<u64>,
}

impl Budget {
    /// All of it.
    pub fn new() -> Budget {
        Budget::of(BYTES_MAX)
    }

    /// So many bytes, decoded and written each.
    pub fn of(bytes: u64) -> Budget {
        let [decoded, written, members, notes] = [bytes, bytes, MEMBERS_MAX, NOTES_MAX].map(Cell::new);
        Budget { decoded, written, members, notes }
    }

    /// What is read from here on describes a member.
    ///
    /// # Errors
    /// There were as many as there may be.
    pub fn begin_notes(&self) -> Result<(), Problem> {
        self.notes.set(NOTES_MAX);
        take(&self.members, 1, Problem::TooMany)
    }

    /// What is read from here on is content.
    pub fn begin_content(&self) {
        self.notes.set(u64::MAX);
    }

    /// So many bytes of a file are about to be written.
    ///
    /// # Errors
    /// There were as many as there may be.
    pub fn write(&self, bytes: u64) -> Result<(), Problem> {
        take(&self.written, bytes, Problem::TooLarge)
    }

    /// A stream whose bytes count. Its errors hold a [`Problem`].
    pub fn metered<R: Read>(&self, stream: R) -> impl Read {
        Metered { stream, budget: self }
    }
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::new()
    }
}

fn take(left: &Cell<u64>, count: u64, problem: Problem) -> Result<(), Problem> {
    left.set(left.get().checked_sub(count).ok_or(problem)?);
    Ok(())
}

struct Metered<'a, R> {
    stream: R,
    budget: &'a Budget,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(bytes).map_err(|error| match error.kind() {
            ErrorKind::Interrupted => error,
            _ => io::Error::other(Problem::of_stream(error)),
        })?;
        take(&self.budget.decoded, count as u64, Problem::TooLarge).map_err(io::Error::other)?;
        take(&self.budget.notes, count as u64, Problem::TooMuchSaid).map_err(io::Error::other)?;
        Ok(count)
    }
}
