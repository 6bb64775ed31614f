//! A memory balloon under an unmodified distribution kernel, in the lab: what the guest does without falls off the process's memory.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::kvm::lab_kernel;
use common::linux_guest::initramfs;
use common::scratch::Scratch;
use common::session::Session;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Touches 96 MiB and frees them again; tells how much is free when a line is typed.
const TOUCHES: &str = "
mount -t tmpfs -o size=90% tmpfs /mnt
tell() { read line; echo $1=$(sed -n 's/MemFree: *\\(.*\\) kB/\\1/p' /proc/meminfo)=; }
dd if=/dev/zero of=/mnt/file bs=1M count=96 2>/dev/null
echo filled
read line
rm /mnt/file
echo removed
tell whole
tell small
tell again
";

const MIB: u64 = 1 << 20;
const PROMPT: &str = "(hostel) ";

/// Boots the lab's kernel into [`TOUCHES`] with an empty balloon. Returns when memory was touched and is free again, with the bytes that the
/// process had then.
fn boot(kernel: &str, scratch: &Scratch, cmdline: &str) -> (Session, u64) {
    let initrd = scratch.file("initrd", &initramfs(TOUCHES));
    let arguments = ["run", kernel, "--initrd", &initrd, "--cmdline", cmdline, "--mem", "256M", "--balloon", "0"];
    let mut session = Session::on_terminal(&arguments);
    session.wait_for("filled");
    let touched = resident(&session);
    assert!(touched > 96 * MIB, "{touched} bytes");
    session.type_in("\r");
    session.wait_for("removed");
    (session, touched)
}

/// Bytes of the process that are in the host's memory.
fn resident(session: &Session) -> u64 {
    let path = format!("/proc/{}/status", session.pid().as_raw_nonzero());
    let status = fs::read_to_string(path).expect("the program runs");
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB")?.trim().parse::<u64>().ok());
    line.expect("a process has it") << 10
}

/// Waits until the process has become smaller than `bytes`.
fn shrinks_below(session: &Session, bytes: u64) {
    let start = Instant::now();
    while resident(session) >= bytes {
        assert!(start.elapsed() < Duration::from_secs(60), "{} bytes stay", resident(session));
        sleep(Duration::from_millis(20));
    }
}

/// KiB that the guest says are free.
fn free(session: &mut Session, name: &str) -> u64 {
    session.type_in("\r");
    session.wait_for(&format!("{name}="));
    session.text_before("=").parse().expect("a number")
}

/// Asks for the balloon's size until it is this.
fn becomes(session: &mut Session, size: &str) {
    let start = Instant::now();
    loop {
        session.type_in("balloon\r");
        session.wait_for("balloon ");
        let now = session.text_before(",");
        session.wait_for(PROMPT);
        if now == size {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "it stays at {now}");
    }
}

#[test]
fn what_a_guest_frees_goes_back_to_the_host() {
    let Some(kernel) = lab_kernel() else { return };
    let scratch = Scratch::new("reporting");
    let (mut session, touched) = boot(&kernel, &scratch, "quiet");
    shrinks_below(&session, touched - 64 * MIB);
    session.type_in("\x01cballoon\r");
    ["balloon 0 MiB, wanted 0 MiB", "total ", "free ", "available ", "caches ", "minor faults ", PROMPT]
        .iter()
        .for_each(|text| session.wait_for(text));
    session.type_in("quit\r");
    assert_eq!(session.end_on_terminal(), (130, true));
}

/// A kernel that clears what it frees reports no free pages: what goes back is the balloon's.
#[test]
fn a_balloon_takes_memory_and_gives_it_back() {
    let Some(kernel) = lab_kernel() else { return };
    let scratch = Scratch::new("balloon");
    let (mut session, touched) = boot(&kernel, &scratch, "quiet init_on_free=1");
    let before = free(&mut session, "whole");
    assert!(resident(&session) + 16 * MIB > touched, "nothing is given back by itself");
    session.type_in("\x01cballoon 128M\r");
    session.wait_for(PROMPT);
    becomes(&mut session, "128 MiB");
    shrinks_below(&session, touched - 80 * MIB);
    session.type_in("balloon 256M\r");
    session.wait_for("a balloon of 256 MiB leaves nothing of 256 MiB of RAM");
    session.wait_for(PROMPT);
    session.type_in("\r");
    let inflated = free(&mut session, "small");
    assert!(inflated + (120 << 10) < before, "{before} KiB were free, now {inflated}");
    session.type_in("\x01cballoon 0\r");
    session.wait_for(PROMPT);
    becomes(&mut session, "0 MiB");
    session.type_in("\r");
    let deflated = free(&mut session, "again");
    assert!(deflated > inflated + (120 << 10), "{inflated} KiB were free, now {deflated}");
    assert_eq!(session.end_on_terminal().0, 0);
}
