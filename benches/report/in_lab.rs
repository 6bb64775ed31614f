//! A bench that runs in the lab: this program once more, with QEMU and what it reads, beside Hostel.

use super::common::lab::{self, Job};
use super::common::lab_image::{Image, find_program};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The word that tells this program that it is in the lab.
pub const INSIDE: &str = "--inside";
/// QEMU, in both places.
pub const QEMU: &str = "qemu-system-x86_64";
/// What Debian's QEMU reads for its machine `q35`.
const FIRMWARE: [&str; 4] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/pvh.bin",
];
const DEADLINE: Duration = Duration::from_secs(3600);

/// The lab's kernel; `None`, and the reason printed, where it was not fetched.
pub fn kernel() -> Option<PathBuf> {
    let kernel = lab::kernel_directory().ok().filter(|kernel| kernel.is_dir());
    if kernel.is_none() {
        println!("skipped: no kernel for the lab: scripts/lab-machine fetches one");
    }
    kernel
}

/// Runs this program in the lab with the word [`INSIDE`] and the paths of `files`, which come along.
pub fn run(kernel: &Path, files: &[&Path]) -> Result<ExitCode> {
    let this = std::env::current_exe()?;
    let mut image = Image::new(kernel)?;
    image.add(&this)?;
    files.iter().try_for_each(|file| image.add(file))?;
    image.add(&find_program(QEMU).context("the lab needs QEMU, and so does this bench inside")?)?;
    for file in FIRMWARE.map(Path::new).iter().filter(|file| file.exists()) {
        image.add(file)?;
    }
    let words: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    let script = format!("exec {} {INSIDE} {}\n", this.display(), words.join(" "));
    let status = lab::run(Job { image, script, deadline: DEADLINE })?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}
