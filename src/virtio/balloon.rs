//! Memory balloon: the guest names pages that it does without, and the host has them back; it may take them again at any time.
//!
//! Offered are statistics, deflation when the guest runs out of memory, and free page reporting, by which the guest names what is free
//! anyway. Pages go back to the host in runs, as far as a request's bounds reach; what is no RAM is passed over. Leaves out free page
//! hints, page poison, and the promise to tell before a page is used again: no page is ever taken away from the guest.
//! Source: virtio 1.2 §5.5.

use super::device::{DeviceKind, Queues, VirtioDevice};
use super::queue::{Chain, QueueFault};
use crate::arch::layout::PAGE_SIZE;
use crate::backend::balloon::{BalloonControl, STATISTICS, Statistics};
use crate::memory::map::GuestRange;
use crate::memory::ram::GuestRam;
use std::os::fd::BorrowedFd;

/// Queues (virtio 1.2 §5.5.2). Linux counts only those that there are, so that its reporting queue is number 3: without hints, both are.
const QUEUES: usize = 5;
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS_QUEUE: usize = 2;
const QUEUE_SIZE: u16 = 128;

/// Features (virtio 1.2 §5.5.3).
const STATISTICS_VQ: u64 = 1 << 1;
const DEFLATE_ON_OOM: u64 = 1 << 2;
const PAGE_REPORTING: u64 = 1 << 5;

/// Most page numbers of one request: a page full of them. Linux sends 256.
const PAGES_MAX: usize = 1024;
/// Most bytes that one request reports as free: Linux' largest. Giving back more would keep other devices waiting.
const REPORTED_MAX: u64 = 256 << 20;
/// Bytes of a statistic: tag and value.
const STATISTIC: usize = 10;
/// Most statistics of one request; more than there are tags.
const STATISTICS_MAX: usize = 32;

/// The device.
pub struct Balloon {
    control: BalloonControl,
    /// Pages that it is to have, and pages that it has (virtio 1.2 §5.5.4).
    config: [u8; 8],
    features: u64,
    /// The guest's buffer for statistics, given back when they are wanted.
    held: Option<Chain>,
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
    Nothing,
}

impl Balloon {
    /// A balloon that `control` blows up.
    pub fn new(control: BalloonControl) -> Balloon {
        let mut balloon = Balloon { control, config: [0; 8], features: 0, held: None };
        balloon.take_target();
        balloon
    }

    fn role(&self, index: usize) -> Role {
        match index {
            INFLATE => Role::Inflate,
            DEFLATE => Role::Deflate,
            STATISTICS_QUEUE if self.features & STATISTICS_VQ != 0 => Role::Statistics,
            STATISTICS_QUEUE..QUEUES if self.features & PAGE_REPORTING != 0 => Role::Reporting,
            _ => Role::Nothing,
        }
    }

    /// Has the configuration tell the size that is wanted; true if it told another.
    fn take_target(&mut self) -> bool {
        let pages = u32::try_from(self.control.target() / PAGE_SIZE).unwrap_or(u32::MAX);
        let changed = self.config[..4] != pages.to_le_bytes();
        self.config[..4].copy_from_slice(&pages.to_le_bytes());
        changed
    }
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Balloon
    }

    fn features(&self) -> u64 {
        STATISTICS_VQ | DEFLATE_ON_OOM | PAGE_REPORTING
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    /// Only the pages that the balloon has are the driver's to write.
    fn write_config(&mut self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset as usize..).zip(bytes).filter(|(at, _)| (4..8).contains(at)) {
            self.config[at] = *byte;
        }
        let actual = u32::from_le_bytes(self.config[4..].try_into().expect("four bytes"));
        self.control.set_actual(u64::from(actual) * PAGE_SIZE);
    }

    fn start(&mut self, features: u64) {
        self.features = features;
    }

    fn reset(&mut self) {
        (self.features, self.held) = (0, None);
        self.config[4..].fill(0);
        self.control.set_actual(0);
    }

    fn serve(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueFault> {
        let role = self.role(index);
        while let Some(mut chain) = queues.pop(index)? {
            if let Some(queue) = queues.queue(index) {
                match role {
                    Role::Inflate => give_back_pages(&mut chain, queue.ram()),
                    Role::Reporting => give_back_ranges(&mut chain, queue.ram()),
                    Role::Statistics => self.control.report(statistics(&mut chain, queue.ram())),
                    Role::Deflate | Role::Nothing => {}
                }
            }
            let over = if role == Role::Statistics { self.held.replace(chain) } else { Some(chain) };
            if let Some(chain) = over {
                queues.push(index, &chain);
            }
        }
        Ok(())
    }

    fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        Some(self.control.asked())
    }

    fn host_ready(&mut self, queues: &mut Queues) -> Result<(), QueueFault> {
        self.control.attend();
        if self.take_target() {
            queues.config_has_changed();
        }
        if let Some(chain) = self.held.take_if(|_| self.control.take_wanted()) {
            queues.push(STATISTICS_QUEUE, &chain);
        }
        Ok(())
    }
}

/// Gives back the pages whose numbers stand in the chain.
fn give_back_pages(chain: &mut Chain, ram: &GuestRam) {
    let mut bytes = [0; 4 * PAGES_MAX];
    let count = chain.read(ram, &mut bytes) / 4;
    let numbers =
        bytes.chunks_exact(4).take(count).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
    let mut pages: Vec<u64> = numbers.map(|number| u64::from(number) * PAGE_SIZE).collect();
    pages.retain(|page| ram.contains(*page, PAGE_SIZE));
    pages.sort_unstable();
    for run in pages.chunk_by(|page, next| next - page <= PAGE_SIZE) {
        let (first, last) = (run[0], run[run.len() - 1]);
        ram.give_back(GuestRange { start: first, size: last + PAGE_SIZE - first }).expect("each of its pages is RAM");
    }
}

/// Gives back the buffers of the chain.
fn give_back_ranges(chain: &mut Chain, ram: &GuestRam) {
    for range in chain.take_writable(REPORTED_MAX) {
        ram.give_back(range).expect("checked when the chain was popped");
    }
    chain.forget_written();
}

/// The statistics in the chain; those with tags that are not known are passed over.
fn statistics(chain: &mut Chain, ram: &GuestRam) -> Statistics {
    let mut bytes = [0; STATISTIC * STATISTICS_MAX];
    let count = chain.read(ram, &mut bytes) / STATISTIC;
    let mut statistics = [None; STATISTICS];
    for entry in bytes.chunks_exact(STATISTIC).take(count) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if let Some(statistic) = statistics.get_mut(usize::from(tag)) {
            *statistic = Some(u64::from_le_bytes(entry[2..].try_into().expect("eight bytes")));
        }
    }
    statistics
}

#[cfg(test)]
mod tests {
    use super::super::driver::{self, DriverQueue};
    use super::super::function::{NEEDS_RESET, VirtioFunction};
    use super::*;
    use crate::arch::layout::MIB;
    use crate::event_loop::Waker;
    use crate::memory::map::MemoryMap;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    const RAM: u64 = 64 * MIB;
    const PAGE_NUMBERS: u64 = 0x8000;
    /// Pages that may be given back.
    const FREE: u64 = 16 * MIB;

    struct Guest {
        function: VirtioFunction,
        control: BalloonControl,
        queues: Vec<DriverQueue>,
        ram: Arc<GuestRam>,
    }

    /// A guest that has accepted these of the device's features.
    fn guest(features: u64) -> Guest {
        let ram = Arc::new(GuestRam::new(&MemoryMap::new(RAM).unwrap()).unwrap());
        let control = BalloonControl::new(8 * MIB, RAM).unwrap();
        let device = Box::new(Balloon::new(control.clone()));
        let mut function = VirtioFunction::new(device, ram.clone(), Waker::new().unwrap()).unwrap();
        let queues: Vec<_> = (1..=5).map(|at| DriverQueue::new(ram.clone(), at * 0x1000, 128)).collect();
        let accepted = function.features() & (features | 1 << 32) & !(1 << 29);
        driver::start(&mut function, accepted, &queues);
        assert_eq!(function.status(), 15);
        Guest { function, control, queues, ram }
    }

    impl Guest {
        fn send(&mut self, index: usize, readable: &[(u64, u32)], writable: &[(u64, u32)]) {
            self.queues[index].send(readable, writable);
            self.function.serve(Some(index));
            assert_eq!(self.function.status() & NEEDS_RESET, 0);
        }

        fn inflate(&mut self, numbers: &[u32]) {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            self.ram.write(PAGE_NUMBERS, &bytes).unwrap();
            self.send(INFLATE, &[(PAGE_NUMBERS, bytes.len() as u32)], &[]);
            assert!(self.queues[INFLATE].used().is_some());
        }

        fn is_zero(&self, gpa: u64) -> bool {
            self.ram.read_u64(gpa) == Some(0)
        }
    }

    #[test]
    fn pages_that_a_guest_does_without_are_given_back() {
        let mut guest = guest(u64::MAX);
        guest.ram.write(FREE, &[1; 8 * 4096]).unwrap();
        let page = (FREE / PAGE_SIZE) as u32;
        guest.inflate(&[page + 3, page + 1, page + 2, page + 6, page + 1]);
        let zero: Vec<u64> = (0..8).filter(|at| guest.is_zero(FREE + at * PAGE_SIZE)).collect();
        assert_eq!(zero, [1, 2, 3, 6]);
        guest.send(DEFLATE, &[(PAGE_NUMBERS, 4)], &[]);
        assert!(guest.queues[DEFLATE].used().is_some());
    }

    #[test]
    fn a_guest_reports_what_is_free_on_either_queue() {
        // Without statistics Linux' reporting queue is one further down still.
        for (features, index) in [(u64::MAX, 3), (u64::MAX, 4), (PAGE_REPORTING, 2)] {
            let mut guest = guest(features);
            guest.ram.write(FREE, &[1; 3 * 4096]).unwrap();
            guest.send(index, &[], &[(FREE, 4096), (FREE + 2 * 4096, 4096)]);
            assert_eq!(guest.queues[index].used(), Some((0, 0)));
            assert!(guest.is_zero(FREE) && !guest.is_zero(FREE + 4096) && guest.is_zero(FREE + 2 * 4096));
        }
        let mut guest = guest(STATISTICS_VQ);
        guest.ram.write(FREE, &[1; 4096]).unwrap();
        guest.send(4, &[], &[(FREE, 4096)]);
        assert!(!guest.is_zero(FREE), "it was not agreed upon");
    }

    #[test]
    fn the_target_is_told_and_the_size_is_the_drivers() {
        let mut guest = guest(u64::MAX);
        assert_eq!((guest.function.read_config(0, 4), guest.function.read_config(4, 4)), (2048, 0));
        guest.control.set_target(16 * MIB).unwrap();
        guest.function.serve(None);
        assert_eq!((guest.function.read_config(0, 4), guest.function.config_generation()), (4096, 1));
        guest.function.serve(None);
        assert_eq!(guest.function.config_generation(), 1, "nothing new");
        guest.function.write_config(4, 4, 4096);
        assert!(guest.control.describe(Duration::ZERO).starts_with("balloon 16 MiB, wanted 16 MiB\n"));
        guest.function.set_status(0);
        assert!(guest.control.describe(Duration::ZERO).starts_with("balloon 0 MiB, wanted 16 MiB\n"));
    }

    #[test]
    fn statistics_come_when_they_are_asked_for() {
        let mut guest = guest(u64::MAX);
        let statistic = |tag: u16, value: u64| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
        let text = [statistic(4, 32 * MIB), statistic(999, 1), statistic(2, 5)].concat();
        guest.ram.write(PAGE_NUMBERS, &text).unwrap();
        guest.send(STATISTICS_QUEUE, &[(PAGE_NUMBERS, text.len() as u32)], &[]);
        assert_eq!(guest.queues[STATISTICS_QUEUE].used(), None, "the device keeps it");
        let told = guest.control.describe(Duration::ZERO);
        assert!(told.ends_with("its last ones:\nfree 32 MiB\nmajor faults 5\n"), "{told}");
        guest.function.serve(None);
        assert!(guest.queues[STATISTICS_QUEUE].used().is_some(), "asked for");
        guest.function.serve(None);
        assert!(guest.queues[STATISTICS_QUEUE].used().is_none());
    }

    #[test]
    fn sec23_a_driver_writes_nothing_but_the_size() {
        let mut guest = guest(u64::MAX);
        for (offset, size) in [(0, 4), (0, 8), (1, 3), (7, 8), (8, 1), (u64::MAX, 8)] {
            guest.function.write_config(offset, size, u64::MAX);
            assert_eq!(guest.function.read_config(0, 4), 2048, "{offset}");
        }
        assert_eq!(guest.function.read_config(4, 4), 0xffff_ffff, "its own word comes back");
        assert!(guest.control.describe(Duration::ZERO).starts_with("balloon 64 MiB,"), "and is believed up to the RAM");
    }

    #[test]
    fn sec52_no_request_takes_long_however_long_its_buffers_are() {
        let mut guest = guest(u64::MAX);
        // Page numbers of which no two are neighbours, each a call of the host.
        let numbers: Vec<u8> = (0..1 << 18).flat_map(|at: u32| (2 * at % 0x3000 + 0x1000).to_le_bytes()).collect();
        guest.ram.write(0x10_0000, &numbers).unwrap();
        let mut shortest = Duration::MAX;
        for _ in 0..3 {
            let start = Instant::now();
            // Chains of almost 4 GiB, of page numbers and of free memory.
            for index in 0..QUEUES {
                let all = [(0x10_0000, (RAM - 0x10_0000) as u32); 60];
                let (readable, writable) = if index < 3 { (&all[..], &[][..]) } else { (&[][..], &all[..]) };
                guest.send(index, readable, writable);
            }
            shortest = shortest.min(start.elapsed());
        }
        // Without bounds they would name a thousand million pages, which takes minutes.
        assert!(shortest < Duration::from_millis(200), "{shortest:?} for five requests");
    }

    #[test]
    fn sec53_page_numbers_of_any_size_are_passed_over() {
        let mut guest = guest(u64::MAX);
        let page = (FREE / PAGE_SIZE) as u32;
        guest.ram.write(FREE, &[1; 4096]).unwrap();
        let end = (RAM / PAGE_SIZE) as u32;
        guest.inflate(&[u32::MAX, end, end + 1, u32::MAX - 1, 1 << 20, end - 1, page]);
        assert!(guest.is_zero(FREE), "the good one among them");
        // Numbers that end in the middle of one, and none at all.
        guest.send(INFLATE, &[(PAGE_NUMBERS, 3)], &[]);
        guest.send(INFLATE, &[(PAGE_NUMBERS, 0)], &[]);
        guest.send(INFLATE, &[], &[(PAGE_NUMBERS, 64)]);
        assert_eq!(guest.function.status(), 15);
    }

    #[test]
    fn sec54_what_was_given_back_holds_nothing_of_what_was_there() {
        let mut guest = guest(u64::MAX);
        for round in 1..20u8 {
            guest.ram.write(FREE, &[round; 64 * 4096]).unwrap();
            let first = (FREE / PAGE_SIZE) as u32 + u32::from(round);
            guest.inflate(&(first..first + 16).collect::<Vec<_>>());
            for at in 0..64 {
                let given = (u64::from(round)..u64::from(round) + 16).contains(&at);
                assert_eq!(guest.is_zero(FREE + at * PAGE_SIZE + 8 * u64::from(round)), given, "page {at}");
            }
        }
    }
}
