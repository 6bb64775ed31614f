//! What a trace to a file and what the flight recorder cost a guest on this host's KVM: how many of its exits a second remain.
//!
//! `cargo bench --bench trace`. Needs KVM. The guest writes to a register of COM1 that sends nothing, as fast as it can. Runs with and
//! without trace alternate; each pair gives a ratio, and the median of them counts. Runs with and without recorder alternate too,
//! either of them first in turn; a sign test tells whether one of both is slower: if neither is, the recorder's run is the slower one
//! in half of the pairs, and in more than 20 of 30 with a probability of 2 % only.

#[path = "report/bounds.rs"]
mod bounds;

use anyhow::{Context, Result, ensure};
use bounds::Bounds;
use serde_json::Value;
use std::fs;
use std::process::{Command, ExitCode};

/// `cargo bench` builds it beside this program, with the same options.
const HOSTEL: &str = env!("CARGO_BIN_EXE_hostel");

const EXITS: u32 = 100_000;
const RECORDED_EXITS: u32 = 20_000;
const RECORDED_PAIRS: usize = 30;
const SLOWER_MAX: usize = 20;
const PAIRS: usize = 9;
/// Of the exits a second without trace.
const SHARE_MIN: f64 = 0.9;

fn main() -> Result<ExitCode> {
    let path = |name: &str| format!("{}/{name}", env!("CARGO_TARGET_TMPDIR"));
    let (image, result, trace) = (path("flood.bin"), path("flood.json"), path("flood.trace"));
    let run = |words: &[&str], exits: u32| -> Result<f64> {
        fs::write(&image, flood(exits))?;
        let output =
            Command::new(HOSTEL).args(words).args(["--format", "flat64", "--result", &result, &image]).output()?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        let json: Value = serde_json::from_str(&fs::read_to_string(&result)?)?;
        let phase = |name: &str| json["phases_us"][name].as_f64().context("a phase");
        Ok(f64::from(exits) * 1e6 / (phase("guest")? - phase("first_entry")?))
    };
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        let untraced = run(&["run"], EXITS)?;
        let traced = run(&["trace", "--every", "--output", &trace], EXITS)?;
        pairs.push((traced / untraced, untraced, traced));
        let text = fs::read_to_string(&trace)?;
        let shown = text.lines().filter(|line| line.contains("COM1 SCR")).count();
        ensure!(shown == EXITS as usize, "{shown} exits in the file: {}", text.lines().last().unwrap_or_default());
    }
    pairs.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (share, untraced, traced) = pairs[PAIRS / 2];
    println!("{PAIRS} pairs of {EXITS} exits, the median one: {untraced:.0} a second, traced {traced:.0}");
    let mut bounds = Bounds::default();
    bounds.at_least("exits a second that remain when traced", share, SHARE_MIN, " of those without");
    let mut ratios = Vec::new();
    for pair in 0..RECORDED_PAIRS {
        let [recorded, plain] = [&["run"][..], &["run", "--no-recorder"]];
        let ratio = if pair % 2 == 0 {
            run(recorded, RECORDED_EXITS)? / run(plain, RECORDED_EXITS)?
        } else {
            let plain = run(plain, RECORDED_EXITS)?;
            run(recorded, RECORDED_EXITS)? / plain
        };
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    let slower = ratios.iter().filter(|ratio| **ratio < 1.0).count();
    println!(
        "{RECORDED_PAIRS} pairs of {RECORDED_EXITS} exits: with the recorder {:.3} of the exits a second without, by the median",
        ratios[RECORDED_PAIRS / 2]
    );
    bounds.at_most("pairs in which the recorder's run is the slower one", slower as f64, SLOWER_MAX as f64, "");
    Ok(bounds.finish())
}

/// 64-bit code: `mov ecx, exits; mov dx, 0x3ff; 1: out dx, al; dec ecx; jnz 1b`, then power off by ACPI's sleep control.
fn flood(exits: u32) -> Vec<u8> {
    let power_off = [0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee];
    [&[0xb9], &exits.to_le_bytes()[..], &[0x66, 0xba, 0xff, 0x03, 0xee, 0xff, 0xc9, 0x75, 0xfb], &power_off].concat()
}
