//! What the process VM costs a program: computing, system calls, processes, memory; next to the same program without it.
//!
//! `cargo bench --bench process`. One static C program, built here, is run natively, by `hostel exec` and, where strace is installed,
//! under ptrace, in turn; the shortest time of each counts. Each is also run with a small count, and the difference is what counts, so
//! that starting is in no figure. A system call is held against one on the same KVM that nobody answers ([`bare`]).

mod bare;
#[path = "../report/bounds.rs"]
mod bounds;
#[path = "../startup/paired.rs"]
#[allow(dead_code, reason = "another bench needs more of it")]
mod paired;
#[path = "../report/release.rs"]
mod release;

use anyhow::{Result, ensure};
use bare::Bare;
use bounds::Bounds;
use paired::{Program, timed};
use release::{BUILT, SOURCE, installed, succeed};
use std::path::Path;
use std::process::{Command, ExitCode};

/// Runs of each program.
const ROUNDS: usize = 5;
/// What the computing takes natively, in microseconds, at least.
const COMPUTE_US: f64 = 2e6;
/// Passes to begin with; they double until they take long enough.
const FIRST_PASSES: u32 = 1 << 13;
const CALLS: u32 = 20_000;
const FORKS: u32 = 200;
const PAGES: u32 = 16_384;

/// Time of computing, to that of the native program: 98 % of its speed.
const COMPUTE_LIMIT: f64 = 1.0 / 0.98;
/// getppid, to a system call that nobody answers.
const CALL_LIMIT: f64 = 3.0;

/// Ways to run the program: the words before it.
type Way<'a> = &'a [&'a str];

fn main() -> Result<ExitCode> {
    let hostel = installed(&release::default_build()?)?;
    let work = format!("{BUILT}/process-work");
    let source = Path::new(SOURCE).join("benches/process/work.c");
    succeed(Command::new("cc").args(["-O2", "-static", "-o", &work]).arg(source))?;
    let work = installed(&work)?;
    let ways: [Way; 2] = [&[], &[&hostel, "exec", "--"]];
    let mut bounds = Bounds::default();
    computing(&work, &ways, &mut bounds)?;
    system_calls(&work, &ways, &mut bounds)?;
    for (what, title, count) in [("fork", "fork, exit and wait", FORKS), ("touch", "first touch of a page", PAGES)] {
        let times = each(&work, &ways, what, [0, count], || Ok(()))?;
        let [native, hosted] = [times[0] / 1e3, times[1] / 1e3];
        println!("{title}: native {native:.2} us, hostel exec {hosted:.2} us, {:.1} times", hosted / native);
    }
    Ok(bounds.finish())
}

fn computing(work: &str, ways: &[Way], bounds: &mut Bounds) -> Result<()> {
    let mut passes = FIRST_PASSES;
    while run(&program(work, ways[0], "compute", passes))? < COMPUTE_US {
        passes *= 2;
    }
    let times = each(work, ways, "compute", [1, passes], || Ok(()))?;
    let seconds = |time: f64| time * f64::from(passes) / 1e9;
    println!("{passes} passes: native {:.3} s, hostel exec {:.3} s", seconds(times[0]), seconds(times[1]));
    bounds.at_most("computing, to the native program", times[1] / times[0], COMPUTE_LIMIT, "");
    Ok(())
}

fn system_calls(work: &str, ways: &[Way], bounds: &mut Bounds) -> Result<()> {
    let mut ways = ways.to_vec();
    let strace = succeed(Command::new("strace").arg("-V")).is_ok();
    if strace {
        ways.push(&["strace", "-f", "-o", "/dev/null"]);
    }
    let (mut bare, mut least) = (Bare::new()?, f64::MAX);
    let times = each(work, &ways, "getppid", [0, CALLS], || {
        least = least.min(bare.time(CALLS)?);
        Ok(())
    })?;
    println!("getppid: native {:.0} ns, hostel exec {:.0} ns; answered by nobody {least:.0} ns", times[0], times[1]);
    match times.get(2) {
        Some(traced) => println!("under strace {traced:.0} ns, {:.2} of hostel exec's", traced / times[1]),
        None => println!("under strace: not measured, there is no strace"),
    }
    bounds.at_most("getppid, to SYSCALL + OUT + IRETQ", times[1] / least, CALL_LIMIT, "");
    Ok(())
}

/// What one of `what` takes each of `ways`, in ns: the difference of the shortest runs with `few` and with `many` of it. All run in turn,
/// and `also` with them.
fn each(
    work: &str,
    ways: &[Way],
    what: &str,
    [few, many]: [u32; 2],
    mut also: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    let mut best = vec![[f64::MAX; 2]; ways.len()];
    for _ in 0..ROUNDS {
        also()?;
        for (way, best) in ways.iter().zip(&mut best) {
            for (count, best) in [few, many].into_iter().zip(best) {
                *best = best.min(run(&program(work, way, what, count))?);
            }
        }
    }
    Ok(best.into_iter().map(|[few_us, many_us]| (many_us - few_us) * 1e3 / f64::from(many - few)).collect())
}

fn program(work: &str, way: Way, what: &str, count: u32) -> Program {
    let count = count.to_string();
    Program::new(what, &[way, &[work, what, &count]].concat())
}

/// Microseconds of a run.
fn run(program: &Program) -> Result<f64> {
    let (start, end, status) = timed(&mut program.command()?)?;
    ensure!(status.success(), "{:?}: {status}", program.words);
    Ok(end - start)
}
