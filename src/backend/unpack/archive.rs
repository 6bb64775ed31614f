//! The members of a tar archive, in order. The crate `tar` reads the headers; this file bounds what it reads for them, drains what
//! was not asked for, and makes of a member what it is to be.
//!
//! Known are the old format, ustar, GNU's (long names, holes) and pax headers (paths, sizes, owners). Left out: extended attributes,
//! access control lists, times below a second. Source: tar(5).

use super::budget::Budget;
use super::error::{Fault, Problem};
use std::io::{self, Read};
use tar::{Archive, Entry, EntryType};

/// What a member says of itself besides its content.
pub struct Member {
    /// Where it belongs: components, without empty ones and `.`; none for the root itself.
    pub path: Vec<Vec<u8>>,
    /// What it is.
    pub kind: Kind,
    /// Whose it is.
    pub owner: Owner,
    /// When it was changed, in seconds since 1970.
    pub mtime_s: i64,
}

/// Whose a member is, and what others may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions, with set-user-ID and its like.
    pub mode: u32,
}

/// What a member is.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of so many bytes.
    File(u64),
    /// Another name of what stands at this path.
    HardLink(Vec<Vec<u8>>),
    /// A symbolic link with this content.
    SymbolicLink(Vec<u8>),
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character device: major and minor number.
    Character(u32, u32),
    /// A block device.
    Block(u32, u32),
}

/// Shows `each` all members of the archive that `stream` holds, with their content. Returns how many there were.
///
/// # Errors
/// The archive is none, or more than `budget` allows; or what `each` says.
pub fn for_each(
    stream: &mut dyn Read,
    budget: &Budget,
    each: &mut dyn FnMut(&Member, &mut dyn Read) -> Result<(), Problem>,
) -> Result<u64, Problem> {
    let mut archive = Archive::new(budget.metered(stream));
    let mut entries = archive.entries().map_err(Problem::of_stream)?;
    let mut count = 0;
    loop {
        budget.begin_notes()?;
        let Some(entry) = entries.next() else { return Ok(count) };
        let mut entry = entry.map_err(|error| match error.downcast::<Problem>() {
            Ok(problem) => problem,
            // What is none fails at once, by the sum over its header.
            Err(_) if count == 0 => Problem::NotAnArchive,
            Err(error) => Problem::Read(error),
        })?;
        budget.begin_content();
        count += 1;
        // Before anything is done for it: a hole may be larger than all disks.
        budget.write(entry.size())?;
        // Headers for all that follows: nothing in them that matters here.
        if !entry.header().entry_type().is_pax_global_extensions() {
            let name = entry.path_bytes().into_owned();
            each(&member(&entry).map_err(|fault| fault.of(&name))?, &mut entry)?;
        }
        // What is left is passed over here, where it does not count as said of the next one.
        io::copy(&mut entry, &mut io::sink()).map_err(Problem::of_stream)?;
    }
}

fn member(entry: &Entry<'_, impl Read>) -> Result<Member, Fault> {
    let header = entry.header();
    let link = || entry.link_name_bytes().ok_or(Fault::NoName);
    let number = |number: io::Result<Option<u32>>| number.map(Option::unwrap_or_default);
    let device = || Ok::<_, Fault>((number(header.device_major())?, number(header.device_minor())?));
    let name = entry.path_bytes();
    let kind = match header.entry_type() {
        // Old archives have no type of directories: their names end with a slash.
        EntryType::Regular if name.ends_with(b"/") && header.as_ustar().is_none() && header.as_gnu().is_none() => {
            Kind::Directory
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File(entry.size()),
        EntryType::Link => Kind::HardLink(components(&link()?)?),
        EntryType::Symlink => Kind::SymbolicLink(link()?.into_owned()),
        EntryType::Directory => Kind::Directory,
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char => device().map(|(major, minor)| Kind::Character(major, minor))?,
        EntryType::Block => device().map(|(major, minor)| Kind::Block(major, minor))?,
        other => return Err(Fault::Kind(other.as_byte().into())),
    };
    // Numbers beyond 32 bits are no users of Linux.
    let id = |id: u64| u32::try_from(id).unwrap_or(0);
    Ok(Member {
        path: components(&name)?,
        kind,
        owner: Owner { uid: id(header.uid()?), gid: id(header.gid()?), mode: header.mode()? & 0o7777 },
        mtime_s: i64::try_from(header.mtime()?).unwrap_or(0),
    })
}

/// The components of a path from the root on, with or without a slash before them.
///
/// # Errors
/// One is `..`.
pub fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.map(|part| if part == b".." { Err(Fault::LeadsUp) } else { Ok(part.to_vec()) }).collect()
}
