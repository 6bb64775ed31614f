//! How fast a Linux guest walks and reads a shared directory, next to QEMU with virtiofsd in the same lab.
//!
//! `cargo bench --bench share` starts the lab (`scripts/lab-machine` has fetched what it is made of) and runs itself inside. Both boot
//! the lab's kernel, 1 vCPU, 512 MiB, with an initramfs that mounts the share, looks at each of 20,000 files as `git status` does, twice,
//! and reads a file of 1 GiB, when it is asked to; it takes the times itself. The two guests are there side by side and do so in turn.
//! virtiofsd is the one that comes with Debian's QEMU. The lab's processor is one that this machine emulates: ratios are what this tells.

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
#[path = "../report/timed.rs"]
mod timed;

use anyhow::Result;
use std::path::Path;
use std::process::ExitCode;

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, hostel, virtiofsd] = words.as_slice()
        && word == in_lab::INSIDE
    {
        return inside::measure(hostel, virtiofsd);
    }
    let Some(kernel) = in_lab::kernel() else { return Ok(ExitCode::SUCCESS) };
    let places = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"].map(Path::new);
    let Some(virtiofsd) = places.iter().find(|place| place.exists()) else {
        println!("skipped: no virtiofsd (Debian 12: qemu-system-common)");
        return Ok(ExitCode::SUCCESS);
    };
    in_lab::run(&kernel, &[Path::new(&release::default_build()?), virtiofsd])
}
