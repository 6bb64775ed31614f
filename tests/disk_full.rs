//! Disks whose host has no room left, or whose file is taken away or cut off: the guest gets errors, the machine lives, and goes on
//! when there is room again.
//!
//! The guest is `disk-bench`, `journal`: it writes groups of blocks, flushes, and tells of each group whether that failed.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{PROGRAM, finish};
use common::kvm;
use common::scratch::Scratch;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

const MIB: u64 = 1 << 20;

/// What runs the guest, with the disk as its first argument.
const RUN: &str = "run disk-bench --mem 64M --transport mmio --timeout 60s --disk";

/// A running guest.
struct Guest {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Guest {
    fn start(disk: &str) -> Guest {
        let mut command = Command::new(PROGRAM);
        command.args(RUN.split(' ')).args([disk, "--", "journal", "1"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program can be started");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Guest { child, output }
    }

    /// Waits for a line that begins so.
    fn says(&mut self, word: &str) {
        let mut line = String::new();
        while !line.starts_with(word) {
            line.clear();
            assert!(self.output.read_line(&mut line).expect("a pipe can be read") > 0, "it ends without {word:?}");
        }
    }

    fn kill(mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }
}

#[test]
fn a_file_that_is_cut_off_or_removed_under_a_machine_does_not_end_it() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("cut");
    let path = scratch.file("disk", &vec![0; 2 * MIB as usize]);
    let file = File::options().write(true).open(&path).expect("it is there");
    // What it writes makes the file longer again: nobody but the guest knows that something is missing.
    let mut guest = Guest::start(&path);
    guest.says("flushed");
    file.set_len(0).expect("it can be cut");
    guest.says("flushed");
    file.set_len(2 * MIB).expect("it can be lengthened");
    guest.says("flushed");
    // Without a name it is still the same file.
    std::fs::remove_file(&path).expect("it is there");
    guest.says("flushed");
    guest.kill();
}

/// The limit of a file's size (RLIMIT_FSIZE) stands for a full disk, which not everybody may make: beyond it each write fails.
#[test]
fn sec37_beyond_the_limit_of_a_files_size_writes_are_errors() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("limit");
    let path = scratch.file("disk", &vec![0; 2 * MIB as usize]);
    let limited = |disk: &str, guest: &str| {
        let mut command = Command::new("sh");
        // In units of 512 bytes.
        command.args(["-c", &format!("ulimit -f 2048; exec {PROGRAM} {RUN} {disk} -- {guest}")]);
        finish(command, "")
    };
    let run = limited(&path, "randwrite 8 4 100");
    assert_eq!((run.status, run.stdout.as_str()), (3, "a request failed\n"), "{run:?}");
    let run = limited(&path, "randread 8 4 100");
    assert_eq!(run.status, 0, "{run:?}");
    let run = limited(&format!("{path},overlay"), "randread 8 4 100");
    assert_eq!(run.status, 10, "{run:?}");
    assert!(run.stderr.contains("make the private layer of the disk"), "{run:?}");
}

/// A small file system in memory, which needs mounts of its own: for root, or where users may have namespaces.
#[test]
fn sec37_a_full_disk_is_an_error_until_there_is_room() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("full");
    let base = scratch.file("base", &[]);
    File::options().write(true).open(&base).and_then(|file| file.set_len(64 * MIB)).expect("it can be lengthened");
    let full = scratch.join("full");
    std::fs::create_dir(&full).expect("it can be made");
    // 1 MiB is taken by something else, and given back when the guest has met the end.
    let script = |disk: &str| {
        format!(
            "mount -t tmpfs -o size=2m none {full} || exit 77
            truncate -s 64M {full}/disk
            head -c 1048576 /dev/zero >{full}/other
            rm -f {full}.out # of the disk before this one
            TMPDIR={full} {PROGRAM} {RUN} {disk} -- journal 1 >{full}.out 2>&1 &
            until grep -q failed {full}.out; do kill -0 $! || exit 1; done
            rm {full}/other
            flushed=$(grep -c flushed {full}.out)
            until [ $(grep -c flushed {full}.out) -gt $flushed ]; do kill -0 $! || exit 1; done
            kill -9 $!"
        )
    };
    for disk in [format!("{full}/disk"), format!("{base},overlay")] {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script(&disk)]);
        let run = finish(command, "");
        if run.status == 77 || run.stderr.contains("unshare:") {
            return kvm::skip(&format!("a file system cannot be mounted here: {}", run.stderr.trim()));
        }
        let console = std::fs::read_to_string(scratch.join("full.out")).unwrap_or_default();
        assert_eq!(run.status, 0, "{disk}: {run:?}\n{console}");
        assert!(console.starts_with("flushed 1\n") && console.contains("failed"), "{disk}: {console}");
    }
}
