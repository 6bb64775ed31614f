//! The guest's part of the C runtime (`guest/windows/runtime.rs`) as Hostel sees it: bytes with a table of names in front.
//!
//! Source: PE Format "The .edata Section" (what such a table is in a library of Windows').

use super::bytes::Bytes;
use super::layout::RUNTIME;

/// The runtime, to lie at [`RUNTIME`].
pub const CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/windows-runtime"));

/// Bytes of a row: a name and an address.
const ROW: u64 = 32;
/// Bytes of the name.
const NAME: usize = 24;

/// The names, and how far into the runtime each lies.
pub fn exports() -> impl Iterator<Item = (&'static str, u64)> {
    let row = |at| Some((Bytes(CODE).name(at, NAME)?, Bytes(CODE).u64(at + NAME as u64)?.checked_sub(RUNTIME)?));
    (0..).step_by(ROW as usize).map_while(row)
}

/// How far into the runtime a function lies.
pub fn export(name: &str) -> Option<u64> {
    exports().find(|(export, _)| *export == name).map(|(_, offset)| offset)
}

/// Where the part begins that is written to; before it all is code and constants.
pub fn writable() -> u64 {
    export("writable").expect("the runtime names where its variables begin")
}

#[cfg(test)]
mod tests {
    use super::super::pe::PAGE;
    use super::*;

    #[test]
    fn the_runtime_has_a_start_code_and_variables() {
        assert!(exports().count() > 40);
        assert!(exports().all(|(name, offset)| offset < CODE.len() as u64 && name.len() < NAME));
        assert!(export("start").unwrap() < writable() && writable().is_multiple_of(PAGE));
        assert_eq!(export("none"), None);
    }
}
