//! The server with a dispatcher and worker threads: one thread takes in what the network brings, the others answer the requests.
//!
//! A worker waits as the single thread does, with the same code, but it waits alone: the dispatcher goes on, and so do the other
//! workers, until all of them wait. The price is a lock around the network, a queue, and switches between threads.

use core::sync::atomic::{AtomicU32, Ordering};

use process::sync::Condition;
use process::{call, thread};

use crate::answer::{Client, answer};
use crate::cache::Cache;
use crate::files::Files;
use crate::guarded::Guarded;
use crate::http::{Request, Status};
use crate::inbox::{Inbox, Wants};
use crate::memory;
use crate::network::{CONNECTIONS_MAX, Network};
use crate::wait::{IDLE_NS_MAX, is_over, wait};

/// Most workers.
pub const WORKERS_MAX: u64 = 32;
/// Bytes of a worker's stack.
const STACK_BYTES: u64 = 32 << 10;

/// What all threads share.
struct Shared {
    line: Guarded<Line>,
    /// There may be room for more bytes in the network.
    room: Condition,
    jobs: Guarded<Jobs>,
    /// There is a job.
    job: Condition,
    /// Changed and woken when the dispatcher has something to do.
    news: AtomicU32,
    files: Files,
    cache: Cache,
}

/// The network, and who uses it.
struct Line {
    network: Network,
    /// Connections that a worker answers: nobody else may send there.
    busy: [bool; CONNECTIONS_MAX],
    /// Workers that wait for room.
    waiting: usize,
}

/// Requests that no worker has taken: at most one a connection.
struct Jobs {
    ring: [Option<Job>; CONNECTIONS_MAX],
    first: usize,
    count: usize,
}

/// A request, or why it is refused.
#[derive(Clone, Copy)]
struct Job {
    connection: usize,
    wanted: Result<Request, Status>,
}

impl Jobs {
    fn push(&mut self, job: Job) {
        let at = (self.first + self.count) % CONNECTIONS_MAX;
        if let Some(slot) = self.ring.get_mut(at) {
            *slot = Some(job);
            self.count += 1;
        }
    }

    fn pop(&mut self) -> Option<Job> {
        let job = self.ring.get_mut(self.first)?.take()?;
        self.first = (self.first + 1) % CONNECTIONS_MAX;
        self.count -= 1;
        Some(job)
    }
}

/// A client that a worker answers.
struct Working<'a> {
    shared: &'a Shared,
    connection: usize,
}

impl Client for Working<'_> {
    fn send(&mut self, mut bytes: &[u8], more: bool) -> Option<()> {
        loop {
            let mut is_waiting = false;
            let sent = self.shared.line.wait(&self.shared.room, |line| {
                line.waiting -= usize::from(is_waiting);
                let sent = line.network.send(self.connection, bytes);
                is_waiting = sent == Some(0) && !bytes.is_empty();
                line.waiting += usize::from(is_waiting);
                // At once, by this thread: what has to be sent again, the dispatcher finds out when it looks next.
                if !more || sent != Some(bytes.len()) {
                    line.network.flush();
                }
                (!is_waiting).then_some(sent)
            })?;
            bytes = bytes.get(sent..)?;
            if bytes.is_empty() {
                return Some(());
            }
        }
    }
}

impl Shared {
    fn wake_dispatcher(&self) {
        self.news.fetch_add(1, Ordering::Release);
        let _ = call::futex_wake(&self.news, 1);
    }

    /// What a worker does.
    fn work(&self) -> ! {
        loop {
            let Job { connection, wanted } = self.jobs.wait(&self.job, Jobs::pop);
            let keep = answer(&wanted, &self.files, &self.cache, &mut Working { shared: self, connection });
            self.line.with(|line| {
                if let Some(busy) = line.busy.get_mut(connection) {
                    *busy = false;
                }
                if keep != Some(true) {
                    line.network.release(connection, keep.is_none());
                }
            });
            self.wake_dispatcher();
        }
    }

    /// Runs the network once and hands out what it brought: how many requests, and for how long nothing is to be done.
    fn dispatch(&self, inboxes: &mut [Inbox]) -> (u64, u64) {
        self.line.with(|line| {
            line.network.run();
            let mut requests = 0;
            for (connection, inbox) in inboxes.iter_mut().enumerate() {
                if line.network.accept(connection) {
                    inbox.clear(&line.network);
                }
                let Some(busy) = line.busy.get_mut(connection).filter(|busy| !**busy) else { continue };
                if !line.network.is_taken(connection) {
                    continue;
                }
                match inbox.look(&mut line.network, connection) {
                    Wants::Nothing => {}
                    Wants::Over => line.network.release(connection, true),
                    Wants::Answer(wanted) => {
                        *busy = true;
                        requests += 1;
                        self.jobs.with(|jobs| jobs.push(Job { connection, wanted }));
                        self.job.signal();
                    }
                }
            }
            if line.waiting > 0 {
                self.room.broadcast();
            }
            (requests, line.network.idle_ns(IDLE_NS_MAX))
        })
    }
}

/// Serves with so many workers until the console's input ends; how many requests were answered.
pub fn serve(network: Network, files: Files, workers: u64) -> Option<u64> {
    let inboxes = memory::slice(CONNECTIONS_MAX, || Inbox::EMPTY)?;
    let card = network.descriptor();
    let line = Line { network, busy: [false; _], waiting: 0 };
    let jobs = Jobs { ring: [None; _], first: 0, count: 0 };
    // The workers use it until the process ends, so it lives as long.
    let shared: &Shared = memory::one(Shared {
        line: Guarded::new(line),
        room: Condition::new(),
        jobs: Guarded::new(jobs),
        job: Condition::new(),
        news: AtomicU32::new(0),
        files,
        cache: Cache::new(),
    })?;
    for _ in 0..workers.clamp(1, WORKERS_MAX) {
        thread::start(begin, &raw const *shared as u64, STACK_BYTES).ok()?;
    }
    let mut answered = 0;
    while !is_over() {
        let seen = shared.news.load(Ordering::Acquire);
        let (requests, idle) = shared.dispatch(inboxes);
        answered += requests;
        wait(card, &mut [], idle, Some((&shared.news, seen)));
    }
    Some(answered)
}

/// Where a worker begins.
fn begin(shared: u64) -> u64 {
    // SAFETY: `serve` passes the address of what it shares, which is never given back.
    unsafe { &*(shared as *const Shared) }.work()
}
