//! The tree that members are put into, one by one, as an ordinary user can: without owners, devices and set-user-ID, which are noted
//! for who shows the files ([`Guise`]).
//!
//! A path of an archive leads through links of earlier members, and so through what somebody else has chosen. So directories are found by
//! openat2(2) with the tree as their root (`RESOLVE_IN_ROOT`), and the last name is never followed. Nobody else is in the tree.
//! Sources: openat2(2), linkat(2), unlinkat(2).

use super::archive::{Kind, Member, Owner};
use super::budget::{DEPTH_MAX, PIECE};
use super::error::{Fault, Problem};
use crate::backend::share::guise::{Guise, Shown};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, chmodat, fstat, futimens, linkat,
    mkdirat, mknodat, openat, openat2, readlink, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

/// Permissions of a directory that no member describes.
const IMPLIED: Owner = Owner { uid: 0, gid: 0, mode: 0o755 };
/// What this user may do to files and directories at least, whoever they belong to: they have to be read, listed and removed.
const LEAST: (u32, u32) = (0o400, 0o700);

/// A path as an archive has it, in components.
type Components = [Vec<u8>];
/// Entries, by the directory's number and the name.
type Entries = HashSet<(u64, Vec<u8>)>;

/// The tree.
pub struct Tree<'a> {
    root: OwnedFd,
    /// How many directories of the host's a directory of it may lie in, so that it is not too deep.
    depth_max: usize,
    guise: Guise,
    /// Where the last member was put: the next one mostly belongs there too.
    last: Option<(Vec<Vec<u8>>, Rc<Directory>)>,
    /// What this layer has made.
    layer: Entries,
    /// Whether somebody wants it to end.
    stop: &'a dyn Fn() -> bool,
    piece: Vec<u8>,
}

/// A directory of the tree.
struct Directory {
    /// Stands for it, and opens nothing.
    fd: OwnedFd,
    number: u64,
}

impl<'a> Tree<'a> {
    /// The tree below an empty directory. `stop` is asked often whether to give up.
    ///
    /// # Errors
    /// What the host says.
    pub fn new(root: &Path, stop: &'a dyn Fn() -> bool) -> io::Result<Tree<'a>> {
        let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let (guise, layer, piece) = (Guise::default(), Entries::new(), vec![0; PIECE]);
        let depth_max = depth(&root)? + DEPTH_MAX;
        Ok(Tree { root, depth_max, guise, last: None, layer, stop, piece })
    }

    /// What its files are to be shown as.
    pub fn into_guise(self) -> Guise {
        self.guise
    }

    /// What comes from here on lies above what is there.
    pub fn begin_layer(&mut self) {
        self.layer.clear();
    }

    /// Puts a member in its place, and away what was there.
    ///
    /// # Errors
    /// It belongs nowhere, or what the host says.
    pub fn put(&mut self, member: &Member, content: &mut dyn Read) -> Result<(), Problem> {
        if (self.stop)() {
            return Err(Problem::Interrupted);
        }
        let placed = self.place(member).map_err(|fault| fault.of(&member.path.join(&b'/')))?;
        placed.map_or(Ok(()), |file| self.fill(file, member, content))
    }

    /// Takes away what earlier layers have of this name, if they have.
    ///
    /// # Errors
    /// What the host says.
    pub fn hide(&mut self, path: &Components) -> Result<(), Problem> {
        let Some((name, parent)) = path.split_last() else { return Err(Fault::NoName.of(b"/")) };
        self.hide_in(parent, Some(name)).map_err(|error| Fault::Host(error).of(&path.join(&b'/')))
    }

    /// Takes away all that earlier layers have in this directory, if they have it.
    ///
    /// # Errors
    /// What the host says.
    pub fn hide_all(&mut self, path: &Components) -> Result<(), Problem> {
        self.hide_in(path, None).map_err(|error| Fault::Host(error).of(&path.join(&b'/')))
    }

    fn hide_in(&mut self, path: &Components, name: Option<&Vec<u8>>) -> io::Result<()> {
        let directory = match self.open(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            found => found?,
        };
        self.last = None;
        let names = match name {
            Some(name) => vec![name.clone()],
            None => names(directory.fd.as_fd())?,
        };
        names.iter().try_for_each(|name| {
            match remove(directory.fd.as_fd(), directory.number, name, Some(&self.layer)) {
                Err(Errno::NOENT) => Ok(()),
                removed => Ok(removed?),
            }
        })
    }

    /// Makes what a member is. Returns the file that its content belongs into.
    fn place(&mut self, member: &Member) -> Result<Option<File>, Fault> {
        let Some((name, path)) = member.path.split_last() else {
            return match member.kind {
                Kind::Directory => self.settle_root(member.owner).map(|()| None),
                _ => Err(Fault::NoName),
            };
        };
        let directory = self.directory(path)?;
        let parent = directory.fd.as_fd();
        let is_there = match statat(parent, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => None,
            found => Some(FileType::from_raw_mode(found?.st_mode)),
        };
        let stays = member.kind == Kind::Directory && is_there == Some(FileType::Directory);
        if is_there.is_some() && !stays {
            self.last = None;
            remove(parent, directory.number, name, None)?;
        }
        let mut file = None;
        match &member.kind {
            Kind::File(_) => file = Some(create(parent, name)?),
            // What an ordinary user cannot make is shown where an empty file is.
            Kind::Character(..) | Kind::Block(..) => drop(create(parent, name)?),
            Kind::HardLink(target) => self.link(target, parent, name)?,
            Kind::SymbolicLink(target) => {
                symlinkat(target.as_slice(), parent, name.as_slice())?;
            }
            Kind::Directory if stays => {}
            Kind::Directory => self.make(&directory, name)?,
            Kind::Fifo => {
                mknodat(parent, name.as_slice(), FileType::Fifo, Mode::RUSR, 0)?;
            }
        }
        self.layer.insert((directory.number, name.clone()));
        if !matches!(member.kind, Kind::HardLink(_)) {
            self.settle(parent, name, &member.kind, member.owner)?;
        }
        Ok(file)
    }

    /// Writes a file's content and its time.
    fn fill(&mut self, mut file: File, member: &Member, content: &mut dyn Read) -> Result<(), Problem> {
        let of_member = |fault: Fault| fault.of(&member.path.join(&b'/'));
        let Kind::File(mut left) = member.kind else { return Ok(()) };
        while left > 0 {
            if (self.stop)() {
                return Err(Problem::Interrupted);
            }
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let count = content.read(&mut self.piece[..most]).map_err(Problem::of_stream)?;
            if count == 0 {
                return Err(of_member(Fault::Truncated));
            }
            file.write_all(&self.piece[..count]).map_err(|error| of_member(error.into()))?;
            left -= count as u64;
        }
        let time = Timespec { tv_sec: member.mtime_s, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        futimens(&file, &times).map_err(|error| of_member(error.into()))
    }

    /// Another name of what is at `target`.
    fn link(&self, target: &Components, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Fault> {
        let (of, path) = target.split_last().ok_or(Fault::NoName)?;
        let linked = self.open(path).and_then(|from| linkat(&from.fd, of.as_slice(), parent, name, AtFlags::empty()));
        linked.map_err(|error| Fault::Link { source: error.into() })
    }

    /// Gives a file the permissions that it can have, and notes as what it is to be shown.
    fn settle(&mut self, parent: BorrowedFd<'_>, name: &[u8], kind: &Kind, owner: Owner) -> Result<(), Fault> {
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let of_host = FileType::from_raw_mode(stat.st_mode);
        let (permissions, on_host) = match of_host {
            FileType::Symlink => (0o777, 0o777),
            FileType::Directory => (owner.mode, owner.mode & 0o777 | LEAST.1),
            _ => (owner.mode, owner.mode & 0o777 | LEAST.0),
        };
        if of_host != FileType::Symlink {
            chmodat(parent, name, Mode::from_raw_mode(on_host), AtFlags::empty())?;
        }
        let (shown, device) = match *kind {
            Kind::Character(major, minor) => (FileType::CharacterDevice, (major, minor)),
            Kind::Block(major, minor) => (FileType::BlockDevice, (major, minor)),
            _ => (of_host, (0, 0)),
        };
        let mode = |of: FileType, permissions: u32| (of.as_raw_mode() | permissions) as u16;
        let shown = Shown { uid: owner.uid, gid: owner.gid, mode: mode(shown, permissions), device };
        self.guise.note(stat.st_ino, mode(of_host, on_host), shown);
        Ok(())
    }

    fn settle_root(&mut self, owner: Owner) -> Result<(), Fault> {
        let root = self.open(&[])?;
        self.settle(root.fd.as_fd(), b".", &Kind::Directory, owner)
    }

    /// The directory at a path, made where it is missing.
    fn directory(&mut self, path: &Components) -> Result<Rc<Directory>, Fault> {
        if let Some((last, directory)) = &self.last
            && last == path
        {
            return Ok(directory.clone());
        }
        let found = match self.open(path) {
            Err(Errno::NOENT) => self.make_all(path)?,
            found => found?,
        };
        let found = Rc::new(found);
        self.last = Some((path.to_vec(), found.clone()));
        Ok(found)
    }

    /// Makes the directories of a path that are missing.
    fn make_all(&mut self, path: &Components) -> Result<Directory, Fault> {
        let mut parent = self.open(&[])?;
        for (at, name) in path.iter().enumerate() {
            parent = match self.open(&path[..=at]) {
                Err(Errno::NOENT) => {
                    self.make(&parent, name)?;
                    self.settle(parent.fd.as_fd(), name, &Kind::Directory, IMPLIED)?;
                    self.open(&path[..=at])?
                }
                found => found?,
            };
        }
        Ok(parent)
    }

    /// The directory at a path that may lead through links, none of which leads out; the root where it is empty.
    fn open(&self, path: &Components) -> Result<Directory, Errno> {
        let path = if path.is_empty() { b".".to_vec() } else { path.join(&b'/') };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let fd = openat2(&self.root, path, flags, Mode::empty(), resolve)?;
        let number = fstat(&fd)?.st_ino;
        Ok(Directory { fd, number })
    }

    fn make(&self, parent: &Directory, name: &[u8]) -> Result<(), Fault> {
        if depth(&parent.fd)? >= self.depth_max {
            return Err(Fault::TooDeep);
        }
        Ok(mkdirat(&parent.fd, name, Mode::RWXU)?)
    }
}

/// How many directories of the host's a directory lies in.
fn depth(directory: &OwnedFd) -> Result<usize, Errno> {
    let path = readlink(format!("/proc/self/fd/{}", directory.as_raw_fd()), Vec::new())?;
    Ok(path.to_bytes().iter().filter(|byte| **byte == b'/').count())
}

/// A new file, to be written.
fn create(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Names in a directory, without the dots.
fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let opened = openat(directory, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let names = Dir::new(opened)?.map(|entry| Ok(entry?.file_name().to_bytes().to_vec()));
    names.filter(|name| !matches!(name.as_deref(), Ok(b"." | b".."))).collect()
}

/// Removes an entry of a directory and all that is below it, but for what is in `kept` and the directories that lead there.
fn remove(parent: BorrowedFd<'_>, number: u64, name: &[u8], kept: Option<&Entries>) -> Result<(), Errno> {
    let is_kept = || kept.is_some_and(|kept| kept.contains(&(number, name.to_vec())));
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return if is_kept() { Ok(()) } else { unlinkat(parent, name, AtFlags::empty()) };
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    names(directory.as_fd())?.iter().try_for_each(|name| remove(directory.as_fd(), stat.st_ino, name, kept))?;
    if is_kept() {
        return Ok(());
    }
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY) if kept.is_some() => Ok(()),
        removed => removed,
    }
}
