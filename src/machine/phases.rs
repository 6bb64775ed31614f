//! When the phases of a run ended. `--result` tells, and `benches/startup` compares.
//!
//! Times are CLOCK_MONOTONIC in microseconds: all processes share it, so whoever started Hostel can subtract its own times.

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Ends of the phases; 0 for a phase that was not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Phases {
    /// The program's own code begins.
    pub process_start: u64,
    /// RAM holds the image and everything that is handed over with it.
    pub load: u64,
    /// The virtual machine and its vCPUs exist.
    pub kvm: u64,
    /// vCPU 0 is about to enter the guest.
    pub first_entry: u64,
    /// The end of the run is decided.
    pub guest: u64,
}

/// The time as [`Phases`] have it.
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let [seconds, nanoseconds] = [now.tv_sec, now.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    seconds * 1_000_000 + nanoseconds / 1_000
}
