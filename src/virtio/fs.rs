//! File system device: a directory of the host, by the FUSE protocol.
//!
//! A queue for requests and one for what has priority, both served alike: a chain is a request of the guest's kernel, handed to the
//! share as it is and given back with the reply in it. Of several requests that are there at a time, all but one are left to the
//! share's threads, and so is what may take long; one alone is served at once, and so is a read of what the host has in memory,
//! since waking a thread takes longer than most.
//! Not modelled: notifications, several request queues, DAX.
//! Source: virtio 1.2 §5.11.

use super::device::{DeviceKind, Queues, VirtioDevice};
use super::queue::{Chain, QueueFault};
use crate::backend::share::host::ShareError;
use crate::backend::share::pool::Share;
use crate::backend::share::request::Request;
use crate::backend::share::server::Rights;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// Entries of the queue for what has priority, and of that for requests: the latter's bound how many pages a request has.
const QUEUE_SIZES: [u16; 2] = [128, 1024];
/// Bytes of a tag (virtio 1.2 §5.11.4).
pub const TAG_SIZE: usize = 36;
/// Bytes of the configuration: tag and number of request queues.
const CONFIG_SIZE: usize = TAG_SIZE + 4;

/// A request as the share gives it back: its queue, and its buffers.
type Asked = (usize, Chain);

/// The device.
pub struct Fs {
    share: Share<Asked>,
    config: [u8; CONFIG_SIZE],
}

impl Fs {
    /// A device over the directory at `path`, one of `shares` in this process, which the guest mounts by `tag`: of that, the first
    /// 36 bytes.
    ///
    /// # Errors
    /// The directory cannot be shared.
    pub fn open(path: &Path, tag: &str, rights: Rights, shares: usize) -> Result<Fs, ShareError> {
        let mut config = [0; CONFIG_SIZE];
        config[..TAG_SIZE].iter_mut().zip(tag.bytes()).for_each(|(to, byte)| *to = byte);
        config[TAG_SIZE..].copy_from_slice(&1u32.to_le_bytes());
        Ok(Fs { share: Share::open(path, rights, shares)?, config })
    }

    /// Answers what the share's threads have done.
    fn answer_finished(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        for ((index, mut chain), bytes) in self.share.finish() {
            chain.set_written(bytes);
            queues.push(index, &chain);
        }
        Ok(())
    }
}

impl VirtioDevice for Fs {
    fn kind(&self) -> DeviceKind {
        DeviceKind::FileSystem
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn start(&mut self, _features: u64) {}

    fn reset(&mut self) {
        self.share.abandon();
    }

    fn serve(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueFault> {
        let mut next = take(index, queues)?;
        while let Some((mut chain, request)) = next {
            next = take(index, queues)?;
            let at_once = match next.is_some() || request.may_take_long() {
                true => self.share.serve_cached(&request),
                false => Some(self.share.serve(&request)),
            };
            let Some(bytes) = at_once else {
                self.share.begin((index, chain), request);
                continue;
            };
            chain.set_written(bytes);
            queues.push(index, &chain);
            if next.is_none() {
                next = take(index, queues)?;
            }
        }
        self.look(queues).map(drop)
    }

    fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        Some(self.share.ready().fd())
    }

    fn host_ready(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        self.answer_finished(queues)
    }

    fn can_look(&self) -> bool {
        true
    }

    fn look(&mut self, queues: &mut Queues) -> Result<bool, QueueFault> {
        let finished = self.share.has_finished();
        if finished {
            self.answer_finished(queues)?;
        }
        Ok(finished)
    }
}

/// The next request of a queue.
fn take(index: usize, queues: &mut Queues) -> Result<Option<(Chain, Request)>, QueueFault> {
    let Some(mut chain) = queues.pop(index)? else { return Ok(None) };
    let Some(ram) = queues.queue(index).map(|queue| queue.ram().clone()) else { return Ok(None) };
    let (readable, writable) = (chain.take_readable(u64::MAX), chain.take_writable(u64::MAX));
    Ok(Some((chain, Request::new(ram, readable.into_vec(), writable.into_vec()))))
}

#[cfg(test)]
mod tests {
    use super::super::driver::{self, DriverQueue};
    use super::super::function::VirtioFunction;
    use super::*;
    use crate::arch::layout::MIB;
    use crate::backend::share::client::{message, text};
    use crate::backend::share::protocol::{Fields, ROOT, opcode};
    use crate::event_loop::{self, Interest, Waker};
    use crate::memory::map::MemoryMap;
    use crate::memory::ram::GuestRam;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    const REQUEST_AT: u64 = 0x10_0000;
    const REPLY_AT: u64 = 0x20_0000;
    const HIGH: usize = 0;
    const LOW: usize = 1;

    /// A driven device over a directory with one file, and its driver.
    struct Bench {
        function: VirtioFunction,
        queues: [DriverQueue; 2],
        ram: Arc<GuestRam>,
        path: PathBuf,
    }

    impl Bench {
        fn new() -> Bench {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let name = format!("hostel-fs-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("file"), vec![0xdd; MIB as usize]).unwrap();
            let ram = Arc::new(GuestRam::new(&MemoryMap::new(8 * MIB).unwrap()).unwrap());
            let device = Box::new(Fs::open(&path, "a-tag", Rights::Write, 1).unwrap());
            let function = VirtioFunction::new(device, ram.clone(), Waker::new().unwrap()).unwrap();
            let queues = [0x1000, 0x8000].map(|base| DriverQueue::new(ram.clone(), base, 64));
            let mut bench = Bench { function, queues, ram, path };
            bench.drive();
            bench
        }

        /// Drives the device anew, and says FUSE_INIT.
        fn drive(&mut self) {
            self.function.set_status(0);
            self.ram.write(0x1000, &[0; 0xf000]).unwrap();
            self.queues = [0x1000, 0x8000].map(|base| DriverQueue::new(self.ram.clone(), base, 64));
            let features = self.function.features() & !(1 << 29);
            driver::start(&mut self.function, features, &self.queues);
            assert_eq!(self.function.status(), 15);
            let wishes = Fields::default().word(7).word(31).zeroes_to(16).done();
            assert!(self.ask(opcode::INIT, 0, &wishes, 64).is_ok());
        }

        /// Serves until a chain of this queue is used, and returns the bytes that it says were written.
        fn used(&mut self, index: usize) -> u32 {
            self.function.serve(Some(index));
            loop {
                assert_eq!(self.function.status(), 15, "it needs no reset");
                if let Some((_, written)) = self.queues[index].used() {
                    return written;
                }
                let waits = self.function.waits_for();
                let fd = waits.iter().find(|wait| wait.queue.is_none()).unwrap().fd;
                event_loop::wait(&[Interest { token: (), fd, output: false }], None).unwrap();
                self.function.serve(None);
            }
        }

        /// A request and what its reply has behind the header, or the error.
        fn ask(&mut self, opcode: u32, node: u64, arguments: &[u8], room: u32) -> Result<Vec<u8>, i32> {
            let message = message(opcode, node, (0, 0), arguments);
            self.ram.write(REQUEST_AT, &message).unwrap();
            self.queues[LOW].send(&[(REQUEST_AT, message.len() as u32)], &[(REPLY_AT, 16), (REPLY_AT + 16, room)]);
            let mut reply = vec![0; self.used(LOW) as usize];
            self.ram.read(REPLY_AT, &mut reply).unwrap();
            match i32::from_le_bytes(reply[4..8].try_into().unwrap()) {
                0 => Ok(reply.split_off(16)),
                error => Err(error),
            }
        }

        fn lookup(&mut self) -> u64 {
            let entry = self.ask(opcode::LOOKUP, ROOT, &text("file"), 128).unwrap();
            u64::from_le_bytes(entry[..8].try_into().unwrap())
        }

        fn open(&mut self, node: u64) -> u64 {
            let opened = self.ask(opcode::OPEN, node, &[2, 0, 0, 0, 0, 0, 0, 0], 16).unwrap();
            u64::from_le_bytes(opened[..8].try_into().unwrap())
        }

        /// Whatever came before: the file is found and read.
        fn still_works(&mut self) {
            let node = self.lookup();
            let handle = self.open(node);
            let read = Fields::default().long(handle).long(0).word(100).zeroes_to(40).done();
            assert_eq!(self.ask(opcode::READ, node, &read, 100), Ok(vec![0xdd; 100]));
            self.ask(opcode::RELEASE, node, &Fields::default().long(handle).zeroes_to(24).done(), 0).unwrap();
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            // A directory that stays is no failure of what was tested.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }

    #[test]
    fn requests_come_by_both_queues_and_the_tag_is_told() {
        let mut bench = Bench::new();
        let config: Vec<_> = (0..40).map(|at| bench.function.read_config(at, 1) as u8).collect();
        assert_eq!((&config[..6], &config[36..]), (&b"a-tag\0"[..], &[1, 0, 0, 0][..]));
        bench.still_works();
        let node = bench.lookup();
        let forget = message(opcode::FORGET, node, (0, 0), &2u64.to_le_bytes());
        bench.ram.write(REQUEST_AT, &forget).unwrap();
        bench.queues[HIGH].send(&[(REQUEST_AT, 48)], &[]);
        assert_eq!(bench.used(HIGH), 0);
        assert_eq!(bench.ask(opcode::GETATTR, node, &[0; 16], 104), Err(-libc::ESTALE));
    }

    #[test]
    fn many_requests_at_a_time_are_each_answered_once() {
        let mut bench = Bench::new();
        let node = bench.lookup();
        let message = message(opcode::GETATTR, node, (0, 0), &[0; 16]);
        bench.ram.write(REQUEST_AT, &message).unwrap();
        for _ in 0..100 {
            let heads: Vec<_> = (0..32u64)
                .map(|at| bench.queues[LOW].send(&[(REQUEST_AT, 56)], &[(REPLY_AT + 256 * at, 120)]))
                .collect();
            let mut used: Vec<_> = Vec::new();
            bench.function.serve(Some(LOW));
            while used.len() < heads.len() {
                used.extend(std::iter::from_fn(|| bench.queues[LOW].used()));
                bench.function.serve(None);
            }
            used.sort_unstable();
            let mut expected: Vec<_> = heads.into_iter().map(|head| (head, 120)).collect();
            expected.sort_unstable();
            assert_eq!(used, expected);
        }
    }

    #[test]
    fn a_reset_in_the_middle_leaves_nothing_that_writes_later() {
        let mut bench = Bench::new();
        for _ in 0..50 {
            let node = bench.lookup();
            let handle = bench.open(node);
            let read = Fields::default().long(handle).long(0).word(0x4_0000).zeroes_to(40).done();
            let message = message(opcode::READ, node, (0, 0), &read);
            bench.ram.write(REQUEST_AT, &message).unwrap();
            for _ in 0..8 {
                bench.queues[LOW].send(&[(REQUEST_AT, message.len() as u32)], &[(REPLY_AT, 16 + 0x4_0000)]);
            }
            bench.function.serve(Some(LOW));
            bench.function.set_status(0);
            bench.ram.write(REPLY_AT, &[0x11; 0x4_0010]).unwrap();
            let used = std::iter::from_fn(|| bench.queues[LOW].used()).count();
            bench.function.serve(None);
            bench.function.serve(Some(LOW));
            assert!(used <= 8 && bench.queues[LOW].used().is_none());
            let mut found = [0; 0x4_0010];
            bench.ram.read(REPLY_AT, &mut found).unwrap();
            assert!(found.iter().all(|byte| *byte == 0x11));
            bench.drive();
            assert_eq!(bench.ask(opcode::GETATTR, node, &[0; 16], 104), Err(-libc::ESTALE), "the client is forgotten");
        }
        bench.still_works();
    }

    /// Requests of random kinds and arguments, cut into buffers at random, with room for a reply or without.
    #[test]
    fn sec21_random_requests_leave_a_share_that_works() {
        let mut bench = Bench::new();
        let mut random = 11u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for round in 0..3000 {
            // Not DESTROY, after which nothing is answered, nor what removes the file.
            let opcode = match next(60) as u32 {
                opcode::DESTROY | opcode::UNLINK | opcode::RENAME | opcode::RENAME2 | opcode::SETATTR => opcode::LOOKUP,
                opcode::WRITE | opcode::CREATE | opcode::FALLOCATE | opcode::COPY_FILE_RANGE => opcode::READ,
                opcode => opcode,
            };
            let mut message = message(opcode, next(4), (0, 0), &vec![next(3) as u8; next(100) as usize]);
            if next(8) == 0 {
                message[..4].copy_from_slice(&(next(1 << 32) as u32).to_le_bytes());
            }
            bench.ram.write(REQUEST_AT, &message).unwrap();
            let cut = next(message.len() as u64);
            let readable = [(REQUEST_AT, cut as u32), (REQUEST_AT + cut, (message.len() as u64 - cut) as u32)];
            let writable = [(REPLY_AT, next(20) as u32), (REPLY_AT + 64, next(300) as u32)];
            let count = next(3) as usize;
            bench.queues[LOW].send(&readable[..if next(10) == 0 { 1 } else { 2 }], &writable[..count]);
            let written = bench.used(LOW);
            assert!(u64::from(written) <= writable[..count].iter().map(|(_, size)| u64::from(*size)).sum());
            if round % 500 == 0 {
                bench.drive();
                bench.still_works();
            }
        }
        bench.queues[LOW].send(&[], &[(REPLY_AT, 100)]);
        assert_eq!(bench.used(LOW), 0, "nothing was asked");
        bench.drive();
        bench.still_works();
    }
}
