//! How fast frames go from one machine to another and to its host, next to QEMU; and what a round trip is made of.
//!
//! `cargo bench --bench net`. The machines' part needs KVM: sample guests `net-bench` work in ring 3, at full speed on every KVM,
//! and count cycles of the time stamp counter. QEMU boots the same file on its machine `microvm`, two of them joined by `-netdev
//! stream`, or one joined to a passt. Hostel's are plugged into a switch, which joins them by a cable while they are alone, and is one
//! process more on the way while a third port is used; or to the passt of `--net user`. The guests look at their rings without end, on a
//! host that may have fewer processors than there are threads: so what serves them has the higher real-time priority, runs are short and
//! go in turn, and the shortest are compared.
//! The switch's part of a round trip needs no machine: a client sends a frame, another sends it back, through `hostel switch` and through
//! `relay.c`.

#[path = "../report/bounds.rs"]
mod bounds;
mod machines;
#[path = "../report/priority.rs"]
mod priority;
#[path = "../report/release.rs"]
mod release;
mod round_trip;
mod sink;

use anyhow::Result;
use bounds::Bounds;
use machines::{Machines, Told};
use priority::Priority;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::process::ExitCode;

/// Runs of each, in turn.
const ROUNDS: usize = 15;

fn main() -> Result<ExitCode> {
    let hostel = release::installed(&release::default_build()?)?;
    let directory = format!("{}/net", release::BUILT);
    let _ = fs::remove_dir_all(&directory);
    DirBuilder::new().mode(0o700).recursive(true).create(format!("{directory}/hostel"))?;
    let machines = Machines { hostel, directory, priority: Priority::take() };
    let mut bounds = Bounds::default();
    round_trip::through_switch(&mut bounds, &machines)?;
    if machines.on_switch("round 10").inspect_err(|why| println!("no machines: {why:#}")).is_ok() {
        round_trip::whole(&mut bounds, &machines)?;
        if machines.on_stream("round 10").inspect_err(|why| println!("no QEMU: {why:#}")).is_ok() {
            next_to_qemu(&mut bounds, &machines)?;
        }
    }
    fs::remove_dir_all(&machines.directory)?;
    Ok(bounds.finish())
}

fn next_to_qemu(bounds: &mut Bounds, machines: &Machines) -> Result<()> {
    for words in ["small 20000", "bulk 64"] {
        let pair = (|| machines.on_switch(words), || machines.on_stream(words));
        compare(bounds, &format!("{words}, switch to QEMU's stream"), 1.5, pair)?;
        let pair = (|| machines.on_switch_of_three(words), || machines.on_stream(words));
        compare(bounds, &format!("{words}, with a third port, switch to QEMU's stream"), 1.5, pair)?;
    }
    let port = sink::start()?;
    for (bytes, count) in [(64, 10_000), (1514, 10_000)] {
        let words = format!("user {port} {bytes} {count}");
        let pair = (|| machines.to_host(&words), || machines.to_host_from_qemu(&words));
        if let Err(why) = pair.1() {
            println!("no passt: {why:#}");
            break;
        }
        compare(bounds, &format!("{count} datagrams in frames of {bytes} bytes, --net user to QEMU's"), 1.0, pair)?;
    }
    Ok(())
}

/// Runs both in turn, and holds the shortest against each other: bytes a cycle.
fn compare(
    bounds: &mut Bounds,
    what: &str,
    least: f64,
    (ours, theirs): (impl Fn() -> Result<Told>, impl Fn() -> Result<Told>),
) -> Result<()> {
    let each_byte = |told: Told| told.cycles / told.bytes;
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        runs[0].push(each_byte(ours()?));
        runs[1].push(each_byte(theirs()?));
    }
    runs.iter_mut().for_each(|runs| runs.sort_by(f64::total_cmp));
    let [ours, theirs] = runs;
    let middle = ROUNDS / 2;
    println!(
        "{what}: cycles a byte, shortest and median: {:.3} {:.3}, {:.3} {:.3}",
        ours[0], ours[middle], theirs[0], theirs[middle]
    );
    bounds.at_least(what, theirs[0] / ours[0], least, "");
    Ok(())
}
