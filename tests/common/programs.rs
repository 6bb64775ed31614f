//! Linux programs for `hostel exec`: built by the tests, or of the host, and run with and without Hostel.

use super::hostel::{Finished, PROGRAM, finish, hostel};
use super::kvm;
use super::scratch::Scratch;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A static program of many names.
#[track_caller]
pub fn busybox() -> Option<&'static str> {
    let found = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| std::path::Path::new(path).exists());
    if found.is_none() {
        kvm::skip("busybox-static is not installed");
    }
    found
}

/// Runs a program with and without Hostel, `input` on its standard input, and compares.
#[track_caller]
pub fn alike(words: &[&str], input: &str) -> Finished {
    alike_with(&[], words, input)
}

/// As [`alike`], with these options of `hostel exec`.
#[track_caller]
pub fn alike_with(options: &[&str], words: &[&str], input: &str) -> Finished {
    let mut native = Command::new(words[0]);
    native.args(&words[1..]);
    let native = finish(native, input);
    let hosted = hostel(&[&["exec"], options, &["--"], words].concat(), input);
    assert_eq!(hosted.stdout, native.stdout, "{words:?}: {}", hosted.stderr);
    assert_eq!(hosted.status, native.status, "{words:?}: {}", hosted.stderr);
    hosted
}

/// Builds a static program of C; `None` where there is no compiler.
#[track_caller]
pub fn static_c(scratch: &Scratch, name: &str, flags: &[&str], source: &str) -> Option<String> {
    let (path, file) = (scratch.join(name), scratch.file(&format!("{name}.c"), source.as_bytes()));
    let built = Command::new("cc").args(["-O1", "-w", "-o", &path, &file]).args(flags).status();
    if built.is_ok_and(|status| status.success()) {
        return Some(path);
    }
    kvm::skip("no C compiler that links statically");
    None
}

/// A program that is built once, by a compiler and its arguments behind `-o PROGRAM`, and again when one of `sources` has changed; in the
/// lab, where there are neither, it is the one that was built outside. `None`: it cannot be built, which is said.
#[track_caller]
pub fn built(name: &str, sources: &[PathBuf], compiler: &str, arguments: &[&str]) -> Option<String> {
    let folder = Path::new(PROGRAM).with_file_name("programs");
    let program = folder.join(name);
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    let text = |path: PathBuf| Some(path.into_os_string().into_string().expect("the path is text"));
    if let Ok(built) = changed(&program)
        && sources.iter().all(|source| changed(source).map_or(true, |source| source <= built))
    {
        return text(program);
    }
    fs::create_dir_all(&folder).expect("the target directory is writable");
    // Tests build side by side: each into a file of its own, which then takes the place of the other's.
    let own = folder.join(format!("{name}-{}-{:?}", std::process::id(), std::thread::current().id()));
    let Ok(result) = Command::new(compiler).arg("-o").arg(&own).args(arguments).output() else {
        kvm::skip(&format!("{compiler} is not installed"));
        return None;
    };
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    fs::rename(&own, &program).expect("the compiler wrote it");
    text(program)
}
