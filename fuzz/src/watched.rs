//! A directory of the host of which the kernel tells when anything in it changes, so that it is made anew only then; and that tells
//! exactly whether something changed that was not to change.
//!
//! Not told of: what happens in directories that are made in it, which is a change itself. Source: inotify(7).

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What a watch tells of.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// The directory.
pub struct Watched {
    path: PathBuf,
    /// Makes its content, and says which directories of it are watched.
    fill: fn(&Path) -> Vec<PathBuf>,
    events: OwnedFd,
}

impl Watched {
    /// A directory in memory, named for `target` and this process, as `fill` makes its content. From then on no file of this process gets
    /// longer than 1 MiB, whatever is asked for.
    ///
    /// # Panics
    /// The host refuses that.
    pub fn new(target: &str, fill: fn(&Path) -> Vec<PathBuf>) -> Watched {
        let most = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
        // SAFETY: both calls only read what they are given; a write beyond the limit is an error then, and no signal.
        unsafe {
            libc::setrlimit(libc::RLIMIT_FSIZE, &most);
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        }
        let path = PathBuf::from(format!("/dev/shm/hostel-fuzz-{target}-{}", std::process::id()));
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("the host has inotify(7)");
        fs::create_dir(&path).expect("it can be made");
        inotify::add_watch(&events, &path, CHANGES).expect("it is there");
        let watched = Watched { path, fill, events };
        watched.make();
        watched
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether anything in it was changed since this was asked last, or since it was made.
    ///
    /// # Panics
    /// The host does not say.
    pub fn has_changed(&self) -> bool {
        let mut changed = false;
        loop {
            match rustix::io::read(&self.events, &mut [0; 4096]) {
                Ok(_) => changed = true,
                Err(Errno::AGAIN) => return changed,
                Err(error) => panic!("inotify(7): {error}"),
            }
        }
    }

    /// Makes its content anew.
    ///
    /// # Panics
    /// The host refuses that.
    pub fn renew(&self) {
        empty(&self.path).expect("it can be emptied");
        self.make();
    }

    fn make(&self) {
        for directory in (self.fill)(&self.path) {
            inotify::add_watch(&self.events, directory, CHANGES).expect("it is there");
        }
        // That it was made is no news.
        self.has_changed();
    }
}

/// Removes what is in a directory, whatever its permissions are.
fn empty(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            empty(&entry.path())?;
            fs::remove_dir(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
