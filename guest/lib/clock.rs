//! The CMOS clock: date and time as the host keeps them, in UTC.
//!
//! Source: Motorola MC146818A data sheet, "Address Map", "Register A" (UIP), "Register B" (DM); ACPI 6.5 §4.8.2.4 (century).

use crate::port::{in8, out8};

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
/// `REGISTER_A`: the numbers are changing.
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// `REGISTER_B`: the numbers are binary; otherwise each half of a byte is a decimal digit.
const BINARY: u8 = 1 << 2;

/// How often to ask a clock that is being updated, which takes 2 ms at most, or that is not there.
const TRIES: u32 = 10_000;

/// Date and time: year of the century, month, day, hour, minute, second. `None`: the machine has no clock.
pub fn now() -> Option<[u8; 6]> {
    for _ in 0..TRIES {
        if read(REGISTER_A) & UPDATE_IN_PROGRESS != 0 {
            continue;
        }
        let first = read_all();
        // Two equal readings: no update came between the numbers.
        if first == read_all() {
            let binary = read(REGISTER_B) & BINARY != 0;
            return Some(first.map(|value| if binary { value } else { (value >> 4) * 10 + (value & 0xf) }));
        }
    }
    None
}

/// The six registers, as they are.
fn read_all() -> [u8; 6] {
    [0x09, 0x08, 0x07, 0x04, 0x02, 0x00].map(read)
}

fn read(register: u8) -> u8 {
    out8(INDEX, register);
    in8(DATA)
}
