//! Runs programs in turn, A B C A B C, so that what disturbs the machine disturbs them alike.

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::process::{Command, ExitStatus, Stdio};

/// A command line to measure.
pub struct Program {
    /// Name in the report.
    pub name: String,
    /// Program and arguments.
    pub words: Vec<String>,
    /// One more variable of its environment.
    pub variable: Option<(&'static str, &'static str)>,
    /// Its standard input if it does not do with `/dev/null`.
    pub stdin: Option<File>,
    /// The status of a run that went well.
    pub status: i32,
}

impl Program {
    /// A program that ends with 0.
    pub fn new(name: &str, words: &[&str]) -> Program {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Program { name: name.to_owned(), words, variable: None, stdin: None, status: 0 }
    }

    /// Its command, ready to be spawned as from a shell; the output goes nowhere. Cargo's own variables are left out: the C library looks
    /// through the directories of one at each start.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(&self.words[0]);
        let cargos = std::env::vars_os().map(|(name, _)| name);
        let cargos = cargos.filter(|name| name == "LD_LIBRARY_PATH" || name.as_encoded_bytes().starts_with(b"CARGO"));
        for name in cargos {
            command.env_remove(name);
        }
        command.args(&self.words[1..]).envs(self.variable).stdout(Stdio::null()).stderr(Stdio::null());
        command.stdin(match &self.stdin {
            Some(file) => file.try_clone()?.into(),
            None => Stdio::null(),
        });
        Ok(command)
    }
}

/// What a program's runs took, in microseconds, sorted.
pub struct Times(Vec<f64>);

impl Times {
    /// Of measured values, which are at least one.
    pub fn new(mut values: Vec<f64>) -> Times {
        values.sort_by(f64::total_cmp);
        Times(values)
    }

    /// The shortest: the program without the noise of the machine.
    pub fn min(&self) -> f64 {
        self.0[0]
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }
}

/// CLOCK_MONOTONIC in microseconds.
pub fn now_us() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
}

/// Runs the command to its end; returns when it was spawned and when it had ended.
pub fn timed(command: &mut Command) -> Result<(f64, f64, ExitStatus)> {
    let spawned = now_us();
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    Ok((spawned, now_us(), status))
}

/// Runs all programs `rounds` times, after one round that only warms the caches.
pub fn run(programs: &[Program], rounds: usize) -> Result<Vec<Times>> {
    let mut times = vec![Vec::with_capacity(rounds); programs.len()];
    for round in 0..=rounds {
        for (program, times) in programs.iter().zip(&mut times) {
            let (spawned, ended, status) = timed(&mut program.command()?)?;
            ensure!(status.code() == Some(program.status), "{}: {status}", program.name);
            if round > 0 {
                times.push(ended - spawned);
            }
        }
    }
    Ok(times.into_iter().map(Times::new).collect())
}
