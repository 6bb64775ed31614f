//! The network card: raw frames in and out by virtio, copied between the card's buffers and programs.
//!
//! Sources: virtio 1.2 §5.1.4 (configuration), §5.1.6 (header), §2.7.7 and §2.7.10 (event indices).

use core::cell::{Cell, UnsafeCell};

use guest::virtio::{Device, EVENT_IDX, NETWORK, Queue};
use guest::{apic, interrupt};

use super::abi::{Error, FRAME_BYTES_MAX, PAGE};
use super::calls::Outcome;
use super::process::Process;
use super::{Locked, frames, processor, wait};

const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
/// Feature: the configuration has an address.
const MAC: u64 = 1 << 5;
/// Bytes of `virtio_net_hdr`, all zeroes on the way out.
const HEADER_BYTES: u64 = 12;
/// Buffers each way, and bytes of one: header and frame.
const BUFFERS: u16 = 64;
const BUFFER_BYTES: u64 = PAGE / 2;
const _: () = assert!(HEADER_BYTES + FRAME_BYTES_MAX <= BUFFER_BYTES);

type Buffers = Queue<{ BUFFERS as usize }>;

struct Card {
    device: Cell<Option<Device>>,
    mac: Cell<u64>,
    coming: UnsafeCell<Buffers>,
    going: UnsafeCell<Buffers>,
    buffers_in: [Cell<u64>; BUFFERS as usize],
    buffers_out: [Cell<u64>; BUFFERS as usize],
    /// How many of the outgoing buffers were ever used: those from here on are free.
    ever_sent: Cell<u16>,
}

static CARD: Locked<Card> = Locked(Card {
    device: Cell::new(None),
    mac: Cell::new(0),
    coming: UnsafeCell::new(Queue::new()),
    going: UnsafeCell::new(Queue::new()),
    buffers_in: [const { Cell::new(0) }; BUFFERS as usize],
    buffers_out: [const { Cell::new(0) }; BUFFERS as usize],
    ever_sent: Cell::new(0),
});

#[expect(clippy::mut_from_ref, reason = "one borrow at a time, each within a function of this file")]
fn coming() -> &'static mut Buffers {
    // SAFETY: the lock is held, and no borrow outlives a function.
    unsafe { &mut *CARD.coming.get() }
}

#[expect(clippy::mut_from_ref, reason = "one borrow at a time, each within a function of this file")]
fn going() -> &'static mut Buffers {
    // SAFETY: as above.
    unsafe { &mut *CARD.going.get() }
}

/// Starts the card, if there is one.
pub fn init() {
    let Some(device) = Device::find(NETWORK) else { return };
    if device.begin(MAC | EVENT_IDX) & EVENT_IDX == 0 || !give_buffers() {
        return;
    }
    device.set_queue(RECEIVE, coming());
    device.set_queue(TRANSMIT, going());
    going().keep_quiet();
    interrupt::on(processor::NET, processor::noted);
    apic::route(device.input(), processor::NET);
    device.ready();
    for index in 0..BUFFERS {
        coming().offer(index);
    }
    device.kick(RECEIVE);
    CARD.mac.set(u64::from(device.config(4) & 0xffff) << 32 | u64::from(device.config(0)));
    CARD.device.set(Some(device));
}

/// Gives each buffer its memory.
fn give_buffers() -> bool {
    for index in 0..BUFFERS {
        // The incoming half of a frame, and the outgoing one, whose header stays zero.
        let Some(frame) = frames::KERNEL.zeroed() else { return false };
        CARD.buffers_in[usize::from(index)].set(frame);
        CARD.buffers_out[usize::from(index)].set(frame + BUFFER_BYTES);
        coming().describe_writable(index, frame, BUFFER_BYTES as u32);
    }
    true
}

/// The card's address, first byte lowest; 0: there is no card.
pub fn mac() -> u64 {
    CARD.mac.get()
}

/// Whether a frame is there.
pub fn can_receive() -> bool {
    coming().has_used()
}

/// Whether a frame can be sent.
pub fn can_send() -> bool {
    CARD.ever_sent.get() < BUFFERS || going().has_used()
}

/// The next frame; `None`: there is none, and the card interrupts when one comes.
pub fn receive(process: &Process, to: u64, bytes: u64) -> Outcome {
    let Some(device) = CARD.device.get() else { return Err(Error::Io) };
    let queue = coming();
    let Some((head, filled)) = queue.used() else { return Ok(None) };
    let buffer = CARD.buffers_in[usize::from(head % BUFFERS)].get();
    let bytes = bytes.min(u64::from(filled).clamp(HEADER_BYTES, BUFFER_BYTES) - HEADER_BYTES);
    let copied = process.space.copy_out(to, buffer + HEADER_BYTES, bytes);
    let before = queue.offered();
    queue.offer(head % BUFFERS);
    queue.listen();
    if queue.wants_kick(before) {
        device.kick(RECEIVE);
    }
    copied.map(|()| Some(bytes))
}

/// Sends a frame; `None`: all buffers are on their way.
pub fn send(process: &Process, from: u64, bytes: u64) -> Outcome {
    let Some(device) = CARD.device.get() else { return Err(Error::Io) };
    if bytes == 0 || bytes > FRAME_BYTES_MAX {
        return Err(Error::Invalid);
    }
    let queue = going();
    let index = match queue.used() {
        Some((head, _)) => head % BUFFERS,
        None if CARD.ever_sent.get() < BUFFERS => CARD.ever_sent.replace(CARD.ever_sent.get() + 1),
        None => return Ok(None),
    };
    let buffer = CARD.buffers_out[usize::from(index)].get();
    let copied = process.space.copy_in(buffer + HEADER_BYTES, from, bytes);
    // What could not be read is not sent; its buffer goes with the header alone, which the card drops.
    queue.describe(index, buffer, (HEADER_BYTES + if copied.is_ok() { bytes } else { 0 }) as u32);
    let before = queue.offered();
    queue.offer(index);
    queue.keep_quiet();
    if queue.wants_kick(before) {
        device.kick(TRANSMIT);
    }
    copied.map(|()| Some(bytes))
}

/// Frames have come.
pub fn interrupted() {
    if let Some(device) = CARD.device.get() {
        device.acknowledge();
        coming().listen();
        wait::wake(wait::NET, u64::MAX, 0);
        wait::wake_pollers();
    }
}
