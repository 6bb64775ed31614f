//! Runs the program under test to its end, or to a deadline.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for everything that does not hang, also under software emulation.
const DEADLINE: Duration = Duration::from_secs(300);

/// How one run ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit status; that of a process ended by a signal is 128 and the signal's number, as shells have it.
    pub status: i32,
    /// The guest's bytes.
    pub stdout: String,
    /// What Hostel says.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
    /// When, from the start on, standard output had grown to how many bytes.
    growth: Vec<(Duration, usize)>,
}

impl Finished {
    /// When the guest had written `text` to its console.
    pub fn seen(&self, text: &str) -> Option<Duration> {
        let end = self.stdout.find(text)? + text.len();
        self.growth.iter().find(|(_, bytes)| *bytes >= end).map(|(when, _)| *when)
    }
}

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_hostel");

/// Runs `hostel` with these arguments, `input` on its standard input, which is closed then.
///
/// # Panics
/// When the run takes longer than any that is right.
pub fn hostel(arguments: &[&str], input: &str) -> Finished {
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    finish(command, input)
}

/// Runs `command`, `input` on its standard input, which is closed then.
///
/// # Panics
/// When the run takes longer than any that is right.
pub fn finish(mut command: Command, input: &str) -> Finished {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let stdout = collect(child.stdout.take().expect("stdout is a pipe"), start);
    let stderr = collect(child.stderr.take().expect("stderr is a pipe"), start);
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let input = input.to_owned();
    // A guest may end without having read all of it.
    thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = [stdout, stderr].map(|stream| stream.recv_timeout(DEADLINE.saturating_sub(start.elapsed())));
    let [Ok((stdout, growth)), Ok((stderr, _))] = output else {
        child.kill().expect("a child can be killed");
        panic!("{command:?} did not end within {DEADLINE:?}: {output:?}");
    };
    let status = child.wait().expect("a child can be waited for");
    let status = status.code().or(status.signal().map(|signal| 128 + signal)).expect("it ended in one of two ways");
    Finished { status, stdout, stderr, elapsed: start.elapsed(), growth }
}

/// A stream's text and when it had grown to which length.
type Recording = (String, Vec<(Duration, usize)>);

/// Sends all that the stream carries once it ends.
fn collect(mut stream: impl Read + Send + 'static, start: Instant) -> Receiver<Recording> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let (mut bytes, mut growth, mut chunk) = (Vec::new(), Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..count]);
            growth.push((start.elapsed(), bytes.len()));
        }
        let _ = sender.send((String::from_utf8_lossy(&bytes).into_owned(), growth));
    });
    receiver
}
