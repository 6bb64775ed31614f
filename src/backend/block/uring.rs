//! An engine over io_uring: operations are handed to the host a batch at a time; the ring can be waited for.
//!
//! Sources: io_uring(7), io_uring_enter(2), io_uring_register(2).

use super::buffers::HostBuffers;
use super::calls;
use super::engine::{Call, Done, Engine, Operation, Store};
use io_uring::{IoUring, Probe, opcode, squeue, types};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread;
use std::time::Duration;

/// Before operations that the host does not take are handed to it again.
const PAUSE: Duration = Duration::from_millis(1);

/// Reads that are not tried at once after one that the page cache did not have: others will be as far away, or the file cannot be
/// asked at all.
const NOT_TRIED: u32 = 15;

/// Operations that the host must know, or its io_uring is too old.
const NEEDED: [u8; 6] = [
    opcode::Read::CODE,
    opcode::Readv::CODE,
    opcode::Write::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
];

/// The engine. Dropping it waits for what is under way.
pub struct Uring {
    ring: IoUring,
    /// What the host works on, by tag: kept whole, and where it is, until it is done.
    operations: Box<[Option<Operation>]>,
    under_way: usize,
    /// Pushed and not yet handed to the host.
    pushed: bool,
    /// Reads that are not tried at once before the next one is.
    not_tried: u32,
    /// The file cannot be asked what is at hand: then the host reads by threads of its own.
    reads_by_threads: bool,
}

impl Uring {
    /// A ring for `depth` operations at a time, their tags below that.
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
        let operations = (0..depth).map(|_| None).collect();
        Ok(Uring { ring, operations, under_way: 0, pushed: false, not_tried: 0, reads_by_threads: false })
    }
}

impl Engine for Uring {
    fn read_at_once(&mut self, file: &File, buffers: &HostBuffers, offset: u64) -> u32 {
        if let Some(left) = self.not_tried.checked_sub(1) {
            self.not_tried = left;
            return 0;
        }
        match calls::read_at_once(file, buffers, offset) {
            Ok(bytes @ 1..) => bytes,
            nothing => {
                self.reads_by_threads = nothing.is_err_and(|error| error.raw_os_error() == Some(libc::EOPNOTSUPP));
                self.not_tried = NOT_TRIED;
                0
            }
        }
    }

    fn reads_by_threads(&self) -> bool {
        self.reads_by_threads
    }

    fn begin(&mut self, operation: Operation) {
        let slot = &mut self.operations[operation.tag];
        assert!(slot.is_none(), "a tag is under way once");
        let entry = entry(slot.insert(operation));
        // SAFETY: descriptor, iovecs and what they name live in their slot, unmoved and unchanged, until the operation is done.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("no more operations than the ring has entries");
        self.under_way += 1;
        self.pushed = true;
    }

    fn submit(&mut self) {
        while self.pushed {
            match self.ring.submit() {
                Ok(_) => self.pushed = !self.ring.submission().is_empty(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The host is short of memory: what was pushed stays, and nothing goes on before it has some.
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    fn take_done(&mut self, done: &mut Vec<Done>) {
        for entry in self.ring.completion() {
            let tag = entry.user_data() as usize;
            self.operations[tag] = None;
            self.under_way -= 1;
            let result = u32::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
            done.push((tag, result));
        }
    }

    fn under_way(&self) -> usize {
        self.under_way
    }

    fn ready(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.drain();
    }
}

fn entry(operation: &Operation) -> squeue::Entry {
    let Store::File(file) = &operation.store else { panic!("an image in a format is worked off by threads") };
    let fd = types::Fd(file.as_raw_fd());
    let (offset, tag) = (operation.offset, operation.tag as u64);
    let entry = match &operation.call {
        Call::Read(buffers) => match (buffers.single(), buffers.iovecs()) {
            (Some((address, size)), _) => opcode::Read::new(fd, address, size).offset(offset).build(),
            (None, (list, count)) => opcode::Readv::new(fd, list, count).offset(offset).build(),
        },
        Call::Write { buffers, durable } => {
            let flags = if *durable { libc::RWF_DSYNC } else { 0 };
            match (buffers.single(), buffers.iovecs()) {
                (Some((address, size)), _) => {
                    opcode::Write::new(fd, address, size).offset(offset).rw_flags(flags).build()
                }
                (None, (list, count)) => opcode::Writev::new(fd, list, count).offset(offset).rw_flags(flags).build(),
            }
        }
        Call::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        Call::Allocate { size, how } => {
            opcode::Fallocate::new(fd, *size).offset(offset).mode(how.bits() as i32).build()
        }
    };
    entry.user_data(tag)
}
