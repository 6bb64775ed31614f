//! A directory for temporary files that only this user can enter, gone with its process.
//!
//! It is removed when it is dropped. What a process left that was killed is removed by the next one that makes such a directory: each is
//! locked by its process as long as that lives (flock(2)), so one that nobody has locked is nobody's.
//! Sources: flock(2), mkdir(2).

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, statat};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What the names of such directories begin with.
const PREFIX: &str = "hostel-root-";
/// How often a name is tried that another process takes away or has already.
const TRIES: u32 = 16;

/// The directory, until it is dropped.
#[derive(Debug)]
pub struct PrivateDirectory {
    path: PathBuf,
    /// Holds the lock.
    _lock: OwnedFd,
}

impl PrivateDirectory {
    /// A new directory in `parent`, in which what killed processes of this user left is removed first.
    ///
    /// # Errors
    /// The host refuses it.
    pub fn new(parent: &Path) -> io::Result<PrivateDirectory> {
        remove_remains(parent);
        for _ in 1..TRIES {
            match PrivateDirectory::try_new(parent) {
                Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {}
                made => return made,
            }
        }
        PrivateDirectory::try_new(parent)
    }

    fn try_new(parent: &Path) -> io::Result<PrivateDirectory> {
        let mut random = [0; 8];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let path = parent.join(format!("{PREFIX}{:016x}", u64::from_ne_bytes(random)));
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = open(&path)?;
        // Between the two somebody may have taken it for remains: then it is gone, or will be.
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| io::ErrorKind::NotFound)?;
        match is_at(lock.as_fd(), &path)? {
            true => Ok(PrivateDirectory { path, _lock: lock }),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // What stays is found by the next one.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes directories of this user's processes that are gone.
fn remove_remains(parent: &Path) {
    let user = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX))
            && entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user);
        if !ours {
            continue;
        }
        let path = entry.path();
        // Held until all is gone.
        let lock = open(&path).ok().filter(|lock| flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok());
        if lock.is_some_and(|lock| is_at(lock.as_fd(), &path).unwrap_or(false)) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Whether this is what stands at `path` now.
fn is_at(directory: BorrowedFd<'_>, path: &Path) -> Result<bool, Errno> {
    let (this, there) = (fstat(directory)?, statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)?);
    Ok((this.st_dev, this.st_ino) == (there.st_dev, there.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_ours_alone_and_goes_and_what_a_killed_process_left_goes_with_the_next() {
        let parent = std::env::temp_dir().join(format!("hostel-unpack-{}", std::process::id()));
        fs::create_dir(&parent).unwrap();
        let first = PrivateDirectory::new(&parent).unwrap();
        assert_eq!(fs::metadata(first.path()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::create_dir_all(first.path().join("a/b")).unwrap();
        // Nobody has it locked, as when its process was killed.
        let left = parent.join("hostel-root-0123456789abcdef");
        fs::create_dir_all(left.join("deep/er")).unwrap();
        let other = parent.join("something-else");
        fs::create_dir(&other).unwrap();
        let link = parent.join("hostel-root-link");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        let second = PrivateDirectory::new(&parent).unwrap();
        assert_eq!([&left, &other, &link].map(|path| path.exists()), [false, true, true]);
        assert!(first.path().join("a/b").exists(), "its process lives");
        let (one, two) = (first.path().to_owned(), second.path().to_owned());
        drop((first, second));
        assert!(!one.exists() && !two.exists());
        fs::remove_dir_all(&parent).unwrap();
    }
}
