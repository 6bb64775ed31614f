//! How long an unmodified distribution kernel takes from spawn to user space, in the lab, next to QEMU in the same lab.
//!
//! `cargo bench --bench linux` starts the lab (`scripts/lab-machine` has fetched what it is made of) and runs itself inside,
//! where `/dev/kvm` is an SVM KVM. The same kernel, the same initramfs (Hostel's own), 1 vCPU, 256 MiB. User space is
//! reached when init's greeting stands on the console; it tells the kernel's own uptime.

#[path = "../report/bounds.rs"]
mod bounds;
#[path = "../../tests/common/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod common;
mod inside;

use anyhow::{Context, Result};
use common::lab::{self, Job};
use common::lab_image::{Image, find_program};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// The word that tells this program that it is in the lab.
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
const DEADLINE: Duration = Duration::from_secs(1800);

fn main() -> Result<ExitCode> {
    if std::env::args().any(|word| word == INSIDE) {
        return inside::measure();
    }
    let kernel = match lab::kernel_directory() {
        Ok(kernel) if kernel.is_dir() => kernel,
        _ => {
            println!("skipped: no kernel for the lab: scripts/lab-machine fetches one");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let this = std::env::current_exe()?;
    let mut image = Image::new(&kernel)?;
    for file in [this.as_path(), Path::new(inside::HOSTEL), Path::new(inside::INITRAMFS)] {
        image.add(file)?;
    }
    image.add(&find_program(QEMU).context("the lab needs QEMU, and so does this bench inside")?)?;
    for file in FIRMWARE.map(Path::new).iter().filter(|file| file.exists()) {
        image.add(file)?;
    }
    let script = format!("exec {} {INSIDE}\n", this.display());
    let status = lab::run(Job { image, script, deadline: DEADLINE })?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}
