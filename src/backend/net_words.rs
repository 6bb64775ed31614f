//! What Hostel's own machines and switches say between the frames of a stream (`net_stream.rs`).
//!
//! A frame's length has never its top bit set, so what has is something else:
//!
//! | bytes | from | says |
//! |---|---|---|
//! | ff "hostel" 02 | a machine, before all else | from here on frames come with their virtio header, and are wanted so |
//! | the same | the switch | granted: from here on frames come so |
//! | 80 00 00 NN | a machine, at any time | its driver does this itself: 1 checksums, 2 and 4 segments of TCP over IPv4 and IPv6 |
//! | 81 00 00 CC | a machine | it sends by cable CC now: this was the last that came here |
//! | 82 00 NN CC | the switch, with a socket | that is cable CC, to a machine whose driver does NN |
//! | 83 00 00 CC | the switch | the other end has sent its last here: the next comes by cable CC |
//!
//! What cables are, `net_cable.rs` tells; by them come frames with their header, and no words.

use super::net_port::{GUEST_CSUM, GUEST_TSO4, GUEST_TSO6};

/// What a machine says first, and what it is answered.
pub(super) const HELLO: [u8; 8] = *b"\xffhostel\x02";
/// The bit that no length has.
pub(super) const WORD: u32 = 1 << 31;

/// Offloads that a word tells of, a bit each in this order.
const DOES: [u64; 3] = [GUEST_CSUM, GUEST_TSO4, GUEST_TSO6];

/// A word behind the greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The machine's driver does these offloads itself.
    Does(u64),
    /// The machine has sent its last here, and goes on by this cable.
    Moved(u8),
    /// Here is a cable, to a machine whose driver does these offloads.
    Cable(u8, u64),
    /// The next comes by this cable.
    End(u8),
}

impl Word {
    /// As it is sent.
    pub(super) fn bytes(self) -> [u8; 4] {
        let does = |features| {
            let done = DOES.iter().enumerate().filter(|(_, feature)| features & *feature != 0);
            done.fold(0, |bits, (bit, _)| bits | 1 << bit)
        };
        match self {
            Word::Does(features) => [0x80, 0, 0, does(features)],
            Word::Moved(number) => [0x81, 0, 0, number],
            Word::Cable(number, features) => [0x82, 0, does(features), number],
            Word::End(number) => [0x83, 0, 0, number],
        }
    }

    /// What these bytes say, if anything.
    pub(super) fn of(bytes: [u8; 4]) -> Option<Word> {
        let features = |bits: u8| {
            let does = |(bit, feature): (usize, &u64)| if bits & (1 << bit) != 0 { *feature } else { 0 };
            DOES.iter().enumerate().map(does).sum()
        };
        match bytes {
            [0x80, 0, 0, does @ 0..8] => Some(Word::Does(features(does))),
            [0x81, 0, 0, number] => Some(Word::Moved(number)),
            [0x82, 0, does @ 0..8, number] => Some(Word::Cable(number, features(does))),
            [0x83, 0, 0, number] => Some(Word::End(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_was_said_and_nothing_else_is_one() {
        for word in [Word::Does(GUEST_CSUM | GUEST_TSO6), Word::Moved(255), Word::Cable(7, GUEST_TSO4), Word::End(0)] {
            assert_eq!(Word::of(word.bytes()), Some(word));
            assert!(u32::from_be_bytes(word.bytes()) & WORD != 0);
        }
        assert_eq!(Word::Does(GUEST_CSUM | GUEST_TSO6 | 1 << 40).bytes(), [0x80, 0, 0, 5]);
        assert_eq!(Word::Cable(9, u64::MAX).bytes(), [0x82, 0, 7, 9]);
        for none in
            [[0x80, 0, 0, 8], [0x80, 0, 1, 0], [0x81, 1, 0, 0], [0x82, 0, 8, 0], [0x83, 0, 1, 0], [0x84, 0, 0, 0]]
        {
            assert_eq!(Word::of(none), None);
        }
    }
}
