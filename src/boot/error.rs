//! Why an image does not boot: the image's name and the problem, one line.

use super::format::{ImageFormat, SUPPORTED};
use crate::memory::map::GuestRange;
use crate::memory::ram::RamError;
use std::io;

/// An image that does not boot.
#[derive(Debug, thiserror::Error)]
#[error("{image}: {problem}")]
pub struct BootError {
    /// The image: a path, or a sample's name.
    pub image: String,
    /// What is wrong with it.
    #[source]
    pub problem: Problem,
}

/// What is wrong with an image, or with what it is to be loaded with.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Problem {
    #[error("cannot open it: {0}")]
    Open(io::Error),
    #[error("neither a file nor a sample guest; `hostel guests` lists those")]
    NoSuchGuest,
    #[error("this user may not read it. Make a readable copy: sudo install -m 0644 {path} {copy}")]
    Unreadable { path: String, copy: String },
    #[error("not a file but {0}")]
    NotAFile(&'static str),
    #[error("the file is empty")]
    Empty,
    #[error("cannot read it: {0}")]
    Read(io::Error),
    #[error("the file changed while it was read")]
    Changed,
    #[error("{found}, which does not boot. Supported: {SUPPORTED}")]
    Unsupported { found: String },
    #[error("this is {0} for Linux, not a kernel; hostel exec runs those")]
    Program(&'static str),
    #[error("this is a program for Windows, not a kernel; hostel exec runs those")]
    WindowsProgram,
    #[error("forced to be {0}, which it is not")]
    NotThatFormat(ImageFormat),
    #[error("broken {format}: {what}")]
    Malformed { format: &'static str, what: String },
    #[error("its Multiboot header demands what this machine does not have (flags {0:#x}; 0x4 is a video mode)")]
    MultibootFlags(u32),
    #[error("its entry point {entry:#x} lies in none of its segments")]
    EntryOutside { entry: u64 },
    #[error("its entry point {entry:#x} lies beyond 4 GiB, out of reach of the mode that it is entered in")]
    EntryTooHigh { entry: u64 },
    #[error(
        "{what} needs {size} bytes at {start:#x}, which is not free guest RAM (RAM ends at {low_end:#x}; --mem gives more)"
    )]
    NotRam { what: String, start: u64, size: u64, low_end: u64 },
    #[error("{what} ({}) overlaps {other} ({})", show(.range), show(.other_range))]
    Overlap { what: String, range: GuestRange, other: String, other_range: GuestRange },
    #[error("{what} of {size} bytes does not fit into the guest's RAM below {limit:#x}; give the machine more (--mem)")]
    NoRoom { what: String, size: u64, limit: u64 },
    #[error("the command line has {size} bytes, at most {max} fit")]
    CmdlineTooLong { size: usize, max: usize },
    #[error("the command line: {0}")]
    Cmdline(linux_loader::cmdline::Error),
    #[error("{format} has no place for {what}")]
    NoPlaceFor { format: ImageFormat, what: &'static str },
    #[error("{0}")]
    Ram(#[from] RamError),
    #[error("{what}: {source}")]
    Loader { what: &'static str, source: linux_loader::loader::Error },
    #[error("{what}: {source}")]
    Parameters { what: &'static str, source: linux_loader::configurator::Error },
}

impl Problem {
    /// The problem, said of `image`.
    pub fn of(self, image: &str) -> BootError {
        BootError { image: image.to_string(), problem: self }
    }
}

fn show(range: &GuestRange) -> String {
    format!("{:#x}..{:#x}", range.start, range.end())
}
