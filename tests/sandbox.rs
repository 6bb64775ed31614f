//! Sandboxes: values of every type both ways, calls in calls, guests that do what no function should, and resets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "its main is for who starts it")]
#[path = "../examples/sandbox.rs"]
mod example;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "common/kvm.rs"]
mod kvm;

use hostel::embed::error::{CallError, Fault, LoadError};
use hostel::embed::guest::{DEPTH_MAX, Guest};
use hostel::embed::sandbox::{Sandbox, SandboxBuilder};
use std::time::{Duration, Instant};

/// `tests/sandbox/guest.c`, as the build script has compiled it.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox-c"));
/// `tests/sandbox/guest.rs`.
const PROGRAM_IN_RUST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox-rust"));

/// Whether there are KVM and a program.
fn available() -> bool {
    if PROGRAM.is_empty() || PROGRAM_IN_RUST.is_empty() {
        kvm::skip("cc has compiled no C when Hostel was built");
        return false;
    }
    kvm::available()
}

/// What the program wants of the host.
fn builder() -> SandboxBuilder {
    Sandbox::builder()
        .function("add", |a: i64, b: i64| a.wrapping_add(b))
        .function("same", |a: i32, b: u32, c: i64, d: u64, e: bool| {
            (a, b, c, d, e) == (-1, u32::MAX, i64::MIN, u64::MAX, true)
        })
        .function("upper", |what: String| what.to_uppercase())
        .function("twice", |what: Vec<u8>| [&what[..], &what[..]].concat())
        .function("back", |guest: &mut Guest, depth: u64| guest.call::<_, u64>("down", (depth,)))
        .function("fail", || Err::<(), _>(CallError::because("as it was asked to")))
        .function("careless", |guest: &mut Guest, address: u64| guest.call::<_, u64>("load", (address,)).unwrap_or(7))
}

fn sandbox() -> Option<Sandbox> {
    available().then(|| builder().load(PROGRAM).unwrap())
}

#[test]
fn values_of_every_type_go_both_ways() {
    let Some(mut sandbox) = sandbox() else { return };
    assert_eq!(sandbox.call::<_, u64>("sum", (u64::MAX, 2u64)).unwrap(), 1);
    let six = sandbox.call::<_, i64>("six", (-1i32, 2u32, -3i64, 4u64, true, -6i64)).unwrap();
    assert_eq!(six, -1 + 4 - 9 + 16 + 5 - 36);
    let numbers = |sandbox: &mut Sandbox, last: bool| {
        sandbox.call::<_, bool>("numbers", (-1i32, u32::MAX, i64::MIN, u64::MAX, last)).unwrap()
    };
    assert!(numbers(&mut sandbox, true) && !numbers(&mut sandbox, false));
    assert_eq!(sandbox.call::<_, i32>("negate", (i32::MIN + 1,)).unwrap(), i32::MAX);
    assert_eq!(sandbox.call::<_, String>("shout", ("straße",)).unwrap(), "STRASSE");
    assert_eq!(sandbox.call::<_, String>("shout", (String::new(),)).unwrap(), "");
    assert_eq!(sandbox.call::<_, Vec<u8>>("four_times", (&[0u8, 255][..],)).unwrap(), [0, 255].repeat(4));
    sandbox.call::<_, ()>("store", (0x7f_0000u64,)).unwrap();
    assert_eq!(sandbox.call::<_, u64>("add_up", (100u64,)).unwrap(), 5050);
    assert!(sandbox.exports().contains(&("six".into(), "i64(i32, u32, i64, u64, bool, i64)".into())));
}

#[test]
fn what_has_other_types_is_refused_before_it_runs() {
    let Some(mut sandbox) = sandbox() else { return };
    let error = |result: Result<u64, CallError>| result.unwrap_err().to_string();
    assert_eq!(error(sandbox.call("nothing", ())), "the program exports no function nothing");
    assert_eq!(error(sandbox.call("add", (1i64, 2i64))), "the program exports no function add", "it imports it");
    let few = error(sandbox.call("sum", (1u64,)));
    assert_eq!(few, "the program's function sum is u64(u64, u64), and is called as u64(u64)");
    assert!(error(sandbox.call("sum", (1u64, 2i64))).contains("called as u64(u64, i64)"));
    assert!(sandbox.call::<_, i64>("sum", (1u64, 2u64)).is_err(), "another result");
    assert!(!sandbox.needs_reset());
    let large = vec![0u8; 300_000];
    assert!(matches!(sandbox.call::<_, Vec<u8>>("four_times", (large,)), Err(CallError::TooLarge { .. })));
    assert!(!sandbox.needs_reset());
    assert_eq!(sandbox.call::<_, u64>("sum", (1u64, 2u64)).unwrap(), 3);
    // What a function of the host gives, and has no room, is known only in the middle of a call.
    let large = vec![0u8; 100_000];
    assert!(matches!(sandbox.call::<_, Vec<u8>>("four_times", (large,)), Err(CallError::TooLarge { .. })));
    assert!(sandbox.needs_reset());
}

#[test]
fn functions_of_the_host_are_there_and_have_the_right_types() {
    if !available() {
        return;
    }
    let refused = |builder: SandboxBuilder| match builder.load(PROGRAM) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was loaded"),
    };
    let none = refused(Sandbox::builder());
    assert!(none.starts_with("the program wants the host's function ") && none.ends_with(": there is none"), "{none}");
    let other = refused(builder().function("add", |a: i64, b: u64| a + b as i64));
    assert_eq!(other, "the host's function add is i64(i64, u64), and the program wants it as i64(i64, i64)");
    let many = refused(builder().function("many", |_: String, _: String, _: String, _: bool| ()));
    assert!(many.contains("many takes more than six registers"), "{many}");
    for bytes in [0, 4096, (1 << 20) + 1, 1 << 40] {
        assert!(matches!(builder().memory(bytes).load(PROGRAM), Err(LoadError::Memory { .. })), "{bytes}");
    }
    assert!(builder().memory(1 << 20).function("unused", || ()).load(PROGRAM).is_ok());
}

#[test]
fn guest_and_host_call_each_other() {
    let Some(mut sandbox) = sandbox() else { return };
    for depth in [0, 1, 5, u64::from(DEPTH_MAX) - 1] {
        assert_eq!(sandbox.call::<_, u64>("down", (depth,)).unwrap(), depth);
    }
    let deep = sandbox.call::<_, u64>("down", (u64::from(DEPTH_MAX),));
    assert!(matches!(deep, Err(CallError::TooDeep(DEPTH_MAX))), "{deep:?}");
    assert!(sandbox.needs_reset());
    sandbox.reset().unwrap();
    let failed = sandbox.call::<_, ()>("failing", ()).unwrap_err();
    assert_eq!(failed.to_string(), "the host's function fail: as it was asked to");
    sandbox.reset().unwrap();
    // A function of the host that goes on after a call back was cut short: the guest does not.
    assert!(sandbox.call::<_, u64>("cared_for", (0x40_0000u64,)).is_ok());
    assert!(matches!(sandbox.call::<_, u64>("cared_for", (8u64,)), Err(CallError::NeedsReset)));
    assert!(matches!(sandbox.call::<_, u64>("sum", (1u64, 2u64)), Err(CallError::NeedsReset)));
}

#[test]
fn a_host_function_that_panics_ends_the_call() {
    if !available() {
        return;
    }
    let mut sandbox = builder().function("fail", || -> () { panic!("as it was asked to") }).load(PROGRAM).unwrap();
    let call = std::panic::AssertUnwindSafe(|| sandbox.call::<_, ()>("failing", ()));
    assert!(std::panic::catch_unwind(call).is_err());
    assert!(sandbox.needs_reset());
    assert!(matches!(sandbox.call::<_, u64>("count", ()), Err(CallError::NeedsReset)));
    sandbox.reset().unwrap();
    assert_eq!(sandbox.call::<_, u64>("count", ()).unwrap(), 42);
}

#[test]
fn an_exception_is_an_error_with_its_place() {
    let Some(mut sandbox) = sandbox() else { return };
    let mut fault = |name: &str, argument: u64| -> Fault {
        let error = match name {
            "divide" => sandbox.call::<_, u64>(name, (1u64, argument)).unwrap_err(),
            "load" | "overflow" => sandbox.call::<_, u64>(name, (argument,)).unwrap_err(),
            _ => sandbox.call::<_, ()>(name, (argument,)).unwrap_err(),
        };
        let CallError::Fault(fault) = error else { panic!("{name}: {error}") };
        sandbox.reset().unwrap();
        fault
    };
    let divide = fault("divide", 0);
    assert_eq!((divide.vector, divide.address), (0, None));
    assert!((0x40_0000..0x41_0000).contains(&divide.rip), "{divide}");
    for address in [0, 0x1000, 0x2000, 0x3000, 0x4000, 0x7ff8, 0x1_0000, 0x3f_fff8, 0x200_0000, 1 << 40] {
        let fault = fault("load", address);
        assert_eq!((fault.vector, fault.address), (14, Some(address)), "{fault}");
    }
    for address in [0x40_0000, 0x5000, 0x5100] {
        let fault = fault("store", address);
        assert_eq!((fault.vector, fault.address), (14, Some(address)), "the guest reads it: {fault}");
    }
    assert_eq!(fault("load", 1 << 63).vector, 13, "no address");
    let data = fault("jump", 0x7f_0000);
    assert_eq!((data.vector, data.rip, data.address), (14, 0x7f_0000, Some(0x7f_0000)), "data is not executed");
    assert_eq!(fault("jump", 0x4000).vector, 14, "nor is what is ring 0's");
    let overflow = fault("overflow", 0);
    let guard = 0x40_0000 + (16 << 20) - (256 << 10) - 4096 - (256 << 10);
    assert!(overflow.vector == 14 && (guard - 4096..guard).contains(&overflow.address.unwrap()), "{overflow}");
    assert!(overflow.to_string().starts_with("#PF at RIP 0x40"), "{overflow}");
}

#[test]
fn a_guest_that_does_what_it_may_not_is_stopped() {
    let Some(mut sandbox) = sandbox() else { return };
    for which in 0..=13u32 {
        let error = match sandbox.call::<_, ()>("instruction", (which,)) {
            // CLI, where RFLAGS.IOPL lets ring 3 use ports: there is no interrupt that it could keep away.
            Ok(()) if which == 5 => continue,
            result => result.unwrap_err(),
        };
        let expected = match which {
            0 => matches!(error, CallError::Fault(Fault { vector: 6, .. })),
            // A KVM that runs rings by itself may enter ring 0 in spite of EFER.SCE: at 0, where nothing is.
            6 => matches!(error, CallError::Fault(Fault { vector: 6, .. } | Fault { vector: 14, rip: 0, .. })),
            10 => matches!(error, CallError::NoHostFunction { .. }),
            11 => matches!(error, CallError::Stopped { .. }),
            // With RFLAGS.IOPL ring 3 reaches any port, and is stopped for it; without, the port is not in the bitmap.
            2..=4 => matches!(error, CallError::Stopped { .. } | CallError::Fault(Fault { vector: 13, .. })),
            12 => matches!(error, CallError::NoHostFunction { .. } | CallError::Fault(Fault { vector: 13, .. })),
            13 => matches!(error, CallError::Fault(Fault { vector: 12 | 13, .. })),
            // A KVM that runs rings by itself says #UD of an INT that is not ring 3's.
            7 | 8 => matches!(error, CallError::Fault(Fault { vector: 6 | 13, .. })),
            _ => matches!(error, CallError::Fault(Fault { vector: 13, .. })),
        };
        assert!(expected, "{which}: {error}");
        assert!(sandbox.needs_reset());
        sandbox.reset().unwrap();
        assert_eq!(sandbox.call::<_, u64>("sum", (1u64, 2u64)).unwrap(), 3, "after {which}");
    }
    for number in [0, 1, 0x40_0000, u64::MAX] {
        let error = sandbox.call::<_, ()>("wrong_number", (number,)).unwrap_err();
        assert!(matches!(error, CallError::NoHostFunction { record, .. } if record == number), "{error}");
        sandbox.reset().unwrap();
    }
}

#[test]
fn sec15_pointers_of_the_guest_are_checked() {
    let Some(mut sandbox) = sandbox() else { return };
    let end = 0x40_0000 + (16 << 20);
    for (address, size) in [
        (0, 1),
        (0x1000, 8),
        (0x3f_ffff, 2),
        (end - 1, 2),
        (end, 1),
        (u64::MAX, 1),
        (u64::MAX - 1, 8),
        (0x40_0000, u64::MAX),
    ] {
        let result = sandbox.call::<_, String>("lie", (address, size));
        assert!(matches!(result, Err(CallError::Pointer { .. })), "{address:#x}: {result:?}");
        sandbox.reset().unwrap();
        let to_host = sandbox.call::<_, ()>("lie_to_host", (address, size));
        assert!(matches!(to_host, Err(CallError::Pointer { .. })), "{address:#x}: {to_host:?}");
        sandbox.reset().unwrap();
    }
    assert_eq!(sandbox.call::<_, String>("lie", (u64::MAX, 0u64)).unwrap(), "", "nothing is anywhere");
    let code = sandbox.call::<_, String>("lie", (0x40_0000u64, 4096u64));
    assert!(matches!(code, Err(CallError::Text)), "{code:?}");
}

#[test]
fn a_call_that_takes_too_long_is_ended() {
    if !available() {
        return;
    }
    let limit = Duration::from_millis(50);
    let mut sandbox = builder().deadline(Some(limit)).load(PROGRAM).unwrap();
    for name in ["loop", "loop_calling", "loop"] {
        let start = Instant::now();
        let error = sandbox.call::<_, ()>(name, ()).unwrap_err();
        assert!(matches!(error, CallError::Deadline(over) if over == limit), "{error}");
        assert!(start.elapsed() >= limit, "{name}: {:?}", start.elapsed());
        assert!(matches!(sandbox.call::<_, u64>("count", ()), Err(CallError::NeedsReset)));
        sandbox.reset().unwrap();
        assert_eq!(sandbox.call::<_, u64>("count", ()).unwrap(), 42);
    }
}

#[test]
fn a_reset_undoes_what_was_written_and_nothing_else_does() {
    let Some(mut sandbox) = sandbox() else { return };
    for round in 0..3 {
        assert_eq!([0; 2].map(|_| sandbox.call::<_, u64>("count", ()).unwrap()), [42, 43], "round {round}");
        assert_eq!([0; 2].map(|_| sandbox.call::<_, u64>("touch", (64u64,)).unwrap()), [0, 64]);
        assert_eq!([0; 2].map(|_| sandbox.call::<_, u64>("touch_stack", ()).unwrap()), [0, 1]);
        assert_eq!([0; 2].map(|_| sandbox.call::<_, u64>("touch_free", ()).unwrap()), [0, 2]);
        assert_eq!(sandbox.call::<_, u64>("float_bits", ()).unwrap(), 0);
        assert_eq!(sandbox.call::<_, u64>("float_bits", ()).unwrap(), 0x1234_5678_1234_5678);
        assert_eq!(sandbox.call::<_, u64>("wreck", ()).unwrap(), 7);
        assert_eq!(sandbox.call::<_, String>("shout", ("still here",)).unwrap(), "STILL HERE");
        let pages = sandbox.reset().unwrap();
        assert!((64 + 4..64 + 16).contains(&pages), "{pages} pages");
        assert_eq!(sandbox.reset().unwrap(), 0, "nothing was written since");
    }
    sandbox.call::<_, u64>("sum", (1u64, 2u64)).unwrap();
    assert_eq!(sandbox.reset().unwrap(), 0, "a function that writes nothing costs no page");
}

#[test]
fn random_calls_and_resets_agree_with_a_model() {
    let Some(mut sandbox) = sandbox() else { return };
    let (mut cells, mut counter) = ([0u64; 1024], 41);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for step in 0..1000 {
        match random() % 16 {
            0 => {
                sandbox.reset().unwrap();
                (cells, counter) = ([0; 1024], 41);
            }
            1 => {
                assert!(sandbox.call::<_, u64>("load", (0u64,)).is_err());
                sandbox.reset().unwrap();
                (cells, counter) = ([0; 1024], 41);
            }
            2..6 => {
                counter += 1;
                assert_eq!(sandbox.call::<_, u64>("count", ()).unwrap(), counter, "step {step}");
            }
            _ => {
                let (index, value) = (random(), random());
                let before = std::mem::replace(&mut cells[index as usize % 1024], value);
                assert_eq!(sandbox.call::<_, u64>("put", (index, value)).unwrap(), before, "step {step}");
            }
        }
    }
}

#[test]
fn two_sandboxes_and_their_threads_do_not_meet() {
    let (Some(mut first), Some(second)) = (sandbox(), sandbox()) else { return };
    first.call::<_, u64>("put", (1u64, 5u64)).unwrap();
    let threads: Vec<_> = [first, second]
        .into_iter()
        .map(|mut sandbox| {
            std::thread::spawn(move || {
                let before = sandbox.call::<_, u64>("put", (1u64, 6u64)).unwrap();
                let total = (0..100).map(|_| sandbox.call::<_, u64>("count", ()).unwrap()).sum::<u64>();
                (before, total, sandbox)
            })
        })
        .collect();
    let ends: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(ends.iter().map(|(before, ..)| *before).collect::<Vec<_>>(), [5, 0]);
    assert!(ends.iter().all(|(_, total, _)| *total == (42..142).sum::<u64>()));
}

#[test]
fn a_function_of_the_host_may_use_another_sandbox() {
    if !available() {
        return;
    }
    let other = std::sync::Mutex::new(builder().load(PROGRAM).unwrap());
    let add = move |a: i64, b: i64| {
        let mut other = other.lock().unwrap();
        other.call::<_, i64>("six", (0i32, 0u32, 0i64, 0u64, false, a)).map(|six| six / 6 + b)
    };
    let mut sandbox = builder().function("add", add).load(PROGRAM).unwrap();
    assert_eq!(sandbox.call::<_, u64>("add_up", (10u64,)).unwrap(), 55);
}

#[test]
fn a_program_in_rust_does_the_same() {
    if !available() {
        return;
    }
    let (sender, said) = std::sync::mpsc::channel();
    let mut sandbox = Sandbox::builder()
        .function("add", |a: i64, b: i64| a + b)
        .function("say", move |what: String| sender.send(what).unwrap())
        .load(PROGRAM_IN_RUST)
        .unwrap();
    assert_eq!(sandbox.call::<_, i64>("twice", (-21i64,)).unwrap(), -42);
    assert_eq!(sandbox.call::<_, u64>("sum_of", (&[200u8, 100, 1][..],)).unwrap(), 301);
    assert_eq!(sandbox.call::<_, String>("greet", ("Dr. No",)).unwrap(), "No");
    assert_eq!(said.try_iter().collect::<Vec<_>>(), ["a guest in Rust greets"]);
    assert_eq!(sandbox.call::<_, u64>("index", (2u64,)).unwrap(), 3);
    let panicked = sandbox.call::<_, u64>("index", (3u64,)).unwrap_err();
    assert!(matches!(panicked, CallError::Fault(Fault { vector: 6, .. })), "{panicked}");
}

#[test]
fn the_example_runs() {
    if std::process::Command::new("cc").arg("--version").output().is_err() {
        return kvm::skip("there is no cc to compile its program");
    }
    if kvm::available() {
        example::run(100).unwrap();
    }
}
