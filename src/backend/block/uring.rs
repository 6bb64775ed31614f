//! An engine over io_uring: operations are handed to the host a batch at a time, and an eventfd tells of those that are done.
//!
//! Sources: io_uring(7), io_uring_enter(2), io_uring_register(2).

use super::engine::{Call, Engine, Operation};
use crate::event_loop::Waker;
use io_uring::{IoUring, Probe, opcode, squeue, types};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// Operations that the host must know, or its io_uring is too old.
const NEEDED: [u8; 4] = [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];

/// The engine. Dropping it waits for what is under way.
pub struct Uring {
    ring: IoUring,
    /// What the host works on, by tag: kept whole until it is done.
    under_way: HashMap<usize, Operation>,
    ready: Waker,
}

impl Uring {
    /// A ring for `depth` operations at a time.
    ///
    /// # Errors
    /// The host refuses io_uring, or lacks an operation.
    pub fn new(depth: u32) -> io::Result<Uring> {
        let ring = IoUring::new(depth)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if NEEDED.iter().any(|code| !probe.is_supported(*code)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let ready = Waker::new()?;
        ring.submitter().register_eventfd(ready.fd().as_raw_fd())?;
        Ok(Uring { ring, under_way: HashMap::new(), ready })
    }
}

impl Engine for Uring {
    fn begin(&mut self, operation: Operation) {
        let entry = entry(&operation).user_data(operation.tag as u64);
        let replaced = self.under_way.insert(operation.tag, operation);
        assert!(replaced.is_none(), "a tag is under way once");
        // SAFETY: descriptor, iovecs and what they name live in `under_way` until the operation is done; moving it there moves
        // none of them. The iovecs are not changed in the meantime.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("no more operations than the ring has entries");
    }

    fn submit(&mut self) {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(_) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Short of memory, or of room for what is done: what was pushed stays, and is tried again when it has been looked
                // for what is done.
                Err(_) => return self.ready.wake(),
            }
        }
    }

    fn take_done(&mut self) -> Vec<(usize, io::Result<u32>)> {
        self.submit();
        let mut done = Vec::new();
        for entry in self.ring.completion() {
            let tag = entry.user_data() as usize;
            self.under_way.remove(&tag);
            let result = u32::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
            done.push((tag, result));
        }
        done
    }

    fn under_way(&self) -> usize {
        self.under_way.len()
    }

    fn ready(&self) -> &Waker {
        &self.ready
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.drain();
    }
}

fn entry(operation: &Operation) -> squeue::Entry {
    let fd = types::Fd(operation.file.as_raw_fd() as RawFd);
    let offset = operation.offset;
    match &operation.call {
        Call::Read(buffers) => {
            let (list, count) = buffers.iovecs();
            opcode::Readv::new(fd, list, count).offset(offset).build()
        }
        Call::Write { buffers, durable } => {
            let (list, count) = buffers.iovecs();
            let flags = if *durable { libc::RWF_DSYNC } else { 0 };
            opcode::Writev::new(fd, list, count).offset(offset).rw_flags(flags).build()
        }
        Call::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        Call::Allocate { size, how } => {
            opcode::Fallocate::new(fd, *size).offset(offset).mode(how.bits() as i32).build()
        }
    }
}
