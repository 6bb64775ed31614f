//! What files of a traced run are written: `hostel trace --export` as the trace event format demands it, for one vCPU and
//! for several; `--report html:FILE`, whose content the page's own tests and `tests/browser` look at.
//!
//! Source: "Trace Event Format", "JSON Object Format", "Complete Events", "Instant Events", "Metadata Events".

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::hostel;
use common::kvm;
use common::scratch::Scratch;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

/// A slice of a track, in nanoseconds.
#[derive(Debug)]
struct Slice {
    from: u64,
    to: u64,
    name: String,
    kind: String,
}

/// What a file in the format holds.
#[derive(Debug, Default)]
struct Timeline {
    /// Slices by the name of their track, in the order of time.
    tracks: BTreeMap<String, Vec<Slice>>,
    /// Names of the instants, in the order of time.
    instants: Vec<(u64, String)>,
    /// "otherData".
    facts: BTreeMap<String, String>,
}

impl Timeline {
    /// Reads a file.
    ///
    /// # Panics
    /// When it does not keep to the format.
    fn parse(text: &str) -> Timeline {
        let file: Value = serde_json::from_str(text).unwrap();
        assert_eq!(file["displayTimeUnit"], "ns");
        let mut timeline = Timeline::default();
        let (mut names, mut tracks) = (BTreeMap::new(), BTreeMap::<u64, Vec<Slice>>::new());
        for event in file["traceEvents"].as_array().unwrap() {
            let text = |key: &str| event[key].as_str().unwrap_or_else(|| panic!("{key} of {event}")).to_owned();
            let (from, pid, tid) = (nanoseconds(&event["ts"]), event["pid"].as_u64(), event["tid"].as_u64().unwrap());
            assert_eq!(pid, Some(1), "one process: {event}");
            match text("ph").as_str() {
                "X" => {
                    let to = from + nanoseconds(&event["dur"]);
                    let slice = Slice { from, to, name: text("name"), kind: text("cat") };
                    tracks.entry(tid).or_default().push(slice);
                }
                "i" => {
                    assert!(["g", "p", "t"].contains(&text("s").as_str()), "scope of {event}");
                    timeline.instants.push((from, text("name")));
                }
                "M" => match text("name").as_str() {
                    "thread_name" => {
                        assert!(names.insert(tid, event["args"]["name"].as_str().unwrap().to_owned()).is_none());
                    }
                    "process_name" => assert!(event["args"]["name"].is_string()),
                    "thread_sort_index" => assert!(event["args"]["sort_index"].is_u64()),
                    other => panic!("metadata {other}"),
                },
                other => panic!("phase {other}"),
            }
        }
        for (tid, mut slices) in tracks {
            slices.sort_by_key(|slice| (slice.from, slice.to));
            for pair in slices.windows(2) {
                assert!(pair[0].to <= pair[1].from, "they overlap on track {tid}: {pair:?}");
            }
            timeline.tracks.insert(names[&tid].clone(), slices);
        }
        timeline.instants.sort();
        timeline.facts = serde_json::from_value(file["otherData"].clone()).unwrap();
        timeline
    }

    fn named(&self, track: &str, name: &str) -> usize {
        self.tracks[track].iter().filter(|slice| slice.name == name).count()
    }
}

/// A time, which is a finite number of microseconds, not before the program's begin.
fn nanoseconds(value: &Value) -> u64 {
    let microseconds = value.as_f64().unwrap_or_else(|| panic!("a time: {value}"));
    assert!(microseconds.is_finite() && microseconds >= 0.0, "{microseconds}");
    (microseconds * 1000.0).round() as u64
}

/// The timeline of a traced run that ends well, and what the guest printed.
fn traced(arguments: &[&str]) -> (Timeline, String) {
    let scratch = Scratch::new(&format!("timeline-{}", arguments.join("-")));
    let file = scratch.join("trace.json");
    let all = [&["trace", "--output", "/dev/null", "--export", &file], arguments].concat();
    let run = hostel(&all, "");
    assert_eq!(run.status, 0, "{run:?}");
    (Timeline::parse(&fs::read_to_string(file).unwrap()), run.stdout)
}

#[test]
fn a_run_is_slices_of_guest_and_exits_between_milestones() {
    if !kvm::available() {
        return;
    }
    let (timeline, console) = traced(&["hello"]);
    assert_eq!(timeline.tracks.keys().collect::<Vec<_>>(), ["vCPU 0"]);
    assert_eq!(timeline.named("vCPU 0", "COM1 THR"), console.len());
    assert!(timeline.named("vCPU 0", "guest") >= console.len());
    let names: Vec<_> = timeline.instants.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(
        names,
        ["process start", "memory", "image loaded", "KVM ready", "first entry", "first serial byte", "end"]
    );
    let first_byte = timeline.tracks["vCPU 0"].iter().find(|slice| slice.name == "COM1 THR").unwrap();
    assert_eq!((first_byte.from, first_byte.kind.as_str()), (timeline.instants[5].0, "pio-write"));
    assert_eq!(timeline.facts["Hostel"], env!("CARGO_PKG_VERSION"));
    assert_eq!((timeline.facts["image"].as_str(), timeline.facts["exits that are missing"].as_str()), ("hello", "0"));
}

#[test]
fn each_vcpu_has_its_track() {
    if !kvm::available() {
        return;
    }
    let (timeline, _) = traced(&["smp", "--cpus", "2"]);
    assert_eq!(timeline.tracks.keys().collect::<Vec<_>>(), ["vCPU 0", "vCPU 1"]);
    for (track, slices) in &timeline.tracks {
        assert!(slices.iter().any(|slice| slice.kind != "guest"), "{track} has no exit");
    }
}

#[test]
fn a_run_writes_its_page_beside_other_reports_and_prints_no_trace() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("timeline-reports");
    let (page, junit) = (scratch.join("page.html"), scratch.join("junit.xml"));
    let reports = ["--report", &format!("html:{page}"), "--report", &format!("junit:{junit}")];
    let run = hostel(&[&["run", "hello"], &reports[..]].concat(), "");
    assert_eq!((run.status, run.stderr.as_str()), (0, ""));
    let page = fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"), "{page}");
    assert!(page.contains(r#""text":["Hello from a guest: 64-bit code in ring 0.","#));
    assert!(fs::read_to_string(junit).unwrap().contains("<testsuites"));
}

#[test]
fn a_file_that_cannot_be_written_is_named_before_the_guest_runs() {
    if !kvm::available() {
        return;
    }
    for arguments in [["run", "--report", "html:/nowhere/page"], ["trace", "--export", "/nowhere/trace"]] {
        let run = hostel(&[&arguments[..], &["hello"]].concat(), "");
        assert_eq!((run.status, run.stdout.as_str()), (10, ""), "{run:?}");
        assert!(run.stderr.contains("/nowhere/"), "{run:?}");
    }
}
