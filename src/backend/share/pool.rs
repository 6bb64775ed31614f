//! The threads of a share: requests wait here for the host, so that nobody else does.
//!
//! A request that was begun comes back once, unless all are abandoned: then what is under way is waited for, and nothing is written
//! into the guest's memory any more. No more requests wait than the device's queues have entries.

use super::host::ShareError;
use super::request::Request;
use super::server::{Rights, Server};
use crate::bus::bus::lock;
use crate::event_loop::Waker;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{Builder, JoinHandle};

/// Threads: as many requests wait for the host at a time.
const THREADS: usize = 4;

/// A share that is being served. `T` is what its user knows a request by. Dropping it waits for what is under way.
pub struct Share<T: Send + 'static> {
    common: Arc<Common<T>>,
    threads: Vec<JoinHandle<()>>,
}

struct Common<T> {
    server: Server,
    state: Mutex<State<T>>,
    /// There is work, or an end to it.
    work: Condvar,
    /// Nothing is under way.
    idle: Condvar,
    ready: Waker,
}

struct State<T> {
    waiting: VecDeque<(T, Request)>,
    under_way: usize,
    done: Vec<(T, u32)>,
    ended: bool,
}

impl<T: Send + 'static> Share<T> {
    /// Serves the directory at `path`, one of `shares` in this process.
    ///
    /// # Errors
    /// It cannot be shared, or the host gives no threads.
    pub fn open(path: &Path, rights: Rights, shares: usize) -> Result<Share<T>, ShareError> {
        let server = Server::open(path, rights, shares)?;
        let state = State { waiting: VecDeque::new(), under_way: 0, done: Vec::new(), ended: false };
        let ready = Waker::new().map_err(ShareError::Threads)?;
        let (work, idle) = (Condvar::new(), Condvar::new());
        let common = Arc::new(Common { server, state: Mutex::new(state), work, idle, ready });
        let mut share = Share { common, threads: Vec::new() };
        for _ in 0..THREADS {
            let common = share.common.clone();
            let thread = Builder::new().name("share".into()).spawn(move || work_off(&common));
            share.threads.push(thread.map_err(ShareError::Threads)?);
        }
        Ok(share)
    }

    /// Gives bytes when requests may have finished.
    pub fn ready(&self) -> &Waker {
        &self.common.ready
    }

    /// Serves a request at once, on this thread. Returns the bytes of the reply.
    pub fn serve(&self, request: &Request) -> u32 {
        self.common.server.serve(request)
    }

    /// Serves a request at once, if it only reads what the host has in memory. Returns the bytes of the reply.
    pub fn serve_cached(&self, request: &Request) -> Option<u32> {
        self.common.server.serve_cached(request)
    }

    /// Begins a request, which [`Share::finish`] gives back.
    pub fn begin(&mut self, token: T, request: Request) {
        lock(&self.common.state).waiting.push_back((token, request));
        self.common.work.notify_one();
    }

    /// Whether any of them is over.
    pub fn has_finished(&self) -> bool {
        !lock(&self.common.state).done.is_empty()
    }

    /// Requests that are over, with the bytes of their replies.
    pub fn finish(&mut self) -> Vec<(T, u32)> {
        // Before the look: what is over after it makes the share ready again.
        self.common.ready.reset();
        std::mem::take(&mut lock(&self.common.state).done)
    }

    /// Waits for what the host is working on, and forgets all requests and the client.
    pub fn abandon(&mut self) {
        let mut state = lock(&self.common.state);
        state.waiting.clear();
        while state.under_way > 0 {
            state = self.common.idle.wait(state).expect("a thread that panics ends the process");
        }
        state.done.clear();
        self.common.server.reset();
    }
}

impl<T: Send + 'static> Drop for Share<T> {
    fn drop(&mut self) {
        lock(&self.common.state).ended = true;
        self.common.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended the process, or has nothing under way.
            let _ = thread.join();
        }
    }
}

/// A thread: works until the end.
fn work_off<T>(common: &Common<T>) {
    let mut state = lock(&common.state);
    loop {
        if state.ended {
            return;
        }
        let Some((token, request)) = state.waiting.pop_front() else {
            state = common.work.wait(state).expect("a thread that panics ends the process");
            continue;
        };
        state.under_way += 1;
        drop(state);
        let written = common.server.serve(&request);
        // The RAM is let go before the request counts as over.
        drop(request);
        state = lock(&common.state);
        state.under_way -= 1;
        // Whoever takes the first takes all that are there by then: one wake-up is enough.
        if state.done.is_empty() {
            common.ready.wake();
        }
        state.done.push((token, written));
        if state.under_way == 0 {
            common.idle.notify_all();
        }
    }
}
