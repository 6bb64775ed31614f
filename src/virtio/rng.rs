//! Entropy device: fills what the driver offers with the host's random bytes.
//!
//! At most [`REQUEST_MAX`] bytes a request, however long its buffers are: the driver asks again for more.
//! Source: virtio 1.2 §5.4, getrandom(2).

use super::device::{DeviceKind, Queues, VirtioDevice};
use super::queue::QueueFault;
use rustix::rand::{GetRandomFlags, getrandom};

const REQUEST_QUEUE: usize = 0;
/// Most bytes of one request.
const REQUEST_MAX: usize = 4096;

/// The device.
#[derive(Debug, Default)]
pub struct Rng;

impl VirtioDevice for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Entropy
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn start(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn serve(&mut self, _index: usize, queues: &mut Queues) -> Result<(), QueueFault> {
        let mut random = [0; REQUEST_MAX];
        while let Some(mut chain) = queues.pop(REQUEST_QUEUE)? {
            let wanted = chain.writable_bytes().min(REQUEST_MAX as u64) as usize;
            // A pool that is not ready yet gives nothing; the driver comes again.
            let count = getrandom(&mut random[..wanted], GetRandomFlags::NONBLOCK).unwrap_or(0);
            if let Some(queue) = queues.queue(REQUEST_QUEUE) {
                chain.write(queue.ram(), &random[..count]);
            }
            queues.push(REQUEST_QUEUE, &chain);
        }
        Ok(())
    }
}
