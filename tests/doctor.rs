//! `hostel doctor` on this host's KVM.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::kvm;
use hostel::doctor::examine::examine;
use serde_json::Value;
use std::path::Path;

#[test]
fn a_host_with_kvm_is_usable_and_measured() {
    if !kvm::available() {
        return;
    }
    let report = examine();
    let text = report.text(false);
    assert!(report.usable(), "{text}");
    let (module, name) = [("kvm_pvm", "PVM"), ("kvm_intel", "VMX"), ("kvm_amd", "SVM")]
        .into_iter()
        .find(|(module, _)| Path::new("/sys/module").join(module).exists())
        .unwrap();
    assert!(text.lines().any(|line| line.contains("back end") && line.contains(name)), "{module}: {text}");
    let json: Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(json["backend"]["kind"], name.to_lowercase());
    for figure in ["ring0_instructions_per_second", "ring3_instructions_per_second", "port_exit_ns"] {
        assert!(json["speed"][figure].as_u64() > Some(0), "{figure}: {json}");
    }
    let checks = json["checks"].as_array().unwrap();
    for name in
        ["/dev/kvm", "permission", "SPLIT_IRQCHIP", "/dev/net/tun", "io_uring", "landlock", "huge pages", "WSL2"]
    {
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        assert!(check["state"].is_string() && check["detail"].is_string(), "{check}");
    }
}

#[test]
fn each_missing_thing_has_its_repair() {
    for check in examine().checks {
        let is_missing = check.state == hostel::doctor::report::State::Missing;
        assert!(!is_missing || check.repair.is_some(), "{check:?}");
    }
}
