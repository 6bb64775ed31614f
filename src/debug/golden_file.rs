//! A golden file: the exits that a guest is to have, in their normal form, as lines that people read and edit.
//!
//! ```text
//! # A comment.
//! pio-write.1 COM1 FCR = 0x1
//! [svm,vmx] set-tpr                      only on these kinds of KVM
//! pio-read.1 RTC DATA = *                a star stands for anything
//! vcpu 1:                                what follows is vCPU 1's; before the first such line, vCPU 0's
//! hlt
//! ```
//!
//! (Only lines that begin with `#` are comments; the remarks above are none of the file's.) What vCPUs do beside each other
//! has no order, so each vCPU is compared by itself.

use super::difference::differences;
use super::event::ExitKind;
use super::normal_form::Step;
use std::collections::BTreeMap;
use std::fmt;

/// Kinds of KVM that a line may be for.
const KVM_KINDS: [&str; 4] = ["vmx", "svm", "pvm", "unknown"];

/// A golden file, for one kind of KVM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GoldenFile {
    /// Each vCPU's lines, comments included.
    parts: BTreeMap<u32, Vec<Line>>,
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    text: String,
    number: usize,
    /// Where the step that it expects begins in `text`; `None`: a comment, or for another kind of KVM.
    step_at: Option<usize>,
}

/// A step that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected<'a> {
    /// The step's line, which may have stars.
    pub line: &'a str,
    /// Where it stands in the file, from 1.
    pub number: usize,
}

impl Expected<'_> {
    /// Whether `step` is what is expected.
    pub fn is(&self, step: &Step) -> bool {
        let Some((beginning, rest)) = self.line.split_once('*') else { return step.line == self.line };
        let Some(mut left) = step.line.strip_prefix(beginning) else { return false };
        let mut between: Vec<&str> = rest.split('*').collect();
        let end = between.pop().unwrap_or_default();
        for part in between {
            let Some((_, behind)) = left.split_once(part) else { return false };
            left = behind;
        }
        left.ends_with(end)
    }
}

/// A line that is no line of a golden file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BadLine {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

impl GoldenFile {
    /// Reads `text`; lines for other kinds of KVM than `kvm` are kept, but expect nothing.
    ///
    /// # Errors
    /// A line names a kind of exit or of KVM that does not exist.
    pub fn parse(text: &str, kvm: &str) -> Result<GoldenFile, BadLine> {
        let mut file = GoldenFile::default();
        let mut vcpu = 0;
        for (index, text) in text.lines().enumerate() {
            let number = index + 1;
            let bad = |why| BadLine { line: number, why };
            let text = text.trim_end();
            if let Some(header) = text.strip_prefix("vcpu ") {
                let id = header.strip_suffix(':').and_then(|id| id.parse().ok());
                vcpu = id.ok_or_else(|| bad(format!("{text:?} is not a vCPU's heading such as \"vcpu 1:\"")))?;
                file.parts.entry(vcpu).or_default();
                continue;
            }
            let is_comment = text.is_empty() || text.starts_with('#');
            let step_at = if is_comment { None } else { step_at(text, kvm).map_err(bad)? };
            file.parts.entry(vcpu).or_default().push(Line { text: text.to_owned(), number, step_at });
        }
        Ok(file)
    }

    /// A file that begins with this comment.
    pub fn beginning_with(comment: &str) -> GoldenFile {
        let lines = comment.lines().map(|line| Line { text: format!("# {line}"), number: 0, step_at: None });
        GoldenFile { parts: BTreeMap::from([(0, lines.collect())]) }
    }

    /// vCPUs that have lines.
    pub fn vcpus(&self) -> impl Iterator<Item = u32> {
        self.parts.keys().copied()
    }

    /// What is expected of `vcpu`.
    pub fn expected(&self, vcpu: u32) -> Vec<Expected<'_>> {
        let lines = self.parts.get(&vcpu).into_iter().flatten();
        let step = |line: &'_ Line| line.step_at.map(|at| (line.number, at));
        lines.filter_map(|line| step(line).map(|(number, at)| Expected { line: &line.text[at..], number })).collect()
    }

    /// Expects `steps` of `vcpu` from now on: where they differ, its lines give way to theirs. Comments and lines for other
    /// kinds of KVM stay where they are.
    pub fn bless(&mut self, vcpu: u32, steps: &[Step]) {
        let expected = self.expected(vcpu);
        let found = differences(expected.len(), steps.len(), |e, g| expected[e].is(&steps[g]));
        let lines = self.parts.remove(&vcpu).unwrap_or_default();
        let (mut blessed, mut found) = (Vec::new(), found.into_iter().peekable());
        let (mut index, mut kept_from) = (0, 0);
        for line in lines {
            if line.step_at.is_none() {
                blessed.push(line);
                continue;
            }
            if let Some(difference) = found.next_if(|difference| difference.expected.start == index) {
                blessed.extend(steps[difference.got].iter().map(Line::expecting));
                kept_from = difference.expected.end;
            }
            if index >= kept_from {
                blessed.push(line);
            }
            index += 1;
        }
        blessed.extend(found.flat_map(|difference| &steps[difference.got]).map(Line::expecting));
        self.parts.insert(vcpu, blessed);
    }
}

impl Line {
    /// A line that expects `step`.
    fn expecting(step: &Step) -> Line {
        Line { text: step.line.clone(), number: 0, step_at: Some(0) }
    }
}

impl fmt::Display for GoldenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (vcpu, lines) in &self.parts {
            if *vcpu > 0 {
                writeln!(f, "vcpu {vcpu}:")?;
            }
            lines.iter().try_for_each(|line| writeln!(f, "{}", line.text))?;
        }
        Ok(())
    }
}

/// Where the step of a line begins, behind the kinds of KVM that it is for; `None` where `kvm` is not one of them.
fn step_at(line: &str, kvm: &str) -> Result<Option<usize>, String> {
    let (kinds, step) = match line.strip_prefix('[').map(|rest| rest.split_once("] ")) {
        Some(Some((kinds, step))) => (Some(kinds), step),
        Some(None) => return Err(format!("{line:?} begins with a bracket that does not end")),
        None => (None, line),
    };
    let mut kinds = kinds.map(|kinds| kinds.split(','));
    if let Some(strange) = kinds.clone().into_iter().flatten().find(|kind| !KVM_KINDS.contains(kind)) {
        return Err(format!("{strange:?} is no kind of KVM: {}", KVM_KINDS.join(", ")));
    }
    let name = step.split([' ', '.']).next().unwrap_or_default();
    if step != "*" && !ExitKind::ALL.iter().any(|kind| kind.name() == name) {
        return Err(format!("{name:?} is no kind of exit: {}", ExitKind::ALL.map(ExitKind::name).join(", ")));
    }
    let is_meant = kinds.as_mut().is_none_or(|kinds| kinds.any(|kind| kind == kvm));
    Ok(is_meant.then_some(line.len() - step.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(lines: &[&str]) -> Vec<Step> {
        lines.iter().map(|line| Step { line: (*line).to_owned(), number: 1, at_ns: 0 }).collect()
    }

    const FILE: &str = "# head\nhlt\n[svm,vmx] set-tpr\npio-read.1 RTC DATA = *\nvcpu 1:\n# other\nhlt x 2\n";

    #[test]
    fn a_file_expects_of_each_vcpu_what_is_for_this_kind_of_kvm() {
        let lines = |kvm, vcpu| {
            let file = GoldenFile::parse(FILE, kvm).unwrap();
            file.expected(vcpu)
                .iter()
                .map(|expected| format!("{} {}", expected.number, expected.line))
                .collect::<Vec<_>>()
        };
        assert_eq!(lines("svm", 0), ["2 hlt", "3 set-tpr", "4 pio-read.1 RTC DATA = *"]);
        assert_eq!(lines("pvm", 0), ["2 hlt", "4 pio-read.1 RTC DATA = *"]);
        assert_eq!(lines("pvm", 1), ["7 hlt x 2"]);
        assert!(lines("pvm", 2).is_empty());
        assert_eq!(GoldenFile::parse(FILE, "svm").unwrap().to_string(), FILE);
    }

    #[test]
    fn a_star_stands_for_anything() {
        let is = |line, seen| Expected { line, number: 1 }.is(&steps(&[seen])[0]);
        assert!(is("pio-read.1 RTC DATA = *", "pio-read.1 RTC DATA = 0x17") && is("*", "hlt") && is("hlt", "hlt"));
        assert!(!is("pio-read.1 RTC DATA = *", "pio-read.1 RTC INDEX = 0x1") && !is("hlt", "hlt x 2"));
        let text = |seen| is("pio-write.1 COM1 THR = \"* cycles of *\\n\" polls *", seen);
        assert!(text("pio-write.1 COM1 THR = \"12 cycles of 13\\n\" polls 3"));
        assert!(
            !text("pio-write.1 COM1 THR = \"12 cycles\\n\" polls 3")
                && !text("pio-write.1 COM1 THR = \"12 cycles of 13")
        );
    }

    #[test]
    fn blessing_replaces_what_differs_and_nothing_else() {
        let mut file = GoldenFile::parse(FILE, "pvm").unwrap();
        file.bless(0, &steps(&["shutdown", "hlt", "pio-read.1 RTC DATA = 0x5", "debug"]));
        file.bless(1, &steps(&["hlt x 3"]));
        file.bless(2, &steps(&["hlt"]));
        let blessed = "# head\nshutdown\nhlt\n[svm,vmx] set-tpr\npio-read.1 RTC DATA = *\ndebug\n\
            vcpu 1:\n# other\nhlt x 3\nvcpu 2:\nhlt\n";
        assert_eq!(file.to_string(), blessed);
        file.bless(0, &steps(&["hlt"]));
        assert!(file.to_string().starts_with("# head\nhlt\n[svm,vmx] set-tpr\nvcpu 1:"), "{file}");
        assert_eq!(GoldenFile::beginning_with("a\nb").to_string(), "# a\n# b\n");
    }

    #[test]
    fn bad_lines_are_named() {
        for (text, line, word) in [
            ("hlt\npio-wirte COM1", 2, "pio-wirte"),
            ("[kvm] hlt", 1, "kvm"),
            ("[svm hlt", 1, "bracket"),
            ("\n\nvcpu x:", 3, "vcpu 1:"),
        ] {
            let error = GoldenFile::parse(text, "svm").unwrap_err();
            assert!(error.line == line && error.why.contains(word), "{error}");
        }
    }
}
