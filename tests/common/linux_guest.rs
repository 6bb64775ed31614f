//! A Linux guest with virtio drivers, in the lab: the lab's own kernel, and an initramfs of busybox, the drivers and a script.

use super::cpio::Archive;
use super::lab_image::GUEST_MODULES;
use std::fs;
use std::process::Command;

/// Mounts what every script needs, loads the drivers, runs the script and powers off.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod "$module"; done
sh /script
poweroff -f
"#;

/// Loads the drivers and goes over to the system on the first disk.
const DISK_INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod "$module"; done
mount -t ext4 /dev/vda /mnt && exec switch_root /mnt /sbin/init
"#;

/// The initramfs of a guest that runs this shell script.
pub fn initramfs(script: &str) -> Vec<u8> {
    archive(INIT, script)
}

/// The initramfs of a guest that runs the system on its first disk, an ext4 file system.
pub fn disk_initramfs() -> Vec<u8> {
    archive(DISK_INIT, "")
}

fn archive(init: &str, script: &str) -> Vec<u8> {
    let mut archive = Archive::default();
    ["/bin", "/dev", "/mnt", "/modules", "/proc", "/sys"].iter().for_each(|path| archive.directory(path));
    archive.character_device("/dev/console", 0o600, 5, 1);
    archive.file("/init", 0o755, init.as_bytes());
    archive.file("/script", 0o755, script.as_bytes());
    archive.file("/bin/busybox", 0o755, &fs::read("/bin/busybox").expect("the lab has busybox"));
    for module in fs::read_dir(GUEST_MODULES).expect("the lab has drivers for its guests").flatten() {
        let name = module.file_name().into_string().expect("modules have names");
        archive.file(&format!("/modules/{name}"), 0o644, &fs::read(module.path()).expect("it can be read"));
    }
    archive.finish()
}

/// A shell's command that runs its arguments on the same files as before, mounted once more: an initramfs is no root that a program can
/// leave, as passt does.
pub const LEAVES_INITRAMFS: &str =
    "mkdir -p /again && mount --rbind / /again && cd /again && mount --move . / && exec chroot . \"$0\" \"$@\"";

/// Gives the lab what passt asks of a host: a way out, which leads nowhere here, and a user without rights.
pub fn way_out() {
    for line in ["ifconfig lo up", "ifconfig dummy0 192.0.2.2 up", "route add default gw 192.0.2.1"] {
        let words: Vec<_> = line.split(' ').collect();
        assert!(Command::new(words[0]).args(&words[1..]).status().expect("busybox has it").success(), "{line}");
    }
    fs::create_dir_all("/etc").expect("the lab is ours");
    fs::write("/etc/passwd", "nobody:x:65534:65534::/:/bin/false\n").expect("the lab is ours");
}
