//! Builds of Hostel as users have them. What `cargo bench` builds by itself unwinds on a panic and is larger.

use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// Where the benches keep what they build.
pub const BUILT: &str = env!("CARGO_TARGET_TMPDIR");
/// The package.
pub const SOURCE: &str = env!("CARGO_MANIFEST_DIR");

/// Builds Hostel as `cargo build --release` does, with the shared C library; returns the program's path.
pub fn default_build() -> Result<String> {
    build(&[], "", "release/hostel")
}

/// Builds Hostel with the C library inside.
#[allow(dead_code, reason = "one bench compares both builds")]
pub fn static_build() -> Result<String> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    build(&["--target", TARGET], "-C target-feature=+crt-static", &format!("{TARGET}/release/hostel"))
}

fn build(options: &[&str], flags: &str, program: &str) -> Result<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--quiet", "--bin", "hostel"]).args(options);
    cargo.current_dir(SOURCE).env("CARGO_TARGET_DIR", BUILT).env("RUSTFLAGS", flags);
    succeed(&mut cargo)?;
    installed(&format!("{BUILT}/{program}"))
}

/// A copy of a program that was just linked, as installing it would make: a linker that writes its output through a mapping
/// leaves it in single pages in the page cache, and each start pays for them until the file is read anew. Returns its path.
pub fn installed(program: &str) -> Result<String> {
    let copy = format!("{program}-installed");
    // One that still runs cannot be written to.
    let _ = std::fs::remove_file(&copy);
    std::fs::copy(program, &copy).with_context(|| format!("cannot copy {program}"))?;
    Ok(copy)
}

/// Runs a command that prints nothing of interest unless it fails.
pub fn succeed(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
