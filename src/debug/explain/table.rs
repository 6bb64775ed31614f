//! The whole table, and how a row is found.

use super::entry::Entry;
use super::{exits_access, exits_event, faults, memory, native, privileged, sensitive, system};
use crate::debug::event::ExitKind;

/// Rows that belong together.
#[derive(Debug)]
pub struct Group {
    /// Its heading.
    pub title: &'static str,
    /// Its rows.
    pub entries: &'static [Entry],
}

/// The table.
pub const GROUPS: &[Group] = &[
    Group { title: "Exits to user space: accesses", entries: exits_access::ENTRIES },
    Group { title: "Exits to user space: events", entries: exits_event::ENTRIES },
    Group { title: "Memory", entries: memory::ENTRIES },
    Group { title: "Privileged instructions: the processor's state", entries: privileged::ENTRIES },
    Group { title: "Privileged instructions: what all guests share", entries: system::ENTRIES },
    Group { title: "Sensitive instructions that are not privileged", entries: sensitive::ENTRIES },
    Group { title: "Instructions of any program", entries: native::ENTRIES },
    Group { title: "Exceptions", entries: faults::ENTRIES },
];

/// Most suggestions for a name that is not in the table.
const SUGGESTIONS_MAX: usize = 5;
/// How many letters a suggestion may differ in.
const LETTERS_WRONG_MAX: usize = 2;

/// All rows.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    GROUPS.iter().flat_map(|group| group.entries)
}

/// The row that explains `kind`.
pub fn of_kind(kind: ExitKind) -> &'static Entry {
    entries().find(|entry| entry.kind == Some(kind)).expect("a test finds each kind in the table")
}

/// What an exit of `kind` is, in one line.
pub fn one_line(kind: ExitKind) -> &'static str {
    of_kind(kind).summary
}

/// The rows that `word` names, in whatever case: the one of that name, or all that have it as another name.
///
/// # Errors
/// None does: names that look like it.
pub fn find(word: &str) -> Result<Vec<&'static Entry>, Vec<&'static str>> {
    let word = normal(word);
    if let Some(entry) = entries().find(|entry| entry.name == word) {
        return Ok(vec![entry]);
    }
    let meant: Vec<_> = entries().filter(|entry| entry.aliases.contains(&word.as_str())).collect();
    if meant.is_empty() { Err(suggestions(&word)) } else { Ok(meant) }
}

/// A word as the table has it.
fn normal(word: &str) -> String {
    word.trim().to_lowercase().replace(['_', ' '], "-")
}

/// Names like `word`, the nearest first.
fn suggestions(word: &str) -> Vec<&'static str> {
    let names = entries().flat_map(|entry| std::iter::once(&entry.name).chain(entry.aliases));
    let mut near: Vec<(usize, &'static str)> = names
        .map(|name| {
            let is_part = !word.is_empty() && (name.contains(word) || word.contains(*name));
            (if is_part { 1 } else { strsim::damerau_levenshtein(name, word) }, *name)
        })
        .filter(|(distance, _)| *distance <= LETTERS_WRONG_MAX && distance * 2 < word.len())
        .collect();
    near.sort_unstable();
    near.dedup_by_key(|(_, name)| *name);
    near.into_iter().map(|(_, name)| name).take(SUGGESTIONS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Nature, ShownBy};
    use super::super::trial::{Claim, Ring};
    use super::*;
    use crate::debug::decode::decode;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// What docs/sources.md lists, as rows cite it.
    const SOURCES: [&str; 7] = [
        "Intel SDM vol. ",
        "AMD APM vol. ",
        "KVM API ",
        "Linux ",
        "Intel 82093AA ",
        "Popek and Goldberg ",
        "Robin and Irvine",
    ];

    /// The instructions of `code`, as the decoder has them.
    fn disassemble(code: &[u8]) -> String {
        let mut text = Vec::new();
        let mut at = 0;
        while at < code.len() {
            let (instruction, length) = decode(64, at as u64, &code[at..]).expect("an instruction");
            text.push(instruction);
            at += length;
        }
        text.join("; ")
    }

    #[test]
    fn each_kind_of_exit_has_one_row_under_its_name() {
        for kind in ExitKind::ALL {
            let rows: Vec<_> = entries().filter(|entry| entry.kind == Some(kind)).map(|entry| entry.name).collect();
            assert_eq!(rows, [kind.name()]);
        }
    }

    #[test]
    fn names_are_unique_and_no_other_name_hides_one() {
        let names: BTreeSet<_> = entries().map(|entry| entry.name).collect();
        assert_eq!(names.len(), entries().count());
        for entry in entries() {
            for name in entry.aliases.iter().chain([&entry.name]) {
                assert_eq!(**name, normal(name), "as it is searched");
                assert!(*name == entry.name || !names.contains(name), "{name} of {} is a row itself", entry.name);
            }
        }
    }

    #[test]
    fn the_bytes_of_each_trial_are_its_text() {
        for trial in entries().flat_map(Entry::trials) {
            assert_eq!(disassemble(trial.code), trial.asm);
        }
    }

    #[test]
    fn each_row_says_where_and_by_what() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for entry in entries() {
            let name = entry.name;
            for file in entry.files {
                // The tests also run where the sources are not.
                assert!(!root.join("src").is_dir() || root.join(file).is_file(), "{name} names {file}");
            }
            assert!(
                entry.kind.is_none() || !entry.files.is_empty(),
                "an exit that reaches Hostel is answered somewhere: {name}"
            );
            assert!(!entry.sources.is_empty(), "{name} has no source");
            for source in entry.sources {
                assert!(SOURCES.iter().any(|known| source.starts_with(known)), "{name}: {source}");
            }
            assert!(entry.summary.len() <= 140 && !entry.summary.ends_with('.'), "{name}: {}", entry.summary);
            for text in [entry.why, entry.vmx, entry.svm, entry.kvm, entry.hostel] {
                assert!(!text.is_empty() && !text.contains("  "), "{name}: {text:?}");
            }
            match entry.shown_by {
                ShownBy::Trials(trials) => assert!(!trials.is_empty(), "{name}"),
                ShownBy::Nothing(reason) => assert!(entry.nature == Nature::Event || !reason.is_empty(), "{name}"),
            }
        }
    }

    #[test]
    fn privileged_instructions_are_claimed_to_fault_or_to_run_in_ring_0() {
        for entry in entries().filter(|entry| entry.nature == Nature::Privileged) {
            for trial in entry.trials().iter().filter(|trial| trial.ring == Ring::Three) {
                let faults = |claim| matches!(claim, Claim::Seen { vector: Some(_), .. } | Claim::NotHere(_));
                assert!(
                    [trial.vmx, trial.svm, trial.software].into_iter().all(faults),
                    "{}: {}",
                    entry.name,
                    trial.asm
                );
            }
        }
        for entry in entries().filter(|entry| entry.nature == Nature::Sensitive) {
            assert!(
                entry.trials().iter().any(|trial| trial.ring == Ring::Three),
                "{} shows itself in ring 3",
                entry.name
            );
        }
    }

    #[test]
    fn words_find_rows_or_what_looks_like_them() {
        let names = |word| find(word).map(|rows| rows.iter().map(|row| row.name).collect::<Vec<_>>());
        assert_eq!(names("hlt"), Ok(vec!["hlt"]));
        assert_eq!(names("OUT"), Ok(vec!["pio-write"]));
        assert_eq!(names("MMIO_Write"), Ok(vec!["mmio-write"]));
        assert_eq!(names("pio"), Ok(vec!["pio-read", "pio-write"]));
        assert_eq!(names("KVM_EXIT_HLT"), Ok(vec!["hlt"]));
        assert_eq!(names("triple fault"), Ok(vec!["shutdown"]));
        assert!(names("cpudi").unwrap_err().contains(&"cpuid"));
        assert_eq!(names(""), Err(vec![]));
        assert_eq!(names("xyzzyxyzzy"), Err(vec![]));
    }
}
