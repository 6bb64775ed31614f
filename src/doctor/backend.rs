//! What KVM runs guests with, and how to get it where it is missing.
//!
//! Sources: Intel SDM vol. 2A CPUID leaf 1 ECX (VMX, hypervisor present); AMD APM vol. 3 §E.4 (SVM); Linux
//! Documentation/virt/kvm/x86/running-nested-guests.rst; Microsoft, "Advanced settings configuration in WSL".

use super::host::Host;
use serde::Serialize;

/// The part of KVM that enters guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Intel's instructions, module `kvm_intel`.
    Vmx,
    /// AMD's instructions, module `kvm_amd`.
    Svm,
    /// No instructions: guests run in ring 3 and the kernel does the rest, module `kvm_pvm`.
    Pvm,
    /// No module that is known here.
    Unknown,
}

impl Kind {
    /// Its name, as golden traces have it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Vmx => "vmx",
            Kind::Svm => "svm",
            Kind::Pvm => "pvm",
            Kind::Unknown => "unknown",
        }
    }
}

/// The back end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// How guests are entered.
    pub kind: Kind,
    /// Whether this host is itself a guest, so that each exit may pass the outer hypervisor.
    pub nested: bool,
    /// The maker of the machine, as the firmware gives it: often the outer hypervisor. Empty where it gives none.
    pub machine: String,
}

impl Backend {
    /// The back end of `host`.
    pub fn of(host: &Host) -> Backend {
        // Both vendors' modules may be built in; only the one whose instructions are there works.
        let kind = if host.has_module("kvm_pvm") {
            Kind::Pvm
        } else if host.has_module("kvm_intel") && host.cpu_has("vmx") {
            Kind::Vmx
        } else if host.has_module("kvm_amd") && host.cpu_has("svm") {
            Kind::Svm
        } else {
            Kind::Unknown
        };
        Backend { kind, nested: host.cpu_has("hypervisor"), machine: host.text("/sys/class/dmi/id/sys_vendor") }
    }

    /// In words.
    pub fn describe(&self) -> String {
        let kind = match self.kind {
            Kind::Vmx => "VMX",
            Kind::Svm => "SVM",
            Kind::Pvm => "PVM (guests' ring 0 is the kernel's work)",
            Kind::Unknown => "neither VMX, SVM nor PVM",
        };
        match (self.nested, self.machine.as_str()) {
            (false, _) => format!("{kind}, on hardware"),
            (true, "") => format!("{kind}, nested: this host is a guest itself"),
            (true, machine) => format!("{kind}, nested: this host is a guest itself, on {machine}"),
        }
    }
}

/// How `/dev/kvm` comes to a host that has none, or none that opens.
pub fn repair(host: &Host) -> String {
    let module = [("vmx", "kvm_intel"), ("svm", "kvm_amd")].into_iter().find(|(flag, _)| host.cpu_has(flag));
    if host.is_container() {
        return "start the container with --device /dev/kvm (and have it on the container's host)".to_owned();
    }
    match module {
        Some((_, name)) if host.has_module(name) => {
            "sudo mknod -m 0660 /dev/kvm c 10 232 && sudo chgrp kvm /dev/kvm".to_owned()
        }
        Some((_, name)) => format!("sudo modprobe {name}"),
        None if host.is_wsl2() => "in Windows, write the lines [wsl2] and nestedVirtualization=true into \
             %UserProfile%\\.wslconfig, then run: wsl --shutdown"
            .to_owned(),
        None if host.cpu_has("hypervisor") => "this host is a guest without VMX or SVM. On its host, for libvirt: virt-xml NAME \
             --edit --cpu host-passthrough (for QEMU: -cpu host), with `nested` on in \
             /sys/module/kvm_intel/parameters or kvm_amd's; at a cloud provider: an instance type with nested virtualization"
            .to_owned(),
        None => "switch on `Intel Virtualization Technology` or `SVM Mode` in the firmware (sudo systemctl reboot \
             --firmware-setup)"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::FakeHost;
    use super::*;

    fn cpu(flags: &str) -> String {
        format!("flags : fpu {flags}\n")
    }

    #[test]
    fn the_back_end_is_the_module_whose_instructions_are_there() {
        let both = [("/sys/module/kvm_intel/x", ""), ("/sys/module/kvm_amd/x", "")];
        for (flags, module, kind) in [
            ("vmx", "kvm", Kind::Vmx),
            ("svm hypervisor", "kvm", Kind::Svm),
            ("hypervisor", "kvm_pvm", Kind::Pvm),
            ("", "kvm", Kind::Unknown),
        ] {
            let (cpuinfo, module) = (cpu(flags), format!("/sys/module/{module}/x"));
            let files = [both[0], both[1], ("/proc/cpuinfo", cpuinfo.as_str()), (module.as_str(), "")];
            let FakeHost(host) = &FakeHost::new("backend", &files);
            let backend = Backend::of(host);
            assert_eq!((backend.kind, backend.nested), (kind, flags.contains("hypervisor")), "{flags}");
        }
    }

    #[test]
    fn the_maker_of_a_nested_machine_is_named() {
        let backend = Backend { kind: Kind::Svm, nested: true, machine: "QEMU".to_owned() };
        assert_eq!(backend.describe(), "SVM, nested: this host is a guest itself, on QEMU");
    }

    #[test]
    fn each_kind_of_host_has_its_repair() {
        for (name, flags, file, repair_has) in [
            ("intel", "vmx", "/x", "modprobe kvm_intel"),
            ("amd", "svm hypervisor", "/x", "modprobe kvm_amd"),
            ("node", "svm", "/sys/module/kvm_amd/x", "mknod"),
            ("container", "vmx", "/.dockerenv", "--device /dev/kvm"),
            ("guest", "hypervisor", "/x", "host-passthrough"),
            ("firmware", "", "/x", "firmware"),
        ] {
            let FakeHost(host) = &FakeHost::new(name, &[("/proc/cpuinfo", &cpu(flags)), (file, "")]);
            assert!(repair(host).contains(repair_has), "{name}: {}", repair(host));
        }
        let wsl = [("/proc/cpuinfo", "flags : hypervisor"), ("/proc/version", "Linux 6.6-Microsoft-standard-WSL2")];
        assert!(repair(&FakeHost::new("wsl", &wsl).0).contains(".wslconfig"));
    }
}
