//! The server as a finite state machine: one thread, no call that waits, and what each connection waits for written down.
//!
//! The thread sleeps in one place, for all connections at once. Where the other designs have a program counter and a stack for each
//! request, here is a [`State`] and a buffer; that is less memory and no lock, and the order of the steps is no longer to be read
//! from the top down.
//!
//! ```text
//!            a request                    all is sent, there is more of the file
//!  Reading ────────────> Sending <──────────────────────────────> Loading
//!     ^    in the cache,    │        its bytes are here              ^
//!     │    or an error      │                                        │ a descriptor is free
//!     └─────────────────────┘                             Queued ────┘
//!        all is sent: keep
//! ```

use process::abi::{Error, FILE_READ_MAX, Poll};

use crate::cache::{Cache, Loading};
use crate::files::{self, Files};
use crate::http::{HEAD_BYTES_MAX, Name, Request, Status, write_head};
use crate::inbox::{Inbox, Wants};
use crate::memory;
use crate::network::{CONNECTIONS_MAX, Network};
use crate::wait::{self, FILES_MAX, IDLE_NS_MAX, is_over};

/// What a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The client's request.
    Reading,
    /// A descriptor: all are in use.
    Queued,
    /// The disk.
    Loading,
    /// The client, to take what was sent.
    Sending,
}

/// A connection.
struct Connection {
    state: State,
    inbox: Inbox,
    /// What is to be sent: these bytes of `buffer`, then those of `cached`, then the rest of `file`.
    buffer: [u8; FILE_READ_MAX as usize],
    from: usize,
    to: usize,
    cached: &'static [u8],
    file: Option<File>,
    /// Of the request that is being answered.
    request: Option<Request>,
}

/// Where answers come from.
struct Shelf {
    files: Files,
    cache: Cache,
}

/// A file of which the bytes from `at` on are still to be read.
struct File {
    file: files::File,
    at: u64,
    name: Name,
    /// Its place in the cache, if it gets one.
    place: Option<Loading>,
}

/// How a step ended.
enum Step {
    /// There is more to do at once.
    On,
    /// The connection waits.
    Waits,
    /// It is over: by itself, or broken.
    Over { broken: bool },
}

impl Connection {
    const EMPTY: Connection = Connection {
        state: State::Reading,
        inbox: Inbox::EMPTY,
        buffer: [0; _],
        from: 0,
        to: 0,
        cached: &[],
        file: None,
        request: None,
    };

    /// Goes one step on.
    fn step(&mut self, network: &mut Network, shelf: &Shelf, number: usize, answered: &mut u64) -> Step {
        match self.state {
            State::Reading => match self.inbox.look(network, number) {
                Wants::Nothing => Step::Waits,
                Wants::Over => Step::Over { broken: true },
                Wants::Answer(wanted) => {
                    *answered += 1;
                    self.request = wanted.ok();
                    match wanted {
                        Ok(request) => self.begin(&request, shelf),
                        Err(status) => self.refuse(status),
                    }
                    Step::On
                }
            },
            State::Queued => match self.request {
                Some(request) => {
                    self.begin(&request, shelf);
                    if self.state == State::Queued { Step::Waits } else { Step::On }
                }
                None => Step::Over { broken: true },
            },
            State::Loading => self.load(&shelf.cache),
            State::Sending => self.send(network, &shelf.cache, number),
        }
    }

    /// Decides what the answer is.
    fn begin(&mut self, request: &Request, shelf: &Shelf) {
        let Some(name) = request.name else { return self.refuse(Status::NotFound) };
        if let Some(content) = shelf.cache.look(&name) {
            self.cached = content;
            return self.head(Status::Ok, content.len() as u64, name.bytes());
        }
        match shelf.files.open(&name) {
            Ok(file) => {
                self.head(Status::Ok, file.bytes(), name.bytes());
                let place = if request.head_only { None } else { shelf.cache.begin(file.bytes()) };
                self.file = Some(File { file, at: 0, name, place });
            }
            // Somebody will close one.
            Err(Error::NoMemory) => self.state = State::Queued,
            Err(Error::NoEntry) => self.refuse(Status::NotFound),
            Err(_) => self.refuse(Status::Failed),
        }
    }

    fn refuse(&mut self, status: Status) {
        self.cached = status.line().as_bytes();
        self.head(status, self.cached.len() as u64, b"");
    }

    /// Puts the head of the answer where it is sent from.
    fn head(&mut self, status: Status, bytes: u64, name: &[u8]) {
        let keep = self.request.is_some_and(|request| request.keep);
        let mut head = [0; HEAD_BYTES_MAX];
        let used = write_head(&mut head, status, bytes, name, keep);
        self.buffer.iter_mut().zip(&head).for_each(|(to, from)| *to = *from);
        (self.from, self.to, self.state) = (0, used, State::Sending);
    }

    /// Sends what there is room for.
    fn send(&mut self, network: &mut Network, cache: &Cache, number: usize) -> Step {
        let head_only = self.request.is_some_and(|request| request.head_only);
        let ready = self.buffer.get(self.from..self.to).unwrap_or_default();
        let Some(mut sent) = network.send(number, ready) else { return Step::Over { broken: true } };
        self.from += sent;
        if self.from < self.to {
            return Step::Waits;
        }
        if !self.cached.is_empty() && !head_only {
            sent = network.send(number, self.cached).unwrap_or(0);
            self.cached = self.cached.get(sent..).unwrap_or_default();
            if !self.cached.is_empty() {
                return Step::Waits;
            }
        }
        if self.file.as_ref().is_some_and(|file| file.at < file.file.bytes() && !head_only) {
            self.state = State::Loading;
            return Step::On;
        }
        self.close(cache);
        (self.cached, self.state) = (&[], State::Reading);
        match self.request {
            Some(Request { keep: true, .. }) => Step::On,
            _ => Step::Over { broken: false },
        }
    }

    /// Asks for the next bytes of the file, or takes them.
    fn load(&mut self, cache: &Cache) -> Step {
        let Some(file) = &mut self.file else { return Step::Over { broken: true } };
        match file.file.try_read(&mut self.buffer, file.at) {
            Ok(bytes @ 1..) => {
                let read = self.buffer.get(..bytes).unwrap_or_default();
                if let Some(place) = &mut file.place {
                    place.rest(file.at as usize).iter_mut().zip(read).for_each(|(to, from)| *to = *from);
                }
                file.at += bytes as u64;
                (self.from, self.to, self.state) = (0, bytes, State::Sending);
                if file.at == file.file.bytes() {
                    self.close(cache);
                }
                Step::On
            }
            // The disk works on it now.
            Err(Error::Again) => Step::Waits,
            // Its length was promised: there is no way to take that back but to break the connection.
            Ok(0) | Err(_) => Step::Over { broken: true },
        }
    }

    /// Is done with the file.
    fn close(&mut self, cache: &Cache) {
        let Some(File { file, at, name, place }) = self.file.take() else { return };
        if let Some(place) = place {
            cache.end(place, &name, at == file.bytes());
        }
        file.close();
    }
}

/// Serves until the console's input ends; how many requests were answered.
pub fn serve(mut network: Network, files: Files) -> Option<u64> {
    let shelf = Shelf { files, cache: Cache::new() };
    let connections = memory::slice(CONNECTIONS_MAX, || Connection::EMPTY)?;
    let mut files = [Poll::default(); FILES_MAX];
    let (mut waiting, mut answered) = (0, 0);
    while !is_over() {
        network.run();
        let loading = files.get(..waiting).unwrap_or_default();
        let is_busy = |connection: &Connection| {
            // Nothing has come of its read: to ask again would be a call for nothing.
            let file = connection.file.as_ref().filter(|_| connection.state == State::Loading);
            file.is_some_and(|file| {
                loading.iter().any(|entry| u64::from(entry.descriptor) == file.file.descriptor() && entry.ready == 0)
            })
        };
        for (number, connection) in connections.iter_mut().enumerate() {
            if network.accept(number) {
                connection.inbox.clear(&network);
                connection.state = State::Reading;
            }
            if !network.is_taken(number) || is_busy(connection) {
                continue;
            }
            loop {
                match connection.step(&mut network, &shelf, number, &mut answered) {
                    Step::On => {}
                    Step::Waits => break,
                    Step::Over { broken } => {
                        connection.close(&shelf.cache);
                        network.release(number, broken);
                        break;
                    }
                }
            }
        }
        network.run();
        waiting = 0;
        let loading = connections.iter().filter(|connection| connection.state == State::Loading);
        for (slot, file) in files.iter_mut().zip(loading.filter_map(|connection| connection.file.as_ref())) {
            *slot = wait::file(file.file.descriptor());
            waiting += 1;
        }
        let idle = network.idle_ns(IDLE_NS_MAX);
        wait::wait(network.descriptor(), files.get_mut(..waiting).unwrap_or_default(), idle, None);
    }
    Some(answered)
}
