//! A driver that keeps most rules of a virtio device, over its registers and rings: chains are right but for a few fields, and in between
//! come kicks, resets, registers and configuration. Whatever it does, a good request is answered after it.

use crate::knob::Knob;
use arbitrary::{Arbitrary, Result, Unstructured};
use hostel::arch::layout::{HOLE_START, PCI_WINDOW};
use hostel::virtio::rig::{ENTRIES, RAM, READABLE, Request, Rig, WRITABLE};
use hostel::virtio::rings::{Descriptor, INDIRECT, NEXT, WRITE};
use std::time::Duration;

/// Longer than a request of any form takes, also where the fuzzer itself was stopped for a while. What hangs is found by libFuzzer's own
/// limit, 10 s by `scripts/fuzz`.
pub const HANG: Duration = Duration::from_secs(3600);
/// Steps of one input.
const STEPS_MAX: usize = 48;
/// Where tables of descriptors go.
const TABLE: u64 = 0x3_0000;

/// A guest-physical address: mostly where buffers are, else at an edge, or any.
#[derive(Debug)]
struct Place(u64);

impl<'a> Arbitrary<'a> for Place {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Place> {
        let offset = u64::from(u.arbitrary::<u16>()?);
        Ok(Place(match u.int_in_range(0..=15)? {
            15 => u.arbitrary()?,
            14 => u.choose(&[RAM, HOLE_START, PCI_WINDOW, 0, u64::MAX])?.wrapping_sub(offset),
            side => (if side % 2 == 0 { READABLE } else { WRITABLE }) + offset,
        }))
    }
}

/// A buffer: where it is, its length, and what is wrong with its descriptor.
#[derive(Arbitrary, Debug)]
struct Buffer {
    place: Place,
    length: u16,
    long: Knob<u32>,
    flags: Knob<u16>,
    next: Knob<u16>,
}

/// What the driver does.
#[derive(Arbitrary, Debug)]
enum Step {
    /// A chain, with this at the front of what the device reads; in a table of its own, or not.
    Chain { queue: u8, bytes: Vec<u8>, readable: Vec<Buffer>, writable: Vec<Buffer>, table: bool, silent: bool },
    /// The device's good request.
    Good,
    /// A head, made available once more.
    Offer { queue: u8, head: u8 },
    /// An index of the available ring, mostly a little further.
    Available { queue: u8, by: Knob<u16> },
    /// A kick.
    Kick(u16),
    /// What is ready is served, once.
    Turn,
    /// A register or a byte behind it is read and written.
    Register { offset: u16, size: u8, value: Knob<u64> },
    /// Configuration.
    Config { offset: u8, size: u8, value: u64 },
    /// A status.
    Status(u8),
    /// A driver from the beginning, with some of the features.
    Drive { features: Knob<u64> },
}

/// What a driver does, step by step.
#[derive(Arbitrary, Debug)]
pub struct Script(Vec<Step>);

impl Script {
    /// Does it to a device that is driven anew, and asks for what `good` says and `is_right` knows.
    pub fn run(&self, rig: &mut Rig, good: &Request, is_right: fn(&[u8]) -> bool) {
        rig.drive(u64::MAX);
        self.0.iter().take(STEPS_MAX).for_each(|step| step.run(rig, good));
        let answered = rig.status() == 15 && rig.ask(good, HANG).is_some_and(|bytes| is_right(&bytes));
        if !answered {
            rig.drive(u64::MAX);
            assert!(rig.ask(good, HANG).is_some_and(|bytes| is_right(&bytes)), "a good request is answered");
        }
        rig.settle();
    }
}

impl Step {
    fn run(&self, rig: &mut Rig, good: &Request) {
        let count = rig.queues.len();
        let index = |queue: u8| usize::from(queue) % count;
        match self {
            Step::Chain { queue, bytes, readable, writable, table, silent } => {
                let queue = index(*queue);
                let _ = rig.ram.write(READABLE, &bytes[..bytes.len().min(4096)]);
                chain(rig, queue, readable, writable, *table);
                if !silent {
                    rig.kick(queue as u16);
                    rig.turn(Duration::ZERO);
                }
            }
            Step::Good if rig.status() == 15 => _ = rig.ask(good, HANG),
            Step::Good => {}
            Step::Offer { queue, head } => rig.queues[index(*queue)].offer((*head).into()),
            Step::Available { queue, by } => {
                let queue = index(*queue);
                rig.queues[queue].set_available(by.0.unwrap_or(1));
                rig.kick(queue as u16);
                rig.turn(Duration::ZERO);
                // A driver that sets its index back has lost its own requests: whether they are answered says nothing.
                rig.drive(u64::MAX);
            }
            Step::Kick(index) => rig.kick(*index),
            Step::Turn => _ = rig.turn(Duration::ZERO),
            Step::Register { offset, size, value } => {
                let (offset, size) = (u64::from(offset % 0x6000), size % 8 + 1);
                rig.read(offset, size);
                value.0.iter().for_each(|value| rig.write(offset, size, *value));
            }
            Step::Config { offset, size, value } => {
                rig.set_config((*offset).into(), size % 8 + 1, *value);
                rig.config((*offset).into(), size % 8 + 1);
            }
            Step::Status(status) => rig.set_status(*status),
            Step::Drive { features } => rig.drive(features.0.unwrap_or(u64::MAX)),
        }
        // Most drivers notice.
        if rig.needs_reset() && !matches!(self, Step::Kick(_)) {
            rig.drive(u64::MAX);
        }
    }
}

/// Makes a chain available: in the queue's own table from entry 0 on, or in one of its own.
fn chain(rig: &mut Rig, queue: usize, readable: &[Buffer], writable: &[Buffer], in_table: bool) {
    let buffers = readable.iter().map(|buffer| (buffer, 0)).chain(writable.iter().map(|buffer| (buffer, WRITE)));
    // A driver that has the device write over its rings, which lie below, has lost its own requests.
    let buffers: Vec<_> = buffers.filter(|(buffer, _)| buffer.place.0 >= TABLE).take(ENTRIES.into()).collect();
    let driver = &mut rig.queues[queue];
    for (at, (buffer, flags)) in (0u16..).zip(&buffers) {
        let more = if usize::from(at) + 1 < buffers.len() { NEXT } else { 0 };
        let descriptor = Descriptor {
            address: buffer.place.0,
            length: buffer.long.0.unwrap_or(buffer.length.into()),
            flags: buffer.flags.0.unwrap_or(flags | more),
            next: buffer.next.0.unwrap_or(at + 1),
        };
        if in_table {
            driver.write_table_entry(TABLE, at, descriptor);
        } else {
            driver.write_descriptor(at, descriptor);
        }
    }
    if in_table {
        let length = 16 * buffers.len() as u32;
        driver.write_descriptor(0, Descriptor { address: TABLE, length, flags: INDIRECT, next: 0 });
    }
    driver.offer(0);
}
