//! `hostel trace` from its command line: what is shown, where it goes, and how it ends.
//!
//! Needs KVM.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, hostel};
use common::kvm;
use common::scratch::Scratch;
use serde_json::Value;
use std::fs;

const HELLO: &str = "Hello from a guest: 64-bit code in ring 0.\nNothing left to do, powering off.\n";

fn trace(arguments: &[&str]) -> Finished {
    hostel(&[&["trace"], arguments].concat(), "")
}

/// The objects of a trace as JSON, and the last one, which is the end.
fn objects(text: &str) -> (Vec<Value>, Value) {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let mut all: Vec<Value> = text.lines().map(parse).collect();
    let end = all.pop().expect("a trace has an end");
    (all, end)
}

#[test]
fn the_trace_goes_to_standard_error_and_the_guest_alone_to_standard_output() {
    if !kvm::available() {
        return;
    }
    let finished = trace(&["hello"]);
    assert_eq!((finished.status, finished.stdout.as_str()), (0, HELLO), "{finished:#?}");
    let lines: Vec<_> = finished.stderr.lines().collect();
    assert!(lines[0].starts_with("  time ms cpu exit"), "{finished:#?}");
    assert!(lines.iter().all(|line| line.chars().count() <= 120 && !line.contains('\x1b')), "{finished:#?}");
    for shown in [
        "0 pio-write  1 0x3fa COM1 FCR           0x01 ",
        "0 pio-read   1 0x3fd COM1 LSR           0x60 ",
        "0 pio-write  1 0x3f8 COM1 THR x 16      \"Hello from a gue\" ",
        "0 pio-write  1 0x600 ACPI SLEEP_CONTROL 0x34 ",
    ] {
        assert!(finished.stderr.contains(shown), "{shown}: {finished:#?}");
    }
    let sent = trace(&["hello", "--every", "--device", "com1", "--only", "pio-write"]);
    assert_eq!(sent.stderr.matches("COM1 THR").count(), HELLO.len(), "{sent:#?}");
    assert_eq!(sent.stderr.lines().count(), 1 + 1 + HELLO.len(), "a header, a line for FCR, and one for each byte");
}

#[test]
fn as_json_every_exit_is_an_object_with_its_instruction() {
    if !kvm::available() {
        return;
    }
    let finished = trace(&["hello", "--json"]);
    assert_eq!((finished.status, finished.stdout.as_str()), (0, HELLO));
    let (exits, end) = objects(&finished.stderr);
    assert_eq!((&end["end"], &end["dropped"]), (&"the guest powered off".into(), &0.into()));
    let sent: Vec<_> = exits.iter().filter(|exit| exit["register"] == "THR").collect();
    let bytes = sent.iter().map(|exit| exit["value"].as_str().expect("a number in hexadecimal"));
    let bytes: Vec<_> = bytes.map(|hex| u8::from_str_radix(&hex[2..], 16).expect("a byte")).collect();
    assert_eq!(String::from_utf8_lossy(&bytes), HELLO);
    for exit in &exits {
        let expected = if exit["exit"] == "pio-read" { "in al, dx" } else { "out dx, al" };
        assert_eq!((&exit["instruction"], &exit["vcpu"]), (&expected.into(), &0.into()), "{exit}");
    }
    assert!(sent.iter().all(|exit| exit["rip"] == sent[0]["rip"]), "they leave at one instruction");
    let times: Vec<_> = exits.iter().map(|exit| exit["at_ns"].as_u64().expect("a time")).collect();
    assert!(times.is_sorted() && end["at_ns"].as_u64() >= times.last().copied());
}

#[test]
fn a_trace_goes_to_a_file_and_its_summary_to_standard_error() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("trace");
    let file = scratch.join("trace.jsonl");
    let finished = trace(&["hello", "--summary", "--output", &file]);
    assert_eq!((finished.status, finished.stdout.as_str()), (0, HELLO));
    for shown in [" exits in ", "\npio-write  COM1              78 ", "\nhottest instructions\n       77 "] {
        assert!(finished.stderr.contains(shown), "{shown}: {finished:#?}");
    }
    assert!(!finished.stderr.contains("time ms"), "{finished:#?}");
    let text = fs::read_to_string(&file).expect("the trace is there");
    assert!(text.starts_with("  time ms cpu exit") && text.contains("COM1 THR x 16"), "{text}");

    let finished = trace(&["hello", "--summary", "--json"]);
    let summary: Value = serde_json::from_str(&finished.stderr).expect("one object");
    assert_eq!(summary["exits"], 84, "{summary:#}");
    assert_eq!(summary["hottest"][0]["instruction"], "out dx, al", "{summary:#}");

    let nowhere = scratch.join("no/such/directory");
    let finished = trace(&["hello", "--output", &nowhere]);
    assert_eq!((finished.status, finished.stdout.as_str()), (10, ""));
    assert_eq!(finished.stderr, format!("hostel: create {nowhere}: No such file or directory (os error 2)\n"));
    let full = trace(&["hello", "--output", "/dev/full"]);
    assert_eq!((full.status, full.stdout.as_str()), (10, HELLO), "{full:#?}");
    assert!(full.stderr.contains("write the trace: No space left on device"), "{full:#?}");
}

#[test]
fn what_cannot_be_shown_is_a_usage_error_that_names_what_can() {
    for (option, word, named) in
        [("--only", "ioctl", "pio-write, mmio-read"), ("--device", "COM9", "COM1, RTC"), ("--vcpu", "99", "0..16")]
    {
        let finished = trace(&["hello", option, word]);
        assert_eq!((finished.status, finished.stdout.as_str()), (2, ""), "{finished:#?}");
        assert!(finished.stderr.contains(word) && finished.stderr.contains(named), "{finished:#?}");
    }
}
