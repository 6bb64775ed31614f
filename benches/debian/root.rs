//! The root file system: Debian's smallest, with systemd, udev and ifupdown, as an ext4 image.

use super::release::succeed;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of the image.
const SIZE: u64 = 200 << 20;
/// The release, whose kernel the lab has.
const RELEASE: &str = "bookworm";
/// What comes besides the smallest system.
const PACKAGES: &str = "systemd-sysv,udev,kmod,iproute2,ifupdown";
/// What a boot does without, and would only be carried about.
const UNUSED: [&str; 6] =
    ["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/zoneinfo"];
/// systemd brings it up before there is a login prompt.
const INTERFACES: &str = "auto eth0\niface eth0 inet static\n    address 10.0.0.2/24\n";

/// The image in `cache`, which is made if it is not there.
pub fn image(cache: &Path) -> Result<PathBuf> {
    let image = cache.join("debian.img");
    if image.exists() {
        return Ok(image);
    }
    let root = cache.join("debian.new");
    let _ = fs::remove_dir_all(&root);
    let made = make(&root, &cache.join("debian.img.new"), &image);
    fs::remove_dir_all(&root)?;
    made.map(|()| image)
}

fn make(root: &Path, new: &Path, image: &Path) -> Result<()> {
    let include = format!("--include={PACKAGES}");
    succeed(Command::new("debootstrap").args(["--variant=minbase", &include, RELEASE]).arg(root))?;
    for unused in UNUSED {
        fs::remove_dir_all(root.join(unused)).with_context(|| format!("remove {unused}"))?;
    }
    fs::write(root.join("etc/network/interfaces"), INTERFACES)?;
    fs::File::create(new)?.set_len(SIZE)?;
    succeed(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(root).arg(new))?;
    Ok(fs::rename(new, image)?)
}
