//! File system device: a directory of the host, by the FUSE protocol.
//!
//! A queue for requests and one for what has priority, both served alike: a chain is a request of the guest's kernel, handed to the
//! share as it is and given back with the reply in it. Not modelled: notifications, several request queues, DAX.
//! Source: virtio 1.2 §5.11.

use super::device::{DeviceKind, Queues, VirtioDevice};
use super::queue::{Chain, QueueFault};
use crate::backend::share::host::ShareError;
use crate::backend::share::pool::Share;
use crate::backend::share::request::Request;
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
    pub fn open(path: &Path, tag: &str, read_only: bool, shares: usize) -> Result<Fs, ShareError> {
        let mut config = [0; CONFIG_SIZE];
        config[..TAG_SIZE].iter_mut().zip(tag.bytes()).for_each(|(to, byte)| *to = byte);
        config[TAG_SIZE..].copy_from_slice(&1u32.to_le_bytes());
        Ok(Fs { share: Share::open(path, read_only, shares)?, config })
    }

    fn answer_finished(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        for ((index, mut chain), bytes) in self.share.finish() {
            chain.set_written(bytes);
            queues.push(index, &chain)?;
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
        while let Some(mut chain) = queues.pop(index)? {
            let Some(ram) = queues.queue(index).map(|queue| queue.ram().clone()) else { break };
            let readable = chain.take_readable(u64::MAX);
            let writable = chain.take_writable(u64::MAX);
            self.share.begin((index, chain), Request::new(ram, readable, writable));
        }
        self.answer_finished(queues)
    }

    fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        Some(self.share.ready().fd())
    }

    fn host_ready(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        self.answer_finished(queues)
    }
}
