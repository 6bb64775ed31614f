//! What else a host may offer: tap interfaces, io_uring, Landlock, huge pages; and whether it is Windows' Linux.
//!
//! Sources: Linux Documentation/admin-guide/sysctl/kernel.rst (io_uring_disabled), admin-guide/mm/transhuge.rst,
//! userspace-api/landlock.rst "Boot time configuration", networking/tuntap.rst.

use super::host::Host;
use super::report::{Check, State};
use super::syscalls;
use std::io;

/// All of them.
pub fn checks(host: &Host) -> Vec<Check> {
    vec![
        tun(host),
        io_uring(host, syscalls::io_uring()),
        landlock(host, syscalls::landlock()),
        huge_pages(host),
        wsl2(host),
    ]
}

fn tun(host: &Host) -> Check {
    const NAME: &str = "/dev/net/tun";
    let lost = "guests cannot be put on the host's own network (tap)";
    let (error, repair) = match host.open(NAME) {
        Ok(()) => return Check::useful(NAME, State::Ok, "opens".to_owned(), lost, None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (error, "sudo chmod 0666 /dev/net/tun"),
        Err(error) if host.is_container() => (error, "start the container with --device /dev/net/tun"),
        Err(error) => (error, "sudo modprobe tun"),
    };
    Check::useful(NAME, State::Missing, error.to_string(), lost, Some(repair))
}

fn io_uring(host: &Host, answer: io::Result<()>) -> Check {
    let lost = "requests to disks cost a system call each";
    let Err(error) = answer else { return Check::useful("io_uring", State::Ok, "allowed".to_owned(), lost, None) };
    let disabled = host.text("/proc/sys/kernel/io_uring_disabled");
    let repair = match error.raw_os_error() {
        Some(libc::EPERM) if matches!(disabled.as_str(), "1" | "2") => "sudo sysctl kernel.io_uring_disabled=0",
        Some(libc::EPERM) => "start the container with a seccomp profile that allows io_uring_setup",
        _ => "boot a Linux built with CONFIG_IO_URING",
    };
    Check::useful("io_uring", State::Missing, error.to_string(), lost, Some(repair))
}

fn landlock(host: &Host, version: io::Result<i64>) -> Check {
    let lost = "a process cannot fence its own file access in";
    let error = match version {
        Ok(version) => return Check::useful("landlock", State::Ok, format!("version {version}"), lost, None),
        Err(error) => error,
    };
    let running = host.text("/sys/kernel/security/lsm");
    let repair = match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) if running.is_empty() => {
            "boot with lsm=landlock, in front of the modules in use".to_owned()
        }
        Some(libc::EOPNOTSUPP) => format!("boot with lsm=landlock,{running}"),
        Some(libc::EPERM) => {
            "start the container with a seccomp profile that allows landlock_create_ruleset".to_owned()
        }
        _ => "boot a Linux 5.13 or later built with CONFIG_SECURITY_LANDLOCK".to_owned(),
    };
    Check::useful("landlock", State::Missing, error.to_string(), lost, Some(&repair))
}

fn huge_pages(host: &Host) -> Check {
    let lost = "guest RAM costs a page fault for each 4 KiB";
    let chosen = host.transparent_huge_pages();
    let pool = host.text("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    let reserved = if pool.is_empty() { String::new() } else { format!(", {pool} of 2 MiB reserved") };
    let (state, repair) = match chosen.as_str() {
        "always" | "madvise" => (State::Ok, None),
        "never" => (State::Slow, Some("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled")),
        _ => (State::Missing, Some("boot a Linux built with CONFIG_TRANSPARENT_HUGEPAGE")),
    };
    let chosen = if chosen.is_empty() { "not in this kernel" } else { chosen.as_str() };
    Check::useful("huge pages", state, format!("transparent: {chosen}{reserved}"), lost, repair)
}

fn wsl2(host: &Host) -> Check {
    let detail = if host.is_wsl2() { "yes: KVM is nested in Hyper-V" } else { "no" };
    Check::useful("WSL2", State::Ok, detail.to_owned(), "", None)
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::FakeHost;
    use super::*;

    #[test]
    fn the_errors_of_system_calls_have_their_repairs() {
        let files = [("/proc/sys/kernel/io_uring_disabled", "2\n"), ("/sys/kernel/security/lsm", "capability,yama")];
        let FakeHost(host) = &FakeHost::new("calls", &files);
        let error = |number| io::Error::from_raw_os_error(number);
        let repair = |check: Check| check.repair.unwrap();
        assert_eq!(repair(io_uring(host, Err(error(libc::EPERM)))), "sudo sysctl kernel.io_uring_disabled=0");
        assert!(repair(io_uring(host, Err(error(libc::ENOSYS)))).contains("CONFIG_IO_URING"));
        assert_eq!(repair(landlock(host, Err(error(libc::EOPNOTSUPP)))), "boot with lsm=landlock,capability,yama");
        assert_eq!(landlock(host, Ok(4)).detail, "version 4");
        assert_eq!(repair(tun(host)), "sudo modprobe tun");
    }

    #[test]
    fn huge_pages_that_are_off_are_slow() {
        let file = "/sys/kernel/mm/transparent_hugepage/enabled";
        let FakeHost(host) = &FakeHost::new("huge", &[(file, "always madvise [never]\n")]);
        assert_eq!(huge_pages(host).state, State::Slow);
        assert_eq!(huge_pages(&Host::new("/nonexistent")).state, State::Missing);
    }
}
