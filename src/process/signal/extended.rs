//! Floating-point and vector state in a signal's frame: from the vCPU's to what a handler sees, and from what it left there back.
//!
//! The program may have put anything there. It is copied once, and only what XRSTOR would take reaches the vCPU: known states, a clean
//! header, no reserved bit in MXCSR.
//! Sources: Intel SDM vol. 1 §13.4 (XSAVE area), §13.8 (XRSTOR), §10.5.1.2 (FXSAVE area); Linux `arch/x86/kernel/fpu/signal.c`,
//! `arch/x86/include/uapi/asm/sigcontext.h` (`_fpx_sw_bytes`).

use rustix::io::Errno;

/// Bytes that FXSAVE writes.
pub const LEGACY_SIZE: usize = 512;
/// Bytes that XSAVE writes at least: those, and a header.
const LEAST_SIZE: usize = LEGACY_SIZE + 64;
/// Most bytes of a state, which is what KVM_GET_XSAVE gives.
pub const STATE_SIZE: usize = 4096;

/// Offsets in the legacy area: control and status of x87, MXCSR and which of its bits there are, XMM registers.
const CONTROL: usize = 0;
const STATUS: usize = 2;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
const XMM: std::ops::Range<usize> = 160..416;
/// What Linux says in it of the whole frame: magic, its size with the second magic, states, their size.
const SOFTWARE: usize = 464;
const MAGIC: u32 = 0x4650_5853;
/// Behind the state, to tell that it is whole.
const MAGIC_END: u32 = 0x4650_5845;
/// XSTATE_BV, in the header.
const PRESENT: usize = LEGACY_SIZE;

/// Bytes of the header that XRSTOR looks at: states, and others that have to be zero. KVM wants the rest to be zero too.
const CHECKED: usize = 24;

/// x87 and SSE, bits of XCR0.
const X87: u64 = 1;
const SSE: u64 = 2;

/// MXCSR's bits where FXSAVE does not tell them, and control words after reset.
const MXCSR_BITS: u32 = 0xffbf;
const CONTROL_RESET: u16 = 0x37f;
const MXCSR_RESET: u32 = 0x1f80;

/// Which states a vCPU has, and how long they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// XCR0; 0 without XSAVE.
    states: u64,
    size: usize,
}

impl Layout {
    /// Of these states, which lie at offsets and have sizes as CPUID leaf 0xd tells by their number.
    pub fn new(states: u64, place: impl Fn(u32) -> (usize, usize)) -> Layout {
        let ends = (2..64).filter(|state| states >> state & 1 != 0).map(|state| {
            let (offset, size) = place(state);
            offset + size
        });
        let size = ends.fold(LEAST_SIZE, usize::max);
        // A state that does not fit KVM's area is none that was switched on.
        Layout { states, size: if states == 0 { LEGACY_SIZE } else { size.min(STATE_SIZE) } }
    }

    /// Whether there is more than x87 and SSE.
    pub fn is_extended(&self) -> bool {
        self.states != 0
    }

    /// Bytes in a frame.
    pub fn frame_size(&self) -> usize {
        self.size + 4
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a word has four bytes"))
}

/// The eight bytes at an offset that is within `bytes`, as a number.
pub(super) fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a word has eight bytes"))
}

/// The state after reset.
pub fn initial() -> Vec<u8> {
    let mut state = vec![0; STATE_SIZE];
    put(&mut state, CONTROL, &CONTROL_RESET.to_le_bytes());
    put(&mut state, MXCSR, &MXCSR_RESET.to_le_bytes());
    put(&mut state, PRESENT, &(X87 | SSE).to_le_bytes());
    state
}

/// What of `state`, which the vCPU gave, goes into a frame.
pub fn to_frame(state: &[u8], layout: Layout) -> Vec<u8> {
    let (mut frame, size) = (state[..layout.size].to_vec(), layout.size as u32);
    frame[SOFTWARE..LEGACY_SIZE].fill(0);
    put(&mut frame, SOFTWARE, &MAGIC.to_le_bytes());
    put(&mut frame, SOFTWARE + 4, &(size + 4).to_le_bytes());
    put(&mut frame, SOFTWARE + 8, &layout.states.to_le_bytes());
    put(&mut frame, SOFTWARE + 16, &size.to_le_bytes());
    if layout.is_extended() {
        // A handler that changes the legacy area means it, whether it was in use or not.
        let present = long(&frame, PRESENT) | X87 | SSE;
        put(&mut frame, PRESENT, &present.to_le_bytes());
    }
    frame.extend(MAGIC_END.to_le_bytes());
    frame
}

/// The state that a frame holds, whose bytes `read` copies from an offset on; `None` where it is none. `now` is what the vCPU has.
///
/// # Errors
/// What `read` says.
pub fn from_frame(
    now: &[u8],
    layout: Layout,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), Errno>,
) -> Result<Option<Vec<u8>>, Errno> {
    let mut state = vec![0; STATE_SIZE + 4];
    read(0, &mut state[..LEGACY_SIZE])?;
    let (whole, size) = (word(&state, SOFTWARE + 4) as usize, word(&state, SOFTWARE + 16) as usize);
    let claims = word(&state, SOFTWARE) == MAGIC && (LEAST_SIZE..=layout.size).contains(&size) && size <= whole;
    let wanted = long(&state, SOFTWARE + 8);
    state[SOFTWARE..LEGACY_SIZE].fill(0);
    let mut present = X87 | SSE;
    if layout.is_extended() && claims {
        read(LEGACY_SIZE as u64, &mut state[LEGACY_SIZE..layout.size + 4])?;
    }
    // A frame that ends otherwise was made by a program that knows of x87 and SSE alone.
    if layout.is_extended() && claims && word(&state, size) == MAGIC_END {
        let header = &state[PRESENT..LEAST_SIZE];
        present = long(header, 0);
        if present & !layout.states != 0 || header[8..CHECKED].iter().any(|byte| *byte != 0) {
            return Ok(None);
        }
        state[PRESENT + CHECKED..LEAST_SIZE].fill(0);
        present &= wanted;
        if present & SSE == 0 {
            // MXCSR is loaded all the same, and the registers are those after reset.
            state[XMM].fill(0);
            present |= SSE;
        }
    } else {
        state[LEGACY_SIZE..].fill(0);
    }
    let known = match word(now, MXCSR_MASK) {
        0 => MXCSR_BITS,
        mask => mask,
    };
    if word(&state, MXCSR) & !known != 0 {
        return Ok(None);
    }
    put(&mut state, PRESENT, &present.to_le_bytes());
    state.truncate(STATE_SIZE);
    // Bytes behind the last state, where the second magic was.
    state[layout.size.max(LEAST_SIZE)..].fill(0);
    Ok(Some(state))
}

/// Which floating-point error raised an exception: `si_code` of SIGFPE; of SSE where `simd`.
pub fn error_code(state: &[u8], simd: bool) -> i32 {
    let half = |at: usize| u16::from_le_bytes([state[at], state[at + 1]]);
    let errors = if simd { half(MXCSR) & !(half(MXCSR) >> 7) } else { half(STATUS) & !half(CONTROL) };
    match errors & 0x3f {
        bits if bits & 1 != 0 => 7,
        bits if bits & 4 != 0 => 3,
        bits if bits & 8 != 0 => 4,
        bits if bits & 0x12 != 0 => 5,
        bits if bits & 0x20 != 0 => 6,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// x87, SSE and AVX.
    fn layout() -> Layout {
        Layout::new(7, |_| (576, 256))
    }

    fn state() -> Vec<u8> {
        let mut state = initial();
        state[XMM].fill(7);
        state[576..832].fill(9);
        put(&mut state, PRESENT, &7u64.to_le_bytes());
        put(&mut state, MXCSR_MASK, &0xffffu32.to_le_bytes());
        state
    }

    fn back(frame: &[u8]) -> Option<Vec<u8>> {
        from_frame(&state(), layout(), |offset, bytes| {
            let from = frame.get(offset as usize..offset as usize + bytes.len()).ok_or(Errno::FAULT)?;
            bytes.copy_from_slice(from);
            Ok(())
        })
        .unwrap_or(None)
    }

    #[test]
    fn a_frame_gives_back_what_went_into_it() {
        let frame = to_frame(&state(), layout());
        assert_eq!((frame.len(), word(&frame, 832), word(&frame, SOFTWARE)), (836, MAGIC_END, MAGIC));
        assert_eq!(back(&frame), Some(state()));
        let plain = Layout::new(0, |_| (0, 0));
        assert_eq!((plain.frame_size(), to_frame(&state(), plain).len()), (516, 516));
    }

    #[test]
    fn a_frame_without_its_end_is_one_of_the_legacy_area() {
        let mut frame = to_frame(&state(), layout());
        frame[832] ^= 1;
        let taken = back(&frame).unwrap();
        assert_eq!((long(&taken, PRESENT), &taken[XMM], taken[600]), (X87 | SSE, &[7; 256][..], 0));
    }

    #[test]
    fn states_that_are_left_out_are_those_after_reset_and_mxcsr_is_loaded() {
        let mut frame = to_frame(&state(), layout());
        put(&mut frame, PRESENT, &4u64.to_le_bytes());
        put(&mut frame, MXCSR, &0x1fa0u32.to_le_bytes());
        let taken = back(&frame).unwrap();
        assert_eq!((long(&taken, PRESENT), word(&taken, MXCSR), taken[160], taken[600]), (6, 0x1fa0, 0, 9));
        put(&mut frame, SOFTWARE + 8, &3u64.to_le_bytes());
        assert_eq!(back(&frame).map(|taken| long(&taken, PRESENT)), Some(2));
    }

    #[test]
    fn what_xrstor_would_not_take_is_no_state() {
        for (at, value) in [(PRESENT, 1 << 9), (PRESENT + 8, 1 << 63), (PRESENT + 16, 1)] {
            let mut frame = to_frame(&state(), layout());
            put(&mut frame, at, &u64::to_le_bytes(value));
            assert_eq!(back(&frame), None, "{at}");
        }
        let mut frame = to_frame(&state(), layout());
        put(&mut frame, MXCSR, &0x1_1f80u32.to_le_bytes());
        assert_eq!(back(&frame), None);
    }

    proptest! {
        #[test]
        fn whatever_a_frame_holds_only_known_states_come_out(
            mut frame in prop::collection::vec(any::<u8>(), 836),
            whole in any::<bool>(),
        ) {
            if whole {
                put(&mut frame, SOFTWARE, &MAGIC.to_le_bytes());
                put(&mut frame, SOFTWARE + 4, &836u32.to_le_bytes());
                put(&mut frame, SOFTWARE + 16, &832u32.to_le_bytes());
                put(&mut frame, 832, &MAGIC_END.to_le_bytes());
                frame[PRESENT + 8..PRESENT + CHECKED].fill(0);
                frame[PRESENT + 1..PRESENT + 8].fill(0);
                frame[MXCSR + 2..MXCSR + 4].fill(0);
            }
            if let Some(taken) = back(&frame) {
                prop_assert_eq!(long(&taken, PRESENT) & !7, 0);
                prop_assert_eq!(word(&taken, MXCSR) >> 16, 0);
                prop_assert!(taken[PRESENT + 8..LEAST_SIZE].iter().chain(&taken[832..]).all(|byte| *byte == 0));
                prop_assert_eq!(taken.len(), STATE_SIZE);
            }
        }
    }

    #[test]
    fn a_floating_point_error_is_named_by_the_bits_that_are_not_masked() {
        let mut state = state();
        put(&mut state, MXCSR, &(0x1f80u32 & !(4 << 7) | 4).to_le_bytes());
        assert_eq!((error_code(&state, true), error_code(&state, false)), (3, 0));
        put(&mut state, CONTROL, &(0x37f_u16 & !1).to_le_bytes());
        put(&mut state, STATUS, &0x81u16.to_le_bytes());
        assert_eq!(error_code(&state, false), 7);
    }
}
