//! Programs for Windows, as Debian's mingw-w64 makes them, run unmodified: output, status, and what is said when they go wrong.
//!
//! The programs are in `tests/windows`. Where there is no compiler for them the tests are skipped; in the lab they are those that were
//! compiled outside.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, PROGRAM, finish, hostel};
use common::kvm;
use common::scratch::Scratch;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The compiler: Debian's package gcc-mingw-w64-x86-64.
const COMPILER: &str = "x86_64-w64-mingw32-gcc";

/// The program compiled from `tests/windows/NAME.c`. `None`: there is no compiler, which is said.
#[track_caller]
fn program(name: &str) -> Option<String> {
    let compiled = compile(name);
    if compiled.is_none() {
        kvm::skip(&format!("{COMPILER} is not installed"));
    }
    compiled
}

fn compile(name: &str) -> Option<String> {
    let folder = Path::new(PROGRAM).with_file_name("windows");
    let program = folder.join(name).with_extension("exe");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/windows").join(name).with_extension("c");
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    let text = |path: PathBuf| Some(path.into_os_string().into_string().expect("the path is text"));
    // In the lab there is no source.
    if let Ok(compiled) = changed(&program)
        && changed(&source).map_or(true, |source| source <= compiled)
    {
        return text(program);
    }
    fs::create_dir_all(&folder).expect("the target directory is writable");
    // Tests compile side by side: each into a file of its own, which then takes the place of the other's.
    let own = folder.join(format!("{name}-{}-{:?}.exe", std::process::id(), std::thread::current().id()));
    let result = Command::new(COMPILER).args(["-O1", "-o"]).arg(&own).arg(&source).arg("-luser32").output().ok()?;
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    fs::rename(&own, &program).expect("the compiler wrote it");
    text(program)
}

fn exec(arguments: &[&str], input: &str) -> Finished {
    hostel(&[&["exec"], arguments].concat(), input)
}

#[test]
fn arguments_environment_and_input_reach_it() {
    let Some(program) = program("arguments") else { return };
    if !kvm::available() {
        return;
    }
    let mut command = Command::new(PROGRAM);
    command.args(["exec", "--", &program, "plain", "two words", "quo\"te\\", ""]).env("HOSTEL_TEST", "value");
    let run = finish(command, "a line\nanother\n");
    assert_eq!(
        run.stdout,
        "1: [plain] 5\r\n2: [two words] 9\r\n3: [quo\"te\\] 7\r\n4: [] 0\r\n \
         3.14|left  |00beef|1099511627776\r\nHOSTEL_TEST=value, HOSTEL_NONE=not there\r\nread: a line\r\n"
    );
    assert_eq!((run.status, run.stderr.as_str()), (4, "done\r\n"));
}

#[test]
fn a_file_is_copied_where_that_is_allowed() {
    let Some(program) = program("copy") else { return };
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("windows-copy");
    let content: Vec<u8> = (0..10_000u32).flat_map(u32::to_le_bytes).collect();
    let from = scratch.file("from", &content);
    let to = scratch.join("to");
    let copy = |options: &[&str], from: &str, to: &str| {
        let run = exec(&[options, &["--", &program, from, to]].concat(), "");
        assert_eq!(run.stderr, "");
        (run.status, run.stdout.replace(scratch.path().to_str().unwrap(), ""))
    };
    assert_eq!(copy(&["--allow-write"], &from, &to), (0, "40000 bytes\r\n".to_owned()));
    assert!(fs::read(&to).is_ok_and(|copied| copied == content));
    assert_eq!(copy(&["--allow-write"], &from, &to), (1, "cannot make /to: error 80\r\n".to_owned()));
    let missing = scratch.join("none");
    assert_eq!(copy(&[], &missing, &to), (1, "cannot open /none: error 2\r\n".to_owned()));
    assert_eq!(copy(&[], &from, &missing), (1, "cannot make /none: error 5\r\n".to_owned()));
    assert!(!Path::new(&missing).exists());
}

#[test]
fn its_files_are_those_below_the_root() {
    let Some(program) = program("copy") else { return };
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("windows-root");
    scratch.file("from", b"content");
    fs::copy(program, scratch.join("copy.exe")).unwrap();
    let root = scratch.path().to_str().unwrap();
    let run = exec(&["--root", root, "--allow-write", "--", "/copy.exe", r"C:\from", r"..\..\..\to"], "");
    assert_eq!((run.status, run.stdout.as_str(), run.stderr.as_str()), (0, "7 bytes\r\n", ""));
    assert!(fs::read(scratch.join("to")).is_ok_and(|copied| copied == b"content"));
}

#[test]
fn lines_are_sorted_by_a_function_of_the_programs() {
    let Some(program) = program("sort") else { return };
    if !kvm::available() {
        return;
    }
    let lines: Vec<String> = (0..500u32).map(|i| format!("{:08x} line", i.wrapping_mul(2_654_435_761))).collect();
    let run = exec(&["--", &program], &(lines.join("\n") + "\n"));
    let mut sorted = lines.clone();
    sorted.sort();
    assert_eq!(run.stdout, sorted.join("\r\n") + "\r\n");
    assert_eq!((run.status, run.stderr.as_str()), (0, "sorted\r\n"));
    let run = exec(&["--", &program, "none"], "");
    assert_eq!((run.status, run.stderr.as_str()), (2, "none: No such file or directory\r\n"));
}

#[test]
fn much_that_a_program_may_ask_for_is_right() {
    let Some(program) = program("system") else { return };
    if !kvm::available() {
        return;
    }
    let run = exec(&["--", &program], "");
    assert_eq!((run.stdout.as_str(), run.stderr.as_str(), run.status), ("0 wrong\r\n", "", 0));
}

#[test]
fn a_program_that_goes_wrong_ends_alone() {
    let Some(program) = program("wrong") else { return };
    if !kvm::available() {
        return;
    }
    for (how, status, said) in [
        ("", 0, ""),
        ("write", 139, "access violation (0xc0000005): write to 0x0"),
        ("call", 139, "access violation (0xc0000005): execution at 0x123456789"),
        ("pass", 139, "access violation (0xc0000005): read from 0x8 in fputs()"),
        ("code", 139, "access violation (0xc0000005): write to 0x14000"),
        ("stack", 139, "stack overflow (0xc00000fd): "),
        ("divide", 136, "integer division by zero (0xc0000094): "),
        ("invalid", 132, "illegal instruction (0xc000001d): "),
        ("buffer", 998 % 256, ""),
        ("abort", 3, "abort() ended the program as one that went wrong"),
        ("free", 3, "free() ended the program as one that went wrong"),
        ("status", 255, "the program ended with status 0x1234, for which 255 stands here"),
    ] {
        let run = exec(&["--", &program, how], "x");
        assert_eq!((run.status, run.stdout.as_str()), (status, "before\r\n"), "{how}: {}", run.stderr);
        assert!(run.stderr.contains(said) && run.stderr.is_empty() == said.is_empty(), "{how}: {}", run.stderr);
    }
}

#[test]
fn an_endless_loop_ends_at_the_deadline() {
    let Some(program) = program("wrong") else { return };
    if !kvm::available() {
        return;
    }
    let run = exec(&["--timeout", "300ms", "--", &program, "loop"], "");
    assert_eq!((run.status, run.stderr.as_str()), (124, "hostel: the deadline has passed\n"));
    assert!(run.elapsed >= Duration::from_millis(300));
}

#[test]
fn what_is_missing_is_named_before_the_start() {
    let Some(program) = program("missing") else { return };
    if !kvm::available() {
        return;
    }
    let run = exec(&["--", &program], "");
    assert_eq!((run.status, run.stdout.as_str()), (126, ""));
    let said =
        "it needs functions that Hostel does not have: MessageBoxA of USER32.dll; docs/windows-programs.md lists";
    assert!(run.stderr.contains(said), "{}", run.stderr);
}

#[test]
fn calls_are_traced_and_a_kernel_it_is_not() {
    let Some(program) = program("sort") else { return };
    let run = hostel(&["run", "--dry-run", &program], "");
    assert_eq!(run.status, 10);
    assert!(run.stderr.contains("a program for Windows, not a kernel; hostel exec runs those"), "{}", run.stderr);
    if !kvm::available() {
        return;
    }
    let run = exec(&["--trace", "--", &program], "b\na\n");
    assert_eq!((run.status, run.stdout.as_str()), (0, "a\r\nb\r\n"));
    for line in
        ["msvcrt.fputs(\"a\\n\", 0x702", "msvcrt._strdup(\"b\\n\")", "ntdll.NtTerminateProcess(0xffffffffffffffff, 0)"]
    {
        assert!(run.stderr.contains(line), "{line}: {}", run.stderr);
    }
}
