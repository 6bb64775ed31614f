//! What an acknowledged flush is worth when the machine is killed (SIGKILL) at any moment while it writes, and what a kill does to
//! the file under an overlay: nothing.
//!
//! The guest (`disk-bench`, `journal`) writes groups of numbered blocks at several places at a time, flushes, and prints the group's
//! number. After a kill the file itself says what it holds: each sector names its group and place. Whatever was printed must be
//! there, or something later. A kill takes the process and leaves the host's page cache: this proves that nothing that was
//! acknowledged was still the process's own, and that no sector is torn or misplaced; not what the medium does when power fails.
//! `cargo test --test disk_kill -- --ignored` kills 200 times.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::PROGRAM;
use common::kvm;
use common::lab_image::find_program;
use common::scratch::Scratch;
use rustix::fs::{FlockOperation, fcntl_lock};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// As in `guest/bin/disk-bench.rs`: blocks of a group, how far they lie apart, bytes of one.
const GROUP: u64 = 8;
const STRIDE: u64 = 37;
const BLOCK: usize = 4096;

const BLOCKS: u64 = 512;
const SECTOR: usize = 512;

/// What the disk must hold: of each block, the last group that was acknowledged.
struct Journal {
    acknowledged: Vec<Option<u64>>,
    /// The next group that nobody has written.
    next: u64,
}

impl Journal {
    fn new() -> Journal {
        Journal { acknowledged: vec![None; BLOCKS as usize], next: 1 }
    }

    /// Lets a guest write from the next group on, kills it when it has told of `groups` of them, and takes note of what it told.
    /// Returns how many it told of.
    fn write_and_kill(&mut self, disk: &str, groups: usize) -> usize {
        let file = disk.split(',').next().expect("a path comes first");
        let first = self.next.to_string();
        let arguments = ["run", "disk-bench", "--mem", "64M", "--transport", "mmio", "--disk", disk, "--", "journal"];
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg(&first).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("the program can be started");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (mut line, mut told) = (String::new(), 0);
        while output.read_line(&mut line).expect("a pipe can be read") > 0 && line.ends_with('\n') {
            let group = line.trim().strip_prefix("flushed ").and_then(|number| number.parse().ok());
            let group: u64 = group.unwrap_or_else(|| panic!("the guest says {line:?}"));
            for index in 0..GROUP {
                self.acknowledged[block_of(group, index) as usize] = Some(group);
            }
            told += 1;
            if told == groups {
                // It writes on meanwhile; what it tells before its end is read to the last line.
                child.kill().expect("a child can be killed");
            }
            line.clear();
        }
        let status = child.wait().expect("a child can be waited for");
        // What the host still works on for the dead process keeps the file locked.
        let file = fs::File::options().read(true).write(true).open(file);
        fcntl_lock(file.expect("it is there"), FlockOperation::LockExclusive).expect("the lock is free at last");
        assert!(told >= groups && !status.success(), "it told of {told} groups and ended by itself: {status}");
        told
    }

    /// Compares the disk with what was told.
    fn check(&mut self, disk: &[u8]) {
        assert_eq!(disk.len(), BLOCKS as usize * BLOCK, "the size of the file has changed");
        for (block, bytes) in disk.chunks(BLOCK).enumerate() {
            for (at, sector) in bytes.chunks(SECTOR).enumerate() {
                let group = group_of(sector, block as u64, (at * SECTOR / 8) as u64);
                let wanted = self.acknowledged[block];
                assert!(group >= wanted, "block {block}, sector {at}: {group:?}, but {wanted:?} was flushed");
                self.next = self.next.max(group.map_or(0, |group| group + 1));
            }
        }
    }
}

fn block_of(group: u64, index: u64) -> u64 {
    (group * GROUP + index) * STRIDE % BLOCKS
}

/// The group that wrote this sector, whose words are those of `block` from `word` on; `None` for one that was never written.
fn group_of(sector: &[u8], block: u64, word: u64) -> Option<u64> {
    let words: Vec<u64> =
        sector.chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes"))).collect();
    if words.iter().all(|word| *word == 0) {
        return None;
    }
    let group = words[0] >> 32;
    for (index, found) in (word..).zip(&words) {
        assert_eq!(*found, group << 32 | block << 12 | index, "a torn or misplaced sector in block {block}");
    }
    let own = (0..GROUP).any(|index| block_of(group, index) == block);
    assert!(own, "group {group} has no block {block}");
    Some(group)
}

/// Kills as often as told, after one group, two, ... up to sixteen, and checks each time.
fn kill(times: usize) {
    let scratch = Scratch::new(&format!("kill-{times}"));
    let disk = scratch.file("disk", &vec![0; BLOCKS as usize * BLOCK]);
    let mut journal = Journal::new();
    let mut told = 0;
    for number in 0..times {
        told += journal.write_and_kill(&disk, 1 + number * 7 % 16);
        journal.check(&fs::read(&disk).expect("the disk can be read"));
    }
    println!("{times} kills, {told} groups of {GROUP} blocks acknowledged, up to group {}", journal.next);
}

#[test]
fn no_acknowledged_flush_is_lost_by_a_kill() {
    if kvm::available() {
        kill(10);
    }
}

#[test]
#[ignore = "takes half a minute: the same, more often"]
fn no_acknowledged_flush_is_lost_by_200_kills() {
    if kvm::available() {
        kill(200);
    }
}

/// A qcow2 image has tables besides the blocks: what was acknowledged is found by them, and QEMU finds no fault with them but space
/// that was taken and not yet used.
#[test]
fn sec38_no_acknowledged_flush_is_lost_in_a_qcow2_image() {
    if !kvm::available() {
        return;
    }
    let Some(qemu_img) = find_program("qemu-img") else { return kvm::skip("qemu-img is not installed") };
    let qemu_img = |arguments: &[&str]| Command::new(&qemu_img).args(arguments).output().expect("it can be started");
    let scratch = Scratch::new("kill-qcow2");
    let (disk, raw) = (scratch.join("disk"), scratch.join("raw"));
    let created = qemu_img(&["create", "-q", "-f", "qcow2", &disk, &(BLOCKS as usize * BLOCK).to_string()]);
    assert!(created.status.success(), "{created:?}");
    let mut journal = Journal::new();
    for groups in [1, 2, 5, 20, 3, 60] {
        journal.write_and_kill(&format!("{disk},format=qcow2"), groups);
        let checked = qemu_img(&["check", "-q", "-f", "qcow2", &disk]);
        // 3: leaked clusters and nothing else.
        assert!(matches!(checked.status.code(), Some(0 | 3)), "{checked:?}");
        let converted = qemu_img(&["convert", "-f", "qcow2", "-O", "raw", &disk, &raw]);
        assert!(converted.status.success(), "{converted:?}");
        journal.check(&fs::read(&raw).expect("it was written"));
    }
    let before = fs::read(&disk).expect("the disk can be read");
    Journal { next: journal.next, ..Journal::new() }.write_and_kill(&format!("{disk},format=qcow2,overlay"), 3);
    assert!(fs::read(&disk).expect("the disk can be read") == before, "the layer's base has changed");
}

#[test]
fn a_kill_leaves_the_file_under_an_overlay_as_it_was() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("kill-overlay");
    let content: Vec<u8> = (0..BLOCKS as usize * BLOCK).map(|at| (at / 7) as u8).collect();
    let disk = scratch.file("disk", &content);
    for groups in [1, 4, 9] {
        Journal::new().write_and_kill(&format!("{disk},overlay"), groups);
        assert!(fs::read(&disk).expect("the disk can be read") == content, "the layer's base has changed");
    }
}
