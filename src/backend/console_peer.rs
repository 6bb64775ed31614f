//! A console whose other end comes and goes: a pseudo-terminal, or a Unix socket. One user at a time; the next one is taken
//! when it has left. What the guest prints while nobody is there is discarded by the output, and counted.
//!
//! The controlling side of a pseudo-terminal cannot be waited on for somebody who opens the other side: it shows POLLHUP until
//! then, so it is looked at a few times a second.
//! Sources: pty(7), unix(7).

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a pseudo-terminal is looked at for somebody who opened it.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The place where a console's user comes and goes.
#[derive(Debug)]
pub struct ConsolePeer {
    place: Place,
    path: PathBuf,
    present: bool,
    look_at: Instant,
}

#[derive(Debug)]
enum Place {
    Pty(OwnedFd),
    Socket(UnixListener),
}

/// A place that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The pseudo-terminal.
    #[error("open a pseudo-terminal for the console: {0}")]
    Pty(io::Error),
    /// The socket's name is taken.
    #[error("listen at {} for the console: it exists; remove it if no other machine serves it", .0.display())]
    Exists(PathBuf),
    /// The socket.
    #[error("listen at {} for the console: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl ConsolePeer {
    /// A pseudo-terminal in raw mode; [`ConsolePeer::path`] names the side to open.
    ///
    /// # Errors
    /// The host gives none.
    pub fn pty() -> Result<ConsolePeer, PeerError> {
        let open = || {
            let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
            grantpt(&controller)?;
            unlockpt(&controller)?;
            let name = ptsname(&controller, Vec::new())?;
            let path = PathBuf::from(name.to_str().map_err(|_| io::ErrorKind::InvalidData)?);
            let user = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&path)?;
            let mut settings = tcgetattr(&user)?;
            settings.make_raw();
            tcsetattr(&user, OptionalActions::Now, &settings)?;
            rustix::io::ioctl_fionbio(&controller, true)?;
            Ok((controller, path))
        };
        let (controller, path) = open().map_err(PeerError::Pty)?;
        Ok(ConsolePeer { place: Place::Pty(controller), path, present: false, look_at: Instant::now() })
    }

    /// A socket at `path`, which only this user may connect to. It is removed with this value.
    ///
    /// # Errors
    /// The path exists, or the host refuses to listen there.
    pub fn socket(path: &Path) -> Result<ConsolePeer, PeerError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => PeerError::Exists(path.to_owned()),
            _ => PeerError::Socket { path: path.to_owned(), source },
        };
        let listener = UnixListener::bind(path).map_err(failed)?;
        let peer = ConsolePeer {
            place: Place::Socket(listener),
            path: path.to_owned(),
            present: false,
            look_at: Instant::now(),
        };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        if let Place::Socket(listener) = &peer.place {
            listener.set_nonblocking(true).map_err(failed)?;
        }
        Ok(peer)
    }

    /// What a user opens or connects to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether somebody is there.
    pub fn is_present(&self) -> bool {
        self.present
    }

    /// The descriptor to poll for somebody who comes.
    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        match &self.place {
            Place::Socket(listener) if !self.present => Some(listener.as_fd()),
            _ => None,
        }
    }

    /// When to look for somebody at the latest.
    pub fn due(&self) -> Option<Instant> {
        (matches!(self.place, Place::Pty(_)) && !self.present).then_some(self.look_at)
    }

    /// Takes whoever has come meanwhile: the descriptor to read from and that to write to; neither blocks.
    pub fn take(&mut self, now: Instant) -> Option<(OwnedFd, OwnedFd)> {
        let reader: OwnedFd = match &self.place {
            _ if self.present => return None,
            Place::Socket(listener) => {
                let (stream, _) = listener.accept().ok()?;
                stream.set_nonblocking(true).ok()?;
                stream.into()
            }
            Place::Pty(controller) => {
                self.look_at = now + LOOK_EVERY;
                if is_hung_up(controller.as_fd()) {
                    return None;
                }
                controller.try_clone().ok()?
            }
        };
        let writer = reader.try_clone().ok()?;
        self.present = true;
        Some((reader, writer))
    }

    /// Whoever was there has left.
    pub fn left(&mut self, now: Instant) {
        self.present = false;
        self.look_at = now + LOOK_EVERY;
    }
}

impl Drop for ConsolePeer {
    fn drop(&mut self) {
        if matches!(self.place, Place::Socket(_)) {
            // Somebody else may have removed it already.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let polled = poll(&mut fds, Some(&now));
    polled.is_err() || fds[0].revents().contains(PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{read, write};
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn exchange(peer: &mut ConsolePeer, mut user: impl Read + Write) {
        let (reader, writer) = peer.take(Instant::now()).expect("somebody is there");
        assert!(peer.is_present() && peer.take(Instant::now()).is_none() && peer.waits_for().is_none());
        write(&writer, b"login: ").unwrap();
        let mut got = [0; 7];
        user.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"login: ");
        user.write_all(b"me\n").unwrap();
        let mut got = [0; 16];
        assert_eq!((read(&reader, &mut got).unwrap(), &got[..3]), (3, &b"me\n"[..]));
        drop(user);
        assert!(matches!(read(&reader, &mut got), Ok(0) | Err(rustix::io::Errno::IO)), "the end, or a hang-up");
        peer.left(Instant::now());
    }

    #[test]
    fn users_of_a_pseudo_terminal_come_and_go() {
        let mut peer = ConsolePeer::pty().unwrap();
        assert!(peer.due().is_some() && peer.take(Instant::now()).is_none(), "nobody has opened it");
        for _ in 0..2 {
            let user = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(peer.path()).unwrap();
            exchange(&mut peer, user);
            assert!(peer.take(Instant::now()).is_none(), "left");
        }
    }

    #[test]
    fn users_of_a_socket_come_and_go_and_it_is_removed() {
        let path = std::env::temp_dir().join(format!("hostel-console-{}", std::process::id()));
        let mut peer = ConsolePeer::socket(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(ConsolePeer::socket(&path), Err(PeerError::Exists(_))));
        assert!(path.exists(), "the other's failure removes nothing");
        for _ in 0..2 {
            assert!(peer.waits_for().is_some() && peer.take(Instant::now()).is_none());
            exchange(&mut peer, UnixStream::connect(&path).unwrap());
        }
        drop(peer);
        assert!(!path.exists());
    }
}
