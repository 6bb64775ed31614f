//! What `hostel trace` shows while the guest runs and at its end: lines or JSON, and the summary. The other sinks of a trace
//! are files of their own options (`tracing.rs`).

use super::devices;
use super::names::Names;
use super::tracing::{TracingError, create};
use crate::config::TraceConfig;
use crate::debug::filter::Filter;
use crate::debug::fold::Folding;
use crate::debug::json_lines::JsonLines;
use crate::debug::lines::Lines;
use crate::debug::milestones::Milestones;
use crate::debug::sink::TraceSink;
use crate::debug::step::Steps;
use crate::debug::summary::{Form, Summary};
use crate::debug::symbols::Symbols;
use std::ffi::OsString;
use std::io::{BufWriter, IsTerminal, Write, stderr};

/// The sinks that show what `config` asks for. A summary, the milestones, the calls of KVM or a check replace what else would stand on
/// standard error.
///
/// # Errors
/// A file cannot be created.
pub fn sinks(config: &TraceConfig) -> Result<Vec<Box<dyn TraceSink>>, TracingError> {
    let mut sinks: Vec<Box<dyn TraceSink>> = Vec::new();
    let to_stderr = || Box::new(BufWriter::new(stderr()));
    if let Some(path) = &config.output {
        sinks.push(exits(config, create(path)?, false)?);
    } else if !(config.summary
        || config.milestones
        || config.kvm_calls
        || config.golden.is_some()
        || !config.budget.is_empty())
    {
        sinks.push(exits(config, to_stderr(), is_coloured())?);
    }
    if config.summary {
        let form = if config.json { Form::Json } else { Form::Text };
        sinks.push(Box::new(Summary::new(to_stderr(), form)));
    }
    if config.milestones {
        sinks.push(Box::new(Milestones::new(to_stderr())));
    }
    Ok(sinks)
}

/// The steps that `config` asks for, if it asks for steps.
///
/// # Errors
/// A file cannot be created.
pub fn steps(config: &TraceConfig, names: &Names) -> Result<Option<Steps>, TracingError> {
    let Some(wanted) = config.step else { return Ok(None) };
    let out =
        config.output.as_ref().map_or_else(|| Ok(Box::new(stderr()) as Box<dyn Write + Send>), |path| create(path))?;
    Ok(Some(Steps::new(out, wanted, Symbols::clone(names))))
}

/// What shows each exit.
fn exits(config: &TraceConfig, out: Box<dyn Write + Send>, colour: bool) -> Result<Box<dyn TraceSink>, TracingError> {
    let filter = filter(config).map_err(TracingError::Filter)?;
    let folding = match (config.skip_strings, config.every || config.json) {
        (_, false) => Folding::Like,
        (true, true) => Folding::Strings,
        (false, true) => Folding::Nothing,
    };
    Ok(if config.json {
        Box::new(JsonLines::new(out, filter, folding))
    } else {
        let lines = Lines::new(out, filter, folding, colour);
        Box::new(if config.explain { lines.explaining() } else { lines })
    })
}

/// The exits that are shown.
///
/// # Errors
/// A kind or a device that there is not; the message lists those that there are.
pub fn filter(config: &TraceConfig) -> Result<Filter, String> {
    let known = devices::names(&config.run.devices);
    let is_known = |name: &str| known.iter().any(|known| known.eq_ignore_ascii_case(name));
    if let Some(name) = config.device.iter().find(|name| !is_known(name)) {
        return Err(format!("no device is called {name:?}: use {}", known.join(", ")));
    }
    Filter::new(&config.only, &config.device, &config.vcpu)
}

fn is_coloured() -> bool {
    takes_colours(stderr().is_terminal(), std::env::var_os("NO_COLOR"))
}

/// Whether a stream takes colours, and the user, who says so by `NO_COLOR`, wants them (no-color.org).
fn takes_colours(is_terminal: bool, no_color: Option<OsString>) -> bool {
    is_terminal && no_color.is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_whose_user_wants_them() {
        assert!(takes_colours(true, None) && takes_colours(true, Some("".into())));
        assert!(!takes_colours(false, None) && !takes_colours(true, Some("1".into())));
    }
}
