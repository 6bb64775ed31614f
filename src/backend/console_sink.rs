//! Where the guest's output goes: standard output, a file, nowhere. Writing never blocks the control thread.
//!
//! `O_NONBLOCK` belongs to the open file description, which standard output shares with the shell and others. So a pipe or
//! a terminal is opened anew through `/proc/self/fd`: the same pipe, a description of our own. Where that is not permitted
//! (a terminal of another user after `su`), only as little is written after poll(2) as fits without waiting.
//!
//! Sources: open(2), pipe(7) "PIPE_BUF", proc_pid_fd(5).

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A pipe that poll(2) calls writable takes this much without blocking (pipe(7)).
const PIPE_CHUNK_BYTES: usize = 4096;

/// A terminal that poll(2) calls writable has room for little: its driver promises one byte.
const TERMINAL_CHUNK_BYTES: usize = 64;

/// Bytes of one write otherwise.
const CHUNK_BYTES: usize = 64 << 10;

/// A place for the guest's output.
#[derive(Debug)]
pub struct ConsoleSink {
    fd: Option<OwnedFd>,
    way: Way,
}

/// How to write there without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Each write is taken at once: files and the like, and descriptions of our own that do not block.
    Write,
    /// A socket: not to wait is a flag of the call.
    Send,
    /// Poll, then write this much at most.
    Poll(usize),
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// This many bytes were taken, at least one.
    Bytes(usize),
    /// The reader has stopped for now.
    Blocked,
    /// There is no reader any more, or the medium is full: nothing will be taken again.
    Closed,
}

/// A sink that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The console's file.
    #[error("create the console's file {}: {source}", path.display())]
    Create {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Standard output.
    #[error("use standard output for the console: {source}")]
    Stdout {
        /// Why not.
        source: std::io::Error,
    },
}

impl ConsoleSink {
    /// Standard output.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated.
    pub fn stdout() -> Result<ConsoleSink, SinkError> {
        let fd = std::io::stdout().as_fd().try_clone_to_owned().map_err(|source| SinkError::Stdout { source })?;
        Ok(ConsoleSink::over(fd))
    }

    /// A file, created or emptied.
    ///
    /// # Errors
    /// The file cannot be opened for writing.
    pub fn file(path: &Path) -> Result<ConsoleSink, SinkError> {
        let file = File::create(path).map_err(|source| SinkError::Create { path: path.into(), source })?;
        Ok(ConsoleSink::over(file.into()))
    }

    /// Nowhere.
    pub fn none() -> ConsoleSink {
        ConsoleSink { fd: None, way: Way::Write }
    }

    /// An open file description of our own that does not block.
    pub fn nonblocking(fd: OwnedFd) -> ConsoleSink {
        ConsoleSink { fd: Some(fd), way: Way::Write }
    }

    /// Whatever `fd` leads to.
    pub fn over(fd: OwnedFd) -> ConsoleSink {
        let kind = rustix::fs::fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let chunk = match kind {
            Ok(FileType::Socket) => return ConsoleSink { fd: Some(fd), way: Way::Send },
            Ok(FileType::Fifo) => PIPE_CHUNK_BYTES,
            Ok(FileType::CharacterDevice) if rustix::termios::isatty(&fd) => TERMINAL_CHUNK_BYTES,
            _ => return ConsoleSink { fd: Some(fd), way: Way::Write },
        };
        match open_anew(fd.as_fd()) {
            Ok(own) => ConsoleSink { fd: Some(own), way: Way::Write },
            Err(_) => ConsoleSink { fd: Some(fd), way: Way::Poll(chunk) },
        }
    }

    /// Bytes that are worth offering to [`ConsoleSink::write`] at a time.
    pub fn chunk_bytes(&self) -> usize {
        match self.way {
            Way::Poll(chunk) => chunk,
            Way::Write | Way::Send => CHUNK_BYTES,
        }
    }

    /// Writes as much of `bytes`, which is not empty, as goes without waiting.
    pub fn write(&mut self, bytes: &[u8]) -> Written {
        let Some(fd) = &self.fd else { return Written::Bytes(bytes.len()) };
        let result = match self.way {
            Way::Write => rustix::io::write(fd, bytes),
            Way::Send => rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Way::Poll(chunk) if ready(fd.as_fd()) => rustix::io::write(fd, &bytes[..bytes.len().min(chunk)]),
            Way::Poll(_) => Err(Errno::AGAIN),
        };
        match result {
            Ok(0) | Err(Errno::AGAIN | Errno::INTR) => Written::Blocked,
            Ok(count) => Written::Bytes(count),
            Err(_) => Written::Closed,
        }
    }

    /// The descriptor to poll for writing after [`Written::Blocked`].
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }
}

/// The same pipe or terminal as `fd`, by a description of our own that does not block.
fn open_anew(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}

/// Whether a little can be written now.
fn ready(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::fcntl_getfl;

    /// Writes until the reader would have to read; returns how much went.
    fn fill(sink: &mut ConsoleSink) -> usize {
        let mut total = 0;
        loop {
            match sink.write(&[b'x'; 1000]) {
                Written::Bytes(count) => total += count,
                Written::Blocked => return total,
                Written::Closed => panic!("closed"),
            }
        }
    }

    #[test]
    fn sec49_a_full_pipe_blocks_nobody_and_stays_a_blocking_pipe_for_others() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let shared = writer.try_clone().unwrap();
        let mut sink = ConsoleSink::over(writer);
        assert_eq!(sink.way, Way::Write);
        assert!(fill(&mut sink) >= PIPE_CHUNK_BYTES);
        assert!(!fcntl_getfl(&shared).unwrap().contains(OFlags::NONBLOCK));
        rustix::io::read(&reader, &mut [0u8; 8192]).unwrap();
        assert!(matches!(sink.write(b"y"), Written::Bytes(1)));
    }

    #[test]
    fn without_a_description_of_our_own_poll_comes_first() {
        let (_reader, writer) = rustix::pipe::pipe().unwrap();
        let mut sink = ConsoleSink { fd: Some(writer), way: Way::Poll(PIPE_CHUNK_BYTES) };
        assert!(fill(&mut sink) >= PIPE_CHUNK_BYTES);
    }

    #[test]
    fn a_terminal_whose_reader_stopped_blocks_nobody() {
        use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let terminal = || OwnedFd::from(File::options().read(true).write(true).open(&path).unwrap());
        let mut polled = ConsoleSink { fd: Some(terminal()), way: Way::Poll(TERMINAL_CHUNK_BYTES) };
        assert_eq!(polled.write(&[b'x'; 1000]), Written::Bytes(TERMINAL_CHUNK_BYTES));
        let mut sink = ConsoleSink::over(terminal());
        assert_eq!(sink.way, Way::Write);
        assert!(fill(&mut sink) > 0);
        assert_eq!(polled.write(b"x"), Written::Blocked);
    }

    #[test]
    fn a_socket_whose_reader_stopped_blocks_nobody() {
        let (_reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut sink = ConsoleSink::over(writer.into());
        assert_eq!(sink.way, Way::Send);
        assert!(fill(&mut sink) > 0);
    }

    #[test]
    fn a_reader_that_left_closes_the_sink() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut sink = ConsoleSink::over(writer);
        drop(reader);
        assert_eq!(sink.write(b"x"), Written::Closed);
    }

    #[test]
    fn a_full_medium_closes_the_sink_and_nowhere_takes_all() {
        let mut full = ConsoleSink::file(Path::new("/dev/full")).unwrap();
        assert_eq!(full.write(b"x"), Written::Closed);
        assert_eq!(ConsoleSink::none().write(b"xyz"), Written::Bytes(3));
        let missing = ConsoleSink::file(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(missing.to_string().contains("/nowhere/at/all"));
    }
}
