//! The thread models: what must hold whatever a machine's speed is, on the sample kernel and, from the same source, on Linux.
//!
//! The first needs KVM.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, finish, hostel};
use common::kvm;
use common::scratch::Scratch;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// System calls that may be counted for an operation that makes none: what surrounds a loop.
const NONE: f64 = 0.02;

/// The programs as they are built for Linux.
const THREADS: (&str, &[u8]) = ("threads", include_bytes!(concat!(env!("OUT_DIR"), "/linux-threads")));
const RACE: (&str, &[u8]) = ("race", include_bytes!(concat!(env!("OUT_DIR"), "/linux-race")));

/// Runs a program with these words on Linux.
fn on_linux((name, program): (&str, &[u8]), words: &str) -> Finished {
    let scratch = Scratch::new(&format!("{name}-{}", words.replace(' ', "")));
    let path = scratch.file(name, program);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("the file is ours");
    let mut command = Command::new(path);
    command.args(words.split_whitespace());
    finish(command, "")
}

/// Runs a program with these words on the sample kernel, on two processors.
fn on_sample_kernel(words: &str) -> Finished {
    let arguments = ["run", "--cpus", "2", "--timeout", "120s", "--"];
    hostel(&arguments.into_iter().chain(words.split_whitespace()).collect::<Vec<_>>(), "")
}

/// The table that `threads` prints.
struct Table(Vec<(String, Vec<String>)>);

impl Table {
    fn of(run: &Finished) -> Table {
        assert_eq!((run.status, run.stderr.as_str()), (0, ""), "{run:?}");
        let row = |line: &str| {
            let mut cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(String::from);
            (cells.next().unwrap_or_default(), cells.collect())
        };
        Table(run.stdout.lines().map(row).collect())
    }

    /// The cells of the row of this name, or of the one `below` it.
    fn row(&self, name: &str, below: usize) -> [f64; 3] {
        let place = self.0.iter().position(|(row, _)| row == name).unwrap_or_else(|| panic!("no row {name}"));
        let cells = &self.0[place + below].1;
        let numbers: Vec<f64> = cells.iter().map(|cell| cell.parse().expect("a number")).collect();
        numbers.try_into().unwrap_or_else(|cells| panic!("{name}: {cells:?}"))
    }
}

/// What the table must say on any kernel.
fn check(table: &Table, threads: f64) {
    let calls = |operation| table.row(operation, 1);
    let [library, kernel, both] = calls("switch, ns");
    assert!(library < NONE && both < NONE, "user-level switches make no system call: {library}, {both}");
    assert!((0.9..1.1).contains(&kernel), "the kernel's switch is one: {kernel}");
    let [library, kernel, both] = calls("hand over by mutex and condition variable, ns");
    assert!(
        library < NONE && both < NONE && kernel >= 1.0,
        "who waits in ring 3 makes none: {library}, {kernel}, {both}"
    );
    let [library, kernel, both] = calls("create and join a thread, ns");
    assert!(library < 0.1 && both < 0.1 && kernel >= 2.0, "{library}, {kernel}, {both}");
    assert!(calls("lock and unlock a mutex, ns").iter().all(|&calls| calls < NONE), "a free mutex asks nobody");
    let [library, kernel, both] = table.row("one blocks; the others run, % of that time", 0);
    assert!(library == 0.0, "a call that blocks stops all of n:1, but others ran {library} %");
    assert!(kernel > 20.0 && both > 20.0, "and one thread of the others: {kernel} %, {both} %");
    assert_eq!(table.row("threads that waited for all others", 0), [threads; 3]);
}

#[test]
fn a_user_level_switch_makes_no_system_call_and_only_many_to_one_stands_while_a_thread_blocks() {
    check(&Table::of(&on_linux(THREADS, "--work 1")), 1000.0);
}

#[test]
fn the_same_holds_on_the_sample_kernel() {
    if !kvm::available() {
        return;
    }
    let table = Table::of(&on_sample_kernel("threads --threads 30 --work 1"));
    check(&table, 30.0);
    let [library, kernel, both] = table.row("memory of a thread, bytes", 1);
    assert!(kernel >= 1000.0 && library < kernel / 10.0 && both < kernel / 10.0, "{library}, {kernel}, {both}");
}

#[test]
fn a_race_shows_on_the_sample_kernel_too() {
    if !kvm::available() {
        return;
    }
    check_race(&on_sample_kernel("race"));
}

#[test]
fn processes_and_threads_give_a_processor_to_each_other() {
    if !kvm::available() {
        return;
    }
    let run = on_sample_kernel("switch");
    assert_eq!(run.status, 0, "{run:?}");
    let times: Vec<u64> = run
        .stdout
        .lines()
        .skip(1)
        .flat_map(|row| row[36..].split_whitespace().map(|cell| cell.parse().unwrap()))
        .collect();
    assert!(times.len() == 4 && times.iter().all(|&time| time > 0), "{}", run.stdout);
}

#[test]
fn threads_wait_for_each_other_whatever_their_number() {
    for threads in [1, 2, 129] {
        let table = Table::of(&on_linux(THREADS, &format!("--work 1 --threads {threads}")));
        assert_eq!(table.row("threads that waited for all others", 0), [f64::from(threads); 3]);
    }
}

#[test]
fn a_race_loses_additions_in_every_model_and_a_mutex_keeps_them() {
    for model in ["n:1", "1:1", "m:n"] {
        check_race(&on_linux(RACE, &format!("--model {model}")));
    }
}

/// The first way loses additions, the third does not; what the second does is a matter of luck.
fn check_race(run: &Finished) {
    assert_eq!((run.status, run.stderr.as_str()), (0, ""), "{run:?}");
    let results: Vec<&str> = run.stdout.lines().map(|line| line.rsplit(": ").next().unwrap_or_default()).collect();
    assert_eq!((results.len(), results[0], results[2]), (3, "wrong", "right"), "{}", run.stdout);
}

#[test]
fn words_that_make_no_sense_are_refused() {
    for words in ["--model m:1", "--threads 0", "--threads 4001", "--work", "--work x", "help"] {
        let run = on_linux(THREADS, words);
        assert_eq!(run.status, 2, "{words}: {run:?}");
        assert!(run.stdout.starts_with("threads [--model"), "{words}: {}", run.stdout);
    }
    assert_eq!(on_linux(RACE, "--model").status, 2);
}
