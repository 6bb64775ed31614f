//! What Hostel is compared with: the floor, and the peers that this machine has.

use super::paired::Program;
use super::release::{BUILT, SOURCE, installed, succeed};
use anyhow::{Context, Result, ensure};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The sample guest, as a file: what Hostel boots by name, the others by path.
pub const HELLO: &str = concat!(env!("OUT_DIR"), "/hello");
/// The sample guest that waits for input, as a file.
pub const SHELL: &str = concat!(env!("OUT_DIR"), "/shell");

/// The peer's version, so that the ratio means the same tomorrow.
const ALIOTH: &str = "0.12.0";
/// What the guest prints first.
const GREETING: &str = "Hello from a guest";
/// SLP_EN with SLP_TYP 5, which `hello` writes, as the status of isa-debug-exit: `value << 1 | 1`.
const QEMU_STATUS: i32 = 0x34 << 1 | 1;

/// Builds the floor: without an irqchip, with a split one; and that with the CPUID of this one guest, which is not a floor
/// but shows what asking KVM for it costs.
pub fn floors() -> Result<[Program; 3]> {
    let build = |name: &str, options: &[&str]| {
        let program = format!("{BUILT}/{}", name.replace(' ', "-"));
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-static", "-o", &program]).args(options);
        succeed(compiler.arg(Path::new(SOURCE).join("benches/startup/floor.c")))?;
        anyhow::Ok(Program::new(name, &[&installed(&program)?, HELLO]))
    };
    Ok([
        build("floor without irqchip", &[])?,
        build("floor with split irqchip", &["-DSPLIT_IRQCHIP"])?,
        build("the same with its own CPUID", &["-DSPLIT_IRQCHIP", "-DOWN_CPUID"])?,
    ])
}

/// alioth, from crates.io, with this guest file. It refuses to start without a terminal, so it gets one: the other end is
/// returned and must be kept.
pub fn alioth(guest: &str) -> Result<(Program, OwnedFd)> {
    let root = format!("{BUILT}/alioth");
    let mut install = Command::new(env!("CARGO"));
    install.args(["install", "--quiet", "--locked", "--root", &root, "--version", ALIOTH, "alioth-cli"]);
    succeed(install.current_dir(BUILT).env_remove("RUSTFLAGS"))?;
    let host_end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&host_end)?;
    unlockpt(&host_end)?;
    let path = ptsname(&host_end, Vec::new())?;
    let guest_end =
        File::options().read(true).write(true).open(Path::new(std::ffi::OsStr::from_bytes(path.as_bytes())))?;
    let mut program = Program::new(
        &format!("alioth {ALIOTH}"),
        &[&format!("{root}/bin/alioth"), "boot", "--pvh", guest, "--memory", "size=128M", "--cpu", "count=1"],
    );
    program.stdin = Some(guest_end);
    Ok((program, host_end))
}

/// QEMU's microvm on KVM with all that `hello` does not need left out. Its power button is elsewhere: isa-debug-exit stands
/// in at the port that `hello` writes to. Without ACPI its firmware is the small qboot; SeaBIOS stays in real mode for millions
/// of instructions, which a KVM that interprets them takes seconds for. Some hosts' KVM cannot do `arch-capabilities`.
pub fn qemu() -> Result<Program> {
    let mut program = Program::new(
        "QEMU microvm",
        &[
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-M",
            "microvm,acpi=off,pic=off,pit=off,rtc=off",
            "-accel",
            "kvm",
            "-cpu",
            "host,-arch-capabilities",
            "-m",
            "128",
            "-serial",
            "stdio",
            "-device",
            "isa-debug-exit,iobase=0x600,iosize=4",
            "-kernel",
            HELLO,
        ],
    );
    program.status = QEMU_STATUS;
    let mut command = program.command()?;
    let run = command.stdout(Stdio::piped()).output();
    let run = run.context("qemu-system-x86_64 (Debian: qemu-system-x86) cannot be run")?;
    let greets = String::from_utf8_lossy(&run.stdout).contains(GREETING);
    ensure!(greets && run.status.code() == Some(QEMU_STATUS), "it does not boot the guest here: {}", run.status);
    Ok(program)
}
