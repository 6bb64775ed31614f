//! What was run and on what, for the heads of reports.
//!
//! Source: uname(2).

use super::build::Blueprint;
use crate::doctor::backend::Backend;
use crate::doctor::host::Host;
use rustix::system::uname;
use std::env;

/// What is known of a machine before it runs: pairs of name and value.
pub fn of_machine(blueprint: &Blueprint) -> Vec<(&'static str, String)> {
    let words: Vec<_> = env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    vec![
        ("image", blueprint.name.clone()),
        ("entered as", blueprint.how.clone()),
        ("vCPUs", blueprint.cpus.to_string()),
        ("RAM", format!("{} MiB", blueprint.map.size() >> 20)),
        ("interrupt controllers", blueprint.irqchip.to_string()),
        ("guest's command line", blueprint.cmdline.clone()),
        ("command", words.join(" ")),
    ]
}

/// What is known of the host and of this program.
pub fn of_host() -> Vec<(&'static str, String)> {
    let host = Host::new("/");
    let kernel = uname();
    vec![
        ("Hostel", env!("CARGO_PKG_VERSION").to_owned()),
        ("host kernel", format!("{} {}", kernel.sysname().to_string_lossy(), kernel.release().to_string_lossy())),
        ("processor", host.cpu_model()),
        ("KVM", Backend::of(&host).describe()),
    ]
}
