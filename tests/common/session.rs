//! A dialogue with the running program: on a terminal of its own, or over pipes.

use super::hostel::PROGRAM;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for every answer that comes at all, also under software emulation.
const DEADLINE: Duration = Duration::from_secs(120);

/// A running program.
pub struct Session {
    child: Child,
    input: Option<File>,
    /// The terminal, and its settings before the start.
    terminal: Option<(File, Termios)>,
    output: Receiver<Vec<u8>>,
    /// All output so far, standard output and standard error in one.
    seen: String,
    /// How much of it earlier questions were about.
    asked: usize,
}

impl Session {
    /// Starts `hostel` on a fresh terminal of 80 columns and 24 rows, in whose foreground it is: standard input, output and error.
    pub fn on_terminal(arguments: &[&str]) -> Session {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals left");
        grantpt(&master).expect("the terminal is ours");
        unlockpt(&master).expect("the terminal is ours");
        let path = ptsname(&master, Vec::new()).expect("a terminal has a name");
        let terminal = File::options().read(true).write(true).open(path.to_str().expect("the name is text"));
        let terminal = terminal.expect("the terminal is ours");
        let end = || Stdio::from(terminal.try_clone().expect("there are descriptors left"));
        let before = tcgetattr(&master).expect("terminals have settings");
        tcsetwinsize(&master, size(80, 24)).expect("terminals have a size");
        // setsid -c makes the terminal the controlling one and then becomes the program.
        let mut command = Command::new("setsid");
        command.args(["-c", PROGRAM]).args(arguments).stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("setsid is installed");
        drop(command);
        let master = File::from(master);
        let (sender, output) = channel();
        forward(master.try_clone().expect("there are descriptors left"), sender);
        Session {
            child,
            input: Some(master),
            terminal: Some((terminal, before)),
            output,
            seen: String::new(),
            asked: 0,
        }
    }

    /// Starts `command` on pipes.
    pub fn on_pipes(mut command: Command) -> Session {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program can be started");
        let (sender, output) = channel();
        forward(child.stdout.take().expect("a pipe"), sender.clone());
        forward(child.stderr.take().expect("a pipe"), sender);
        let input = child.stdin.take().map(|pipe| File::from(std::os::fd::OwnedFd::from(pipe)));
        Session { child, input, terminal: None, output, seen: String::new(), asked: 0 }
    }

    /// Types.
    pub fn type_in(&mut self, text: &str) {
        let input = self.input.as_mut().expect("the input is open");
        input.write_all(text.as_bytes()).expect("the program reads");
    }

    /// Waits until `text` appears behind what was waited for before.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen[self.asked..].find(text) {
                self.asked += at + text.len();
                return;
            }
            let piece = self.output.recv_timeout(DEADLINE.saturating_sub(start.elapsed()));
            let Ok(piece) = piece else {
                panic!("{text:?} did not come ({piece:?}) behind {} of: {}", self.asked, self.seen)
            };
            self.seen.push_str(&String::from_utf8_lossy(&piece));
        }
    }

    /// Waits for `text` as [`Session::wait_for`] does, and returns what came before it.
    #[track_caller]
    pub fn text_before(&mut self, text: &str) -> String {
        let start = self.asked;
        self.wait_for(text);
        self.seen[start..self.asked - text.len()].to_owned()
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        // A program that has ended and was not waited for is still there to get it.
        kill_process(self.pid(), signal).expect("the program is our child");
    }

    /// Makes the terminal this large; the program hears of it.
    pub fn resize(&self, columns: u16, rows: u16) {
        let (terminal, _) = self.terminal.as_ref().expect("it has a terminal");
        tcsetwinsize(terminal, size(columns, rows)).expect("terminals have a size");
    }

    /// Settings of the terminal now.
    pub fn settings(&self) -> Termios {
        let (terminal, _) = self.terminal.as_ref().expect("it has a terminal");
        tcgetattr(terminal).expect("terminals have settings")
    }

    /// The program's process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Closes the input, waits for the end, and returns the status (128 and the number for a signal) and all output.
    pub fn end(mut self) -> (i32, String) {
        if self.terminal.is_none() {
            self.input = None;
        }
        let (status, _) = self.finish();
        (status, std::mem::take(&mut self.seen))
    }

    /// Waits for the end; returns the status and whether the terminal is as it was before the start.
    pub fn end_on_terminal(mut self) -> (i32, bool) {
        let (status, restored) = self.finish();
        (status, restored.expect("it has a terminal"))
    }

    fn finish(&mut self) -> (i32, Option<bool>) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if start.elapsed() > DEADLINE {
                // The panic below tells.
                let _ = self.child.kill();
                panic!("it did not end: {}", self.seen);
            }
            // Output ends with the program; on a terminal, where it does not, this is a tick.
            if let Ok(piece) = self.output.recv_timeout(Duration::from_millis(1)) {
                self.seen.push_str(&String::from_utf8_lossy(&piece));
            }
        };
        let restored = self.terminal.as_ref().map(|(terminal, before)| {
            let after = tcgetattr(terminal).expect("terminals have settings");
            (after.local_modes, after.input_modes, after.output_modes)
                == (before.local_modes, before.input_modes, before.output_modes)
        });
        // The last descriptor of the terminal: the reader of its other end gets all that is left, and then the end.
        self.terminal = None;
        while let Ok(piece) = self.output.recv_timeout(DEADLINE) {
            self.seen.push_str(&String::from_utf8_lossy(&piece));
        }
        let status = status.code().or(status.signal().map(|signal| 128 + signal)).expect("it ended in one of two ways");
        (status, restored)
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A test that failed leaves no program behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(mut stream: impl Read + Send + 'static, sender: Sender<Vec<u8>>) {
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            if sender.send(chunk[..count].to_vec()).is_err() {
                return;
            }
        }
    });
}
