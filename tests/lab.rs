//! Runs tests or a command line in the lab. Started by `scripts/lab`, which has the usage; not a test by itself.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use anyhow::{Context, Result, bail, ensure};
use common::lab::{self, Job};
use common::lab_image::{Image, KERNEL, find_program};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// The program that the tests are about, as Cargo built it.
const HOSTEL: &str = env!("CARGO_BIN_EXE_hostel");
const DEFAULT_TIMEOUT_SECONDS: u64 = 1200;

/// What was asked for.
#[derive(Default)]
struct Arguments {
    tests: Vec<String>,
    filter: Option<String>,
    files: Vec<PathBuf>,
    command: Vec<String>,
    timeout_seconds: Option<u64>,
}

fn main() -> ExitCode {
    match arguments(std::env::args().skip(1)).and_then(run) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--timeout" => arguments.timeout_seconds = Some(value()?.parse().context("--timeout takes seconds")?),
            "--filter" => arguments.filter = Some(value()?),
            "--file" => arguments.files.push(value()?.into()),
            "--" => arguments.command = words.by_ref().collect(),
            _ if word.starts_with('-') => bail!("unknown option {word}; see scripts/lab"),
            _ => arguments.tests.push(word),
        }
    }
    ensure!(!arguments.tests.is_empty() || !arguments.command.is_empty(), "nothing to run; see scripts/lab");
    Ok(arguments)
}

fn run(arguments: Arguments) -> Result<i32> {
    let mut image = Image::new(&lab::kernel_directory()?)?;
    image.add(Path::new(HOSTEL))?;
    image.link("/usr/bin/hostel", Path::new(HOSTEL));
    // `cargo test` has built it; tests/guests.rs compares with it.
    let minimal = Path::new(HOSTEL).with_file_name("examples").join("minimal");
    if minimal.exists() {
        image.add(&minimal)?;
    }
    // So have tests/windows.rs and others, which find no compiler and no assembler in the lab.
    for folder in ["windows", "dos", "programs"].map(|name| Path::new(HOSTEL).with_file_name(name)) {
        if folder.exists() {
            image.add(&folder)?;
        }
    }
    for file in &arguments.files {
        image.add(file)?;
    }
    let mut script = prologue(&mut image)?;
    for program in test_programs(&arguments.tests)? {
        image.add(&program)?;
        let filter = arguments.filter.as_deref().unwrap_or_default();
        writeln!(script, "{} --test-threads=1 {} || status=$?", quoted(&program.to_string_lossy()), quoted(filter))?;
    }
    if !arguments.command.is_empty() {
        add_command(&mut image, &arguments.command)?;
        let words: Vec<String> = arguments.command.iter().map(|word| quoted(word)).collect();
        writeln!(script, "{} || status=$?", words.join(" "))?;
    }
    script.push_str("exit $status\n");
    let deadline = Duration::from_secs(arguments.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS));
    lab::run(Job { image, script, deadline })
}

/// The same directory and the same variables as here, for all that concerns Hostel and its tests.
fn prologue(image: &mut Image) -> Result<String> {
    let directory = std::env::current_dir()?;
    let directory = directory.to_str().context("the current directory's name is not UTF-8")?;
    image.directory(directory);
    let mut script =
        format!("cd {}\nexport HOSTEL_REQUIRE_KVM=1 HOSTEL_LAB_KERNEL={KERNEL}\nstatus=0\n", quoted(directory));
    for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with("HOSTEL_") || name.starts_with("RUST_")) {
        writeln!(script, "export {name}={}", quoted(&value))?;
    }
    Ok(script)
}

/// Adds the program, unless busybox has it, and every file that a word names by itself or behind its `=`.
fn add_command(image: &mut Image, command: &[String]) -> Result<()> {
    let applets = Command::new("busybox").arg("--list").output().context("cannot run busybox")?;
    let applets = String::from_utf8_lossy(&applets.stdout).into_owned();
    let program = &command[0];
    if program != "hostel" && !program.contains('/') && !applets.lines().any(|applet| applet == program) {
        image.add(&find_program(program).with_context(|| format!("there is no program {program}"))?)?;
    }
    for word in command {
        let value = word.split_once('=').map_or("", |(_, value)| value);
        for file in [word.as_str(), value].map(Path::new).iter().filter(|file| file.is_file()) {
            image.add(file)?;
        }
    }
    Ok(())
}

/// Has Cargo build the test programs and tell where they are. `lib` stands for the unit tests.
fn test_programs(names: &[String]) -> Result<Vec<PathBuf>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--no-run", "--quiet", "--message-format=json-render-diagnostics", "--manifest-path"]);
    cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    for name in names {
        if name == "lib" {
            cargo.arg("--lib")
        } else {
            cargo.args(["--test", name])
        };
    }
    let output = cargo.stderr(std::process::Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the tests do not build");
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let programs: Vec<PathBuf> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect();
    ensure!(programs.len() == names.len(), "Cargo built {} of {} test programs", programs.len(), names.len());
    Ok(programs)
}

/// `word` as one word of the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
