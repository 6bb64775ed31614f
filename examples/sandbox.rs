//! Calls functions of a program that nobody trusts, 100,000 times, with a reset between calls.
//!
//! ```sh
//! cargo run --example sandbox
//! ```
//!
//! The program is `examples/sandbox/guest.c`, compiled here by `cc`. It runs in ring 3 of a virtual machine without a kernel; a call
//! is one exit of that machine. A reset writes the pages anew that the program has written, which KVM's dirty log tells.

#[path = "sandbox/compile.rs"]
mod compile;

use hostel::embed::error::CallError;
use hostel::embed::sandbox::Sandbox;
use std::error::Error;
use std::time::{Duration, Instant};

const CALLS: u32 = 100_000;

fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().nth(1).map_or(Ok(CALLS), |calls| calls.parse())?)
}

/// Shows a sandbox, with so many calls.
pub fn run(calls: u32) -> Result<(), Box<dyn Error>> {
    let program = compile::c("examples/sandbox/guest.c")?;
    let mut sandbox = Sandbox::builder()
        .function("say", |text: String| println!("the guest says: {text}"))
        .deadline(Some(Duration::from_millis(500)))
        .load(&program)?;
    for (name, types) in sandbox.exports() {
        println!("{name}: {types}");
    }

    let letters: u64 = sandbox.call("letters", ("Hello, sandbox!",))?;
    println!("letters of a text: {letters}");
    let _: u64 = sandbox.call("letters", ("42",))?;

    // What does not fit is refused before anything runs.
    let refused: Result<u64, CallError> = sandbox.call("sum", (1u64,));
    println!("one argument too few: {}", refused.err().map_or_else(String::new, |error| error.to_string()));

    let plain = time(calls, || sandbox.call("count", ()))?;
    println!("{calls} calls: {:.2} us each; the program has counted {}", plain, sandbox.call::<_, u64>("count", ())?);
    let mut pages = sandbox.reset()?;
    let with_reset = time(calls, || {
        let count = sandbox.call::<_, u64>("count", ())?;
        assert_eq!(count, 1, "a reset program begins anew");
        pages = sandbox.reset()?;
        Ok(count)
    })?;
    println!("{calls} calls with a reset after each: {with_reset:.2} us each, {pages} page(s) written anew");
    Ok(())
}

/// Microseconds that one of `calls` takes.
fn time(calls: u32, mut call: impl FnMut() -> Result<u64, CallError>) -> Result<f64, CallError> {
    let start = Instant::now();
    for _ in 0..calls {
        call()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(calls))
}
