//! A learning layer-2 switch between the machines of one user: a small process of its own for each name, started by the first
//! machine that plugs in and gone a moment after the last one has left.
//!
//! A port is a connection to its Unix socket, frames behind their length as in `net_stream.rs`, so QEMU's `-netdev stream` may join.
//! What a port has no room for is lost, as on any switch: a slow machine stalls no other. Leaves out VLANs, spanning trees,
//! offloads.
//! Source: IEEE 802.1D §7.8 (the learning process), §7.7 (the forwarding process).

use super::net_port::{FRAME_MAX, HEADER_BYTES, NetPort};
use super::net_stream::NetStream;
use crate::event_loop::{self, Interest};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use std::collections::HashMap;
use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Addresses that are kept; beyond them the switch forgets all and learns anew.
const ADDRESSES_MAX: usize = 4096;
/// Ports that there may be.
const PORTS_MAX: usize = 256;
/// Frames that are taken from one port before the others have their turn.
const FRAMES_AT_ONCE: usize = 64;
/// How long a switch without ports waits for one.
const LINGER: Duration = Duration::from_secs(2);
/// How long a machine waits for its switch, and how often it looks.
const APPEARS_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(10);

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
pub fn connect(name: &str) -> Result<NetStream, SwitchError> {
    let path = directory()?.join(format!("{name}.sock"));
    let until = Instant::now() + APPEARS_WITHIN;
    let mut started = false;
    loop {
        match UnixStream::connect(&path) {
            Ok(socket) => return Ok(NetStream::new(OwnedFd::from(socket))),
            Err(error) if Instant::now() > until => return Err(host("connect to the socket", name)(error)),
            Err(_) if started => thread::sleep(LOOK_EVERY),
            Err(_) => {
                let program = env::current_exe().map_err(host("find this program", name))?;
                let mut command = Command::new(program);
                command.args(["switch", name]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                // Ctrl-C at the first machine's terminal is not for the others' network.
                command.process_group(0).spawn().map_err(host("start the process", name))?;
                started = true;
            }
        }
    }
}

/// Is switch `name` until nobody needs it. Returns at once where another process is it.
///
/// # Errors
/// The host refuses the socket.
pub fn serve(name: &str) -> Result<(), SwitchError> {
    let directory = directory()?;
    let lock = directory.join(format!("{name}.lock"));
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let lock = open(lock, flags, Mode::RUSR | Mode::WUSR).map_err(|error| host("open the lock", name)(error.into()))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
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
    Ok(())
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

/// Ports, and behind which of them each address was seen last.
struct Switch {
    ports: Vec<Option<NetStream>>,
    addresses: HashMap<[u8; 6], usize>,
    /// The frame on its way.
    frame: Box<[u8]>,
}

impl Default for Switch {
    fn default() -> Switch {
        Switch { ports: Vec::new(), addresses: HashMap::new(), frame: vec![0; FRAME_MAX].into_boxed_slice() }
    }
}

impl Switch {
    fn has_ports(&self) -> bool {
        self.ports.iter().any(Option::is_some)
    }

    /// Waits, at most `wait`, and moves on what has come.
    fn turn(&mut self, listener: &UnixListener, wait: Duration) -> io::Result<()> {
        let mut interests = vec![Interest { token: None, fd: listener.as_fd(), output: false }];
        for (index, port) in self.ports.iter().enumerate() {
            let Some(port) = port else { continue };
            let Some(fd) = port.fd() else { continue };
            interests.push(Interest { token: Some(index), fd, output: false });
            if port.wants_room() {
                interests.push(Interest { token: Some(index), fd, output: true });
            }
        }
        for ready in event_loop::wait(&interests, Some(wait))? {
            match ready {
                None => self.accept(listener),
                Some(index) => self.forward_from(index),
            }
        }
        for port in &mut self.ports {
            *port = port.take().filter(|port| port.fd().is_some());
        }
        Ok(())
    }

    fn accept(&mut self, listener: &UnixListener) {
        while let Ok((socket, _)) = listener.accept() {
            let free = self.ports.iter().position(Option::is_none).unwrap_or(self.ports.len());
            if free == PORTS_MAX {
                continue; // It hears the end at once.
            }
            if free == self.ports.len() {
                self.ports.push(None);
            }
            self.ports[free] = Some(NetStream::new(OwnedFd::from(socket)));
            self.addresses.retain(|_, port| *port != free);
        }
    }

    /// Passes on what has come at port `index`, and what is left of a frame to it.
    fn forward_from(&mut self, index: usize) {
        let mut frame = std::mem::take(&mut self.frame);
        for _ in 0..FRAMES_AT_ONCE {
            let Some(Some(port)) = self.ports.get_mut(index) else { break };
            port.flush();
            let Some(length) = port.receive(&mut frame) else { break };
            self.forward(index, &frame[..length]);
        }
        self.frame = frame;
    }

    fn forward(&mut self, from: usize, frame: &[u8]) {
        let ethernet = &frame[HEADER_BYTES..];
        let (Some(to), Some(source)) =
            (ethernet.first_chunk::<6>(), ethernet.get(6..).and_then(|rest| rest.first_chunk()))
        else {
            return; // too short to say where it goes
        };
        if is_one(source) {
            if self.addresses.len() >= ADDRESSES_MAX {
                self.addresses.clear();
            }
            self.addresses.insert(*source, from);
        }
        let known = self.addresses.get(to).copied().filter(|_| is_one(to));
        for (index, port) in self.ports.iter_mut().enumerate() {
            let wanted = index != from && known.is_none_or(|known| known == index);
            if let Some(port) = port.as_mut().filter(|_| wanted) {
                // A port without room loses it.
                port.send(frame);
            }
        }
    }
}

/// Whether an address is that of one device, not of a group.
fn is_one(address: &[u8; 6]) -> bool {
    address[0] & 1 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROADCAST: [u8; 6] = [0xff; 6];

    fn address(number: u8) -> [u8; 6] {
        [2, 0, 0, 0, 0, number]
    }

    fn frame(to: [u8; 6], from: [u8; 6], text: &[u8]) -> Vec<u8> {
        [&[0; HEADER_BYTES][..], &to, &from, &[0x88, 0xb5], text].concat()
    }

    /// A switch and three ports plugged in.
    fn plugged() -> (Switch, [NetStream; 3]) {
        let mut switch = Switch::default();
        let ports = std::array::from_fn(|_| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            switch.ports.push(Some(NetStream::new(theirs.into())));
            NetStream::new(ours.into())
        });
        (switch, ports)
    }

    fn text(port: &mut NetStream) -> Option<Vec<u8>> {
        let mut frame = vec![0; FRAME_MAX];
        let length = port.receive(&mut frame)?;
        Some(frame[HEADER_BYTES + 14..length].to_vec())
    }

    fn pass(switch: &mut Switch, ports: &mut [NetStream; 3], from: usize, frame: &[u8]) -> [Option<Vec<u8>>; 3] {
        ports[from].send(frame);
        switch.forward_from(from);
        ports.each_mut().map(text)
    }

    #[test]
    fn what_is_not_known_goes_everywhere_and_what_is_known_to_its_port_alone() {
        let (mut switch, mut ports) = plugged();
        let hello = Some(b"hello".to_vec());
        let first = pass(&mut switch, &mut ports, 0, &frame(BROADCAST, address(1), b"hello"));
        assert_eq!(first, [None, hello.clone(), hello.clone()]);
        let answer = pass(&mut switch, &mut ports, 1, &frame(address(1), address(2), b"hello"));
        assert_eq!(answer, [hello.clone(), None, None], "only to whom it is for");
        let unknown = pass(&mut switch, &mut ports, 2, &frame(address(9), address(3), b"hello"));
        assert_eq!(unknown, [hello.clone(), hello.clone(), None]);
        let moved = pass(&mut switch, &mut ports, 2, &frame(BROADCAST, address(1), b"hello"));
        assert_eq!(moved, [hello.clone(), hello.clone(), None]);
        let after = pass(&mut switch, &mut ports, 1, &frame(address(1), address(2), b"hello"));
        assert_eq!(after, [None, None, hello], "the machine has another port now");
    }

    #[test]
    fn frames_that_are_none_and_groups_as_senders_teach_nothing() {
        let (mut switch, mut ports) = plugged();
        for length in 0..12 {
            assert_eq!(pass(&mut switch, &mut ports, 0, &vec![0; HEADER_BYTES + length]), [None, None, None]);
        }
        pass(&mut switch, &mut ports, 0, &frame(address(2), BROADCAST, b"x"));
        assert!(switch.addresses.is_empty());
    }

    #[test]
    fn a_flood_of_addresses_and_a_port_that_never_reads_stay_bounded_and_stall_nobody() {
        let (mut switch, mut ports) = plugged();
        for number in 0..3 * ADDRESSES_MAX as u32 {
            let [a, b, c, d] = number.to_be_bytes();
            switch.forward(0, &frame(address(1), [2, 0, a, b, c, d], &[0; 1000]));
            if number % 16 == 0 {
                while text(&mut ports[1]).is_some() {}
            }
        }
        assert!(switch.addresses.len() <= ADDRESSES_MAX);
        while text(&mut ports[1]).is_some() {}
        switch.forward(0, &frame(BROADCAST, address(1), b"on"));
        assert_eq!(text(&mut ports[1]), Some(b"on".to_vec()), "while port 2 has not read anything");
    }

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
