//! Machines built from code: what is documented, two at once, and what is left when they are gone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "its main is for who starts it")]
#[path = "../examples/embed.rs"]
mod example;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "common/kvm.rs"]
mod kvm;

use hostel::config::FormatChoice;
use hostel::embed::machine::{Machine, MachineBuilder, MachineError};
use hostel::embed::sandbox::Sandbox;
use hostel::kvm::exit::Exit;
use hostel::machine::outcome::Outcome;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

/// Longer than anything here takes, also under emulation.
const LONG_ENOUGH: Duration = Duration::from_secs(100);

/// One test at a time: what is counted is the process's.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// jmp to itself.
fn endless() -> MachineBuilder {
    Machine::builder_of("endless", vec![0xeb, 0xfe]).format(FormatChoice::Flat64).memory(1 << 20)
}

fn run(machine: &mut Machine) -> (Outcome, String) {
    machine.start();
    let end = machine.wait(LONG_ENOUGH).unwrap().unwrap();
    (end, String::from_utf8(machine.console()).unwrap())
}

#[test]
fn the_example_runs() {
    let _alone = alone();
    if kvm::available() {
        example::run().unwrap();
    }
}

#[test]
fn a_machine_runs_prints_and_ends() {
    let _alone = alone();
    if !kvm::available() {
        return;
    }
    let writes = Arc::new(AtomicU32::new(0));
    let seen = writes.clone();
    let mut machine = Machine::builder("hello")
        .memory(16 << 20)
        .on_exit(move |_, exit, _| {
            if matches!(exit, Exit::PioWrite { port: 0x3f8, .. }) {
                seen.fetch_add(1, Ordering::Relaxed);
            }
        })
        .build()
        .unwrap();
    assert_eq!(machine.wait(Duration::ZERO).unwrap(), None, "it does not start by itself");
    assert_eq!(machine.registers().len(), 1);
    let (end, console) = run(&mut machine);
    assert_eq!((end, console.lines().count()), (Outcome::PoweredOff, 2), "{console}");
    assert_eq!(writes.load(Ordering::Relaxed) as usize, console.len());
    assert_eq!(machine.wait(LONG_ENOUGH).unwrap(), Some(Outcome::PoweredOff), "an end stays the end");
    assert!(machine.console().is_empty() && machine.registers().is_empty());
}

#[test]
fn what_is_typed_reaches_the_guest_and_the_end_of_it_is_its_business() {
    let _alone = alone();
    if !kvm::available() {
        return;
    }
    let mut machine = Machine::builder("shell").memory(64 << 20).build().unwrap();
    assert_eq!(machine.type_in(b"help\npoweroff\n"), 14);
    let (end, console) = run(&mut machine);
    assert_eq!(end, Outcome::PoweredOff);
    assert!(console.contains("help"), "{console}");
    let mut halted = Machine::builder("real").build().unwrap();
    assert_eq!(run(&mut halted).0, Outcome::Halted);
    let mut crashed = Machine::builder("crash").memory(16 << 20).build().unwrap();
    assert!(matches!(run(&mut crashed).0, Outcome::TripleFault(_)));
}

#[test]
fn two_machines_run_beside_each_other_and_a_sandbox_beside_them() {
    let _alone = alone();
    if !kvm::available() {
        return;
    }
    let mut machines = ["smp", "hello"].map(|name| Machine::builder(name).memory(64 << 20).build().unwrap());
    let endless = endless().build().unwrap();
    endless.start();
    machines.iter().for_each(Machine::start);
    let program = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox-rust"));
    if !program.is_empty() {
        let builder = Sandbox::builder().function("add", |a: i64, b: i64| a + b).function("say", |_: String| ());
        let mut sandbox = builder.load(program).unwrap();
        assert_eq!(sandbox.call::<_, i64>("twice", (4i64,)).unwrap(), 8);
    }
    for (machine, word) in machines.iter_mut().zip(["processor", "Hello"]) {
        assert_eq!(machine.wait(LONG_ENOUGH).unwrap(), Some(Outcome::PoweredOff));
        let console = String::from_utf8(machine.console()).unwrap();
        assert!(console.contains(word) && !(console.contains("processor") && console.contains("Hello")), "{console}");
    }
}

#[test]
fn a_machine_that_has_no_end_is_waited_for_paused_and_dropped() {
    let _alone = alone();
    if !kvm::available() {
        return;
    }
    let mut machine = endless().build().unwrap();
    machine.start();
    let start = Instant::now();
    assert_eq!(machine.wait(Duration::from_millis(30)).unwrap(), None);
    assert!(start.elapsed() >= Duration::from_millis(30));
    machine.pause();
    let rip = machine.registers()[0].1.regs.rip;
    let mut code = [0; 2];
    machine.read(rip, &mut code).unwrap();
    assert_eq!(code, [0xeb, 0xfe]);
    // cli; hlt, which without interrupt controllers would end it, and with them is seen within two seconds.
    machine.write(rip, &[0xfa, 0xf4]).unwrap();
    assert!(machine.write(1 << 30, &[0]).is_err());
    machine.start();
    assert_eq!(machine.wait(LONG_ENOUGH).unwrap(), Some(Outcome::Halted));
}

#[test]
fn what_cannot_be_built_is_an_error() {
    let _alone = alone();
    let error = |builder: MachineBuilder| match builder.build() {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was built"),
    };
    assert!(error(Machine::builder("hello").memory(4096)).contains("at least 1 MiB"));
    assert!(error(Machine::builder("no-such-guest")).contains("no-such-guest"));
    assert!(error(Machine::builder_of("text", b"hello".to_vec())).contains("text"));
    for cpus in [0, 65, u32::MAX] {
        assert!(matches!(endless().cpus(cpus).build(), Err(MachineError::Cpus(_))));
    }
}

/// Entries of a directory of this process in /proc.
fn entries(name: &str) -> usize {
    fs::read_dir(format!("/proc/self/{name}")).unwrap().count()
}

/// Resident memory of this process, in KiB.
fn resident_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn what_is_dropped_leaves_nothing_behind() {
    let _alone = alone();
    if !kvm::available() {
        return;
    }
    let program = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox-rust"));
    let round = || {
        let machine = Machine::builder("hello").memory(1 << 21).build().unwrap();
        machine.start();
        if !program.is_empty() {
            let builder = Sandbox::builder().function("add", |a: i64, b: i64| a + b).function("say", |_: String| ());
            let mut sandbox = builder.load(program).unwrap();
            assert_eq!(sandbox.call::<_, i64>("twice", (4i64,)).unwrap(), 8);
        }
    };
    (0..10).for_each(|_| round());
    let (tasks, descriptors, resident) = (entries("task"), entries("fd"), resident_kib());
    // The lab emulates all of it, and a machine takes half a second there.
    let rounds = if std::env::var("HOSTEL_LAB_KERNEL").is_ok() { 20 } else { 200 };
    (0..rounds).for_each(|_| round());
    assert_eq!(entries("fd"), descriptors, "descriptors");
    assert!(entries("task") <= tasks, "threads");
    let grown = resident_kib().saturating_sub(resident);
    assert!(grown < 2048, "{rounds} rounds left {grown} KiB");
}
