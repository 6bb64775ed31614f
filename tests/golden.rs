//! Golden traces of the sample guests: each guest's exits are those in `tests/golden/`, line by line, on every kind of KVM;
//! and what `--golden` and `--budget` say of a run that does not keep to them.
//!
//! Needs KVM. `CONTRIBUTING.md` says how a golden trace is made.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, hostel};
use common::kvm;
use common::scratch::Scratch;
use hostel::boot::samples::SAMPLES;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

/// A sample guest's run with its golden trace. The texts are part of the program, for the lab has only that.
struct Golden {
    name: &'static str,
    text: &'static str,
    /// What follows `hostel trace --golden FILE`.
    arguments: &'static [&'static str],
    input: &'static str,
    status: i32,
}

/// A run that gets no input.
macro_rules! golden {
    ($name:literal, $arguments:expr, $status:literal) => {
        golden!($name, $arguments, "", $status)
    };
    ($name:literal, $arguments:expr, $input:literal, $status:literal) => {
        Golden {
            name: $name,
            text: include_str!(concat!("golden/", $name, ".trace")),
            arguments: &$arguments,
            input: $input,
            status: $status,
        }
    };
}

const GOLDEN: &[Golden] = &[
    golden!("hello", ["hello"], 0),
    golden!("real", ["real"], 0),
    golden!("longmode", ["longmode"], 33),
    golden!("interrupts", ["interrupts"], "q", 0),
    golden!("smp", ["smp"], 0),
    golden!("memory", ["memory", "--mem", "64M"], 0),
    golden!("faults", ["faults"], 0),
    golden!("crash", ["crash"], 14),
    golden!("panic", ["panic"], 12),
    golden!("shell", ["shell", "--", "exit", "5"], 11),
    golden!("trap-cost", ["trap-cost"], 0),
    golden!("disk-bench", ["disk-bench"], 3),
    golden!("net-bench", ["net-bench"], 3),
    golden!("virtio-blk", ["virtio-blk", "--transport", "mmio", "--disk", "/proc/self/exe,ro"], 0),
    golden!("virtio-net", ["virtio-net", "--transport", "mmio", "--net", "switch:golden"], 0),
    golden!("user", ["user"], 0),
    golden!("sensitive", ["sensitive"], 0),
    golden!("monitor", ["monitor", "--", "nobody"], 3),
    golden!("traps-split", ["traps"], 0),
    golden!("traps-msr", ["traps", "--msr", "0x277", "--", "msr"], 0),
    golden!("traps-none", ["traps", "--irqchip", "none", "--cpus", "1"], 0),
];

#[test]
fn every_guest_leaves_as_its_golden_trace_says() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("golden");
    for golden in GOLDEN {
        let file = scratch.file(golden.name, golden.text.as_bytes());
        let mut arguments = vec!["trace", "--golden", &file];
        arguments.extend(golden.arguments);
        let finished = hostel(&arguments, golden.input);
        // A guest's failure outranks a trace that differs, in the status but not in what is said.
        assert!(!finished.stderr.contains("the exits are not those"), "{}: {}", golden.name, finished.stderr);
        assert_eq!(finished.status, golden.status, "{}: {finished:#?}", golden.name);
    }
}

#[test]
fn every_guest_has_a_golden_trace_and_no_trace_lacks_its_guest() {
    let traced: BTreeSet<_> = GOLDEN.iter().map(|golden| golden.arguments[0]).collect();
    let samples: BTreeSet<_> = SAMPLES.iter().map(|sample| sample.name).collect();
    assert_eq!(samples, traced);
}

/// `hostel trace` of the smallest guest.
fn trace(arguments: &[&str]) -> Finished {
    hostel(&[&["trace"], arguments, &["hello"]].concat(), "")
}

#[test]
fn a_trace_that_differs_ends_with_18_and_shows_where() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("golden-differs");
    let file = scratch.join("hello");
    assert_eq!(trace(&["--golden", &file]).status, 10, "there is no such file");
    assert_eq!(trace(&["--golden", &file, "--bless"]).status, 0);
    let blessed = fs::read_to_string(&file).expect("--bless wrote it");
    let letters = "pio-write.1 COM1 THR = \"Hello from a guest: 64-bit code in ring 0.\\n\" polls 3";
    assert!(blessed.lines().any(|line| line == letters), "{blessed}");
    assert_eq!(trace(&["--golden", &file]).status, 0);

    scratch.file("hello", blessed.replace("ring 0.", "ring 3.").as_bytes());
    let finished = trace(&["--golden", &file]);
    assert_eq!(finished.status, 18, "{finished:#?}");
    let shown = [format!("  - {}", letters.replace("ring 0.", "ring 3.")), format!("  + {letters}")];
    assert!(finished.stderr.contains(&shown.join("\n")), "{}", finished.stderr);
    assert_eq!(finished.stdout, trace(&["--output", "/dev/null"]).stdout, "the guest ran as ever");

    let finished = hostel(&["trace", "--golden", &file, "--budget", "total=1", "crash"], "");
    assert_eq!(finished.status, 14, "a triple fault outranks what a trace finds: {finished:#?}");
    assert!(
        ["the exits are not those", "total: "].iter().all(|found| finished.stderr.contains(found)),
        "{finished:#?}"
    );

    scratch.file("hello", b"hlt\nhalt\n");
    let finished = trace(&["--golden", &file]);
    assert!(finished.status == 10 && finished.stderr.contains("line 2: \"halt\" is no kind of exit"), "{finished:#?}");
}

#[test]
fn a_budget_that_is_exceeded_ends_with_18_and_says_by_how_much() {
    if !kvm::available() {
        return;
    }
    let finished = trace(&["--budget", "pio=84,mmio=0,com1=83,total=84"]);
    assert!(finished.status == 0 && finished.stderr.is_empty(), "{finished:#?}");
    let finished = trace(&["--budget", "pio-read=4,total=1000"]);
    assert_eq!(finished.status, 18, "{finished:#?}");
    assert!(finished.stderr.contains("pio-read: 5 exits, 1 more than the 4 it may have"), "{}", finished.stderr);
    let finished = trace(&["--budget", "poi=1"]);
    assert!(finished.status == 2 && finished.stderr.contains("poi"), "{finished:#?}");
}

/// What no golden trace can hold: KVM's own counters tell that it answered the steps that never left it.
#[test]
fn what_kvm_answers_alone_moves_its_counters() {
    if !kvm::available() {
        return;
    }
    let counted = |step: &str| {
        let finished = hostel(&["trace", "--summary", "--json", "traps", "--", step], "");
        assert_eq!(finished.status, 0, "{step}: {finished:#?}");
        let summary: Value = serde_json::from_str(finished.stderr.trim()).expect("the summary is JSON");
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{step}: {summary:#}"));
        (number(&summary["answered_by_kvm_alone"]), number(&summary["kvm_counters"]["halt_exits"]))
    };
    let ((_, halts), (alone, halts_then)) = (counted("pause"), counted("hlt"));
    assert!(
        halts == 0 && halts_then >= 1 && alone >= 1,
        "{halts} halts, then {halts_then}; {alone} exits to KVM alone"
    );
}
