//! What a hostile driver writes into its rings, one thing at a time, on each queue of each device.

use crate::devices::{ROWS, Row};
use crate::{allocations, on_each, rig, works};
use hostel::arch::layout::{HOLE_START, IOAPIC, MIB, PCI_ECAM, PCI_WINDOW, VIRTIO_MMIO};
use hostel::virtio::driver::DriverQueue;
use hostel::virtio::rig::{BOTH, ENTRIES, RAM, READABLE, RINGS, Rig, WRITABLE};
use hostel::virtio::rings::{Descriptor, INDIRECT, NEXT, QueueSetup, WRITE};
use std::time::{Duration, Instant};

/// Where indirect tables go.
const TABLE: u64 = 0x3_0000;
/// What the RAM around is filled with.
const CANARY: u8 = 0xa5;
/// Bytes from [`WRITABLE`] on that a device may write to.
const WRITABLE_SIZE: u64 = 0x2_0000;
/// Most bytes that serving one bad chain may allocate.
const ALLOCATED_MAX: usize = 256 << 10;

/// A thing that no driver does.
type Misdeed = Box<dyn Fn(&mut DriverQueue)>;

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { address, length, flags, next }
}

/// Makes this chain available, its first descriptor the head.
fn chain(name: impl Into<String>, descriptors: Vec<Descriptor>) -> (String, Misdeed) {
    let write = move |queue: &mut DriverQueue| {
        (0..).zip(&descriptors).for_each(|(index, descriptor)| queue.write_descriptor(index, *descriptor));
        queue.offer(0);
    };
    (name.into(), Box::new(write))
}

/// Makes available what a table has, whose descriptor says `length` bytes and these flags besides.
fn table(name: &str, length: u32, flags: u16, entries: Vec<Descriptor>) -> (String, Misdeed) {
    let write = move |queue: &mut DriverQueue| {
        (0..).zip(&entries).for_each(|(index, entry)| queue.write_table_entry(TABLE, index, *entry));
        queue.write_descriptor(0, descriptor(TABLE, length, INDIRECT | flags, 1));
        queue.write_descriptor(1, descriptor(WRITABLE, 16, WRITE, 0));
        queue.offer(0);
    };
    (name.into(), Box::new(write))
}

fn loops() -> Vec<(String, Misdeed)> {
    let readable = |next| descriptor(READABLE, 16, NEXT, next);
    let mut misdeeds = vec![
        chain("a descriptor behind itself", vec![readable(0)]),
        chain("a loop of two", vec![readable(1), readable(0)]),
        chain("a loop of writable ones", vec![descriptor(WRITABLE, 16, WRITE | NEXT, 0)]),
    ];
    for next in [ENTRIES, ENTRIES + 1, 256, 0x7fff, u16::MAX] {
        misdeeds.push(chain(format!("a next of {next}"), vec![readable(next)]));
    }
    for head in [ENTRIES, 256, 0x8000, u16::MAX] {
        misdeeds.push((format!("a head of {head}"), Box::new(move |queue| queue.offer(head))));
    }
    misdeeds
}

/// Buffers that wrap, leave RAM, lie in the hole or where devices are.
fn addresses() -> Vec<(String, Misdeed)> {
    let mut misdeeds = Vec::new();
    let places =
        [RAM - 1, RAM - 512, RAM, RAM + 0x1_0000, HOLE_START, u64::MAX, u64::MAX - 3, u64::MAX - 0xffff, 1 << 63];
    let devices =
        [PCI_WINDOW, PCI_WINDOW + 0x3000, PCI_WINDOW + 0x4000, PCI_ECAM, VIRTIO_MMIO + 0x50, IOAPIC, 0xfee0_0000];
    for address in places.into_iter().chain(devices) {
        for length in [1, 513, 0x1_0001, u32::MAX] {
            for flags in [0, WRITE] {
                // Inside RAM, it is none.
                if address.checked_add(length.into()).is_none_or(|end| end > RAM) {
                    let name = format!("{length} bytes at {address:#x}, flags {flags}");
                    misdeeds.push(chain(name, vec![descriptor(address, length, flags, 0)]));
                }
            }
        }
    }
    misdeeds
}

fn lengths() -> Vec<(String, Misdeed)> {
    let all = |flags| vec![descriptor(0, RAM as u32, flags | NEXT, 1), descriptor(0, RAM as u32 + 1, flags, 0)];
    let empty = |flags: u16| (0..ENTRIES).map(|at| descriptor(WRITABLE, 0, flags | NEXT, at + 1)).collect::<Vec<_>>();
    let mut misdeeds = vec![
        chain("nothing to read", vec![descriptor(READABLE, 0, 0, 0)]),
        chain("nothing to write", vec![descriptor(WRITABLE, 0, WRITE, 0)]),
        chain(
            "nothing in many pieces",
            empty(0).into_iter().map(|d| if d.next == ENTRIES { Descriptor { flags: 0, ..d } } else { d }).collect(),
        ),
        chain("no end", empty(WRITE)),
        chain("more than RAM to read", all(0)),
        chain("more than RAM to write", all(WRITE)),
        chain("one byte to read", vec![descriptor(READABLE, 1, 0, 0)]),
        chain("one byte to write", vec![descriptor(WRITABLE, 1, WRITE, 0)]),
        chain("unknown flags", vec![descriptor(READABLE, 16, 0xfff8, 0)]),
    ];
    let huge = |flags| {
        (0..ENTRIES)
            .map(|at| descriptor(0, u32::MAX, flags | if at + 1 < ENTRIES { NEXT } else { 0 }, at + 1))
            .collect()
    };
    misdeeds.push(chain("16 times 4 GiB to read", huge(0)));
    misdeeds.push(chain("16 times 4 GiB to write", huge(WRITE)));
    misdeeds
}

fn orders() -> Vec<(String, Misdeed)> {
    let (read, write) = (
        |flags, next| descriptor(READABLE, 64, flags, next),
        |flags, next| descriptor(WRITABLE, 64, WRITE | flags, next),
    );
    vec![
        chain("writable before readable", vec![write(NEXT, 1), read(0, 0)]),
        chain("readable between writable ones", vec![write(NEXT, 1), read(NEXT, 2), write(0, 0)]),
        chain("only readable", vec![read(0, 0)]),
        chain("only writable", vec![write(0, 0)]),
        chain("both", vec![read(NEXT, 1), write(0, 0)]),
    ]
}

fn tables() -> Vec<(String, Misdeed)> {
    let entry = |flags, next| descriptor(READABLE, 16, flags, next);
    let mut misdeeds = vec![
        table("an empty table", 0, 0, vec![]),
        table("a table that loops", 32, 0, vec![entry(NEXT, 1), entry(NEXT, 0)]),
        table("a table that ends nowhere", 16, 0, vec![entry(NEXT, 1)]),
        table("a table in a table", 16, 0, vec![descriptor(TABLE, 16, INDIRECT, 0)]),
        table("a table with a descriptor behind it", 16, NEXT, vec![entry(0, 0)]),
        table("a table to write to", 16, WRITE, vec![entry(0, 0)]),
        table("a table of 4 GiB", !15, 0, vec![entry(NEXT, u16::MAX)]),
    ];
    for length in [1, 15, 17, 31] {
        misdeeds.push(table("half an entry", length, 0, vec![entry(0, 0)]));
    }
    let long = (0..200).map(|at| entry(if at < 199 { NEXT } else { 0 }, at + 1)).collect();
    misdeeds.push(table("a table longer than the queue", 16 * 200, 0, long));
    for address in [RAM - 8, RAM, u64::MAX - 8, PCI_WINDOW] {
        misdeeds.push(chain("a table outside RAM", vec![descriptor(address, 16, INDIRECT, 0)]));
    }
    misdeeds
}

fn indices() -> Vec<(String, Misdeed)> {
    let jump = |by: u16| -> (String, Misdeed) {
        (
            format!("an index of {by}"),
            Box::new(move |queue: &mut DriverQueue| {
                queue.write_descriptor(0, descriptor(READABLE, 16, 0, 0));
                queue.set_available(by);
            }),
        )
    };
    let mut misdeeds: Vec<_> = [2, ENTRIES, ENTRIES + 1, 255, 0x7fff, 0x8000, u16::MAX].map(jump).into();
    let twice = |queue: &mut DriverQueue| {
        queue.write_descriptor(0, descriptor(READABLE, 16, NEXT, 1));
        queue.write_descriptor(1, descriptor(WRITABLE, 600, WRITE, 0));
        (0..3).for_each(|_| queue.offer(0));
    };
    misdeeds.push(("the same head thrice".into(), Box::new(twice)));
    let shared = |queue: &mut DriverQueue| {
        queue.write_descriptor(0, descriptor(READABLE, 16, NEXT, 2));
        queue.write_descriptor(1, descriptor(READABLE, 16, NEXT, 2));
        queue.write_descriptor(2, descriptor(WRITABLE, 600, WRITE, 0));
        (0..3).for_each(|head| queue.offer(head));
    };
    misdeeds.push(("descriptors that chains share".into(), Box::new(shared)));
    misdeeds
}

/// Does each on each queue of each device. Besides what `works` asserts: the device comes to rest, allocates little, and has written
/// nothing but rings and what it was told to write.
fn do_all(misdeeds: &[(String, Misdeed)]) {
    on_each(|row, rig| {
        for (name, misdeed) in misdeeds {
            for index in 0..rig.queues.len() {
                do_one(row, rig, index, name, misdeed);
            }
        }
    });
}

fn do_one(row: &Row, rig: &mut Rig, index: usize, name: &str, misdeed: &Misdeed) {
    rig.drive(u64::MAX);
    rig.ram.write(TABLE, &[CANARY; (RAM - TABLE) as usize]).unwrap();
    rig.ram.write(READABLE, &[0; 64]).unwrap();
    misdeed(&mut rig.queues[index]);
    let before = outside(rig);
    rig.kick(index as u16);
    let allocated = allocations::most_during(|| rig.settle());
    assert!(allocated < ALLOCATED_MAX, "{}, queue {index}, {name}: {allocated} bytes", row.name);
    assert!(outside(rig) == before, "{}, queue {index}, {name}: RAM was written that was not to be", row.name);
    works(row, rig, name);
}

/// All of RAM but rings and what may be written to.
fn outside(rig: &Rig) -> [Vec<u8>; 3] {
    [(0, RINGS), (TABLE, WRITABLE), (WRITABLE + WRITABLE_SIZE, RAM)].map(|(from, to)| {
        let mut bytes = vec![0; (to - from) as usize];
        rig.ram.read(from, &mut bytes).unwrap();
        bytes
    })
}

#[test]
fn sec14_chains_that_loop_or_end_nowhere_wedge_nothing() {
    do_all(&loops());
}

#[test]
fn sec15_sec16_sec19_sec20_buffers_outside_ram_are_not_reached() {
    do_all(&addresses());
}

#[test]
fn sec09_sec55_lengths_of_any_size_cost_neither_memory_nor_the_device() {
    do_all(&lengths());
}

#[test]
fn sec21_buffers_in_the_wrong_order_or_direction_wedge_nothing() {
    do_all(&orders());
}

#[test]
fn sec14_tables_of_any_form_wedge_nothing() {
    do_all(&tables());
}

#[test]
fn sec05_sec11_sec12_indices_that_jump_and_heads_that_repeat_wedge_nothing() {
    do_all(&indices());
}

#[test]
fn sec07_sec08_rings_that_no_queue_can_have_need_a_reset() {
    on_each(|row, rig| {
        let good = rig.queues[0].setup();
        let mut setups: Vec<_> =
            [0, 3, 5, 1000, 0x4000, 0x8000, u16::MAX].map(|size| QueueSetup { size, ..good }).into();
        for address in [RAM - 8, RAM, !0xf, PCI_WINDOW, HOLE_START, good.descriptors | 1] {
            setups.push(QueueSetup { descriptors: address, ..good });
            setups.push(QueueSetup { available: address, ..good });
            setups.push(QueueSetup { used: address, ..good });
        }
        for setup in setups {
            rig.set_status(0);
            rig.set_status(3);
            let offered = rig.offered();
            rig.accept(offered);
            rig.set_status(11);
            rig.set_up(0, setup);
            rig.set_status(15);
            assert!(rig.needs_reset(), "{}: {setup:?}", row.name);
            rig.kick(0);
            rig.settle();
            works(row, rig, "rings that are none");
        }
        // A size beyond 16 bits, which one register has room for: not cut off, and not the one before.
        rig.drive(u64::MAX);
        rig.set_status(0);
        if rig.pci().is_none() {
            rig.select(0);
            rig.write(0x38, 4, 0x1_0000);
            assert_eq!(hostel::bus::bus::lock(&rig.function).queue_setup(0).size, 0, "{}", row.name);
        }
    });
}

/// As many requests as fit, none of them answered before the reset, again and again.
#[test]
fn sec10_requests_that_are_never_finished_cost_a_bounded_amount() {
    on_each(|row, rig| {
        let good = (row.good)();
        let (mut first, mut last) = (0, 0);
        for round in 0..50 {
            rig.drive(u64::MAX);
            last = allocations::most_during(|| {
                for index in 0..rig.queues.len() {
                    for _ in 0..ENTRIES / 2 {
                        let readable = [(READABLE, good.readable.len() as u32)];
                        rig.queues[index].send(&readable, &[(WRITABLE, good.writable + 64)]);
                    }
                    rig.kick(index as u16);
                    rig.turn(Duration::ZERO);
                }
            });
            first = if round == 0 { last } else { first };
        }
        assert!(first < MIB as usize && last < MIB as usize, "{}: {first} bytes at first, then {last}", row.name);
        works(row, rig, "requests that were never finished");
    });
}

#[test]
fn sec52_no_request_keeps_the_devices_thread_for_long() {
    for row in ROWS {
        let mut rig = rig(row, BOTH[0]);
        for index in 0..rig.queues.len() {
            for flags in [0, WRITE] {
                // Of three tries the best: this machine may be busy.
                let mut shortest = Duration::MAX;
                for _ in 0..3 {
                    rig.drive(u64::MAX);
                    // Almost 4 GiB, all of it the same RAM behind the rings.
                    let length = (RAM - READABLE) as u32;
                    let huge = descriptor(READABLE, length, flags, 0);
                    (0..ENTRIES).for_each(|at| {
                        let more = if at + 1 < ENTRIES { NEXT } else { 0 };
                        rig.queues[index]
                            .write_descriptor(at, Descriptor { flags: huge.flags | more, next: at + 1, ..huge });
                    });
                    rig.queues[index].offer(0);
                    rig.kick(index as u16);
                    let mut longest = Duration::ZERO;
                    loop {
                        let start = Instant::now();
                        let worked = rig.turn(Duration::ZERO);
                        longest = longest.max(start.elapsed());
                        if !worked {
                            break;
                        }
                    }
                    shortest = shortest.min(longest);
                }
                assert!(shortest < Duration::from_millis(10), "{}, queue {index}: {shortest:?}", row.name);
                works(row, &mut rig, "a request of all RAM");
            }
        }
    }
}
