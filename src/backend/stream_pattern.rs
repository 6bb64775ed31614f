//! Regular expressions over an endless stream, one byte at a time: no window, no rescanning, bounded memory.
//!
//! A lazily built automaton is stepped with each byte and keeps its place between calls, so a pattern may span any number
//! of bytes, lines and calls. A match is found at its earliest end. Source: the documentation of `regex-automata`'s
//! `hybrid::dfa::DFA` ("match states are delayed by one byte").
//!
//! Patterns are over bytes, classes are ASCII; `^` and `$` are the ends of lines.

use regex_automata::Anchored;
use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::{start, syntax};

/// Memory of one automaton's states; beyond it they are forgotten and built again.
const CACHE_BYTES: usize = 512 << 10;

/// Largest automaton before states are built; a pattern beyond it is refused.
const PROGRAM_BYTES: usize = 64 << 10;

/// Bytes that stand for everything that can follow: each kind of look-ahead (`$`, `\b`) differs on two of them.
const FOLLOWERS: [u8; 3] = *b"a \n";

/// A set of patterns that follows a stream.
pub struct StreamPatterns {
    dfa: DFA,
    cache: Cache,
    place: LazyStateID,
}

/// A pattern that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("pattern {pattern:?}: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: String,
}

impl StreamPatterns {
    /// Patterns at the beginning of a stream.
    ///
    /// # Errors
    /// One of them is no regular expression, or too large a one.
    pub fn new<P: AsRef<str>>(patterns: &[P]) -> Result<StreamPatterns, PatternError> {
        let failed = |reason| {
            let bad = patterns.iter().find(|pattern| build(&[pattern.as_ref()]).is_err());
            let pattern = bad.map_or("(all together)", |pattern| pattern.as_ref()).to_owned();
            PatternError { pattern, reason }
        };
        let texts: Vec<&str> = patterns.iter().map(AsRef::as_ref).collect();
        let dfa = build(&texts).map_err(failed)?;
        let cache = dfa.create_cache();
        let mut patterns = StreamPatterns { dfa, cache, place: LazyStateID::default() };
        patterns.restart(None);
        Ok(patterns)
    }

    /// Begins anew behind the byte `previous`; `None` is the beginning of the stream.
    pub fn restart(&mut self, previous: Option<u8>) {
        let from = start::Config::new().look_behind(previous).anchored(Anchored::No);
        self.place = self.dfa.start_state(&mut self.cache, &from).expect("unanchored starts exist and no byte quits");
    }

    /// Takes the next byte. Returns the pattern that matched up to *before* it.
    pub fn step(&mut self, byte: u8) -> Option<usize> {
        self.place = self.dfa.next_state(&mut self.cache, self.place, byte).expect(NEVER_GIVES_UP);
        matched(&self.dfa, &self.cache, self.place)
    }

    /// The pattern that matches up to here, whatever follows.
    pub fn settled(&mut self) -> Option<usize> {
        self.probe(|dfa, cache, place| {
            let mut found = None;
            for byte in FOLLOWERS {
                let next = dfa.next_state(cache, place, byte).expect(NEVER_GIVES_UP);
                found = Some(matched(dfa, cache, next)?);
            }
            found
        })
    }

    /// The pattern that matches up to here if the stream ends here.
    pub fn at_end(&mut self) -> Option<usize> {
        self.probe(|dfa, cache, place| {
            let next = dfa.next_eoi_state(cache, place).expect(NEVER_GIVES_UP);
            matched(dfa, cache, next)
        })
    }

    /// Looks ahead from here without moving. A look can make the cache forget its states and with them our place, so with
    /// a cache half full it is done in a copy.
    fn probe<T>(&mut self, look: impl FnOnce(&DFA, &mut Cache, LazyStateID) -> T) -> T {
        if self.cache.memory_usage() > CACHE_BYTES / 2 {
            return look(&self.dfa, &mut self.cache.clone(), self.place);
        }
        look(&self.dfa, &mut self.cache, self.place)
    }
}

const NEVER_GIVES_UP: &str = "no limit on forgetting states is configured";

fn build(patterns: &[&str]) -> Result<DFA, String> {
    DFA::builder()
        .configure(DFA::config().cache_capacity(CACHE_BYTES))
        .syntax(syntax::Config::new().unicode(false).utf8(false).multi_line(true))
        .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(PROGRAM_BYTES)))
        .build_many(patterns)
        .map_err(|error| innermost(&error))
}

fn matched(dfa: &DFA, cache: &Cache, place: LazyStateID) -> Option<usize> {
    place.is_match().then(|| dfa.match_pattern(cache, place, 0).as_usize())
}

/// The cause at the bottom of an error, which names what is wrong with the pattern; the ones above are about automata.
fn innermost(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => innermost(source),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where (bytes consumed) and which pattern first matches, looking ahead after each byte.
    fn first(patterns: &[&str], stream: &[u8]) -> Option<(usize, usize)> {
        let mut patterns = StreamPatterns::new(patterns).unwrap();
        for (at, &byte) in stream.iter().enumerate() {
            if let Some(which) = patterns.step(byte) {
                return Some((at, which));
            }
            if let Some(which) = patterns.settled() {
                return Some((at + 1, which));
            }
        }
        patterns.at_end().map(|which| (stream.len(), which))
    }

    #[test]
    fn a_match_is_found_at_its_earliest_end() {
        assert_eq!(first(&["login: "], b"debian login: root"), Some((14, 0)));
        assert_eq!(first(&["a+"], b"xaaa"), Some((2, 0)));
        assert_eq!(first(&["abcd", "b"], b"abcd"), Some((2, 1)));
        assert_eq!(first(&["never"], b"nev er"), None);
    }

    #[test]
    fn line_ends_and_word_ends_wait_for_what_follows() {
        assert_eq!(first(&["^ok$"], b"not ok\nok\n"), Some((9, 0)));
        assert_eq!(first(&["foo$"], b"foobar foo"), Some((10, 0)), "at the end of the stream");
        assert_eq!(first(&[r"\bcat\b"], b"concat cats cat."), Some((15, 0)));
        assert_eq!(first(&["(?s)start.*end"], b"start\n\nend"), Some((10, 0)));
    }

    #[test]
    fn bytes_that_are_no_text_are_matched_too() {
        assert_eq!(first(&[r"\xff\x00."], b"a\xff\x00\x80"), Some((4, 0)));
        assert_eq!(first(&["\u{e4}"], "\u{e4}".as_bytes()), Some((2, 0)));
    }

    #[test]
    fn a_pattern_that_forgets_states_still_matches() {
        // Every subset of the last 14 positions is a state: far beyond the cache.
        let mut patterns = StreamPatterns::new(&["a[ab]{14}c"]).unwrap();
        let mut random = 1u32;
        for _ in 0..300_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            assert_eq!(patterns.step(if random >> 31 == 0 { b'a' } else { b'b' }), None);
        }
        assert!(patterns.cache.clear_count() > 0);
        assert!(patterns.dfa.memory_usage() + patterns.cache.memory_usage() < 2 * CACHE_BYTES);
        b"xbaaaaaaaaaaaaaac".iter().for_each(|&byte| assert_eq!(patterns.step(byte), None));
        assert_eq!(patterns.settled(), None, "no a in the right place");
        b"xabbbbbbbbbbbbbbc".iter().for_each(|&byte| assert_eq!(patterns.step(byte), None));
        assert_eq!(patterns.settled(), Some(0));
    }

    #[test]
    fn bad_patterns_are_named() {
        let error = StreamPatterns::new(&["fine", "(open"]).err().unwrap().to_string();
        assert!(error.contains("(open") && error.contains("unclosed group"), "{error}");
        let error = StreamPatterns::new(&["(a{1000}){1000}"]).err().unwrap().to_string();
        assert!(error.contains("(a{1000}){1000}") && error.contains("limit"), "{error}");
    }
}
