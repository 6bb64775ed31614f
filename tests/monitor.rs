//! The monitor: two guests in ring 3 by trap and emulate, each as if it had a machine of its own.
//!
//! Needs KVM.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, hostel};
use common::kvm;
use hostel::boot::samples;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;

/// Code lines that the monitor may have: neither blank nor comment.
const LINES_MAX: usize = 1_500;
/// Lines that the monitor itself prints of a run that it does not trace: a heading, and a table a guest.
const OWN_LINES_MAX: usize = 80;

/// What `hostel run` prints with these arguments.
fn run(arguments: &[&str]) -> Finished {
    hostel(&[&["run"], arguments].concat(), "")
}

/// A run of the monitor.
fn monitor(words: &[&str]) -> Finished {
    run(&[&["monitor", "--"], words].concat())
}

/// What a guest printed, by its prefix.
fn console(finished: &Finished, prefix: &str) -> String {
    let prefix = format!("{prefix}| ");
    finished.stdout.lines().filter_map(|line| line.strip_prefix(&prefix)).map(|line| format!("{line}\n")).collect()
}

/// The row of the table that ends with `what`, in the table of the guest: how many.
fn counted(finished: &Finished, guest: &str, what: &str) -> u64 {
    let (_, table) = finished.stdout.split_once(&format!("\n{guest}: ")).expect("there is a table");
    let row = table.lines().find(|line| line.ends_with(what)).unwrap_or_default();
    row.split_whitespace().next().map_or(0, |number| number.parse().expect("a row begins with a number"))
}

#[test]
fn two_guests_print_what_they_print_alone_and_both_have_turns() {
    if !kvm::available() {
        return;
    }
    let finished = monitor(&[]);
    assert_eq!(finished.status, 0, "{finished:#?}");
    // Which of the programs of `user` is done first depends on when they were interrupted, here and alone.
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    for (prefix, guest) in [("1:user", "user"), ("2:hello", "hello")] {
        assert_eq!(sorted(&console(&finished, prefix)), sorted(&run(&[guest]).stdout), "{finished:#?}");
        assert!(finished.stdout.contains(&format!("\n{prefix}: powered off; ")), "{finished:#?}");
    }
    let turns: Vec<u64> = finished
        .stdout
        .lines()
        .filter_map(|line| line.strip_suffix(" turns"))
        .map(|line| {
            let number = line.rsplit(' ').next().expect("a line has a last word");
            number.parse().expect("turns are a number")
        })
        .collect();
    assert!(turns.len() == 2 && turns.iter().all(|turns| *turns >= 2), "{turns:?}: {finished:#?}");
    let own = finished.stdout.lines().filter(|line| !line.contains("| ")).count();
    assert!(own <= OWN_LINES_MAX, "{own} lines: {finished:#?}");
    // Ring 3 of a guest, its own page tables, its timer.
    for what in ["SYSCALL", "MOV to or from CR, CLTS", "(interrupts delivered to the guest)", "IRET, patched"] {
        assert!(counted(&finished, "1:user", what) >= 2, "{what}: {finished:#?}");
    }
}

#[test]
fn its_guests_are_the_images_that_run_directly() {
    let monitor = samples::find("monitor").expect("it is a sample").image;
    let hash = |bytes: &[u8]| Sha256::digest(bytes);
    for name in ["hello", "user", "sensitive", "faults", "traps", "trap-cost", "memory", "crash"] {
        let image = samples::find(name).expect("it is a sample").image;
        let at = monitor.windows(image.len()).position(|bytes| bytes == image);
        let embedded = at.map(|at| hash(&monitor[at..at + image.len()]));
        assert_eq!(embedded, Some(hash(image)), "{name}");
    }
}

/// The guests that look closest at their machine: exceptions with their error codes; ports, memory-mapped I/O, control registers.
#[test]
fn its_machines_are_like_a_machine() {
    if !kvm::available() {
        return;
    }
    let finished = monitor(&["faults", "+", "traps"]);
    assert_eq!(console(&finished, "1:faults"), run(&["faults"]).stdout, "{finished:#?}");
    let steps = console(&finished, "2:traps");
    let right = steps.lines().filter(|line| line.ends_with(": right")).count();
    assert!(right == 14 && !steps.contains("WRONG"), "{steps}");
}

#[test]
fn a_guest_sees_nothing_but_its_own_memory_and_ends_alone() {
    if !kvm::available() {
        return;
    }
    let hello = run(&["hello"]).stdout;
    // The end of its own 8 MiB; where the monitor lies; where the other guest's image lies in its memory; the machine's LAPIC.
    let addresses = ["0x7ffff8", "0x8000000", "0x9900000", "0xbe00020"];
    let finished = monitor(&[&["memory"], &addresses[..], &["+", "hello"]].concat());
    let tried = |console: &str| console.lines().filter(|line| line.starts_with("at ")).collect::<Vec<_>>().join("\n");
    let alone = run(&[&["memory", "--mem", "8M", "--"], &addresses[..]].concat());
    assert_eq!(tried(&console(&finished, "1:memory")), tried(&alone.stdout), "{finished:#?}");
    assert_eq!(
        tried(&alone.stdout).matches("0xffffffffffffffff, does not keep what is written").count(),
        3,
        "{alone:#?}"
    );
    assert_eq!(console(&finished, "2:hello"), hello, "{finished:#?}");
    let finished = monitor(&["crash", "+", "hello"]);
    assert!(finished.stdout.contains("\n1:crash: triple fault; "), "{finished:#?}");
    assert_eq!(console(&finished, "2:hello"), hello, "{finished:#?}");
}

#[test]
fn what_is_sensitive_and_does_not_trap_goes_wrong_unless_it_is_patched() {
    if !kvm::available() {
        return;
    }
    let finished = monitor(&["sensitive", "descriptors"]);
    let answers = console(&finished, "1:sensitive");
    assert!(answers.lines().count() == 7 && answers.lines().all(|line| line.ends_with(": right")), "{finished:#?}");
    let finished = monitor(&["noscan", "noumip", "sensitive", "descriptors"]);
    let answers = console(&finished, "1:sensitive");
    assert!(answers.lines().count() == 7 && answers.lines().all(|line| line.contains(": WRONG, ")), "{finished:#?}");
}

#[test]
fn each_trap_is_told_on_request() {
    if !kvm::available() {
        return;
    }
    let finished = monitor(&["trace", "hello"]);
    let told = |what: &str| {
        finished.stdout.lines().filter(|line| line.starts_with("1:hello# ring 0 at 0x") && line.ends_with(what)).count()
            as u64
    };
    assert_eq!(told(": #GP OUT [ee]"), counted(&finished, "1:hello", "  OUT"), "{finished:#?}");
    assert!(told("MOV to or from CR, CLTS [0f 22 d8]") == 1, "{finished:#?}");
}

/// Counted are lines that are neither blank nor a comment, as in `tests/layering.rs`.
#[test]
fn the_monitor_stays_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest");
    let Ok(modules) = fs::read_dir(root.join("monitor")) else { return kvm::skip("the sources are not here") };
    let files = modules.map(|entry| entry.expect("it can be listed").path()).chain([root.join("bin/monitor.rs")]);
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    let lines: usize =
        files.map(|path| fs::read_to_string(path).expect("it is text").lines().filter(is_code).count()).sum();
    println!("{lines} code lines, of {LINES_MAX} at most");
    assert!(lines <= LINES_MAX, "{lines} code lines, {LINES_MAX} at most");
}
