//! Values that are right most of the time. Bytes at random would fail each parser's first check and test nothing behind it.

use arbitrary::{Arbitrary, Result, Unstructured};
use hostel::arch::layout::{self, GIB, MIB};

/// A field that is as it should be, but for one time in sixteen: then it holds the wrong value.
#[derive(Debug)]
pub struct Knob<T>(pub Option<T>);

impl<T> Knob<T> {
    /// The field's value, given the right one.
    pub fn or(self, right: T) -> T {
        self.0.unwrap_or(right)
    }
}

impl<T> Default for Knob<T> {
    fn default() -> Knob<T> {
        Knob(None)
    }
}

impl<'a, T: Arbitrary<'a>> Arbitrary<'a> for Knob<T> {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Knob<T>> {
        if u.ratio(15, 16)? { Ok(Knob(None)) } else { Ok(Knob(Some(u.arbitrary()?))) }
    }
}

/// Addresses at which something begins or ends.
const EDGES: &[u64] = &[
    0,
    layout::BOOT_GDT,
    layout::START_INFO,
    layout::ZERO_PAGE,
    layout::CMDLINE,
    layout::FLAT64_ENTRY,
    layout::LOW_RAM_END,
    layout::ACPI_TABLES,
    MIB,
    16 * MIB,
    layout::HOLE_START,
    4 * GIB,
    5 * GIB,
    1 << 52,
    u64::MAX,
];

/// A guest-physical address: mostly a page that is RAM and free, else close to an edge, or any.
#[derive(Clone, Copy, Debug)]
pub struct Address(pub u64);

impl<'a> Arbitrary<'a> for Address {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Address> {
        let page = MIB + u64::from(u.arbitrary::<u16>()?) % 0xf00 * layout::PAGE_SIZE;
        Ok(Address(match u.int_in_range(0..=15)? {
            15 => u.arbitrary()?,
            13 | 14 => u.choose(EDGES)?.wrapping_add_signed(u.arbitrary::<i16>()?.into()),
            11 | 12 => page + u64::from(u.arbitrary::<u16>()?),
            _ => page,
        }))
    }
}

/// A number of any order of magnitude.
#[derive(Clone, Copy, Debug)]
pub struct Magnitude(pub u64);

impl<'a> Arbitrary<'a> for Magnitude {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Magnitude> {
        Ok(Magnitude(u.arbitrary::<u64>()? >> u.int_in_range(0..=63)?))
    }
}

/// What happens to an image that was right: nothing, or single bytes change, or it is cut off.
#[derive(Arbitrary, Debug, Default)]
pub struct Damage {
    bytes: Knob<Vec<(u16, u8)>>,
    cut: Knob<u16>,
}

impl Damage {
    /// Does it to `image`.
    pub fn apply(self, image: &mut Vec<u8>) {
        for (at, byte) in self.bytes.or(Vec::new()) {
            if let Some(old) = image.get_mut(usize::from(at)) {
                *old = byte;
            }
        }
        if let Some(size) = self.cut.0 {
            image.truncate(usize::from(size));
        }
    }
}
