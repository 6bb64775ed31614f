//! Whether `/dev/kvm` is there and lets this user in, and what to do if not.
//!
//! Sources: open(2) errors; udev(7) rules; podman-run(1) `--group-add`.

use super::access::{Node, User, group_name};
use super::backend;
use super::host::Host;
use super::report::{Check, State};
use crate::kvm::system::DEVICE;
use std::io;

/// Whether the device is there, and then whether it opens.
pub fn checks(host: &Host, user: &User) -> Vec<Check> {
    match Node::at(&host.path(DEVICE)) {
        Err(error) => vec![Check::needed(DEVICE, State::Missing, error.to_string(), Some(backend::repair(host)))],
        Ok(node) => {
            let present = Check::needed(DEVICE, State::Ok, node.describe(host), None);
            vec![present, permission(host, &node, user, host.open(DEVICE))]
        }
    }
}

fn permission(host: &Host, node: &Node, user: &User, opened: io::Result<()>) -> Check {
    let granted = node.granted_by(user, host);
    let missing = |detail, repair| Check::needed("permission", State::Missing, detail, Some(repair));
    let Err(error) = opened else {
        let detail = granted.unwrap_or_else(|| "by a capability of this process".to_owned());
        return Check::needed("permission", State::Ok, detail, None);
    };
    match (error.raw_os_error(), granted) {
        (Some(libc::ENODEV | libc::ENXIO), _) => missing(error.to_string(), backend::repair(host)),
        // Rootless Podman's root is no owner of the host's devices; `keep-groups` passes the user's groups on.
        (Some(libc::EPERM), _) | (_, Some(_)) => missing(
            format!("{error}: rules of a container or service, SELinux or AppArmor forbid what the node allows"),
            "start the container with --device /dev/kvm; rootless Podman: also --group-add keep-groups".to_owned(),
        ),
        (_, None) => missing(format!("{error}: {}", user.describe(host)), permission_repair(host, node, user)),
    }
}

fn permission_repair(host: &Host, node: &Node, user: &User) -> String {
    let name = user.name(host);
    match node.useful_group() {
        Some(gid) if host.lists_member(gid, &name) => {
            let group = group_name(host, gid);
            format!("{name} was put into group {group} after logging in: log in again, or run: newgrp {group}")
        }
        Some(gid) if host.is_container() => format!("start the container with --group-add {gid}"),
        Some(gid) => format!("sudo usermod -aG {} {name}, then log in again", group_name(host, gid)),
        None => "echo 'KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0666\", OPTIONS+=\"static_node=kvm\"' | sudo tee \
             /etc/udev/rules.d/99-kvm.rules && sudo udevadm control --reload-rules && sudo udevadm trigger --name-match=kvm"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::FakeHost;
    use super::super::report::Report;
    use super::*;

    const ALICE: u32 = 1000;

    fn alice() -> User {
        User { uid: ALICE, gids: vec![ALICE] }
    }

    fn denied() -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EACCES))
    }

    /// Permission of alice to a node of group 104.
    fn refused(mode: u32, group: &str) -> String {
        let name = format!("refused-{mode}-{}", group.len());
        let passwd = ("/etc/passwd", "alice:x:1000:1000::/:/bin/sh\n");
        let FakeHost(host) = &FakeHost::new(&name, &[passwd, ("/etc/group", group)]);
        let mut node = Node::at(&host.path("/etc/group")).unwrap();
        (node.uid, node.gid, node.mode) = (0, 104, mode);
        node.acl.clear();
        let check = permission(host, &node, &alice(), denied());
        assert_eq!((check.state, check.needed), (State::Missing, true));
        check.repair.unwrap()
    }

    #[test]
    fn without_the_device_its_repair_is_printed() {
        let FakeHost(host) = &FakeHost::new("removed", &[("/proc/cpuinfo", "flags : fpu svm\n")]);
        let report = Report::new(None, None, checks(host, &alice()));
        assert!(!report.usable());
        let text = report.text(false);
        assert!(text.starts_with("missing /dev/kvm  No such file"), "{text}");
        assert!(text.contains("to repair:\n  /dev/kvm: sudo modprobe kvm_amd\n"), "{text}");
    }

    #[test]
    fn a_user_without_permission_is_told_the_group_or_the_rule() {
        assert_eq!(refused(0o660, "kvm:x:104:\n"), "sudo usermod -aG kvm alice, then log in again");
        assert!(refused(0o660, "kvm:x:104:alice\n").ends_with("log in again, or run: newgrp kvm"));
        assert!(refused(0o600, "").contains("/etc/udev/rules.d/99-kvm.rules"));
    }

    #[test]
    fn a_container_that_forbids_the_device_is_told_to_pass_it() {
        let node = Node::at(std::path::Path::new("/dev/null")).unwrap();
        let host = Host::new("/nonexistent");
        for (number, wanted) in [(libc::EPERM, "--device /dev/kvm"), (libc::ENXIO, "firmware")] {
            let check = permission(&host, &node, &alice(), Err(io::Error::from_raw_os_error(number)));
            assert!(check.repair.as_ref().is_some_and(|repair| repair.contains(wanted)), "{check:?}");
        }
    }

    #[test]
    fn a_device_that_opens_tells_who_allows_it() {
        let FakeHost(host) = &FakeHost::new("opens", &[("/dev/kvm", "")]);
        let checks = checks(host, &User { uid: 0, gids: vec![] });
        assert_eq!(checks[1].detail, "you are root");
        assert!(checks.iter().all(|check| check.state == State::Ok && check.repair.is_none()));
    }
}
