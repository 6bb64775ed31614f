//! Paths of a program: what they lead to below its root, and what it may do there.
//!
//! A path is resolved by the host with the root directory in the place of `/`, so neither `..` nor a symbolic link leads out. What it leads
//! to is looked at by a descriptor that opens nothing, and opened by that descriptor: what is opened is what was looked at. Files are
//! read-only unless `--allow-write` is given, as on a file system that is mounted so; of devices there are the harmless ones. Of procfs a
//! program sees what tells of the whole system; a process's directory, Hostel's own included, does not exist, but for the names that
//! this file answers itself.
//! Sources: openat2(2) RESOLVE_IN_ROOT; proc(5); Linux `Documentation/admin-guide/devices.txt`.

use super::files::{link, reopen};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Longest path, with its NUL (Linux PATH_MAX).
pub const PATH_MAX: usize = 4096;

/// Character devices that a program may open, by their major number and a range of minor ones: null, zero and full; random and
/// urandom; tty; the terminals of pty(7).
const DEVICES: [(u32, std::ops::RangeInclusive<u32>); 5] =
    [(1, 3..=3), (1, 5..=9), (5, 0..=0), (136, 0..=255), (137, 0..=255)];

/// Why a directory cannot be a program's root.
#[derive(Debug, thiserror::Error)]
#[error("open {} as the program's root: {source}", path.display())]
pub struct RootError {
    path: PathBuf,
    source: io::Error,
}

/// The directory that programs see as `/`.
pub struct Root {
    directory: OwnedFd,
    /// Where it lies, without symbolic links; empty for `/` itself.
    place: Vec<u8>,
    allow_write: bool,
}

impl Root {
    /// Opens the directory; `allow_write` lets programs change what is below it.
    ///
    /// # Errors
    /// It is none, or this host has no openat2(2).
    pub fn open(path: &Path, allow_write: bool) -> Result<Root, RootError> {
        let failed = |source: Errno| RootError { path: path.into(), source: source.into() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let mut place = rustix::fs::readlink(link(directory.as_fd()), Vec::new()).map_err(failed)?.into_bytes();
        if place == b"/" {
            place.clear();
        }
        let root = Root { directory, place, allow_write };
        root.resolve(b"/", OFlags::PATH, Mode::empty()).map_err(failed)?;
        Ok(root)
    }

    /// Whether programs may change files.
    pub fn allows_writing(&self) -> bool {
        self.allow_write
    }

    /// What the absolute path leads to, by a descriptor that opens nothing; a last symbolic link itself unless `follow`.
    ///
    /// # Errors
    /// What the host says; ENOENT for a process's directory in procfs.
    pub fn look(&self, path: &[u8], follow: bool) -> Result<OwnedFd, Errno> {
        let no_follow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let fd = self.resolve(path, OFlags::PATH | no_follow, Mode::empty())?;
        if is_process(fd.as_fd())? { Err(Errno::NOENT) } else { Ok(fd) }
    }

    /// Opens the file at an absolute path as open(2) does.
    ///
    /// # Errors
    /// What the host says; EROFS, EACCES: what programs may not do.
    pub fn open_file(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let creates = flags.contains(OFlags::CREATE);
        let follow = !(flags.contains(OFlags::NOFOLLOW) || creates && flags.contains(OFlags::EXCL));
        if flags.contains(OFlags::TMPFILE) {
            return Err(Errno::OPNOTSUPP);
        }
        if creates && path.ends_with(b"/") {
            return self.parent(path).and(Err(Errno::ISDIR));
        }
        let found = match self.look(path, follow) {
            Err(Errno::NOENT) if creates => return self.create(path, flags, mode),
            found => found?,
        };
        if creates && flags.contains(OFlags::EXCL) {
            return Err(Errno::EXIST);
        }
        let stat = rustix::fs::fstat(&found)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if flags.contains(OFlags::PATH) {
            return Ok(found);
        }
        let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
        match kind {
            FileType::Symlink => return Err(Errno::LOOP),
            FileType::Directory if writes || creates => return Err(Errno::ISDIR),
            FileType::BlockDevice => return Err(Errno::ACCESS),
            FileType::CharacterDevice if !is_harmless(&stat) => return Err(Errno::ACCESS),
            FileType::CharacterDevice => {}
            _ if writes && !self.allow_write => return Err(Errno::ROFS),
            _ => {}
        }
        reopen(found.as_fd(), flags & !(OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW))
    }

    fn create(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        self.parent_to_change(path)?;
        // A dangling symbolic link is followed by the host, with the root in its place.
        let fd = self.resolve(path, flags | OFlags::NOCTTY, mode)?;
        if is_process(fd.as_fd())? { Err(Errno::NOENT) } else { Ok(fd) }
    }

    /// The directory in which the last component of an absolute path is an entry, and that component.
    ///
    /// # Errors
    /// What the host says.
    pub fn parent(&self, path: &[u8]) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let directory = self.resolve(&path[..start], OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        if is_process(directory.as_fd())? {
            return Err(Errno::NOENT);
        }
        let name = if end == 0 { b".".to_vec() } else { path[start..].to_vec() };
        Ok((directory, name))
    }

    /// As [`Root::parent`], for a change of the entry.
    ///
    /// # Errors
    /// What the host says; EROFS without `--allow-write`.
    pub fn parent_to_change(&self, path: &[u8]) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let found = self.parent(path)?;
        if self.allow_write { Ok(found) } else { Err(Errno::ROFS) }
    }

    /// Where a directory or file lies for a program: its path below the root, without symbolic links.
    ///
    /// # Errors
    /// ENOENT: it is not below the root any more.
    pub fn place_of(&self, fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
        let path = rustix::fs::readlink(link(fd), Vec::new())?.into_bytes();
        let below = path.strip_prefix(self.place.as_slice()).ok_or(Errno::NOENT)?;
        match below {
            [] => Ok(b"/".to_vec()),
            [b'/', ..] => Ok(below.to_vec()),
            _ => Err(Errno::NOENT),
        }
    }

    fn resolve(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"/" } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.directory, path, flags | OFlags::CLOEXEC, mode, resolve) {
                // The host saw a rename on the way (openat2(2)).
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }
}

/// Whether it is a process's directory of procfs, or in one.
fn is_process(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    if rustix::fs::fstatfs(fd)?.f_type != rustix::fs::PROC_SUPER_MAGIC {
        return Ok(false);
    }
    let path = PathBuf::from(std::ffi::OsString::from_vec(rustix::fs::readlink(link(fd), Vec::new())?.into_bytes()));
    let is_own = |name: &OsStr| {
        matches!(name.as_bytes(), b"self" | b"thread-self") || name.as_bytes().iter().all(u8::is_ascii_digit)
    };
    Ok(path.iter().any(is_own))
}

fn is_harmless(stat: &Stat) -> bool {
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    DEVICES.iter().any(|(wanted, minors)| *wanted == major && minors.contains(&minor))
}

/// Attributes of what a descriptor stands for.
///
/// # Errors
/// What the host says.
pub fn stat(fd: BorrowedFd<'_>) -> Result<Stat, Errno> {
    rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn read(root: &Root, path: &str) -> Result<String, Errno> {
        let mut text = String::new();
        let fd = root.open_file(path.as_bytes(), OFlags::RDONLY, Mode::empty())?;
        std::fs::File::from(fd).read_to_string(&mut text).map_err(|_| Errno::IO)?;
        Ok(text)
    }

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn scratch(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("hostel-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch(path.canonicalize().unwrap())
    }

    #[test]
    fn nothing_leads_out_of_the_root() {
        let outer = scratch("paths-root");
        std::fs::write(outer.0.join("secret"), "outside").unwrap();
        let inner = outer.0.join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("secret"), "inside").unwrap();
        std::os::unix::fs::symlink(outer.0.join("secret"), inner.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../secret", inner.join("relative")).unwrap();
        let root = Root::open(&inner, false).unwrap();
        assert_eq!(read(&root, "/../secret").as_deref(), Ok("inside"));
        assert_eq!(read(&root, "/relative").as_deref(), Ok("inside"));
        assert_eq!(read(&root, "/absolute"), Err(Errno::NOENT));
        let fd = root.look(b"/secret", true).unwrap();
        assert_eq!(root.place_of(fd.as_fd()), Ok(b"/secret".to_vec()));
    }

    #[test]
    fn hostels_own_process_is_not_to_be_had() {
        let root = Root::open(Path::new("/"), true).unwrap();
        let own = format!("/proc/{}/mem", std::process::id());
        for path in
            ["/proc/self/mem", "/proc/self", "/proc/thread-self/fd/0", &own, "/dev/fd/0", "/proc/../proc/self/exe"]
        {
            assert!(root.look(path.as_bytes(), true).is_err(), "{path}");
            assert!(root.open_file(path.as_bytes(), OFlags::RDWR, Mode::empty()).is_err(), "{path}");
        }
        assert!(read(&root, "/proc/meminfo").unwrap().contains("MemTotal"));
    }

    #[test]
    fn files_are_read_only_and_devices_the_harmless_ones() {
        let place = scratch("paths-write");
        std::fs::write(place.0.join("file"), "content").unwrap();
        let root = Root::open(&place.0, false).unwrap();
        let open = |root: &Root, path: &str, flags| {
            root.open_file(path.as_bytes(), flags, Mode::from_raw_mode(0o644)).map(drop)
        };
        for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::TRUNC, OFlags::WRONLY | OFlags::CREATE] {
            assert_eq!(open(&root, "/file", flags), Err(Errno::ROFS));
        }
        assert_eq!(open(&root, "/new", OFlags::WRONLY | OFlags::CREATE), Err(Errno::ROFS));
        assert_eq!(open(&root, "/file", OFlags::CREATE | OFlags::EXCL), Err(Errno::EXIST));
        assert_eq!(root.parent_to_change(b"/file").err(), Some(Errno::ROFS));
        let root = Root::open(&place.0, true).unwrap();
        assert_eq!(open(&root, "/new", OFlags::WRONLY | OFlags::CREATE), Ok(()));
        assert_eq!(root.parent_to_change(b"/a/").err(), None);
        let host = Root::open(Path::new("/"), false).unwrap();
        assert_eq!(open(&host, "/dev/null", OFlags::RDWR), Ok(()));
        for device in ["/dev/kvm", "/dev/mem", "/dev/loop0"] {
            assert!(open(&host, device, OFlags::RDWR).is_err(), "{device}");
        }
    }
}
