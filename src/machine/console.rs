//! The console of a running machine: output, input, keys and prompt, as one thing for the control loop.
//!
//! Its device is the serial port, or a virtio console. Beside that the serial port has what a kernel logs, which is watched and not shown.

use crate::backend::console_input::{ConsoleInput, EndOfInput, Typed};
use crate::backend::console_link::{LinkLine, LinkPort, console_link};
use crate::backend::console_output::ConsoleOutput;
use crate::backend::console_peer::{ConsolePeer, PeerError};
use crate::backend::console_ring::{ConsoleRing, Wake, console_ring};
use crate::backend::console_sink::{ConsoleSink, SinkError};
use crate::backend::expect::{Event, Expectation, Watch, Watcher};
use crate::backend::keys::{KEYS_HELP, KEYS_LINE, KeyAction};
use crate::backend::monitor::{COMMANDS_HELP, Command, PROMPT};
use crate::backend::send_text::{SendTextError, send_text};
use crate::backend::stream_pattern::PatternError;
use crate::backend::terminal::{self, RawTerminal, TerminalError, is_interactive};
use crate::bus::bus::{Shared, lock};
use crate::bus::stream::SerialInput;
use crate::config::{ConsoleChoice, RunConfig, ScriptStep};
use crate::devices::serial::Serial;
use crate::event_loop::{Interest, Waker};
use std::io::{Write, stderr};
use std::sync::Arc;
use std::time::Instant;

/// The machine's console.
pub struct Console {
    output: ConsoleOutput,
    input: ConsoleInput,
    /// Restores the terminal when the console goes.
    terminal: Option<RawTerminal>,
    /// Where a user comes and goes.
    peer: Option<ConsolePeer>,
    /// Where its device is a virtio console: the line to that, and the serial port's output.
    virtio: Option<(LinkLine, ConsoleOutput)>,
    /// The guest is not ready for what is typed, which waits.
    held: bool,
}

/// The devices' ends of the console.
pub struct Ends {
    /// The serial port's, and the debug console's.
    pub serial: ConsoleRing,
    /// The virtio console's, where there is one, and what wakes that.
    pub virtio: Option<(LinkPort, Waker)>,
}

/// Which of the console's descriptors is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleSide {
    /// Output is no longer held up.
    Output,
    /// Something was typed.
    Input,
    /// Somebody came.
    Peer,
}

/// Something that the control loop must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleEvent {
    /// The guest printed it.
    Seen(Event),
    /// The user asked for it.
    Asked(Command),
}

/// A console that cannot be had.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each names its source")]
pub enum ConsoleError {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error(transparent)]
    Text(#[from] SendTextError),
    #[error("create the virtio console's waker: {0}")]
    Waker(#[from] std::io::Error),
}

impl ConsoleError {
    /// Whether an option is at fault.
    pub fn is_usage(&self) -> bool {
        matches!(self, ConsoleError::Pattern(_) | ConsoleError::Text(_))
    }
}

/// What `config` wants watched; `None` where nobody reads what the guest prints but the user.
///
/// # Errors
/// A pattern or a text to send cannot be used.
pub fn watcher(config: &RunConfig, is_linux: bool) -> Result<Option<Watcher>, ConsoleError> {
    let mut expect: Vec<Expectation> = Vec::new();
    for step in &config.console.script {
        match (step, expect.last_mut()) {
            (ScriptStep::Expect(pattern), _) => expect.push(Expectation { pattern: pattern.clone(), send: Vec::new() }),
            (ScriptStep::Send(text), Some(last)) => last.send.extend(send_text(text)?),
            (ScriptStep::Send(_), None) => unreachable!("the command line begins with --expect"),
        }
    }
    let ends = &config.ends;
    let reports = ends.result.is_some() || !ends.report.is_empty() || ends.timeout.is_some();
    let idle = expect.is_empty() && config.console.reject.is_empty() && !is_linux && !reports;
    if idle {
        return Ok(None);
    }
    Ok(Some(Watcher::new(Watch { expect, reject: config.console.reject.clone(), linux: is_linux })?))
}

impl Console {
    /// Opens the console; `waker` wakes the control loop when the guest has printed something.
    ///
    /// # Errors
    /// The file or the terminal refuses.
    pub fn open(config: &RunConfig, watcher: Option<Watcher>, waker: Waker) -> Result<(Console, Ends), ConsoleError> {
        let wake: Wake = Arc::new(move || waker.wake());
        let (ring, reader) = console_ring(watcher.is_some(), wake.clone());
        let (ends, virtio) = ends(config, ring, wake)?;
        let scripted = config.console.script.iter().any(|step| matches!(step, ScriptStep::Send(_)));
        let end = match config.root {
            _ if scripted => EndOfInput::Silent,
            None => EndOfInput::CtrlD,
            Some(_) => EndOfInput::EndOfLineAndFile,
        };
        let (sink, input, peer) = match &config.console.console {
            ConsoleChoice::Stdio => (ConsoleSink::stdout()?, ConsoleInput::stdin(end), None),
            ConsoleChoice::File(path) => (ConsoleSink::file(path)?, ConsoleInput::none(), None),
            ConsoleChoice::None => (ConsoleSink::none(), ConsoleInput::none(), None),
            ConsoleChoice::Pty => (ConsoleSink::none(), ConsoleInput::none(), Some(ConsolePeer::pty()?)),
            ConsoleChoice::Socket(path) => {
                (ConsoleSink::none(), ConsoleInput::none(), Some(ConsolePeer::socket(path)?))
            }
        };
        let mut output = ConsoleOutput::new(reader, sink, watcher);
        if let Some(peer) = &peer {
            output.detach();
            say(&format!("the console is at {}", peer.path().display()));
        }
        let on_terminal = config.console.console == ConsoleChoice::Stdio;
        let terminal = if on_terminal { RawTerminal::enter()? } else { None };
        if terminal.is_some() && is_interactive() {
            say(KEYS_LINE);
        }
        let console = Console { output, input, terminal, peer, virtio, held: config.root.is_some() };
        console.resized();
        Ok((console, ends))
    }

    /// What to wait for.
    pub fn interests(&self) -> impl Iterator<Item = Interest<'_, ConsoleSide>> {
        let output = self.output.waits_for().map(|fd| Interest { token: ConsoleSide::Output, fd, output: true });
        let input = self.input.waits_for().map(|fd| Interest { token: ConsoleSide::Input, fd, output: false });
        let peer = self.peer.as_ref().and_then(ConsolePeer::waits_for);
        let peer = peer.map(|fd| Interest { token: ConsoleSide::Peer, fd, output: false });
        output.into_iter().chain(input).chain(peer)
    }

    /// When to take a turn at the latest.
    pub fn due(&self) -> Option<Instant> {
        let log = self.virtio.as_ref().and_then(|(_, log)| log.due());
        [self.output.due(), log, self.peer.as_ref().and_then(ConsolePeer::due)].into_iter().flatten().min()
    }

    /// Moves output and input on. `ready` says whether input was reported ready.
    pub fn turn(&mut self, now: Instant, input_ready: bool, serial: &Shared<Serial>) -> Vec<ConsoleEvent> {
        self.meet(now);
        let turn = self.output.turn(now);
        let mut events = Vec::new();
        if let Some((_, log)) = &mut self.virtio {
            let turn = log.turn(now);
            events.extend(turn.events.into_iter().map(ConsoleEvent::Seen));
            if turn.output_has_room {
                SerialInput::output_has_room(&mut *lock(serial));
            }
        }
        if input_ready {
            for typed in self.input.read() {
                events.extend(asked(typed));
            }
        }
        for event in turn.events {
            if let Event::Matched { send, .. } = &event {
                self.input.type_in(send);
            }
            events.push(ConsoleEvent::Seen(event));
        }
        let Console { input, virtio, held, .. } = self;
        let mut offer = |device: &mut dyn SerialInput| {
            if turn.output_has_room {
                device.output_has_room();
            }
            if !*held {
                input.offer(device);
            }
        };
        match virtio {
            Some((line, _)) => offer(line),
            None => offer(&mut *lock(serial)),
        }
        events
    }

    /// The command of `--root` starts: what is typed goes to it, and before that to nobody.
    pub fn release_input(&mut self) {
        self.held = false;
    }

    /// The terminal may have another size.
    pub fn resized(&self) {
        if let (Some((line, _)), Some(size)) = (&self.virtio, terminal::size().filter(|_| self.peer.is_none())) {
            line.resize(size);
        }
    }

    /// Connects whoever has come, and lets go whoever has left.
    fn meet(&mut self, now: Instant) {
        let Some(peer) = &mut self.peer else { return };
        if peer.is_present() && self.input.has_ended() {
            self.output.detach();
            peer.left(now);
        }
        if let Some((reader, writer)) = peer.take(now) {
            self.input.attach(reader);
            self.output.attach(ConsoleSink::nonblocking(writer));
        }
    }

    /// A break on the serial line with a key behind it.
    pub fn send_break(&mut self, key: u8, serial: &Shared<Serial>) {
        let mut serial = lock(serial);
        if self.virtio.is_some() {
            serial.receive_break();
            serial.receive(&[key]);
        } else {
            self.input.send_break(&mut *serial, key);
        }
    }

    /// The process was continued after a stop.
    pub fn continued(&mut self) {
        self.input.continued();
        if let Some(terminal) = &self.terminal {
            terminal.resume();
        }
    }

    /// Writes all that is left, when no vCPU runs any more; returns what was seen in it.
    pub fn drain(&mut self, serial: &Shared<Serial>) -> Vec<Event> {
        let mut serial = lock(serial);
        match &mut self.virtio {
            Some((line, log)) => {
                let mut events = log.drain(&mut *serial);
                events.extend(self.output.drain(line));
                events
            }
            None => self.output.drain(&mut *serial),
        }
    }

    /// The last lines of the serial port, where that is not the console.
    pub fn serial_lines(&self) -> Vec<String> {
        let watcher = self.virtio.as_ref().and_then(|(_, log)| log.watcher());
        watcher.map(|watcher| watcher.last_lines()).unwrap_or_default()
    }

    /// The output, for whoever reports on it.
    pub fn output(&self) -> &ConsoleOutput {
        &self.output
    }
}

/// The devices' ends of a console whose output goes to `ring`, and what the console keeps of a virtio console.
fn ends(
    config: &RunConfig,
    ring: ConsoleRing,
    wake: Wake,
) -> Result<(Ends, Option<(LinkLine, ConsoleOutput)>), ConsoleError> {
    if !config.devices.virtio_console {
        return Ok((Ends { serial: ring, virtio: None }, None));
    }
    let device = Waker::new()?;
    let (port, line) = console_link(ring, device.clone());
    let (serial, reader) = console_ring(true, wake);
    let watcher = Watcher::new(Watch { expect: Vec::new(), reject: config.console.reject.clone(), linux: true })?;
    let log = ConsoleOutput::new(reader, ConsoleSink::none(), Some(watcher));
    Ok((Ends { serial, virtio: Some((port, device)) }, Some((line, log))))
}

/// What the control loop does about something typed; the rest is answered here.
fn asked(typed: Typed) -> Option<ConsoleEvent> {
    match typed {
        Typed::Key(KeyAction::End) => return Some(ConsoleEvent::Asked(Command::Quit)),
        Typed::Key(KeyAction::Help) => show(format!("\n{KEYS_HELP}").as_bytes()),
        Typed::Key(KeyAction::Prompt) => show(PROMPT.as_bytes()),
        Typed::Echo(bytes) => show(&bytes),
        Typed::PromptLeft => {}
        Typed::Command(line) => match Command::parse(&line) {
            Ok(Command::Help) => show(format!("{COMMANDS_HELP}{PROMPT}").as_bytes()),
            Ok(command) => return Some(ConsoleEvent::Asked(command)),
            Err(error) => show(format!("{error}\n{PROMPT}").as_bytes()),
        },
    }
    None
}

/// Answers a command that was asked for at the prompt, and shows the prompt again.
pub fn answer(text: &str) {
    show(format!("{text}{PROMPT}").as_bytes());
}

/// Says a line of Hostel's own on standard error.
pub fn say(text: &str) {
    show(format!("hostel: {text}\n").as_bytes());
}

/// Writes to standard error; a reader that went away has seen enough.
fn show(bytes: &[u8]) {
    let _ = stderr().write_all(bytes);
}
