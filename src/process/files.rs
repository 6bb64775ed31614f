//! Open files and the numbers by which a process knows them.
//!
//! Each open file description of a program is one of the host's, so offsets, locks, pipes and status flags are the host's own. What dup(2)
//! and fork(2) share is shared by reference.
//! Sources: open(2), dup(2), fcntl(2).

use super::watches::Watches;
use crate::bus::bus::lock;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// Most descriptors of a process: its RLIMIT_NOFILE.
pub const FILES_MAX: i32 = 1024;

/// An open file description.
pub struct OpenFile {
    fd: OwnedFd,
    /// Whether it leads to something of the host's: it was opened by a path, or was open at the start. What a program makes is its own.
    pub of_host: bool,
    /// Whether it was opened to be read.
    pub readable: bool,
    /// Whether it was opened to be written.
    pub writable: bool,
    /// What it watches, where it is an epoll file.
    pub watches: Watches,
    /// Further descriptors of it by which epoll files watch it.
    aliases: Mutex<Vec<Arc<OwnedFd>>>,
}

impl OpenFile {
    /// What the host opened.
    pub fn new(fd: OwnedFd, of_host: bool) -> Arc<OpenFile> {
        let flags = rustix::fs::fcntl_getfl(&fd).unwrap_or(OFlags::PATH);
        let has = |mode: OFlags| {
            !flags.contains(OFlags::PATH) && (flags & OFlags::RWMODE == mode || flags.contains(OFlags::RDWR))
        };
        let (readable, writable) = (has(OFlags::RDONLY), has(OFlags::WRONLY));
        Arc::new(OpenFile { fd, of_host, readable, writable, watches: Watches::default(), aliases: Mutex::default() })
    }

    /// The host's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// One more descriptor of it, which goes with it.
    ///
    /// # Errors
    /// What the host says.
    pub fn add_alias(&self) -> Result<Arc<OwnedFd>, Errno> {
        let alias = Arc::new(rustix::io::fcntl_dupfd_cloexec(&self.fd, 3)?);
        lock(&self.aliases).push(alias.clone());
        Ok(alias)
    }

    /// That descriptor is not needed any more.
    pub fn drop_alias(&self, alias: &Arc<OwnedFd>) {
        lock(&self.aliases).retain(|other| !Arc::ptr_eq(other, alias));
    }

    /// How many there are.
    #[cfg(test)]
    pub fn aliases(&self) -> usize {
        lock(&self.aliases).len()
    }

    /// Up to `size` bytes from `offset` on; fewer at the end, none where the host cannot read.
    pub fn read_at(&self, offset: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        let mut done = 0;
        while done < size {
            match rustix::io::pread(&self.fd, &mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        bytes.truncate(done);
        bytes
    }

    /// A path of Hostel's own that leads to it as long as it is held.
    pub fn link(&self) -> String {
        link(self.fd())
    }
}

/// A path of Hostel's own that leads to what `fd` stands for, as long as it is open.
pub fn link(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Opens what `fd` stands for once more.
///
/// # Errors
/// What the host says.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(link(fd), flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
}

/// A number's file.
#[derive(Clone)]
pub struct Descriptor {
    /// The file.
    pub file: Arc<OpenFile>,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
}

/// The descriptors of a process.
#[derive(Clone, Default)]
pub struct Files {
    table: BTreeMap<i32, Descriptor>,
}

impl Files {
    /// Hostel's own standard input, output and error, as far as they are open.
    pub fn standard() -> Files {
        let mut files = Files::default();
        let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        for (number, stream) in (0..).zip(streams) {
            if let Ok(fd) = rustix::io::fcntl_dupfd_cloexec(stream, 3) {
                files.put(number, Descriptor { file: OpenFile::new(fd, true), close_on_exec: false });
            }
        }
        files
    }

    /// The file of a number.
    ///
    /// # Errors
    /// EBADF.
    pub fn get(&self, number: i32) -> Result<Arc<OpenFile>, Errno> {
        self.table.get(&number).map(|descriptor| descriptor.file.clone()).ok_or(Errno::BADF)
    }

    /// A number's descriptor.
    ///
    /// # Errors
    /// EBADF.
    pub fn descriptor(&mut self, number: i32) -> Result<&mut Descriptor, Errno> {
        self.table.get_mut(&number).ok_or(Errno::BADF)
    }

    /// Gives `file` the lowest free number from `least` on.
    ///
    /// # Errors
    /// EMFILE.
    pub fn add(&mut self, file: Arc<OpenFile>, close_on_exec: bool, least: i32) -> Result<i32, Errno> {
        let number = (least.max(0)..FILES_MAX).find(|number| !self.table.contains_key(number)).ok_or(Errno::MFILE)?;
        self.table.insert(number, Descriptor { file, close_on_exec });
        Ok(number)
    }

    /// Makes `number` lead to `descriptor`, in the place of what it led to.
    pub fn put(&mut self, number: i32, descriptor: Descriptor) {
        self.table.insert(number, descriptor);
    }

    /// Closes a number; the file itself where it was the last.
    ///
    /// # Errors
    /// EBADF.
    pub fn close(&mut self, number: i32) -> Result<Descriptor, Errno> {
        self.table.remove(&number).ok_or(Errno::BADF)
    }

    /// Closes the numbers of `range` for which `wanted` holds.
    pub fn close_all(&mut self, wanted: impl Fn(i32, &Descriptor) -> bool) {
        self.table.retain(|number, descriptor| !wanted(*number, descriptor));
    }

    /// Sets FD_CLOEXEC on all numbers from `first` to `last`.
    pub fn close_on_exec(&mut self, first: i32, last: i32) {
        self.table.range_mut(first..=last).for_each(|(_, descriptor)| descriptor.close_on_exec = true);
    }

    /// The numbers in use.
    pub fn numbers(&self) -> Vec<i32> {
        self.table.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Arc<OpenFile> {
        OpenFile::new(rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap(), true)
    }

    #[test]
    fn the_lowest_number_is_taken() {
        let mut files = Files::default();
        assert_eq!(
            (files.add(file(), false, 0), files.add(file(), true, 0), files.add(file(), false, 7)),
            (Ok(0), Ok(1), Ok(7))
        );
        files.close(0).map(drop).unwrap();
        assert_eq!((files.add(file(), false, -5), files.close(9).err()), (Ok(0), Some(Errno::BADF)));
        files.close_all(|_, descriptor| descriptor.close_on_exec);
        assert_eq!(files.numbers(), [0, 7]);
    }

    #[test]
    fn numbers_are_bounded() {
        let mut files = Files::default();
        let file = file();
        for number in 0..FILES_MAX {
            assert_eq!(files.add(file.clone(), false, 0), Ok(number));
        }
        assert_eq!(files.add(file.clone(), false, 0), Err(Errno::MFILE));
        assert_eq!(files.add(file, false, i32::MAX), Err(Errno::MFILE));
    }
}
