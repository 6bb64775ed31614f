//! What a run was asked for: every option of `hostel run`, parsed into valid values. The doc comments are the help texts.

use crate::arch::irqchip::Irqchip;
use crate::arch::layout::MAX_CPUS;
use crate::backend::block::delay::DELAY_MAX;
use crate::backend::block::disk::{DiskOptions, Mode};
use crate::backend::block::image::{Backing, DiskFormat};
use crate::backend::local_socket::LocalAddress;
use crate::backend::net_passt::Forward;
use crate::backend::net_switch::is_name;
use crate::backend::rate::{RATE_MAX, Rates};
use crate::backend::share::server::Rights;
use crate::backend::unpack::layout::{self, ImageCommand};
use crate::backend::unpack::root::Source;
use crate::backend::vsock::exchange::PATH_MAX;
use crate::boot::format::ImageFormat;
use crate::kvm::msr_filter::MsrFilter;
use crate::memory::map::MemoryMap;
use crate::memory::size::parse_size;
use crate::virtio::blk::ID_SIZE;
use crate::virtio::fs::TAG_SIZE;
use clap::{Args, Parser, ValueEnum};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a guest's init mounts its root by.
pub const ROOT_TAG: &str = "hostel.root";

/// RAM of a machine unless told otherwise.
const DEFAULT_RAM: &str = "512M";

/// Options of `hostel run`.
#[derive(Args, Clone, Debug)]
pub struct RunConfig {
    /// A sample guest (`hostel guests` lists them) or an image file, whose format is detected; none: the sample `shell`
    pub image: Option<PathBuf>,

    /// Arguments for the guest, at the end of its command line; the embedded initramfs takes them as commands. With --root, the
    /// command and its arguments [default: a login shell]
    #[arg(last = true)]
    pub args: Vec<String>,

    /// Run a command with this directory as the root of a Linux guest, and end with its status: DIR, with ,overlay (what the guest
    /// writes is gone at the end: the default) or ,rw (it is written into DIR). Or with what a tar archive (.tar, .gz, .zst, .xz) or an
    /// image in an OCI layout directory holds, whose command is the default
    #[arg(long, value_name = "DIR|TAR", value_parser = parse_root, conflicts_with_all = ["initrd", "no_initrd", "no_default_cmdline"], help_heading = "Boot")]
    pub root: Option<RootChoice>,

    /// What the machine is made of
    #[command(flatten)]
    pub machine: MachineConfig,

    /// What it has of the host
    #[command(flatten)]
    pub devices: DevicesConfig,

    /// What is written into it
    #[command(flatten)]
    pub boot: BootConfig,

    /// Where its console goes
    #[command(flatten)]
    pub console: ConsoleConfig,

    /// How the run ends
    #[command(flatten)]
    pub ends: EndConfig,

    /// Wait for gdb before the first instruction, and obey it: :PORT, 127.0.0.1:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS", value_parser = LocalAddress::parse, help_heading = "Debugging")]
    pub gdb: Option<LocalAddress>,

    /// Print the plan (memory map, segments, tables, devices, entry state, command line) and start nothing
    #[arg(long, help_heading = "Ends")]
    pub dry_run: bool,
}

/// `--root`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootChoice {
    /// The directory or archive, without symbolic links.
    pub path: PathBuf,
    /// What is unpacked there, where it is not the root itself.
    pub packed: Option<Source>,
    /// Whether the guest writes into it.
    pub writes: bool,
    /// What an image says of the command to run; known when it is unpacked.
    pub command: ImageCommand,
}

impl RunConfig {
    /// What `hostel run IMAGE` without options asks for.
    pub fn of(image: &Path) -> RunConfig {
        /// A command line of these options alone.
        #[derive(Parser)]
        struct Options {
            #[command(flatten)]
            run: RunConfig,
        }
        let Options { run } = Options::try_parse_from(["hostel"]).expect("no option must be given");
        RunConfig { image: Some(image.into()), ..run }
    }

    /// Adds what options bring along: a root is a share, and its command runs on a virtio console.
    pub fn settle(&mut self) {
        if let Some(root) = &self.root {
            let rights = if root.writes { Rights::Write } else { Rights::Read };
            self.devices.share.push(ShareChoice { path: root.path.clone(), tag: Some(ROOT_TAG.into()), rights });
            self.devices.virtio_console = true;
        }
    }
}

/// Options of `hostel trace`: those of `run`, and what is traced and shown.
#[derive(Args, Clone, Debug)]
pub struct TraceConfig {
    /// The run that is traced
    #[command(flatten)]
    pub run: RunConfig,

    /// Write the trace to a file instead of standard error
    #[arg(long, value_name = "FILE", help_heading = "Trace")]
    pub output: Option<PathBuf>,

    /// Write the trace as Chrome trace events, for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE.json", help_heading = "Trace")]
    pub export: Option<PathBuf>,

    /// One JSON object an exit, and at last one with the end; with --summary, the summary as an object
    #[arg(long, help_heading = "Trace")]
    pub json: bool,

    /// Show only these kinds of exits: pio, mmio, msr, or a kind as the trace names it (pio-read, hlt)
    #[arg(long, value_name = "KINDS", value_delimiter = ',', help_heading = "Trace")]
    pub only: Vec<String>,

    /// Show only exits to these devices, by name: COM1
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "Trace")]
    pub device: Vec<String>,

    /// Show only exits of these vCPUs
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(..i64::from(MAX_CPUS)), help_heading = "Trace")]
    pub vcpu: Vec<u32>,

    /// Explain each kind of exit in a line when it is seen first
    #[arg(long, conflicts_with = "json", help_heading = "Trace")]
    pub explain: bool,

    /// A line for every exit; without it, runs of like exits are one
    #[arg(long, help_heading = "Trace")]
    pub every: bool,

    /// With --every or --json: one line for all elements of a string instruction (rep outs)
    #[arg(long, help_heading = "Trace")]
    pub skip_strings: bool,

    /// Sum up at the end, by kind and device, on standard error; exits are shown beside it only with --output
    #[arg(long, help_heading = "Trace")]
    pub summary: bool,

    /// Show at the end when the run reached each milestone, from the process's start over the first entry, byte and interrupt (a
    /// level-triggered one, at its end) to a mark (a write to port 0x80 or 0xe9), on standard error; exits are shown beside it only
    /// with --output
    #[arg(long, help_heading = "Trace")]
    pub milestones: bool,

    /// Show each call of KVM, in order, with its arguments and its time, on standard error; exits are shown beside it only
    /// with --output
    #[arg(long, help_heading = "Trace")]
    pub kvm_calls: bool,

    /// Have accesses to these model-specific registers exit, though KVM could answer them: numbers, ranges (0x10-0x1f) and
    /// names (IA32_EFER), or all. x2APIC registers are not among them: KVM does not let them be filtered
    #[arg(long, value_name = "LIST|all", help_heading = "Trace")]
    pub msr: Option<MsrFilter>,

    /// Compare the exits with those in FILE, whose lines can be read and edited, and end with 18 where they differ; exits are
    /// shown beside it only with --output
    #[arg(long, value_name = "FILE", help_heading = "Trace")]
    pub golden: Option<PathBuf>,

    /// With --golden: write the exits of this run into FILE instead
    #[arg(long, requires = "golden", help_heading = "Trace")]
    pub bless: bool,

    /// End with 18 when there are more exits than this of a kind, to a device or at all: pio=200,COM1=150,total=5000
    #[arg(long, value_name = "LIMITS", value_delimiter = ',', value_parser = parse_limit, help_heading = "Trace")]
    pub budget: Vec<(String, u64)>,

    /// Show the first N instructions instead, each with the registers that it changed, and the exits between them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Trace",
        conflicts_with_all = ["gdb", "report", "export", "json", "only", "device", "vcpu", "every", "explain", "skip_strings", "summary", "milestones", "kvm_calls", "golden", "budget"])]
    pub step: Option<u64>,
}

/// What the machine is made of.
#[derive(Args, Clone, Debug)]
pub struct MachineConfig {
    /// vCPUs, 1 to 16 [default: 1, or what the sample guest shows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_CPUS)), help_heading = "Machine")]
    pub cpus: Option<u32>,

    /// RAM, with suffix K, M, G or T; a bare number is MiB
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_RAM, value_parser = parse_ram, help_heading = "Machine")]
    pub mem: MemoryMap,

    /// Interrupt controllers; by default what the image needs
    #[arg(long, value_name = "KIND", value_enum, help_heading = "Machine")]
    pub irqchip: Option<IrqchipChoice>,

    /// The machine's name, from which its network devices have their addresses; with --root, the guest's host name [default: the
    /// image's name]
    #[arg(long, value_name = "NAME", value_parser = parse_name, help_heading = "Machine")]
    pub name: Option<String>,
}

/// What the machine has of the host.
#[derive(Args, Clone, Debug)]
pub struct DevicesConfig {
    /// A virtio disk, a raw image file or a block device: PATH, with ,ro (only read), ,overlay (what the guest writes is gone at the
    /// end), ,format=qcow2, ,backing=PATH (what that image lies over, with ,backing-format=qcow2 if it is one itself), ,direct (past the page cache), ,delay=TIME (each operation takes at least so long), ,rate=SIZE (at most so
    /// many bytes a second), ,ops=N (at most so many requests a second) and ,id=NAME; repeatable
    #[arg(long, value_name = "PATH", value_parser = parse_disk, help_heading = "Devices")]
    pub disk: Vec<DiskChoice>,

    /// Have the console on a virtio console (Linux: /dev/hvc0) with the terminal's size, instead of the serial port, whose output
    /// is then watched and kept for diagnoses, but not shown
    #[arg(long, help_heading = "Console")]
    pub virtio_console: bool,

    /// A virtio entropy device: the host's random bytes
    #[arg(long, help_heading = "Devices")]
    pub rng: bool,

    /// A virtio memory balloon of this size, 0 for an empty one: the guest gives so much memory back to the host, and takes it again
    /// before it runs out; `balloon SIZE` behind Ctrl-A c changes it
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Devices")]
    pub balloon: Option<u64>,

    /// A network device: user[,forward=HOST:GUEST] (through passt, without root), switch:NAME (with other machines of this user) or
    /// tap:INTERFACE; with ,mac=ADDRESS, and ,rate=SIZE and ,ops=N (so many bytes and frames a second at most, each way); repeatable
    #[arg(long, value_name = "KIND", value_parser = parse_net, help_heading = "Devices")]
    pub net: Vec<NetChoice>,

    /// Write the frames of all network devices to a file, for tcpdump and tshark
    #[arg(long, value_name = "FILE", requires = "net", help_heading = "Devices")]
    pub pcap: Option<PathBuf>,

    /// A virtio socket device. A process of the host connects to the Unix socket PATH and says CONNECT PORT; a guest that connects to
    /// port N of the host reaches the socket PATH_N
    #[arg(long, value_name = "PATH", value_parser = parse_vsock, help_heading = "Devices")]
    pub vsock: Option<PathBuf>,

    /// Share a directory with the guest (virtio-fs): DIR or DIR:TAG, with ,ro (only to be read); the guest mounts it by its tag, share0,
    /// share1, ... where none is given: mount -t virtiofs TAG /mnt; repeatable
    #[arg(long, value_name = "DIR", value_parser = parse_share, help_heading = "Devices")]
    pub share: Vec<ShareChoice>,

    /// How virtio devices are reached
    #[arg(long, value_name = "KIND", value_enum, default_value = "pci", help_heading = "Devices")]
    pub transport: TransportChoice,
}

/// `--disk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskChoice {
    /// The image file or block device.
    pub path: PathBuf,
    /// How it is used.
    pub options: DiskOptions,
    /// The name that the guest reads of it, where the user gave one.
    pub id: Option<String>,
}

/// `--share`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareChoice {
    /// The directory.
    pub path: PathBuf,
    /// What the guest mounts it by, where the user gave it a name.
    pub tag: Option<String>,
    /// What the guest may do with it.
    pub rights: Rights,
}

impl DevicesConfig {
    /// What the guest mounts the shares by, in order.
    pub fn tags(&self) -> impl Iterator<Item = String> {
        (0..)
            .zip(&self.share)
            .map(|(index, share): (u32, _)| share.tag.clone().unwrap_or_else(|| format!("share{index}")))
    }
}

/// `--net`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetChoice {
    /// Where its frames go.
    pub kind: NetKind,
    /// Its address; by default one that comes from the machine's name and the device's number.
    pub mac: Option<[u8; 6]>,
    /// What is let through, each way.
    pub rates: Rates,
}

/// Where the frames of a network device go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetKind {
    /// To the user's own network, by passt, with these TCP ports of the host led into the guest.
    User(Vec<Forward>),
    /// To an interface of the host.
    Tap(String),
    /// To the other machines of this user that are plugged into the switch of this name.
    Switch(String),
}

/// `--transport`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TransportChoice {
    /// Behind a PCI bridge, where systems find them by enumeration
    Pci,
    /// By registers in memory, which tiny guests can drive
    Mmio,
}

/// `--irqchip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IrqchipChoice {
    /// No interrupts at all
    None,
    /// LAPICs in the kernel, IOAPIC here
    Split,
    /// PIC, IOAPIC and PIT in the kernel, for legacy guests
    Full,
}

impl From<IrqchipChoice> for Irqchip {
    fn from(choice: IrqchipChoice) -> Irqchip {
        match choice {
            IrqchipChoice::None => Irqchip::None,
            IrqchipChoice::Split => Irqchip::Split,
            IrqchipChoice::Full => Irqchip::Full,
        }
    }
}

/// What is written into the machine.
#[derive(Args, Clone, Debug)]
pub struct BootConfig {
    /// Take IMAGE as this format instead of detecting it
    #[arg(long, value_name = "FORMAT", value_enum, help_heading = "Boot")]
    pub format: Option<FormatChoice>,

    /// Where a flat 16-bit image is loaded and entered, below 64 KiB
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address16, help_heading = "Boot")]
    pub load_address: Option<u16>,

    /// Initial RAM disk; without it a Linux kernel gets the one inside Hostel, which has a prompt
    #[arg(long, value_name = "FILE", conflicts_with = "no_initrd", help_heading = "Boot")]
    pub initrd: Option<PathBuf>,

    /// Where the kernel's modules are, of which the RAM disk inside Hostel gets the drivers of the virtio devices: a directory such
    /// as /lib/modules, one version's directory in it, or a system's root [default: beside the image, then /lib/modules]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["initrd", "no_initrd"], help_heading = "Boot")]
    pub modules: Option<PathBuf>,

    /// No RAM disk at all
    #[arg(long, help_heading = "Boot")]
    pub no_initrd: bool,

    /// Words for the command line, after the default ones; where two contradict each other Linux takes the last
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, help_heading = "Boot")]
    pub cmdline: String,

    /// Leave out the words that a Linux kernel gets by default (--dry-run shows them)
    #[arg(long, help_heading = "Boot")]
    pub no_default_cmdline: bool,

    /// Enter a bzImage as it is and let the guest decompress it
    #[arg(long, help_heading = "Boot")]
    pub no_host_decompress: bool,

    /// Let Linux randomize its addresses; implies --no-host-decompress
    #[arg(long, help_heading = "Boot")]
    pub kaslr: bool,

    /// Map all of a cached kernel from the page cache, its small segments too: machines that boot it share them
    #[arg(long, help_heading = "Boot")]
    pub share_pages: bool,

    /// Names for the addresses in diagnoses: a vmlinux or a System.map
    #[arg(long, value_name = "FILE", help_heading = "Boot")]
    pub symbols: Option<PathBuf>,
}

/// `--format`: images that cannot be told apart by their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatChoice {
    /// 16-bit real-mode binary, entered at 0x0000:0x7c00
    Flat16,
    /// 64-bit binary, entered at 0x10000 in long mode
    Flat64,
}

impl From<FormatChoice> for ImageFormat {
    fn from(choice: FormatChoice) -> ImageFormat {
        match choice {
            FormatChoice::Flat16 => ImageFormat::Flat16,
            FormatChoice::Flat64 => ImageFormat::Flat64,
        }
    }
}

/// Where the console goes.
#[derive(Args, Clone, Debug)]
pub struct ConsoleConfig {
    /// Console: stdio, file:PATH, none, pty (its name is told), or socket:PATH (a Unix socket, one user at a time)
    #[arg(long, value_name = "WHERE", default_value = "stdio", value_parser = parse_console, help_heading = "Console")]
    pub console: ConsoleChoice,

    /// Pattern that the console must show; repeatable, in order
    #[arg(long, value_name = "RE", help_heading = "Console")]
    pub expect: Vec<String>,

    /// Typed when the --expect before it has matched (escapes: \n \r \t \\ \xNN)
    #[arg(long, value_name = "TEXT", help_heading = "Console")]
    pub send: Vec<String>,

    /// Pattern that the console must not show; `linux` stands for BUG, WARNING, Oops and hung tasks; repeatable
    #[arg(long, value_name = "RE", help_heading = "Console")]
    pub reject: Vec<String>,

    /// `expect` and `send` as they were typed, in order; filled by the command line.
    #[arg(skip)]
    pub script: Vec<ScriptStep>,
}

/// A step of the dialogue with the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptStep {
    /// Wait for this pattern.
    Expect(String),
    /// Type this, escapes not yet resolved.
    Send(String),
}

/// `--console`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleChoice {
    /// Standard input and output.
    Stdio,
    /// Output to a file, no input.
    File(PathBuf),
    /// Output nowhere, no input.
    None,
    /// A pseudo-terminal.
    Pty,
    /// A Unix socket.
    Socket(PathBuf),
}

/// How the run ends.
#[derive(Args, Clone, Debug)]
pub struct EndConfig {
    /// End with 124 after this long: 500ms, 30s, 2m; a bare number is seconds
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Ends")]
    pub timeout: Option<Duration>,

    /// After the last --expect, wait for the guest's own end instead of ending with 0 at once
    #[arg(long, help_heading = "Ends")]
    pub wait_exit: bool,

    /// A guest that ends itself with this value (isa-debug-exit) ends with 0
    #[arg(long, value_name = "VALUE", help_heading = "Ends")]
    pub ok_exit: Option<u32>,

    /// What a panic of the guest's kernel does
    #[arg(long, value_name = "WHAT", value_enum, default_value = "exit", help_heading = "Ends")]
    pub on_panic: OnPanic,

    /// Keep no record of each vCPU's last 256 exits, which a crash, a panic and a deadline show
    #[arg(long, help_heading = "Ends")]
    pub no_recorder: bool,

    /// Write how the run ended as JSON: who ended it, kind, status, values, the console's last lines
    #[arg(long, value_name = "FILE", help_heading = "Ends")]
    pub result: Option<PathBuf>,

    /// Write a report: junit:FILE for a CI system; html:FILE, a page that shows every exit and the console; repeatable
    #[arg(long, value_name = "KIND:FILE", value_parser = parse_report, help_heading = "Ends")]
    pub report: Vec<ReportChoice>,
}

/// `--on-panic`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnPanic {
    /// End with 12
    Exit,
    /// Go on, and let the guest reboot or hang
    Continue,
}

/// `--report`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportChoice {
    /// JUnit XML.
    Junit(PathBuf),
    /// A page of a traced run.
    Html(PathBuf),
}

fn parse_ram(text: &str) -> Result<MemoryMap, String> {
    MemoryMap::new(parse_size(text)?).map_err(|error| error.to_string())
}

fn parse_name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.into()) } else { Err("a name has 1 to 32 letters, digits, - and _".into()) }
}

/// Reads a length of time with a unit, such as 500ms, 30s or 2m; never 0.
///
/// # Errors
/// It is none; the text says why.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let number: f64 = number.parse().map_err(|_| "not a duration such as 500ms, 30s or 2m".to_string())?;
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit {unit:?}: use ms, s, m or h")),
    };
    match Duration::try_from_secs_f64(number * factor) {
        Ok(duration) if duration.is_zero() => Err("a deadline of 0 has passed before the start".into()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("longer than any clock runs".into()),
    }
}

/// A number and what follows it.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

fn parse_address16(text: &str) -> Result<u16, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "not an address below 0x10000, such as 0x7c00".into())
}

/// What is counted, and how many there may be.
fn parse_limit(text: &str) -> Result<(String, u64), String> {
    let (what, at_most) = text.split_once('=').ok_or("use WHAT=NUMBER, such as pio=200")?;
    let at_most = at_most.parse().map_err(|_| format!("{at_most:?} is not a number of exits"))?;
    Ok((what.to_owned(), at_most))
}

fn parse_console(text: &str) -> Result<ConsoleChoice, String> {
    let (kind, path) = text.split_once(':').map_or((text, None), |(kind, path)| (kind, Some(path)));
    match (kind, path.filter(|path| !path.is_empty())) {
        ("stdio", None) => Ok(ConsoleChoice::Stdio),
        ("none", None) => Ok(ConsoleChoice::None),
        ("pty", None) => Ok(ConsoleChoice::Pty),
        ("file", Some(path)) => Ok(ConsoleChoice::File(path.into())),
        ("socket", Some(path)) => Ok(ConsoleChoice::Socket(path.into())),
        _ => Err("use stdio, file:PATH, none, pty or socket:PATH".into()),
    }
}

fn parse_disk(text: &str) -> Result<DiskChoice, String> {
    const USAGE: &str = "use PATH[,ro][,overlay][,format=qcow2][,backing=PATH][,backing-format=qcow2][,direct][,delay=TIME][,rate=SIZE][,ops=N][,id=NAME]";
    let mut words = text.split(',');
    let path = words.next().filter(|path| !path.is_empty()).ok_or(USAGE)?;
    let mut disk = DiskChoice { path: path.into(), options: DiskOptions::default(), id: None };
    let (mut backing, mut backing_format) = (None, DiskFormat::Raw);
    let options = &mut disk.options;
    for word in words {
        match word.split_once('=') {
            None if word == "ro" && options.mode != Mode::Overlay => options.mode = Mode::Read,
            None if word == "overlay" && options.mode != Mode::Read => options.mode = Mode::Overlay,
            None if matches!(word, "ro" | "overlay") => return Err("ro and overlay exclude each other".into()),
            None if word == "direct" => options.direct = true,
            Some(("format", text)) => options.format = parse_format(text)?,
            Some(("backing-format", text)) => backing_format = parse_format(text)?,
            Some(("backing", path)) if !path.is_empty() => backing = Some(path),
            Some(("delay", text)) => {
                options.delay = parse_duration(text)
                    .ok()
                    .filter(|delay| *delay <= DELAY_MAX)
                    .ok_or("a delay is a time up to 1s, as 5ms")?;
            }
            Some((limit @ ("rate" | "ops"), text)) => parse_limits(&mut options.rates, limit, text)?,
            Some(("id", id)) if !id.is_empty() && id.len() <= ID_SIZE && id.bytes().all(|c| c.is_ascii_graphic()) => {
                disk.id = Some(id.into());
            }
            Some(("id", _)) => return Err(format!("an id has 1 to {ID_SIZE} visible ASCII characters")),
            _ => return Err(format!("unknown option {word:?}: {USAGE}; no path has a comma")),
        }
    }
    options.backing = backing.map(|path| Backing { path: path.into(), format: backing_format });
    match (options.format, &options.backing) {
        (DiskFormat::Qcow2, _) if options.direct => return Err("direct is for raw disks".into()),
        (DiskFormat::Raw, Some(_)) => return Err("backing is for images that lie over another: format=qcow2".into()),
        (_, None) if backing_format != DiskFormat::Raw => return Err("backing-format is that of backing=PATH".into()),
        _ => {}
    }
    Ok(disk)
}

fn parse_format(text: &str) -> Result<DiskFormat, String> {
    match text {
        "raw" => Ok(DiskFormat::Raw),
        "qcow2" => Ok(DiskFormat::Qcow2),
        other => Err(format!("unknown format {other:?}: use raw or qcow2")),
    }
}

/// `rate=` and `ops=`: a size, where a bare number is bytes, and a number.
fn parse_limits(rates: &mut Rates, limit: &str, text: &str) -> Result<(), String> {
    let number = text.parse().ok();
    let (limited, found) = match limit {
        "rate" => (&mut rates.bytes, number.or_else(|| parse_size(text).ok())),
        _ => (&mut rates.operations, number),
    };
    let found = found.filter(|rate| (1..=RATE_MAX).contains(rate));
    *limited = Some(found.ok_or("a rate is so many bytes a second, from 1 to 1T, as 10M; ops is a number, as 500")?);
    Ok(())
}

fn parse_share(text: &str) -> Result<ShareChoice, String> {
    let mut words = text.split(',');
    let place = words.next().unwrap_or_default();
    let (path, tag) = place.rsplit_once(':').map_or((place, None), |(path, tag)| (path, Some(tag)));
    if path.is_empty() {
        return Err("use DIR[:TAG][,ro]".into());
    }
    if !tag.is_none_or(|tag| (1..=TAG_SIZE).contains(&tag.len()) && tag.bytes().all(|c| c.is_ascii_graphic())) {
        return Err(format!("a tag has 1 to {TAG_SIZE} visible ASCII characters"));
    }
    let mut share = ShareChoice { path: path.into(), tag: tag.map(Into::into), rights: Rights::Write };
    for word in words {
        match word {
            "ro" => share.rights = Rights::Read,
            _ => return Err(format!("unknown option {word:?}: use ro; no path has a comma")),
        }
    }
    Ok(share)
}

fn parse_root(text: &str) -> Result<RootChoice, String> {
    let (path, mode) = text.split_once(',').unwrap_or((text, "overlay"));
    let writes = match mode {
        "rw" => true,
        "overlay" => false,
        _ => return Err(format!("unknown option {mode:?}: use rw or overlay; no path has a comma")),
    };
    let path = Path::new(path).canonicalize().map_err(|error| error.to_string())?;
    let packed = match () {
        () if path.is_file() => Some(Source::Archive),
        () if layout::is_layout(&path) => Some(Source::Layout),
        () if path.is_dir() => None,
        () => return Err("it is neither a directory nor an archive".into()),
    };
    if writes && packed.is_some() {
        return Err("an archive is not written to: leave rw away, or unpack it into a directory".into());
    }
    Ok(RootChoice { path, packed, writes, command: ImageCommand::default() })
}

fn parse_net(text: &str) -> Result<NetChoice, String> {
    const USAGE: &str = "use user[,forward=HOST:GUEST], switch:NAME or tap:INTERFACE, with ,mac=XX:XX:XX:XX:XX:XX, ,rate=SIZE and ,ops=N";
    let mut words = text.split(',');
    let kind = words.next().unwrap_or_default();
    let (mut forwards, mut mac, mut rates) = (Vec::new(), None, Rates::default());
    for word in words {
        match word.split_once('=') {
            Some(("forward", ports)) => forwards.push(parse_forward(ports).ok_or("a forward is HOSTPORT:GUESTPORT")?),
            Some((limit @ ("rate" | "ops"), text)) => parse_limits(&mut rates, limit, text)?,
            Some(("mac", address)) => {
                mac = Some(parse_mac(address).ok_or("not the address of one device: 02:00:00:00:00:01")?)
            }
            _ => return Err(USAGE.into()),
        }
    }
    let kind = match kind.split_once(':') {
        None if kind == "user" => NetKind::User(forwards),
        Some(("tap", name)) if !name.is_empty() && forwards.is_empty() => NetKind::Tap(name.into()),
        Some(("switch", name)) if is_name(name) && forwards.is_empty() => NetKind::Switch(name.into()),
        _ => return Err(USAGE.into()),
    };
    Ok(NetChoice { kind, mac, rates })
}

fn parse_forward(text: &str) -> Option<Forward> {
    let (host, guest) = text.split_once(':')?;
    let port = |text: &str| text.parse().ok().filter(|port: &u16| *port != 0);
    Some(Forward { host: port(host)?, guest: port(guest)? })
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let mac: [u8; 6] = bytes?.try_into().ok()?;
    (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

fn parse_vsock(text: &str) -> Result<PathBuf, String> {
    match text.len() {
        0 => Err("use the path of a socket".into()),
        1..=PATH_MAX => Ok(text.into()),
        _ => Err(format!("a socket's path and _PORT behind it have 107 bytes: {PATH_MAX} at most")),
    }
}

fn parse_report(text: &str) -> Result<ReportChoice, String> {
    match text.split_once(':') {
        Some(("junit", path)) if !path.is_empty() => Ok(ReportChoice::Junit(path.into())),
        Some(("html", path)) if !path.is_empty() => Ok(ReportChoice::Html(path.into())),
        _ => Err("use junit:FILE or html:FILE".into()),
    }
}

/// The image as typed, for messages.
pub fn image_name(image: &Option<PathBuf>) -> OsString {
    image.as_ref().map_or_else(|| "shell".into(), |path| path.clone().into_os_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::{GIB, MIB};

    #[test]
    fn ram_takes_units_and_refuses_the_absurd() {
        assert_eq!(parse_ram("512").unwrap().size(), 512 * MIB);
        assert_eq!(parse_ram("5G").unwrap().size(), 5 * GIB);
        assert_eq!(parse_ram("1024KiB").unwrap().size(), MIB);
        for bad in ["", "0", "0x10", "-1", "5X", "1.5G", "99999999T", "18446744073709551615", "1023K"] {
            assert!(parse_ram(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_take_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["", "0", "x", "5d", "-3", "99999999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn disks_have_a_mode_and_a_name() {
        let disk = |mode, id: Option<&str>| DiskChoice {
            path: "a.img".into(),
            options: DiskOptions { mode, ..DiskOptions::default() },
            id: id.map(Into::into),
        };
        assert_eq!(parse_disk("a.img"), Ok(disk(Mode::Write, None)));
        assert_eq!(parse_disk("a.img,ro,id=root"), Ok(disk(Mode::Read, Some("root"))));
        assert_eq!(parse_disk("a.img,id=12345678901234567890,overlay").unwrap().options.mode, Mode::Overlay);
        let options = DiskOptions { mode: Mode::Read, direct: true, ..DiskOptions::default() };
        assert_eq!(parse_disk("a.img,direct,ro,format=raw").unwrap().options, options);
        assert_eq!(parse_disk("a.img,format=qcow2").unwrap().options.format, DiskFormat::Qcow2);
        assert_eq!(parse_disk("a.img,delay=5ms").unwrap().options.delay, Duration::from_millis(5));
        let backing = |text| parse_disk(text).unwrap().options.backing;
        let below = |format| Some(Backing { path: "b.img".into(), format });
        assert_eq!(backing("a.img,format=qcow2,backing=b.img"), below(DiskFormat::Raw));
        assert_eq!(backing("a,backing-format=qcow2,backing=b.img,format=qcow2"), below(DiskFormat::Qcow2));
        let rates = |text| parse_disk(text).unwrap().options.rates;
        assert_eq!(rates("a.img,rate=10M"), Rates { bytes: Some(10 * MIB), operations: None });
        assert_eq!(rates("a.img,ops=500,rate=700,ro"), Rates { bytes: Some(700), operations: Some(500) });
        assert_eq!(rates("a.img,rate=1T").bytes, Some(RATE_MAX));
        for bad in [
            "",
            ",ro",
            "a,backing=b",
            "a,backing=,format=qcow2",
            "a,format=qcow2,backing-format=qcow2",
            "a,format=qcow2,backing=b,backing-format=vmdk",
            "a,rate=0",
            "a,rate=2T",
            "a,rate=99999999999999999999",
            "a,rate=fast",
            "a,rate",
            "a,ops=0",
            "a,ops=1k",
            "a,ops=",
            "a,delay=2s",
            "a,delay=0",
            "a,delay",
            "a,",
            "a,ro,overlay",
            "a,overlay,ro",
            "a,rw",
            "a,format=vmdk",
            "a,format",
            "a,direct,format=qcow2",
            "a,id=",
            "a,id=a b",
            "a,id=123456789012345678901",
        ] {
            assert!(parse_disk(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_have_a_tag_and_may_be_read_only() {
        let share =
            |path: &str, tag: Option<&str>, rights| ShareChoice { path: path.into(), tag: tag.map(Into::into), rights };
        assert_eq!(parse_share("/srv"), Ok(share("/srv", None, Rights::Write)));
        assert_eq!(parse_share("a:b:data,ro"), Ok(share("a:b", Some("data"), Rights::Read)));
        let long = "t".repeat(TAG_SIZE);
        assert_eq!(parse_share(&format!(".:{long}")), Ok(share(".", Some(&long), Rights::Write)));
        for bad in ["", ",ro", ":data", ".:", ".:a b", ".:a,rw", ".,", &format!(".:{long}t")] {
            assert!(parse_share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_root_is_a_directory_that_is_there() {
        let root = |writes| Ok(RootChoice { path: "/".into(), packed: None, writes, command: ImageCommand::default() });
        assert_eq!(
            (parse_root("/"), parse_root("/proc/..,overlay"), parse_root("/,rw")),
            (root(false), root(false), root(true))
        );
        assert_eq!(parse_root("/proc/version").unwrap().packed, Some(Source::Archive));
        for (bad, why) in [
            ("/none", "No such file"),
            ("/dev/null", "neither a directory"),
            ("/proc/version,rw", "not written to"),
            ("/,ro", "use rw or overlay"),
        ] {
            assert!(parse_root(bad).unwrap_err().contains(why), "{bad}");
        }
    }

    #[test]
    fn networks_are_user_or_tap() {
        let user = parse_net("user,forward=8080:80,forward=2222:22,mac=02:00:00:00:00:fe").unwrap();
        let forwards = vec![Forward { host: 8080, guest: 80 }, Forward { host: 2222, guest: 22 }];
        assert_eq!(
            user,
            NetChoice { kind: NetKind::User(forwards), mac: Some([2, 0, 0, 0, 0, 0xfe]), rates: Rates::default() }
        );
        assert_eq!(parse_net("tap:tap0").unwrap().kind, NetKind::Tap("tap0".into()));
        let limited = parse_net("switch:lan,rate=1G,ops=9").unwrap();
        assert_eq!(limited.rates, Rates { bytes: Some(GIB), operations: Some(9) });
        assert_eq!(parse_net("switch:lan").unwrap().kind, NetKind::Switch("lan".into()));
        assert!(parse_net("switch:../x").is_err());
        for bad in [
            "",
            "tap",
            "tap:",
            "tap:x,forward=1:2",
            "user:x",
            "user,forward=0:1",
            "user,forward=1",
            "user,mac=1",
            "user,rate=x",
        ] {
            assert!(parse_net(bad).is_err(), "{bad}");
        }
        assert!(parse_net("user,mac=01:00:00:00:00:00").is_err(), "an address of many");
    }

    #[test]
    fn choices_name_what_is_possible() {
        assert_eq!(parse_console("file:/tmp/x"), Ok(ConsoleChoice::File("/tmp/x".into())));
        assert_eq!(parse_console("socket:a:b"), Ok(ConsoleChoice::Socket("a:b".into())));
        assert_eq!(parse_console("pty"), Ok(ConsoleChoice::Pty));
        for bad in ["file:", "file", "socket:", "pty:x", ""] {
            assert!(parse_console(bad).unwrap_err().contains("stdio"), "{bad}");
        }
        assert_eq!(parse_name("lan-1"), Ok("lan-1".into()));
        assert!(["", "a b", "../a", &"a".repeat(33)].iter().all(|bad| parse_name(bad).is_err()));
        assert_eq!(parse_vsock("a.sock"), Ok("a.sock".into()));
        assert!(parse_vsock("").is_err() && parse_vsock(&"a".repeat(97)).unwrap_err().contains("96 at most"));
        assert_eq!(parse_report("html:x:y"), Ok(ReportChoice::Html("x:y".into())));
        assert!(parse_report("html:").unwrap_err().contains("junit:FILE or html:FILE"));
        assert_eq!(parse_limit("pio=200"), Ok(("pio".into(), 200)));
        for bad in ["pio", "pio=", "pio=x", "pio=-1"] {
            assert!(parse_limit(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_address16("0x7c00"), Ok(0x7c00));
        assert!(parse_address16("0x10000").is_err());
    }
}
