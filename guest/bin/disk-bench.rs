//! disk-bench: how fast a disk is, measured from inside; and a writer that is made to be killed.
//!
//! Prepares requests in ring 0, then offers and awaits them in ring 3, where every KVM runs at full speed, by looking at the used ring:
//! no interrupt. Words: `randread`, `randwrite`, `read` or `write`, then how many requests at a time (1 to 64), KiB of each (a power
//! of two, at most 1024) and how many in all. The writers destroy what is on the disk. `journal FIRST` writes groups of numbered
//! blocks for ever, flushes after each, and then tells the group's number and whether it failed, so that somebody else can check what
//! a flush is worth.
//! Powers off; exits with 1 (status 3) where there is no disk or a request fails.
//! Sources: virtio 1.2 §5.2.6 (requests), §5.2.4 (configuration), §2.7.7 (EVENT_IDX).

#![no_std]
#![no_main]

use core::hint::spin_loop;
use core::ptr::{addr_of, addr_of_mut};

use guest::memory::{GIB, open_to_ring_3, write32};
use guest::start_info::StartInfo;
use guest::virtio::{BLOCK, Device, EVENT_IDX, Queue, Shared};
use guest::words::Words;
use guest::{cpu, interrupt, power, print, ring3};

/// Types of requests, and the feature without which a disk has no flush.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const FEATURE_FLUSH: u64 = 1 << 9;
/// Status of a request: done.
const OK: u8 = 0;
/// What the device has not yet written.
const NO_STATUS: u8 = 0xff;

const SECTOR: u64 = 512;
/// Most requests at a time, each of three buffers.
const DEPTH_MAX: usize = 64;
/// Where the buffers of the requests begin: behind this program, and 64 MiB of them.
const BUFFERS: u64 = 32 << 20;
const BUFFER_MAX: u64 = 1 << 20;

/// Blocks of a group of the journal, and bytes of one.
const GROUP: u64 = 8;
const BLOCK_BYTES: u64 = 4096;

/// A request's parts beside its data.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    kind: u32,
    reserved: u32,
    sector: u64,
    status: u8,
}

/// What ring 3 works on.
struct Work {
    queue: Queue<256>,
    requests: [Request; DEPTH_MAX],
    /// Where a kick goes.
    kick: u64,
    depth: u64,
    /// Bytes of a request, and how many such blocks the disk has.
    bytes: u64,
    blocks: u64,
    /// Whether blocks follow each other, and the next or the state of the dice.
    in_order: bool,
    next: u64,
    /// Requests still to be offered, and to come back.
    to_offer: u64,
    to_await: u64,
    failed: bool,
    cycles: u64,
}

static WORK: Shared<Work> = Shared::new(Work {
    queue: Queue::new(),
    requests: [Request { kind: IN, reserved: 0, sector: 0, status: NO_STATUS }; DEPTH_MAX],
    kick: 0,
    depth: 0,
    bytes: 0,
    blocks: 0,
    in_order: false,
    next: 0,
    to_offer: 0,
    to_await: 0,
    failed: false,
    cycles: 0,
});

#[unsafe(no_mangle)]
extern "C" fn guest_main(boot_information: u64) -> ! {
    interrupt::init();
    ring3::init();
    let Some(disk) = Device::find(BLOCK) else {
        print!("no disk; --transport mmio --disk FILE has one\n");
        power::exit(1)
    };
    open_to_ring_3(3 * GIB);
    let work = WORK.take();
    let features = disk.begin(EVENT_IDX | FEATURE_FLUSH);
    assert!(features & EVENT_IDX != 0, "the device has no event indices");
    disk.set_queue(0, &work.queue);
    disk.ready();
    work.kick = disk.kick_address();
    let bytes = (u64::from(disk.config(4)) << 32 | u64::from(disk.config(0))) * SECTOR;

    let mut words = Words::of(StartInfo::at(boot_information).command_line());
    match words.next() {
        Some(b"journal") => journal(work, bytes, words.number().unwrap_or(0)),
        Some(what @ (b"randread" | b"randwrite" | b"read" | b"write")) => {
            let numbers = (words.number(), words.number(), words.number());
            let (Some(depth @ 1..=64), Some(kib @ 1..=1024), Some(count @ 1..)) = numbers else { usage() };
            work.depth = depth;
            work.in_order = !what.starts_with(b"rand");
            prepare(work, if what.ends_with(b"read") { IN } else { OUT }, kib << 10, bytes);
            measure(work, what, kib, count)
        }
        _ => usage(),
    }
}

fn usage() -> ! {
    print!("words: randread|randwrite|read|write DEPTH KIB COUNT, or journal FIRST\n");
    power::exit(1)
}

/// Describes the requests of this kind and size to the device: only their sectors change from then on.
fn prepare(work: &mut Work, kind: u32, bytes: u64, disk_bytes: u64) {
    (work.bytes, work.blocks, work.next) = (bytes, disk_bytes / bytes, 1);
    assert!(work.blocks > 0, "the disk is smaller than a request");
    for index in 0..DEPTH_MAX {
        let request = &mut work.requests[index];
        request.kind = kind;
        let head = index as u16 * 3;
        let (header, status) = (addr_of!(*request) as u64, addr_of_mut!(request.status) as u64);
        let data = BUFFERS + index as u64 * BUFFER_MAX;
        work.queue.describe(head, header, 16);
        work.queue.chain(head, head + 1);
        match kind {
            IN => work.queue.describe_writable(head + 1, data, bytes as u32),
            _ => work.queue.describe(head + 1, data, bytes as u32),
        }
        work.queue.chain(head + 1, head + 2);
        work.queue.describe_writable(head + 2, status, 1);
    }
}

/// Runs the requests twice, the second time to be measured: what a host's disk takes depends on how long it has been at work, and
/// machines take more or less time to come here.
fn measure(work: &'static mut Work, what: &[u8], kib: u64, count: u64) -> ! {
    if work.requests[0].kind == OUT {
        ring3::run(fill, addr_of_mut!(*work) as u64);
    }
    for count in [count; 2] {
        (work.to_offer, work.to_await) = (count, count);
        ring3::run(run, addr_of_mut!(*work) as u64);
    }
    if work.failed {
        print!("a request failed\n");
        power::exit(1)
    }
    guest::serial::write(what);
    print!(" depth ", work.depth, " KiB ", kib, ": ", count, " requests in ", work.cycles, " cycles\n");
    power::off()
}

/// In ring 3: offers requests, as many at a time as there may be, and awaits them all.
extern "C" fn run(work: u64) {
    // SAFETY: the address of WORK, which ring 0 leaves alone until this returns.
    let work = unsafe { &mut *(work as *mut Work) };
    let start = cpu::time_stamp();
    let before = work.queue.offered();
    for index in 0..work.depth.min(work.to_offer) {
        offer(work, index as u16);
    }
    kick(work, before);
    while work.to_await > 0 {
        let before = work.queue.offered();
        work.queue.keep_quiet();
        while let Some((head, _)) = work.queue.used() {
            let index = head / 3;
            // SAFETY: a byte that the device has written.
            let status = unsafe { addr_of!(work.requests[usize::from(index) % DEPTH_MAX].status).read_volatile() };
            work.failed |= status != OK;
            work.to_await -= 1;
            if work.to_offer > 0 {
                offer(work, index);
            }
        }
        kick(work, before);
        spin_loop();
    }
    work.cycles = cpu::time_stamp() - start;
}

/// In ring 3: fills what is to be written. Memory that nobody has written is not there: the host would write its page of zeroes.
extern "C" fn fill(work: u64) {
    // SAFETY: as in `run`.
    let work = unsafe { &*(work as *const Work) };
    for index in 0..work.depth {
        let data = (BUFFERS + index * BUFFER_MAX) as *mut u64;
        for word in 0..work.bytes / 8 {
            // SAFETY: a word of the buffer, which is RAM that nothing else uses.
            unsafe { data.add(word as usize).write_volatile(index << 32 | word | 1) };
        }
    }
}

/// Offers request `index` for the next block.
fn offer(work: &mut Work, index: u16) {
    work.to_offer -= 1;
    let block = if work.in_order {
        work.next += 1;
        work.next % work.blocks
    } else {
        // xorshift64
        work.next ^= work.next << 13;
        work.next ^= work.next >> 7;
        work.next ^= work.next << 17;
        work.next % work.blocks
    };
    send(work, index, block * (work.bytes / SECTOR));
}

fn send(work: &mut Work, index: u16, sector: u64) {
    let request = &mut work.requests[usize::from(index) % DEPTH_MAX];
    (request.sector, request.status) = (sector, NO_STATUS);
    work.queue.offer(index * 3);
}

/// Kicks if the device wants to be, for what was offered since `before`.
fn kick(work: &Work, before: u16) {
    if work.queue.offered() != before && work.queue.wants_kick(before) {
        write32(work.kick, 0);
    }
}

/// Writes group after group, from number `first` on, each of blocks at places that its number gives; tells each that is flushed.
fn journal(work: &'static mut Work, disk_bytes: u64, first: u64) -> ! {
    prepare(work, OUT, BLOCK_BYTES, disk_bytes);
    // The request behind the group's is the flush, without data.
    work.requests[GROUP as usize].kind = FLUSH;
    let head = GROUP as u16 * 3;
    work.queue.chain(head, head + 2);
    (work.depth, work.next) = (GROUP, first);
    loop {
        ring3::run(write_group, addr_of_mut!(*work) as u64);
        // A group that failed is tried again.
        if work.failed {
            work.failed = false;
            print!("failed ", work.next, "\n");
        } else {
            print!("flushed ", work.next, "\n");
            work.next += 1;
        }
    }
}

/// In ring 3: writes the blocks of one group, waits for them, flushes.
extern "C" fn write_group(work: u64) {
    // SAFETY: as in `run`.
    let work = unsafe { &mut *(work as *mut Work) };
    let before = work.queue.offered();
    for index in 0..GROUP {
        let block = (work.next * GROUP + index) * STRIDE % work.blocks;
        let data = (BUFFERS + index * BUFFER_MAX) as *mut u64;
        for word in 0..BLOCK_BYTES / 8 {
            // SAFETY: a word of the buffer, which is RAM that nothing else uses. Each tells its group, block and place.
            unsafe { data.add(word as usize).write_volatile(work.next << 32 | block << 12 | word) };
        }
        send(work, index as u16, block * (BLOCK_BYTES / SECTOR));
    }
    kick(work, before);
    wait(work, GROUP);
    let before = work.queue.offered();
    send(work, GROUP as u16, 0);
    kick(work, before);
    wait(work, 1);
}

/// How far the blocks of a group lie apart: odd, so that a disk of a power of two is filled evenly.
const STRIDE: u64 = 37;

/// Waits for `count` requests.
fn wait(work: &mut Work, count: u64) {
    let mut left = count;
    while left > 0 {
        work.queue.keep_quiet();
        match work.queue.used() {
            Some((head, _)) => {
                // SAFETY: a byte that the device has written.
                let status =
                    unsafe { addr_of!(work.requests[usize::from(head / 3) % DEPTH_MAX].status).read_volatile() };
                work.failed |= status != OK;
                left -= 1;
            }
            None => spin_loop(),
        }
    }
}
