//! What every device must keep, whatever it is: one macro that each device's tests invoke.

use crate::bus::device::{BusDevice, DeviceState, Lifecycle, StateError};

/// Adds the conformance tests of a device: how to build one, and how many bytes of registers it has.
macro_rules! conformance {
    ($build:expr, $span:expr) => {
        mod conformance {
            use super::*;
            use crate::devices::conformance as suite;

            #[test]
            fn reset_gives_the_first_state_however_often() {
                suite::reset_gives_the_first_state(|| $build, $span);
            }
            #[test]
            fn a_restored_device_reads_like_the_saved_one() {
                suite::restore_continues(|| $build, $span);
            }
            #[test]
            fn every_offset_and_size_is_survived() {
                suite::survives_any_access(|| $build, $span);
            }
            #[test]
            fn a_state_that_is_not_its_own_is_refused() {
                suite::refuses_foreign_states(|| $build, $span);
            }
        }
    };
}
pub(crate) use conformance;

/// Values that reach the corners of most registers.
const PATTERNS: [u64; 5] = [0, u64::MAX, 0xa5a5_a5a5_a5a5_a5a5, 0x0123_4567_89ab_cdef, 0x01];

/// Writes `value` everywhere, in every size.
fn poke<D: BusDevice>(device: &mut D, span: u64, value: u64) {
    for size in 1..=8u8 {
        let value = value & (u64::MAX >> (64 - 8 * u32::from(size)));
        (0..span).for_each(|offset| device.write(offset, size, value));
    }
}

/// Reads everything, in every size; the order is always the same, because reads may have effects.
fn peek<D: BusDevice>(device: &mut D, span: u64) -> Vec<u64> {
    let places = (1..=8u8).flat_map(|size| (0..span).map(move |offset| (offset, size)));
    places.map(|(offset, size)| device.read(offset, size)).collect()
}

pub fn reset_gives_the_first_state<D: BusDevice + Lifecycle>(build: impl Fn() -> D, span: u64) {
    let first = build().save();
    let mut device = build();
    for value in PATTERNS {
        poke(&mut device, span, value);
        peek(&mut device, span);
        for _ in 0..2 {
            device.reset();
            assert_eq!(device.save(), first);
        }
    }
    assert_eq!(peek(&mut device, span), peek(&mut build(), span));
}

pub fn restore_continues<D: BusDevice + Lifecycle>(build: impl Fn() -> D, span: u64) {
    for value in PATTERNS {
        let mut saved = build();
        poke(&mut saved, span, value);
        let state = saved.save();
        let mut restored = build();
        poke(&mut restored, span, !value);
        restored.restore(&state).unwrap();
        assert_eq!(restored.save(), state);
        assert_eq!(peek(&mut restored, span), peek(&mut saved, span));
        assert_eq!(restored.save(), saved.save());
    }
}

pub fn survives_any_access<D: BusDevice>(build: impl Fn() -> D, span: u64) {
    let mut device = build();
    let offsets = (0..span + 8).chain(u64::MAX - 8..=u64::MAX);
    for (offset, size) in offsets.flat_map(|offset| (1..=8u8).map(move |size| (offset, size))) {
        for value in PATTERNS {
            device.write(offset, size, value & (u64::MAX >> (64 - 8 * u32::from(size))));
            device.read(offset, size);
        }
        for write in [false, true] {
            assert!(device.register_name(offset, write).len() < 32);
        }
    }
}

pub fn refuses_foreign_states<D: BusDevice + Lifecycle>(build: impl Fn() -> D, span: u64) {
    let mut device = build();
    poke(&mut device, span, PATTERNS[2]);
    let state = device.save();
    let mut device = build();
    let before = device.save();
    let foreign = DeviceState { kind: "no device/1", bytes: state.bytes.clone() };
    assert!(matches!(device.restore(&foreign), Err(StateError::Kind { .. })));
    let cut = (0..state.bytes.len()).map(|length| state.bytes[..length].to_vec());
    for bytes in cut.chain([[&state.bytes[..], &[0]].concat()]) {
        let damaged = DeviceState { kind: state.kind, bytes };
        assert!(matches!(device.restore(&damaged), Err(StateError::Value { .. })), "{} bytes", damaged.bytes.len());
        assert_eq!(device.save(), before);
    }
}
