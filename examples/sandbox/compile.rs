//! Compiles programs for sandboxes, as `guest/sandbox/hostel.h` says: for the example, and for tests by the build script.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, io, process};

/// Compiles a program in C, whose path is below this repository; gives the ELF file.
///
/// # Errors
/// There is no compiler, or it refuses.
pub fn c(source: &str) -> io::Result<Vec<u8>> {
    let mut compile = Command::new("cc");
    compile.args(["-O2", "-ffreestanding", "-fno-stack-protector", "-fno-pic", "-nostdlib", "-static", "-no-pie"]);
    compile.arg("-I").arg(root("guest/sandbox")).arg("-Wl,--build-id=none,-e,0x400000");
    compile.arg(format!("-Wl,-T,{}", root("guest/sandbox/sandbox.ld").display())).arg(root(source));
    run(compile)
}

/// Compiles a program in Rust.
///
/// # Errors
/// There is no compiler, or it refuses.
#[allow(dead_code, reason = "the example has a program in C only")]
pub fn rust(source: &str) -> io::Result<Vec<u8>> {
    let mut compile = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()));
    compile.args(["--edition", "2024", "--crate-type", "bin", "-C", "panic=abort", "-C", "opt-level=s"]);
    compile.args(["-C", "relocation-model=static", "-C", "strip=none"]);
    let script = root("guest/sandbox/sandbox.ld");
    compile.arg("-C").arg(format!(
        "link-args=-nostartfiles -nostdlib -static -no-pie -Wl,--build-id=none,-e,0x400000 -Wl,-T,{}",
        script.display()
    ));
    compile.arg(root(source));
    run(compile)
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn run(mut compile: Command) -> io::Result<Vec<u8>> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let output = env::temp_dir().join(format!("hostel-sandbox-{}-{number}", process::id()));
    let result = compile.arg("-o").arg(&output).stdout(Stdio::null()).output()?;
    let program = fs::read(&output);
    let _ = fs::remove_file(&output);
    if !result.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&result.stderr).into_owned()));
    }
    program
}
