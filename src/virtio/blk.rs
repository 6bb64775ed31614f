//! Block device: a disk of the host.
//!
//! As many queues as there are vCPUs, up to four, all served alike. Requests are read, write, flush, identify, discard and write zeroes; all others are answered with "unsupported".
//! Not modelled: secure erase, lifetime, zones, a write-back cache that can be switched.
//! A request's bounds are those of the whole chain: it lies on the disk as a whole or nothing of it is done. What the host refuses
//! (no space, a broken medium, a file that has become shorter) is an error of that request, and the disk works on. While a limit of the
//! user's holds it (`backend/rate.rs`), requests stay in their queues; a reset pays no debt.
//! Source: virtio 1.2 §5.2.

use super::device::{DeviceKind, Queues, VirtioDevice};
use super::queue::{Chain, QueueFault};
use crate::backend::block::buffers::HostBuffers;
use crate::backend::block::disk::{Disk, DiskOptions, Request};
use crate::backend::block::image::{DiskError, SECTOR};
use crate::backend::rate::Limiter;
use crate::memory::map::GuestRange;
use crate::memory::ram::GuestRam;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

/// Entries of a queue, and so requests of it at a time.
const QUEUE_SIZE: u16 = 256;
/// Most queues: more than a few do not make a disk faster.
const QUEUES_MAX: u32 = 4;

/// Features (virtio 1.2 §5.2.3).
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const TOPOLOGY: u64 = 1 << 10;
const MULTI_QUEUE: u64 = 1 << 12;
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

/// The limits are those of the whole disk.
const LANE: usize = 0;

/// A request as the disk gives it back: its queue, and its buffers.
type Asked = (usize, Chain);

/// The device.
pub struct Blk {
    disk: Disk<Asked>,
    limiter: Limiter,
    /// The queue that was the first to go on when the limits let go.
    turn: usize,
    queue_sizes: Vec<u16>,
    id: [u8; ID_SIZE],
    config: [u8; CONFIG_SIZE],
    /// The driver knows no flush: what is written is on the medium before the request is over (virtio 1.2 §5.2.6.2).
    writes_through: bool,
    /// Chains of one queue that are given back together; kept for its room.
    answered: Vec<Chain>,
}

/// What to do about a request.
enum Answer {
    /// The disk does it, and tells when it is done.
    Later(Request),
    /// This, at once.
    Now(u8),
}

impl Blk {
    /// A device for `cpus` vCPUs over the disk at `path`, which the guest knows by `id`; of that, the first 20 bytes.
    ///
    /// # Errors
    /// The disk cannot be had.
    pub fn open(path: &Path, options: DiskOptions, id: &str, cpus: u32) -> Result<Blk, DiskError> {
        let queue_sizes = vec![QUEUE_SIZE; cpus.clamp(1, QUEUES_MAX) as usize];
        let rates = options.rates;
        let disk = Disk::open(path, options, queue_sizes.iter().sum())?;
        let limiter = Limiter::new(rates, 1).map_err(DiskError::Engine)?;
        let mut name = [0; ID_SIZE];
        name.iter_mut().zip(id.bytes()).for_each(|(to, byte)| *to = byte);
        let config = config(&disk, queue_sizes.len() as u16);
        let answered = Vec::new();
        Ok(Blk { disk, limiter, turn: 0, queue_sizes, id: name, config, writes_through: true, answered })
    }

    /// Begins the requests of a queue, as far as the limits let it.
    fn begin(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueFault> {
        let Some(ram) = queues.queue(index).map(|queue| queue.ram().clone()) else { return Ok(()) };
        while self.limiter.lets(LANE)
            && let Some(mut chain) = queues.pop(index)?
        {
            if chain.writable_bytes() == 0 {
                // There is no place for a status: nothing is done.
                self.limiter.take(LANE, 0);
                queues.push(index, &chain);
                continue;
            }
            match self.request(&mut chain, &ram) {
                Answer::Later(request) => {
                    // Of one that is larger than the disk nothing is done either.
                    let most = self.disk.sectors() * SECTOR;
                    self.limiter.take(LANE, Some(request.bytes()).filter(|bytes| *bytes <= most).unwrap_or(0));
                    self.disk.begin((index, chain), request);
                }
                Answer::Now(status) => {
                    self.limiter.take(LANE, 0);
                    answer(queues, index, chain, status);
                }
            }
        }
        Ok(())
    }

    /// Answers requests that are over.
    fn answer_finished(&mut self, queues: &mut Queues) {
        let mut of_queue = 0;
        for ((index, mut chain), result) in self.disk.finish() {
            write_status(queues, index, &mut chain, if result.is_ok() { OK } else { IO_ERROR });
            if index != of_queue {
                queues.push_all(of_queue, &self.answered);
                self.answered.clear();
            }
            of_queue = index;
            self.answered.push(chain);
        }
        queues.push_all(of_queue, &self.answered);
        self.answered.clear();
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
            (0, _) => {
                let (unmap, durable) = (flags & UNMAP != 0, self.writes_through);
                Answer::Later(Request::WriteZeroes { sector, count: count.into(), unmap, durable })
            }
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
        let queues = if self.queue_sizes.len() > 1 { MULTI_QUEUE } else { 0 };
        SEG_MAX | BLK_SIZE | FLUSH | TOPOLOGY | queues | writing
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn start(&mut self, features: u64) {
        self.writes_through = features & FLUSH == 0;
    }

    fn reset(&mut self) {
        self.answered.clear();
        self.disk.abandon();
    }

    fn serve(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueFault> {
        self.begin(index, queues)?;
        self.answer_finished(queues);
        Ok(())
    }

    fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        Some(self.disk.ready())
    }

    fn waits_for_time(&self) -> Option<BorrowedFd<'_>> {
        self.limiter.timer()
    }

    fn host_ready(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        if self.limiter.let_go() {
            // Another one goes first each time: one that always has requests leaves something to the others.
            self.turn = (self.turn + 1) % self.queue_sizes.len();
            for index in 0..self.queue_sizes.len() {
                self.begin((self.turn + index) % self.queue_sizes.len(), queues)?;
            }
        }
        self.answer_finished(queues);
        Ok(())
    }

    fn can_look(&self) -> bool {
        // What is held would be found again and again.
        !self.limiter.is_held(LANE)
    }

    fn waits_for_threads(&self) -> bool {
        self.disk.waits_for_threads()
    }

    fn waits_long(&self) -> bool {
        self.disk.waits_for_medium()
    }

    fn look(&mut self, queues: &mut Queues) -> Result<bool, QueueFault> {
        let before = self.disk.under_way();
        self.answer_finished(queues);
        Ok(self.disk.under_way() < before)
    }
}

fn on_buffers(ram: &Arc<GuestRam>, ranges: &[GuestRange], request: impl FnOnce(HostBuffers) -> Request) -> Answer {
    HostBuffers::of_guest(ram, ranges).map_or(Answer::Now(IO_ERROR), |buffers| Answer::Later(request(buffers)))
}

/// Writes the status into the last byte of the chain and gives that back.
fn answer(queues: &mut Queues, index: usize, mut chain: Chain, status: u8) {
    write_status(queues, index, &mut chain, status);
    queues.push(index, &chain);
}

/// Writes the status into the last byte of the chain.
fn write_status(queues: &mut Queues, index: usize, chain: &mut Chain, status: u8) {
    if let Some(queue) = queues.queue(index) {
        chain.take_writable(chain.writable_bytes() - 1);
        chain.write(queue.ram(), &[status]);
    }
    if status != OK {
        chain.forget_written();
    }
}

/// `struct virtio_blk_config` (virtio 1.2 §5.2.4).
fn config(disk: &Disk<Asked>, queues: u16) -> [u8; CONFIG_SIZE] {
    let mut config = [0; CONFIG_SIZE];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &disk.sectors().to_le_bytes());
    // Header and status take one descriptor each.
    put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    put(24, &[PHYSICAL_BLOCK_EXP]);
    put(34, &queues.to_le_bytes());
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

#[cfg(test)]
mod tests {
    use super::super::driver::DriverQueue;
    use super::super::function::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, VirtioFunction};
    use super::*;
    use crate::arch::layout::MIB;
    use crate::backend::block::disk::Mode;
    use crate::backend::rate::Rates;
    use crate::event_loop::{self, Interest, Waker};
    use crate::memory::map::MemoryMap;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    const HEADER_AT: u64 = 0x8000;
    const STATUS_AT: u64 = 0x9000;
    const DATA: u64 = 0x1_0000;
    const SECTORS: u64 = 32;
    /// What a status byte is before it is written.
    const NO_STATUS: u8 = 0xee;

    /// A driven device over a file of 32 sectors, and its driver.
    struct Bench {
        function: VirtioFunction,
        queue: DriverQueue,
        ram: Arc<GuestRam>,
        path: PathBuf,
    }

    impl Bench {
        fn new(mode: Mode) -> Bench {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let name = format!("hostel-blk-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, [0xdd; 512 * SECTORS as usize]).unwrap();
            Bench::over(path, mode)
        }

        fn over(path: PathBuf, mode: Mode) -> Bench {
            Bench::with(path, DiskOptions { mode, ..DiskOptions::default() })
        }

        fn with(path: PathBuf, options: DiskOptions) -> Bench {
            let ram = Arc::new(GuestRam::new(&MemoryMap::new(4 * MIB).unwrap()).unwrap());
            let device = Box::new(Blk::open(&path, options, "a-name", 2).unwrap());
            let function = VirtioFunction::new(device, ram.clone(), Waker::new().unwrap()).unwrap();
            let queue = DriverQueue::new(ram.clone(), 0x1000, 16);
            let mut bench = Bench { function, queue, ram, path };
            bench.drive(u64::MAX);
            bench
        }

        /// Drives the device anew, with those of its features that are in `features`.
        fn drive(&mut self, features: u64) {
            self.function.set_status(0);
            self.ram.write(0x1000, &[0; 0x1000]).unwrap();
            self.queue = DriverQueue::new(self.ram.clone(), 0x1000, 16);
            let setup = self.queue.setup();
            self.function.set_driver_features(self.function.features() & features & !(1 << 29));
            self.function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
            self.function.set_up_queue(0, |queue| *queue = setup);
            self.function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
            assert_eq!(self.function.status(), 15);
        }

        /// Drives the device anew with two queues, and returns the second.
        fn drive_two(&mut self) -> DriverQueue {
            self.function.set_status(0);
            self.ram.write(0x1000, &[0; 0x4000]).unwrap();
            self.function.set_driver_features(self.function.features() & !(1 << 29));
            self.function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
            self.queue = DriverQueue::new(self.ram.clone(), 0x1000, 16);
            let second = DriverQueue::new(self.ram.clone(), 0x4000, 16);
            let setups = [self.queue.setup(), second.setup()];
            (0..).zip(setups).for_each(|(index, setup)| self.function.set_up_queue(index, |queue| *queue = setup));
            self.function.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
            second
        }

        /// Serves until a chain is used, and returns the bytes that it says were written.
        fn used(&mut self) -> u32 {
            self.function.serve(Some(0));
            loop {
                assert_eq!(self.function.status(), 15, "it needs no reset");
                if let Some((_, written)) = self.queue.used() {
                    return written;
                }
                self.wait();
                self.function.serve(None);
            }
        }

        /// Waits for what the device waits for, besides kicks.
        fn wait(&self) {
            let waits = self.function.waits_for();
            let of_device = waits.iter().filter(|wait| wait.queue.is_none());
            let interests: Vec<_> = of_device.map(|wait| Interest { token: (), fd: wait.fd, output: false }).collect();
            assert!(!event_loop::wait(&interests, Some(Duration::from_secs(20))).unwrap().is_empty(), "it hangs");
        }

        /// A request with these buffers between header and status. Returns the status and the bytes written.
        fn ask(&mut self, kind: u32, sector: u64, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> (u8, u32) {
            let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
            self.ram.write(HEADER_AT, &header).unwrap();
            self.ram.write(STATUS_AT, &[NO_STATUS]).unwrap();
            let readable = [&[(HEADER_AT, 16)], readable].concat();
            self.queue.send(&readable, &[writable, &[(STATUS_AT, 1)]].concat());
            let written = self.used();
            let mut status = [0];
            self.ram.read(STATUS_AT, &mut status).unwrap();
            (status[0], written)
        }

        fn range(&mut self, kind: u32, sector: u64, count: u32, flags: u32) -> u8 {
            let range = [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat();
            self.ram.write(DATA, &range).unwrap();
            self.ask(kind, 0, &[(DATA, 16)], &[]).0
        }

        fn content(&self) -> Vec<u8> {
            std::fs::read(&self.path).unwrap()
        }

        /// Whatever came before: a good request is done, and the file has its size.
        fn still_works(&mut self) {
            assert_eq!(self.ask(request_type::IN, SECTORS - 1, &[], &[(DATA + 0x8000, 512)]), (OK, 513));
            assert_eq!(self.content().len(), 512 * SECTORS as usize);
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            // A second one over the same file has removed it.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    #[test]
    fn a_driver_writes_flushes_and_reads() {
        for features in [u64::MAX, !FLUSH] {
            let mut bench = Bench::new(Mode::Write);
            bench.drive(features);
            bench.ram.write(DATA, &[1; 1024]).unwrap();
            // Two buffers, neither of whole sectors.
            let data = [(DATA, 1000), (DATA + 1000, 24)];
            assert_eq!(bench.ask(request_type::OUT, 3, &data, &[]), (OK, 1));
            assert_eq!(bench.ask(request_type::FLUSH, 0, &[], &[]), (OK, 1));
            assert_eq!(bench.content()[3 * 512 - 1..5 * 512 + 1], [&[0xdd][..], &[1; 1024], &[0xdd]].concat());
            assert_eq!(bench.ask(request_type::IN, 2, &[], &[(DATA, 1), (DATA + 1, 1023)]), (OK, 1025));
            let mut found = [0; 1024];
            bench.ram.read(DATA, &mut found).unwrap();
            assert_eq!(found[..], [[0xdd; 512], [1; 512]].concat());
        }
    }

    #[test]
    fn the_configuration_tells_what_the_disk_is() {
        let bench = Bench::new(Mode::Write);
        let read = |offset, size| bench.function.read_config(offset, size);
        assert_eq!((read(0, 8), read(12, 4), read(20, 4), read(24, 1)), (SECTORS, 254, 512, 3));
        assert_eq!(
            (read(34, 2), bench.function.queue_count(), bench.function.features() & MULTI_QUEUE),
            (2, 2, MULTI_QUEUE)
        );
        assert_eq!((read(40, 4), read(52, 4), read(56, 1), read(60, 4)), (1, 1, 1, 0xffff_ffff));
        let bench = Bench::new(Mode::Read);
        assert_eq!(bench.function.features() & (READ_ONLY | DISCARD | WRITE_ZEROES | FLUSH), READ_ONLY | FLUSH);
    }

    #[test]
    fn each_queue_has_its_own_answers() {
        let mut bench = Bench::new(Mode::Write);
        let mut second = bench.drive_two();
        bench.ram.write(HEADER_AT, &[0; 16]).unwrap();
        let head = second.send(&[(HEADER_AT, 16)], &[(DATA, 512), (STATUS_AT, 1)]);
        bench.function.serve(Some(1));
        // The first queue's request waits for the disk, which ends that of the second as well.
        assert_eq!(bench.ask(request_type::FLUSH, 0, &[], &[]), (OK, 1));
        bench.function.serve(None);
        assert_eq!((second.used(), second.used(), bench.queue.used()), (Some((head, 513)), None, None));
    }

    #[test]
    fn what_the_limit_holds_waits_in_its_queues_and_each_has_its_turn() {
        // Three requests at once, and then one each 50 ms.
        let rates = Rates { operations: Some(20), bytes: None };
        let path = Bench::new(Mode::Write).path.with_extension("limited");
        std::fs::write(&path, [0xdd; 512 * SECTORS as usize]).unwrap();
        let mut bench = Bench::with(path, DiskOptions { rates, ..DiskOptions::default() });
        let mut second = bench.drive_two();
        bench.ram.write(HEADER_AT, &[0; 16]).unwrap();
        let begin = Instant::now();
        for _ in 0..5 {
            bench.queue.send(&[(HEADER_AT, 16)], &[(DATA, 512), (STATUS_AT, 1)]);
            second.send(&[(HEADER_AT, 16)], &[(DATA, 512), (STATUS_AT, 1)]);
        }
        bench.function.serve(Some(0));
        bench.function.serve(Some(1));
        let (mut done, mut rounds) = ([0, 0], 0);
        while done != [5, 5] {
            // Neither a look nor a kick ends the time for which it is held.
            assert!(!bench.function.look() || done[0] + done[1] > 8);
            bench.function.serve(Some(0));
            bench.wait();
            bench.function.serve(None);
            let passed = begin.elapsed();
            for (done, queue) in done.iter_mut().zip([&mut bench.queue, &mut second]) {
                *done += std::iter::from_fn(|| queue.used()).count();
            }
            assert!(done[0] + done[1] <= 3 + (passed.as_millis() / 50) as usize, "{done:?} after {passed:?}");
            assert!(done[0] < 5 || done[1] > 0, "the second has its turn");
            rounds += 1;
            assert!(rounds < 40, "it does not sleep");
        }
        // A new driver pays for the old one.
        bench.drive(u64::MAX);
        (0..3).for_each(|_| bench.still_works());
        // Thirteen in all, of which three were free.
        assert!(begin.elapsed() >= Duration::from_millis(50 * 10), "{:?}", begin.elapsed());
    }

    #[test]
    fn sec23_the_configuration_cannot_be_written() {
        let mut bench = Bench::new(Mode::Write);
        (0..64).for_each(|offset| bench.function.write_config(offset, 1, 0xff));
        assert_eq!((bench.function.read_config(0, 8), bench.function.read_config(20, 4)), (SECTORS, 512));
    }

    #[test]
    fn the_name_is_told_and_cut_where_there_is_no_room() {
        let mut bench = Bench::new(Mode::Read);
        assert_eq!(bench.ask(request_type::GET_ID, 0, &[], &[(DATA, 20)]), (OK, 21));
        let mut id = [0xff; 20];
        bench.ram.read(DATA, &mut id).unwrap();
        assert_eq!(&id, b"a-name\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(bench.ask(request_type::GET_ID, 0, &[], &[(DATA, 3)]), (OK, 4));
        assert_eq!(bench.ask(request_type::GET_ID, 0, &[], &[]), (OK, 1));
    }

    #[test]
    fn sec26_requests_are_bounded_as_a_whole() {
        let mut bench = Bench::new(Mode::Write);
        bench.ram.write(DATA, &[1; 0x8000]).unwrap();
        // Each buffer by itself would fit: together they leave the disk.
        for buffers in [vec![(DATA, 512); 3], vec![(DATA, 1024), (DATA, 512)], vec![(DATA, 512 * 40)]] {
            for sector in [SECTORS - 2, SECTORS - 1] {
                assert_eq!(bench.ask(request_type::OUT, sector, &buffers, &[]), (IO_ERROR, 0));
                assert_eq!(bench.ask(request_type::IN, sector, &[], &buffers), (IO_ERROR, 0));
            }
        }
        for odd in [1, 511, 513] {
            assert_eq!(bench.ask(request_type::OUT, 0, &[(DATA, odd)], &[]).0, IO_ERROR);
            assert_eq!(bench.ask(request_type::IN, 0, &[], &[(DATA, odd)]).0, IO_ERROR);
        }
        assert!(bench.content().iter().all(|byte| *byte == 0xdd));
        bench.still_works();
    }

    #[test]
    fn sec27_sectors_beyond_the_end_overflow_nothing() {
        let mut bench = Bench::new(Mode::Write);
        for sector in [SECTORS, SECTORS + 1, (1 << 55) - 1, 1 << 55, u64::MAX / 512, u64::MAX - 1, u64::MAX] {
            assert_eq!(bench.ask(request_type::OUT, sector, &[(DATA, 512)], &[]).0, IO_ERROR, "{sector:#x}");
            assert_eq!(bench.ask(request_type::IN, sector, &[], &[(DATA, 512)]).0, IO_ERROR);
            assert_eq!(bench.range(request_type::DISCARD, sector, 1, 0), IO_ERROR);
            assert_eq!(bench.range(request_type::WRITE_ZEROES, sector, 1, UNMAP), IO_ERROR);
        }
        assert!(bench.content().iter().all(|byte| *byte == 0xdd));
        bench.still_works();
    }

    #[test]
    fn sec28_ranges_are_checked_in_count_flags_and_number() {
        use request_type::{DISCARD, WRITE_ZEROES};
        let mut bench = Bench::new(Mode::Write);
        for (kind, sector, count, flags, status) in [
            (DISCARD, 0, u32::MAX, 0, IO_ERROR),
            (DISCARD, 0, SECTORS as u32 + 1, 0, IO_ERROR),
            (DISCARD, 8, 8, UNMAP, UNSUPPORTED),
            (DISCARD, 8, 8, 2, UNSUPPORTED),
            (WRITE_ZEROES, 1, SECTORS as u32, 0, IO_ERROR),
            (WRITE_ZEROES, 0, u32::MAX, UNMAP, IO_ERROR),
            (WRITE_ZEROES, 8, 8, 1 << 31, UNSUPPORTED),
        ] {
            assert_eq!(bench.range(kind, sector, count, flags), status, "{kind} {sector} {count:#x} {flags:#x}");
        }
        for kind in [DISCARD, WRITE_ZEROES] {
            for size in [0, 1, 15, 17, 32] {
                assert_eq!(bench.ask(kind, 0, &[(DATA, size)], &[]), (IO_ERROR, 0), "{kind} of {size} bytes");
            }
        }
        assert!(bench.content().iter().all(|byte| *byte == 0xdd));
        assert_eq!(bench.range(WRITE_ZEROES, 1, 2, UNMAP), OK);
        assert_eq!((bench.range(WRITE_ZEROES, 5, 1, 0), bench.range(DISCARD, 8, 8, 0)), (OK, OK));
        let content = bench.content();
        let zero = |sector: usize| content[512 * sector..][..512].iter().all(|byte| *byte == 0);
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(zero), [false, true, true, false, false, true, false, false]);
        bench.still_works();
    }

    #[test]
    fn sec29_a_read_only_disk_is_not_written_whatever_was_agreed_upon() {
        let mut bench = Bench::new(Mode::Read);
        for features in [u64::MAX, !READ_ONLY] {
            bench.drive(features);
            assert_eq!(bench.ask(request_type::OUT, 0, &[(DATA, 512)], &[]).0, IO_ERROR);
            assert_eq!(bench.range(request_type::DISCARD, 0, 8, 0), IO_ERROR);
            assert_eq!(bench.range(request_type::WRITE_ZEROES, 0, 8, 0), IO_ERROR);
            assert_eq!(bench.ask(request_type::FLUSH, 0, &[], &[]).0, OK);
        }
        assert!(bench.content().iter().all(|byte| *byte == 0xdd));
        bench.still_works();
    }

    #[test]
    fn sec30_answers_fit_whatever_room_there_is() {
        let mut bench = Bench::new(Mode::Write);
        // SCSI commands (2) and secure erase (14) among them.
        for kind in [2, 3, 5, 7, 10, 12, 14, 0x8000_0000, u32::MAX] {
            assert_eq!(bench.ask(kind, 0, &[], &[]), (UNSUPPORTED, 0));
            assert_eq!(bench.ask(kind, 0, &[(DATA, 64)], &[(DATA, 0x10_0000)]), (UNSUPPORTED, 0));
        }
        // No byte for the status, and a header that is cut short.
        bench.ram.write(HEADER_AT, &[0; 16]).unwrap();
        bench.queue.send(&[(HEADER_AT, 16)], &[]);
        assert_eq!(bench.used(), 0);
        for size in [1, 15] {
            bench.ram.write(STATUS_AT, &[NO_STATUS; 4]).unwrap();
            bench.queue.send(&[(HEADER_AT, size)], &[(STATUS_AT, 4)]);
            assert_eq!(bench.used(), 0);
            let mut status = [0; 4];
            bench.ram.read(STATUS_AT, &mut status).unwrap();
            assert_eq!(status, [NO_STATUS, NO_STATUS, NO_STATUS, IO_ERROR], "the last byte");
        }
        bench.queue.send(&[], &[(STATUS_AT, 1)]);
        assert_eq!(bench.used(), 0);
        bench.still_works();
    }

    #[test]
    fn sec32_a_disk_stays_raw_whatever_the_guest_writes_into_it() {
        for magic in
            [&b"QFI\xfb\0\0\0\x03"[..], b"KDMV", b"vhdxfile", b"conectix", b"<<< Oracle VM", b"json:{}", b"\x7fELF"]
        {
            let mut bench = Bench::new(Mode::Write);
            let sector = [magic, &vec![b'/'; 512 - magic.len()]].concat();
            bench.ram.write(DATA, &sector).unwrap();
            assert_eq!(bench.ask(request_type::OUT, 0, &[(DATA, 512)], &[]).0, OK);
            let path = bench.path.clone();
            let kept = path.with_extension("kept");
            std::fs::rename(&path, &kept).unwrap();
            drop(bench);
            let mut again = Bench::over(kept, Mode::Write);
            assert_eq!(again.ask(request_type::IN, 0, &[], &[(DATA, 512)]).0, OK);
            let mut found = [0; 512];
            again.ram.read(DATA, &mut found).unwrap();
            assert_eq!((&found[..], again.function.read_config(0, 8)), (&sector[..], SECTORS));
        }
    }

    /// Requests of random kinds, places, lengths and numbers of buffers, good ones between them.
    #[test]
    fn sec21_random_requests_leave_a_disk_that_works() {
        let mut bench = Bench::new(Mode::Write);
        let mut random = 7u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..2000 {
            let kind = [0, 0, 1, 1, 4, 8, 11, 13, next(1 << 31) as u32][next(9) as usize];
            let sector =
                [next(SECTORS), SECTORS - 1, SECTORS, u64::MAX - next(3), next(1 << 31) << 31][next(5) as usize];
            let mut buffers = |most: u64| {
                let sizes = [0, 1, 16, 511, 512, 512, 1024, 0x4000];
                let buffer = |_| (DATA + next(0x10_0000), sizes[next(8) as usize]);
                (0..most).map(buffer).collect::<Vec<_>>()
            };
            let (readable, writable) = (buffers(random_count(sector)), buffers(random_count(sector.wrapping_add(3))));
            let (status, _) = bench.ask(kind, sector, &readable, &writable);
            assert!([OK, IO_ERROR, UNSUPPORTED].contains(&status), "{kind} {sector:#x} {readable:?} {writable:?}");
        }
        bench.still_works();
    }

    /// Up to four buffers.
    fn random_count(seed: u64) -> u64 {
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62
    }

    #[test]
    fn a_reset_in_the_middle_leaves_nothing_that_writes_later() {
        let mut bench = Bench::new(Mode::Write);
        for _ in 0..50 {
            bench.ram.write(HEADER_AT, &[0; 16]).unwrap();
            for _ in 0..4 {
                bench.queue.send(&[(HEADER_AT, 16)], &[(DATA, 0x4000), (STATUS_AT, 1)]);
            }
            bench.function.serve(Some(0));
            bench.function.set_status(0);
            bench.ram.write(DATA, &[0x11; 0x4000]).unwrap();
            let used = std::iter::from_fn(|| bench.queue.used()).count();
            bench.function.serve(None);
            bench.function.serve(Some(0));
            assert!(used <= 4 && bench.queue.used().is_none());
            bench.drive(u64::MAX);
            let mut found = [0; 0x4000];
            bench.ram.read(DATA, &mut found).unwrap();
            assert!(found.iter().all(|byte| *byte == 0x11));
            bench.still_works();
        }
    }
}
