//! Facts about the host as its files tell them, below a root directory: `/`, or a test's own.
//!
//! Sources: proc_cpuinfo(5); Linux Documentation/admin-guide/mm/transhuge.rst and hugetlbpage.rst, ABI/stable/sysfs-module.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;

/// A host.
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The host whose files begin at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Host {
        Host { root: root.into() }
    }

    /// Where this host's `path`, which begins with `/`, is to be found.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether there is such a file.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The text of a file without its last newline; empty where it cannot be read.
    pub fn text(&self, path: &str) -> String {
        // Nothing makes a vendor's or a user's name valid UTF-8.
        let bytes = fs::read(self.path(path)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }

    /// Opens a device: one without a driver, or that a container's rules forbid, fails only here.
    ///
    /// # Errors
    /// It does not open for reading and writing.
    pub fn open(&self, device: &str) -> io::Result<()> {
        OpenOptions::new().read(true).write(true).open(self.path(device)).map(|_| ())
    }

    /// Whether the first processor has `flag`.
    pub fn cpu_has(&self, flag: &str) -> bool {
        self.cpu_field("flags").split_whitespace().any(|word| word == flag)
    }

    /// The first processor's name; empty where it has none.
    pub fn cpu_model(&self) -> String {
        self.cpu_field("model name")
    }

    /// What stands behind `name :` for the first processor.
    fn cpu_field(&self, name: &str) -> String {
        let cpuinfo = self.text("/proc/cpuinfo");
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.trim() == name).map_or(String::new(), |(_, value)| value.trim().to_owned())
    }

    /// Whether the kernel has module `name`, loaded or built in.
    pub fn has_module(&self, name: &str) -> bool {
        self.exists(&format!("/sys/module/{name}"))
    }

    /// Whether this is Linux on Windows.
    pub fn is_wsl2(&self) -> bool {
        self.text("/proc/version").to_lowercase().contains("microsoft")
    }

    /// Whether this is the inside of a container of Docker or Podman.
    pub fn is_container(&self) -> bool {
        self.exists("/.dockerenv") || self.exists("/run/.containerenv")
    }

    /// When memory is given in huge pages: `always`, `madvise` or `never`; empty where the kernel cannot.
    pub fn transparent_huge_pages(&self) -> String {
        let choices = self.text("/sys/kernel/mm/transparent_hugepage/enabled");
        choices.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(chosen, _)| chosen).to_owned()
    }

    /// Name of user `id`.
    pub fn user_name(&self, id: u32) -> Option<String> {
        self.name("/etc/passwd", id)
    }

    /// Name of group `id`.
    pub fn group_name(&self, id: u32) -> Option<String> {
        self.name("/etc/group", id)
    }

    /// Whether the group database lists `user` in group `id`.
    pub fn lists_member(&self, id: u32, user: &str) -> bool {
        let members = |line: &str| Some(line.split(':').nth(3)?.split(',').any(|member| member == user));
        self.line_of("/etc/group", id).as_deref().and_then(members).unwrap_or(false)
    }

    fn name(&self, database: &str, id: u32) -> Option<String> {
        Some(self.line_of(database, id)?.split(':').next()?.to_owned())
    }

    /// The line whose third field is `id` (passwd(5), group(5)).
    fn line_of(&self, database: &str, id: u32) -> Option<String> {
        let id = id.to_string();
        self.text(database).lines().find(|line| line.split(':').nth(2) == Some(&id)).map(str::to_owned)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A host made of `files`, in a directory of its own that goes with it.
    pub struct FakeHost(pub Host);

    impl FakeHost {
        pub fn new(name: &str, files: &[(&str, &str)]) -> FakeHost {
            let root = std::env::temp_dir().join(format!("hostel-doctor-{}-{name}", std::process::id()));
            let host = Host::new(&root);
            for (path, text) in files {
                fs::create_dir_all(host.path(path).parent().unwrap()).unwrap();
                fs::write(host.path(path), text).unwrap();
            }
            FakeHost(host)
        }
    }

    impl Drop for FakeHost {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.root);
        }
    }

    #[test]
    fn facts_are_read_from_files() {
        let FakeHost(host) = &FakeHost::new(
            "facts",
            &[
                ("/proc/cpuinfo", "processor\t: 0\nmodel name\t: A: B\nflags\t\t: fpu vmx lm\n"),
                ("/proc/version", "Linux version 5.15.153.1-microsoft-standard-WSL2\n"),
                ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
                ("/sys/module/kvm_intel/refcnt", "0\n"),
                ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
                ("/etc/group", "root:x:0:\nkvm:x:104:alice,bob\n"),
            ],
        );
        assert!(host.cpu_has("vmx") && !host.cpu_has("svm") && !host.cpu_has("vm"));
        assert_eq!(host.cpu_model(), "A: B");
        assert!(host.is_wsl2() && !host.is_container());
        assert!(host.has_module("kvm_intel") && !host.has_module("kvm_amd"));
        assert_eq!(host.transparent_huge_pages(), "madvise");
        assert_eq!(host.group_name(104).as_deref(), Some("kvm"));
        assert_eq!(host.user_name(7), None);
        assert!(host.lists_member(104, "bob") && !host.lists_member(104, "bo"));
    }

    #[test]
    fn an_empty_host_has_nothing() {
        let host = Host::new("/nonexistent");
        assert_eq!(host.transparent_huge_pages(), "");
        assert!(!host.cpu_has("lm") && !host.is_wsl2());
    }
}
