//! Asks the host: first what leads to KVM, then KVM itself, then what else Hostel can use.

use super::access::User;
use super::backend::Backend;
use super::host::Host;
use super::measure::{Guest, MeasureError, Ring};
use super::report::{Check, Report, Speed, State};
use super::{capabilities, device, features};
use crate::kvm::system::System;

/// Below this a kernel's boot takes minutes: interpreters reach a few million instructions a second, processors thousands.
const SLOW_INSTRUCTIONS_PER_SECOND: u64 = 50_000_000;
/// Above this an outer hypervisor takes part in each exit by software; hardware takes 1 to 3 µs, well nested about 20 µs.
const SLOW_EXIT_NS: u64 = 40_000;

/// Looks at this host and measures it, in about 100 ms.
pub fn examine() -> Report {
    let host = Host::new("/");
    let mut checks = device::checks(&host, &User::current());
    let opens = checks.iter().all(|check| check.state == State::Ok);
    let (backend, speed) = if opens { kvm(&host, &mut checks).unzip() } else { (None, None) };
    checks.extend(features::checks(&host));
    Report::new(backend, speed, checks)
}

/// Asks KVM, which opens.
fn kvm(host: &Host, checks: &mut Vec<Check>) -> Option<(Backend, Speed)> {
    let system = match System::open() {
        Ok(system) => system,
        Err(error) => {
            let repair = "use the kernel's own modules: kvm with kvm_intel or kvm_amd".to_owned();
            checks.push(Check::needed("API version", State::Missing, error.to_string(), Some(repair)));
            return None;
        }
    };
    let backend = Backend::of(host);
    let version = format!("12, at most {} vCPUs in a machine", system.max_cpus());
    checks.push(Check::needed("API version", State::Ok, version, None));
    checks.push(Check::needed("back end", State::Ok, backend.describe(), None));
    checks.extend(capabilities::checks(|number| system.capability(number)));
    let mut kernel = Guest::start(&system, Ring::Kernel);
    let ring0 = ask(&mut kernel, Guest::instructions_per_second);
    let exit = ask(&mut kernel, Guest::port_exit_ns);
    let ring3 = ask(&mut Guest::start(&system, Ring::User), Guest::instructions_per_second);
    let speed = Speed {
        ring0_instructions_per_second: ring0.as_ref().ok().copied(),
        ring3_instructions_per_second: ring3.as_ref().ok().copied(),
        port_exit_ns: exit.as_ref().ok().copied(),
    };
    let is_slow = |speed| speed < SLOW_INSTRUCTIONS_PER_SECOND;
    let kernels = measured(host, "ring 0 speed", ring0.map(|n| (rate(n), is_slow(n))), "kernels take minutes to boot");
    checks.push(Check { needed: true, ..kernels });
    checks.push(measured(host, "ring 3 speed", ring3.map(|n| (rate(n), is_slow(n))), "programs in guests run slowly"));
    let exit = exit.map(|ns| (format!("{:.1} µs", ns as f64 / 1e3), ns > SLOW_EXIT_NS));
    checks.push(measured(host, "port exit", exit, "devices of guests are slow"));
    Some((backend, speed))
}

/// Measures something of a guest, if it started; if not, the error says why.
fn ask(
    guest: &mut Result<Guest, MeasureError>,
    what: fn(&mut Guest) -> Result<u64, MeasureError>,
) -> Result<u64, String> {
    let guest = guest.as_mut().map_err(|error| error.to_string())?;
    what(guest).map_err(|error| error.to_string())
}

/// The check of a measurement: its value in words and whether that is slow, or why there is none.
fn measured(host: &Host, name: &'static str, value: Result<(String, bool), String>, lost: &'static str) -> Check {
    let repair = if host.has_module("vboxdrv") {
        "end VirtualBox, which may hold the processor: sudo modprobe -r vboxnetadp vboxnetflt vboxdrv"
    } else {
        "see what the kernel says: sudo dmesg | grep -i kvm"
    };
    match value {
        Ok((value, is_slow)) => Check::useful(name, if is_slow { State::Slow } else { State::Ok }, value, lost, None),
        Err(error) => Check::useful(name, State::Missing, error, "guests that need it cannot run", Some(repair)),
    }
}

fn rate(per_second: u64) -> String {
    match per_second {
        0..1_000_000_000 => format!("{:.1} million instructions/s", per_second as f64 / 1e6),
        _ => format!("{:.1} billion instructions/s", per_second as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_fine_slow_or_failed() {
        let host = Host::new("/nonexistent");
        let check = |value| measured(&host, "speed", value, "time");
        assert_eq!(check(Ok((rate(8_043_837_539), false))).detail, "8.0 billion instructions/s");
        assert_eq!(check(Ok((rate(1_695_171), true))).detail, "1.7 million instructions/s");
        assert_eq!(check(Ok((String::new(), true))).state, State::Slow);
        let failed = check(Err("KVM_CREATE_VM: busy".to_owned()));
        assert_eq!((failed.state, failed.detail.as_str()), (State::Missing, "KVM_CREATE_VM: busy"));
        assert!(failed.repair.unwrap().contains("dmesg"));
    }
}
