//! What is wrong with an archive, or with the host that it is unpacked on.

use super::budget::{BYTES_MAX, DEPTH_MAX, MEMBERS_MAX, NOTES_MAX};
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// Most bytes of a name or a text that are shown.
const SHOWN_MAX: usize = 256;
/// Most parts of a list that are shown.
const LISTED_MAX: usize = 4;

/// An archive that cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[error("unpack {}: {problem}", path.display())]
pub struct UnpackError {
    /// The archive or layout.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong, in one line of bounded length, whatever the archive says.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be read: the host, or what it is made of.
    #[error("{}", told(.0))]
    Read(#[from] io::Error),
    /// Not a tar archive.
    #[error("it is no tar archive, plain or packed by gzip, zstd or xz")]
    NotAnArchive,
    /// Nothing in it.
    #[error("it holds nothing")]
    Empty,
    /// One of its members.
    #[error("{name}: {fault}")]
    Member {
        /// Its name.
        name: String,
        /// What is wrong with it.
        fault: Fault,
    },
    /// More content than is unpacked.
    #[error("it holds more than {} GiB", BYTES_MAX >> 30)]
    TooLarge,
    /// More members than are unpacked.
    #[error("it has more than {MEMBERS_MAX} members")]
    TooMany,
    /// A description that is longer than any.
    #[error("what it says of a member is longer than {} KiB", NOTES_MAX >> 10)]
    TooMuchSaid,
    /// A blob that is not what its digest says.
    #[error("{digest}: its content has another digest")]
    WrongDigest {
        /// What it is called by.
        digest: String,
    },
    /// A blob of another size.
    #[error("{digest}: it has {found} bytes, and {said} are said")]
    WrongSize {
        /// What it is called by.
        digest: String,
        /// What its descriptor says.
        said: u64,
        /// What it has.
        found: u64,
    },
    /// A blob that cannot be read.
    #[error("{digest}: {source}")]
    Blob {
        /// What it is called by.
        digest: String,
        /// Why not.
        source: io::Error,
    },
    /// The layout makes no sense, or is of a kind that is not known.
    #[error("{0}")]
    Layout(String),
    /// The directory to unpack into.
    #[error("make a directory in {}: {source}", path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody wanted it to end.
    #[error("interrupted")]
    Interrupted,
}

/// What is wrong with a member.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Its name, or what it links to, leads up.
    #[error("`..` leads out of the archive")]
    LeadsUp,
    /// A name that names nothing.
    #[error("this is no name of a file")]
    NoName,
    /// A kind of member that has no meaning here.
    #[error("a member of type {0:?} is not known")]
    Kind(char),
    /// Directories in directories.
    #[error("it lies deeper than {DEPTH_MAX} directories")]
    TooDeep,
    /// A hard link to what is not there.
    #[error("it is a hard link to what the archive does not have: {source}")]
    Link {
        /// What the host says.
        source: io::Error,
    },
    /// Less content than its size says.
    #[error("the archive ends in the middle of it")]
    Truncated,
    /// What the host says.
    #[error("{}", told(.0))]
    Host(#[from] io::Error),
}

impl Problem {
    /// The problem of this file or directory.
    pub fn of(self, path: &Path) -> UnpackError {
        UnpackError { path: path.into(), problem: self }
    }

    /// What an error of a stream is: one of ours that has come through it, or the host's or the decoder's.
    pub fn of_stream(error: io::Error) -> Problem {
        match error.downcast::<Problem>() {
            Ok(problem) => problem,
            Err(error) => Problem::Read(error),
        }
    }
}

impl From<Errno> for Fault {
    fn from(error: Errno) -> Fault {
        Fault::Host(error.into())
    }
}

impl Fault {
    /// The problem of the member of this name.
    pub fn of(self, name: &[u8]) -> Problem {
        Problem::Member { name: shown(name), fault: self }
    }
}

/// What an archive or a layout says, as it may be shown: without control characters, and not all of what is longer than any name.
pub fn shown(said: impl AsRef<[u8]>) -> String {
    let said = said.as_ref();
    let (front, more) = said.split_at(said.len().min(SHOWN_MAX));
    format!("{}{}", front.escape_ascii(), if more.is_empty() { "" } else { "..." })
}

/// What an error says: that of a decoder, or of the crate `tar`, has parts of the archive in it.
fn told(error: &io::Error) -> String {
    let text = error.to_string();
    let shown = text.chars().take(SHOWN_MAX);
    shown.map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// The first of a list, as they may be shown, and how many there are besides.
pub fn listed(all: &[String]) -> String {
    let (front, more) = all.split_at(all.len().min(LISTED_MAX));
    let front: Vec<_> = front.iter().map(shown).collect();
    match more.len() {
        0 => front.join(", "),
        more => format!("{} and {more} more", front.join(", ")),
    }
}
