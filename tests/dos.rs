//! Programs for DOS under `hostel exec`: output, status, and what is said when they go wrong.
//!
//! The programs are in `tests/dos`, assembled by the GNU assembler, which comes with the linker that Rust needs; in the lab they are those
//! that were assembled outside. Programs of a few bytes are written down here.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, PROGRAM, hostel};
use common::kvm;
use common::scratch::Scratch;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The program assembled from `tests/dos/NAME.s`. `None`: there is no assembler, which is said, or no KVM.
#[track_caller]
fn program(name: &str) -> Option<String> {
    if !kvm::available() {
        return None;
    }
    let assembled = assemble(name);
    if assembled.is_none() {
        kvm::skip("as and ld are not installed");
    }
    assembled
}

fn assemble(name: &str) -> Option<String> {
    let folder = Path::new(PROGRAM).with_file_name("dos");
    let program = folder.join(name).with_extension("com");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dos").join(name).with_extension("s");
    let text = |path: PathBuf| Some(path.into_os_string().into_string().expect("the path is text"));
    // In the lab there is no source.
    if !source.exists() {
        return program.exists().then(|| text(program))?;
    }
    fs::create_dir_all(&folder).expect("the target directory is writable");
    // Tests assemble side by side: each into files of its own, of which one then takes the place of the other's.
    let own = folder.join(format!("{name}-{}-{:?}", std::process::id(), std::thread::current().id()));
    let object = own.with_extension("o");
    let done = Command::new("as").arg("-o").arg(&object).arg(&source).output().ok()?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let link = ["-Ttext", "0x100", "--oformat", "binary", "-o"];
    let done = Command::new("ld").args(link).arg(&own).arg(&object).output().ok()?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::remove_file(object).expect("the assembler wrote it");
    fs::rename(&own, &program).expect("the linker wrote it");
    text(program)
}

fn exec(arguments: &[&str], input: &str) -> Finished {
    hostel(&[&["exec", "--timeout", "60s"], arguments].concat(), input)
}

#[test]
fn arguments_reach_it_and_its_status_comes_back() {
    let Some(program) = program("hello") else { return };
    let run = exec(&[&program, "one", "", "two  three"], "");
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("Hello from DOS\r\none\r\ntwo\r\nthree\r\n", ""));
    assert_eq!(run.status, 3);
    let run = exec(&["--trace", &program], "");
    assert_eq!((run.status, run.stdout.as_str()), (0, "Hello from DOS\r\n"));
    assert!(run.stderr.starts_with("[2] show-text(ax 0900, bx 0000, cx 0000, dx 01"), "{}", run.stderr);
    assert!(run.stderr.ends_with("+++ exited with 0 +++\n"), "{}", run.stderr);
    let long = "a".repeat(126);
    let run = exec(&[&program, &long], "");
    assert_eq!((run.status, run.stdout.as_str()), (126, ""));
    assert!(run.stderr.contains("its arguments have more than 126 bytes"), "{}", run.stderr);
}

#[test]
fn a_file_is_copied_where_that_is_allowed() {
    let Some(program) = program("copy") else { return };
    let scratch = Scratch::new("dos-copy");
    let content: Vec<u8> = (0..2_600u32).flat_map(u32::to_le_bytes).collect();
    scratch.file("from", &content);
    fs::copy(program, scratch.join("copy.com")).unwrap();
    let root = scratch.path().to_str().unwrap();
    let copy = |options: &[&str], from: &str, to: &str| {
        let run = exec(&[options, &["--root", root, "--", "/copy.com", from, to]].concat(), "");
        assert_eq!(run.stderr, "");
        (run.status, run.stdout)
    };
    let said = |status: i32, text: &str| (status, format!("{text}\r\n"));
    assert_eq!(copy(&[], r"C:\from", r"C:\to"), said(5, "cannot make"));
    assert_eq!(copy(&["--allow-write"], r"C:\none", r"C:\to"), said(2, "cannot open"));
    assert_eq!(copy(&["--allow-write"], r"D:\from", r"C:\to"), said(3, "cannot open"));
    assert!(!Path::new(&scratch.join("to")).exists());
    assert_eq!(copy(&["--allow-write"], r"C:\from", r"..\..\..\to"), said(0, "copied"));
    assert!(fs::read(scratch.join("to")).is_ok_and(|copied| copied == content));
}

#[test]
fn lines_are_filtered() {
    let Some(program) = program("find") else { return };
    let lines = (0..400).map(|line| format!("line {line} of some\n")).collect::<String>();
    let run = exec(&[&program, "7"], &lines);
    let expected = lines.lines().filter(|line| line.contains('7')).map(|line| format!("{line}\n")).collect::<String>();
    assert_eq!((run.status, run.stdout, run.stderr.as_str()), (0, expected, ""));
    let run = exec(&[&program, "nowhere"], "a last line without an end");
    assert_eq!((run.status, run.stdout.as_str(), run.stderr.as_str()), (1, "", ""));
}

#[test]
fn much_that_a_program_may_ask_for_is_right() {
    let Some(program) = program("tour") else { return };
    let run = exec(&[&program], "");
    assert_eq!((run.status, run.stdout.as_str()), (0, ""));
    assert_eq!(run.stderr, "hostel: functions of INT 21h that are not supported and failed: EEh\n");
}

#[test]
fn a_program_that_goes_wrong_ends_alone() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("dos-wrong");
    for (name, code, status, said) in [
        ("ret", &b"\xc3"[..], 0, ""),
        ("halt", b"\xf4", 139, "SIGSEGV: it halted at 0140:0101, and nothing could wake it"),
        (
            "screen",
            b"\xb4\x0e\xcd\x10",
            159,
            "SIGSYS: INT 10h, the BIOS's screen, is not supported; it came before 0140:0104",
        ),
        ("other", b"\xcd\x66", 159, "SIGSYS: INT 66h is not supported; it came before 0140:0102"),
        ("divide", b"\x31\xc9\xf7\xf1", 136, "SIGFPE: exception 0 (division) at 0140:0102"),
        ("invalid", b"\x0f\x0b", 132, "SIGILL: "),
        ("protected", b"\x0f\x20\xc0\x0c\x01\x0f\x22\xc0\xf4", 139, "SIGSEGV: it halted at 0140:0109"),
        ("away", b"\xea\x10\x00\xff\xff", 132, "SIGILL: this host's KVM can execute nothing at FFFF:0010"),
        ("ports", b"\xe4\x60\xe6\x61\xc3", 0, "ports that the program used and behind which is nothing: 0x60, 0x61"),
        (
            "video",
            b"\xb8\x00\xb8\x8e\xc0\x26\xa2\x00\x00\x26\xfe\x06\x00\x00\xc3",
            0,
            "the program wrote to video memory",
        ),
        ("twice", b"\xb4\xee\xcd\x21\xb4\xee\xcd\x21\xc3", 0, "not supported and failed: EEh (2 times)"),
        ("empty", b"", 126, "an empty file is no DOS program"),
        ("large", &[0x90; 65_279], 126, "a DOS program of more than 65278 bytes"),
    ] {
        let run = exec(&[&scratch.file(&format!("{name}.COM"), code)], "");
        assert_eq!((run.status, run.stdout.as_str()), (status, ""), "{name}: {}", run.stderr);
        assert!(run.stderr.contains(said) && run.stderr.is_empty() == said.is_empty(), "{name}: {}", run.stderr);
        assert!(run.stderr.lines().count() <= 1, "{name}: {}", run.stderr);
    }
    // No room in the table of vectors, and a division by zero: a triple fault, but where KVM interprets real mode and does not look.
    let run = exec(&[&scratch.file("triple.com", b"\x0f\x01\x1e\x10\x01\x31\xc9\xf7\xf1")], "");
    let said = match run.status {
        136 => "SIGFPE: exception 0 (division) at 0140:0107",
        _ => "SIGSEGV: an exception came whose handler could not be entered",
    };
    assert!([136, 139].contains(&run.status) && run.stderr.contains(said), "{}: {}", run.status, run.stderr);
}

#[test]
fn an_endless_loop_and_a_wait_for_input_end_at_the_deadline() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("dos-endless");
    let program = scratch.file("a.com", b"\xfa\xeb\xfe");
    let run = hostel(&["exec", "--timeout", "200ms", &program], "");
    assert_eq!((run.status, run.stderr.as_str()), (124, "hostel: the deadline has passed\n"));
    assert!(run.elapsed >= Duration::from_millis(200));
    // Reads a character of an input that stays open.
    let program = scratch.file("b.com", b"\xb4\x08\xcd\x21\xc3");
    let mut command = Command::new(PROGRAM);
    command.args(["exec", "--timeout", "200ms", &program]).stdin(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program can be started");
    let input = child.stdin.take();
    assert_eq!(child.wait().expect("a child can be waited for").code(), Some(124));
    drop(input);
}

#[test]
fn random_programs_end_alone() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("dos-random");
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..6 {
        let mut code = Vec::new();
        for _ in 0..200 {
            // xorshift64 (Xorshift RNGs): different bytes, the same in each run.
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            code.extend(seed.to_le_bytes());
        }
        let program = scratch.file("a.com", &code);
        let run =
            hostel(&["exec", "--timeout", "300ms", "--root", scratch.path().to_str().unwrap(), "/a.com"], "input");
        assert!([0, 124, 132, 136, 139, 133, 159].contains(&run.status), "{program}: {run:?}");
        assert!(run.stderr.lines().all(|line| line.starts_with("hostel: ")), "{run:?}");
    }
}

#[test]
fn what_is_not_for_it_is_refused() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("dos-refused");
    let (com, exe) = (scratch.file("a.com", b"\xc3"), scratch.file("a.exe", &[b"MZ".as_slice(), &[0; 100]].concat()));
    for (arguments, status, said) in [
        (
            &["--deny", "read", &com][..],
            125,
            "--deny and --allow name system calls of Linux, and this is a program for DOS",
        ),
        (&["--mem", "64M", &com], 125, "--mem bounds nothing: a program for DOS has a megabyte"),
        (&[&exe], 126, "a program for DOS or 16-bit Windows (MZ without a PE header)"),
        (&[&scratch.join("none.com")], 127, "No such file"),
    ] {
        let run = exec(arguments, "");
        assert!(run.status == status && run.stderr.contains(said), "{arguments:?}: {} {}", run.status, run.stderr);
    }
}
