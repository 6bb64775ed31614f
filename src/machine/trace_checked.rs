//! What `hostel trace` checks: the golden trace and the budget. Both end a run that does not keep to them with 18.

use super::devices;
use super::tracing::TracingError;
use crate::config::TraceConfig;
use crate::debug::budget::{Budget, Limit};
use crate::debug::golden::Golden;
use crate::debug::sink::TraceSink;
use crate::doctor::backend::Backend;
use crate::doctor::host::Host;

/// The sinks that check what `config` asks for.
///
/// # Errors
/// The golden trace cannot be read, or the budget is one of something that there is not.
pub fn sinks(config: &TraceConfig) -> Result<Vec<Box<dyn TraceSink>>, TracingError> {
    let mut sinks: Vec<Box<dyn TraceSink>> = Vec::new();
    if let Some(path) = &config.golden {
        let kvm = Backend::of(&Host::new("/")).kind.name();
        sinks.push(Box::new(Golden::open(path, kvm, config.bless)?));
    }
    if !config.budget.is_empty() {
        let devices = devices::names(&config.run.devices);
        let limits: Vec<Limit> =
            config.budget.iter().map(|(what, at_most)| Limit { what: what.clone(), at_most: *at_most }).collect();
        if let Some(limit) = limits.iter().find(|limit| !limit.counts_something(&devices)) {
            let (what, devices) = (&limit.what, devices.join(", "));
            let why = format!("--budget {what}: neither a kind of exit, such as pio or hlt, nor total, {devices}");
            return Err(TracingError::Budget(why));
        }
        sinks.push(Box::new(Budget::new(limits)));
    }
    Ok(sinks)
}
