//! The agent: does what a process of the host asks for over vsock, which is to run a program, to copy a file in or out, or to tell how
//! the system is. It is there where the machine has a socket device (`--vsock`).
//!
//! A process listens and has one child for each connection, up to [`CONNECTIONS_MAX`]; a connection's requests are served one after the
//! other. It also calls the host at the same port, once: who listens there learns that the agent is ready, and has a connection. Leaves out
//! terminals for programs, directories, and owners of files other than root. docs/agent.md has the protocol. Source: vsock(7).

use crate::calls::{self, INPUT, Poll};
use crate::frames::{DATA_MAX, Frames, Gone};
use crate::syscalls::{self, Errno};
use crate::{execute, print};

/// Where it listens, and calls the host: only root may listen at ports below 1024.
const PORT: u32 = 1000;
/// Connections at a time; further ones wait.
const CONNECTIONS_MAX: usize = 16;
/// Descriptors behind standard input, output and errors, more than init opens.
const FIRST_OTHER: usize = 3;
const OTHERS_END: usize = 64;
/// Longest name of a file, with the zero byte behind it (`PATH_MAX`, limits.h).
const NAME_MAX: usize = 4096;

/// Starts it beside this process, if there is somebody to reach it.
pub fn start() {
    if !calls::has_guest_address() {
        return;
    }
    match calls::fork() {
        Ok(0) => {
            if let Err(error) = serve() {
                print!("the agent cannot serve: {error}\n");
            }
            syscalls::exit(crate::FAILED)
        }
        Ok(_) => {}
        Err(error) => print!("the agent cannot start: {error}\n"),
    }
}

/// Takes connections, and processes that ended.
fn serve() -> Result<(), Errno> {
    calls::new_session();
    // What init has open, such as its port to Hostel, is for nobody that is started here.
    (FIRST_OTHER..OTHERS_END).for_each(syscalls::close);
    let children = calls::watch_children()?;
    let listener = calls::listen(PORT, CONNECTIONS_MAX)?;
    let mut serving = [0; CONNECTIONS_MAX];
    if let Ok(connection) = calls::connect(PORT) {
        serving[0] = serve_beside(connection);
    }
    loop {
        let free = serving.iter_mut().find(|process| **process == 0);
        let mut files = [Poll::new(free.is_some().then_some(listener), INPUT), Poll::new(Some(children), INPUT)];
        calls::poll(&mut files, -1);
        if let Some(free) = free.filter(|_| files[0].found != 0)
            && let Ok(connection) = calls::accept(listener)
        {
            *free = serve_beside(connection);
        }
        // What it tells is how many ended at least: all are looked for.
        let _ = syscalls::read(children, &mut [0; 128]);
        while let Some(ended) = calls::reap() {
            serving.iter_mut().filter(|process| **process == ended).for_each(|process| *process = 0);
        }
    }
}

/// Serves a connection in a process of its own, and returns its number; 0 without one.
fn serve_beside(connection: usize) -> usize {
    let child = calls::fork();
    if child == Ok(0) {
        // Its end is that of the connection.
        let _ = serve_requests(&mut Frames::new(connection));
        syscalls::exit(0)
    }
    syscalls::close(connection);
    child.unwrap_or(0)
}

fn serve_requests(frames: &mut Frames) -> Result<(), Gone> {
    loop {
        match frames.receive()? {
            b'E' => execute::run(frames)?,
            b'P' => put(frames)?,
            b'G' => get(frames)?,
            b'S' => status(frames)?,
            // Input or a signal for a program that has just ended.
            b'i' | b'K' => {}
            _ => frames.send(b'f', b"there is no such request")?,
        }
    }
}

/// A name with a zero byte behind it, in a buffer.
fn name<'a>(text: &[u8], buffer: &'a mut [u8; NAME_MAX]) -> Result<&'a [u8], Errno> {
    const TOO_LONG: Errno = Errno(36);
    const INVALID: Errno = Errno(22);
    if text.is_empty() || text.contains(&0) {
        return Err(INVALID);
    }
    // The last byte stays zero.
    buffer[..NAME_MAX - 1].get_mut(..text.len()).ok_or(TOO_LONG)?.copy_from_slice(text);
    Ok(&buffer[..=text.len()])
}

/// Takes a file: permissions and name, then its bytes. It has its name once it is whole.
fn put(frames: &mut Frames) -> Result<(), Gone> {
    let (mut to, mut beside) = ([0; NAME_MAX], [0; NAME_MAX]);
    let (mode, text) = frames.data().split_at_checked(4).unwrap_or((&[0; 4], &[]));
    let mode = u32::from_le_bytes([mode[0], mode[1], mode[2], mode[3]]);
    let to = name(text, &mut to);
    // Nobody else has the number of this process.
    let beside = to.and_then(|to| {
        let mut text = [0; NAME_MAX];
        let length = to.len() - 1;
        let suffix = Suffix::new(calls::own_number());
        let end = length + suffix.0.len();
        let place = text.get_mut(length..end).ok_or(Errno(36))?;
        place.copy_from_slice(&suffix.0);
        text[..length].copy_from_slice(&to[..length]);
        name(&text[..end], &mut beside)
    });
    let mut file = beside.and_then(calls::create);
    let mut failed = file.err();
    let gone = loop {
        match frames.receive() {
            Ok(b'd') if frames.data().is_empty() => break false,
            // After a failure the rest is still taken, so that the next request is found.
            Ok(b'd') => {
                if let Ok(open) = file
                    && let Err(error) = syscalls::write_all(open, frames.data())
                {
                    failed = failed.or(Some(error));
                    syscalls::close(open);
                    file = Err(error);
                }
            }
            Ok(_) | Err(Gone) => break true,
        }
    };
    if let (Ok(open), None) = (file, failed) {
        failed = calls::set_mode(open, mode & 0o7777).err();
        syscalls::close(open);
    }
    if let (Ok(beside), Ok(to)) = (beside, to) {
        if failed.is_none() && !gone {
            failed = calls::rename(beside, to).err();
        }
        if failed.is_some() || gone {
            calls::remove(beside);
        }
    }
    match failed {
        _ if gone => Err(Gone),
        Some(error) => frames.fail(error),
        None => frames.send(b'k', &[]),
    }
}

/// What stands behind the name of a file that is not yet whole.
struct Suffix([u8; 15]);

impl Suffix {
    fn new(number: usize) -> Self {
        let mut text = *b".000000.partial";
        let mut left = number;
        for digit in text[1..7].iter_mut().rev() {
            *digit += (left % 10) as u8;
            left /= 10;
        }
        Self(text)
    }
}

/// Gives a file: permissions and size, then its bytes.
fn get(frames: &mut Frames) -> Result<(), Gone> {
    let mut buffer = [0; NAME_MAX];
    let opened = name(frames.data(), &mut buffer).and_then(calls::open_to_read);
    let file = match opened {
        Ok(file) => file,
        Err(error) => return frames.fail(error),
    };
    let sent = send_file(frames, file);
    syscalls::close(file);
    sent
}

fn send_file(frames: &Frames, file: usize) -> Result<(), Gone> {
    const TYPE: u32 = 0o170_000;
    const DIRECTORY: u32 = 0o040_000;
    const IS_DIRECTORY: Errno = Errno(21);
    let (mode, size) = match calls::mode_and_size(file) {
        Ok((mode, _)) if mode & TYPE == DIRECTORY => return frames.fail(IS_DIRECTORY),
        Ok(found) => found,
        Err(error) => return frames.fail(error),
    };
    let mut head = [0; 12];
    head[..4].copy_from_slice(&(mode & 0o7777).to_le_bytes());
    head[4..].copy_from_slice(&size.to_le_bytes());
    frames.send(b'm', &head)?;
    let mut data = [0; DATA_MAX];
    loop {
        match syscalls::read(file, &mut data) {
            Ok(count) => {
                frames.send(b'd', &data[..count])?;
                if count == 0 {
                    return Ok(());
                }
            }
            Err(error) => return frames.fail(error),
        }
    }
}

/// Tells how the system is, a line for each value.
fn status(frames: &Frames) -> Result<(), Gone> {
    let info = calls::system_info();
    let hundredths = info.loads.map(|load| load * 100 >> 16);
    let [one, five, fifteen] = hundredths.map(|load| (load / 100, load % 100));
    let bytes = |units: u64| units * u64::from(info.unit);
    frames.send_text(
        b't',
        format_args!(
            "protocol 1\nuptime_seconds {}\nload_1 {}.{:02}\nload_5 {}.{:02}\nload_15 {}.{:02}\n\
             memory_total_bytes {}\nmemory_free_bytes {}\nprocesses {}\nprocessors {}\n",
            info.uptime,
            one.0,
            one.1,
            five.0,
            five.1,
            fifteen.0,
            fifteen.1,
            bytes(info.total_ram),
            bytes(info.free_ram),
            info.processes,
            syscalls::processors()
        ),
    )
}
