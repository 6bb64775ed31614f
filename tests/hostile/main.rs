//! Every virtio device under a hostile driver, behind both transports, without KVM. Whatever the driver does ends in an answer or in
//! DEVICE_NEEDS_RESET, and a good request is answered after it; nothing panics, hangs, allocates without bound or writes where it was
//! not told to. A new device joins by a row in `devices.rs`. Tests bear the numbers of `docs/security.md`.
//!
//! `HOSTEL_HOSTILE_SECONDS=600 cargo test --test hostile flips` races the driver's words for ten minutes a device instead of a moment.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod allocations;
mod chains;
mod devices;
mod races;
mod registers;

use devices::{ROWS, Row};
use hostel::virtio::rig::{BOTH, Rig, Via};
use std::time::Duration;

#[global_allocator]
static ALLOCATIONS: allocations::Counting = allocations::Counting;

/// Longer than any answer takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test on each device behind each transport.
fn on_each(test: impl Fn(&Row, &mut Rig)) {
    for row in ROWS {
        for via in BOTH {
            println!("{} by {via:?}", row.name);
            test(row, &mut rig(row, via));
        }
    }
}

fn rig(row: &Row, via: Via) -> Rig {
    Rig::new((row.build)(), via)
}

/// A good request is answered, after a reset where the device needs one or is not driven any more.
fn works(row: &Row, rig: &mut Rig, after: &str) {
    if rig.status() == 15 && answers(row, rig) {
        return;
    }
    rig.drive(u64::MAX);
    assert!(answers(row, rig), "{} after {after}, reset", row.name);
}

/// Whether a good request is answered; false where it shows that the device needs a reset.
fn answers(row: &Row, rig: &mut Rig) -> bool {
    rig.ask(&(row.good)(), PATIENCE).is_some_and(|written| (row.is_right)(&written))
}
