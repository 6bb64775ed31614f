//! The disk: blocks of 4 KiB read by virtio, many at a time, each into the frame of an open file.
//!
//! Sources: virtio 1.2 §5.2.4 (configuration), §5.2.6 (requests), §2.7 (queues).

use core::cell::{Cell, UnsafeCell};
use core::ptr::addr_of_mut;

use guest::virtio::{BLOCK, Device, Queue};
use guest::{apic, interrupt};

use super::Locked;
use super::abi::PAGE;
use super::files::{Block, File};
use super::wait::{self, file_key};
use super::{frames, processor};

const SECTOR: u64 = 512;
/// Requests at a time; each takes three descriptors.
const REQUESTS: usize = 64;
/// Status: done. And what stands there until the device has written.
const OK: u8 = 0;
const NO_STATUS: u8 = 0xff;

/// A request's parts beside its data.
#[repr(C)]
struct Request {
    /// 0: read.
    kind: Cell<u32>,
    reserved: Cell<u32>,
    sector: Cell<u64>,
    status: Cell<u8>,
}

struct Disk {
    device: Cell<Option<Device>>,
    bytes: Cell<u64>,
    queue: UnsafeCell<Queue<256>>,
    requests: [Request; REQUESTS],
    /// Who gets the block, and its frame; nobody: the file was closed. Frame 0: the request is free.
    files: [Cell<Option<&'static File>>; REQUESTS],
    frames: [Cell<u64>; REQUESTS],
}

static DISK: Locked<Disk> = Locked(Disk {
    device: Cell::new(None),
    bytes: Cell::new(0),
    queue: UnsafeCell::new(Queue::new()),
    requests: [const {
        Request { kind: Cell::new(0), reserved: Cell::new(0), sector: Cell::new(0), status: Cell::new(NO_STATUS) }
    }; REQUESTS],
    files: [const { Cell::new(None) }; REQUESTS],
    frames: [const { Cell::new(0) }; REQUESTS],
});

/// Starts the disk, if there is one.
pub fn init() {
    let Some(device) = Device::find(BLOCK) else { return };
    device.begin(0);
    device.set_queue(0, queue());
    interrupt::on(processor::DISK, processor::noted);
    apic::route(device.input(), processor::DISK);
    device.ready();
    let sectors = u64::from(device.config(4)) << 32 | u64::from(device.config(0));
    DISK.bytes.set(sectors * SECTOR);
    DISK.device.set(Some(device));
}

#[expect(clippy::mut_from_ref, reason = "one borrow at a time, each within a function of this file")]
fn queue() -> &'static mut Queue<256> {
    // SAFETY: the lock is held, and no borrow outlives a function.
    unsafe { &mut *DISK.queue.get() }
}

/// Bytes of the disk; 0: there is none.
pub fn bytes() -> u64 {
    DISK.bytes.get()
}

/// Begins to read `file`'s block. `false`: too many requests, try again later.
pub fn start(file: &'static File) -> bool {
    let Some(device) = DISK.device.get() else { return false };
    let Some(index) = DISK.frames.iter().position(|frame| frame.get() == 0) else { return false };
    let (request, frame, first) = (&DISK.requests[index], file.frame.get(), file.block.get() * PAGE);
    // The last block may be shorter.
    let bytes = (DISK.bytes.get() - first).min(PAGE);
    request.sector.set(first / SECTOR);
    request.status.set(NO_STATUS);
    DISK.files[index].set(Some(file));
    DISK.frames[index].set(frame);
    let (queue, head) = (queue(), index as u16 * 3);
    queue.describe(head, &raw const *request as u64, 16);
    queue.chain(head, head + 1);
    queue.describe_writable(head + 1, frame, bytes as u32);
    queue.chain(head + 1, head + 2);
    queue.describe_writable(head + 2, request.status.as_ptr() as u64, 1);
    queue.offer(head);
    device.kick(0);
    true
}

/// The file of a block that is coming has been closed.
pub fn abandon(file: &File) {
    for slot in &DISK.files {
        if slot.get().is_some_and(|other| core::ptr::eq(other, file)) {
            slot.set(None);
        }
    }
}

/// Blocks have come.
pub fn interrupted() {
    let Some(device) = DISK.device.get() else { return };
    // Before the look at the queue: what comes behind it interrupts again.
    device.acknowledge();
    while let Some((head, _)) = queue().used() {
        let index = usize::from(head / 3) % REQUESTS;
        let frame = DISK.frames[index].replace(0);
        // SAFETY: the device has written it.
        let status = unsafe { addr_of_mut!(*DISK.requests[index].status.as_ptr()).read_volatile() };
        match DISK.files[index].take() {
            Some(file) => {
                file.state.set(if status == OK { Block::Here } else { Block::Failed });
                wait::wake(file_key(&raw const *file as u64), u64::MAX, 0);
            }
            None if frame != 0 => frames::KERNEL.free(frame),
            None => {}
        }
    }
    wait::wake_pollers();
}
