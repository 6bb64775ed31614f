//! A disk: requests of a guest, each worked off in as many operations of the engine as it takes.
//!
//! A request is more than one operation where the host moves fewer bytes than it was asked to, where a layer holds part of the
//! sectors, or where there are more buffers than one call takes. One operation of each request is under way at a time, so no
//! more are than there are requests. The disk's size never changes; what lies beyond its end is refused before the host sees it.
//! Sources: preadv2(2), fallocate(2).

use super::buffers::HostBuffers;
use super::delay::Delayed;
use super::engine::{self, Call, Done, Engine, Operation, Store};
use super::image::{Access, Backing, DiskError, DiskFormat, Image, SECTOR};
use super::inline::Inline;
use super::overlay::Layer;
use super::threads::Threads;
use crate::backend::rate::Rates;
use rustix::fs::FallocateFlags;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

/// Times in a row that the host may ask to try again before that is an error.
const RETRIES_MAX: u8 = 16;

/// Where a disk's bytes are, and what may be done to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In the file, to be read and written.
    #[default]
    Write,
    /// In the file, to be read.
    Read,
    /// In the file, until they are written: then in a private layer that is gone with the machine.
    Overlay,
}

/// How a disk is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskOptions {
    /// Where its bytes are.
    pub mode: Mode,
    /// What the file is.
    pub format: DiskFormat,
    /// What it lies over, if it does.
    pub backing: Option<Backing>,
    /// Whether to go past the host's page cache where a request allows it.
    pub direct: bool,
    /// How long each operation of the host takes at least; 0: as long as it does.
    pub delay: Duration,
    /// What its user lets through of the guest's requests.
    pub rates: Rates,
    /// Whether each operation is done where it is begun, on the caller's thread: for tests and fuzzing.
    pub inline: bool,
}

/// What a guest asks of a disk.
pub enum Request {
    /// Fill the buffers from this sector on.
    Read(u64, HostBuffers),
    /// Write the buffers from this sector on; `durable`: it is over when they are on the medium.
    Write {
        /// First sector.
        sector: u64,
        /// What to write.
        buffers: HostBuffers,
        /// Whether it has to be on the medium.
        durable: bool,
    },
    /// Everything that was written before shall be on the medium.
    Flush,
    /// These sectors hold nothing of value any more.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        count: u64,
    },
    /// These sectors shall be zeroes.
    WriteZeroes {
        /// First sector.
        sector: u64,
        /// How many.
        count: u64,
        /// Whether the host may give up the space behind them.
        unmap: bool,
        /// Whether it has to be on the medium.
        durable: bool,
    },
}

impl Request {
    /// Bytes that it moves, or may have the host write.
    pub fn bytes(&self) -> u64 {
        match self {
            Request::Read(_, buffers) | Request::Write { buffers, .. } => buffers.bytes(),
            Request::WriteZeroes { count, .. } => count.saturating_mul(SECTOR),
            Request::Flush | Request::Discard { .. } => 0,
        }
    }
}

/// A disk. `T` is what its user knows a request by. Dropping it waits for what is under way.
pub struct Disk<T> {
    image: Image,
    mode: Mode,
    layer: Option<Layer>,
    engine: Box<dyn Engine>,
    /// Requests that are not over, by the tag of their operations.
    transfers: Vec<Option<Transfer<T>>>,
    /// Tags that are free.
    free: Vec<usize>,
    finished: Vec<(T, io::Result<()>)>,
    /// Requests that are not over and do not only read.
    writing: usize,
    /// Operations that are over, while they are looked at; kept for its room.
    done: Vec<Done>,
}

/// A request that is not over.
struct Transfer<T> {
    token: T,
    kind: Kind,
    /// Bytes from here on are still to be done, up to `end`.
    at: u64,
    begin: u64,
    end: u64,
    retries: u8,
}

/// What it does.
#[derive(Clone)]
enum Kind {
    Read(HostBuffers),
    Write {
        buffers: HostBuffers,
        durable: bool,
    },
    Flush,
    Discard,
    /// By fallocate(2), as long as the host has that for this file.
    Zero {
        how: FallocateFlags,
        durable: bool,
    },
    /// By writing them.
    WriteZeroes {
        durable: bool,
    },
}

impl<T> Disk<T> {
    /// Opens `path` for at most `depth` requests at a time.
    ///
    /// # Errors
    /// The disk cannot be had, or the host gives nothing to work it with.
    pub fn open(path: &Path, options: DiskOptions, depth: u16) -> Result<Disk<T>, DiskError> {
        let mode = options.mode;
        let access = if mode == Mode::Write { Access::Write } else { Access::Read };
        let image = Image::open(path, access, options.format, options.backing.as_ref(), options.direct)?;
        let layer = match mode {
            Mode::Overlay => {
                Some(Layer::new(image.sectors).map_err(|source| DiskError::Layer { path: path.into(), source })?)
            }
            _ => None,
        };
        let engine = match options.format {
            _ if options.inline => Inline::new().map(|inline| Box::new(inline) as Box<dyn Engine>),
            DiskFormat::Raw => engine::best(depth),
            DiskFormat::Qcow2 => Threads::new(1).map(|threads| Box::new(threads) as Box<dyn Engine>),
        };
        let engine = match options.delay {
            Duration::ZERO => engine,
            delay => engine.and_then(|engine| Ok(Box::new(Delayed::new(engine, delay)?) as Box<dyn Engine>)),
        };
        let engine = engine.map_err(DiskError::Engine)?;
        Ok(Disk::new(image, mode, layer, engine))
    }

    fn new(image: Image, mode: Mode, layer: Option<Layer>, engine: Box<dyn Engine>) -> Disk<T> {
        Disk {
            image,
            mode,
            layer,
            engine,
            transfers: Vec::new(),
            free: Vec::new(),
            finished: Vec::new(),
            writing: 0,
            done: Vec::new(),
        }
    }

    /// Sectors.
    pub fn sectors(&self) -> u64 {
        self.image.sectors
    }

    /// Whether it refuses to be written.
    pub fn is_read_only(&self) -> bool {
        self.mode == Mode::Read
    }

    /// Gives bytes while [`Disk::finish`] has something to do.
    pub fn ready(&self) -> BorrowedFd<'_> {
        self.engine.ready()
    }

    /// Whether the host writes past its page cache: that takes as long as the medium does, and threads of its own.
    pub fn waits_for_medium(&self) -> bool {
        self.image.is_direct() && self.writing > 0
    }

    /// Whether threads work for this disk, the host's or the engine's. They do for whatever writes, since a file system may have to wait.
    pub fn waits_for_threads(&self) -> bool {
        let reads_by_threads = self.layer.is_some() || self.engine.reads_by_threads();
        self.writing > 0 || (reads_by_threads && self.under_way() > 0)
    }

    /// Requests that are not over.
    pub fn under_way(&self) -> usize {
        self.transfers.len() - self.free.len()
    }

    /// Begins a request, which [`Disk::finish`] gives back.
    pub fn begin(&mut self, token: T, request: Request) {
        let (sector, size, mut kind) = match request {
            Request::Read(sector, buffers) => (sector, Some(buffers.bytes()), Kind::Read(buffers)),
            Request::Write { sector, buffers, durable } => {
                (sector, Some(buffers.bytes()), Kind::Write { buffers, durable })
            }
            Request::Flush => (0, Some(0), Kind::Flush),
            Request::Discard { sector, count } => (sector, count.checked_mul(SECTOR), Kind::Discard),
            Request::WriteZeroes { sector, count, unmap, durable } => {
                let how = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
                (sector, count.checked_mul(SECTOR), Kind::Zero { how, durable })
            }
        };
        let writes = !matches!(kind, Kind::Read(_) | Kind::Flush);
        let Some(begin) = self.place(sector, size).filter(|_| !(writes && self.is_read_only())) else {
            return self.finished.push((token, Err(io::ErrorKind::InvalidInput.into())));
        };
        let end = begin + size.expect("checked with its place");
        let mut at = begin;
        if let Kind::Read(buffers) = &mut kind
            && at < end
        {
            at += self.read_at_once(buffers, begin);
            if at == end {
                return self.finished.push((token, Ok(())));
            }
        }
        let tag = self.free.pop().unwrap_or_else(|| {
            self.transfers.push(None);
            self.transfers.len() - 1
        });
        self.writing += usize::from(!matches!(kind, Kind::Read(_)));
        self.transfers[tag] = Some(Transfer { token, kind, at, begin, end, retries: 0 });
        self.go_on(tag);
    }

    /// Reads the front of what is at `at` if the host has it at hand. Returns the bytes.
    fn read_at_once(&mut self, buffers: &mut HostBuffers, at: u64) -> u64 {
        let Some(file) = self.image.cached().filter(|_| self.layer.is_none()) else { return 0 };
        let bytes = self.engine.read_at_once(file, buffers, at).into();
        buffers.advance(bytes);
        bytes
    }

    /// Hands what was begun to the host, and gives the requests that are over.
    pub fn finish(&mut self) -> impl Iterator<Item = (T, io::Result<()>)> {
        loop {
            self.engine.submit();
            let mut done = std::mem::take(&mut self.done);
            self.engine.take_done(&mut done);
            let were_none = done.is_empty();
            for (tag, result) in done.drain(..) {
                self.operation_is_over(tag, result);
            }
            self.done = done;
            // What was begun in the meantime may be over as soon as it is handed over.
            if were_none {
                return self.finished.drain(..);
            }
        }
    }

    /// Waits for what the host is working on, and forgets all requests: nothing of them is written from then on.
    pub fn abandon(&mut self) {
        self.engine.drain();
        self.transfers.clear();
        self.free.clear();
        self.writing = 0;
        self.finished.clear();
    }

    /// Where `size` bytes from `sector` on begin; `None` where they are not whole sectors of the disk.
    fn place(&self, sector: u64, size: Option<u64>) -> Option<u64> {
        let size = size.filter(|size| size.is_multiple_of(SECTOR))?;
        let end = sector.checked_add(size / SECTOR)?;
        (end <= self.image.sectors).then(|| sector * SECTOR)
    }

    /// Begins the next operation of a request, or ends it.
    fn go_on(&mut self, tag: usize) {
        let transfer = self.transfers[tag].as_ref().expect("an operation belongs to a request");
        let (at, left) = (transfer.at, transfer.end - transfer.at);
        let is_overlay = self.layer.is_some();
        let nothing_to_do = match transfer.kind {
            // A layer is gone with the machine: there is no medium to bring it to.
            Kind::Flush => is_overlay,
            _ => left == 0,
        };
        if nothing_to_do {
            return self.end(tag, Ok(()));
        }
        let mut size = left;
        let mut in_layer = false;
        if let Some(layer) = &self.layer {
            in_layer = true;
            if matches!(transfer.kind, Kind::Read(_)) {
                let (written, sectors) = layer.run(at / SECTOR, transfer.end / SECTOR);
                // A short read may have ended inside a sector.
                size = (at / SECTOR + sectors) * SECTOR - at;
                in_layer = written;
            }
        }
        let call = match &transfer.kind {
            Kind::Read(buffers) => Call::Read(buffers.front(size)),
            Kind::Write { buffers, durable } => {
                Call::Write { buffers: buffers.front(size), durable: *durable && !is_overlay }
            }
            Kind::Flush => Call::Sync,
            Kind::Discard => Call::Allocate { size, how: FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE },
            Kind::Zero { how, .. } => Call::Allocate { size, how: *how | FallocateFlags::KEEP_SIZE },
            Kind::WriteZeroes { durable } => {
                Call::Write { buffers: HostBuffers::zeroes(size), durable: *durable && !is_overlay }
            }
        };
        let store = match &self.layer {
            Some(layer) if in_layer => Store::File(layer.file.clone()),
            _ => self.image.store_for(&call, at),
        };
        self.engine.begin(Operation { tag, store, offset: at, call });
    }

    /// The host is done with an operation: the request goes on, or is over.
    fn operation_is_over(&mut self, tag: usize, result: io::Result<u32>) {
        let transfer = self.transfers[tag].as_mut().expect("an operation belongs to a request");
        match result {
            Ok(bytes) => match &mut transfer.kind {
                // What fallocate(2) did is on the medium when the file is.
                Kind::Zero { durable: true, .. } if self.layer.is_none() => transfer.kind = Kind::Flush,
                Kind::Flush | Kind::Discard | Kind::Zero { .. } => return self.end(tag, Ok(())),
                // The file has become shorter than it was.
                _ if bytes == 0 => return self.end(tag, Err(io::ErrorKind::UnexpectedEof.into())),
                kind => {
                    if let Kind::Read(buffers) | Kind::Write { buffers, .. } = kind {
                        buffers.advance(bytes.into());
                    }
                    transfer.at += u64::from(bytes);
                    transfer.retries = 0;
                }
            },
            Err(error) => match (error.raw_os_error(), &transfer.kind) {
                (Some(libc::EINTR | libc::EAGAIN), _) if transfer.retries < RETRIES_MAX => transfer.retries += 1,
                // The file system cannot, or the device has larger sectors.
                (Some(libc::EOPNOTSUPP | libc::EINVAL), Kind::Discard) if self.layer.is_none() => {
                    return self.end(tag, Ok(()));
                }
                (Some(libc::EOPNOTSUPP | libc::EINVAL), Kind::Discard) => {
                    transfer.kind = Kind::WriteZeroes { durable: false };
                }
                (Some(libc::EOPNOTSUPP | libc::EINVAL), Kind::Zero { durable, .. }) => {
                    transfer.kind = Kind::WriteZeroes { durable: *durable };
                }
                _ => return self.end(tag, Err(error)),
            },
        }
        self.go_on(tag);
    }

    fn end(&mut self, tag: usize, result: io::Result<()>) {
        let transfer = self.transfers[tag].take().expect("an operation belongs to a request");
        self.free.push(tag);
        self.writing -= usize::from(!matches!(transfer.kind, Kind::Read(_)));
        if let Some(layer) = &mut self.layer
            && result.is_ok()
            && !matches!(transfer.kind, Kind::Read(_) | Kind::Flush)
        {
            layer.mark(transfer.begin / SECTOR..transfer.end / SECTOR);
        }
        self.finished.push((transfer.token, result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::MIB;
    use crate::event_loop;
    use crate::memory::map::{GuestRange, MemoryMap};
    use crate::memory::ram::GuestRam;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;
    use std::sync::Arc;

    /// What an operation meets instead of its result.
    #[derive(Clone, Copy, Debug)]
    enum Fault {
        Errno(i32),
        /// No more than this many bytes.
        Short(u64),
    }

    /// The engine of this host, in which chosen operations fail instead of being done, or after they were.
    struct Faulty {
        engine: Box<dyn Engine>,
        /// Operation by number, from 0 on, and what it meets; `u32::MAX` for all of them.
        faults: Vec<(u32, Fault)>,
        /// The same for operations that are over, by the order in which they are.
        late: Option<(u32, Fault)>,
        count: u32,
        over: u32,
        failed: Vec<Done>,
    }

    impl Engine for Faulty {
        fn begin(&mut self, mut operation: Operation) {
            let fault = self.faults.iter().find(|(at, _)| [self.count, u32::MAX].contains(at)).map(|(_, fault)| *fault);
            self.count += 1;
            match (fault, &mut operation.call) {
                (Some(Fault::Short(size)), Call::Read(buffers) | Call::Write { buffers, .. }) => {
                    *buffers = buffers.front(size);
                }
                (Some(Fault::Errno(errno)), _) => {
                    return self.failed.push((operation.tag, Err(io::Error::from_raw_os_error(errno))));
                }
                _ => {}
            }
            self.engine.begin(operation);
        }
        fn submit(&mut self) {
            self.engine.submit();
        }
        fn take_done(&mut self, done: &mut Vec<Done>) {
            done.append(&mut self.failed);
            let before = done.len();
            self.engine.take_done(done);
            for (_, result) in &mut done[before..] {
                match self.late.filter(|(at, _)| *at == self.over) {
                    Some((_, Fault::Errno(errno))) => *result = Err(io::Error::from_raw_os_error(errno)),
                    Some((_, Fault::Short(size))) => {
                        *result = result.as_ref().map(|bytes| *bytes.min(&(size as u32))).map_err(|_| unreachable!());
                    }
                    None => {}
                }
                self.over += 1;
            }
        }
        fn under_way(&self) -> usize {
            self.failed.len() + self.engine.under_way()
        }
        fn ready(&self) -> BorrowedFd<'_> {
            self.engine.ready()
        }
    }

    const SECTORS: u64 = 64;
    const BYTES: usize = (SECTORS * SECTOR) as usize;

    /// A disk of 64 sectors of the byte 0xdd, in a file of its own.
    struct Bench {
        ram: Arc<GuestRam>,
        path: PathBuf,
        disk: Disk<u32>,
    }

    impl Bench {
        fn new(mode: Mode, faults: Vec<(u32, Fault)>) -> Bench {
            static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("hostel-disk-{}-{number}", std::process::id()));
            std::fs::write(&path, [0xdd; BYTES]).unwrap();
            let mut disk = Disk::open(&path, DiskOptions { mode, ..DiskOptions::default() }, 8).unwrap();
            disk.engine =
                Box::new(Faulty { engine: disk.engine, faults, late: None, count: 0, over: 0, failed: Vec::new() });
            Bench { ram: Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap()), path, disk }
        }

        fn buffers(&self, size: u64) -> HostBuffers {
            let ranges =
                [GuestRange { start: 0x1000, size: size / 2 }, GuestRange { start: 0x9000, size: size - size / 2 }];
            HostBuffers::of_guest(&self.ram, &ranges).unwrap()
        }

        /// Runs a request to its end.
        fn run(&mut self, request: Request) -> Result<(), Option<i32>> {
            self.disk.begin(7, request);
            for _ in 0..100 {
                let over = self.disk.finish().next();
                if let Some((token, result)) = over {
                    assert_eq!((token, self.disk.engine.under_way()), (7, 0));
                    return result.map_err(|error| error.raw_os_error());
                }
                let ready = [event_loop::Interest { token: (), fd: self.disk.ready(), output: false }];
                event_loop::wait(&ready, None).unwrap();
            }
            panic!("a request never ends");
        }

        fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), Option<i32>> {
            let half = bytes.len() / 2;
            self.ram.write(0x1000, &bytes[..half]).unwrap();
            self.ram.write(0x9000, &bytes[half..]).unwrap();
            let buffers = self.buffers(bytes.len() as u64);
            self.run(Request::Write { sector, buffers, durable: false })
        }

        fn read(&mut self, sector: u64, size: usize) -> Result<Vec<u8>, Option<i32>> {
            let buffers = self.buffers(size as u64);
            self.run(Request::Read(sector, buffers))?;
            let mut bytes = vec![0; size];
            self.ram.read(0x1000, &mut bytes[..size / 2]).unwrap();
            self.ram.read(0x9000, &mut bytes[size / 2..]).unwrap();
            Ok(bytes)
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            std::fs::remove_file(&self.path).unwrap();
        }
    }

    #[test]
    fn sec37_what_passes_by_is_tried_again_and_what_does_not_is_an_error() {
        let passing = [Fault::Errno(libc::EINTR), Fault::Errno(libc::EAGAIN), Fault::Short(1), Fault::Short(777)];
        let lasting = [libc::EIO, libc::ENOSPC, libc::EDQUOT].map(Fault::Errno);
        let pattern: Vec<u8> = (0..4096u32).map(|i| (i * 7) as u8).collect();
        // The first operation, one in the middle (the one before was short), and the last.
        for (at, before) in [(0, None), (1, Some((0, Fault::Short(1000)))), (2, Some((u32::MAX, Fault::Short(2000))))] {
            for fault in passing.iter().chain(&lasting) {
                let faults = || [(at, *fault)].into_iter().chain(before).collect::<Vec<_>>();
                let expected = match fault {
                    Fault::Errno(errno @ (libc::EIO | libc::ENOSPC | libc::EDQUOT)) => Err(Some(*errno)),
                    _ => Ok(()),
                };
                let mut bench = Bench::new(Mode::Write, faults());
                assert_eq!(bench.write(8, &pattern), expected, "write, {fault:?} at {at}");
                assert_eq!(bench.write(8, &pattern), Ok(()), "the fault is over: {fault:?} at {at}");
                assert_eq!(bench.read(8, 4096), Ok(pattern.clone()));
                let mut bench = Bench::new(Mode::Write, faults());
                assert_eq!(bench.read(0, 4096), expected.map(|()| vec![0xdd; 4096]), "read, {fault:?} at {at}");
                assert_eq!(bench.read(0, 4096), Ok(vec![0xdd; 4096]));
                let mut bench = Bench::new(Mode::Write, faults());
                let flushed = if at == 0 { expected } else { Ok(()) };
                assert_eq!(bench.run(Request::Flush), flushed, "flush, {fault:?} at {at}");
            }
        }
    }

    /// Eight requests that are under way together, and what the host says of each of them in turn: no other one feels it.
    #[test]
    fn sec37_a_fault_of_one_completion_among_many_is_that_requests_alone() {
        const TOGETHER: u32 = 8;
        let faults = [libc::EINTR, libc::EAGAIN, libc::EIO, libc::ENOSPC].map(Fault::Errno);
        for (at, fault) in (0..2 * TOGETHER).flat_map(|at| faults.map(|fault| (at, fault))) {
            both_ways(at, fault, matches!(fault, Fault::Errno(libc::EIO | libc::ENOSPC)) && at < TOGETHER);
        }
        for (at, size) in (0..TOGETHER).flat_map(|at| [1, 513, 2047].map(|size| (at, size))) {
            both_ways(at, Fault::Short(size), false);
        }

        fn both_ways(at: u32, fault: Fault, fails: bool) {
            for is_write in [true, false] {
                let mut bench = Bench::new(Mode::Write, Vec::new());
                let engine = std::mem::replace(&mut bench.disk.engine, Box::new(Threads::new(1).unwrap()));
                let late = Some((at, fault));
                bench.disk.engine =
                    Box::new(Faulty { engine, faults: Vec::new(), late, count: 0, over: 0, failed: Vec::new() });
                for tag in 0..TOGETHER {
                    let range = GuestRange { start: 0x1000 + u64::from(tag) * 0x1000, size: 2048 };
                    bench.ram.write(range.start, &[if is_write { tag as u8 } else { 0xee }; 2048]).unwrap();
                    let (sector, buffers) = (u64::from(tag) * 8, HostBuffers::of_guest(&bench.ram, &[range]).unwrap());
                    let request = match is_write {
                        true => Request::Write { sector, buffers, durable: false },
                        false => Request::Read(sector, buffers),
                    };
                    bench.disk.begin(tag, request);
                }
                let mut over: Vec<_> = bench.disk.finish().collect();
                while over.len() < TOGETHER as usize {
                    let ready = [event_loop::Interest { token: (), fd: bench.disk.ready(), output: false }];
                    event_loop::wait(&ready, None).unwrap();
                    over.extend(bench.disk.finish());
                }
                let failed: Vec<_> = over.iter().filter(|(_, result)| result.is_err()).map(|(tag, _)| *tag).collect();
                assert_eq!(failed.len(), usize::from(fails), "{fault:?} at {at}, write {is_write}");
                let content = std::fs::read(&bench.path).unwrap();
                for tag in (0..TOGETHER).filter(|tag| !failed.contains(tag)) {
                    let place = tag as usize * 4096;
                    let expected = if is_write { tag as u8 } else { 0xdd };
                    let mut in_ram = [0; 2048];
                    bench.ram.read(0x1000 + u64::from(tag) * 0x1000, &mut in_ram).unwrap();
                    assert!(in_ram == [expected; 2048] && content[place..place + 2048] == [expected; 2048], "{tag}");
                }
                assert_eq!((bench.disk.under_way(), bench.disk.engine.under_way()), (0, 0));
            }
        }
    }

    /// What is not reads and writes: fallocate(2), fdatasync(2), and both one after the other.
    #[test]
    fn sec37_a_fault_of_any_call_is_an_error_once_and_leaves_a_disk_that_works() {
        let passing = [libc::EINTR, libc::EAGAIN];
        let lasting = [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EBADF, libc::ENOMEM, libc::EFBIG, libc::ENODEV];
        let mut injected = 0;
        let errnos: Vec<i32> = passing.into_iter().chain(lasting).collect();
        let places = [(Mode::Write, 0), (Mode::Write, 1), (Mode::Write, 2), (Mode::Overlay, 0), (Mode::Overlay, 1)];
        for ((mode, at), errno) in places.iter().flat_map(|place| errnos.iter().map(|errno| (*place, *errno))) {
            let zeroes = |unmap, durable| Request::WriteZeroes { sector: 8, count: 8, unmap, durable };
            for number in 0..7 {
                let request = |bench: &Bench| match number {
                    0 => Request::Flush,
                    1 => Request::Discard { sector: 8, count: 8 },
                    2..6 => zeroes(number & 1 == 0, number & 2 == 0),
                    _ => Request::Write { sector: 8, buffers: bench.buffers(4096), durable: true },
                };
                let mut faults = vec![(at, Fault::Errno(errno))];
                if at == 1 && (2..6).contains(&number) {
                    // The zeroes have to be written then, and that meets the fault.
                    faults.push((0, Fault::Errno(libc::EOPNOTSUPP)));
                }
                let mut bench = Bench::new(mode, faults);
                let first = request(&bench);
                let result = bench.run(first);
                let failed = result == Err(Some(errno));
                assert!(failed || result == Ok(()), "{mode:?} {number} {errno} at {at}: {result:?}");
                assert!(!(failed && passing.contains(&errno)), "{mode:?} {number} {errno} at {at}");
                injected += 1;
                bench.disk.engine = engine::best(8).unwrap();
                let again = request(&bench);
                assert_eq!(bench.run(again), Ok(()), "the fault is over: {mode:?} {number} {errno} at {at}");
                assert_eq!(bench.read(0, 4096), Ok(vec![0xdd; 4096]));
                assert_eq!(bench.read(16, 4096), Ok(vec![0xdd; 4096]));
            }
        }
        assert!(injected >= 300, "{injected}");
    }

    #[test]
    fn sec37_a_host_that_always_asks_to_try_again_is_an_error() {
        let mut bench = Bench::new(Mode::Write, vec![(u32::MAX, Fault::Errno(libc::EAGAIN))]);
        assert_eq!(bench.write(0, &[0; 512]), Err(Some(libc::EAGAIN)));
    }

    #[test]
    fn a_file_that_has_become_shorter_is_an_error() {
        let mut bench = Bench::new(Mode::Write, Vec::new());
        std::fs::File::options().write(true).open(&bench.path).unwrap().set_len(1000).unwrap();
        assert_eq!(bench.read(0, 1024), Err(None));
        assert_eq!(bench.read(0, 512), Ok(vec![0xdd; 512]));
    }

    #[test]
    fn zeroes_are_written_where_the_host_cannot_make_them() {
        for fault in [None, Some((0, Fault::Errno(libc::EOPNOTSUPP)))] {
            for (unmap, durable) in [(false, false), (true, false), (false, true), (true, true)] {
                let mut bench = Bench::new(Mode::Write, fault.into_iter().collect());
                assert_eq!(bench.run(Request::WriteZeroes { sector: 1, count: 20, unmap, durable }), Ok(()));
                let found = bench.read(0, 32 * 512).unwrap();
                assert!(found[..512].iter().chain(&found[21 * 512..]).all(|byte| *byte == 0xdd));
                assert!(found[512..21 * 512].iter().all(|byte| *byte == 0));
                assert_eq!(std::fs::metadata(&bench.path).unwrap().len(), BYTES as u64);
            }
            let mut bench = Bench::new(Mode::Write, fault.into_iter().collect());
            assert_eq!(bench.run(Request::Discard { sector: 8, count: 8 }), Ok(()));
            assert_eq!(bench.read(16, 512), Ok(vec![0xdd; 512]));
        }
    }

    #[test]
    fn an_overlay_holds_what_is_written_and_its_base_stays() {
        for faults in [Vec::new(), vec![(u32::MAX, Fault::Short(1337))]] {
            let mut bench = Bench::new(Mode::Overlay, faults);
            let mut model = vec![0xdd; BYTES];
            let mut random = 1u64;
            for step in 0..400u64 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (sector, count) = ((random >> 33) % SECTORS, 1 + (random >> 50) % 16);
                let count = count.min(SECTORS - sector);
                let place = (sector * SECTOR) as usize..((sector + count) * SECTOR) as usize;
                match random >> 61 {
                    0..4 => assert_eq!(bench.read(sector, place.len()).unwrap(), model[place]),
                    4..6 => {
                        model[place.clone()].fill(step as u8);
                        bench.write(sector, &model[place]).unwrap();
                    }
                    6 => {
                        model[place].fill(0);
                        bench
                            .run(Request::WriteZeroes { sector, count, unmap: step % 2 == 0, durable: step % 3 == 0 })
                            .unwrap();
                    }
                    _ => {
                        model[place].fill(0);
                        bench.run(Request::Discard { sector, count }).unwrap();
                    }
                }
                assert_eq!(bench.run(Request::Flush), Ok(()));
            }
            assert_eq!(bench.read(0, BYTES).unwrap(), model);
            assert_eq!(std::fs::read(&bench.path).unwrap(), [0xdd; BYTES]);
        }
    }

    #[test]
    fn a_layer_without_room_is_an_error_and_what_was_there_stays() {
        let mut bench = Bench::new(Mode::Overlay, vec![(0, Fault::Errno(libc::ENOSPC))]);
        assert_eq!(bench.write(3, &[1; 1024]), Err(Some(libc::ENOSPC)));
        assert_eq!(bench.read(3, 1024), Ok(vec![0xdd; 1024]));
        assert_eq!(bench.write(3, &[1; 1024]), Ok(()));
        assert_eq!(bench.read(3, 1024), Ok(vec![1; 1024]));
    }

    #[test]
    fn past_the_page_cache_go_whole_blocks_and_the_others_through_it() {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let path = std::env::temp_dir().join(format!("hostel-disk-direct-{}", std::process::id()));
        std::fs::write(&path, [0xdd; BYTES]).unwrap();
        let disk = Disk::<u32>::open(&path, DiskOptions { direct: true, ..DiskOptions::default() }, 8);
        let disk = disk.map_err(|error| assert!(matches!(error, DiskError::Direct { .. }), "{error}"));
        // A file system in memory has nothing past its page cache.
        let Ok(mut disk) = disk else { return std::fs::remove_file(&path).unwrap() };
        let mut run = |request| {
            disk.begin(0, request);
            loop {
                if let Some((_, result)) = disk.finish().next() {
                    return result.unwrap();
                }
                let ready = [event_loop::Interest { token: (), fd: disk.ready(), output: false }];
                event_loop::wait(&ready, None).unwrap();
            }
        };
        let mut model = vec![0xdd; BYTES];
        for (step, (sector, start, size)) in
            [(8, 0x1000, 4096), (3, 0x1010, 512), (9, 0x2000, 512), (0, 0x1001, 8192), (16, 0x1000, 8192)]
                .into_iter()
                .enumerate()
        {
            let buffers = || HostBuffers::of_guest(&ram, &[GuestRange { start, size }]).unwrap();
            ram.write(start, &vec![step as u8; size as usize]).unwrap();
            run(Request::Write { sector, buffers: buffers(), durable: step % 2 == 0 });
            model[(sector * SECTOR) as usize..][..size as usize].fill(step as u8);
            run(Request::Read(sector, buffers()));
            assert_eq!(buffers().copy(size as usize), vec![step as u8; size as usize]);
            assert!(std::fs::read(&path).unwrap() == model);
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn sec26_nothing_beyond_the_end_is_reached() {
        for mode in [Mode::Write, Mode::Overlay] {
            let mut bench = Bench::new(mode, Vec::new());
            for (sector, size) in [(SECTORS - 1, 1024), (SECTORS, 512), (u64::MAX, 512), (1 << 55, 512), (0, 700)] {
                assert_eq!(bench.write(sector, &vec![1; size]), Err(None), "{sector} {size}");
                assert_eq!(bench.read(sector, size), Err(None));
                let count = if size == 700 { u64::MAX } else { size as u64 / 512 };
                assert_eq!(bench.run(Request::Discard { sector, count }), Err(None));
                assert_eq!(bench.run(Request::WriteZeroes { sector, count, unmap: true, durable: true }), Err(None));
            }
            assert_eq!(bench.disk.engine.under_way(), 0);
            let mut bytes = vec![0; BYTES + 1];
            let file = std::fs::File::open(&bench.path).unwrap();
            assert_eq!(file.read_at(&mut bytes, 0).unwrap(), BYTES);
            assert!(bytes[..BYTES].iter().all(|byte| *byte == 0xdd));
        }
    }
}
