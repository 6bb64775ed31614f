//! What a call of a sandbox costs: a host call next to a bare exit loop, and a call with a reset next to one without and to the
//! pages that it touches.
//!
//! `cargo bench --bench embed`. All of it is measured in turn in one run, and the shortest time of each counts: what disturbs the
//! machine only adds. The bare loop is two instructions in ring 3, of which one is OUT, on the same kind of machine, through KVM_RUN and
//! nothing else of Hostel's.

#[path = "../report/bounds.rs"]
mod bounds;

use bounds::Bounds;
use hostel::doctor::measure::{Ring, machine};
use hostel::embed::sandbox::Sandbox;
use hostel::kvm::exit::{Exit, Reply};
use hostel::kvm::system::System;
use hostel::kvm::vcpu::Vcpu;
use std::error::Error;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

/// out 0xf0, al; jmp to it.
const LOOP: [u8; 4] = [0xe6, 0xf0, 0xeb, 0xfc];
/// Times that everything is measured.
const RUNS: usize = 300;
/// Exits, or calls, of one measurement.
const COUNT: u32 = 20;
/// Pages that one of the functions touches.
const PAGES: u64 = 32;

/// A host call to a bare exit.
const HOST_CALL_LIMIT: f64 = 1.3;
/// A reset and a call, less what its pages cost, to a call.
const RESET_LIMIT: f64 = 3.0;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let program = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox-c"));
    let system = System::open()?;
    let (_vm, mut bare) = machine(&system, Ring::User, &LOOP)?;
    let mut sandbox = Sandbox::builder()
        .function("add", |a: i64, b: i64| a.wrapping_add(b))
        .function("same", |_: i32, _: u32, _: i64, _: u64, _: bool| true)
        .function("upper", |what: String| what)
        .function("twice", |what: Vec<u8>| what)
        .function("back", |depth: u64| depth)
        .function("fail", || ())
        .function("careless", |address: u64| address)
        .load(program)?;
    let mut best = [f64::MAX; 7];
    for _ in 0..RUNS {
        let times = [
            each(COUNT, || exit(&mut bare))?,
            time(|| Ok(sandbox.call::<_, u64>("add_up", (u64::from(COUNT),))?))?,
            time(|| Ok(sandbox.call::<_, u64>("add_up", (0u64,))?))?,
            each(COUNT, || Ok(sandbox.call::<_, u64>("sum", (1u64, 2u64))?))?,
            each(COUNT, || {
                let sum = sandbox.call::<_, u64>("sum", (1u64, 2u64))?;
                Ok(sum + sandbox.reset()?)
            })?,
            reset_and_touch(&mut sandbox, PAGES)?,
            copy_ns(),
        ];
        best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
    }
    let [bare, calls, none, plain, reset, touched, copy] = best;
    // The exit at the end of the function is none of the host calls.
    let host_call = (calls - none) / f64::from(COUNT);
    // All pages are mapped and writable, so that only the logging of writes makes the difference.
    sandbox.call::<_, u64>("touch", (PAGES,))?;
    let again = (0..RUNS).map(|_| time(|| Ok(sandbox.call::<_, u64>("touch", (PAGES,))?)));
    let again = again.collect::<Result<Vec<_>, _>>()?.into_iter().fold(f64::MAX, f64::min);
    let first = (0..RUNS)
        .map(|_| {
            sandbox.reset()?;
            time(|| Ok(sandbox.call::<_, u64>("touch", (PAGES,))?))
        })
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let first = first.into_iter().fold(f64::MAX, f64::min);
    let fault = ((first - again) / PAGES as f64).max(0.0);
    println!("bare exit {bare:.0} ns; host call {host_call:.0} ns; call {plain:.0} ns, with a reset {reset:.0} ns");
    println!(
        "a write fault {fault:.0} ns, a copy of 4 KiB {copy:.0} ns; reset, and a call that touches {PAGES} pages, {touched:.0} ns"
    );
    let mut bounds = Bounds::default();
    bounds.at_most("a host call, to a bare exit", host_call / bare, HOST_CALL_LIMIT, "");
    bounds.at_most("a call with a reset that finds nothing, to a call", reset / plain, RESET_LIMIT, "");
    let pages = (PAGES + 1) as f64 * (fault + copy);
    bounds.at_most("the same with pages, less what these cost, to a call", (touched - pages) / plain, RESET_LIMIT, "");
    Ok(bounds.finish())
}

/// Runs to the next exit.
fn exit(vcpu: &mut Vcpu) -> Result<u64, Box<dyn Error>> {
    match vcpu.run(Reply::Resume)? {
        Exit::PioWrite { port, .. } => Ok(port.into()),
        exit => Err(format!("{exit:?}").into()),
    }
}

/// A call that touches pages, and the reset after it, in ns.
fn reset_and_touch(sandbox: &mut Sandbox, pages: u64) -> Result<f64, Box<dyn Error>> {
    sandbox.reset()?;
    time(|| {
        let total = sandbox.call::<_, u64>("touch", (pages,))?;
        Ok(total + sandbox.reset()?)
    })
}

/// A copy of a page from memory that is not in the cache's next lines, in ns.
fn copy_ns() -> f64 {
    let (from, mut to) = (vec![1u8; 64 * 4096], vec![0u8; 64 * 4096]);
    let start = Instant::now();
    for (to, from) in to.chunks_mut(4096).zip(from.chunks(4096)) {
        to.copy_from_slice(black_box(from));
    }
    black_box(&to);
    start.elapsed().as_nanos() as f64 / 64.0
}

/// Nanoseconds of one of `count`.
fn each(count: u32, mut what: impl FnMut() -> Result<u64, Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let total = time(|| {
        for _ in 0..count {
            black_box(what()?);
        }
        Ok(0)
    })?;
    Ok(total / f64::from(count))
}

fn time(what: impl FnOnce() -> Result<u64, Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    black_box(what()?);
    Ok(start.elapsed().as_nanos() as f64)
}
