//! For a target whose subject removes and makes files by paths that strangers choose: should it ever leave its root, the host's files are
//! still safe. From then on this thread removes, links and makes directories and links below one directory only.
//!
//! Left alone is what libFuzzer does: to make files of its corpus and write them. Source: landlock(7).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Rights that are taken away: to remove directories and files, to make all but regular files, to link and rename between directories.
const RIGHTS: u64 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13;
/// `LANDLOCK_RULE_PATH_BENEATH`.
const BENEATH: i32 = 1;

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Below {
    allowed: u64,
    parent: i32,
}

/// Takes the rights away everywhere but below `directory`.
///
/// # Panics
/// The host has no Landlock of Linux 5.19 or later.
pub fn confine(directory: &Path) {
    let parent = File::open(directory).expect("it is there");
    let below = Below { allowed: RIGHTS, parent: parent.as_raw_fd() };
    // SAFETY: each call only reads what it is given, which lives until it returns.
    let done = unsafe {
        let rules = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const RIGHTS_ATTRIBUTE, 8, 0);
        rules >= 0
            && libc::syscall(libc::SYS_landlock_add_rule, rules, BENEATH, &raw const below, 0) == 0
            && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_landlock_restrict_self, rules, 0) == 0
    };
    assert!(done, "the host has no Landlock that knows of links: {}", std::io::Error::last_os_error());
    let elsewhere = directory.with_extension("elsewhere");
    assert!(std::fs::create_dir(elsewhere).is_err(), "it can be made elsewhere");
}

/// `struct landlock_ruleset_attr`.
static RIGHTS_ATTRIBUTE: u64 = RIGHTS;
