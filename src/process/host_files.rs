//! Files of the host as programs of other systems than Linux ask for them: by Linux paths and numbers, under the rules that hold for
//! programs of Linux.
//!
//! A trait, so that what answers such programs is tested, and fuzzed, without KVM and without files.
//! Sources: open(2), read(2), write(2), lseek(2), unlink(2), ftruncate(2).

use super::files::{self, OpenFile};
use super::paths::Root;
use super::task::{Place, Task};
use crate::bus::bus::lock;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::io::SeekFrom;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a file is, as far as programs ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A file with a size.
    Disk,
    /// A terminal or another device of characters.
    Character,
    /// A pipe or socket.
    Pipe,
}

/// The files that the program may see, and its waiting. A file is named by its number; 0, 1 and 2 are open at the start.
pub trait Files {
    /// Opens a file by its Linux path.
    ///
    /// # Errors
    /// As open(2) says.
    fn open(&mut self, path: &[u8], how: OFlags) -> Result<u32, Errno>;

    /// Reads at most what `bytes` hold; 0 is the end.
    ///
    /// # Errors
    /// As read(2) says.
    fn read(&mut self, file: u32, bytes: &mut [u8]) -> Result<usize, Errno>;

    /// Writes some of `bytes`.
    ///
    /// # Errors
    /// As write(2) says.
    fn write(&mut self, file: u32, bytes: &[u8]) -> Result<usize, Errno>;

    /// Moves to a position, and tells it.
    ///
    /// # Errors
    /// As lseek(2) says.
    fn seek(&mut self, file: u32, to: SeekFrom) -> Result<u64, Errno>;

    /// Ends the file at this position.
    ///
    /// # Errors
    /// As ftruncate(2) says.
    fn cut(&mut self, file: u32, position: u64) -> Result<(), Errno>;

    /// What the file is.
    fn kind(&self, file: u32) -> FileKind;

    /// Closes the file; false: it was not open.
    fn close(&mut self, file: u32) -> bool;

    /// Removes a file by its Linux path.
    ///
    /// # Errors
    /// As unlink(2) says.
    fn remove(&mut self, path: &[u8]) -> Result<(), Errno>;

    /// Waits so long, or until the run is over.
    fn sleep(&mut self, time: Duration);
}

/// The file at an absolute path, if it is a regular one that can be read: a program's, whether or not it is marked as executable.
pub fn open_program(root: &Root, path: &[u8]) -> Option<Arc<OpenFile>> {
    let fd = root.open_file(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).ok()?;
    let is_regular = FileType::from_raw_mode(rustix::fs::fstat(&fd).ok()?.st_mode) == FileType::RegularFile;
    is_regular.then(|| OpenFile::new(fd, true))
}

/// The absolute path that `path` means from `place`.
pub fn absolute(place: &Place, path: &[u8]) -> Vec<u8> {
    match path {
        [b'/', ..] => path.to_vec(),
        _ => [place.directory.as_slice(), path].join(&b'/'),
    }
}

/// The files of a process below its root.
pub struct HostFiles<'a> {
    /// What it sees of the host's files.
    pub root: &'a Root,
    /// What it has open.
    pub open: &'a Mutex<files::Files>,
    /// Where relative paths begin.
    pub place: &'a Mutex<Place>,
}

impl<'a> HostFiles<'a> {
    /// Those of a thread.
    pub fn of(task: &'a Task) -> HostFiles<'a> {
        HostFiles { root: &task.world.root, open: &task.files, place: &task.place }
    }

    fn file(&self, number: u32) -> Result<Arc<OpenFile>, Errno> {
        lock(self.open).get(number as i32)
    }

    fn absolute(&self, path: &[u8]) -> Vec<u8> {
        absolute(&lock(self.place), path)
    }
}

impl Files for HostFiles<'_> {
    fn open(&mut self, path: &[u8], how: OFlags) -> Result<u32, Errno> {
        let mode = Mode::from_raw_mode(0o666 & !lock(self.place).umask);
        let fd = self.root.open_file(&self.absolute(path), how, mode)?;
        // Neither system opens a directory so.
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == FileType::Directory {
            return Err(Errno::ACCESS);
        }
        lock(self.open).add(OpenFile::new(fd, true), true, 0).map(|number| number as u32)
    }

    fn read(&mut self, file: u32, bytes: &mut [u8]) -> Result<usize, Errno> {
        let file = self.file(file)?;
        rustix::io::retry_on_intr(|| rustix::io::read(file.fd(), &mut *bytes))
    }

    fn write(&mut self, file: u32, bytes: &[u8]) -> Result<usize, Errno> {
        let file = self.file(file)?;
        rustix::io::retry_on_intr(|| rustix::io::write(file.fd(), bytes))
    }

    fn seek(&mut self, file: u32, to: SeekFrom) -> Result<u64, Errno> {
        let to = match to {
            SeekFrom::Start(offset) => rustix::fs::SeekFrom::Start(offset),
            SeekFrom::End(offset) => rustix::fs::SeekFrom::End(offset),
            SeekFrom::Current(offset) => rustix::fs::SeekFrom::Current(offset),
        };
        rustix::fs::seek(self.file(file)?.fd(), to)
    }

    fn cut(&mut self, file: u32, position: u64) -> Result<(), Errno> {
        rustix::fs::ftruncate(self.file(file)?.fd(), position)
    }

    fn kind(&self, file: u32) -> FileKind {
        let stat = self.file(file).and_then(|file| rustix::fs::fstat(file.fd()));
        match stat.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::RegularFile | FileType::BlockDevice) => FileKind::Disk,
            Ok(FileType::CharacterDevice) => FileKind::Character,
            _ => FileKind::Pipe,
        }
    }

    fn close(&mut self, file: u32) -> bool {
        lock(self.open).close(file as i32).is_ok()
    }

    fn remove(&mut self, path: &[u8]) -> Result<(), Errno> {
        let (directory, name) = self.root.parent_to_change(&self.absolute(path))?;
        rustix::fs::unlinkat(&directory, name.as_slice(), AtFlags::empty())
    }

    fn sleep(&mut self, time: Duration) {
        std::thread::sleep(time);
    }
}
