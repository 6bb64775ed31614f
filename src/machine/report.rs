//! What is told about a run when it is over: the reason of a failure on standard error, `--result` as JSON.

use super::outcome::{CommandEnd, HOST_ERROR, Outcome};
use super::phases::Phases;
use crate::debug::counters::Counted;
use crate::debug::sink::Verdict;
use crate::kvm::exit::Failure;
use serde::Serialize;
use std::fmt::Write;
use std::io;
use std::time::Duration;

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Run {
    /// What was booted: a path, or a sample's name.
    pub image: String,
    /// How it ended.
    pub ending: Ending,
    /// Exit status of the process, or 128 and the signal's number.
    pub status: i32,
    /// From the start of the machine to its end.
    pub duration: Duration,
    /// When each phase of it ended.
    pub phases: Phases,
    /// Patterns of `--expect`.
    pub expect: Vec<String>,
    /// How many of them were met.
    pub met: usize,
    /// Patterns of `--reject`, as they were given.
    pub reject: Vec<String>,
    /// The last lines of the console, oldest first.
    pub last_lines: Vec<String>,
    /// Those of the serial port, where that is not the console.
    pub serial_lines: Vec<String>,
    /// Bytes of the console that reached nobody.
    pub lost_bytes: u64,
    /// What KVM and Hostel counted; nothing where the run was not traced.
    pub counted: Counted,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Ending {
    /// The machine ran, and this came of it.
    Outcome(Outcome),
    /// There was no run, or the host ended it: the error's message.
    HostError(String),
}

/// `--result`. The names are an interface.
#[derive(Serialize)]
struct ResultFile<'a> {
    image: &'a str,
    /// "guest", "kvm", "hostel" or "user".
    ended_by: &'static str,
    /// One word for each way of [`Outcome`].
    kind: &'static str,
    /// The guest's whole value, or the number of the signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<u64>,
    /// In words, where there is more to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpu: Option<u32>,
    /// Linear address, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    rip: Option<String>,
    status: i32,
    duration_ms: u64,
    phases_us: Phases,
    expectations: usize,
    expectations_met: usize,
    lost_bytes: u64,
    last_lines: &'a [String],
    /// Where the serial port is not the console.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    serial_lines: &'a [String],
}

impl Run {
    /// The content of `--result`.
    pub fn to_json(&self) -> String {
        let (ended_by, kind) = self.ending.names();
        let stopped = match &self.ending {
            Ending::Outcome(Outcome::TripleFault(stopped) | Outcome::Failed(_, stopped)) => Some(stopped),
            _ => None,
        };
        let rip = stopped.and_then(|stopped| stopped.state).map(|state| format!("{:#x}", state.linear_rip()));
        let result = ResultFile {
            image: &self.image,
            ended_by,
            kind,
            value: self.ending.value(),
            detail: self.ending.detail(),
            vcpu: stopped.map(|stopped| stopped.vcpu),
            rip,
            status: self.status,
            duration_ms: u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
            phases_us: self.phases,
            expectations: self.expect.len(),
            expectations_met: self.met,
            lost_bytes: self.lost_bytes,
            last_lines: &self.last_lines,
            serial_lines: &self.serial_lines,
        };
        serde_json::to_string_pretty(&result).expect("plain data with string keys") + "\n"
    }

    /// Why the run failed, in lines for standard error; `None` if it did not. A diagnosis of vCPUs is not part of it.
    pub fn failure(&self) -> Option<String> {
        if self.status == 0 {
            return None;
        }
        let mut text = self.reason() + "\n";
        let shown = [("console", &self.last_lines), ("serial port", &self.serial_lines)];
        for (what, lines) in shown.iter().filter(|(_, lines)| self.ending.is_about_the_console() && !lines.is_empty()) {
            writeln!(text, "last lines of the {what}:").expect("strings take all");
            for line in *lines {
                writeln!(text, "  | {line}").expect("strings take all");
            }
        }
        Some(text)
    }

    /// One line: why it ended.
    pub fn reason(&self) -> String {
        let unmet = match self.expect.get(self.met) {
            Some(pattern) => format!("expectation {} of {} is not met: {pattern}", self.met + 1, self.expect.len()),
            None => String::new(),
        };
        match &self.ending {
            Ending::HostError(message) => message.clone(),
            Ending::Outcome(outcome) => match outcome {
                Outcome::PoweredOff => "the guest powered off".to_owned(),
                Outcome::Reset => "the guest rebooted".to_owned(),
                Outcome::Halted => "the guest halted for good".to_owned(),
                Outcome::ExpectationsMet => "every expectation was met".to_owned(),
                Outcome::DebugExit(value) if *value > 0x7f => {
                    format!("the guest ended with {value} ({value:#x}), of which the status holds the low seven bits")
                }
                Outcome::DebugExit(value) => format!("the guest ended with {value}"),
                Outcome::Command(end) => describe_command(end),
                Outcome::Quit => "ended by the user".to_owned(),
                Outcome::Signal(signal) => format!("ended by signal {signal}"),
                Outcome::ExpectationUnmet { pattern } if unmet.is_empty() => format!("expectation not met: {pattern}"),
                Outcome::ExpectationUnmet { .. } => unmet,
                Outcome::TraceBroken { what } => what.clone(),
                Outcome::Deadline if unmet.is_empty() => "the deadline passed".to_owned(),
                Outcome::Deadline => format!("the deadline passed; {unmet}"),
                Outcome::Panicked { line: Some(line) } => format!("the guest's kernel panicked: {line}"),
                Outcome::Panicked { line: None } => "the guest's kernel panicked".to_owned(),
                Outcome::TripleFault(stopped) => format!("triple fault on vCPU {}", stopped.vcpu),
                Outcome::Failed(failure, stopped) => format!("{} on vCPU {}", describe(failure), stopped.vcpu),
                Outcome::Rejected { pattern, line } => format!("rejected by `{pattern}`: {line}"),
            },
        }
    }
}

impl Ending {
    /// Who ended the run, and how.
    fn names(&self) -> (&'static str, &'static str) {
        let Ending::Outcome(outcome) = self else { return ("hostel", "host-error") };
        match outcome {
            Outcome::PoweredOff => ("guest", "power-off"),
            Outcome::Reset => ("guest", "reset"),
            Outcome::Halted => ("guest", "halt"),
            Outcome::DebugExit(_) => ("guest", "debug-exit"),
            Outcome::Panicked { .. } => ("guest", "panic"),
            Outcome::TripleFault(_) => ("guest", "triple-fault"),
            Outcome::Failed(..) => ("kvm", "kvm-failure"),
            Outcome::Command(CommandEnd::Exited(_)) => ("guest", "command-exit"),
            Outcome::Command(CommandEnd::Signaled(_)) => ("guest", "command-signal"),
            Outcome::Command(CommandEnd::Unstarted(_)) => ("guest", "command-not-started"),
            Outcome::Command(CommandEnd::Failed(_)) => ("guest", "root-failed"),
            Outcome::ExpectationsMet => ("hostel", "expectations-met"),
            Outcome::ExpectationUnmet { .. } => ("hostel", "expectation-unmet"),
            Outcome::TraceBroken { .. } => ("hostel", "trace-broken"),
            Outcome::Rejected { .. } => ("hostel", "reject"),
            Outcome::Deadline => ("hostel", "deadline"),
            Outcome::Quit => ("user", "quit"),
            Outcome::Signal(_) => ("user", "signal"),
        }
    }

    fn value(&self) -> Option<u64> {
        match self {
            Ending::Outcome(Outcome::DebugExit(value)) => Some(u64::from(*value)),
            Ending::Outcome(Outcome::Command(CommandEnd::Exited(value) | CommandEnd::Signaled(value))) => {
                Some(u64::from(*value))
            }
            Ending::Outcome(Outcome::Signal(signal)) => u64::try_from(*signal).ok(),
            _ => None,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Ending::HostError(message) => Some(message.clone()),
            Ending::Outcome(Outcome::ExpectationUnmet { pattern }) => Some(pattern.clone()),
            Ending::Outcome(Outcome::TraceBroken { what }) => Some(what.clone()),
            Ending::Outcome(Outcome::Rejected { pattern, line }) => Some(format!("{pattern}: {line}")),
            Ending::Outcome(Outcome::Panicked { line }) => line.clone(),
            Ending::Outcome(Outcome::Command(end @ (CommandEnd::Unstarted(_) | CommandEnd::Failed(_)))) => {
                Some(describe_command(end))
            }
            Ending::Outcome(Outcome::Failed(failure, _)) => Some(describe(failure)),
            Ending::Outcome(_) => None,
        }
    }

    /// Whether the console's last lines help to understand it.
    fn is_about_the_console(&self) -> bool {
        let (_, kind) = self.names();
        matches!(
            kind,
            "root-failed" | "panic" | "triple-fault" | "kvm-failure" | "expectation-unmet" | "reject" | "deadline"
        )
    }
}

impl Run {
    /// A run that the host did not let begin, for `--result` and `--report`.
    pub fn not_begun(image: String, message: String, expect: Vec<String>, reject: Vec<String>) -> Run {
        Run {
            image,
            ending: Ending::HostError(message),
            status: HOST_ERROR,
            duration: Duration::ZERO,
            phases: Phases::default(),
            expect,
            met: 0,
            reject,
            last_lines: Vec::new(),
            serial_lines: Vec::new(),
            lost_bytes: 0,
            counted: Counted::default(),
        }
    }
}

impl Run {
    /// Takes in what a trace found: a run that is not what it was asked to be fails, and so does one whose trace could not be
    /// written. Returns what else is to be said: where the run failed in a worse way, and where more than one thing is broken.
    pub fn consider_trace(&mut self, found: Vec<io::Result<Verdict>>, ok_exit: Option<u32>) -> Vec<String> {
        let mut beside = Vec::new();
        for verdict in found {
            let Ending::Outcome(outcome) = &self.ending else { break };
            match verdict {
                Ok(Verdict::Fine) => {}
                Ok(Verdict::Broken(what)) => {
                    let broken = Outcome::TraceBroken { what: what.clone() };
                    let worse = outcome.clone().or_worse(broken.clone());
                    if worse != broken {
                        beside.push(what);
                    }
                    self.status = worse.status(ok_exit);
                    self.ending = Ending::Outcome(worse);
                }
                Err(error) => {
                    self.status = HOST_ERROR;
                    self.ending = Ending::HostError(format!("write the trace: {error}"));
                }
            }
        }
        beside
    }
}

fn describe_command(end: &CommandEnd) -> String {
    match end {
        CommandEnd::Exited(status) => format!("the command ended with {status}"),
        CommandEnd::Signaled(signal) => format!("the command was ended by signal {signal}"),
        CommandEnd::Unstarted(error) => {
            format!("the command could not be started: {}", io::Error::from_raw_os_error(*error))
        }
        CommandEnd::Failed(what) => format!("the guest could not {what}"),
    }
}

fn describe(failure: &Failure) -> String {
    match failure {
        Failure::FailedEntry { reason } => format!("the processor refused to enter the guest (reason {reason:#x})"),
        Failure::Emulation { .. } => "KVM could not emulate an instruction".to_owned(),
        Failure::Internal { suberror } => format!("internal error {suberror} of KVM"),
        Failure::Unknown { reason } => format!("unknown KVM exit {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::Stopped;
    use super::*;
    use crate::arch::cpu_state::CpuState;

    fn run(outcome: Outcome, met: usize) -> Run {
        Run {
            image: "shell".into(),
            status: outcome.status(None),
            ending: Ending::Outcome(outcome),
            duration: Duration::from_millis(1500),
            phases: Phases { process_start: 1, load: 2, kvm: 3, first_entry: 4, guest: 5 },
            expect: vec!["one".into(), "two".into()],
            met,
            reject: vec!["linux".into()],
            last_lines: vec!["a".into(), "b \"c\"".into()],
            serial_lines: vec!["log".into()],
            lost_bytes: 7,
            counted: Counted::default(),
        }
    }

    #[test]
    fn the_result_tells_who_how_and_with_what() {
        let json: serde_json::Value = serde_json::from_str(&run(Outcome::DebugExit(300), 2).to_json()).unwrap();
        let expected = serde_json::json!({
            "image": "shell", "ended_by": "guest", "kind": "debug-exit", "value": 300, "status": 89,
            "duration_ms": 1500,
            "phases_us": {"process_start": 1, "load": 2, "kvm": 3, "first_entry": 4, "guest": 5}, "expectations": 2, "expectations_met": 2, "lost_bytes": 7,
            "last_lines": ["a", "b \"c\""], "serial_lines": ["log"],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn the_result_of_a_crash_tells_where() {
        let stopped = Stopped { vcpu: 3, state: Some(CpuState::long_mode(0x10_0000)) };
        let crash = run(Outcome::Failed(Failure::FailedEntry { reason: 33 }, stopped), 0);
        let json: serde_json::Value = serde_json::from_str(&crash.to_json()).unwrap();
        assert_eq!((&json["vcpu"], &json["rip"], &json["status"]), (&3.into(), &"0x100000".into(), &16.into()));
        assert_eq!(json["detail"], "the processor refused to enter the guest (reason 0x21)");
    }

    #[test]
    fn a_failure_shows_the_pattern_and_the_last_lines() {
        let text = run(Outcome::ExpectationUnmet { pattern: "two".into() }, 1).failure().unwrap();
        let last = "last lines of the console:\n  | a\n  | b \"c\"\nlast lines of the serial port:\n  | log\n";
        assert_eq!(text, format!("expectation 2 of 2 is not met: two\n{last}"));
        let deadline = run(Outcome::Deadline, 0).failure().unwrap();
        assert!(deadline.starts_with("the deadline passed; expectation 1 of 2 is not met: one\n"), "{deadline}");
        assert!(deadline.contains("  | a\n"), "{deadline}");
    }

    #[test]
    fn success_is_silent_and_a_large_value_is_told_in_full() {
        assert_eq!(run(Outcome::PoweredOff, 2).failure(), None);
        let text = run(Outcome::DebugExit(300), 2).failure().unwrap();
        assert_eq!(text, "the guest ended with 300 (0x12c), of which the status holds the low seven bits\n");
    }

    #[test]
    fn a_host_error_is_a_result_too() {
        let run = Run::not_begun("x".into(), "no /dev/kvm".into(), vec![], vec![]);
        let json: serde_json::Value = serde_json::from_str(&run.to_json()).unwrap();
        assert_eq!(
            (&json["kind"], &json["detail"], &json["status"]),
            (&"host-error".into(), &"no /dev/kvm".into(), &10.into())
        );
    }
}
