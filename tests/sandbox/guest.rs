//! The guest's side in Rust, as `tests/sandbox.rs` calls it.
#![no_std]
#![no_main]

#[path = "../../guest/sandbox/hostel.rs"]
mod hostel;

use hostel::{bytes, text, void};

import! {
    fn add(a: i64, b: i64) -> i64;
    fn say(what: text) -> void;
}

export! {
    fn twice(a: i64) -> i64 {
        add(a, a)
    }

    fn sum_of(data: bytes) -> u64 {
        data.as_slice().iter().map(|byte| u64::from(*byte)).sum()
    }

    fn greet(name: text) -> text {
        say(text::of("a guest in Rust greets"));
        let rest = name.as_str().strip_prefix("Dr. ").unwrap_or("nobody");
        text::of(rest)
    }

    fn index(at: u64) -> u64 {
        // A panic where it is out of range.
        u64::from([1u8, 2, 3][at as usize])
    }
}
