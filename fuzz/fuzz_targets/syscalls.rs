//! The system calls of `hostel exec` under a hostile program, without KVM: calls of any number with arguments that are right, at an edge or
//! wrong, made by up to four processes and threads, below a root of their own. Each gets an answer that Linux could give; ring 0's pages,
//! another process's memory and the files outside the root stay as they were; no page leads to what is not the program's, and every
//! frame comes back. `src/process/hostile.rs` says how a call that would wait is dealt with.

#![no_main]

use hostel::process::hostile::{fill, run};
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

/// In memory. No file gets longer than 16 MiB, whatever is asked for.
fn path() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let most = libc::rlimit { rlim_cur: 16 << 20, rlim_max: 16 << 20 };
        // SAFETY: the calls only read what they are given; a write beyond the limit, or to a pipe that nobody reads, is an error then
        // and no signal, as it is in every program of Rust's.
        unsafe {
            libc::setrlimit(libc::RLIMIT_FSIZE, &most);
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        }
        format!("/dev/shm/hostel-fuzz-syscalls-{}", std::process::id()).into()
    })
}

fuzz_target!(|input: &[u8]| {
    let outside = path();
    let _ = fs::remove_dir_all(outside);
    let root = fill(outside).expect("it can be made");
    run(&root, input);
    assert_eq!(fs::read(outside.join("secret")).expect("it is there"), b"secret", "it is outside");
    assert_eq!(fs::read_dir(outside).expect("it is there").count(), 2, "nothing is made outside");
    if input.first().is_none_or(|how| how & 1 == 0) {
        assert_eq!(fs::read(root.join("file")).expect("it is there"), "content".repeat(100).as_bytes());
        assert_eq!(fs::read_dir(&root).expect("it is there").count(), 6, "it was not to be written");
    }
});
