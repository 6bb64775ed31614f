//! Which accesses to model-specific registers exit to user space although KVM could answer them: the user's words, and KVM's
//! form of them, bitmaps of what is allowed.
//!
//! x2APIC registers are outside: KVM answers them past the filter.
//! Source: KVM API KVM_X86_SET_MSR_FILTER.

use crate::arch::msr;
use kvm_bindings::{KVM_MSR_FILTER_MAX_BITMAP_SIZE, KVM_MSR_FILTER_MAX_RANGES};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Registers that cannot be filtered.
const X2APIC: RangeInclusive<u32> = 0x800..=0x8ff;
/// Registers that one bitmap covers.
const BITMAP_MAX: u32 = KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8;

/// Registers whose accesses exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsrFilter {
    /// As the user put it.
    text: String,
    /// All but x2APIC's; else those that the bitmaps deny.
    all: bool,
    bitmaps: Vec<Bitmap>,
}

/// Which of the registers from `base` on are allowed: a bit for each, from the lowest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bitmap {
    base: u32,
    count: u32,
    bits: Vec<u8>,
}

impl Bitmap {
    /// All registers from `base` to `last` allowed, as far as they are not denied already.
    fn reach(&mut self, last: u32) {
        self.count = last - self.base + 1;
        self.bits.resize(self.count.div_ceil(8) as usize, 0xff);
    }

    fn deny(&mut self, register: u32) {
        let at = register - self.base;
        self.bits[at as usize / 8] &= !(1 << (at % 8));
    }
}

impl FromStr for MsrFilter {
    type Err = String;

    /// `all`, or numbers, names and ranges of numbers with commas between them.
    fn from_str(text: &str) -> Result<MsrFilter, String> {
        if text == "all" {
            // KVM wants one range at least beside "deny".
            let bitmaps = vec![Bitmap { base: 0, count: 1, bits: vec![0] }];
            return Ok(MsrFilter { text: "all".into(), all: true, bitmaps });
        }
        let mut ranges = Vec::new();
        for word in text.split(',') {
            ranges.extend(registers(word.trim())?);
        }
        if ranges.iter().any(|range| range.start() <= X2APIC.end() && range.end() >= X2APIC.start()) {
            return Err("0x800 to 0x8ff are registers of the x2APIC: KVM answers them itself and lets nobody filter \
                        them"
                .into());
        }
        ranges.sort_by_key(|range| *range.start());
        Ok(MsrFilter { text: text.into(), all: false, bitmaps: bitmaps(&ranges)? })
    }
}

/// What the user means by a word.
fn registers(word: &str) -> Result<Vec<RangeInclusive<u32>>, String> {
    let named = msr::numbers(word);
    if !named.is_empty() {
        return Ok(named);
    }
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(vec![first..=last]),
        _ => {
            Err(format!("{word:?} is no register: use a number (0x1b), a range (0x10-0x1f), a name (IA32_EFER) or all"))
        }
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Bitmaps that deny `ranges`, which ascend.
fn bitmaps(ranges: &[RangeInclusive<u32>]) -> Result<Vec<Bitmap>, String> {
    let mut bitmaps: Vec<Bitmap> = Vec::new();
    for range in ranges {
        let mut next = *range.start();
        loop {
            if bitmaps.last().is_none_or(|bitmap| next - bitmap.base >= BITMAP_MAX) {
                if bitmaps.len() == KVM_MSR_FILTER_MAX_RANGES as usize {
                    return Err(format!(
                        "too far apart: KVM's filter has {} bitmaps of {BITMAP_MAX} registers",
                        bitmaps.len()
                    ));
                }
                bitmaps.push(Bitmap { base: next, count: 0, bits: Vec::new() });
            }
            let bitmap = bitmaps.last_mut().expect("one was pushed");
            let last = (*range.end()).min(bitmap.base.saturating_add(BITMAP_MAX - 1));
            if last - bitmap.base >= bitmap.count {
                bitmap.reach(last);
            }
            (next..=last).for_each(|register| bitmap.deny(register));
            if last >= *range.end() {
                break;
            }
            next = last + 1;
        }
    }
    Ok(bitmaps)
}

impl MsrFilter {
    /// What happens to registers in no range.
    pub(super) fn default_action(&self) -> MsrFilterDefaultAction {
        if self.all { MsrFilterDefaultAction::DENY } else { MsrFilterDefaultAction::ALLOW }
    }

    /// The ranges, as KVM takes them.
    pub(super) fn ranges(&self) -> Vec<MsrFilterRange<'_>> {
        let flags = MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE;
        let bitmaps = self.bitmaps.iter();
        bitmaps.map(|map| MsrFilterRange { flags, base: map.base, msr_count: map.count, bitmap: &map.bits }).collect()
    }
}

impl fmt::Display for MsrFilter {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The registers that a filter denies by bitmap.
    fn denied(text: &str) -> Vec<u32> {
        let filter: MsrFilter = text.parse().unwrap();
        let of_one = |bitmap: &Bitmap| {
            let bit = |at: &u32| bitmap.bits[*at as usize / 8] >> (at % 8) & 1 == 0;
            (0..bitmap.count).filter(bit).map(|at| bitmap.base + at).collect::<Vec<_>>()
        };
        filter.bitmaps.iter().flat_map(of_one).collect()
    }

    #[test]
    fn words_become_the_registers_that_they_mean() {
        assert_eq!(denied("0x1b, 16-18"), [16, 17, 18, 0x1b]);
        assert_eq!(denied("efer,IA32_APIC_BASE,0x1b"), [0x1b, 0xc000_0080]);
        assert_eq!(denied("IA32_FIXED_CTRx"), [0x309, 0x30a, 0x30b, 0x30c]);
        assert_eq!(denied("0xffffffff"), [u32::MAX]);
        assert_eq!(denied("0x2000-0x6000").len(), 0x4001, "two bitmaps");
    }

    #[test]
    fn words_that_mean_nothing_possible_are_explained() {
        let error = |text: &str| text.parse::<MsrFilter>().unwrap_err();
        assert!(error("0x830").contains("x2APIC") && error("0-0x1000").contains("x2APIC"));
        assert!(error("IA32_X2APIC_x").contains("x2APIC"));
        assert!(error("frob").contains("IA32_EFER") && error("").contains("number") && error("5-4").contains("range"));
        assert!(error("0x1000-0xffffffff").contains("16 bitmaps"));
    }

    #[test]
    fn all_denies_by_default() {
        let all: MsrFilter = "all".parse().unwrap();
        assert!(matches!(all.default_action(), MsrFilterDefaultAction::DENY));
        assert_eq!((all.ranges().len(), all.to_string().as_str()), (1, "all"));
    }
}
