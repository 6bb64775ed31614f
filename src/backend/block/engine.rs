//! What moves bytes between files and guest RAM: single operations, begun in batches, done later.

use super::buffers::HostBuffers;
use super::qcow2::Qcow2;
use super::threads::Threads;
use super::uring::Uring;
use crate::event_loop::{self, Interest};
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// One call of the host.
pub struct Operation {
    /// What it is found again by; no two that are under way share one.
    pub tag: usize,
    /// Where to.
    pub store: Store,
    /// Where in it.
    pub offset: u64,
    /// What to do there.
    pub call: Call,
}

/// What holds bytes of a disk.
#[derive(Clone)]
pub enum Store {
    /// A file, at the disk's own places.
    File(Arc<File>),
    /// An image in a format, which only [`Threads`] can work off.
    Qcow2(Arc<Qcow2>),
}

/// What to do.
#[derive(Clone)]
pub enum Call {
    /// Read into guest RAM.
    Read(HostBuffers),
    /// Write from there.
    Write {
        /// What to write.
        buffers: HostBuffers,
        /// Whether it must be on the medium before the call is over.
        durable: bool,
    },
    /// Bring everything that was written onto the medium.
    Sync,
    /// fallocate(2), the file's size kept.
    Allocate {
        /// Bytes.
        size: u64,
        /// What to do with them.
        how: FallocateFlags,
    },
}

/// An operation's tag and what came of it.
pub type Done = (usize, io::Result<u32>);

/// Runs operations. Each that was begun comes back once.
pub trait Engine: Send {
    /// Reads what the host has at hand into the front of `buffers`, for an engine that is faster so. Returns the bytes; the rest,
    /// and whatever is wrong, is for an operation to find out.
    fn read_at_once(&mut self, _file: &File, _buffers: &HostBuffers, _offset: u64) -> u32 {
        0
    }

    /// Whether even reads are done by threads, which need a processor meanwhile.
    fn reads_by_threads(&self) -> bool {
        false
    }

    /// Begins an operation; at most as many at a time as the engine was made for.
    fn begin(&mut self, operation: Operation);

    /// Hands all that was begun to the host.
    fn submit(&mut self);

    /// Puts operations that are over into `done`, by tag, with the bytes that they moved.
    fn take_done(&mut self, done: &mut Vec<Done>);

    /// Operations that were begun and not yet taken.
    fn under_way(&self) -> usize;

    /// Gives bytes while operations are over that were not taken.
    fn ready(&self) -> BorrowedFd<'_>;

    /// Waits for all that was begun, and forgets it.
    fn drain(&mut self) {
        let mut done = Vec::new();
        loop {
            self.submit();
            self.take_done(&mut done);
            if self.under_way() == 0 {
                return;
            }
            let ready = [Interest { token: (), fd: self.ready(), output: false }];
            event_loop::wait(&ready, None).expect("poll(2) of a valid descriptor");
        }
    }
}

/// Threads where there is no io_uring: more do not make a disk faster.
const THREADS: usize = 4;

/// The best engine that the host gives for files, for at most `depth` operations at a time.
///
/// # Errors
/// Not even threads.
pub fn best(depth: u16) -> io::Result<Box<dyn Engine>> {
    match Uring::new(depth.into()) {
        Ok(uring) => Ok(Box::new(uring)),
        Err(_) => Ok(Box::new(Threads::new(THREADS)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::inline::Inline;
    use super::*;
    use crate::arch::layout::MIB;
    use crate::memory::map::{GuestRange, MemoryMap};
    use crate::memory::ram::GuestRam;
    use std::os::unix::fs::FileExt;

    /// An unnamed file of this size.
    fn scratch_file(size: u64) -> Arc<File> {
        let file = super::super::overlay::unnamed_file().unwrap();
        file.set_len(size).unwrap();
        Arc::new(file)
    }

    /// Runs operations to their ends, in any order.
    fn all(engine: &mut dyn Engine, operations: Vec<Operation>) -> Vec<(usize, Option<u32>)> {
        let count = operations.len();
        operations.into_iter().for_each(|operation| engine.begin(operation));
        engine.submit();
        let mut done = Vec::new();
        engine.take_done(&mut done);
        while done.len() < count {
            let ready = [Interest { token: (), fd: engine.ready(), output: false }];
            event_loop::wait(&ready, None).unwrap();
            engine.take_done(&mut done);
        }
        let mut done: Vec<_> = done.into_iter().map(|(tag, result)| (tag, result.ok())).collect();
        done.sort();
        done
    }

    fn moves_bytes(engine: &mut dyn Engine) {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let buffers = |start| HostBuffers::of_guest(&ram, &[GuestRange { start, size: 700 }]).unwrap();
        let file = scratch_file(4096);
        let operation = |tag, offset, call| Operation { tag, store: Store::File(file.clone()), offset, call };
        ram.write(0x1000, &[7; 700]).unwrap();
        let write = Call::Write { buffers: buffers(0x1000), durable: true };
        assert_eq!(
            all(engine, vec![operation(3, 512, write), operation(0, 0, Call::Sync)]),
            [(0, Some(0)), (3, Some(700))]
        );
        let mut found = [0; 800];
        file.read_exact_at(&mut found, 500).unwrap();
        assert_eq!((found[..12].to_vec(), found[12..712].to_vec(), found[712]), (vec![0; 12], vec![7; 700], 0));
        let reads =
            vec![operation(1, 512, Call::Read(buffers(0x8000))), operation(2, 4000, Call::Read(buffers(0x9000)))];
        assert_eq!(all(engine, reads), [(1, Some(700)), (2, Some(96))], "the second meets the end");
        assert_eq!(ram.read_u64(0x8000 + 692), Some(0x0707_0707_0707_0707));
        let closed = Operation {
            store: Store::File(Arc::new(File::open("/dev/null").unwrap())),
            ..operation(4, 0, Call::Write { buffers: buffers(0), durable: false })
        };
        assert_eq!(all(engine, vec![closed]), [(4, None)], "not open for writing");
        engine.begin(operation(5, 0, Call::Read(buffers(0))));
        engine.drain();
        let mut done = Vec::new();
        engine.take_done(&mut done);
        assert_eq!((engine.under_way(), done.len()), (0, 0));
    }

    #[test]
    fn threads_move_bytes() {
        moves_bytes(&mut Threads::new(4).unwrap());
    }

    #[test]
    fn the_callers_thread_moves_bytes() {
        moves_bytes(&mut Inline::new().unwrap());
    }

    #[test]
    fn what_the_host_has_at_hand_is_read_at_once_and_nothing_else() {
        let Ok(mut uring) = Uring::new(8) else { return };
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let buffers = HostBuffers::of_guest(&ram, &[GuestRange { start: 0x1000, size: 700 }]).unwrap();
        let file = scratch_file(1000);
        file.write_all_at(&[7; 1000], 0).unwrap();
        let mut read = |offset| uring.read_at_once(&file, &buffers, offset);
        // Not every file system can be asked so, and pages may have gone to the medium and away.
        if read(0) == 0 {
            return;
        }
        assert_eq!(ram.read_u64(0x1000 + 692), Some(0x0707_0707_0707_0707));
        assert_eq!((read(900), read(1000)), (100, 0), "as far as the file goes");
        let tries = (0..1000).take_while(|_| read(0) == 0).count();
        assert!(tries < 100, "it is tried again");
    }

    #[test]
    fn io_uring_moves_bytes_where_the_host_has_it() {
        if let Ok(mut uring) = Uring::new(8) {
            moves_bytes(&mut uring);
        }
    }
}
