//! The system calls of `hostel exec` under a hostile program, without KVM: calls of any number with arguments that are right, at an edge or
//! wrong, made by up to four processes and threads, below a root of their own. Each gets an answer that Linux could give; ring 0's pages,
//! another process's memory and the files outside the root stay as they were; no page leads to what is not the program's, and every
//! frame comes back. `src/process/hostile.rs` says how a call that would wait is dealt with.

#![no_main]

use hostel::process::fixture::Machine;
use hostel::process::hostile::{fill, run};
use hostel_fuzz::watched::Watched;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::fs;

/// The directory that has the root in it.
fn watched() -> Watched {
    // SAFETY: the call only reads what it is given; a write to a pipe that nobody reads is an error then and no signal, as it is in
    // every program of Rust's.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    Watched::new("syscalls", |outside| {
        let root = fill(outside).expect("it can be made");
        vec![root.join("directory"), root]
    })
}

thread_local! {
    static BENCH: RefCell<(Watched, Option<Machine>)> = RefCell::new((watched(), None));
}

fuzz_target!(|input: &[u8]| {
    BENCH.with_borrow_mut(|(watched, machine)| {
        let outside = watched.path();
        *machine = Some(run(machine.take().unwrap_or_default(), &outside.join("shared"), input));
        if watched.has_changed() {
            assert!(input.first().is_some_and(|how| how & 1 != 0), "it was not to be written");
            assert_eq!(fs::read(outside.join("secret")).expect("it is there"), b"secret", "it is outside");
            assert_eq!(fs::read_dir(outside).expect("it is there").count(), 2, "nothing is made outside");
            watched.renew();
        }
    });
});
