//! Whether tests that need KVM can run here, and how one is left out.

use std::fs::OpenOptions;
use std::io::Write;
use std::panic::Location;

/// Whether `/dev/kvm` can be used. If not, the test is skipped, or fails when `HOSTEL_REQUIRE_KVM=1` forbids that.
#[track_caller]
pub fn available() -> bool {
    let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") else { return true };
    let required = std::env::var("HOSTEL_REQUIRE_KVM").is_ok_and(|value| value == "1");
    assert!(!required, "HOSTEL_REQUIRE_KVM=1, but /dev/kvm: {error}");
    skip(&format!("/dev/kvm: {error}"));
    false
}

/// Says that the calling test is left out and why, past the capture of its output: `scripts/test` counts these lines.
#[track_caller]
pub fn skip(reason: &str) {
    say(&format!("skipped: {}: {reason}", Location::caller()));
}

/// The unmodified kernel that the lab has for its guests; elsewhere the test is left to the lab, or skipped with it.
#[track_caller]
pub fn lab_kernel() -> Option<String> {
    let kernel = std::env::var("HOSTEL_LAB_KERNEL").ok();
    if kernel.is_none() {
        match std::env::var("HOSTEL_LAB") {
            Ok(value) if value == "skip" => skip("runs in the lab, which HOSTEL_LAB=skip leaves out"),
            _ => say(&format!("left to scripts/lab: {}", Location::caller())),
        }
    }
    kernel
}

fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).expect("standard error takes a line");
}
