//! What user-level threads cost on the sample kernel: a switch, and the speed-up of many to many on two processors next to two
//! threads of the host.
//!
//! `cargo bench --bench threads`. Needs KVM and two processors. The host's threads do the same work, from the same source, and in turn with
//! the machine: what else runs on the host takes from both. A pair of runs gives a ratio, and the median of the pairs counts.

#[path = "../report/bounds.rs"]
mod bounds;
#[path = "../report/release.rs"]
mod release;
#[path = "../../guest/process/threads/work.rs"]
mod work;

use anyhow::{Context, Result, ensure};
use bounds::Bounds;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};
use work::work;

/// Pairs of runs.
const ROUNDS: usize = 7;
/// Million steps of work in all.
const MILLION_STEPS: u64 = 100;
/// Runs on the host on each number of threads, of which the shortest counts, as in the guest.
const RUNS: usize = 3;
const SWITCH_LIMIT_NS: f64 = 30.0;
const SPEED_UP_LEAST: f64 = 0.92;

fn main() -> Result<ExitCode> {
    let hostel = release::installed(&release::default_build()?)?;
    let (mut switches, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let host = host_speed_up();
        let table = in_guest(&hostel)?;
        let (switch, guest) = (cell(&table, "switch, ns")?, cell(&table, "speed-up on 2 LWPs")?);
        println!("switch {switch:.1} ns; speed-up on two processors: m:n {guest:.2}, host {host:.2}");
        switches.push(switch);
        ratios.push(guest / host);
    }
    for values in [&mut switches, &mut ratios] {
        values.sort_by(f64::total_cmp);
    }
    let mut bounds = Bounds::default();
    bounds.at_most("switch of user-level threads in ring 3", switches[0], SWITCH_LIMIT_NS, " ns");
    bounds.at_least("speed-up of m:n on two processors, to the host's", ratios[ROUNDS / 2], SPEED_UP_LEAST, "");
    Ok(bounds.finish())
}

/// How much faster two threads of the host are than one.
fn host_speed_up() -> f64 {
    let mut shortest = [Duration::MAX; 2];
    for _ in 0..RUNS {
        for (shortest, threads) in shortest.iter_mut().zip(1..) {
            let start = Instant::now();
            thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| black_box(work(black_box(MILLION_STEPS * 1_000_000 / threads))));
                }
            });
            *shortest = start.elapsed().min(*shortest);
        }
    }
    shortest[0].as_secs_f64() / shortest[1].as_secs_f64()
}

/// The table of many to many that the program on the sample kernel prints.
fn in_guest(hostel: &str) -> Result<String> {
    let mut command = Command::new(hostel);
    command.args([
        "run",
        "shell",
        "--cpus",
        "2",
        "--timeout",
        "120s",
        "--",
        "threads",
        "--model",
        "m:n",
        "--threads",
        "64",
    ]);
    command.args(["--work", &MILLION_STEPS.to_string()]);
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The number in the row of this name.
fn cell(table: &str, name: &str) -> Result<f64> {
    let row =
        table.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no row {name}: {table}"))?;
    row.trim().parse().with_context(|| format!("{name}: {row}"))
}
