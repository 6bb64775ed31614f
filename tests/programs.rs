//! Programs as they are used, under `hostel exec` next to the same programs run natively: an interpreter built from a distribution's
//! source package, and one of Rust's standard library; and which calls a program may make.
//!
//! Needs KVM, a C compiler, rustc, and for Lua what `scripts/sources` fetches.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::hostel;
use common::programs::{alike, built};
use common::{kvm, scratch::Scratch};
use std::path::{Path, PathBuf};

/// A file of this test's own.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

/// The interpreter, static, from Debian's source package lua5.4.
fn lua() -> Option<String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let folder = cache.or_else(home).unwrap_or_default().join("hostel/sources/lua/src");
    let is_part = |path: &PathBuf| path.extension().is_some_and(|end| end == "c") && !path.ends_with("luac.c");
    let files = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut sources: Vec<PathBuf> = files.filter(is_part).collect();
    sources.sort();
    if sources.is_empty() && !Path::new(common::hostel::PROGRAM).with_file_name("programs/lua").exists() {
        kvm::skip("the source package of Lua is not here: scripts/sources fetches it");
        return None;
    }
    // The package's rules make this header from the name of the architecture.
    let headers = Scratch::new("programs-headers");
    headers.file("lua5.4-deb-multiarch.h", b"#define DEB_HOST_MULTIARCH \"x86_64-linux-gnu\"\n");
    let files = sources.iter().map(|path| path.to_str().expect("the path is text"));
    let headers = format!("-I{}", headers.path().display());
    let flags = ["-O1", "-static", "-w", "-DLUA_USE_POSIX", &headers].into_iter();
    let words: Vec<&str> = flags.chain(files).chain(["-lm"]).collect();
    built("lua", &sources, "cc", &words)
}

#[test]
fn an_interpreter_built_from_its_source_package_runs_scripts_as_natively() {
    if !kvm::available() {
        return;
    }
    let Some(lua) = lua() else { return };
    let scratch = Scratch::new("programs-lua");
    let script = scratch.file("work.lua", include_bytes!("programs/work.lua"));
    let run = alike(&[&lua, &script, "17", "a b"], "first\nsecond\n3.5\n");
    assert_eq!((run.status, run.stdout.lines().last()), (7, Some("done")), "{}", run.stderr);
    let version = alike(&[&lua, "-v", "-e", "print(#arg, 2^53, 7 // 2, 'x' .. 1)"], "");
    assert!(version.stdout.starts_with("Lua 5.4"), "{}", version.stdout);
    alike(&[&lua, "-"], "print(('na'):rep(3)) error('on purpose')");
    alike(&[&lua, "/does/not/exist.lua"], "");
}

#[test]
fn a_program_of_rust_with_threads_and_channels_does_what_it_does_natively() {
    if !kvm::available() {
        return;
    }
    let file = source("channels.rs");
    let path = file.to_str().expect("the path is text");
    let flags = ["--edition", "2024", "-O", "-C", "strip=symbols", "-C", "target-feature=+crt-static"];
    for (name, model) in [("channels", "relocation-model=static"), ("channels-pie", "relocation-model=pie")] {
        let words = [&flags[..], &["-C", model, path]].concat();
        let Some(program) = built(name, std::slice::from_ref(&file), "rustc", &words) else { return };
        let run = alike(&[&program], "");
        assert_eq!((run.status, run.stdout.lines().last()), (0, Some("done")), "{}", run.stderr);
        let failed = alike(&[&program, "fail"], "");
        assert_eq!(failed.status, 101, "{}", failed.stderr);
    }
}

#[test]
fn only_the_calls_that_are_allowed_are_made() {
    if !kvm::available() {
        return;
    }
    let file = source("bare.c");
    let flags = ["-O1", "-static", "-nostdlib", file.to_str().expect("the path is text")];
    let Some(program) = built("bare", std::slice::from_ref(&file), "cc", &flags) else { return };
    let free = alike(&[&program], "");
    assert_eq!((free.stdout.as_str(), free.status), ("one\ntwo\n", 0), "{}", free.stderr);
    // Each call that fails adds its bit to the status: getppid 1, openat 2, close 4, the second write 8.
    let run = hostel(&["exec", "--trace", "--allow", "write,close", "--", &program], "");
    assert_eq!((run.stdout.as_str(), run.status), ("one\ntwo\n", 1 + 2 + 4));
    let expected = "\
[2] write(1, \"one\\n\", 4)                    = 4
[2] getppid()                               = -1 EPERM (Operation not permitted)
[2] openat(AT_FDCWD, \"/dev/null\", O_RDONLY, 00) = -1 EPERM (Operation not permitted)
[2] close(-1)                               = -1 EBADF (Bad file descriptor)
[2] write(1, \"two\\n\", 4)                    = 4
[2] exit_group(7)                           = ?
[2] +++ exited with 7 +++
";
    assert_eq!(run.stderr, expected);
    // What is denied is so whatever is allowed; the end is always possible.
    let run = hostel(&["exec", "--allow", "getppid,openat,close,write", "--deny", "write", "--", &program], "");
    assert_eq!((run.stdout.as_str(), run.status), ("", 8), "{}", run.stderr);
    let run = hostel(&["exec", "--allow", "getpid", "--", &program], "");
    assert_eq!((run.stdout.as_str(), run.status), ("", 15), "{}", run.stderr);
    assert_eq!(hostel(&["exec", "--allow", "nothing", "--", &program], "").status, 2);
}
