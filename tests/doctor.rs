//! `hostel doctor` on this host.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::hostel;
use common::kvm;
use serde_json::Value;
use std::path::Path;

#[test]
fn a_host_with_kvm_is_usable_and_measured() {
    if !kvm::available() {
        return;
    }
    let text = hostel(&["doctor"], "");
    assert_eq!((text.status, text.stderr.as_str()), (0, ""));
    assert!(text.stdout.ends_with("\nguests run here\n") && !text.stdout.contains('\x1b'), "{}", text.stdout);
    let modules = [("kvm_pvm", "PVM"), ("kvm_intel", "VMX"), ("kvm_amd", "SVM")];
    let is_loaded = |module: &str| Path::new("/sys/module").join(module).exists();
    let (_, name) = modules.into_iter().find(|(module, _)| is_loaded(module)).unwrap();
    assert!(text.stdout.lines().any(|line| line.contains("back end") && line.contains(name)), "{}", text.stdout);

    let json: Value = serde_json::from_str(&hostel(&["doctor", "--json"], "").stdout).unwrap();
    assert_eq!(json["usable"], true);
    assert_eq!(json["backend"]["kind"], name.to_lowercase());
    for figure in ["ring0_instructions_per_second", "ring3_instructions_per_second", "port_exit_ns"] {
        assert!(json["speed"][figure].as_u64() > Some(0), "{figure}: {json}");
    }
}

#[test]
fn what_hostel_costs_here_is_measured() {
    if !kvm::available() {
        return;
    }
    let run = hostel(&["bench", "--json"], "");
    assert_eq!((run.status, run.stderr.as_str()), (0, ""));
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    let phases = json["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["process start", "load", "KVM", "first entry", "guest", "teardown", "in all"]);
    assert!(phases.iter().all(|phase| phase["min_us"].as_u64() <= phase["median_us"].as_u64()), "{json}");
    let exits = json["exits"].as_array().unwrap();
    let seen = |what: &str| exits.iter().find(|exit| exit["what"] == what).unwrap_or_else(|| panic!("{what}: {json}"));
    for (what, exit) in [("OUT to a port", "pio-write"), ("MMIO read", "mmio-read"), ("HLT, ended at once", "hlt")] {
        assert_eq!(seen(what)["exit"], exit);
        assert!(seen(what)["ns"].as_f64() > Some(0.0) && seen(what)["recorded_ns"].as_f64() > Some(0.0), "{json}");
    }
    assert_eq!(seen("CPUID")["exit"], Value::Null, "KVM answers it alone");
    assert!(json["memory"]["beyond_kib"].as_u64() > json["memory"]["private_dirty_kib"].as_u64(), "{json}");
    let only = hostel(&["bench", "--only", "memory"], "").stdout;
    assert!(only.starts_with("resident memory") && only.ends_with("again: hostel bench --only memory\n"), "{only}");
}

#[test]
fn everything_that_is_missing_has_its_repair() {
    let run = hostel(&["doctor", "--json"], "");
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(run.status, if json["usable"] == true { 0 } else { 10 });
    let checks = json["checks"].as_array().unwrap();
    for name in ["/dev/kvm", "/dev/net/tun", "io_uring", "landlock", "huge pages", "WSL2"] {
        assert!(checks.iter().any(|check| check["name"] == name), "{name}: {json}");
    }
    for check in checks {
        assert!(check["detail"].is_string() && check["lost"].is_string(), "{check}");
        assert!(check["state"] != "missing" || check["repair"].is_string(), "{check}");
    }
}
