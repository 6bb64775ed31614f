//! Limits of disks and networks (`rate=`, `ops=`), measured by sample guests from inside: what comes through is the rate that was given.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{PROGRAM, finish};
use common::kvm;
use common::scratch::Scratch;
use common::session::Session;
use std::arch::x86_64::_rdtsc;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// How far from the rate what is measured may be: 20 %.
const TOLERANCE: f64 = 0.2;
/// How often it may be slower, on a host that has more to do.
const TRIES: u32 = 8;

fn time_stamp() -> u64 {
    // SAFETY: reading the counter has no precondition; Linux forbids it to nobody who did not ask for that (prctl(2) PR_SET_TSC).
    unsafe { _rdtsc() }
}

/// Cycles of the time-stamp counter in a second, which guests have too.
static CYCLES: LazyLock<f64> = LazyLock::new(|| {
    let (begin, before) = (Instant::now(), time_stamp());
    while begin.elapsed() < Duration::from_millis(50) {
        std::hint::spin_loop();
    }
    (time_stamp() - before) as f64 / begin.elapsed().as_secs_f64()
});

/// The seconds that a guest says its work took, in cycles at the end of a line.
fn seconds(console: &str) -> f64 {
    let cycles = console.split(" in ").nth(1).and_then(|rest| rest.split(' ').next());
    let cycles: f64 = cycles.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no cycles: {console}"));
    cycles / *CYCLES
}

/// Holds what `run` took against what it should have: never less, and at least once no more, since others may want the processors.
fn assert_rate(what: &str, expected_s: f64, mut run: impl FnMut() -> f64) {
    for _ in 0..TRIES {
        let took_s = run();
        println!("{what}: {took_s:.3} s of {expected_s:.3} s");
        assert!(took_s > expected_s * (1.0 - TOLERANCE), "{what}: it took {took_s} s, less than {expected_s} s");
        if took_s < expected_s * (1.0 + TOLERANCE) {
            return;
        }
    }
    panic!("{what}: it takes more than {expected_s} s each time");
}

#[test]
fn a_disk_is_as_fast_as_its_limits_say() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("rate-disk");
    let disk = scratch.file("disk", &vec![0x5a; 4 << 20]);
    // What comes before the measured requests uses up what the bucket had: 8 of 64 KiB, 16 of 4 KiB.
    for (limit, words, expected_s) in [
        ("rate=4M", ["read", "4", "64", "48"], 0.75),
        ("ops=100", ["randread", "8", "4", "75"], 0.75),
        ("rate=1G,ops=100", ["randwrite", "8", "4", "50"], 0.5),
    ] {
        assert_rate(&format!("{limit} {words:?}"), expected_s, || {
            let mut command = Command::new(PROGRAM);
            command.args(["run", "disk-bench", "--mem", "128M", "--transport", "mmio", "--timeout", "60s"]);
            command.args(["--disk", &format!("{disk},{limit}"), "--"]).args(words);
            let run = finish(command, "");
            assert_eq!(run.status, 0, "{run:?}");
            seconds(&run.stdout)
        });
    }
}

#[test]
fn a_network_is_as_fast_as_its_limits_say_in_either_direction() {
    if !kvm::available() {
        return;
    }
    let runtime = Scratch::runtime("rate-net");
    let machine = |number: u8, limit: &str, words: &[&str]| {
        let mut command = Command::new(PROGRAM);
        let net = format!("switch:lan,mac=02:00:00:00:00:0{number}{limit}");
        command.args(["run", "net-bench", "--transport", "mmio", "--timeout", "60s", "--net", &net, "--"]).args(words);
        command.env("XDG_RUNTIME_DIR", runtime.path());
        command
    };
    // A full bucket passes a tenth of a second's worth at once: of 2 MiB at 4 MiB a second, what would take 0.1 s.
    for (sends, answers, words, expected_s) in
        [(",rate=4M", "", ["bulk", "2"], 0.4), ("", ",ops=2000", ["small", "1200"], 0.5)]
    {
        assert_rate(&format!("{sends}{answers} {words:?}"), expected_s, || {
            let answerer = Session::on_pipes(machine(1, answers, &["answer"]));
            let sender = finish(machine(2, sends, &words), "");
            assert_eq!(sender.status, 0, "{sender:?}");
            let (status, seen) = answerer.end();
            assert_eq!(status, 0, "{seen}");
            seconds(&sender.stdout)
        });
    }
}
