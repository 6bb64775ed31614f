//! Arguments to the library, the library's answer to text and exit status. Only here does the process end.

use anyhow::Context;
use hostel::backend::{net_switch, signals, terminal};
use hostel::bench::report::{Bench, Part};
use hostel::boot::samples::SAMPLES;
use hostel::cli::{self, Cli, Verb};
use hostel::config::{RunConfig, TraceConfig};
use hostel::debug::explain::{table, text};
use hostel::doctor::examine::examine;
use hostel::machine::console::say;
use hostel::machine::outcome::{HOST_ERROR, Outcome, USAGE};
use hostel::machine::phases::now_us;
use hostel::machine::{build, root_archive, run};
use hostel::memory::heap;
use hostel::process::{self, options::ExecConfig};
use std::io::{ErrorKind, IsTerminal, Write, stdout};
use std::process::exit;

fn main() {
    let process_start = now_us();
    heap::share_between_threads();
    terminal::restore_on_crash();
    let status = match Cli::from_arguments().verb {
        Verb::Run(config) if config.dry_run => dry_run(&config),
        Verb::Trace(config) if config.run.dry_run => dry_run(&config.run),
        Verb::Run(config) => run(&config, None, process_start),
        Verb::Trace(config) => run(&config.run, Some(&config), process_start),
        Verb::Exec(config) => Ok(exec(&config)),
        Verb::Guests => print(guests().as_bytes(), 0),
        Verb::Explain { markdown: true, .. } => print(text::markdown().as_bytes(), 0),
        Verb::Explain { name, .. } => explain(&name.join(" ")),
        Verb::Doctor { json } => doctor(json),
        Verb::Bench { json, only } => bench(json, only),
        Verb::Switch { name } => switch(&name),
        Verb::Completions { shell } => print(&cli::completions(shell), 0),
        Verb::Man => cli::manual().context("write the manual").and_then(|page| print(&page, 0)),
    };
    // No destructor runs: the end of the process takes all apart.
    exit(status.unwrap_or_else(|error| {
        say(&format!("{error:#}"));
        HOST_ERROR
    }))
}

/// Prints to standard output and returns `status`; a reader that went away has seen enough.
fn print(text: &[u8], status: i32) -> anyhow::Result<i32> {
    match stdout().write_all(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("write to standard output"),
        _ => Ok(status),
    }
}

fn switch(name: &str) -> anyhow::Result<i32> {
    if let Some(counts) = net_switch::serve(name)? {
        say(&format!("switch {name}: {counts}"));
    }
    Ok(0)
}

fn run(config: &RunConfig, trace: Option<&TraceConfig>, process_start: u64) -> anyhow::Result<i32> {
    let (outcome, status) = run::run(config, trace, process_start);
    if let Some(Outcome::Signal(signal)) = outcome {
        signals::end_by(signal);
    }
    Ok(status)
}

fn exec(config: &ExecConfig) -> i32 {
    match process::run::run(config) {
        Ok(finished) => {
            finished.said.iter().for_each(|text| say(text));
            if let Some(signal) = finished.signal {
                signals::end_by(signal);
            }
            finished.status
        }
        Err(error) => {
            say(&format!("exec: {error}"));
            error.status()
        }
    }
}

fn dry_run(config: &RunConfig) -> anyhow::Result<i32> {
    let unpacked = root_archive::unpack(config)?;
    let blueprint = build::prepare(unpacked.as_ref().map_or(config, |unpacked| &unpacked.config))?;
    blueprint.initrd.warning.iter().for_each(|warning| say(warning));
    print(blueprint.to_string().as_bytes(), 0)
}

fn explain(name: &str) -> anyhow::Result<i32> {
    if name.is_empty() {
        return print(text::list().as_bytes(), 0);
    }
    match table::find(name) {
        Ok(entries) => {
            let texts: Vec<_> = entries.into_iter().map(text::describe).collect();
            print(texts.join("\n").as_bytes(), 0)
        }
        Err(similar) => {
            let hint = if similar.is_empty() { String::new() } else { format!(", but {}", similar.join(", ")) };
            say(&format!("explain {name}: no exit or instruction of that name{hint}; `hostel explain` lists all"));
            Ok(USAGE)
        }
    }
}

fn doctor(json: bool) -> anyhow::Result<i32> {
    let report = examine();
    let status = if report.usable() { 0 } else { HOST_ERROR };
    let text = if json { report.json() + "\n" } else { report.text(stdout().is_terminal()) };
    print(text.as_bytes(), status)
}

fn bench(json: bool, only: Option<Part>) -> anyhow::Result<i32> {
    let bench = Bench::measure(only)?;
    let text = if json { bench.json() + "\n" } else { bench.text() };
    print(text.as_bytes(), 0)
}

fn guests() -> String {
    let width = SAMPLES.iter().map(|sample| sample.name.len()).max().unwrap_or(0);
    let row = |name: &str, shows: &str, ends: &str| format!("{name:width$}  {shows}; {ends}\n");
    SAMPLES.iter().map(|sample| row(sample.name, sample.shows, sample.ends)).collect()
}
