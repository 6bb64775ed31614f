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
#[path = "../report/in_lab.rs"]
mod in_lab;
mod inside;
#[path = "../report/release.rs"]
mod release;
mod root;

use anyhow::{Context, Result};
use std::path::Path;
use std::process::ExitCode;

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, hostel, disk] = words.as_slice()
        && word == in_lab::INSIDE
    {
        return inside::measure(hostel, disk);
    }
    let Some(kernel) = in_lab::kernel() else { return Ok(ExitCode::SUCCESS) };
    let disk = match root::image(kernel.parent().context("it lies in the cache")?) {
        Ok(disk) => disk,
        Err(error) => {
            println!("skipped: no root file system: {error:#}");
            return Ok(ExitCode::SUCCESS);
        }
    };
    in_lab::run(&kernel, &[Path::new(&release::default_build()?), &disk])
}
