//! Bad input through the command line: bad options end with 2, bad images and host errors with 10, each with one message
//! that says what was tried, on what and why; before KVM is touched wherever KVM is not to blame.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, PROGRAM, finish, hostel};
use common::kvm;
use common::scratch::Scratch;
use common::session::Session;
use hostel::boot::samples::{self, HELLO_FORMS};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// Nobody, on most systems: a user who is neither root nor the owner of anything.
const NOBODY: u32 = 65534;

/// A message as a person can read it: nothing of the language that the program is written in.
#[track_caller]
fn assert_readable(run: &Finished) {
    let strange = ["panicked", "Error(", "Error {", "Err(", "Some(", "RUST_BACKTRACE", "unwrap"];
    assert!(strange.iter().all(|word| !run.stderr.contains(word)), "{run:#?}");
}

/// Asserts that the run could not begin, and that the one line about it contains all of `words`.
#[track_caller]
fn assert_refused(run: &Finished, words: &[&str]) {
    assert_eq!((run.status, run.stdout.as_str()), (10, ""), "{run:#?}");
    assert_readable(run);
    let line = run.stderr.strip_prefix("hostel: ").and_then(|text| text.strip_suffix('\n'));
    assert!(line.is_some_and(|line| !line.contains('\n')), "one line: {run:#?}");
    assert!(words.iter().all(|word| run.stderr.contains(word)), "{words:?}: {run:#?}");
}

/// Asserts that the options were refused, with all of `words` in the message.
#[track_caller]
fn assert_usage(run: &Finished, words: &[&str]) {
    assert_eq!((run.status, run.stdout.as_str()), (2, ""), "{run:#?}");
    assert_readable(run);
    assert!(run.stderr.starts_with("error: ") && words.iter().all(|word| run.stderr.contains(word)), "{run:#?}");
}

/// Options that are wrong whatever the host, and what the message names.
const BAD_OPTIONS: &[(&[&str], &str)] = &[
    (&["--frobnicate"], "--frobnicate"),
    (&["--mem", "0"], "at least 1 MiB"),
    (&["--mem", "1023K"], "at least 1 MiB"),
    (&["--mem", "-1"], "-1"),
    (&["--mem", "lots"], "not a number"),
    (&["--mem", "5X"], "use K, M, G or T"),
    (&["--mem", "1025G"], "at most 1024 GiB"),
    (&["--mem", "18446744073709551615T"], "more than any machine can address"),
    (&["--cpus", "0"], "1..=64"),
    (&["--cpus", "65"], "1..=64"),
    (&["--cpus", "4294967297"], "1..=64"),
    (&["--cpus", "two"], "--cpus"),
    (&["--cpus", "2", "--irqchip", "none"], "--irqchip"),
    (&["--irqchip", "apic"], "none, split, full"),
    (&["--format", "pvh"], "flat16, flat64"),
    (&["--load-address", "0x10000"], "0x7c00"),
    (&["--initrd", "x", "--no-initrd"], "--no-initrd"),
    (&["--console", "serial"], "stdio, file:PATH, none, pty or socket:PATH"),
    (&["--console", "file:"], "stdio, file:PATH, none, pty or socket:PATH"),
    (&["--report", "html:"], "junit:FILE"),
    (&["--timeout", "0"], "passed before the start"),
    (&["--timeout", "soon"], "500ms"),
    (&["--timeout", "-1s"], "-1"),
    (&["--ok-exit", "-1"], "-1"),
    (&["--on-panic", "ignore"], "exit, continue"),
    (&["--wait-exit"], "--expect"),
    (&["--send", "x"], "--expect"),
    (&["--expect", "a", "--send", r"\q"], r"\\q"),
    (&["--expect", "a", "--send", r"\x1"], r"\\x1"),
    (&["--expect", "("], "unclosed group"),
    (&["--expect", "a", "--expect", "*"], "repetition operator"),
    (&["--expect", "(a{1000}){1000}"], "exceeded"),
    (&["--reject", "["], "unclosed character class"),
];

#[test]
fn bad_options_end_with_2_and_say_which() {
    for (options, word) in BAD_OPTIONS {
        let arguments: Vec<_> = ["run", "hello"].iter().chain(*options).copied().collect();
        assert_usage(&hostel(&arguments, ""), &[word]);
    }
    for arguments in [&["fly"][..], &["run", "hello", "second"], &["guests", "--all"], &["run", "--mem"], &["run", ""]]
    {
        assert_usage(&hostel(arguments, ""), &["--help"]);
    }
    assert_eq!(hostel(&[], "").status, 2);
}

#[test]
fn bad_options_are_found_before_a_bad_image() {
    for options in [&["--expect", "("][..], &["--reject", "["], &["--expect", "a", "--send", r"\q"]] {
        let arguments: Vec<_> = ["run", "/nowhere/at/all"].iter().chain(options).copied().collect();
        assert_usage(&hostel(&arguments, ""), &[]);
    }
}

#[test]
fn what_is_no_image_file_is_named_and_not_waited_for() {
    let scratch = Scratch::new("no-image");
    let fifo = scratch.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo can be started").success());
    let empty = scratch.file("empty", b"");
    let directory = scratch.path().to_str().expect("the path is text");
    let below_a_file = format!("{empty}/x");
    let a_loop = scratch.join("loop");
    std::os::unix::fs::symlink(&a_loop, &a_loop).expect("a link can be made");
    for (image, why) in [
        ("/nowhere/at/all", "No such file"),
        ("hallo", "hostel guests"),
        (fifo.as_str(), "pipe"),
        (empty.as_str(), "empty"),
        (directory, "a directory"),
        ("/dev/zero", "not a file"),
        ("/dev/null", "not a file"),
        (below_a_file.as_str(), "Not a directory"),
        (a_loop.as_str(), "symbolic links"),
    ] {
        assert_refused(&hostel(&["run", image], ""), &[image, why]);
        assert_refused(&hostel(&["run", "hello", "--initrd", image], ""), &[image]);
        assert_refused(&hostel(&["run", "hello", "--symbols", image], ""), &[image]);
    }
}

#[test]
fn what_does_not_boot_is_told_what_it_is() {
    let scratch = Scratch::new("no-boot");
    let mut noise = 1u32;
    let random: Vec<u8> = (0..300_000).map(|_| next(&mut noise) as u8).collect();
    for (name, content, why) in [
        ("random", &random[..], "unknown kind"),
        ("short", b"\x90", "unknown kind"),
        ("text", b"#include <stdio.h>\n", "a text file"),
        ("zeros", &[0; 70_000], "zeros"),
        ("script", b"#!/bin/sh\n", "a script"),
        ("initramfs", b"070701000", "--initrd"),
        ("disk", b"QFI\xfb\0\0\0\x03", "qcow2"),
    ] {
        let image = scratch.file(name, content);
        assert_refused(&hostel(&["run", &image], ""), &[&image, why, "Supported: Linux bzImage", "--format flat16"]);
    }
    assert_refused(&hostel(&["run", PROGRAM], ""), &[PROGRAM, "program for Linux", "hostel exec"]);
}

/// Numbers without a pattern, the same ones each time (xorshift32).
fn next(state: &mut u32) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    *state
}

/// Asserts that a plan of the image is printed, or one line says why not.
#[track_caller]
fn assert_planned_or_refused(image: &str, options: &[&str]) {
    let arguments: Vec<_> = ["run", image, "--dry-run", "--mem", "16M"].iter().chain(options).copied().collect();
    let run = hostel(&arguments, "");
    if run.status == 0 {
        assert!(run.stdout.contains("entry state of vCPU 0") && run.stderr.is_empty(), "{run:#?}");
    } else {
        assert_refused(&run, &[image]);
    }
}

#[test]
fn sec62_truncated_images_are_refused_in_one_line() {
    let scratch = Scratch::new("truncated");
    for (form, image) in HELLO_FORMS {
        // Headers byte by byte matter most; the loaders' own tests go through all of them.
        let lengths = (1..image.len()).step_by(image.len() / 16).chain([4, 52, 64, 511, 513, 4095]);
        for length in lengths.filter(|length| *length < image.len()) {
            let file = scratch.file(form, &image[..length]);
            assert_planned_or_refused(&file, &[]);
        }
    }
}

#[test]
fn sec62_hostile_images_are_refused_in_one_line() {
    let scratch = Scratch::new("hostile");
    let mut noise = 62u32;
    for round in 0..100 {
        let (form, image) = HELLO_FORMS[round % HELLO_FORMS.len()];
        let mut image = image.to_vec();
        for _ in 0..=round % 4 {
            // The headers, the program headers and the first notes.
            let at = next(&mut noise) as usize % image.len().min(512);
            let value = [0, 1, 0x7f, 0x80, 0xff, next(&mut noise) as u8][next(&mut noise) as usize % 6];
            let end = (at + 1 + next(&mut noise) as usize % 8).min(image.len());
            image[at..end].fill(value);
        }
        let file = scratch.file(form, &image);
        let flat = if form == "flat64" { &["--format", "flat64"][..] } else { &[] };
        assert_planned_or_refused(&file, flat);
    }
}

#[test]
fn what_does_not_fit_into_ram_is_told_with_the_option_that_helps() {
    let scratch = Scratch::new("no-room");
    let initrd = scratch.join("initrd");
    fs::File::create(&initrd).and_then(|file| file.set_len(64 << 20)).expect("a sparse file");
    assert_refused(
        &hostel(&["run", "hello", "--mem", "16M", "--initrd", &initrd], ""),
        &[&initrd, "67108864", "--mem"],
    );
    assert_refused(&hostel(&["run", "hello", "--mem", "1M"], ""), &["hello", "0x100000", "--mem"]);
    let flat = scratch.join("flat");
    fs::File::create(&flat).and_then(|file| file.set_len(1 << 20)).expect("a sparse file");
    for format in ["flat16", "flat64"] {
        assert_refused(&hostel(&["run", &flat, "--format", format], ""), &[&flat, "1048576"]);
    }
    assert_refused(&hostel(&["run", "hello", "--load-address", "0x7c00"], ""), &["hello", "PVH", "--load-address"]);
    assert_refused(&hostel(&["run", "hello", "--kaslr"], ""), &["hello", "PVH", "--kaslr"]);
    let endless = "x".repeat(100_000);
    assert_refused(&hostel(&["run", "hello", "--cmdline", &endless], ""), &["hello", "command line", "100000"]);
}

#[test]
fn an_unreadable_image_is_told_with_the_command_that_copies_it() {
    let scratch = Scratch::new("unreadable");
    let image = scratch.file("vmlinuz", HELLO_FORMS[0].1);
    fs::set_permissions(&image, Permissions::from_mode(0o000)).expect("it is ours");
    let Some(run) = as_nobody(&["run", &image]) else { return kvm::skip("cannot run the program as another user") };
    assert_refused(&run, &[&image, &format!("sudo install -m 0644 {image} ./vmlinuz")]);
}

/// Runs as a user without rights: as nobody where we are root, else as ourselves.
fn as_nobody(arguments: &[&str]) -> Option<Finished> {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir("/");
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
        let mut probe = Command::new(PROGRAM);
        probe.arg("guests").current_dir("/").uid(NOBODY).gid(NOBODY).stdout(Stdio::null());
        probe.status().ok().filter(|status| status.success())?;
    }
    Some(finish(command, ""))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn an_unreadable_kvm_device_is_told_with_the_group_and_the_rule() {
    let Some(run) = with_devices("mount --bind /dev/kvm /dev/kvm && mount -o remount,bind,nodev /dev/kvm", &["hello"])
    else {
        return kvm::skip("no mount namespace of our own");
    };
    assert_refused(&run, &["/dev/kvm", "permission denied", "usermod -aG kvm", "udev rule", "hostel doctor"]);
}

#[test]
fn a_missing_kvm_device_is_told_with_what_brings_it() {
    let Some(run) = with_devices("mount -t tmpfs none /dev", &["hello"]) else {
        return kvm::skip("no mount namespace of our own");
    };
    assert_refused(&run, &["/dev/kvm", "does not exist", "modprobe", "hostel doctor"]);
    for (options, word) in BAD_OPTIONS {
        let arguments: Vec<_> = ["hello"].iter().chain(*options).copied().collect();
        let run = with_devices("mount -t tmpfs none /dev", &arguments).expect("it went a moment ago");
        assert_usage(&run, &[word]);
    }
}

#[test]
fn what_is_not_kvm_is_told() {
    let Some(run) = with_devices("mount --bind /dev/null /dev/kvm", &["hello"]) else {
        return kvm::skip("no mount namespace of our own, or no /dev/kvm");
    };
    assert_refused(&run, &["/dev/kvm", "is it KVM"]);
}

/// `hostel run` in a mount namespace of its own, after these commands.
fn with_devices(commands: &str, arguments: &[&str]) -> Option<Finished> {
    // A user namespace makes everybody root in it, where the host permits.
    let options: &[&str] = if is_root() { &["-m"] } else { &["-r", "-m"] };
    let namespace = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(options).args(["sh", "-c", script, PROGRAM, "run"]).args(arguments);
        command
    };
    let probe = namespace(commands).stderr(Stdio::null()).status();
    probe.ok().filter(|status| status.success())?;
    Some(finish(namespace(&format!("{commands} && exec \"$0\" \"$@\"")), ""))
}

#[test]
fn a_report_that_cannot_be_written_is_a_host_error_of_its_own() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("no-report");
    let directory = scratch.path().to_str().expect("the path is text");
    for option in ["--result", "--report"] {
        for path in ["/nowhere/at/all", "/dev/full", directory] {
            let value = if option == "--report" { format!("junit:{path}") } else { path.to_owned() };
            let run = hostel(&["run", "hello", option, &value], "");
            assert_eq!(run.status, 10, "{run:#?}");
            assert!(run.stdout.starts_with("Hello") && run.stderr.starts_with("hostel: write the report "), "{run:#?}");
            assert!(run.stderr.contains(path) && run.stderr.lines().count() == 1, "{run:#?}");
        }
    }
    let run = hostel(&["run", "hello", "--console", "file:/nowhere/at/all"], "");
    assert_refused(&run, &["/nowhere/at/all", "No such file"]);
}

#[test]
fn a_host_that_runs_out_is_a_host_error() {
    let limited = |limit: &str, options: &[&str]| {
        let mut command = Command::new("sh");
        let script = format!("ulimit {limit} && exec \"$0\" \"$@\"");
        command.args(["-c", &script, PROGRAM, "run", "hello"]).args(options);
        finish(command, "")
    };
    assert_refused(&limited("-v 1000000", &["--mem", "2G"]), &["2147483648 bytes of guest RAM", "memory"]);
    if !kvm::available() {
        return;
    }
    for descriptors in 3..40 {
        let run = limited(&format!("-n {descriptors}"), &[]);
        if run.status == 0 {
            assert!(descriptors > 6, "{run:#?}");
            return;
        }
        // Below four, not even the libraries can be opened.
        if run.status != 127 {
            assert_refused(&run, &["Too many open files"]);
        }
    }
    panic!("hello needs 40 descriptors");
}

#[test]
fn a_cache_that_cannot_be_written_costs_a_warning_and_the_cache() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("no-cache");
    let shell = samples::find("shell").expect("it is the default guest");
    let image = scratch.file("bzImage", &bzimage(shell.image));
    let cache = scratch.file("cache", b"a file where the directory should be");
    // A file that has changed just now is not cached: a further change might not show in its times.
    let written = fs::metadata(&image).and_then(|metadata| metadata.modified()).expect("it has times");
    while written.elapsed().is_ok_and(|age| age < Duration::from_millis(50)) {
        thread::yield_now();
    }
    let mut command = Command::new(PROGRAM);
    command.args(["run", &image, "--no-initrd", "--no-default-cmdline"]).env("XDG_CACHE_HOME", &cache);
    let mut session = Session::on_pipes(command);
    session.wait_for(&format!("hostel: cache the unpacked kernel in {cache}/hostel/kernels: "));
    session.type_in("cpuid\n");
    session.wait_for("vendor ");
    assert_eq!(session.end().0, 0);
    assert!(Path::new(&cache).is_file());
}

/// A bzImage whose payload is `kernel`, not compressed (Linux boot.rst "The Real-Mode Kernel Header").
fn bzimage(kernel: &[u8]) -> Vec<u8> {
    const KERNEL_OFFSET: usize = 1024;
    let mut file = vec![0; KERNEL_OFFSET];
    let fields: [(usize, &[u8]); 11] = [
        (0x1f1, &[1]),                                 // setup_sects
        (0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]),            // boot_flag, jump to 0x26c
        (0x202, b"HdrS"),                              // header
        (0x206, &[0x0f, 0x02]),                        // version
        (0x211, &[1]),                                 // loadflags: LOADED_HIGH
        (0x22c, &0x7fff_ffffu32.to_le_bytes()),        // initrd_addr_max
        (0x230, &0x20_0000u32.to_le_bytes()),          // kernel_alignment
        (0x236, &[1]),                                 // xloadflags: XLF_KERNEL_64
        (0x238, &2047u32.to_le_bytes()),               // cmdline_size
        (0x24c, &(kernel.len() as u32).to_le_bytes()), // payload_length
        (0x260, &0x10_0000u32.to_le_bytes()),          // init_size
    ];
    for (offset, bytes) in fields {
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    file.extend(kernel);
    file
}
