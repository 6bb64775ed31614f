//! 64-bit values that a driver reaches 32 bits at a time: features by a selector, ring addresses by two registers.
//!
//! Source: virtio 1.2 §4.1.4.3, §4.2.2.

/// Half `select` of `value`, 0 the low one; 0 beyond the two that there are.
pub(super) fn half(value: u64, select: u32) -> u32 {
    if select < 2 { (value >> (32 * select)) as u32 } else { 0 }
}

/// `value` with half `select` replaced; as it was beyond the two that there are.
pub(super) fn with_half(value: u64, select: u32, half: u32) -> u64 {
    match select {
        0 => value & !0xffff_ffff | u64::from(half),
        1 => value & 0xffff_ffff | u64::from(half) << 32,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_half_is_read_and_replaced_alone() {
        let value = 0x1111_2222_3333_4444;
        assert_eq!([0, 1, 2, u32::MAX].map(|select| half(value, select)), [0x3333_4444, 0x1111_2222, 0, 0]);
        assert_eq!(with_half(value, 0, 5), 0x1111_2222_0000_0005);
        assert_eq!(with_half(value, 1, 5), 0x0000_0005_3333_4444);
        assert_eq!(with_half(value, 2, 5), value);
    }
}
