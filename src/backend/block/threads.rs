//! An engine of a few threads that block in the host's calls: for hosts that refuse io_uring.
//!
//! Sources: preadv2(2), fallocate(2), fdatasync(2).

use super::calls;
use super::engine::{Call, Engine, Operation};
use crate::event_loop::Waker;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

/// Threads: more do not make a disk faster.
const THREADS: usize = 4;

/// An operation's tag and what came of it.
type Done = (usize, io::Result<u32>);

/// The engine. Dropping it waits for what is under way.
pub struct Threads {
    work: Option<Sender<Operation>>,
    done: Receiver<Done>,
    ready: Waker,
    under_way: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// The threads, waiting for work.
    ///
    /// # Errors
    /// The host gives no threads or descriptors.
    pub fn new() -> io::Result<Threads> {
        let (work, queue) = mpsc::channel::<Operation>();
        let (sender, done) = mpsc::channel();
        let (queue, ready) = (Arc::new(Mutex::new(queue)), Waker::new()?);
        let start = |_| {
            let (queue, sender, ready) = (queue.clone(), sender.clone(), ready.clone());
            Builder::new().name("disk".into()).spawn(move || work_off(&queue, &sender, &ready))
        };
        let threads = (0..THREADS).map(start).collect::<io::Result<_>>()?;
        Ok(Threads { work: Some(work), done, ready, under_way: 0, threads })
    }
}

impl Engine for Threads {
    fn begin(&mut self, operation: Operation) {
        self.under_way += 1;
        let work = self.work.as_ref().expect("there until the drop");
        work.send(operation).expect("the threads run until the drop");
    }

    fn submit(&mut self) {}

    fn take_done(&mut self) -> Vec<Done> {
        let done: Vec<_> = self.done.try_iter().collect();
        self.under_way -= done.len();
        done
    }

    fn under_way(&self) -> usize {
        self.under_way
    }

    fn ready(&self) -> &Waker {
        &self.ready
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.work = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended the process, or has nothing under way.
            let _ = thread.join();
        }
    }
}

/// A thread: works until nobody sends work any more.
fn work_off(queue: &Mutex<Receiver<Operation>>, done: &Sender<Done>, ready: &Waker) {
    loop {
        let operation = queue.lock().expect("receiving does not panic").recv();
        let Ok(operation) = operation else { return };
        if done.send((operation.tag, run(&operation))).is_err() {
            return;
        }
        ready.wake();
    }
}

/// Does an operation, and waits for its end.
pub(super) fn run(operation: &Operation) -> io::Result<u32> {
    let (file, offset) = (&*operation.file, operation.offset);
    match &operation.call {
        Call::Read(buffers) => calls::read_at(file, buffers, offset),
        Call::Write { buffers, durable } => calls::write_at(file, buffers, offset, *durable),
        Call::Sync => Ok(rustix::fs::fdatasync(file).map(|()| 0)?),
        Call::Allocate { size, how } => Ok(rustix::fs::fallocate(file, *how, offset, *size).map(|()| 0)?),
    }
}
