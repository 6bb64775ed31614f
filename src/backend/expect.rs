//! Watching what the guest prints: `--expect`, `--send`, `--reject`, and the last words of a Linux kernel.
//!
//! Patterns match the stream without escape sequences and carriage returns ([`super::plain_text`]), prompts without a
//! newline included. Expectations are met in order, each in what follows the match before it. `$` is the end of a line, or
//! of the output where the guest paused. Of two things the one that ended earlier in the stream comes first, and at the
//! same byte `--reject` comes before an expectation. A panic is told when its line is complete, so an expectation of that
//! very line is met before.

use super::last_lines::LastLines;
use super::plain_text::PlainText;
use super::stream_pattern::{PatternError, StreamPatterns};

/// What a Linux kernel prints when it panics (kernel/panic.c).
const LINUX_PANIC: &str = "Kernel panic - not syncing";

/// Name of the preset for `--reject`.
pub const LINUX: &str = "linux";

/// `--reject linux`: reports of the kernel that mean a bug (lib/bug.c, kernel/panic.c, kernel/hung_task.c,
/// kernel/rcu/tree_stall.h, arch/x86/kernel/traps.c, lib/ubsan.c).
const LINUX_REJECTS: [&str; 8] = [
    r"\bBUG: ",
    r"\bkernel BUG at ",
    r"\bWARNING: ",
    r"\bOops: ",
    r"\bgeneral protection fault\b",
    r"\bINFO: task .* blocked for more than ",
    r"\bINFO: rcu_\w+ (self-)?detected ",
    r"\bUBSAN: ",
];

/// One `--expect` with its `--send`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The regular expression.
    pub pattern: String,
    /// What is typed when it matched.
    pub send: Vec<u8>,
}

/// What to watch for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// What must come, in this order.
    pub expect: Vec<Expectation>,
    /// What must not come: regular expressions, or the name of a preset: `linux`.
    pub reject: Vec<String>,
    /// Whether the guest is a Linux kernel, whose panic shows on its console.
    pub linux: bool,
}

/// Something that the watcher saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The expectation of this index was met: type this.
    Matched {
        /// Index into [`Watch::expect`].
        index: usize,
        /// Bytes to type.
        send: Vec<u8>,
    },
    /// The last expectation was met.
    AllMet,
    /// A pattern of `--reject` matched. Nothing more is watched for.
    Rejected {
        /// The pattern, behind the name of its preset if it has one: `linux: \bBUG: `.
        pattern: String,
        /// The line it matched in.
        line: String,
    },
    /// The guest's Linux kernel panicked. Told once.
    Panicked {
        /// The line that says so.
        line: String,
    },
}

/// Follows the console. Feed it everything, and tell it when the guest pauses.
pub struct Watcher {
    text: PlainText,
    expectations: Vec<(Expectation, StreamPatterns)>,
    met: usize,
    /// What each of the alarm patterns is called in a report.
    alarms: Vec<String>,
    /// Their automaton. That of the panic alone is built with the first output: a start would wait for it.
    alarm_patterns: Option<StreamPatterns>,
    /// The one that is the panic of a Linux kernel.
    panic: Option<usize>,
    /// The alarm that matched in the line that is not complete yet.
    raised: Option<usize>,
    panicked: bool,
    /// A reject matched: nothing counts any more.
    over: bool,
    previous: Option<u8>,
    lines: LastLines,
}

impl Watcher {
    /// A watcher at the beginning of the console.
    ///
    /// # Errors
    /// A pattern cannot be used.
    pub fn new(watch: Watch) -> Result<Watcher, PatternError> {
        let (waits, mut alarms, mut patterns) = (watch.reject.is_empty(), Vec::new(), Vec::new());
        for reject in watch.reject {
            if reject == LINUX {
                alarms.extend(LINUX_REJECTS.map(|pattern| format!("{LINUX}: {pattern}")));
                patterns.extend(LINUX_REJECTS.map(str::to_owned));
            } else {
                alarms.push(reject.clone());
                patterns.push(reject);
            }
        }
        let panic = watch.linux.then_some(alarms.len());
        if watch.linux {
            alarms.push(LINUX_PANIC.to_owned());
            patterns.push(LINUX_PANIC.to_owned());
        }
        let alarm_patterns = if waits { None } else { Some(StreamPatterns::new(&patterns)?) };
        let with_pattern = |expectation: Expectation| {
            let pattern = StreamPatterns::new(&[&expectation.pattern])?;
            Ok((expectation, pattern))
        };
        Ok(Watcher {
            text: PlainText::default(),
            expectations: watch.expect.into_iter().map(with_pattern).collect::<Result<_, _>>()?,
            met: 0,
            alarms,
            alarm_patterns,
            panic,
            raised: None,
            panicked: false,
            over: false,
            previous: None,
            lines: LastLines::default(),
        })
    }

    /// Takes the next bytes of the console.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            if self.text.keeps(byte) {
                self.step(byte, &mut events);
            }
        }
        if let Some(alarms) = self.open_alarms() {
            self.raised = alarms.settled();
        }
        if let Some((_, pattern)) = self.open_expectation()
            && pattern.settled().is_some()
        {
            self.meet(&mut events);
        }
        self.tell_alarm(self.previous == Some(b'\n'), &mut events);
        events
    }

    /// The guest has printed nothing for a while, or will not print again: `$` holds here, and the line is complete.
    pub fn paused(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if let Some(alarms) = self.open_alarms() {
            self.raised = alarms.at_end();
        }
        if let Some((_, pattern)) = self.open_expectation()
            && pattern.at_end().is_some()
        {
            self.meet(&mut events);
        }
        self.tell_alarm(true, &mut events);
        events
    }

    /// The last lines of the console, oldest first, the unfinished one included.
    pub fn last_lines(&self) -> Vec<String> {
        self.lines.all()
    }

    /// How many expectations were met.
    pub fn met(&self) -> usize {
        self.met
    }

    /// The first expectation that was not met.
    pub fn unmet(&self) -> Option<&Expectation> {
        self.expectations.get(self.met).map(|(expectation, _)| expectation)
    }

    fn step(&mut self, byte: u8, events: &mut Vec<Event>) {
        if let Some(alarms) = self.open_alarms() {
            self.raised = alarms.step(byte);
            // The match ended before this byte; where that was the end of a line, the line is complete already.
            self.tell_alarm(self.previous == Some(b'\n'), events);
        }
        // An expectation met before this byte leaves the byte to the next one.
        while let Some((_, pattern)) = self.open_expectation()
            && pattern.step(byte).is_some()
        {
            self.meet(events);
        }
        self.lines.push(byte);
        self.previous = Some(byte);
        self.tell_alarm(byte == b'\n', events);
    }

    /// The automaton of the alarms, where one can still be raised.
    fn open_alarms(&mut self) -> Option<&mut StreamPatterns> {
        let open = !self.alarms.is_empty() && self.raised.is_none() && !self.over;
        let panic = || StreamPatterns::new(&[LINUX_PANIC]).expect("words are a pattern");
        open.then(|| self.alarm_patterns.get_or_insert_with(panic))
    }

    /// The expectation to be met next, unless a reject came first.
    fn open_expectation(&mut self) -> Option<&mut (Expectation, StreamPatterns)> {
        let rejected = self.over || (self.raised.is_some() && self.raised != self.panic);
        if rejected { None } else { self.expectations.get_mut(self.met) }
    }

    fn meet(&mut self, events: &mut Vec<Event>) {
        let index = self.met;
        let send = self.expectations[index].0.send.clone();
        events.push(Event::Matched { index, send });
        self.met += 1;
        match self.expectations.get_mut(self.met) {
            Some((_, pattern)) => pattern.restart(self.previous),
            None => events.push(Event::AllMet),
        }
    }

    /// Reports a raised alarm once its line is complete, so that the report holds all of it.
    fn tell_alarm(&mut self, line_complete: bool, events: &mut Vec<Event>) {
        let Some(which) = self.raised.filter(|_| line_complete) else { return };
        self.raised = None;
        let line = self.lines.latest();
        if Some(which) == self.panic {
            // The machine may go on (`--on-panic continue`), and then rejects still count.
            if let Some(alarms) = &mut self.alarm_patterns {
                alarms.restart(self.previous);
            }
            if !std::mem::replace(&mut self.panicked, true) {
                events.push(Event::Panicked { line });
            }
        } else {
            self.over = true;
            events.push(Event::Rejected { pattern: self.alarms[which].clone(), line });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(patterns: &[(&str, &str)]) -> Vec<Expectation> {
        let expectation =
            |(pattern, send): &(&str, &str)| Expectation { pattern: (*pattern).into(), send: send.as_bytes().into() };
        patterns.iter().map(expectation).collect()
    }

    fn watcher(expected: &[(&str, &str)], reject: &[&str], linux: bool) -> Watcher {
        let reject = reject.iter().map(|&pattern| pattern.to_owned()).collect();
        Watcher::new(Watch { expect: expect(expected), reject, linux }).unwrap()
    }

    fn matched(index: usize, send: &str) -> Event {
        Event::Matched { index, send: send.as_bytes().into() }
    }

    fn rejected(pattern: &str, line: &str) -> Event {
        Event::Rejected { pattern: pattern.into(), line: line.into() }
    }

    /// All events of `stream`, fed in pieces of `size` bytes, with a pause at the end.
    fn events(mut watcher: Watcher, stream: &[u8], size: usize) -> Vec<Event> {
        let mut events: Vec<Event> = stream.chunks(size).flat_map(|piece| watcher.feed(piece)).collect();
        events.extend(watcher.paused());
        events
    }

    #[test]
    fn prompts_match_without_a_newline_and_in_any_pieces() {
        let stream = b"\x1b[2J\r\nboot\r\nlog\x1b[1min\x1b[0m: \r\nPass\rword: ";
        for size in 1..=stream.len() {
            let watcher = watcher(&[("^login: ", "root\n"), ("Password: ", "")], &[], false);
            assert_eq!(events(watcher, stream, size), [matched(0, "root\n"), matched(1, ""), Event::AllMet]);
        }
    }

    #[test]
    fn expectations_are_met_in_order_and_each_behind_the_last() {
        let stream = b"two one one two";
        let in_order = watcher(&[("one", ""), ("two", "")], &[], false);
        assert_eq!(events(in_order, stream, 99), [matched(0, ""), matched(1, ""), Event::AllMet]);
        let mut twice = watcher(&[("two", ""), ("two", ""), ("two", "")], &[], false);
        assert_eq!(twice.feed(stream), [matched(0, ""), matched(1, "")]);
        assert_eq!((twice.met(), twice.unmet().unwrap().pattern.as_str()), (2, "two"));
    }

    #[test]
    fn a_dollar_waits_for_the_pause_or_the_end_of_the_line() {
        let mut prompt = watcher(&[("# $", "ls\n")], &[], false);
        assert_eq!(prompt.feed(b"# "), []);
        assert_eq!(prompt.feed(b"not yet\n# "), []);
        assert_eq!(prompt.paused(), [matched(0, "ls\n"), Event::AllMet]);
        assert_eq!(watcher(&[("^ok$", "")], &[], false).feed(b"not ok\nok\n"), [matched(0, ""), Event::AllMet]);
    }

    #[test]
    fn a_reject_reports_its_whole_line_and_ends_the_watch() {
        let stream = b"fine\n[ 1.0] BUG: bad page\nok\nBUG: again\n";
        for size in 1..=stream.len() {
            let watcher = watcher(&[("ok", "")], &["linux"], true);
            assert_eq!(events(watcher, stream, size), [rejected(r"linux: \bBUG: ", "[ 1.0] BUG: bad page")], "{size}");
        }
        let unfinished = watcher(&[], &["oh no"], false);
        assert_eq!(events(unfinished, b"x oh no, ", 3), [rejected("oh no", "x oh no, ")]);
    }

    #[test]
    fn a_reject_comes_before_an_expectation_of_the_same_byte_but_not_of_an_earlier_one() {
        assert_eq!(events(watcher(&[("fail", "")], &["fail"], false), b"fail", 1), [rejected("fail", "fail")]);
        let earlier = watcher(&[("done", "")], &["fail"], false);
        let expected = [matched(0, ""), Event::AllMet, rejected("fail", "fail")];
        assert_eq!(events(earlier, b"done\nfail\n", 99), expected);
    }

    #[test]
    fn linux_reports_are_rejected_by_the_preset() {
        for line in [
            "BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "kernel BUG at mm/slub.c:4023!",
            "WARNING: CPU: 0 PID: 1 at kernel/sched/core.c:1 f+0x0/0x0",
            "Oops: 0002 [#1] SMP NOPTI",
            "general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
            "INFO: task kworker/0:1:13 blocked for more than 120 seconds.",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [init:1]",
        ] {
            let line = format!("[    1.234567] {line}");
            let seen = events(watcher(&[], &["linux"], false), format!("{line}\n").as_bytes(), 7);
            assert!(matches!(&seen[..], [Event::Rejected { line: found, .. }] if *found == line), "{line}: {seen:?}");
        }
        let harmless = b"DEBUG: x\nBUGS: none\nERST: disabled\n";
        assert_eq!(events(watcher(&[], &["linux"], true), harmless, 7), []);
    }

    #[test]
    fn a_linux_panic_is_told_once_with_its_line_and_may_be_expected() {
        let line = "[ 0.5] Kernel panic - not syncing: VFS: Unable to mount root fs";
        let stream = format!("{line}\n---[ end Kernel panic - not syncing: VFS ]---\n");
        let panicked = Event::Panicked { line: line.into() };
        for size in 1..=stream.len() {
            assert_eq!(
                events(watcher(&[], &["linux"], true), stream.as_bytes(), size),
                std::slice::from_ref(&panicked)
            );
        }
        let wanted = watcher(&[("not syncing: VFS", "")], &[], true);
        assert_eq!(events(wanted, stream.as_bytes(), 5), [matched(0, ""), Event::AllMet, panicked]);
        assert_eq!(events(watcher(&[], &[], false), stream.as_bytes(), 5), []);
    }

    #[test]
    fn sec48_a_long_output_without_a_newline_costs_neither_memory_nor_time_beyond_its_length() {
        let mut watcher = watcher(&[("a.*b$", "")], &["linux"], true);
        let piece = [b'a'; 1 << 16];
        for _ in 0..16 {
            assert_eq!(watcher.feed(&piece), []);
        }
        let kept: usize = watcher.last_lines().iter().map(String::len).sum();
        assert!(kept < 4096, "{kept}");
        assert_eq!(watcher.feed(b"b\n"), [matched(0, ""), Event::AllMet]);
    }
}
