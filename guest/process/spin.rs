//! spin WORD [SECONDS]: works without end, or for so long, and says its word each 200 ms: two of them on one processor both advance.
//!
//! It never gives the processor away: that it shares it is the timer's doing.

#![no_std]
#![no_main]

use process::{call, print, words::Words};

process::program!(main);

/// Time between two words.
const PERIOD_MS: u64 = 200;

fn main(arguments: &[u8]) -> u64 {
    let mut words = Words::of(arguments);
    let word = words.next().and_then(|word| core::str::from_utf8(word).ok()).unwrap_or("spin");
    let periods = words.number().map_or(u64::MAX, |seconds| seconds.saturating_mul(1000 / PERIOD_MS));
    let period = PERIOD_MS * call::system().ticks_per_ms;
    for _ in 0..periods {
        print!("{word}\n");
        let start = call::ticks();
        while call::ticks() - start < period {}
    }
    0
}
