//! What a serial-port exit costs in Hostel itself, and what watching it adds: run loop, handler, bus, device and observer, on
//! exits from a list instead of KVM.
//!
//! `cargo bench --bench exit`. The guest writes characters to the transmit holding register in polled mode; the line takes
//! each at once, so nothing of the console is measured. The bus has all the ports of a machine. Ways to watch are measured in
//! turn with the loop that nobody watches, and the shortest run of each counts: what disturbs the machine only adds.

#[path = "../report/bounds.rs"]
mod bounds;
mod machine;
mod traced;

use bounds::Bounds;
use hostel::arch::cpu_state::CpuState;
use hostel::debug::recorder::Recorder;
use hostel::vcpu::handler::ExitObserver;
use machine::{cpu, machine, timed, timed_without_branch};
use std::process::ExitCode;
use std::sync::Arc;

/// Exits in one run of the loop: few, so that many runs fit between two disturbances, and need no fresh memory.
const EXITS: usize = 2_000;
const RUNS: usize = 5_000;
const LIMIT_NS: f64 = 150.0;
/// What a loop that could be watched may cost, when nobody watches.
const UNWATCHED_LIMIT_NS: f64 = 3.0;
/// What the flight recorder may cost.
const RECORDER_LIMIT_NS: f64 = 40.0;

fn main() -> ExitCode {
    let io = Arc::new(machine());
    let (mut plain, mut times, mut recorded) = (Vec::new(), Vec::new(), Vec::new());
    let mut recorder = Recorder::new(Arc::default());
    for _ in 0..RUNS {
        plain.push(timed_without_branch(&mut cpu(EXITS, CpuState::default()), &io, EXITS));
        times.push(timed(&mut cpu(EXITS, CpuState::default()), &io, None, EXITS));
        let mut synced = cpu(EXITS, CpuState::default());
        recorder.attached(&mut synced);
        recorded.push(timed(&mut synced, &io, Some(&mut recorder), EXITS));
    }
    for values in [&mut times, &mut plain, &mut recorded] {
        values.sort_by(f64::total_cmp);
    }
    println!(
        "a write to the transmit holding register, {RUNS} runs of {EXITS} exits: median {:.1} ns",
        times[RUNS / 2]
    );
    let mut bounds = Bounds::default();
    bounds.at_most("serial-port exit without KVM", times[0], LIMIT_NS, " ns");
    bounds.at_most("of that, for an observer that is not there", times[0] - plain[0], UNWATCHED_LIMIT_NS, " ns");
    bounds.at_most("and the flight recorder adds", recorded[0] - times[0], RECORDER_LIMIT_NS, " ns");
    traced::measure(&mut bounds, &io);
    bounds.finish()
}
