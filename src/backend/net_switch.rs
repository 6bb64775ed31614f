//! A learning layer-2 switch between the machines of one user: a small process of its own for each name, started by the first
//! machine that plugs in and gone a moment after the last one has left.
//!
//! A port is a connection to its Unix socket, frames behind their length as in `net_stream.rs`, so QEMU's `-netdev stream` may join.
//! What happens between the ports stands in `net_switch_ports.rs`.

use super::net_cable::SwitchPort;
use super::net_port::NetPort;
use super::net_stream::NetStream;
use super::net_switch_ports::{Counts, Switch};
use crate::event_loop::{self, Interest};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a switch without ports waits for one.
const LINGER: Duration = Duration::from_secs(2);
/// How long a machine waits for its switch, and how often it looks.
const APPEARS_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// After how long another process is started: the first may have found a switch that was about to end.
const START_EVERY: Duration = Duration::from_millis(500);

/// A switch that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The directory of the sockets is not this user's alone.
    #[error("use {} for switches: it belongs to another user or is open to others; remove it, or set XDG_RUNTIME_DIR", .0.display())]
    Directory(PathBuf),
    /// Something that the host refuses.
    #[error("{what} for switch {name}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The switch.
        name: String,
        /// Why not.
        source: io::Error,
    },
}

fn host(what: &'static str, name: &str) -> impl Fn(io::Error) -> SwitchError {
    let name = name.to_owned();
    move |source| SwitchError::Host { what, name: name.clone(), source }
}

/// Whether `name` can be that of a switch.
pub fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=32).contains(&name.len()) && name.bytes().all(fits)
}

/// A port of switch `name`, which is started if it does not run.
///
/// # Errors
/// It cannot be started or reached.
pub fn connect(name: &str) -> Result<SwitchPort, SwitchError> {
    let path = directory()?.join(format!("{name}.sock"));
    let until = Instant::now() + APPEARS_WITHIN;
    let mut started: Option<Instant> = None;
    loop {
        let error = match UnixStream::connect(&path).and_then(|socket| greet(socket, until)) {
            Ok(port) => return Ok(port),
            Err(error) => error,
        };
        if Instant::now() > until {
            return Err(host("connect to the socket", name)(error));
        }
        if started.is_none_or(|when| when.elapsed() > START_EVERY) {
            let program = env::current_exe().map_err(host("find this program", name))?;
            let mut command = Command::new(program);
            command.args(["switch", name]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            // Ctrl-C at the first machine's terminal is not for the others' network.
            command.process_group(0).spawn().map_err(host("start the process", name))?;
            started = Some(Instant::now());
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Says that a machine of Hostel's is here, and waits for the switch's answer.
fn greet(socket: UnixStream, until: Instant) -> io::Result<SwitchPort> {
    let mut port = NetStream::to_switch(OwnedFd::from(socket));
    while !port.is_greeted() {
        let left = until.saturating_duration_since(Instant::now());
        let Some(fd) = port.fd() else {
            return Err(io::Error::other("the switch hangs up: it is about to end, or of another version of Hostel"));
        };
        if left.is_zero() {
            return Err(io::Error::other("the switch does not answer"));
        }
        event_loop::wait(&[Interest { token: (), fd, output: false }], Some(left))?;
    }
    Ok(SwitchPort::new(port))
}

/// Is switch `name` until nobody needs it, and tells what became of the frames. `None` where another process is it already.
///
/// # Errors
/// The host refuses the socket.
pub fn serve(name: &str) -> Result<Option<Counts>, SwitchError> {
    let directory = directory()?;
    let lock = directory.join(format!("{name}.lock"));
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let lock = open(lock, flags, Mode::RUSR | Mode::WUSR).map_err(|error| host("open the lock", name)(error.into()))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    let path = directory.join(format!("{name}.sock"));
    // Whoever made it is gone: the lock is ours.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(host("listen at the socket", name))?;
    listener.set_nonblocking(true).map_err(host("listen at the socket", name))?;
    let mut switch = Switch::default();
    let mut idle_since = Instant::now();
    while switch.has_ports() || idle_since.elapsed() < LINGER {
        switch.turn(&listener, LINGER).map_err(host("wait for frames", name))?;
        if switch.has_ports() {
            idle_since = Instant::now();
        }
    }
    let _ = fs::remove_file(&path);
    Ok(Some(switch.counts()))
}

/// Where the sockets of this user's switches are: nobody else may write there.
fn directory() -> Result<PathBuf, SwitchError> {
    let user = rustix::process::getuid().as_raw();
    let directory = match env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) => PathBuf::from(runtime).join("hostel"),
        None => env::temp_dir().join(format!("hostel-{user}")),
    };
    // What is there already is looked at, whoever made it.
    let _ = DirBuilder::new().mode(0o700).create(&directory);
    let ours = fs::symlink_metadata(&directory)
        .is_ok_and(|found| found.is_dir() && found.uid() == user && found.mode() & 0o022 == 0);
    if ours { Ok(directory) } else { Err(SwitchError::Directory(directory)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["a", "lan0", "my-net_2", &"x".repeat(32)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(33)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
