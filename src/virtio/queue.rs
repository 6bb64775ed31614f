//! A live split queue: chains out of the available ring, checked and copied once, and back into the used ring.
//!
//! Here is what a hostile driver must not get past: each buffer lies in RAM, readable ones come before writable ones, a head is in
//! flight at most once, a chain is whole, and a round ends after as many chains as the queue has entries. Whatever breaks a rule
//! is a [`QueueFault`], which stops the device. Where the rings are, `rings.rs` knows.
//! Source: virtio 1.2 §2.7.

use super::rings::{INDIRECT, NEXT, QueueSetup, Rings, Table, WRITE};
use crate::memory::map::GuestRange;
use crate::memory::ram::GuestRam;
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Flag of the used ring: the device does not want to be kicked (§2.7.10).
const NO_KICK: u16 = 1;
/// Flag of the available ring: the driver does not want to be interrupted (§2.7.6).
const NO_INTERRUPT: u16 = 1;

/// What a driver did to a queue that no driver may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueFault {
    /// Size, alignment or place of the rings.
    #[error("the rings are not where rings can be")]
    Setup,
    /// More entries became available than the queue has.
    #[error("the available ring makes no sense")]
    Available,
    /// A chain that loops, ends nowhere, or is longer than 4 GiB.
    #[error("a descriptor chain is broken")]
    Chain,
    /// A buffer that is not RAM throughout, or a readable one behind a writable one.
    #[error("a buffer is not where a buffer can be")]
    Buffer,
    /// A head that is made available again before it was used.
    #[error("a descriptor chain was made available twice")]
    InFlight,
}

/// A queue between DRIVER_OK and reset.
pub struct LiveQueue {
    rings: Rings,
    ram: Arc<GuestRam>,
    event_idx: bool,
    /// Positions in the rings: chains before these were made available, as far as was looked; popped; used.
    available: u16,
    popped: u16,
    used: u16,
    /// Heads that were popped and not yet used, a bit each.
    in_flight: Vec<u64>,
    /// Chains that may still be popped in this round.
    left: u16,
    /// The round has found nothing left to pop.
    drained: bool,
    /// The round has put chains back, and asked for a kick behind them.
    kept: bool,
    /// How far the driver has been told of used chains, or did not want to be.
    told: u16,
}

/// The buffers of one request, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    head: u16,
    /// What the device may read; taken from the front.
    readable: Buffers,
    /// What the device may write; taken from the front.
    writable: Buffers,
    written: u32,
}

/// Buffers of a chain, which mostly has few: those lie in place.
pub type Ranges = SmallVec<[GuestRange; 4]>;

/// Guest buffers of which the front is taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Buffers {
    ranges: Ranges,
    /// Index of the first range that is left, and bytes of it that were taken.
    at: (usize, u64),
    left: u64,
}

impl LiveQueue {
    /// A queue as the driver set it up, with at most `max_size` entries.
    ///
    /// # Errors
    /// [`QueueFault::Setup`].
    pub fn new(
        setup: &QueueSetup,
        max_size: u16,
        event_idx: bool,
        ram: Arc<GuestRam>,
    ) -> Result<LiveQueue, QueueFault> {
        if setup.size > max_size {
            return Err(QueueFault::Setup);
        }
        let rings = Rings::find(setup, &ram).ok_or(QueueFault::Setup)?;
        let in_flight = vec![0; usize::from(setup.size).div_ceil(64)];
        Ok(LiveQueue {
            rings,
            ram,
            event_idx,
            available: 0,
            popped: 0,
            used: 0,
            in_flight,
            left: setup.size,
            drained: false,
            kept: false,
            told: 0,
        })
    }

    /// Begins a round: from now on as many chains are popped as the queue has entries, however fast the driver adds more.
    pub fn begin_round(&mut self) {
        (self.left, self.drained, self.kept) = (self.rings.size, false, false);
    }

    /// Ends the round and asks the driver to kick for further chains. True: chains are there that the device would have
    /// taken, so the queue is to be served again, after others.
    ///
    /// # Errors
    /// The driver broke a rule.
    pub fn end_round(&mut self) -> Result<bool, QueueFault> {
        if self.kept {
            // Asked already. Where the round ended before all that is there was seen, another one will see it.
            return Ok(self.left == 0);
        }
        let more = self.ask_for_kick()?;
        // A device that stopped by itself, for want of something to put into the chains, is not served for those.
        Ok(more && (self.drained || self.left == 0))
    }

    /// Asks the driver for no kicks, until the next [`LiveQueue::end_round`]. With event indices it is asked by saying nothing.
    pub fn hush(&mut self) {
        if !self.event_idx {
            self.rings.set_device_flags(NO_KICK);
        }
    }

    /// Whether chains are available that were not popped.
    ///
    /// # Errors
    /// The driver broke a rule.
    pub fn has_chains(&mut self) -> Result<bool, QueueFault> {
        // The driver is writing to the index all the time: it is looked at when all that was there is popped.
        if self.available == self.popped {
            self.see_available()?;
        }
        Ok(self.available != self.popped)
    }

    /// The next chain that the driver made available; `None` if there is none, or none for this round.
    ///
    /// # Errors
    /// The driver broke a rule; nothing more of the queue can be trusted.
    pub fn pop(&mut self) -> Result<Option<Chain>, QueueFault> {
        if self.left == 0 {
            return Ok(None);
        }
        // A kick that was asked for behind these is not one behind what comes now.
        self.kept = false;
        if !self.has_chains()? {
            self.drained = true;
            return Ok(None);
        }
        let head = self.rings.head(self.popped);
        self.popped = self.popped.wrapping_add(1);
        self.left -= 1;
        let (word, bit) = (usize::from(head) / 64, 1 << (head % 64));
        match self.in_flight.get_mut(word).filter(|_| head < self.rings.size) {
            None => return Err(QueueFault::Chain),
            Some(bits) if *bits & bit != 0 => return Err(QueueFault::InFlight),
            Some(bits) => *bits |= bit,
        }
        self.chain(head).map(Some)
    }

    /// The chain that begins at descriptor `head`, copied and checked.
    fn chain(&self, head: u16) -> Result<Chain, QueueFault> {
        let mut chain = Chain { head, ..Chain::default() };
        let (mut bytes, mut index) = (0u32, head);
        let mut indirect = None;
        // An indirect table may be longer than the queue, a chain may not (virtio 1.2 §2.7.5.3.1).
        for _ in 0..self.rings.size {
            let table = indirect.as_ref().unwrap_or(&self.rings.descriptors);
            let mut descriptor = table.get(index).ok_or(QueueFault::Chain)?;
            if descriptor.flags & INDIRECT != 0 && indirect.is_none() {
                // A chain goes on in a table, and does not come back.
                let table = indirect.insert(Table::indirect(&self.ram, &descriptor).ok_or(QueueFault::Chain)?);
                descriptor = table.get(0).ok_or(QueueFault::Chain)?;
            }
            if descriptor.flags & INDIRECT != 0 {
                return Err(QueueFault::Chain);
            }
            bytes = bytes.checked_add(descriptor.length).ok_or(QueueFault::Chain)?;
            let range = GuestRange { start: descriptor.address, size: descriptor.length.into() };
            let is_writable = descriptor.flags & WRITE != 0;
            let in_order = is_writable || chain.writable.ranges.is_empty();
            if !in_order || !self.ram.contains(range.start, range.size) {
                return Err(QueueFault::Buffer);
            }
            let side = if is_writable { &mut chain.writable } else { &mut chain.readable };
            side.push(range);
            if descriptor.flags & NEXT == 0 {
                return Ok(chain);
            }
            index = descriptor.next;
        }
        Err(QueueFault::Chain)
    }

    /// Puts back chains that were popped last, in that order: they are the next ones again. The driver is asked to kick when there
    /// are more than these. True: there are already, and the round goes on.
    ///
    /// # Errors
    /// The driver broke a rule.
    pub fn put_back(&mut self, chains: &[Chain]) -> Result<bool, QueueFault> {
        // Asked for behind the last of them, or a driver that counts (VIRTIO_F_EVENT_IDX) would think itself heard.
        let more = self.ask_for_kick()?;
        for chain in chains.iter().rev() {
            self.popped = self.popped.wrapping_sub(1);
            self.land(chain);
        }
        self.kept = true;
        Ok(more && self.left > 0)
    }

    /// Gives chains back with what was written into them, all at the same moment. True: the driver wants to be interrupted.
    pub fn push(&mut self, chains: &[Chain]) -> bool {
        if chains.is_empty() {
            return false;
        }
        for chain in chains {
            self.land(chain);
            self.rings.set_used(self.used, chain.head, chain.written);
            self.used = self.used.wrapping_add(1);
        }
        self.rings.set_used_index(self.used);
        self.wants_interrupt()
    }

    /// Asks for a kick behind what was popped. True: chains are there already.
    fn ask_for_kick(&mut self) -> Result<bool, QueueFault> {
        if self.event_idx {
            self.rings.set_kick_at(self.popped);
        } else {
            self.rings.set_device_flags(0);
        }
        // The driver must see the wish before its index is looked at: it may be about to move that without a kick.
        fence(Ordering::SeqCst);
        self.see_available()?;
        Ok(self.available != self.popped)
    }

    /// Looks how far the driver has made chains available.
    fn see_available(&mut self) -> Result<(), QueueFault> {
        self.available = self.rings.available_index();
        let waiting = self.available.wrapping_sub(self.popped);
        if waiting > self.rings.size { Err(QueueFault::Available) } else { Ok(()) }
    }

    /// The chain is not in flight any more.
    fn land(&mut self, chain: &Chain) {
        let (word, bit) = (usize::from(chain.head) / 64, 1 << (chain.head % 64));
        self.in_flight[word] &= !bit;
    }

    /// Whether the driver wants to hear of what was pushed since this was asked last (virtio 1.2 §2.7.7.2).
    fn wants_interrupt(&mut self) -> bool {
        // What was pushed must be seen before the driver's wish is read: it may be about to sleep.
        fence(Ordering::SeqCst);
        let (before, now) = (self.told, self.used);
        self.told = now;
        if self.event_idx {
            let event = self.rings.interrupt_at();
            return now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before);
        }
        self.rings.driver_flags() & NO_INTERRUPT == 0
    }

    /// Entries of the queue.
    pub fn size(&self) -> u16 {
        self.rings.size
    }

    /// The RAM that chains point into.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }
}

impl Chain {
    /// Bytes that can still be read.
    pub fn readable_bytes(&self) -> u64 {
        self.readable.left
    }

    /// Bytes that can still be written.
    pub fn writable_bytes(&self) -> u64 {
        self.writable.left
    }

    /// Copies the next bytes that can be read; fewer than asked for where the chain ends.
    pub fn read(&mut self, ram: &GuestRam, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for range in self.readable.take(bytes.len() as u64) {
            let size = range.size as usize;
            ram.read(range.start, &mut bytes[done..done + size]).expect("checked when the chain was popped");
            done += size;
        }
        done
    }

    /// Copies `bytes` to where can be written next; fewer where the chain ends.
    pub fn write(&mut self, ram: &GuestRam, bytes: &[u8]) -> usize {
        let mut done = 0;
        for range in self.take_writable(bytes.len() as u64) {
            let size = range.size as usize;
            ram.write(range.start, &bytes[done..done + size]).expect("checked when the chain was popped");
            done += size;
        }
        done
    }

    /// What was taken away to be written has not been, or not all of it: the driver is told of no byte, which it must expect
    /// (virtio 1.2 §2.7.8.2).
    pub fn forget_written(&mut self) {
        self.written = 0;
    }

    /// Of what was taken away to be written, the first `bytes` have been.
    pub fn set_written(&mut self, bytes: u32) {
        self.written = bytes;
    }

    /// Takes away up to `bytes` that can be read, for somebody who reads them in place.
    pub fn take_readable(&mut self, bytes: u64) -> Ranges {
        self.readable.take(bytes)
    }

    /// Takes away up to `bytes` that can be written, for somebody who writes them in place: they count as written.
    pub fn take_writable(&mut self, bytes: u64) -> Ranges {
        let taken = self.writable.take(bytes);
        self.written += taken.iter().map(|range| range.size as u32).sum::<u32>();
        taken
    }
}

impl Buffers {
    fn push(&mut self, range: GuestRange) {
        self.left += range.size;
        self.ranges.push(range);
    }

    fn take(&mut self, bytes: u64) -> Ranges {
        let mut wanted = bytes.min(self.left);
        self.left -= wanted;
        let mut taken = Ranges::new();
        while wanted > 0 {
            let range = self.ranges[self.at.0];
            let size = wanted.min(range.size - self.at.1);
            if size > 0 {
                taken.push(GuestRange { start: range.start + self.at.1, size });
            }
            wanted -= size;
            self.at.1 += size;
            if self.at.1 == range.size {
                self.at = (self.at.0 + 1, 0);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::super::driver::DriverQueue;
    use super::super::rings::Descriptor;
    use super::*;
    use crate::arch::layout::MIB;
    use crate::memory::map::MemoryMap;

    const RINGS: u64 = 0x1000;
    const BUFFER: u64 = 0x8000;

    fn queue(size: u16) -> (DriverQueue, LiveQueue, Arc<GuestRam>) {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let driver = DriverQueue::new(ram.clone(), RINGS, size);
        let live = LiveQueue::new(&driver.setup(), 256, false, ram.clone()).unwrap();
        (driver, live, ram)
    }

    /// What popping says of one chain: `descriptors` by index, the first its head.
    fn fault(descriptors: &[Descriptor]) -> Option<QueueFault> {
        let (mut driver, mut live, _) = queue(8);
        (0..).zip(descriptors).for_each(|(index, descriptor)| driver.write_descriptor(index, *descriptor));
        driver.offer(0);
        live.begin_round();
        live.pop().err()
    }

    fn buffer(address: u64, length: u32, flags: u16, next: u16) -> Descriptor {
        Descriptor { address, length, flags, next }
    }

    #[test]
    fn a_request_is_read_answered_and_given_back() {
        let (mut driver, mut live, ram) = queue(8);
        ram.write(BUFFER, b"to the device").unwrap();
        let head = driver.send(&[(BUFFER, 3), (BUFFER + 3, 10)], &[(BUFFER + 0x100, 4), (BUFFER + 0x200, 100)]);
        live.begin_round();
        let mut chain = live.pop().unwrap().unwrap();
        assert_eq!((chain.readable_bytes(), chain.writable_bytes()), (13, 104));
        let mut request = [0; 20];
        assert_eq!((chain.read(&ram, &mut request[..5]), chain.read(&ram, &mut request[5..])), (5, 8));
        assert_eq!(&request[..13], b"to the device");
        assert_eq!(chain.write(&ram, b"answer"), 6);
        assert_eq!(
            (live.push(std::slice::from_ref(&chain)), driver.used(), driver.used()),
            (true, Some((head, 6)), None)
        );
        let mut answer = [0; 4];
        ram.read(BUFFER + 0x100, &mut answer).unwrap();
        assert_eq!((&answer, ram.read_u64(BUFFER + 0x200).unwrap() as u16), (b"answ", u16::from_le_bytes(*b"er")));
        assert_eq!(live.pop(), Ok(None));
    }

    #[test]
    fn sec07_rings_that_no_queue_can_have_are_refused() {
        let (driver, _, ram) = queue(8);
        let good = driver.setup();
        for size in [0, 3, 512, u16::MAX] {
            assert_eq!(
                LiveQueue::new(&QueueSetup { size, ..good }, 256, false, ram.clone()).err(),
                Some(QueueFault::Setup)
            );
        }
        for address in [8, MIB - 8, 0xfee0_0000, !15] {
            for setup in [
                QueueSetup { descriptors: address, ..good },
                QueueSetup { available: address | 1, ..good },
                QueueSetup { used: address | 2, ..good },
                QueueSetup { used: MIB - 4, ..good },
            ] {
                assert_eq!(LiveQueue::new(&setup, 256, false, ram.clone()).err(), Some(QueueFault::Setup), "{setup:?}");
            }
        }
    }

    #[test]
    fn sec14_chains_that_loop_or_end_nowhere_are_refused() {
        let table = Descriptor { address: 0x4000, length: 32, flags: INDIRECT, next: 0 };
        assert_eq!(fault(&[buffer(BUFFER, 1, NEXT, 0)]), Some(QueueFault::Chain), "itself");
        assert_eq!(fault(&[buffer(BUFFER, 1, NEXT, 1), buffer(BUFFER, 1, NEXT, 0)]), Some(QueueFault::Chain));
        assert_eq!(fault(&[buffer(BUFFER, 1, NEXT, 8)]), Some(QueueFault::Chain), "beyond the table");
        assert_eq!(fault(&[Descriptor { length: 0, ..table }]), Some(QueueFault::Chain), "an empty table");
        assert_eq!(fault(&[Descriptor { length: 17, ..table }]), Some(QueueFault::Chain), "half an entry");
        assert_eq!(fault(&[Descriptor { address: u64::MAX - 8, ..table }]), Some(QueueFault::Chain), "no RAM");
        let (mut driver, mut live, _) = queue(8);
        driver.write_table_entry(0x4000, 0, table);
        driver.write_descriptor(0, table);
        driver.offer(0);
        live.begin_round();
        assert_eq!(live.pop(), Err(QueueFault::Chain), "a table in a table");
    }

    #[test]
    fn sec15_buffers_outside_ram_and_out_of_order_are_refused() {
        for (address, length) in
            [(MIB - 1, 2), (u64::MAX, 1), (u64::MAX - 3, u32::MAX), (0xfec0_0000, 4), (BUFFER, u32::MAX), (MIB, 0)]
        {
            for flags in [0, WRITE] {
                assert_eq!(fault(&[buffer(address, length, flags, 0)]), Some(QueueFault::Buffer), "{address:#x}");
            }
        }
        let reversed = [buffer(BUFFER, 1, WRITE | NEXT, 1), buffer(BUFFER, 1, 0, 0)];
        assert_eq!(fault(&reversed), Some(QueueFault::Buffer));
        assert_eq!(fault(&[buffer(BUFFER, 0, 0, 0)]), None, "an empty buffer is one");
    }

    #[test]
    fn sec05_an_index_that_jumps_is_refused() {
        let (mut driver, mut live, _) = queue(8);
        driver.set_available(9);
        live.begin_round();
        assert_eq!(live.pop(), Err(QueueFault::Available));
    }

    #[test]
    fn sec06_a_round_ends_however_fast_the_driver_adds() {
        let (mut driver, mut live, _) = queue(8);
        live.begin_round();
        let mut popped = 0;
        loop {
            driver.send(&[(BUFFER, 1)], &[]);
            let Some(chain) = live.pop().unwrap() else { break };
            popped += 1;
            live.push(std::slice::from_ref(&chain));
        }
        assert_eq!((popped, live.end_round()), (8, Ok(true)));
    }

    #[test]
    fn sec11_a_head_is_in_flight_once() {
        let (mut driver, mut live, _) = queue(8);
        let head = driver.send(&[(BUFFER, 1)], &[]);
        driver.offer(head);
        live.begin_round();
        let chain = live.pop().unwrap().unwrap();
        assert_eq!(live.pop(), Err(QueueFault::InFlight));
        live.push(std::slice::from_ref(&chain));
        driver.offer(head);
        assert!(live.pop().unwrap().is_some(), "used, it may come again");
    }

    #[test]
    fn a_device_that_leaves_chains_is_not_served_for_them() {
        let (mut driver, mut live, _) = queue(8);
        driver.send(&[], &[(BUFFER, 1)]);
        live.begin_round();
        assert_eq!(live.end_round(), Ok(false), "it wanted none");
        live.begin_round();
        live.pop().unwrap();
        assert_eq!(live.pop(), Ok(None));
        driver.send(&[], &[(BUFFER, 1)]);
        assert_eq!(live.end_round(), Ok(true), "it would have taken this one");
    }

    #[test]
    fn chains_that_are_put_back_come_again_and_a_kick_is_asked_for_behind_them() {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
        let mut driver = DriverQueue::new(ram.clone(), RINGS, 8);
        let setup = driver.setup();
        let mut live = LiveQueue::new(&setup, 256, true, ram.clone()).unwrap();
        // Where the driver's index must pass for it to kick: behind the used ring.
        let kick_at = || ram.read_u64(setup.used + 4 + 8 * 8).unwrap() as u16;
        driver.send(&[], &[(BUFFER, 1)]);
        driver.send(&[], &[(BUFFER, 2)]);
        live.begin_round();
        let popped: Vec<_> = std::iter::from_fn(|| live.pop().unwrap()).collect();
        assert_eq!((popped.len(), live.put_back(&popped), live.end_round()), (2, Ok(false), Ok(false)));
        assert_eq!(kick_at(), 2, "at the third, not at the first, which is there");
        driver.send(&[], &[(BUFFER, 3)]);
        live.begin_round();
        let again: Vec<_> = std::iter::from_fn(|| live.pop().unwrap()).collect();
        assert_eq!((&again[..2], again.len()), (&popped[..], 3));
        driver.send(&[], &[(BUFFER, 4)]);
        assert_eq!(live.put_back(&again), Ok(true), "one more has come meanwhile");
        // What was put back is popped after all, in the same round: a kick is asked for behind that.
        live.begin_round();
        let popped = live.pop().unwrap().unwrap();
        live.put_back(std::slice::from_ref(&popped)).unwrap();
        while let Some(chain) = live.pop().unwrap() {
            live.push(std::slice::from_ref(&chain));
        }
        assert_eq!((live.end_round(), kick_at()), (Ok(false), 4));
        for _ in 0..4 {
            driver.send(&[], &[(BUFFER, 5)]);
        }
        // A round that may pop no more is followed by another.
        live.begin_round();
        let mut popped = Vec::new();
        for _ in 0..5 {
            popped.extend(live.pop().unwrap());
            live.put_back(&popped.split_off(0)).unwrap();
        }
        assert_eq!(live.end_round(), Ok(false));
        for _ in 0..3 {
            popped.extend(live.pop().unwrap());
            live.put_back(&popped.split_off(0)).unwrap();
        }
        assert_eq!((live.pop(), live.end_round()), (Ok(None), Ok(true)));
    }

    #[test]
    fn chains_of_one_frame_are_used_at_one_moment_and_the_driver_says_when_it_wants_to_hear() {
        for event_idx in [false, true] {
            let ram = Arc::new(GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap());
            let mut driver = DriverQueue::new(ram.clone(), RINGS, 4);
            let setup = driver.setup();
            let mut live = LiveQueue::new(&setup, 256, event_idx, ram.clone()).unwrap();
            let mut round = |count: usize| {
                for _ in 0..count {
                    driver.send(&[], &[(BUFFER, 9)]);
                }
                live.begin_round();
                let mut chains: Vec<_> = std::iter::from_fn(|| live.pop().unwrap()).collect();
                for chain in &mut chains {
                    assert_eq!(chain.write(&ram, &[1; 5]), 5);
                }
                let interrupt = live.push(&chains);
                let used: Vec<_> = std::iter::from_fn(|| driver.used()).collect();
                assert!(used.len() == count && used.iter().all(|(_, written)| *written == 5), "{used:?}");
                interrupt
            };
            // Where the driver says so: its flags, or the index that is to be passed.
            let wish = if event_idx { setup.available + 4 + 2 * 4 } else { setup.available };
            ram.write(wish, &[0, 0]).unwrap();
            assert!(round(3), "the first is wanted");
            ram.write(wish, &u16::to_le_bytes(if event_idx { 5 } else { 1 })).unwrap();
            assert!(!round(2), "five have been used");
            assert_eq!(round(3), event_idx, "the sixth is wanted");
        }
    }
}
