//! Block device: a disk of the host.
//!
//! One queue. Requests are read, write, flush, identify, discard and write zeroes; all others are answered with "unsupported".
//! Not modelled: secure erase, lifetime, zones, a write-back cache that can be switched.
//! A request's bounds are those of the whole chain: it lies on the disk as a whole or nothing of it is done. What the host refuses
//! (no space, a broken medium, a file that has become shorter) is an error of that request, and the disk works on.
//! Source: virtio 1.2 §5.2.

use super::device::{DeviceKind, Queues, VirtioDevice};
use super::queue::{Chain, QueueFault};
use crate::backend::block::buffers::HostBuffers;
use crate::backend::block::disk::{Disk, Request};
use crate::backend::block::image::SECTOR;
use crate::memory::map::GuestRange;
use crate::memory::ram::GuestRam;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

const REQUEST_QUEUE: usize = 0;
/// Entries of the queue, and so requests at a time.
pub const QUEUE_SIZE: u16 = 256;

/// Features (virtio 1.2 §5.2.3).
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const TOPOLOGY: u64 = 1 << 10;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

/// Request types (virtio 1.2 §5.2.6).
mod request_type {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// Answer: done.
const OK: u8 = 0;
/// Answer: the host could not, or the request makes no sense.
const IO_ERROR: u8 = 1;
/// Answer: no such request.
const UNSUPPORTED: u8 = 2;

/// Bytes of a request's header: type, reserved, sector.
const HEADER: usize = 16;
/// Bytes of a disk's name.
pub const ID_SIZE: usize = 20;
/// Bytes of a range of DISCARD and WRITE_ZEROES: sector, count, flags.
const RANGE: usize = 16;
/// Flag of a range: the space behind it may be given up.
const UNMAP: u32 = 1;
/// Most sectors of one DISCARD: 1 GiB.
const DISCARD_MAX: u32 = 1 << 21;
/// Most sectors of one WRITE_ZEROES: 32 MiB, which may have to be written.
const WRITE_ZEROES_MAX: u32 = 1 << 16;
/// log2 of the sectors of a block below which the host reads before it writes: a page of its cache.
const PHYSICAL_BLOCK_EXP: u8 = 3;

/// Bytes of the configuration up to `write_zeroes_may_unmap` and its padding (virtio 1.2 §5.2.4).
const CONFIG_SIZE: usize = 60;

/// The device.
pub struct Blk {
    disk: Disk<Chain>,
    id: [u8; ID_SIZE],
    config: [u8; CONFIG_SIZE],
    /// The driver knows no flush: what is written is on the medium before the request is over (virtio 1.2 §5.2.6.2).
    writes_through: bool,
}

/// What to do about a request.
enum Answer {
    /// The disk does it, and tells when it is done.
    Later(Request),
    /// This, at once.
    Now(u8),
}

impl Blk {
    /// A device over `disk`, which the guest knows by `id`; of that, the first 20 bytes.
    pub fn new(disk: Disk<Chain>, id: &str) -> Blk {
        let mut name = [0; ID_SIZE];
        name.iter_mut().zip(id.bytes()).for_each(|(to, byte)| *to = byte);
        let config = config(&disk);
        Blk { disk, id: name, config, writes_through: true }
    }

    /// Answers requests that are over.
    fn answer_finished(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        for (chain, result) in self.disk.finish() {
            answer(queues, chain, if result.is_ok() { OK } else { IO_ERROR })?;
        }
        Ok(())
    }

    /// Reads a request off its chain; what is left then is its status.
    fn request(&self, chain: &mut Chain, ram: &Arc<GuestRam>) -> Answer {
        let mut header = [0; HEADER];
        if chain.read(ram, &mut header) < HEADER {
            return Answer::Now(IO_ERROR);
        }
        let kind = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
        let sector = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
        match kind {
            request_type::IN => {
                let ranges = chain.take_writable(chain.writable_bytes() - 1);
                on_buffers(ram, &ranges, |buffers| Request::Read(sector, buffers))
            }
            request_type::OUT => {
                let ranges = chain.take_readable(chain.readable_bytes());
                let durable = self.writes_through;
                on_buffers(ram, &ranges, |buffers| Request::Write { sector, buffers, durable })
            }
            request_type::FLUSH => Answer::Later(Request::Flush),
            request_type::GET_ID => {
                let room = (chain.writable_bytes() - 1).min(ID_SIZE as u64) as usize;
                chain.write(ram, &self.id[..room]);
                Answer::Now(OK)
            }
            request_type::DISCARD | request_type::WRITE_ZEROES => self.on_range(kind, chain, ram),
            _ => Answer::Now(UNSUPPORTED),
        }
    }

    /// DISCARD and WRITE_ZEROES, of one range each, as the configuration says.
    fn on_range(&self, kind: u32, chain: &mut Chain, ram: &GuestRam) -> Answer {
        let mut range = [0; RANGE];
        if chain.readable_bytes() != RANGE as u64 || chain.read(ram, &mut range) < RANGE {
            return Answer::Now(IO_ERROR);
        }
        let sector = u64::from_le_bytes(range[..8].try_into().expect("eight bytes"));
        let count = u32::from_le_bytes(range[8..12].try_into().expect("four bytes"));
        let flags = u32::from_le_bytes(range[12..].try_into().expect("four bytes"));
        let discards = kind == request_type::DISCARD;
        let (most, allowed) = if discards { (DISCARD_MAX, 0) } else { (WRITE_ZEROES_MAX, UNMAP) };
        match (flags & !allowed, count) {
            (0, 0..) if count > most => Answer::Now(IO_ERROR),
            (0, _) if discards => Answer::Later(Request::Discard { sector, count: count.into() }),
            (0, _) => Answer::Later(Request::WriteZeroes { sector, count: count.into(), unmap: flags & UNMAP != 0 }),
            _ => Answer::Now(UNSUPPORTED),
        }
    }
}

impl VirtioDevice for Blk {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        let writing = if self.disk.is_read_only() { READ_ONLY } else { DISCARD | WRITE_ZEROES };
        SEG_MAX | BLK_SIZE | FLUSH | TOPOLOGY | writing
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn start(&mut self, features: u64) {
        self.writes_through = features & FLUSH == 0;
    }

    fn reset(&mut self) {
        self.disk.abandon();
    }

    fn serve(&mut self, _index: usize, queues: &mut Queues) -> Result<(), QueueFault> {
        while let Some(mut chain) = queues.pop(REQUEST_QUEUE)? {
            let Some(ram) = queues.queue(REQUEST_QUEUE).map(|queue| queue.ram().clone()) else { break };
            if chain.writable_bytes() == 0 {
                // There is no place for a status: nothing is done.
                queues.push(REQUEST_QUEUE, &chain)?;
                continue;
            }
            match self.request(&mut chain, &ram) {
                Answer::Later(request) => self.disk.begin(chain, request),
                Answer::Now(status) => answer(queues, chain, status)?,
            }
        }
        self.answer_finished(queues)
    }

    fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        Some(self.disk.ready().fd())
    }

    fn host_ready(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        self.answer_finished(queues)
    }
}

fn on_buffers(ram: &Arc<GuestRam>, ranges: &[GuestRange], request: impl FnOnce(HostBuffers) -> Request) -> Answer {
    HostBuffers::of_guest(ram, ranges).map_or(Answer::Now(IO_ERROR), |buffers| Answer::Later(request(buffers)))
}

/// Writes the status into the last byte of the chain and gives that back.
fn answer(queues: &mut Queues, mut chain: Chain, status: u8) -> Result<(), QueueFault> {
    if let Some(queue) = queues.queue(REQUEST_QUEUE) {
        chain.take_writable(chain.writable_bytes() - 1);
        chain.write(&queue.ram().clone(), &[status]);
    }
    if status != OK {
        chain.forget_written();
    }
    queues.push(REQUEST_QUEUE, &chain)
}

/// `struct virtio_blk_config` (virtio 1.2 §5.2.4).
fn config(disk: &Disk<Chain>) -> [u8; CONFIG_SIZE] {
    let mut config = [0; CONFIG_SIZE];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &disk.sectors().to_le_bytes());
    // Header and status take one descriptor each.
    put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    put(24, &[PHYSICAL_BLOCK_EXP]);
    if !disk.is_read_only() {
        put(36, &DISCARD_MAX.to_le_bytes());
        put(40, &1u32.to_le_bytes()); // ranges of a DISCARD
        put(44, &(1u32 << PHYSICAL_BLOCK_EXP).to_le_bytes());
        put(48, &WRITE_ZEROES_MAX.to_le_bytes());
        put(52, &1u32.to_le_bytes()); // ranges of a WRITE_ZEROES
        put(56, &[1]); // it may give up space
    }
    config
}
