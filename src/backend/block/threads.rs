//! An engine of a few threads that block in the host's calls: for hosts that refuse io_uring, and for images in a format.
//!
//! Sources: preadv2(2), fallocate(2), fdatasync(2).

use super::calls;
use super::engine::{Call, Done, Engine, Operation, Store};
use super::qcow2::Qcow2;
use crate::event_loop::Waker;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

/// Most operations on an image that are acknowledged together, when its tables are in the file.
const BATCH_MAX: usize = 64;

/// The engine. Dropping it waits for what is under way.
pub struct Threads {
    work: Option<Sender<Operation>>,
    done: Receiver<Done>,
    ready: Waker,
    under_way: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// So many threads, waiting for work: one for an image in a format.
    ///
    /// # Errors
    /// The host gives no threads or descriptors.
    pub fn new(threads: usize) -> io::Result<Threads> {
        let (work, queue) = mpsc::channel::<Operation>();
        let (sender, done) = mpsc::channel();
        let (queue, ready) = (Arc::new(Mutex::new(queue)), Waker::new()?);
        let start = |_| {
            let (queue, sender, ready) = (queue.clone(), sender.clone(), ready.clone());
            Builder::new().name("disk".into()).spawn(move || work_off(&queue, &sender, &ready))
        };
        let threads = (0..threads).map(start).collect::<io::Result<_>>()?;
        Ok(Threads { work: Some(work), done, ready, under_way: 0, threads })
    }
}

impl Engine for Threads {
    fn reads_by_threads(&self) -> bool {
        true
    }

    fn begin(&mut self, operation: Operation) {
        self.under_way += 1;
        let work = self.work.as_ref().expect("there until the drop");
        work.send(operation).expect("the threads run until the drop");
    }

    fn submit(&mut self) {}

    fn take_done(&mut self, done: &mut Vec<Done>) {
        let before = done.len();
        // Before the look: what is over after it makes the engine ready again.
        self.ready.reset();
        done.extend(self.done.try_iter());
        self.under_way -= done.len() - before;
    }

    fn under_way(&self) -> usize {
        self.under_way
    }

    fn ready(&self) -> BorrowedFd<'_> {
        self.ready.fd()
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
        let mut results = vec![(operation.tag, run(&operation))];
        if let Store::Qcow2(image) = &operation.store {
            let next = || queue.lock().expect("receiving does not panic").try_recv().ok();
            results.extend(std::iter::from_fn(next).take(BATCH_MAX).map(|next| (next.tag, run(&next))));
            settle(image, &mut results);
        }
        if results.into_iter().any(|result| done.send(result).is_err()) {
            return;
        }
        ready.wake();
    }
}

/// Brings an image's tables to the file before what changed them is acknowledged, so that it outlives this process as in a raw image.
pub(super) fn settle(image: &Qcow2, results: &mut [Done]) {
    if let Err(error) = image.settle() {
        results.iter_mut().for_each(|(_, result)| *result = Err(io::Error::new(error.kind(), error.to_string())));
    }
}

/// Does an operation, and waits for its end.
pub(super) fn run(operation: &Operation) -> io::Result<u32> {
    let offset = operation.offset;
    let file = match &operation.store {
        Store::File(file) => &**file,
        Store::Qcow2(image) => return image.run(&operation.call, offset),
    };
    match &operation.call {
        Call::Read(buffers) => calls::read_at(file, buffers, offset),
        Call::Write { buffers, durable } => calls::write_at(file, buffers, offset, *durable),
        Call::Sync => Ok(rustix::fs::fdatasync(file).map(|()| 0)?),
        Call::Allocate { size, how } => Ok(rustix::fs::fallocate(file, *how, offset, *size).map(|()| 0)?),
    }
}
