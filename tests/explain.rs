//! `hostel explain` tells the truth: each row's code runs on the KVM at hand, and what is seen is what the row claims for it.
//!
//! A claim is held against three things: the exits that user space got, the counters of KVM (less those of the same loop around
//! nothing), and the exceptions that the guest took. What cannot be shown here is printed and counted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::hostel;
use common::kvm;
use common::trial::{REPETITIONS, Sight, observe, offers};
use hostel::arch::irqchip::Irqchip;
use hostel::debug::event::ExitKind;
use hostel::debug::explain::table;
use hostel::debug::explain::trial::{Claim, Ring, Seen, Trial};
use hostel::doctor::backend::{Backend, Kind};
use hostel::doctor::host::Host;
use hostel::kvm::exit::{Exit, Failure};
use hostel::kvm::system::System;
use std::io::Write;

/// Moves of a counter that cannot come from elsewhere, such as the host's timer.
const MANY: u64 = REPETITIONS as u64 / 2;

/// The loop around nothing.
static NOTHING: [Trial; 4] = [
    Trial::ring0("", &[]),
    Trial::ring3("", &[]),
    Trial::ring0("", &[]).on(Irqchip::Split),
    Trial::ring3("", &[]).on(Irqchip::Split),
];

/// How a trial ended.
enum Verdict {
    AsClaimed,
    NotHere(String),
    Otherwise(String),
}

#[test]
fn each_claim_is_what_this_kvm_shows() {
    if !kvm::available() {
        return;
    }
    let kind = Backend::of(&Host::new("/")).kind;
    if kind == Kind::Unknown {
        kvm::skip("no claims are stated for this KVM");
        return;
    }
    let cpuid = System::open().unwrap().supported_cpuid().unwrap();
    let baselines: Vec<_> = NOTHING.iter().map(|trial| (trial, observe(trial))).collect();
    let (mut shown, mut not_here, mut wrong) = (0, 0, Vec::new());
    for (entry, trial) in table::entries().flat_map(|entry| entry.trials().iter().map(move |trial| (entry, trial))) {
        let alike = |other: &Trial| (other.ring, other.irqchip) == (trial.ring, trial.irqchip);
        let (_, baseline) = baselines.iter().find(|(other, _)| alike(other)).expect("a baseline for each machine");
        let missing = trial.needs.filter(|feature| !offers(&cpuid, *feature));
        let verdict = match missing {
            Some(feature) => Verdict::NotHere(format!("CPUID does not offer {}", feature.name)),
            None => judge(kind, trial, baseline),
        };
        match verdict {
            Verdict::AsClaimed => shown += 1,
            Verdict::NotHere(reason) => {
                not_here += 1;
                say(&format!("explain: {}: {}: not here: {reason}", entry.name, trial.asm));
            }
            Verdict::Otherwise(seen) => wrong.push(format!("{}: {}\n    {seen}", entry.name, trial.asm)),
        }
    }
    say(&format!("explain: {shown} trials as claimed for {kind:?}, {not_here} not here, {} otherwise", wrong.len()));
    assert!(wrong.is_empty(), "claims that {kind:?} does not bear out:\n  {}", wrong.join("\n  "));
    assert!(shown > 3 * not_here, "most of the table is held against this KVM");
}

/// Runs the trial and compares what is seen with the claim for this kind of KVM.
fn judge(kind: Kind, trial: &'static Trial, baseline: &Sight) -> Verdict {
    let claim = match kind {
        Kind::Vmx => trial.vmx,
        Kind::Svm => trial.svm,
        Kind::Pvm | Kind::Unknown => trial.software,
    };
    let (by, vector) = match claim {
        Claim::Seen { by, vector } => (by, vector),
        Claim::NotHere(reason) => return Verdict::NotHere(reason.to_owned()),
    };
    let sight = observe(trial);
    let cannot_emulate = matches!(sight.exits[..], [Exit::Failure(Failure::Emulation { .. })]);
    if kind == Kind::Pvm && cannot_emulate && by != Seen::ByHostel(ExitKind::Failure) {
        return Verdict::NotHere("this KVM cannot interpret it".to_owned());
    }
    match difference(by, vector, &sight, baseline) {
        None => Verdict::AsClaimed,
        Some(difference) => Verdict::Otherwise(format!("{claim:?}, but {difference}")),
    }
}

/// What was seen, where that is not what was claimed.
fn difference(by: Seen, vector: Option<u8>, sight: &Sight, baseline: &Sight) -> Option<String> {
    let moved = |name: &str| {
        let around_nothing = baseline.moved.get(name).copied().unwrap_or(0);
        sight.moved.get(name).map(|moved| moved.saturating_sub(around_nothing))
    };
    let from_outside = match by {
        Seen::ByHostel(kind) => {
            let ends_it = matches!(kind, ExitKind::Shutdown | ExitKind::Failure | ExitKind::Interrupted);
            let enough = if ends_it { 1 } else { REPETITIONS as usize };
            sight.exits.len() >= enough && sight.exits.iter().all(|exit| ExitKind::of(exit) == kind)
        }
        Seen::ByKvm(counter) => sight.exits.is_empty() && moved(counter).is_some_and(|moved| moved >= MANY),
        Seen::ByNobody => sight.exits.is_empty() && moved("exits").is_some_and(|moved| moved < MANY),
    };
    let from_inside = match vector {
        Some(vector) => (sight.faults, sight.vector) == (REPETITIONS.into(), vector.into()),
        None => sight.faults == 0,
    };
    if from_outside && from_inside {
        return None;
    }
    let counters = sight.moved.keys().filter_map(|name| Some((name, moved(name)?))).filter(|(_, by)| *by > 0);
    let (exits, first) = (sight.exits.len(), sight.exits.first());
    let (faults, vector, counters) = (sight.faults, sight.vector, counters.collect::<Vec<_>>());
    Some(format!("{exits} exits ({first:?}), {faults} exceptions ({vector}), counters {counters:?}"))
}

#[test]
fn a_wrong_claim_is_noticed() {
    let sight = |exits: &[Exit], exits_moved, faults| Sight {
        exits: exits.into(),
        moved: [("exits".to_owned(), exits_moved)].into(),
        faults,
        vector: 13,
    };
    let around_nothing = sight(&[], 7, 0);
    let wrong = |by, vector, seen: &Sight| difference(by, vector, seen, &around_nothing).is_some();
    let (user, kvm) = (Seen::ByHostel(ExitKind::Halt), Seen::ByKvm("exits"));
    let native = sight(&[], 9, 0);
    assert!(!wrong(Seen::ByNobody, None, &native) && wrong(kvm, None, &native) && wrong(user, None, &native));
    let answered = sight(&[], 71, 0);
    assert!(wrong(Seen::ByNobody, None, &answered) && !wrong(kvm, None, &answered) && wrong(user, None, &answered));
    assert!(wrong(Seen::ByKvm("no such counter"), None, &answered));
    let exited = sight(&[Exit::Halt; REPETITIONS as usize], 71, 0);
    assert!(wrong(Seen::ByNobody, None, &exited) && wrong(kvm, None, &exited) && !wrong(user, None, &exited));
    assert!(wrong(Seen::ByHostel(ExitKind::Shutdown), None, &exited) && wrong(user, None, &sight(&[Exit::Halt], 8, 0)));
    let faulted = sight(&[], 9, REPETITIONS.into());
    assert!(wrong(Seen::ByNobody, None, &faulted) && wrong(Seen::ByNobody, Some(6), &faulted));
    assert!(!wrong(Seen::ByNobody, Some(13), &faulted) && wrong(Seen::ByNobody, Some(13), &native));
}

#[test]
fn the_trials_stand_in_both_rings() {
    let count = |ring| table::entries().flat_map(|entry| entry.trials()).filter(|trial| trial.ring == ring).count();
    assert!(count(Ring::Zero) > 40 && count(Ring::Three) > 30, "{} {}", count(Ring::Zero), count(Ring::Three));
}

#[test]
fn the_verb_lists_explains_and_suggests() {
    let list = hostel(&["explain"], "");
    assert_eq!(list.status, 0);
    assert!(list.stdout.contains("\n  hlt "), "{}", list.stdout);
    let out = hostel(&["explain", "OUT"], "");
    assert!(out.stdout.starts_with("pio-write: OUT, or one element of OUTS"), "{}", out.stdout);
    let two_words = hostel(&["explain", "triple", "fault"], "");
    assert!(two_words.stdout.starts_with("shutdown: "), "{}", two_words.stdout);
    let unknown = hostel(&["explain", "cpudi"], "");
    assert_eq!((unknown.status, unknown.stdout.as_str()), (2, ""));
    assert!(unknown.stderr.contains("cpuid"), "{}", unknown.stderr);
    assert_eq!(hostel(&["explain", "--markdown", "hlt"], "").status, 2);
}

#[test]
fn a_trace_explains_each_kind_once() {
    if !kvm::available() {
        return;
    }
    let run = hostel(&["trace", "--explain", "hello"], "");
    assert_eq!(run.status, 0, "{}", run.stderr);
    let explained = |kind| run.stderr.matches(&format!("\nexplain: {kind}: ")).count();
    assert_eq!((explained("pio-write"), explained("pio-read"), explained("msr-read")), (1, 1, 0), "{}", run.stderr);
    assert_eq!(hostel(&["trace", "--explain", "--json", "hello"], "").status, 2);
}

/// Past the capture of the test's output.
fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}
