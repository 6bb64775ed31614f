//! How long an unmodified distribution kernel takes from spawn to user space, in the lab, next to QEMU in the same lab.
//!
//! `cargo bench --bench linux` starts the lab (`scripts/lab-machine` has fetched what it is made of) and runs itself inside,
//! where `/dev/kvm` is an SVM KVM. The same kernel, the same initramfs (Hostel's own), 1 vCPU, 256 MiB. User space is
//! reached when init's greeting stands on the console; it tells the kernel's own uptime. The lab's clock counts instructions,
//! so that what else the machine does leaves no trace in the times.

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
use common::lab_image::{Image, find_program};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// The word that tells this program that it is in the lab; the path of Hostel follows.
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
/// QEMU's options: an instruction takes 2^2 ns of the lab's time, and waiting takes none of ours.
const COUNTED_TIME: [&str; 2] = ["-icount", "shift=2,sleep=off"];

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, hostel] = words.as_slice()
        && word == INSIDE
    {
        return inside::measure(hostel);
    }
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
    let script = format!("exec {} {INSIDE} {hostel}\n", this.display());
    let status = lab::run(Job { image, script, deadline: DEADLINE, options: &COUNTED_TIME })?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}
