//! How long an unmodified distribution kernel takes from spawn to user space, in the lab, next to QEMU in the same lab.
//!
//! `cargo bench --bench linux` starts the lab (`scripts/lab-machine` has fetched what it is made of) and runs itself inside,
//! where `/dev/kvm` is an SVM KVM. Another kernel than the lab's can be named: `-- /path/to/vmlinuz`. The same kernel, the same initramfs (Hostel's own), 1 vCPU, 256 MiB. User space is
//! reached when init's greeting stands on the console; it tells the kernel's own uptime.
//!
//! The times are those of a machine that this one emulates, so it wants this one for itself, or a priority (`nice -n -15`).
//! Time that counts instructions (QEMU's `-icount`) would not: but with it QEMU's vCPU stops at each timer, and what stops
//! behind a VMRUN that injected an interrupt delivers it again (see `lab.rs`), until the guest hangs in a lock that it holds.

#[path = "../report/bounds.rs"]
mod bounds;
#[path = "../../tests/common/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod common;
mod inside;
#[path = "../report/release.rs"]
mod release;

use anyhow::{Context, Result};
use common::lab::{self, Job};
use common::lab_image::{Image, KERNEL, find_program};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// The word that tells this program that it is in the lab; the paths of Hostel and of the kernel follow.
const INSIDE: &str = "--inside";
const QEMU: &str = "qemu-system-x86_64";
/// What Debian's QEMU reads for the two machines.
const FIRMWARE: [&str; 6] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/seabios/bios-microvm.bin",
    "/usr/share/qemu/bios-microvm.bin",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/pvh.bin",
];
const DEADLINE: Duration = Duration::from_secs(3600);

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, hostel, kernel] = words.as_slice()
        && word == INSIDE
    {
        return inside::measure(hostel, kernel);
    }
    let other = words.iter().skip(1).find(|word| !word.starts_with("--"));
    let kernel = match lab::kernel_directory() {
        Ok(kernel) if kernel.is_dir() => kernel,
        _ => {
            println!("skipped: no kernel for the lab: scripts/lab-machine fetches one");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let this = std::env::current_exe()?;
    let hostel = release::default_build()?;
    let mut image = Image::new(&kernel)?;
    for file in [this.as_path(), Path::new(&hostel), Path::new(inside::INITRAMFS)] {
        image.add(file)?;
    }
    image.add(&find_program(QEMU).context("the lab needs QEMU, and so does this bench inside")?)?;
    for file in FIRMWARE.map(Path::new).iter().filter(|file| file.exists()) {
        image.add(file)?;
    }
    if let Some(other) = other {
        image.add(Path::new(other))?;
    }
    let booted = other.map_or(KERNEL, String::as_str);
    let script = format!("exec {} {INSIDE} {hostel} {booted}\n", this.display());
    let status = lab::run(Job { image, script, deadline: DEADLINE })?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}
