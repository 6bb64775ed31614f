//! The part that runs in the lab: one directory, shared by Hostel and by virtiofsd in turn.

use super::common::lab_image::KERNEL;
use super::common::linux_guest::initramfs;
use super::in_lab::QEMU;
use super::timed::{self, Row, TOOK};
use anyhow::Result;
use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, ExitCode};

const SHARED: &str = "/tmp/shared";
const INITRD: &str = "/tmp/initrd";
const SOCKET: &str = "/tmp/virtiofsd.sock";
/// Directories, files in each, bytes of each.
const DIRECTORIES: usize = 200;
const FILES: usize = 100;
const FILE_BYTES: usize = 1000;
const FILES_IN_ALL: usize = DIRECTORIES * FILES;
/// MiB of the file that is read.
const BIG_MIB: usize = 1024;

/// What the guest can be asked for.
const SCRIPT: &str = r#"
anew() { umount /mnt 2>/dev/null; mount -t virtiofs share0 /mnt; echo $?; }
walk() { find /mnt/tree -type f -size -100k | wc -l; }
again() { walk; }
read_big() { wc -c </mnt/big; }
"#;

const ROWS: [Row; 4] = [
    Row { name: "anew", what: "mounting", result: 0, bound: None },
    Row {
        name: "walk",
        what: "walk of 20,000 files that nobody looked at before",
        result: FILES_IN_ALL,
        bound: Some(1.0),
    },
    Row { name: "again", what: "the same walk again", result: FILES_IN_ALL, bound: Some(1.0) },
    Row { name: "read_big", what: "read of 1 GiB", result: BIG_MIB << 20, bound: Some(1.0) },
];

/// Measures and judges the Hostel in the file `program`, next to `virtiofsd`.
pub fn measure(program: &str, virtiofsd: &str) -> Result<ExitCode> {
    fs::write(INITRD, initramfs(&format!("{SCRIPT}{TOOK}")))?;
    fill()?;
    // virtiofsd has a lock there.
    fs::create_dir_all("/var/run")?;
    timed::compare(&ROWS, hostel(program), daemon(virtiofsd), SOCKET, qemu())
}

/// Makes the directory, in memory.
fn fill() -> Result<()> {
    for directory in 0..DIRECTORIES {
        let directory = format!("{SHARED}/tree/{directory}");
        fs::create_dir_all(&directory)?;
        for file in 0..FILES {
            fs::write(format!("{directory}/{file}"), [b'x'; FILE_BYTES])?;
        }
    }
    let mut big = File::create(format!("{SHARED}/big"))?;
    (0..BIG_MIB).try_for_each(|_| big.write_all(&[b'x'; 1 << 20]))?;
    Ok(())
}

fn hostel(program: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["run", KERNEL, "--initrd", INITRD, "--mem", "512M", "--share", SHARED, "--cmdline=quiet"]);
    command.env("XDG_CACHE_HOME", "/tmp/cache");
    command
}

/// The lab's root is one that nobody can pivot from, so virtiofsd confines itself by chroot(2).
fn daemon(virtiofsd: &str) -> Command {
    let mut daemon = Command::new(virtiofsd);
    daemon.args([&format!("--socket-path={SOCKET}"), "-o", &format!("source={SHARED}"), "-o", "sandbox=chroot"]);
    daemon
}

fn qemu() -> Command {
    let mut command = Command::new(QEMU);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    command.args(["-accel", "kvm", "-cpu", "host", "-m", "512", "-M", "q35,pic=off,pit=off,memory-backend=ram"]);
    command.args(["-object", "memory-backend-memfd,id=ram,size=512M,share=on"]);
    command.args(["-chardev", &format!("socket,id=fs,path={SOCKET}")]);
    command.args(["-device", "vhost-user-fs-pci,chardev=fs,tag=share0"]);
    command.args(["-kernel", KERNEL, "-initrd", INITRD, "-append", "console=ttyS0 quiet"]);
    command
}
