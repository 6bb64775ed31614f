//! How fast frames go from one machine to another, next to QEMU; and what the switch adds to a round trip, next to a bare relay.
//!
//! `cargo bench --bench net`. The machines' part needs KVM: two sample guests `net-bench` work in ring 3, at full speed on every KVM,
//! and count cycles of the time stamp counter. QEMU boots the same file on its machine `microvm`, two of them joined by `-netdev
//! stream`. Hostel's are joined by a switch, which is one process more on the way. They look at their rings without end, so a host
//! with fewer processors than threads makes the times jump: runs go in turn and the shortest are compared.
//! The round trip needs no machine: a client sends a frame, another sends it back, through `hostel switch` and through `relay.c`.

#[path = "../report/bounds.rs"]
mod bounds;
#[path = "../report/release.rs"]
mod release;
mod round_trip;

use anyhow::{Context, Result, ensure};
use bounds::Bounds;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

/// Runs of each, in turn.
const ROUNDS: usize = 9;
/// The guest, as a file.
const GUEST: &str = concat!(env!("OUT_DIR"), "/net-bench");
/// How often QEMU's socket is looked for, and how long.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const LOOKS: usize = 500;
/// QEMU's status when the guest powers off by the register that is its debug exit.
const QEMU_STATUS: i32 = 0x34 << 1 | 1;

/// What is measured: the guest's words, and how many times as fast as QEMU it is to be.
const ROWS: [(&str, f64); 2] = [("small 10000", 1.5), ("bulk 32", 1.5)];

fn main() -> Result<ExitCode> {
    let hostel = release::installed(&release::default_build()?)?;
    let directory = format!("{}/net", release::BUILT);
    let _ = fs::remove_dir_all(&directory);
    DirBuilder::new().mode(0o700).recursive(true).create(format!("{directory}/hostel"))?;
    let mut bounds = Bounds::default();
    round_trip::measure(&mut bounds, &hostel, &directory)?;
    let has_kvm =
        with_hostel(&hostel, &directory, "round 10").inspect_err(|why| println!("no machines: {why:#}")).is_ok();
    let has_qemu = has_kvm && with_qemu(&directory, "round 10").inspect_err(|why| println!("no QEMU: {why:#}")).is_ok();
    for (words, least) in ROWS.iter().filter(|_| has_qemu) {
        let mut fewest = [f64::INFINITY; 2];
        for _ in 0..ROUNDS {
            fewest[0] = fewest[0].min(with_hostel(&hostel, &directory, words)?);
            fewest[1] = fewest[1].min(with_qemu(&directory, words)?);
        }
        println!("{words}: cycles a byte: Hostel {:.3}, QEMU {:.3}", fewest[0], fewest[1]);
        bounds.at_least(&format!("{words}, to QEMU"), fewest[1] / fewest[0], *least, "");
    }
    fs::remove_dir_all(&directory)?;
    Ok(bounds.finish())
}

/// Cycles a byte that the sending guest counts, two of Hostel's machines on a switch.
fn with_hostel(hostel: &str, directory: &str, words: &str) -> Result<f64> {
    let machine = |number: u8, words: &str| {
        let net = format!("switch:bench,mac=02:00:00:00:00:0{number}");
        let mut command = Command::new(hostel);
        command.args(["run", GUEST, "--transport", "mmio", "--mem", "128M", "--timeout", "60s", "--net", &net, "--"]);
        command.args(words.split(' ')).env("XDG_RUNTIME_DIR", directory);
        command
    };
    let answerer = start(&mut machine(1, "answer"))?;
    told(&mut machine(2, words), 0, answerer)
}

/// The same under QEMU, joined by a stream.
fn with_qemu(directory: &str, words: &str) -> Result<f64> {
    let socket = format!("{directory}/stream");
    let machine = |number: u8, words: &str| {
        let server = if number == 1 { "on" } else { "off" };
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-accel",
            "kvm",
            "-m",
            "128",
        ]);
        command.args(["-M", "microvm,acpi=off,pic=off,pit=off,rtc=off", "-cpu", "host,-arch-capabilities"]);
        command.args(["-serial", "stdio", "-device", "isa-debug-exit,iobase=0x600,iosize=4"]);
        command.args(["-global", "virtio-mmio.force-legacy=false", "-kernel", GUEST, "-append", words]);
        command.args(["-netdev", &format!("stream,id=n,server={server},addr.type=unix,addr.path={socket}")]);
        command.args(["-device", &format!("virtio-net-device,netdev=n,mac=02:00:00:00:00:0{number}")]);
        command
    };
    let _ = fs::remove_file(&socket);
    let answerer = start(&mut machine(1, "answer"))?;
    (0..LOOKS).take_while(|_| !Path::new(&socket).exists()).for_each(|_| thread::sleep(LOOK_EVERY));
    told(&mut machine(2, words), QEMU_STATUS, answerer)
}

fn start(command: &mut Command) -> Result<Child> {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.spawn().with_context(|| format!("cannot start {command:?}"))
}

/// Runs the sender to its end, and ends who answers it; what the sender tells: cycles a byte.
fn told(command: &mut Command, status: i32, mut answerer: Child) -> Result<f64> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"));
    // It ends by itself unless the sender failed.
    if output.as_ref().is_ok_and(|output| output.status.code() != Some(status)) {
        answerer.kill()?;
    }
    answerer.wait()?;
    let output = output?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(status), "{command:?}: {output:?}");
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [frames, bytes, cycles] = numbers[..] else { anyhow::bail!("{command:?} said {text:?}") };
    Ok(cycles / (frames * bytes))
}
