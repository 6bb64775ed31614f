//! The stub's thread: waits for gdb, talks to it, and lets the guest go on when it has gone. One gdb at a time; another may
//! come after it.
//!
//! Packets, checksums and acknowledgements are gdbstub's; what comes in there is fed to it byte by byte.
//! Source: GDB manual "Remote Protocol".

use super::control::Control;
use super::gate::{Desk, Gate, Message};
use super::probe::{Abilities, ProbeError};
use super::target::Machine;
use crate::backend::local_socket::{LocalAddress, LocalListener};
use crate::event_loop::{self, Interest, Waker};
use crate::kvm::system::{KvmError, System};
use crate::memory::ram::GuestRam;
use crate::vcpu::handler::ExitHandler;
use crate::vcpu::thread::VcpuHandle;
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

/// How long the end of the machine waits for gdb to hear of it.
const FAREWELL: Duration = Duration::from_millis(500);

/// What the stub has to say to the machine.
#[derive(Debug)]
pub enum News {
    /// Something that the user should read.
    Said(String),
    /// gdb killed the machine.
    Killed,
}

/// Takes the stub's news.
pub type Tell = Arc<dyn Fn(News) + Send + Sync>;

/// Why there is no stub.
#[derive(Debug, thiserror::Error)]
pub enum StubError {
    /// The address.
    #[error("listen for gdb at {address}: {source}")]
    Listen {
        /// The address.
        address: LocalAddress,
        /// Why it failed.
        source: io::Error,
    },
    /// What KVM can do was not found out.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// No KVM to ask.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The stub's thread.
    #[error("start gdb's thread: {0}")]
    Thread(io::Error),
}

/// The stub, from the machine's side.
pub struct Stub {
    desk: Arc<Desk>,
    /// What the thread will be made of; gone once it runs.
    parts: Option<Parts>,
    /// Disconnected when the thread has ended.
    over: Option<Receiver<()>>,
}

struct Parts {
    listener: LocalListener,
    messages: Receiver<Message>,
    waker: Waker,
}

impl Stub {
    /// Listens at `address` for a gdb that debugs the machine with this RAM.
    ///
    /// # Errors
    /// The host refuses.
    pub fn listen(address: &LocalAddress, ram: Arc<GuestRam>) -> Result<Stub, StubError> {
        let failed = |source| StubError::Listen { address: address.clone(), source };
        let listener = LocalListener::bind(address).map_err(failed)?;
        let waker = Waker::new().map_err(failed)?;
        let abilities = Abilities::probe(&System::open()?)?;
        let (sender, messages) = channel();
        let desk = Arc::new(Desk::new(ram, abilities, sender, waker.clone()));
        Ok(Stub { desk, parts: Some(Parts { listener, messages, waker }), over: None })
    }

    /// What answers a vCPU's exits in place of `machine`.
    pub fn gate(&self, machine: Box<dyn ExitHandler>) -> Box<dyn ExitHandler> {
        Box::new(Gate { machine, desk: self.desk.clone() })
    }

    /// Starts the stub's thread, once. The vCPUs are paused and go on when gdb says so.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn serve(&mut self, handles: Arc<[VcpuHandle]>, tell: Tell) -> Result<(), StubError> {
        let (Some(parts), Ok(())) = (self.parts.take(), self.desk.handles.set(handles)) else { return Ok(()) };
        let control = Control::new(self.desk.clone());
        let say = tell.clone();
        let machine = Machine::new(control, Box::new(move |text| say(News::Said(text))));
        let (sender, over) = sync_channel(1);
        let server = Server { parts, machine, tell, status: None, _over: sender };
        thread::Builder::new().name("gdb".into()).spawn(move || server.run()).map_err(StubError::Thread)?;
        self.over = Some(over);
        Ok(())
    }

    /// Tells gdb the machine's exit status, and waits until it has heard it, but not for long.
    pub fn end(&mut self, status: i32) {
        self.desk.tell(Message::Ended { status: status as u8 });
        if let Some(over) = self.over.take() {
            // Nothing is ever sent: the thread's end or the time ends the wait.
            let _ = over.recv_timeout(FAREWELL);
        }
    }
}

/// The stub's thread.
struct Server {
    parts: Parts,
    machine: Machine,
    tell: Tell,
    /// The machine's exit status, once it has ended.
    status: Option<u8>,
    _over: SyncSender<()>,
}

/// How a session ended.
enum Over {
    /// gdb left, or was lost: the guest goes on.
    Left,
    /// gdb killed the machine.
    Killed,
    /// The machine ended.
    Ended,
}

/// What the thread waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Messages,
    Gdb,
}

/// The protocol's state.
type Protocol<'a> = GdbStubStateMachine<'a, Machine, Packets>;

impl Server {
    fn run(mut self) {
        let address = self.parts.listener.address().clone();
        self.machine.say(&format!(
            "the guest waits before its first instruction; type: gdb -ex 'target remote {address}' VMLINUX"
        ));
        loop {
            let Ok(ready) = self.wait(None) else { return };
            self.take_messages();
            if self.status.is_some() {
                return;
            }
            if !ready.contains(&Token::Gdb) {
                continue;
            }
            match self.parts.listener.accept() {
                Err(error) => self.machine.say(&format!("accept: {error}")),
                Ok(stream) => match self.session(stream) {
                    Over::Left => {
                        // Said first: the guest's end may be the end of the process.
                        self.machine.say(&format!("has left, the guest goes on; it can come back to {address}"));
                        self.machine.control.detach();
                    }
                    Over::Killed => {
                        (self.tell)(News::Killed);
                        return;
                    }
                    Over::Ended => return,
                },
            }
        }
    }

    /// Waits for messages and for `stream`, or for a gdb that connects.
    fn wait(&self, stream: Option<&File>) -> io::Result<Vec<Token>> {
        let gdb = stream.map_or_else(|| self.parts.listener.as_fd(), |stream| stream.as_fd());
        let messages = Interest { token: Token::Messages, fd: self.parts.waker.fd(), output: false };
        event_loop::wait(&[messages, Interest { token: Token::Gdb, fd: gdb, output: false }], None)
    }

    /// Takes what the vCPUs and the machine say.
    fn take_messages(&mut self) {
        self.parts.waker.reset();
        while let Ok(message) = self.parts.messages.try_recv() {
            match message {
                Message::Stopped { vcpu, why } => self.machine.control.stopped(vcpu, why),
                Message::Ended { status } => self.status = Some(status),
            }
        }
    }

    /// Talks to one gdb.
    fn session(&mut self, stream: File) -> Over {
        self.machine.control.attach();
        self.machine.physical = false;
        let talk = stream.try_clone().map_err(|error| error.to_string()).and_then(|writer| {
            let protocol = GdbStub::new(Packets { stream: writer, waiting: Vec::new() });
            let protocol = protocol.run_state_machine(&mut self.machine).map_err(|error| error.to_string())?;
            self.talk(stream, protocol)
        });
        talk.unwrap_or_else(|error| {
            self.machine.say(&error);
            Over::Left
        })
    }

    fn talk(&mut self, mut stream: File, mut protocol: Protocol<'_>) -> Result<Over, String> {
        let mut bytes = [0; 4096];
        loop {
            if let GdbStubStateMachine::Disconnected(end) = &protocol {
                return Ok(match end.get_reason() {
                    DisconnectReason::Kill => Over::Killed,
                    DisconnectReason::TargetExited(_) | DisconnectReason::TargetTerminated(_) => Over::Ended,
                    DisconnectReason::Disconnect => Over::Left,
                });
            }
            let ready = self.wait(Some(&stream)).map_err(|error| error.to_string())?;
            self.take_messages();
            protocol = self.settle(protocol)?;
            if !ready.contains(&Token::Gdb) {
                continue;
            }
            let count = stream.read(&mut bytes).map_err(|error| format!("read: {error}"))?;
            if count == 0 {
                return Ok(Over::Left);
            }
            for byte in &bytes[..count] {
                protocol = match protocol {
                    GdbStubStateMachine::Idle(idle) => idle.incoming_data(&mut self.machine, *byte),
                    GdbStubStateMachine::Running(running) => running.incoming_data(&mut self.machine, *byte),
                    other => Ok(other),
                }
                .map_err(|error| error.to_string())?;
                protocol = self.settle(protocol)?;
            }
        }
    }

    /// The machine's end, if it has come. gdb takes no word of it before it has resumed the machine.
    fn end(&self) -> Option<MultiThreadStopReason<u64>> {
        self.status.map(MultiThreadStopReason::Exited)
    }

    /// Does what follows from the protocol's state: a stop is told to a gdb that waits for one.
    fn settle<'a>(&mut self, protocol: Protocol<'a>) -> Result<Protocol<'a>, String> {
        let settled = match protocol {
            GdbStubStateMachine::CtrlCInterrupt(interrupt) => {
                // One that comes when all rest anyway is late.
                if self.machine.resumed && self.machine.control.report.is_none() {
                    self.machine.control.interrupt();
                }
                let reason = self.machine.stop_reason();
                interrupt.interrupt_handled(&mut self.machine, reason)
            }
            GdbStubStateMachine::Running(running) => match self.machine.stop_reason().or_else(|| self.end()) {
                Some(reason) => running.report_stop(&mut self.machine, reason),
                None => Ok(running.into()),
            },
            other => Ok(other),
        };
        settled.map_err(|error| error.to_string())
    }
}

/// What gdbstub writes to; a packet goes out as a whole.
struct Packets {
    stream: File,
    waiting: Vec<u8>,
}

impl Connection for Packets {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.waiting.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.stream.write_all(&self.waiting);
        self.waiting.clear();
        result
    }
}
