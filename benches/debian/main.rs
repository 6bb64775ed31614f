//! How long an unmodified Debian takes from spawn to the login prompt, from a disk and with a network, next to QEMU in the same lab.
//!
//! `cargo bench --bench debian` makes a root file system (`debootstrap`, an ext4 image; once, it needs root and a network) below the
//! lab's cache, starts the lab (`scripts/lab-machine` has fetched what it is made of) and runs itself inside. Both boot the lab's
//! kernel with an initramfs of busybox and drivers, 1 vCPU, 512 MiB, the disk without keeping what is written to it, and a network
//! card whose interface systemd brings up. The times are those of a machine that this one emulates: it wants this one for itself.

#[path = "../report/bounds.rs"]
mod bounds;
#[path = "../../tests/common/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod common;
mod inside;
#[path = "../report/release.rs"]
mod release;
mod root;

use anyhow::{Context, Result};
use common::lab::{self, Job};
use common::lab_image::{Image, find_program};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// The word that tells this program that it is in the lab; the paths of Hostel and of the disk follow.
const INSIDE: &str = "--inside";
const QEMU: &str = "qemu-system-x86_64";
/// What Debian's QEMU reads for its machine `q35`.
const FIRMWARE: [&str; 4] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/pvh.bin",
];
const DEADLINE: Duration = Duration::from_secs(3600);

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, hostel, disk] = words.as_slice()
        && word == INSIDE
    {
        return inside::measure(hostel, disk);
    }
    let kernel = match lab::kernel_directory() {
        Ok(kernel) if kernel.is_dir() => kernel,
        _ => {
            println!("skipped: no kernel for the lab: scripts/lab-machine fetches one");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let disk = match root::image(kernel.parent().context("it lies in the cache")?) {
        Ok(disk) => disk,
        Err(error) => {
            println!("skipped: no root file system: {error:#}");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let this = std::env::current_exe()?;
    let hostel = release::default_build()?;
    let mut image = Image::new(&kernel)?;
    image.add(&this)?;
    image.add(Path::new(&hostel))?;
    image.add(&disk)?;
    image.add(&find_program(QEMU).context("the lab needs QEMU, and so does this bench inside")?)?;
    for file in FIRMWARE.map(Path::new).iter().filter(|file| file.exists()) {
        image.add(file)?;
    }
    let script = format!("exec {} {INSIDE} {hostel} {}\n", this.display(), disk.display());
    let status = lab::run(Job { image, script, deadline: DEADLINE })?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}
