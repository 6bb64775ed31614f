//! Work that needs nothing but a processor. `benches/threads` has host threads do the same.
//!
//! Source: G. Marsaglia, "Xorshift RNGs" (2003), the generator with 13, 7 and 17.

/// Takes so many steps of a pseudo-random sequence, each of which needs the one before. Returns its last number, which nobody uses but
/// which has to be found.
pub fn work(steps: u64) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..steps {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    state
}
