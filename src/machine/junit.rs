//! `--report junit:FILE`: one case for each expectation, one for each reject, one for the run itself.
//!
//! Source: the JUnit XML form as Jenkins and GitLab read it (quick-junit writes it).

use super::outcome::Outcome;
use super::report::{Ending, Run};
use crate::backend::expect::LINUX;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

/// The report as XML.
pub fn to_xml(run: &Run) -> String {
    let mut suite = TestSuite::new(&run.image);
    suite.set_time(run.duration);
    suite.add_test_cases(expectations(run));
    suite.add_test_cases(run.reject.iter().map(|pattern| case(run, format!("reject {pattern}"), reject(run, pattern))));
    let mut whole = case(run, "run".to_owned(), whole(run));
    whole.set_time(run.duration);
    whole.set_system_out(run.last_lines.join("\n"));
    suite.add_test_case(whole);
    let mut report = Report::new("hostel");
    report.set_time(run.duration);
    report.add_test_suite(suite);
    report.to_string().expect("writing XML to memory cannot fail")
}

fn case(run: &Run, name: String, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(&run.image);
    case
}

/// Met; the first that was not; the ones behind it, which nobody looked for.
fn expectations(run: &Run) -> impl Iterator<Item = TestCase> {
    run.expect.iter().enumerate().map(|(index, pattern)| {
        let status = match index.cmp(&run.met) {
            std::cmp::Ordering::Less => TestCaseStatus::success(),
            std::cmp::Ordering::Equal => failed(run, NonSuccessKind::Failure),
            std::cmp::Ordering::Greater => TestCaseStatus::skipped(),
        };
        case(run, format!("expect {}: {pattern}", index + 1), status)
    })
}

fn reject(run: &Run, given: &str) -> TestCaseStatus {
    match &run.ending {
        Ending::Outcome(Outcome::Rejected { pattern, .. })
            if pattern == given || (given == LINUX && pattern.starts_with(&format!("{LINUX}: "))) =>
        {
            failed(run, NonSuccessKind::Failure)
        }
        Ending::Outcome(_) => TestCaseStatus::success(),
        Ending::HostError(_) => TestCaseStatus::skipped(),
    }
}

fn whole(run: &Run) -> TestCaseStatus {
    match &run.ending {
        _ if run.status == 0 => TestCaseStatus::success(),
        Ending::HostError(_) => failed(run, NonSuccessKind::Error),
        Ending::Outcome(_) => failed(run, NonSuccessKind::Failure),
    }
}

fn failed(run: &Run, kind: NonSuccessKind) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(run.reason());
    status.set_type(format!("status {}", run.status));
    status.set_description(run.last_lines.join("\n"));
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debug::counters::Counted;
    use crate::machine::phases::Phases;
    use std::time::Duration;

    fn run(outcome: Outcome, met: usize) -> Run {
        Run {
            image: "bzImage".into(),
            status: outcome.status(None),
            ending: Ending::Outcome(outcome),
            duration: Duration::from_millis(250),
            phases: Phases::default(),
            expect: vec!["login: ".into(), "<ok>".into(), "bye".into()],
            met,
            reject: vec!["linux".into(), "no way".into()],
            last_lines: vec!["last & least\x1b".into()],
            serial_lines: Vec::new(),
            lost_bytes: 0,
            counted: Counted::default(),
        }
    }

    #[test]
    fn every_expectation_reject_and_the_run_is_a_case() {
        let xml = to_xml(&run(Outcome::PoweredOff, 3));
        assert!(xml.contains(r#"tests="6" skipped="0" errors="0" failures="0""#), "{xml}");
        assert!(xml.contains(r#"name="expect 2: &lt;ok&gt;" classname="bzImage""#), "{xml}");
        assert!(xml.contains(r#"name="run" classname="bzImage" time="0.250""#), "{xml}");
        assert!(xml.contains("last &amp; least"), "{xml}");
    }

    #[test]
    fn the_first_unmet_expectation_fails_and_the_rest_is_skipped() {
        let xml = to_xml(&run(Outcome::ExpectationUnmet { pattern: "<ok>".into() }, 1));
        assert!(xml.contains(r#"tests="6" skipped="1" errors="0" failures="2""#), "{xml}");
        assert!(xml.contains(r#"message="expectation 2 of 3 is not met: &lt;ok&gt;" type="status 18""#), "{xml}");
    }

    #[test]
    fn a_pattern_of_a_preset_fails_the_preset() {
        let rejected = Outcome::Rejected { pattern: r"linux: \bBUG: ".into(), line: "BUG: x".into() };
        let xml = to_xml(&run(rejected, 3));
        assert!(xml.contains(r#"failures="2""#), "{xml}");
        assert!(xml.contains(r"rejected by `linux: \bBUG: `: BUG: x"), "{xml}");
    }

    #[test]
    fn a_host_error_is_an_error_and_not_a_failure() {
        let xml = to_xml(&Run::not_begun("x".into(), "no /dev/kvm".into(), vec![], vec!["y".into()]));
        assert!(xml.contains(r#"tests="2" skipped="1" errors="1" failures="0""#), "{xml}");
    }
}
