//! Two machines with the sample guest `net-bench`, or one and its host: Hostel's, and QEMU's.

use super::priority::Priority;
use super::release::BUILT;
use anyhow::{Context, Result, bail, ensure};
use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// The guest, as a file.
const GUEST: &str = concat!(env!("OUT_DIR"), "/net-bench");
/// How often a socket is looked for, and how long.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const LOOKS: usize = 1000;
/// QEMU's status when the guest powers off by the register that is its debug exit.
const QEMU_STATUS: i32 = 0x34 << 1 | 1;
/// Addresses as `--net user` has them (`src/backend/net_passt.rs`).
const PASST: [&str; 8] =
    ["--address", "10.0.2.15", "--netmask", "24", "--gateway", "10.0.2.2", "--dns-forward", "10.0.2.3"];

/// What is measured on.
pub struct Machines {
    /// The program.
    pub hostel: String,
    /// Where sockets are.
    pub directory: String,
    /// Priorities of all that runs.
    pub priority: Priority,
}

impl Machines {
    /// What a sending guest tells, of two of Hostel's machines alone on a switch, which joins them.
    pub fn on_switch(&self, words: &str) -> Result<Told> {
        let answerer = self.start(&mut self.plugged(1, "answer"), Stdio::null())?;
        self.told(&mut self.plugged(2, words), 0, answerer)
    }

    /// The same while somebody else is plugged in, who says nothing: then all frames pass the switch.
    pub fn on_switch_of_three(&self, words: &str) -> Result<Told> {
        let answerer = self.start(&mut self.plugged(1, "answer"), Stdio::null())?;
        let third = UnixStream::connect(format!("{}/hostel/bench.sock", self.directory));
        let told = self.told(&mut self.plugged(2, words), 0, answerer);
        third.context("no third port at the switch")?;
        told
    }

    fn plugged(&self, number: u8, words: &str) -> Command {
        self.hostel(&format!("switch:bench,mac=02:00:00:00:00:0{number}"), words)
    }

    /// The same under QEMU, joined by a stream.
    pub fn on_stream(&self, words: &str) -> Result<Told> {
        let socket = format!("{}/stream", self.directory);
        let _ = std::fs::remove_file(&socket);
        let machine = |number: u8, words: &str| {
            let server = if number == 1 { "on" } else { "off" };
            self.qemu(&format!("server={server},addr.type=unix,addr.path={socket}"), words, number)
        };
        let answerer = self.start(&mut machine(1, "answer"), Stdio::null())?;
        appear(&socket)?;
        self.told(&mut machine(2, words), QEMU_STATUS, answerer)
    }

    /// What a guest tells of frames to its host, by `--net user`.
    pub fn to_host(&self, words: &str) -> Result<Told> {
        self.alone(&mut self.hostel("user", words), 0)
    }

    /// The same under QEMU, with a passt of the same options.
    pub fn to_host_from_qemu(&self, words: &str) -> Result<Told> {
        // Started by root, passt becomes another user before it opens its socket.
        let directory = format!("{BUILT}/net-passt");
        let socket = format!("{directory}/socket");
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory)?;
        std::fs::set_permissions(&directory, Permissions::from_mode(0o777))?;
        let mut passt = self.priority.command("passt");
        passt.args(["--foreground", "--quiet", "--one-off", "--socket", &socket]).args(PASST);
        let mut passt =
            passt.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("passt")?;
        let told = appear(&socket).and_then(|()| {
            let stream = format!("server=off,addr.type=unix,addr.path={socket}");
            self.alone(&mut self.qemu(&stream, words, 2), QEMU_STATUS)
        });
        // It ends with its guest, unless that never came.
        if told.is_err() {
            passt.kill()?;
        }
        passt.wait()?;
        std::fs::remove_dir_all(&directory)?;
        told
    }

    /// What `measure` measures while so many guests look at their rings.
    pub fn beside<T>(&self, guests: u8, measure: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut started = Vec::new();
        for number in 1..=guests {
            let net = format!("switch:beside,mac=02:00:00:00:00:1{number}");
            started.push(self.start(&mut self.hostel(&net, "answer"), Stdio::null())?);
        }
        let measured = measure();
        for mut machine in started {
            machine.kill()?;
            machine.wait()?;
        }
        measured
    }

    /// What a guest of Hostel's tells that needs nobody else.
    pub fn by_itself(&self, words: &str) -> Result<Told> {
        self.alone(&mut self.hostel("switch:alone", words), 0)
    }

    fn hostel(&self, net: &str, words: &str) -> Command {
        let mut command = self.priority.command(&self.hostel);
        command.args(["run", GUEST, "--transport", "mmio", "--mem", "128M", "--timeout", "60s", "--net", net, "--"]);
        command.args(words.split(' ')).env("XDG_RUNTIME_DIR", &self.directory);
        command
    }

    /// `benches/startup/programs.rs` says what of this machine is left out and why.
    fn qemu(&self, stream: &str, words: &str, number: u8) -> Command {
        let mut command = self.priority.command("qemu-system-x86_64");
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
        command.args(["-name", "bench,debug-threads=on"]);
        command.args(["-serial", "stdio", "-device", "isa-debug-exit,iobase=0x600,iosize=4"]);
        command.args(["-global", "virtio-mmio.force-legacy=false", "-kernel", GUEST, "-append", words]);
        command.args(["-netdev", &format!("stream,id=n,{stream}")]);
        command.args(["-device", &format!("virtio-net-device,netdev=n,mac=02:00:00:00:00:0{number}")]);
        command
    }

    fn start(&self, command: &mut Command, output: Stdio) -> Result<Child> {
        let command = command.stdin(Stdio::null()).stdout(output).stderr(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        if let Err(error) = self.priority.lower_vcpu(child.id()) {
            child.kill()?;
            child.wait()?;
            return Err(error.context(format!("{command:?}")));
        }
        Ok(child)
    }

    /// Runs the sender to its end, and ends who answers it.
    fn told(&self, command: &mut Command, status: i32, mut answerer: Child) -> Result<Told> {
        let told = self.alone(command, status);
        // It ends by itself unless the sender failed.
        if told.is_err() {
            answerer.kill()?;
        }
        answerer.wait()?;
        told
    }

    fn alone(&self, command: &mut Command, status: i32) -> Result<Told> {
        let mut child = self.start(command, Stdio::piped())?;
        let mut text = String::new();
        child.stdout.take().context("it was piped")?.read_to_string(&mut text)?;
        let ended = child.wait()?;
        ensure!(ended.code() == Some(status), "{command:?}: {ended}, {text:?}");
        Told::parse(&text).with_context(|| format!("{command:?}"))
    }
}

/// What a guest tells at its end.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Cycles of the time stamp counter that a frame took.
    pub cycles: f64,
    /// Those for its kick, where that was asked for.
    pub kick: f64,
    /// Bytes of a frame.
    pub bytes: f64,
}

impl Told {
    fn parse(text: &str) -> Result<Told> {
        let numbers: Vec<f64> = text.split([' ', ',']).filter_map(|word| word.trim().parse().ok()).collect();
        let [frames, bytes, cycles, ref kicking @ ..] = numbers[..] else { bail!("it said {text:?}") };
        Ok(Told { cycles: cycles / frames, kick: kicking.first().map_or(0.0, |kicking| kicking / frames), bytes })
    }
}

fn appear(socket: &str) -> Result<()> {
    for _ in 0..LOOKS {
        if Path::new(socket).exists() {
            return Ok(());
        }
        thread::sleep(LOOK_EVERY);
    }
    bail!("no {socket}")
}
