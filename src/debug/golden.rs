//! Golden traces: compares a run's exits with those that a file has, or takes them into the file.

use super::difference::{Difference, differences};
use super::golden_file::{BadLine, Expected, GoldenFile};
use super::normal_form::{NormalForm, Step};
use super::sink::{TraceEnd, TraceSink, Traced, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::{fs, mem};

/// Steps that a golden trace may have; a run that has more is not one to be written down.
const STEPS_MAX: usize = 100_000;
/// Differences that are shown, and lines of one that are.
const SHOWN_MAX: usize = 5;
/// See [`SHOWN_MAX`].
const LINES_MAX: usize = 12;
/// Lines that are shown before a difference.
const LINES_BEFORE: usize = 3;

/// What a new file says of the run: what decides about its exits.
const HEAD_FACTS: [&str; 4] = ["image", "vCPUs", "interrupt controllers", "guest's command line"];

/// Compares a trace with a golden file.
#[derive(Debug)]
pub struct Golden {
    path: PathBuf,
    /// `None`: there is no such file yet.
    file: Option<GoldenFile>,
    /// Whether the file is to take what is seen.
    bless: bool,
    vcpus: BTreeMap<u32, NormalForm>,
    exits: u64,
    is_too_long: bool,
}

/// A golden file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// It cannot be read.
    #[error("read the golden trace {path}: {source}{}", hint(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It has a line that means nothing.
    #[error("golden trace {path}, {source}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, and why.
        source: BadLine,
    },
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == ErrorKind::NotFound { "; --bless writes it" } else { "" }
}

impl Golden {
    /// Reads the golden file at `path`, for this kind of KVM. With `bless` it is written when the run is over, and need not
    /// exist.
    ///
    /// # Errors
    /// It cannot be read, or has a line that means nothing.
    pub fn open(path: &Path, kvm: &str, bless: bool) -> Result<Golden, GoldenError> {
        let file = match fs::read_to_string(path) {
            Ok(text) => {
                let bad = |source| GoldenError::Line { path: path.to_owned(), source };
                Some(GoldenFile::parse(&text, kvm).map_err(bad)?)
            }
            Err(error) if bless && error.kind() == ErrorKind::NotFound => None,
            Err(source) => return Err(GoldenError::Read { path: path.to_owned(), source }),
        };
        Ok(Golden { path: path.to_owned(), file, bless, vcpus: BTreeMap::new(), exits: 0, is_too_long: false })
    }

    /// The steps of each vCPU.
    fn steps(&mut self) -> BTreeMap<u32, Vec<Step>> {
        mem::take(&mut self.vcpus).into_iter().map(|(vcpu, form)| (vcpu, form.finish())).collect()
    }

    fn write(&mut self, end: &TraceEnd) -> io::Result<()> {
        let facts = end.facts.iter().filter(|(name, value)| HEAD_FACTS.contains(name) && !value.is_empty());
        let facts: Vec<_> = facts.map(|(name, value)| format!("{name} {value}")).collect();
        let head = format!("Exits for hostel trace --golden: {}; {}.", facts.join(", "), end.reason);
        let mut file = self.file.take().unwrap_or_else(|| GoldenFile::beginning_with(&head));
        let steps = self.steps();
        let all: BTreeSet<u32> = file.vcpus().chain(steps.keys().copied()).collect();
        for vcpu in all {
            file.bless(vcpu, steps.get(&vcpu).map_or(&[], Vec::as_slice));
        }
        fs::write(&self.path, file.to_string())
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))
    }

    /// What differs, in lines; empty: nothing.
    fn compare(&mut self) -> String {
        let steps = self.steps();
        let file = self.file.take().unwrap_or_default();
        let all: BTreeSet<u32> = file.vcpus().chain(steps.keys().copied()).collect();
        let (mut text, mut count) = (String::new(), 0);
        for vcpu in all {
            let (expected, got) = (file.expected(vcpu), steps.get(&vcpu).map_or(&[][..], Vec::as_slice));
            for difference in differences(expected.len(), got.len(), |e, g| expected[e].is(&got[g])) {
                count += 1;
                if count <= SHOWN_MAX {
                    text += &show(vcpu, &expected, got, difference);
                }
            }
        }
        if count > SHOWN_MAX {
            writeln!(text, "and {} more differences", count - SHOWN_MAX).expect("strings take all");
        }
        text
    }
}

/// A difference as lines: what went before, `-` what was expected, `+` what was seen.
fn show(vcpu: u32, expected: &[Expected], got: &[Step], difference: Difference) -> String {
    let place = match expected.get(difference.expected.start) {
        Some(first) => format!("line {}", first.number),
        None => "the end".to_owned(),
    };
    let seen = match got.get(difference.got.start) {
        Some(first) => format!("exit {}, at {:.6} s", first.number, first.at_ns as f64 / 1e9),
        None => "no exit any more".to_owned(),
    };
    let mut text = format!("vCPU {vcpu}, {place}; {seen}:\n");
    let mut add = |mark, mut lines: &mut dyn Iterator<Item = &str>| {
        for line in (&mut lines).take(LINES_MAX) {
            writeln!(text, "  {mark} {line}").expect("strings take all");
        }
        let left = lines.count();
        if left > 0 {
            writeln!(text, "  {mark} ... and {left} more").expect("strings take all");
        }
    };
    let before = difference.got.start.saturating_sub(LINES_BEFORE)..difference.got.start;
    add(' ', &mut got[before].iter().map(|step| step.line.as_str()));
    add('-', &mut expected[difference.expected].iter().map(|expected| expected.line));
    add('+', &mut got[difference.got].iter().map(|step| step.line.as_str()));
    text
}

impl TraceSink for Golden {
    fn exit(&mut self, exit: &Traced) -> io::Result<()> {
        self.exits += 1;
        if !self.is_too_long {
            self.vcpus.entry(exit.event.vcpu).or_default().push(exit.event, self.exits);
            // Folded steps take no room: only those of the vCPU that has just made one may be too many.
            self.is_too_long = self.vcpus[&exit.event.vcpu].steps_so_far() > STEPS_MAX;
        }
        Ok(())
    }

    fn finish(&mut self, end: &TraceEnd) -> io::Result<Verdict> {
        let path = self.path.display().to_string();
        if end.dropped > 0 {
            return Ok(Verdict::Broken(format!(
                "{path}: {} exits were not seen: nothing to compare with",
                end.dropped
            )));
        }
        if self.is_too_long {
            return Ok(Verdict::Broken(format!(
                "{path}: the run has more than {STEPS_MAX} steps: too long for a golden trace"
            )));
        }
        if self.bless {
            self.write(end)?;
            return Ok(Verdict::Fine);
        }
        match self.compare() {
            found if found.is_empty() => Ok(Verdict::Fine),
            found => Ok(Verdict::Broken(format!("the exits are not those of {path} (- expected, + seen)\n{found}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::event;
    use super::*;
    use crate::kvm::exit::Exit;

    /// What a golden file with this text, or none, finds in a run with these ports written; and the file afterwards.
    fn run(name: &str, text: Option<&str>, ports: &[u16], bless: bool) -> (Verdict, String) {
        let path = std::env::temp_dir().join(format!("hostel-golden-{name}-{}", std::process::id()));
        text.iter().for_each(|text| fs::write(&path, text).unwrap());
        let mut golden = Golden::open(&path, "svm", bless).unwrap();
        for port in ports {
            let event = event(Exit::PioWrite { port: *port, size: 1, value: 1 });
            golden.exit(&Traced { event: &event, instruction: None, symbol: None }).unwrap();
        }
        let facts = vec![("image", "tiny".to_owned()), ("host kernel", "6".to_owned())];
        let end = TraceEnd { reason: "it ended".into(), facts, ..TraceEnd::default() };
        let verdict = golden.finish(&end).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        (verdict, text)
    }

    const FILE: &str =
        "# head\npio-write.1 port 0x1 = 0x1\n[vmx] hlt\npio-write.1 port 0x2 = *\npio-write.1 port 0x3 = 0x1\n";

    #[test]
    fn a_run_as_it_was_is_fine() {
        assert_eq!(run("same", Some(FILE), &[1, 2, 3], false), (Verdict::Fine, FILE.to_owned()));
    }

    #[test]
    fn a_difference_is_shown_with_its_place_and_what_went_before() {
        let (Verdict::Broken(why), _) = run("other", Some(FILE), &[1, 2, 4, 5], false) else { panic!("it differs") };
        let lines: Vec<_> = why.lines().skip(1).collect();
        let shown = [
            "vCPU 0, line 5; exit 3, at 0.012500 s:",
            "    pio-write.1 port 0x1 = 0x1",
            "    pio-write.1 port 0x2 = 0x1",
            "  - pio-write.1 port 0x3 = 0x1",
            "  + pio-write.1 port 0x4 = 0x1",
            "  + pio-write.1 port 0x5 = 0x1",
        ];
        assert_eq!(lines, shown);
        let (Verdict::Broken(why), _) = run("short", Some(FILE), &[1, 2], false) else { panic!("it differs") };
        assert!(why.contains("line 5; no exit any more") && why.contains("  - pio-write.1 port 0x3"), "{why}");
    }

    #[test]
    fn blessing_writes_what_was_seen() {
        let (verdict, text) = run("bless", Some(FILE), &[1, 9, 3], true);
        assert_eq!((verdict, text), (Verdict::Fine, FILE.replace("0x2 = *", "0x9 = 0x1")));
        let (_, text) = run("new", None, &[1, 1], true);
        assert_eq!(text.lines().last(), Some("pio-write.1 port 0x1 = 0x1 x 2"));
        assert!(text.starts_with("# Exits for hostel trace --golden: image tiny; it ended.\n"), "{text}");
    }

    #[test]
    fn what_was_dropped_cannot_be_compared() {
        let path = std::env::temp_dir().join(format!("hostel-golden-dropped-{}", std::process::id()));
        assert!(Golden::open(&path, "svm", false).unwrap_err().to_string().contains("--bless writes it"));
        let mut golden = Golden::open(&path, "svm", true).unwrap();
        let verdict = golden.finish(&TraceEnd { dropped: 3, ..TraceEnd::default() }).unwrap();
        assert!(matches!(verdict, Verdict::Broken(why) if why.contains("3 exits")) && !path.exists());
    }
}
