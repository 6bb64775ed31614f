//! The table as text for a terminal, and as a page.

use super::entry::{Entry, ShownBy};
use super::table::{GROUPS, entries};
use super::trial::{Claim, Host, Ring, Seen, Trial};
use crate::debug::decode::hex;

/// Columns of text on a terminal.
const WIDTH: usize = 100;
/// Longest code whose bytes are shown too.
const BYTES_SHOWN_MAX: usize = 16;
/// Columns of the labels before it.
const LABEL: usize = 10;

/// A line for each row, by groups.
pub fn list() -> String {
    let width = entries().map(|entry| entry.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for group in GROUPS {
        text += &format!("{}\n", group.title);
        for entry in group.entries {
            text += &format!("  {:width$}  {}\n", entry.name, entry.summary);
        }
        text.push('\n');
    }
    text + "hostel explain NAME tells more. Other names work too: instructions, exceptions, what the manuals call an exit.\n"
}

/// All of a row.
pub fn describe(entry: &Entry) -> String {
    let mut text = format!("{}: {}\n\n", entry.name, entry.summary);
    for (label, value) in fields(entry) {
        text += &labelled(label, &value);
    }
    text.push('\n');
    match entry.shown_by {
        ShownBy::Nothing(reason) => text += &labelled("shown by", &format!("nothing: {reason}")),
        ShownBy::Trials(trials) => {
            for trial in trials {
                let bytes = Some(hex(trial.code)).filter(|_| trial.code.len() <= BYTES_SHOWN_MAX);
                let bytes = bytes.map_or(String::new(), |bytes| format!("   ({bytes})"));
                text += &labelled("shown by", &format!("{}{bytes}", trial.asm));
                text += &labelled("", &place(trial));
                for (who, claim) in claims(trial) {
                    text += &labelled("", &format!("{who}: {}", saw(claim)));
                }
            }
        }
    }
    text
}

/// The page `docs/exits.md`.
pub fn markdown() -> String {
    let mut page = "# Exits and traps\n\nWhy things trap, or do not: each exit that reaches Hostel, and each privileged or sensitive \
        instruction of x86-64.\nThis page is made of the table behind `hostel explain`; `tests/explain.rs` runs the code on each KVM \
        at hand and compares the claims\nwith what it sees. \"software\" is KVM without hardware virtualization: ring 0 is interpreted, \
        ring 3 runs in the host's ring 3.\n"
        .to_owned();
    for group in GROUPS {
        page += &format!("\n## {}\n", group.title);
        for entry in group.entries {
            page += &format!("\n### {}\n\n{}\n\n", entry.name, sentence(entry.summary));
            for (label, value) in fields(entry) {
                page += &format!("- **{label}**: {value}\n");
            }
            if let ShownBy::Nothing(reason) = entry.shown_by {
                page += &format!("- **shown by**: nothing: {reason}\n");
            }
            for trial in entry.trials() {
                let claims: Vec<_> = claims(trial).map(|(who, claim)| format!("{who}: {}", saw(claim))).collect();
                page += &format!("- **shown by** `{}`, {}: {}\n", trial.asm, place(trial), claims.join("; "));
            }
        }
    }
    page
}

/// What is told of a row besides its name, its summary and its trials.
fn fields(entry: &Entry) -> impl Iterator<Item = (&'static str, String)> {
    [
        ("also", entry.aliases.join(", ")),
        ("nature", entry.nature.describe().to_owned()),
        ("why", entry.why.to_owned()),
        ("VMX", entry.vmx.to_owned()),
        ("SVM", entry.svm.to_owned()),
        ("KVM", entry.kvm.to_owned()),
        ("Hostel", entry.hostel.to_owned()),
        ("files", entry.files.join(", ")),
        ("sources", entry.sources.join("; ")),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
}

/// Where a trial runs.
fn place(trial: &Trial) -> String {
    let ring = if trial.ring == Ring::Zero { "ring 0" } else { "ring 3" };
    let needs = trial.needs.map_or(String::new(), |feature| format!(", where CPUID has {}", feature.name));
    let host = match trial.host {
        Host::Idle => String::new(),
        Host::Kicks => ", kicked by the host".to_owned(),
        Host::Steps => ", stepped by the host".to_owned(),
        Host::MapsRom => ", 0xe0000000 read-only".to_owned(),
        Host::FiltersMsr(name) => format!(", {name} filtered"),
    };
    format!("{ring}, irqchip {}{host}{needs}", trial.irqchip)
}

/// The claims of a trial, those that are alike together.
fn claims(trial: &Trial) -> impl Iterator<Item = (String, Claim)> {
    let mut claims: Vec<(String, Claim)> = Vec::new();
    for (who, claim) in [("VMX", trial.vmx), ("SVM", trial.svm), ("software", trial.software)] {
        match claims.iter_mut().find(|(_, other)| *other == claim) {
            Some((all, _)) => *all = format!("{all}, {who}"),
            None => claims.push((who.to_owned(), claim)),
        }
    }
    claims.into_iter()
}

/// A claim in words.
fn saw(claim: Claim) -> String {
    match claim {
        Claim::NotHere(reason) => format!("not shown: {reason}"),
        Claim::Seen { by, vector } => {
            let by = match by {
                Seen::ByHostel(kind) => format!("exit to user space ({})", kind.name()),
                Seen::ByKvm(counter) => format!("answered in KVM (counter {counter})"),
                Seen::ByNobody => "no exit".to_owned(),
            };
            vector.map_or(by.clone(), |vector| format!("{by}, {} for the guest", event(vector)))
        }
    }
}

/// An exception by its mnemonic, an interrupt by its vector (Intel SDM vol. 3A §6.15).
fn event(vector: u8) -> String {
    match vector {
        0 => "#DE".to_owned(),
        1 => "#DB".to_owned(),
        3 => "#BP".to_owned(),
        6 => "#UD".to_owned(),
        13 => "#GP".to_owned(),
        14 => "#PF".to_owned(),
        _ => format!("interrupt {vector:#x}"),
    }
}

/// `value` behind `label`, wrapped.
fn labelled(label: &str, value: &str) -> String {
    let mut text = format!("  {label:LABEL$}");
    let mut column = text.len();
    for (index, word) in value.split(' ').enumerate() {
        if index > 0 && column + 1 + word.len() > WIDTH {
            text += &format!("\n  {:LABEL$}", "");
            column = 2 + LABEL;
        } else if index > 0 {
            text.push(' ');
            column += 1;
        }
        text += word;
        column += word.len();
    }
    text.push('\n');
    text
}

/// A summary as a sentence.
fn sentence(summary: &str) -> String {
    let mut letters = summary.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    let end = if summary.ends_with('?') { "" } else { "." };
    first.chain(letters).chain(end.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::table::find;
    use super::*;

    #[test]
    fn a_row_fits_a_terminal_and_tells_its_claims() {
        for entry in entries() {
            let text = describe(entry);
            let (first, rest) = text.split_once('\n').unwrap();
            assert!(first.starts_with(entry.name));
            let long = rest.lines().find(|line| line.len() > WIDTH + 10);
            assert_eq!(long, None, "{}", entry.name);
        }
        let hlt = describe(find("hlt").unwrap()[0]);
        assert!(hlt.contains("VMX, SVM, software: exit to user space (hlt)\n"), "{hlt}");
        assert!(hlt.contains("software: answered in KVM (counter exits), #GP for the guest\n"), "{hlt}");
    }

    #[test]
    fn the_list_names_every_row() {
        let list = list();
        for entry in entries() {
            assert!(list.contains(&format!("  {} ", entry.name)), "{}", entry.name);
        }
        assert!(list.lines().all(|line| line.len() <= 160), "{list}");
    }

    #[test]
    fn the_page_is_made_of_the_table() {
        let page = include_str!("../../../docs/exits.md");
        assert!(
            page == markdown(),
            "docs/exits.md is not what the table says: cargo run -- explain --markdown >docs/exits.md"
        );
    }
}
