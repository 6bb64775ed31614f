//! The initramfs of the lab's machine: busybox, the KVM modules of its kernel, an init script, and what the caller adds
//! (programs with their shared libraries, data files, the script to run).
//!
//! Everything keeps the path it has on this machine, so that compiled-in paths and relative words stay true inside.
//! Sources: Linux buffer-format.rst "initramfs buffer format", modinfo(8) for the `depends` field of a module.

use super::cpio::Archive;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the unmodified kernel of the lab stands inside it; tests boot it as their guest.
pub const KERNEL: &str = "/lab/vmlinuz";
/// Where memtest86+ stands inside it, if its package has the 64-bit image.
pub const MEMTEST: &str = "/lab/memtest";
/// Where the drivers stand inside it that its guests load, in order.
pub const GUEST_MODULES: &str = "/lab/guest-modules";
/// What starts the line in the kernel log that holds the status of the script.
pub const STATUS_MARK: &str = "hostel-lab: status ";

/// The modules that make `/dev/kvm` on an AMD processor, tap interfaces, and one that leads nowhere; those they depend on come along.
const MODULES: [&str; 3] = ["kvm-amd", "tun", "dummy"];

/// Drivers of the guests' devices.
const DRIVERS: [&str; 7] =
    ["virtio-pci", "virtio-mmio", "virtio-rng", "virtio-blk", "virtio-net", "virtio-balloon", "virtiofs"];

/// Modules that stand in its `/lib/modules`, where Hostel finds them for its guests.
const OWN_MODULES: [&str; 10] = [
    "overlay",
    "virtio-pci",
    "virtio-mmio",
    "virtio-rng",
    "virtio-blk",
    "virtio-net",
    "virtio-console",
    "virtio-balloon",
    "virtiofs",
    "vmw_vsock_virtio_transport",
];

/// Programs that tests use where they are installed.
const PROGRAMS: [&str; 4] = ["mkfs.ext4", "e2fsck", "debugfs", "passt"];

/// Runs the script on the second serial port and reports its status through the kernel log, which the first one carries:
/// the two cannot mix. `<1>` is a level that `quiet` lets through.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp /root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
for module in /lab/modules/*; do insmod "$module"; done
if grep -q hostel_lab.terminal /proc/cmdline; then
    setsid sh -c 'exec sh /lab/run <>/dev/ttyS1 >&0 2>&1'
else
    stty raw -echo </dev/ttyS1
    sh /lab/run </dev/null >/dev/ttyS1 2>&1
fi
echo "<1>hostel-lab: status $?" >/dev/kmsg
poweroff -f
"#;

/// An initramfs under construction.
pub struct Image {
    archive: Archive,
    added: BTreeSet<PathBuf>,
}

impl Image {
    /// An initramfs with the machine's own part, for the kernel whose package was unpacked at `kernel`.
    pub fn new(kernel: &Path) -> Result<Self> {
        let mut image = Self { archive: Archive::default(), added: BTreeSet::new() };
        image.archive.character_device("/dev/console", 0o600, 5, 1);
        image.archive.file("/init", 0o755, INIT.as_bytes());
        image.archive.file(KERNEL, 0o644, &read(&kernel_image(kernel)?)?);
        if let Ok(memtest) = std::fs::read(kernel.with_file_name("memtest").join("boot/memtest86+x64.bin")) {
            image.archive.file(MEMTEST, 0o644, &memtest);
        }
        let busybox = find_program("busybox").context("busybox is not installed")?;
        image.archive.file("/bin/busybox", 0o755, &read(&busybox)?);
        image.libraries(&busybox)?;
        for (index, (name, module)) in with_dependencies(kernel, &MODULES)?.iter().enumerate() {
            image.archive.file(&format!("/lab/modules/{index:02}-{name}.ko"), 0o644, module);
        }
        for (index, (name, module)) in with_dependencies(kernel, &DRIVERS)?.iter().enumerate() {
            image.archive.file(&format!("{GUEST_MODULES}/{index:02}-{name}.ko"), 0o644, module);
        }
        image.own_modules(kernel)?;
        PROGRAMS.iter().filter_map(|name| find_program(name)).try_for_each(|program| image.add(&program))?;
        Ok(image)
    }

    /// Adds modules where a distribution has them, as Hostel looks for them.
    fn own_modules(&mut self, kernel: &Path) -> Result<()> {
        let mut files = Vec::new();
        module_files(kernel, &mut files);
        for (name, _) in with_dependencies(kernel, &OWN_MODULES)? {
            let file = files.iter().find(|file| stem(file).as_ref() == Some(&name)).expect("it was read");
            let path = file.strip_prefix(kernel).expect("it was found there").to_str().context("modules have names")?;
            self.archive.file(&format!("/{}", path.trim_start_matches("usr/")), 0o644, &read(file)?);
        }
        Ok(())
    }

    /// Adds the file at its own absolute path, and the shared libraries that it needs; of a directory, all that is in it.
    pub fn add(&mut self, file: &Path) -> Result<()> {
        let file = std::path::absolute(file)?;
        if !self.added.insert(file.clone()) {
            return Ok(());
        }
        if file.is_dir() {
            let entries = std::fs::read_dir(&file).with_context(|| format!("cannot list {}", file.display()))?;
            return entries.flatten().try_for_each(|entry| self.add(&entry.path()));
        }
        let data = read(&file)?;
        let path = file.to_str().with_context(|| format!("{} is not UTF-8", file.display()))?;
        self.archive.file(path, 0o755, &data);
        if data.starts_with(b"\x7fELF") { self.libraries(&file) } else { Ok(()) }
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str) {
        self.archive.directory(path);
    }

    /// Adds `target` under a second name.
    pub fn link(&mut self, path: &str, target: &Path) {
        self.archive.symlink(path, &target.to_string_lossy());
    }

    /// Ends the initramfs with the shell script that the machine is to run.
    pub fn finish(mut self, script: &str) -> Vec<u8> {
        self.archive.file("/lab/run", 0o755, script.as_bytes());
        self.archive.finish()
    }

    /// Adds what `ldd` lists: lines like `libc.so.6 => /lib/libc.so.6 (0x...)` and `/lib64/ld-linux-x86-64.so.2 (0x...)`.
    fn libraries(&mut self, program: &Path) -> Result<()> {
        let listing = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
        let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
        for library in listing.split_whitespace().filter(|word| word.starts_with('/')) {
            self.add(Path::new(library))?;
        }
        Ok(())
    }
}

/// The program of this name on the search path, or where those are that an administrator uses.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let directories = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    directories.map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// The bzImage of the kernel whose package was unpacked at `kernel`.
pub fn kernel_image(kernel: &Path) -> Result<PathBuf> {
    let boot = kernel.join("boot");
    let mut entries = std::fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?.flatten();
    let image = entries.find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz"));
    Ok(image.with_context(|| format!("no vmlinuz in {}", boot.display()))?.path())
}

/// Name (with `_`) and contents of the modules and of all that they depend on, in the order to load them.
fn with_dependencies(kernel: &Path, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    module_files(kernel, &mut all);
    let (mut ordered, mut seen) = (Vec::new(), BTreeSet::new());
    for name in names {
        load_order(name, &all, &mut seen, &mut ordered)?;
    }
    Ok(ordered)
}

fn load_order(
    name: &str,
    all: &[PathBuf],
    seen: &mut BTreeSet<String>,
    ordered: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    // File names use - and _ for what is one module.
    let name = name.replace('-', "_");
    if !seen.insert(name.clone()) {
        return Ok(());
    }
    let file = all.iter().find(|file| stem(file).as_ref() == Some(&name));
    let data = module(file.with_context(|| format!("the kernel's package has no module {name}"))?)?;
    for dependency in depends(&data) {
        load_order(&dependency, all, seen, ordered)?;
    }
    ordered.push((name, data));
    Ok(())
}

/// A module's name, from that of its file.
fn stem(file: &Path) -> Option<String> {
    file.file_name()?.to_str()?.split('.').next().map(|stem| stem.replace('-', "_"))
}

/// The names in the `depends=` string of a module's `.modinfo` section.
fn depends(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(start) = module.windows(FIELD.len()).position(|window| window == FIELD) else {
        return Vec::new();
    };
    let value = module[start + FIELD.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The module in `file`, decompressed: distributions ship `.ko`, `.ko.xz` or `.ko.zst`.
fn module(file: &Path) -> Result<Vec<u8>> {
    let packed = read(file)?;
    let mut data = Vec::new();
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return Ok(packed),
        Some("xz") => lzma_rust2::XzReader::new(packed.as_slice(), true).read_to_end(&mut data)?,
        Some("zst") => ruzstd::decoding::StreamingDecoder::new(packed.as_slice())?.read_to_end(&mut data)?,
        _ => bail!("{} is compressed in a way that the lab does not read", file.display()),
    };
    Ok(data)
}

fn module_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            module_files(&path, found);
        } else if path.to_string_lossy().contains(".ko") {
            found.push(path);
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
