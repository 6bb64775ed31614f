//! What `hostel doctor` found, as data, as text and as JSON.

use super::backend::Backend;
use serde::Serialize;
use std::fmt::Write;

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There.
    Ok,
    /// There, but it costs much.
    Slow,
    /// Not there, or not for this user.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was found; may be empty.
    pub detail: String,
    /// What is lost without it; may be empty.
    pub lost: &'static str,
    /// What to do, where something is to be done: commands as far as they are known.
    pub repair: Option<String>,
    /// Whether Hostel can run no guest without it.
    pub needed: bool,
}

impl Check {
    /// Something without which no guest runs.
    pub fn needed(name: &'static str, state: State, detail: String, repair: Option<String>) -> Check {
        Check { name, state, detail, lost: "no guest can run", repair, needed: true }
    }

    /// Something without which `lost` is.
    pub fn useful(name: &'static str, state: State, detail: String, lost: &'static str, repair: Option<&str>) -> Check {
        Check { name, state, detail, lost, repair: repair.map(str::to_owned), needed: false }
    }
}

/// What tiny guests were measured to do; `None` where KVM could not run them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Speed {
    /// Instructions a second of a kernel's code.
    pub ring0_instructions_per_second: Option<u64>,
    /// Instructions a second of a program's code.
    pub ring3_instructions_per_second: Option<u64>,
    /// Nanoseconds from a port instruction to this process and back.
    pub port_exit_ns: Option<u64>,
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether guests run here.
    usable: bool,
    /// The back end, where KVM opens.
    pub backend: Option<Backend>,
    /// The measurement, where KVM opens.
    pub speed: Option<Speed>,
    /// All that was looked at, the most important first.
    pub checks: Vec<Check>,
}

impl Report {
    /// A report of `checks`.
    pub fn new(backend: Option<Backend>, speed: Option<Speed>, checks: Vec<Check>) -> Report {
        let usable = checks.iter().all(|check| !check.needed || check.state != State::Missing);
        Report { usable, backend, speed, checks }
    }

    /// Whether guests run here.
    pub fn usable(&self) -> bool {
        self.usable
    }

    /// For programs.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("the report holds only what JSON can say")
    }

    /// For people: a line for each check, then what to do. `colour` is for terminals.
    pub fn text(&self, colour: bool) -> String {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for check in &self.checks {
            let line = format!("{} {:width$}  {}", mark(check.state, colour), check.name, outcome(check));
            text.push_str(line.trim_end());
            text.push('\n');
        }
        let repairs = || self.checks.iter().filter_map(|check| Some((check.name, check.repair.as_ref()?)));
        if repairs().next().is_some() {
            text.push_str("\nto repair:\n");
        }
        for (name, repair) in repairs() {
            writeln!(text, "  {name}: {repair}").expect("a string takes everything");
        }
        text.push_str(if self.usable { "\nguests run here\n" } else { "\nno guest runs here\n" });
        text
    }
}

/// What was found, and what is lost where that says little or something is missing.
fn outcome(check: &Check) -> String {
    match (check.state, check.detail.as_str()) {
        (State::Ok, "") => format!("(without it: {})", check.lost),
        (State::Ok, detail) => detail.to_owned(),
        (_, "") => check.lost.to_owned(),
        (_, detail) => format!("{detail}: {}", check.lost),
    }
}

/// The state in seven columns. Colours: ECMA-48 §8.3.117.
fn mark(state: State, colour: bool) -> String {
    let (word, code) = match state {
        State::Ok => ("ok", 32),
        State::Slow => ("slow", 33),
        State::Missing => ("missing", 31),
    };
    if colour { format!("\x1b[{code}m{word:7}\x1b[0m") } else { format!("{word:7}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(needed: bool) -> Report {
        let check = |name, state, detail: &str, repair: Option<&str>| Check {
            name,
            state,
            detail: detail.to_owned(),
            lost: "no guests",
            repair: repair.map(str::to_owned),
            needed,
        };
        let ok = check("/dev/kvm", State::Ok, "root:kvm 0660", None);
        Report::new(
            None,
            None,
            vec![ok, check("CAP", State::Ok, "", None), check("tun", State::Missing, "", Some("modprobe tun"))],
        )
    }

    #[test]
    fn text_has_a_line_a_check_and_then_the_repairs() {
        let lines = "ok      /dev/kvm  root:kvm 0660\nok      CAP       (without it: no guests)\n\
                     missing tun       no guests\n\nto repair:\n  tun: modprobe tun\n\nguests run here\n";
        assert_eq!(report(false).text(false), lines);
        assert!(report(false).text(true).starts_with("\x1b[32mok     \x1b[0m /dev/kvm"));
    }

    #[test]
    fn only_what_is_needed_decides() {
        assert!(report(false).usable());
        assert!(!report(true).usable());
        assert!(report(true).text(false).ends_with("\nno guest runs here\n"));
    }

    #[test]
    fn json_has_the_fields() {
        let json: serde_json::Value = serde_json::from_str(&report(true).json()).unwrap();
        assert_eq!(json["usable"], false);
        assert_eq!(json["checks"][2]["state"], "missing");
        assert_eq!(json["checks"][2]["repair"], "modprobe tun");
        assert!(json["speed"].is_null());
    }
}
