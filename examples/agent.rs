//! Talks to the agent in a guest that was started with `--vsock PATH`: the protocol of docs/agent.md, as a program and as a reference.
//!
//!     agent PATH status
//!     agent PATH exec PROGRAM [ARGUMENT...]     standard input, output and errors are the program's; so is the status
//!     agent PATH put FILE NAME-IN-GUEST
//!     agent PATH get NAME-IN-GUEST FILE

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::thread;

/// Where the agent listens in the guest.
pub const PORT: u32 = 1000;
/// Most bytes of data in a frame.
const DATA_MAX: usize = 64 << 10;

/// A connection to the agent.
pub struct Agent(UnixStream);

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It exited with this status.
    Exit(u32),
    /// It was ended by this signal.
    Signal(u32),
}

/// What to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Program<'a> {
    /// Where it runs; where the agent does if it is empty.
    pub directory: &'a str,
    /// NAME=VALUE
    pub environment: &'a [&'a str],
    /// Its name and its arguments.
    pub arguments: &'a [&'a str],
}

impl Agent {
    /// Connects to the agent of the machine whose socket is `path`.
    pub fn connect(path: &Path) -> io::Result<Agent> {
        let mut stream = UnixStream::connect(path)?;
        writeln!(stream, "CONNECT {PORT}")?;
        // The first line is the machine's. Nothing follows it before something is asked.
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        match line.strip_prefix("OK ") {
            Some(_) => Ok(Agent(stream)),
            None => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "no agent answers in the guest")),
        }
    }

    /// The agent behind a connection that it made itself (docs/agent.md "Who calls").
    pub fn called(stream: UnixStream) -> Agent {
        Agent(stream)
    }

    /// Sends a frame.
    pub fn send(&mut self, kind: u8, data: &[u8]) -> io::Result<()> {
        send(&mut self.0, kind, data)
    }

    /// Waits for a frame: its kind and its data.
    pub fn receive(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.0.read_exact(&mut head)?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if length > DATA_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that is too long"));
        }
        let mut data = vec![0; length];
        self.0.read_exact(&mut data)?;
        match head[4] {
            b'f' => Err(io::Error::other(String::from_utf8_lossy(&data).into_owned())),
            kind => Ok((kind, data)),
        }
    }

    /// How the system is, a line for each value.
    pub fn status(&mut self) -> io::Result<String> {
        self.send(b'S', &[])?;
        let (_, text) = self.receive()?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Writes a file into the guest.
    pub fn put(&mut self, mut from: impl Read, mode: u32, to: &str) -> io::Result<()> {
        self.send(b'P', &[&mode.to_le_bytes(), to.as_bytes()].concat())?;
        let mut data = vec![0; DATA_MAX];
        loop {
            let count = from.read(&mut data)?;
            self.send(b'd', &data[..count])?;
            if count == 0 {
                return self.receive().map(drop);
            }
        }
    }

    /// Reads a file of the guest; returns its permissions.
    pub fn get(&mut self, from: &str, mut to: impl Write) -> io::Result<u32> {
        self.send(b'G', from.as_bytes())?;
        let (_, head) = self.receive()?;
        let mode = head.first_chunk().map(|mode| u32::from_le_bytes(*mode));
        let mode = mode.ok_or(io::ErrorKind::InvalidData)?;
        loop {
            let (_, data) = self.receive()?;
            if data.is_empty() {
                return Ok(mode);
            }
            to.write_all(&data)?;
        }
    }

    /// Asks for a program to be started. Frames go both ways from then on, to [`Agent::finish`].
    pub fn start(&mut self, program: &Program) -> io::Result<()> {
        let words = [&[program.directory], program.environment, &[""], program.arguments].concat();
        let request: Vec<u8> = words.iter().flat_map(|word| word.bytes().chain([0])).collect();
        self.send(b'E', &request)
    }

    /// Carries what a program reads and writes, until it ends. The connection ends with it: what the program has not read may
    /// still be under way.
    pub fn finish(
        mut self,
        input: impl Read + Send + 'static,
        mut output: impl Write,
        mut errors: impl Write,
    ) -> io::Result<End> {
        let mut stream = self.0.try_clone()?;
        // Beside the output: a program may write before it has read all. When the program ends first, the thread is left.
        thread::spawn(move || send_input(&mut stream, input));
        loop {
            let (kind, data) = self.receive()?;
            let number =
                || data.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)).ok_or(io::ErrorKind::InvalidData);
            match kind {
                b'o' => output.write_all(&data)?,
                b'e' => errors.write_all(&data)?,
                b'x' => return Ok(End::Exit(number()?)),
                b's' => return Ok(End::Signal(number()?)),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}

fn send(stream: &mut UnixStream, kind: u8, data: &[u8]) -> io::Result<()> {
    let length = (data.len() as u32).to_le_bytes();
    stream.write_all(&[&length[..], &[kind], data].concat())
}

fn send_input(stream: &mut UnixStream, mut input: impl Read) -> io::Result<()> {
    let mut data = vec![0; DATA_MAX];
    loop {
        let count = input.read(&mut data)?;
        // No data are the end.
        send(stream, b'i', &data[..count])?;
        if count == 0 {
            return Ok(());
        }
    }
}

/// Does what the command line says.
pub fn main() -> io::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [path, verb, arguments @ ..] = &words[..] else { return usage() };
    let mut agent = Agent::connect(Path::new(path))?;
    match (*verb, arguments) {
        ("status", []) => print!("{}", agent.status()?),
        ("exec", [_, ..]) => {
            agent.start(&Program { arguments, ..Program::default() })?;
            let end = agent.finish(io::stdin(), io::stdout(), io::stderr())?;
            return Ok(match end {
                End::Exit(status) => ExitCode::from(status as u8),
                // As shells have it.
                End::Signal(signal) => ExitCode::from(128 + signal as u8),
            });
        }
        ("put", [from, to]) => {
            let file = File::open(from)?;
            let mode = file.metadata()?.permissions().mode();
            agent.put(file, mode & 0o7777, to)?;
        }
        ("get", [from, to]) => {
            let mode = agent.get(from, File::create(to)?)?;
            fs::set_permissions(to, Permissions::from_mode(mode))?;
        }
        _ => return usage(),
    }
    Ok(ExitCode::SUCCESS)
}

fn usage() -> io::Result<ExitCode> {
    eprintln!("agent PATH status | exec PROGRAM [ARGUMENT...] | put FILE NAME | get NAME FILE");
    Ok(ExitCode::from(2))
}
