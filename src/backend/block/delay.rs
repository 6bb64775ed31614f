//! A slow disk: an engine around another that tells of no operation before a given time has passed since it began.
//!
//! For trying out what waits for a disk. Operations that are under way together wait together, as on a disk with a queue; an arm
//! that moves is not modelled, and a limit of bytes a second is another layer's (`backend/rate.rs`). Nobody sleeps here: a timer makes
//! the engine's descriptor ready.
//! Source: epoll(7).

use super::engine::{Done, Engine, Operation};
use crate::backend::timer::Timer;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The longest delay: a reset of the device waits for what is under way.
pub const DELAY_MAX: Duration = Duration::from_secs(1);

/// An engine that is slow on purpose.
pub struct Delayed {
    engine: Box<dyn Engine>,
    delay: Duration,
    /// Operations that the engine has, and when their time will be over.
    begun: Vec<(usize, Instant)>,
    /// Operations that the engine is done with, and when that may be told.
    held: Vec<(Done, Instant)>,
    timer: Timer,
    /// Ready while the engine or the timer is.
    both: OwnedFd,
}

impl Delayed {
    /// `engine`, each operation taking at least `delay`.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn new(engine: Box<dyn Engine>, delay: Duration) -> io::Result<Delayed> {
        let timer = Timer::new()?;
        let both = epoll::create(CreateFlags::CLOEXEC)?;
        for fd in [engine.ready(), timer.fd()] {
            epoll::add(&both, fd, EventData::new_u64(0), EventFlags::IN)?;
        }
        Ok(Delayed { engine, delay, begun: Vec::new(), held: Vec::new(), timer, both })
    }
}

impl Engine for Delayed {
    fn reads_by_threads(&self) -> bool {
        self.engine.reads_by_threads()
    }

    fn begin(&mut self, operation: Operation) {
        self.begun.push((operation.tag, Instant::now() + self.delay));
        self.engine.begin(operation);
    }

    fn submit(&mut self) {
        self.engine.submit();
    }

    fn take_done(&mut self, done: &mut Vec<Done>) {
        let mut over = Vec::new();
        self.engine.take_done(&mut over);
        if over.is_empty() && self.held.is_empty() {
            return;
        }
        for done in over {
            let at = self.begun.iter().position(|(tag, _)| *tag == done.0).expect("it was begun");
            let (_, due) = self.begun.swap_remove(at);
            self.held.push((done, due));
        }
        let now = Instant::now();
        done.extend(self.held.extract_if(.., |(_, due)| *due <= now).map(|(done, _)| done));
        self.timer.set(self.held.iter().map(|(_, due)| *due).min());
    }

    fn under_way(&self) -> usize {
        self.begun.len() + self.held.len()
    }

    fn ready(&self) -> BorrowedFd<'_> {
        self.both.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::{self, Call, Store};
    use super::*;
    use crate::event_loop::{self, Interest};
    use std::sync::Arc;

    #[test]
    fn operations_take_so_long_together_and_none_is_lost() {
        const DELAY: Duration = Duration::from_millis(30);
        let mut engine = Delayed::new(engine::best(8).unwrap(), DELAY).unwrap();
        let file = Arc::new(super::super::overlay::unnamed_file().unwrap());
        let begin = Instant::now();
        for tag in 0..8 {
            engine.begin(Operation { tag, store: Store::File(file.clone()), offset: 0, call: Call::Sync });
        }
        let mut done = Vec::new();
        while done.len() < 8 {
            engine.submit();
            engine.take_done(&mut done);
            assert!(done.is_empty() || begin.elapsed() >= DELAY, "{done:?} after {:?}", begin.elapsed());
            assert_eq!(engine.under_way() + done.len(), 8);
            if done.len() < 8 {
                let ready = [Interest { token: (), fd: engine.ready(), output: false }];
                assert!(!event_loop::wait(&ready, Some(Duration::from_secs(20))).unwrap().is_empty(), "it hangs");
            }
        }
        let mut tags: Vec<_> = done.iter().map(|(tag, _)| *tag).collect();
        tags.sort_unstable();
        assert_eq!(tags, [0, 1, 2, 3, 4, 5, 6, 7]);
        // Nothing is left that would wake anybody.
        let ready = [Interest { token: (), fd: engine.ready(), output: false }];
        assert!(event_loop::wait(&ready, Some(DELAY * 2)).unwrap().is_empty());
        engine.begin(Operation { tag: 3, store: Store::File(file), offset: 0, call: Call::Sync });
        engine.drain();
        assert!(engine.under_way() == 0 && begin.elapsed() >= DELAY * 4);
    }
}
