//! An engine without threads: each operation is done where it is begun, on the caller's thread. For tests and fuzzing, where the way
//! to another thread and back would take longer than all the rest; a machine's devices wait for nobody.
//!
//! Sources: preadv2(2), fallocate(2).

use super::engine::{Done, Engine, Operation, Store};
use super::threads::{run, settle};
use crate::event_loop::Waker;
use std::io;
use std::os::fd::BorrowedFd;

/// The engine.
pub struct Inline {
    done: Vec<Done>,
    ready: Waker,
}

impl Inline {
    /// One with nothing to do.
    ///
    /// # Errors
    /// The host gives no descriptor.
    pub fn new() -> io::Result<Inline> {
        Ok(Inline { done: Vec::new(), ready: Waker::new()? })
    }
}

impl Engine for Inline {
    fn begin(&mut self, operation: Operation) {
        let mut result = [(operation.tag, run(&operation))];
        if let Store::Qcow2(image) = &operation.store {
            settle(image, &mut result);
        }
        if self.done.is_empty() {
            self.ready.wake();
        }
        self.done.extend(result);
    }

    fn submit(&mut self) {}

    fn take_done(&mut self, done: &mut Vec<Done>) {
        if !self.done.is_empty() {
            self.ready.reset();
        }
        done.append(&mut self.done);
    }

    fn under_way(&self) -> usize {
        self.done.len()
    }

    fn ready(&self) -> BorrowedFd<'_> {
        self.ready.fd()
    }
}
