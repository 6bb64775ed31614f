//! Builds the sample guests.
fn main() {}
