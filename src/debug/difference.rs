//! Where two sequences differ: the shortest ways from one common stretch to the next, found greedily.
//!
//! Golden traces are compared by it. Sequences that have nothing in common for [`REACH`] elements are not brought together
//! again: their rest counts as one difference.

use std::ops::Range;

/// Elements that are looked ahead, in both sequences together.
const REACH: usize = 600;
/// Elements in a row that have to agree for the sequences to be together again.
const AGREEING: usize = 2;

/// A stretch of the first sequence in whose place the second has another one; either may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Indices in the first.
    pub expected: Range<usize>,
    /// Indices in the second.
    pub got: Range<usize>,
}

/// The differences between sequences of these lengths, ascending; `same` compares an element of the first with one of the
/// second.
pub fn differences(expected: usize, got: usize, same: impl Fn(usize, usize) -> bool) -> Vec<Difference> {
    let mut found = Vec::new();
    let (mut e, mut g) = (0, 0);
    loop {
        while e < expected && g < got && same(e, g) {
            (e, g) = (e + 1, g + 1);
        }
        if e == expected && g == got {
            return found;
        }
        let together = |e: usize, g: usize| {
            let agree = |step: usize| match (e + step, g + step) {
                (e, g) if e < expected && g < got => same(e, g),
                // Both at their ends agree, too.
                (e, g) => e >= expected && g >= got,
            };
            e <= expected && g <= got && (0..AGREEING).all(agree)
        };
        let ways = (1..=REACH).flat_map(|both| (0..=both).map(move |first| (e + first, g + both - first)));
        let (next_e, next_g) = ways.into_iter().find(|&(e, g)| together(e, g)).unwrap_or((expected, got));
        found.push(Difference { expected: e..next_e, got: g..next_g });
        (e, g) = (next_e, next_g);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(expected: &str, got: &str) -> Vec<(Range<usize>, Range<usize>)> {
        let (first, second) = (expected.as_bytes(), got.as_bytes());
        let found = differences(first.len(), second.len(), |e, g| first[e] == second[g]);
        found.into_iter().map(|difference| (difference.expected, difference.got)).collect()
    }

    #[test]
    fn equal_sequences_do_not_differ() {
        assert_eq!(between("", ""), []);
        assert_eq!(between("abc", "abc"), []);
    }

    #[test]
    fn what_is_missing_added_or_another_is_found_and_what_follows_is_together_again() {
        assert_eq!(between("abcdef", "abdef"), [(2..3, 2..2)]);
        assert_eq!(between("abdef", "abcdef"), [(2..2, 2..3)]);
        assert_eq!(between("abcdef", "abXdef"), [(2..3, 2..3)]);
        assert_eq!(between("abcdefgh", "XbcdefYh"), [(0..1, 0..1), (6..7, 6..7)]);
        assert_eq!(between("abc", "abcd"), [(3..3, 3..4)]);
        assert_eq!(between("abcd", ""), [(0..4, 0..0)]);
    }

    #[test]
    fn sequences_without_anything_in_common_differ_once() {
        let (expected, got) = ("a".repeat(1000), "b".repeat(900));
        assert_eq!(between(&expected, &got), [(0..1000, 0..900)]);
    }
}
