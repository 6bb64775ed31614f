//! `hostel run` from its configuration to what is told of it: diagnosis, result file, report, exit status.

use super::build::{self, Blueprint};
use super::lifecycle::{self, Finished, RunError};
use super::names::names;
use super::outcome::{CommandEnd, HOST_ERROR, NO_COMMAND, Outcome, USAGE};
use super::phases::{Phases, now_us};
use super::report::{Ending, Run};
use super::root_archive::{self, RootError};
use super::tracing::Tracing;
use super::watch::Watch;
use super::{junit, report_file};
use crate::config::{ReportChoice, RunConfig, TraceConfig, image_name};
use crate::debug::counters::Counted;
use crate::machine::console::say;
use std::time::Duration;

/// Runs what `config` asks for, tells about it on standard error and in the files asked for, and returns the outcome with
/// the exit status. With `trace`, each exit is watched as it says. `process_start` is [`now_us`] of the program's begin.
pub fn run(config: &RunConfig, trace: Option<&TraceConfig>, process_start: u64) -> (Option<Outcome>, i32) {
    let (mut run, diagnosis, tracing) = match attempt(config, trace, process_start) {
        Ok(Attempt { run, diagnosis, tracing }) => (run, diagnosis, tracing),
        Err(error) => (not_begun(config, &error), String::new(), None),
    };
    let mut broken = Vec::new();
    if let Some(tracing) = tracing {
        let found = tracing.finish(&run);
        broken = run.consider_trace(found, config.ends.ok_exit);
    }
    if run.lost_bytes > 0 {
        say(&format!("{} bytes of the console reached no reader", run.lost_bytes));
    }
    // A command that fails has said why itself.
    let said = matches!(&run.ending, Ending::Outcome(Outcome::Command(CommandEnd::Exited(_))));
    if let Some(failure) = run.failure().filter(|_| !said) {
        say(failure.trim_end());
    }
    broken.iter().for_each(|what| say(what.trim_end()));
    if !diagnosis.is_empty() {
        say(diagnosis.trim_end());
    }
    let status = write_files(config, &run);
    match run.ending {
        Ending::Outcome(outcome) => (Some(outcome), status),
        Ending::HostError(_) => (None, status),
    }
}

/// A run that was.
struct Attempt {
    run: Run,
    /// What is to be said of its vCPUs; empty where nothing is.
    diagnosis: String,
    tracing: Option<Tracing>,
}

fn attempt(config: &RunConfig, trace: Option<&TraceConfig>, process_start: u64) -> Result<Attempt, RunError> {
    let names = names(config).map_err(build::BuildError::from)?;
    let unpacked = root_archive::unpack(config).map_err(|error| match error {
        RootError::Signal(signal) => RunError::Signal(signal),
        error => error.into(),
    })?;
    // The tree goes away with it at the end.
    let config = unpacked.as_ref().map_or(config, |unpacked| &unpacked.config);
    let mut blueprint = build::prepare(config)?;
    let store = blueprint.store.take();
    blueprint.initrd.warning.iter().for_each(|warning| say(warning));
    let phases = Phases { process_start, load: now_us(), ..Phases::default() };
    let tracing = Tracing::start(config, trace, &blueprint, &names, process_start)?;
    let watch = Watch::new(config, &blueprint, &names, tracing.as_ref());
    let finished = lifecycle::run(&blueprint, store, config, &watch, phases)?;
    let diagnosis = watch.diagnose(&finished);
    let run = told(config, &blueprint, finished);
    Ok(Attempt { run, diagnosis, tracing })
}

fn told(config: &RunConfig, blueprint: &Blueprint, finished: Finished) -> Run {
    Run {
        image: blueprint.name.clone(),
        status: match config.root {
            Some(_) => finished.outcome.status_with_command(config.ends.ok_exit),
            None => finished.outcome.status(config.ends.ok_exit),
        },
        ending: Ending::Outcome(finished.outcome),
        duration: finished.ran,
        phases: finished.phases,
        expect: config.console.expect.clone(),
        met: finished.expectations_met,
        reject: config.console.reject.clone(),
        last_lines: finished.last_lines,
        serial_lines: finished.serial_lines,
        lost_bytes: finished.console_bytes_lost,
        counted: finished.counted,
    }
}

fn not_begun(config: &RunConfig, error: &RunError) -> Run {
    let (ending, status) = match error {
        RunError::Signal(signal) => (Ending::Outcome(Outcome::Signal(*signal)), Outcome::Signal(*signal).status(None)),
        RunError::Console(console) if console.is_usage() => (Ending::HostError(error.to_string()), USAGE),
        RunError::Tracing(tracing) if tracing.is_usage() => (Ending::HostError(error.to_string()), USAGE),
        _ if config.root.is_some() => (Ending::HostError(error.to_string()), NO_COMMAND),
        _ => (Ending::HostError(error.to_string()), HOST_ERROR),
    };
    Run {
        image: image_name(&config.image).to_string_lossy().into_owned(),
        ending,
        status,
        duration: Duration::ZERO,
        phases: Phases::default(),
        expect: config.console.expect.clone(),
        met: 0,
        reject: config.console.reject.clone(),
        last_lines: Vec::new(),
        serial_lines: Vec::new(),
        lost_bytes: 0,
        counted: Counted::default(),
    }
}

/// Writes `--result` and `--report`; a file that cannot be written is a host error, and said.
fn write_files(config: &RunConfig, run: &Run) -> i32 {
    let mut status = run.status;
    let mut write = |path, content: String| {
        if let Err(error) = report_file::write(path, &content) {
            say(&error.to_string());
            status = HOST_ERROR;
        }
    };
    if let Some(path) = &config.ends.result {
        write(path, run.to_json());
    }
    for report in &config.ends.report {
        match report {
            ReportChoice::Junit(path) => write(path, junit::to_xml(run)),
            // The trace, which has seen the exits, has written it.
            ReportChoice::Html(_) => {}
        }
    }
    status
}
