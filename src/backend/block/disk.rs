//! A disk: requests of a guest, each worked off in as many operations of the engine as it takes.
//!
//! A request is more than one operation where the host moves fewer bytes than it was asked to, where a layer holds part of the
//! sectors, or where there are more buffers than one call takes. One operation of each request is under way at a time, so no
//! more are than there are requests. The disk's size never changes; what lies beyond its end is refused before the host sees it.
//! Sources: preadv2(2), fallocate(2).

use super::buffers::HostBuffers;
use super::engine::{self, Call, Engine, Operation};
use super::image::{Access, DiskError, Image, SECTOR};
use super::overlay::Layer;
use crate::event_loop::Waker;
use rustix::fs::FallocateFlags;
use std::io;
use std::path::Path;

/// Times in a row that the host may ask to try again before that is an error.
const RETRIES_MAX: u8 = 16;

/// Where a disk's bytes are, and what may be done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the file, to be read and written.
    Write,
    /// In the file, to be read.
    Read,
    /// In the file, until they are written: then in a private layer that is gone with the machine.
    Overlay,
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
    },
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
    },
    /// By writing them.
    WriteZeroes,
}

impl<T> Disk<T> {
    /// Opens `path` for at most `depth` requests at a time.
    ///
    /// # Errors
    /// The disk cannot be had, or the host gives nothing to work it with.
    pub fn open(path: &Path, mode: Mode, depth: u16) -> Result<Disk<T>, DiskError> {
        let image = Image::open(path, if mode == Mode::Write { Access::Write } else { Access::Read })?;
        let layer = match mode {
            Mode::Overlay => {
                Some(Layer::new(image.sectors).map_err(|source| DiskError::Layer { path: path.into(), source })?)
            }
            _ => None,
        };
        let engine = engine::best(depth).map_err(DiskError::Engine)?;
        Ok(Disk::new(image, mode, layer, engine))
    }

    fn new(image: Image, mode: Mode, layer: Option<Layer>, engine: Box<dyn Engine>) -> Disk<T> {
        Disk { image, mode, layer, engine, transfers: Vec::new(), free: Vec::new(), finished: Vec::new() }
    }

    /// Sectors.
    pub fn sectors(&self) -> u64 {
        self.image.sectors
    }

    /// Whether it refuses to be written.
    pub fn is_read_only(&self) -> bool {
        self.mode == Mode::Read
    }

    /// Gives bytes when requests may have finished.
    pub fn ready(&self) -> &Waker {
        self.engine.ready()
    }

    /// Begins a request, which [`Disk::finish`] gives back.
    pub fn begin(&mut self, token: T, request: Request) {
        let (sector, size, kind) = match request {
            Request::Read(sector, buffers) => (sector, Some(buffers.bytes()), Kind::Read(buffers)),
            Request::Write { sector, buffers, durable } => {
                (sector, Some(buffers.bytes()), Kind::Write { buffers, durable })
            }
            Request::Flush => (0, Some(0), Kind::Flush),
            Request::Discard { sector, count } => (sector, count.checked_mul(SECTOR), Kind::Discard),
            Request::WriteZeroes { sector, count, unmap } => {
                let how = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
                (sector, count.checked_mul(SECTOR), Kind::Zero { how })
            }
        };
        let writes = !matches!(kind, Kind::Read(_) | Kind::Flush);
        let Some(begin) = self.place(sector, size).filter(|_| !(writes && self.is_read_only())) else {
            return self.finished.push((token, Err(io::ErrorKind::InvalidInput.into())));
        };
        let end = begin + size.expect("checked with its place");
        let tag = self.free.pop().unwrap_or_else(|| {
            self.transfers.push(None);
            self.transfers.len() - 1
        });
        self.transfers[tag] = Some(Transfer { token, kind, at: begin, begin, end, retries: 0 });
        self.go_on(tag);
    }

    /// Hands what was begun to the host, and returns the requests that are over.
    pub fn finish(&mut self) -> Vec<(T, io::Result<()>)> {
        self.engine.submit();
        // Before the look: what is over after it makes the disk ready again.
        self.engine.ready().reset();
        for (tag, result) in self.engine.take_done() {
            self.operation_is_over(tag, result);
        }
        self.engine.submit();
        std::mem::take(&mut self.finished)
    }

    /// Waits for what the host is working on, and forgets all requests: nothing of them is written from then on.
    pub fn abandon(&mut self) {
        self.engine.drain();
        self.transfers.clear();
        self.free.clear();
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
        let (mut file, mut size) = (&self.image.file, left);
        if let Some(layer) = &self.layer {
            file = &layer.file;
            if matches!(transfer.kind, Kind::Read(_)) {
                let (written, sectors) = layer.run(at / SECTOR, transfer.end / SECTOR);
                // A short read may have ended inside a sector.
                size = (at / SECTOR + sectors) * SECTOR - at;
                file = if written { &layer.file } else { &self.image.file };
            }
        }
        let call = match &transfer.kind {
            Kind::Read(buffers) => Call::Read(buffers.front(size)),
            Kind::Write { buffers, durable } => {
                Call::Write { buffers: buffers.front(size), durable: *durable && !is_overlay }
            }
            Kind::Flush => Call::Sync,
            Kind::Discard => Call::Allocate { size, how: FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE },
            Kind::Zero { how } => Call::Allocate { size, how: *how | FallocateFlags::KEEP_SIZE },
            Kind::WriteZeroes => Call::Write { buffers: HostBuffers::zeroes(size), durable: false },
        };
        self.engine.begin(Operation { tag, file: file.clone(), offset: at, call });
    }

    /// The host is done with an operation: the request goes on, or is over.
    fn operation_is_over(&mut self, tag: usize, result: io::Result<u32>) {
        let transfer = self.transfers[tag].as_mut().expect("an operation belongs to a request");
        match result {
            Ok(bytes) => match &mut transfer.kind {
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
                (Some(libc::EOPNOTSUPP | libc::EINVAL), Kind::Zero { .. } | Kind::Discard) => {
                    transfer.kind = Kind::WriteZeroes;
                }
                _ => return self.end(tag, Err(error)),
            },
        }
        self.go_on(tag);
    }

    fn end(&mut self, tag: usize, result: io::Result<()>) {
        let transfer = self.transfers[tag].take().expect("an operation belongs to a request");
        self.free.push(tag);
        if let Some(layer) = &mut self.layer
            && result.is_ok()
            && !matches!(transfer.kind, Kind::Read(_) | Kind::Flush)
        {
            layer.mark(transfer.begin / SECTOR..transfer.end / SECTOR);
        }
        self.finished.push((transfer.token, result));
    }
}
