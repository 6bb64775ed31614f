//! What a virtio device is to the rest of the machine: its kind, its features, its configuration, and what it does with a queue.
//!
//! Source: virtio 1.2 §5 (device types), §2 (basic facilities of a device).

use super::queue::{Chain, LiveQueue, QueueFault};
use std::os::fd::BorrowedFd;
use std::slice;

/// Device types (virtio 1.2 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification's own names")]
pub enum DeviceKind {
    Network = 1,
    Block = 2,
    Console = 3,
    Entropy = 4,
    Balloon = 5,
    Socket = 19,
    FileSystem = 26,
}

/// A virtio device. It is called with its lock held and never waits, but at a reset; one that does otherwise, because the host may
/// be slow, is served by a thread of its own.
pub trait VirtioDevice: Send {
    /// What it is.
    fn kind(&self) -> DeviceKind;

    /// Features it offers besides those of the rings and the transport.
    fn features(&self) -> u64;

    /// Largest size of each of its queues; powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Its configuration space as it is now (virtio 1.2 §2.5).
    fn config(&self) -> &[u8] {
        &[]
    }

    /// The driver writes to its configuration space; a device that has nothing to be written there ignores it.
    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) {}

    /// The driver is ready and has accepted `features`.
    fn start(&mut self, features: u64);

    /// The driver wants to begin anew: nothing of it is left. What the host is working on in guest memory is waited for.
    fn reset(&mut self);

    /// Whether what one queue brings makes work for the others: then a kick of one is a round of all.
    fn serves_all_at_once(&self) -> bool {
        false
    }

    /// Takes what is available in queue `index`.
    ///
    /// # Errors
    /// The driver broke a rule of the queue.
    fn serve(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueFault>;

    /// The descriptor on the host's side that it waits for, while it does.
    fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether what it waits for is another descriptor than when this was asked last.
    fn waits_elsewhere(&mut self) -> bool {
        false
    }

    /// Whether it can tell what its host's side has finished without asking the host. Such a device is looked at for a moment before
    /// its thread sleeps: a driver that asks again at once needs no kick then, and what the host finishes soon needs no wake-up.
    fn can_look(&self) -> bool {
        false
    }

    /// Whether what it waits for is done by threads of the host, which may need this one's processor for it.
    fn waits_for_threads(&self) -> bool {
        false
    }

    /// Whether what it waits for takes its host's side longer than looking is worth.
    fn waits_long(&self) -> bool {
        false
    }

    /// Takes what its host's side has finished, if that is seen without asking the host. True: there was something.
    ///
    /// # Errors
    /// The driver broke a rule of a queue.
    fn look(&mut self, _queues: &mut Queues) -> Result<bool, QueueFault> {
        Ok(false)
    }

    /// The descriptor on the host's side that it wants to write to, while that takes nothing.
    fn waits_for_room(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The timer that ends a time in which it begins nothing; ready only then.
    fn waits_for_time(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// What it waited for is there.
    ///
    /// # Errors
    /// The driver broke a rule of a queue.
    fn host_ready(&mut self, _queues: &mut Queues) -> Result<(), QueueFault> {
        Ok(())
    }
}

/// A device's live queues, and what there is to tell the driver.
#[derive(Default)]
pub struct Queues {
    live: Vec<Option<LiveQueue>>,
    /// Queues whose driver wants to be interrupted, a bit each.
    interrupts: u64,
    config_changed: bool,
}

impl Queues {
    /// Queues by index; `None` for one that the driver does not use.
    pub fn new(live: Vec<Option<LiveQueue>>) -> Queues {
        Queues { live, ..Queues::default() }
    }

    /// The queue, if the driver uses it.
    pub fn queue(&mut self, index: usize) -> Option<&mut LiveQueue> {
        self.live.get_mut(index)?.as_mut()
    }

    /// Indices of those that the driver uses.
    pub fn indices(&self) -> impl Iterator<Item = usize> {
        self.live.iter().enumerate().filter(|(_, queue)| queue.is_some()).map(|(index, _)| index)
    }

    /// The next chain of a queue; `None` if there is none, or the driver does not use the queue.
    ///
    /// # Errors
    /// The driver broke a rule of the queue.
    pub fn pop(&mut self, index: usize) -> Result<Option<Chain>, QueueFault> {
        self.queue(index).map_or(Ok(None), LiveQueue::pop)
    }

    /// Puts chains back that were popped last from a queue, in that order, and asks for a kick when there are more than these.
    /// True: there are already, and the round goes on.
    ///
    /// # Errors
    /// The driver broke a rule of the queue.
    pub fn put_back(&mut self, index: usize, chains: &[Chain]) -> Result<bool, QueueFault> {
        self.queue(index).map_or(Ok(false), |queue| queue.put_back(chains))
    }

    /// Gives a chain back.
    pub fn push(&mut self, index: usize, chain: &Chain) {
        self.push_all(index, slice::from_ref(chain));
    }

    /// Gives chains back that belong together, all at the same moment.
    pub fn push_all(&mut self, index: usize, chains: &[Chain]) {
        if let Some(queue) = self.queue(index)
            && queue.push(chains)
        {
            self.interrupts |= 1 << index;
        }
    }

    /// Queues whose driver wants to be interrupted since the last time, a bit each.
    pub fn take_interrupts(&mut self) -> u64 {
        std::mem::take(&mut self.interrupts)
    }

    /// The device has changed its configuration space: the driver shall look at it again.
    pub fn config_has_changed(&mut self) {
        self.config_changed = true;
    }

    /// Whether the configuration space has changed since the last time.
    pub fn take_config_changed(&mut self) -> bool {
        std::mem::take(&mut self.config_changed)
    }
}
