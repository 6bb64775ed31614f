//! What a hostile driver does to registers: in any order, of any size, at any time.

use crate::{answers, on_each, works};
use hostel::bus::bus::lock;
use hostel::virtio::function::{DRIVER_OK, FEATURES_OK};
use hostel::virtio::rig::{ENTRIES, READABLE, Rig};
use hostel::virtio::rings::QueueSetup;

/// Feature that every driver must accept.
const VERSION_1: u64 = 1 << 32;
const VALUES: [u64; 5] = [0, 1, 0x8000_0003, 0xffff, u64::MAX];

/// Registers that are no status, with the sizes in which they may be accessed, over either transport.
fn registers(rig: &mut Rig) -> Vec<u64> {
    let (end, status) = if rig.pci().is_some() { (0x40, 0x14) } else { (0x100, 0x70) };
    (0..end).filter(|offset| *offset != status).collect()
}

fn setups(rig: &Rig) -> Vec<QueueSetup> {
    let function = lock(&rig.function);
    (0..function.queue_count() as u16).map(|index| function.queue_setup(index)).collect()
}

#[test]
fn sec01_no_register_changes_what_was_set_up_once_the_device_is_driven() {
    on_each(|row, rig| {
        rig.drive(u64::MAX);
        let (before, features) = (setups(rig), lock(&rig.function).driver_features());
        for offset in registers(rig) {
            for size in [1, 2, 4, 8] {
                for value in VALUES {
                    for select in [0, before.len() as u16 - 1] {
                        rig.select(select);
                        rig.write(offset, size, value);
                    }
                }
                let now = (setups(rig), lock(&rig.function).driver_features());
                assert_eq!(now, (before.clone(), features), "{}: {size} bytes at {offset:#x}", row.name);
            }
        }
        assert_eq!(rig.status(), 15, "{}", row.name);
        rig.settle();
        assert!(answers(row, rig), "{}: without a reset", row.name);
    });
}

/// A step of a walk: writes a status, or does what has its time at one.
fn step(rig: &mut Rig, step: usize) {
    const STATUSES: [u8; 9] = [0, 1, 3, 11, 15, 8, 4, 64, 0xff];
    match step {
        0..9 => rig.set_status(STATUSES[step]),
        9 => {
            let offered = rig.offered();
            rig.accept(offered);
        }
        10 => rig.accept(u64::MAX),
        11 => rig.set_up(0, rig.queues[0].setup()),
        12 => rig.set_up(0, QueueSetup { size: 3, enabled: true, used: u64::MAX, ..QueueSetup::default() }),
        13 => {
            rig.queues[0].send(&[(READABLE, 16)], &[]);
            rig.kick(0);
        }
        _ => rig.settle(),
    }
}
const STEPS: usize = 15;

#[test]
fn sec02_every_walk_of_three_steps_keeps_the_order_of_statuses() {
    on_each(|row, rig| {
        for walk in 0..STEPS.pow(3) {
            rig.set_status(0);
            for at in [walk, walk / STEPS, walk / STEPS / STEPS] {
                step(rig, at % STEPS);
                let (status, offered) = (rig.status(), rig.offered());
                let accepted = lock(&rig.function).driver_features();
                assert!(status & DRIVER_OK == 0 || status & FEATURES_OK != 0, "{}, walk {walk}: {status:#x}", row.name);
                assert!(
                    status & FEATURES_OK == 0 || accepted & !offered == 0,
                    "{}, walk {walk}: {accepted:#x}",
                    row.name
                );
            }
            if walk % 37 == 0 {
                rig.drive(u64::MAX);
                assert!(answers(row, rig), "{}, walk {walk}", row.name);
            }
        }
    });
}

#[test]
fn sec02_features_that_were_not_offered_are_refused() {
    on_each(|row, rig| {
        rig.set_status(0);
        let offered = rig.offered();
        let never = (0..64).map(|bit| 1 << bit).filter(|bit| offered & bit == 0).map(|bit| offered | bit);
        for features in never.chain([0, u64::MAX, offered & !VERSION_1]) {
            rig.set_status(0);
            rig.set_status(3);
            rig.accept(features);
            rig.set_status(11);
            assert_eq!(rig.status(), 3, "{}: {features:#x}", row.name);
            rig.set_status(15);
            assert_eq!(rig.status() & DRIVER_OK, 0, "{}: {features:#x}", row.name);
        }
        // Each subset that lacks one of them is a driver's good right.
        for bit in (0..64).filter(|bit| *bit != 32 && offered >> bit & 1 != 0) {
            rig.drive(!(1 << bit));
            assert!(answers(row, rig), "{}: without bit {bit}", row.name);
        }
        rig.drive(0);
        assert!(answers(row, rig), "{}: with none", row.name);
    });
}

#[test]
fn sec03_queues_that_there_are_not_have_no_registers() {
    on_each(|row, rig| {
        rig.drive(u64::MAX);
        let before = setups(rig);
        for select in [before.len() as u16, 63, 64, 65, 255, 256, 0x7fff, u16::MAX - 1, u16::MAX] {
            for offset in registers(rig) {
                for size in [1, 2, 4, 8] {
                    rig.select(select);
                    rig.write(offset, size, 1);
                    rig.select(select);
                    rig.read(offset, size);
                }
            }
            rig.set_up(select, QueueSetup { size: ENTRIES, enabled: true, ..QueueSetup::default() });
        }
        assert_eq!((setups(rig), rig.status()), (before, 15), "{}", row.name);
        assert!(answers(row, rig), "{}", row.name);
    });
}

#[test]
fn sec17_every_offset_and_width_is_answered() {
    on_each(|row, rig| {
        rig.drive(u64::MAX);
        let places: Vec<u64> = (0..0x200)
            .chain(0x1000..0x1010)
            .chain(0x2000..0x2110)
            .chain(0x3ff0..0x5020)
            .chain(0x7fe0..0x8010)
            .collect();
        for value in VALUES {
            for offset in places.iter().copied().chain([u64::MAX - 8, u64::MAX]) {
                for size in 1..=8 {
                    rig.read(offset, size);
                    rig.write(offset, size, value);
                }
            }
        }
        works(row, rig, "accesses everywhere");
    });
}

#[test]
fn sec18_kicks_of_any_queue_and_any_number_are_harmless() {
    on_each(|row, rig| {
        rig.drive(u64::MAX);
        for index in 0..=u16::MAX {
            rig.kick(index);
        }
        for _ in 0..20_000 {
            (0..rig.queues.len()).for_each(|index| rig.kick(index as u16));
        }
        rig.settle();
        for index in 0..1000 {
            rig.kick(index % 8);
            rig.settle();
        }
        assert_eq!(rig.status(), 15, "{}", row.name);
        assert!(answers(row, rig), "{}", row.name);
    });
}

#[test]
fn sec23_the_configuration_is_not_the_drivers_to_write() {
    on_each(|row, rig| {
        rig.drive(u64::MAX);
        let all = |rig: &mut Rig| (0..0x80).map(|offset| rig.config(offset, 1)).collect::<Vec<_>>();
        let before = all(rig);
        for offset in (0..0x80).chain([0xff0, 0xfff]) {
            for size in [1, 2, 4, 8] {
                rig.set_config(offset, size, !0x1234);
            }
        }
        let after = all(rig);
        for (offset, (before, after)) in (0..).zip(before.iter().zip(&after)) {
            assert!(before == after || row.writable_config.contains(&offset), "{}: byte {offset}", row.name);
        }
        assert!(answers(row, rig), "{}", row.name);
    });
}
