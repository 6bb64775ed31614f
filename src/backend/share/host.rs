//! The host's files behind a share, reached so that nothing leads out of it.
//!
//! A file is held by a descriptor that stands for it and opens nothing (`O_PATH`). It is had from its directory's by a name of one
//! component, which is never followed (`O_NOFOLLOW`, openat2(2)); no path is ever walked. So a symbolic link is a file like others,
//! whatever is renamed meanwhile, and `..` is no name. Only regular files and directories are opened for their content, by their
//! own descriptors' entries in `/proc/self/fd`: what is opened is what was looked at. Below the directory other file systems may be
//! mounted and are part of it, but for those that the kernel makes up: of procfs and its like the guest sees an empty directory.
//! Sources: openat2(2), open(2) `O_PATH`, proc(5) `/proc/pid/fd`, statfs(2).

use super::identity::Identity;
use crate::bus::bus::lock;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use rustix::path::DecInt;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// File systems that the kernel makes up (`f_type` in statfs(2)), binfmt_misc, configfs, efivarfs and pstore by number.
const MADE_UP: [u32; 14] = [
    libc::PROC_SUPER_MAGIC as u32,
    libc::SYSFS_MAGIC as u32,
    libc::DEBUGFS_MAGIC as u32,
    libc::TRACEFS_MAGIC as u32,
    libc::CGROUP_SUPER_MAGIC as u32,
    libc::CGROUP2_SUPER_MAGIC as u32,
    libc::BPF_FS_MAGIC as u32,
    libc::NSFS_MAGIC as u32,
    0x4249_4e4d,
    libc::SECURITYFS_MAGIC as u32,
    0x6265_6570,
    libc::SELINUX_MAGIC as u32,
    0xde5e_81e4,
    0x6165_676c,
];

/// What is asked for of a file.
const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);
/// Most file systems below a share whose files get numbers of their own.
const DEVICES_MAX: usize = 4096;

/// Why a directory cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// It cannot be reached.
    #[error("share {}: {source}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file system without files.
    #[error("share {}: what is there is made up by the kernel; share a directory of files", .0.display())]
    MadeUp(PathBuf),
    /// Without it no file can be opened safely.
    #[error("share a directory: open /proc/self/fd: {0}")]
    Proc(io::Error),
    /// Threads or descriptors.
    #[error("share a directory: start what serves it: {0}")]
    Threads(io::Error),
}

/// What tells one file of the host from all others: device, number on it, and the mount that it was reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    device: (u32, u32),
    number: u64,
    mount: u64,
}

impl Key {
    fn of(stat: &Statx) -> Key {
        Key { device: (stat.stx_dev_major, stat.stx_dev_minor), number: stat.stx_ino, mount: stat.stx_mnt_id }
    }

    /// Of what has this number in the same file system, unless something is mounted there.
    pub fn beside(&self, number: u64) -> Key {
        Key { number, ..*self }
    }

    /// The device, major and minor.
    pub fn device(&self) -> (u32, u32) {
        self.device
    }

    /// The number on the device.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// A file of the host.
pub struct Inode {
    /// Stands for it.
    fd: OwnedFd,
    /// What it is; that never changes.
    kind: FileType,
    /// Which one it is.
    pub key: Key,
    /// It is of a file system that the kernel makes up.
    made_up: bool,
    /// What its content was known by when it was last opened: modification time and size.
    seen: Mutex<Option<(i64, u32, u64)>>,
}

impl Inode {
    /// The descriptor that stands for it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Whether nothing is to be found in it.
    pub fn is_made_up(&self) -> bool {
        self.made_up
    }

    /// Its attributes now.
    ///
    /// # Errors
    /// What the host says.
    pub fn stat(&self) -> Result<Statx, Errno> {
        stat(self.fd())
    }

    /// A path that leads to it, as long as it is held: for calls that take no descriptor.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    /// Notes what an opened file is known by. True: it is what it was at the last time, so what a client kept of it still holds.
    pub fn is_unchanged(&self, stat: &Statx, now_s: i64) -> bool {
        let StatxTimestamp { tv_sec, tv_nsec, .. } = stat.stx_mtime;
        // The clock of files goes in steps: another write in the step of this one would not be seen.
        let settled = now_s.saturating_sub(tv_sec) > 1;
        let this = settled.then_some((tv_sec, tv_nsec, stat.stx_size));
        let last = std::mem::replace(&mut *lock(&self.seen), this);
        this.is_some() && last == this
    }
}

/// A shared directory.
pub struct Host {
    /// `/proc/self/fd`.
    descriptors: OwnedFd,
    /// Device of the shared directory.
    device: (u32, u32),
    /// Devices of the file systems below it, in the order in which they were met.
    others: Mutex<Vec<(u32, u32)>>,
    /// Who acts.
    pub identity: Identity,
}

impl Host {
    /// Opens the directory at `path`, which may be reached by symbolic links.
    ///
    /// # Errors
    /// It cannot be shared.
    pub fn open(path: &Path) -> Result<(Host, Inode), ShareError> {
        let failed = |source: Errno| ShareError::Open { path: path.into(), source: source.into() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let descriptors =
            rustix::fs::open("/proc/self/fd", flags, Mode::empty()).map_err(|error| ShareError::Proc(error.into()))?;
        let stat = stat(root.as_fd()).map_err(failed)?;
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        let host = Host { descriptors, device, others: Mutex::default(), identity: Identity::new() };
        let root = host.inode(root, &stat, None).map_err(failed)?;
        // The call that everything hangs on may be missing, or forbidden: better told now.
        match open_beneath(root.fd(), c".") {
            Err(error) => Err(failed(error)),
            Ok(_) if root.made_up => Err(ShareError::MadeUp(path.into())),
            Ok(_) => Ok((host, root)),
        }
    }

    /// The file of this name, one component, in a directory.
    ///
    /// # Errors
    /// What the host says; ENOENT in a directory of the kernel's own.
    pub fn child(&self, parent: &Inode, name: &CStr) -> Result<(Inode, Statx), Errno> {
        if parent.made_up {
            return Err(Errno::NOENT);
        }
        self.adopt(open_beneath(parent.fd(), name)?, parent)
    }

    /// Which file a name in a directory leads to, and its attributes, without holding it. The name is one component, as for
    /// [`Host::child`].
    ///
    /// # Errors
    /// What the host says.
    pub fn look(&self, parent: &Inode, name: &CStr) -> Result<(Key, Statx), Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = rustix::fs::statx(parent.fd(), name, flags, WANTED)?;
        Ok((Key::of(&stat), stat))
    }

    /// The file that a descriptor stands for, which was had in this directory.
    ///
    /// # Errors
    /// What the host says.
    pub fn adopt(&self, fd: OwnedFd, parent: &Inode) -> Result<(Inode, Statx), Errno> {
        let stat = stat(fd.as_fd())?;
        Ok((self.inode(fd, &stat, Some(parent))?, stat))
    }

    /// The file that was opened as `file` just now, in this directory.
    ///
    /// # Errors
    /// What the host says.
    pub fn opened(&self, file: BorrowedFd<'_>, parent: &Inode) -> Result<(Inode, Statx), Errno> {
        self.adopt(self.by_descriptor(file, OFlags::PATH)?, parent)
    }

    /// Opens a regular file or a directory for its content.
    ///
    /// # Errors
    /// EPERM: it is something else; or what the host says.
    pub fn reopen(&self, inode: &Inode, flags: OFlags) -> Result<OwnedFd, Errno> {
        if !matches!(inode.kind, FileType::RegularFile | FileType::Directory) || inode.made_up {
            return Err(Errno::PERM);
        }
        self.by_descriptor(inode.fd(), flags | OFlags::NOCTTY)
    }

    /// Opens a directory to be listed, one of the kernel's own too: of that only the two dots are shown.
    ///
    /// # Errors
    /// What the host says.
    pub fn reopen_directory(&self, inode: &Inode) -> Result<OwnedFd, Errno> {
        self.by_descriptor(inode.fd(), OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Directory and name by which calls that follow links reach exactly what a descriptor stands for.
    pub fn entry(&self, fd: BorrowedFd<'_>) -> (BorrowedFd<'_>, DecInt) {
        (self.descriptors.as_fd(), DecInt::from_fd(fd))
    }

    /// Sets permissions, also of what is not open.
    ///
    /// # Errors
    /// EOPNOTSUPP for a symbolic link; or what the host says.
    pub fn set_mode(&self, inode: &Inode, mode: u32) -> Result<(), Errno> {
        if inode.kind == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        let (directory, name) = self.entry(inode.fd());
        rustix::fs::chmodat(directory, name, Mode::from_bits_truncate(mode & 0o7777), AtFlags::empty())
    }

    /// The number of a file for the guest, which takes all of a share for one device.
    pub fn number(&self, device: (u32, u32), number: u64) -> u64 {
        if device == self.device {
            return number;
        }
        let mut others = lock(&self.others);
        let index = others.iter().position(|other| *other == device).unwrap_or_else(|| {
            if others.len() < DEVICES_MAX {
                others.push(device);
            }
            others.len() - 1
        });
        number ^ (index as u64 + 1) << 48
    }

    fn by_descriptor(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        let (directory, name) = self.entry(fd);
        rustix::fs::openat(directory, name, flags | OFlags::CLOEXEC, Mode::empty())
    }

    fn inode(&self, fd: OwnedFd, stat: &Statx, parent: Option<&Inode>) -> Result<Inode, Errno> {
        let key = Key::of(stat);
        // Nothing of another kind is found without a change of the device.
        let made_up = match parent {
            Some(parent) if parent.key.device == key.device => parent.made_up,
            _ => MADE_UP.contains(&(rustix::fs::fstatfs(&fd)?.f_type as u32)),
        };
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        Ok(Inode { fd, kind, key, made_up, seen: Mutex::default() })
    }
}

/// Attributes of what a descriptor stands for.
///
/// # Errors
/// What the host says.
pub fn stat(fd: BorrowedFd<'_>) -> Result<Statx, Errno> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, WANTED)
}

/// What stands for the entry `name` of a directory, whatever it is.
fn open_beneath(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve)
}
