//! The part that runs in the lab: boots the disk by Hostel and by QEMU in turn, and compares the shortest times.

use super::bounds::Bounds;
use super::common::lab_image::KERNEL;
use super::common::linux_guest::disk_initramfs;
use super::in_lab::QEMU;
use anyhow::{Context, Result, ensure};
use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// Boots of each kind.
const ROUNDS: usize = 2;
const INITRD: &str = "/tmp/initrd";
/// The first interface is eth0, wherever its card is.
const NAMES: &str = "net.ifnames=0";
/// What systemd says when the interface is up.
const NETWORK: &str = "Raise network interfaces";
const PROMPT: &str = "login: ";
/// Console output that is more than any boot writes.
const OUTPUT_MAX: usize = 1 << 20;

/// Measures and judges the Hostel in the file `program`, booting `disk`.
pub fn measure(program: &str, disk: &str) -> Result<ExitCode> {
    std::fs::write(INITRD, disk_initramfs())?;
    // Where QEMU keeps what is written.
    std::fs::create_dir_all("/var/tmp")?;
    let mut shortest = [f64::INFINITY; 2];
    for _ in 0..ROUNDS {
        for (shortest, (name, command)) in
            shortest.iter_mut().zip([("Hostel", hostel(program, disk)), ("QEMU q35", qemu(disk))])
        {
            let seconds = boot(command).context(name)?;
            println!("{name:10} {seconds:6.2} s to the login prompt");
            *shortest = seconds.min(*shortest);
        }
    }
    let mut bounds = Bounds::default();
    bounds.at_most("spawn to login, to QEMU q35", shortest[0] / shortest[1], 1.0, "");
    Ok(bounds.finish())
}

fn hostel(program: &str, disk: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["run", KERNEL, "--initrd", INITRD, "--mem", "512M", "--net", "switch:bench", "--cmdline", NAMES]);
    command.args(["--disk", &format!("{disk},overlay")]).env("XDG_CACHE_HOME", "/tmp/cache");
    command
}

fn qemu(disk: &str) -> Command {
    let mut command = Command::new(QEMU);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    command.args(["-accel", "kvm", "-cpu", "host", "-m", "512", "-M", "q35,pic=off,pit=off"]);
    command.args(["-drive", &format!("if=none,id=d,file={disk},format=raw,snapshot=on")]);
    command.args(["-device", "virtio-blk-pci,drive=d", "-netdev", "user,id=n"]);
    command.args(["-device", "virtio-net-pci,netdev=n,romfile="]);
    command.args(["-kernel", KERNEL, "-initrd", INITRD, "-append", &format!("console=ttyS0 {NAMES}")]);
    command
}

/// Boots until the login prompt and kills the machine; returns the seconds that it took.
fn boot(mut command: Command) -> Result<f64> {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut output = child.stdout.take().context("its output is ours")?;
    let (mut console, mut bytes) = (String::new(), [0; 4096]);
    while !console.contains(PROMPT) {
        let count = output.read(&mut bytes)?;
        ensure!(count > 0 && console.len() < OUTPUT_MAX, "no login prompt: {console}");
        console.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    let seconds = start.elapsed().as_secs_f64();
    child.kill()?;
    child.wait()?;
    let network = console.lines().find(|line| line.contains(NETWORK) && line.contains("OK"));
    ensure!(network.is_some(), "no network: {console}");
    Ok(seconds)
}
