//! `docs/security.md` and the tests agree: each row names tests that exist or says why there are none, and each test with a number has its row.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Bugs in the list.
const ROWS: usize = 64;

/// Names of the functions below `folder`.
fn functions(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("it is text");
            let lines = text.lines().filter_map(|line| line.trim().strip_prefix("fn "));
            names.extend(lines.filter_map(|rest| rest.split(['(', '<']).next()).map(str::to_owned));
        }
    }
}

/// The numbers that a test bears: `sec07_sec08_...`.
fn numbers(name: &str) -> impl Iterator<Item = usize> {
    name.split('_').map_while(|word| word.strip_prefix("sec")?.parse().ok())
}

#[test]
fn each_row_has_its_tests_and_each_numbered_test_its_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut existing = BTreeSet::new();
    ["src", "tests"].iter().for_each(|folder| functions(&root.join(folder), &mut existing));
    let page = fs::read_to_string(root.join("docs/security.md")).expect("it is text");
    let rows: Vec<(usize, &str)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "))
        .filter_map(|(number, rest)| Some((number.parse().ok()?, rest)))
        .collect();
    assert_eq!(rows.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (1..=ROWS).collect::<Vec<_>>());
    for (number, rest) in &rows {
        let (_, here) = rest.split_once(" | ").expect("three cells");
        let named: Vec<&str> = here.split('`').skip(1).step_by(2).filter(|name| !name.contains('/')).collect();
        assert!(!named.is_empty() || here.starts_with("does not apply: "), "{number} has neither a test nor a reason");
        for name in named {
            assert!(existing.contains(name), "{number}: there is no test {name}");
        }
    }
    for name in &existing {
        for number in numbers(name) {
            let row = rows.iter().find(|(row, _)| *row == number).unwrap_or_else(|| panic!("{name} has no row"));
            assert!(row.1.contains("`sec"), "{number} says that no test is there, and {name} is");
        }
    }
}
