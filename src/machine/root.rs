//! `--root`: a directory as the root of a Linux guest, and a command in it whose status is the run's.
//!
//! What the guest's init needs to know goes into its initramfs as files (`guest/init/root.rs` reads them). What becomes of the command comes
//! back through a named port of the virtio console, in lines.

use super::events::{MachineEvent, Reporter};
use super::outcome::CommandEnd;
use super::virtio;
use crate::backend::console_port::ConsolePort;
use crate::backend::net_passt::{GUEST, MASK, NAME_SERVER, ROUTER};
use crate::backend::terminal;
use crate::config::{ConsoleChoice, NetChoice, NetKind, RootChoice, RunConfig};
use std::io::IsTerminal;
use std::path::Path;

/// Directories that the init mounts things at.
pub const DIRECTORIES: [&str; 3] = ["/below", "/layer", "/root"];
/// Bytes of the arguments and of the environment that the init takes at most, and how many of either.
const TEXT_MAX: usize = 64 << 10;
const WORDS_MAX: usize = 512;
/// The longest line that is read from the port. What a guest sends beyond it is nothing that an init sends.
const LINE_MAX: usize = 128;
/// The guest's name for itself, where the machine has none.
const HOST_NAME: &str = "hostel";
/// Where a command without a slash in its name is looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What runs where no command is given: a login shell, which its name begins with a dash for.
const SHELL: (&str, &str) = ("/bin/sh", "-sh");

/// Whether the init can take this command.
///
/// # Errors
/// It is too long; the text says what fits.
pub fn check_command(arguments: &[String]) -> Result<(), String> {
    let bytes: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
    if arguments.len() > WORDS_MAX || bytes > TEXT_MAX {
        return Err(format!(
            "the command has {} words of {bytes} bytes: {WORDS_MAX} of {TEXT_MAX} fit",
            arguments.len()
        ));
    }
    Ok(())
}

/// The files that tell the init what to do; `image` is the image's name.
pub fn files(root: &RootChoice, config: &RunConfig, image: &str) -> Vec<(&'static str, Vec<u8>)> {
    let words: Vec<&str> = match command(root, config) {
        [] => vec![SHELL.1],
        arguments => arguments.iter().map(String::as_str).collect(),
    };
    let file = command(root, config).first().map_or(SHELL.0, String::as_str);
    let sides = sides(config);
    let mut environment = environment(sides.contains("output"));
    root.command.environment.iter().for_each(|variable| set(&mut environment, variable));
    let path = environment.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(PATH);
    let environment: Vec<&str> = environment.iter().map(String::as_str).collect();
    let name = config.machine.name.as_deref();
    let mut files = vec![
        ("/hostel/mode", if root.writes { "rw" } else { "overlay" }.into()),
        ("/hostel/arguments", strings(&words)),
        ("/hostel/environment", strings(&environment)),
        ("/hostel/file", file.into()),
        ("/hostel/path", path.into()),
        ("/hostel/directory", beginning(root).into_bytes()),
        ("/hostel/terminal", sides.into()),
        ("/hostel/name", name.unwrap_or(HOST_NAME).into()),
    ];
    files.extend(network(&config.devices.net, name.unwrap_or(image)).map(|text| ("/hostel/network", text.into())));
    files
}

/// What is run: what the user says, or else the image; empty for a shell.
fn command<'a>(root: &'a RootChoice, config: &'a RunConfig) -> &'a [String] {
    if config.args.is_empty() { &root.command.words } else { &config.args }
}

/// What to set of the first interface behind a passt: which it is, its address, mask, router and name server. `None` without one.
fn network(nets: &[NetChoice], name: &str) -> Option<String> {
    let (index, net) = nets.iter().enumerate().find(|(_, net)| matches!(net.kind, NetKind::User(_)))?;
    let hardware = virtio::address(net, name, index).map(|byte| format!("{byte:02x}")).join(":");
    Some(format!("{hardware} {GUEST} {MASK} {ROUTER} {NAME_SERVER}"))
}

/// What is run where, in words.
pub fn describe(root: &RootChoice, config: &RunConfig) -> String {
    let command = match command(root, config) {
        [] => SHELL.0.to_owned(),
        words => words.join(" "),
    };
    let how = if root.writes { "which it writes to" } else { "under a layer in memory" };
    format!("{command}, in {}, {how}", root.path.display())
}

fn strings(words: &[&str]) -> Vec<u8> {
    words.iter().flat_map(|word| word.bytes().chain([0])).collect()
}

/// Which sides of the command's terminal are one on the host too, and whether it has a size.
fn sides(config: &RunConfig) -> String {
    let (input, output) = match config.console.console {
        ConsoleChoice::Stdio => (std::io::stdin().is_terminal(), std::io::stdout().is_terminal()),
        ConsoleChoice::Pty | ConsoleChoice::Socket(_) => (true, true),
        ConsoleChoice::File(_) | ConsoleChoice::None => (false, false),
    };
    let size = config.console.console == ConsoleChoice::Stdio && terminal::size().is_some();
    let words = [("input", input), ("output", output), ("size", size)];
    words.iter().filter(|(_, holds)| *holds).map(|(word, _)| *word).collect::<Vec<_>>().join(" ")
}

fn environment(on_terminal: bool) -> Vec<String> {
    let of_host = |name: &str| std::env::var(name).ok().map(|value| format!("{name}={value}"));
    let mut environment: Vec<String> =
        ["HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh"].map(String::from).into();
    environment.push(format!("PATH={PATH}"));
    environment.push(of_host("TERM").filter(|_| on_terminal).unwrap_or_else(|| "TERM=dumb".into()));
    environment.extend(of_host("LANG").filter(|value| value.len() < LINE_MAX));
    environment
}

/// Adds a variable, in the place of one of the same name.
fn set(environment: &mut Vec<String>, variable: &str) {
    let Some((name, _)) = variable.split_once('=') else { return };
    environment.retain(|other| other.split_once('=').is_none_or(|(other, _)| other != name));
    environment.push(variable.into());
}

/// The directory to begin in.
fn beginning(root: &RootChoice) -> String {
    match root.packed {
        None => directory(&root.path),
        Some(_) => format!("/{}", root.command.directory.trim_start_matches('/')),
    }
}

/// The present directory, where it is below the root.
fn directory(root: &Path) -> String {
    let here = std::env::current_dir().ok();
    let below = here.as_deref().and_then(|here| here.strip_prefix(root).ok()).and_then(Path::to_str);
    format!("/{}", below.unwrap_or_default())
}

/// What the guest's init tells of the command.
#[derive(Clone, Debug, PartialEq)]
pub enum CommandNews {
    /// It starts: what is typed is for it from now on.
    Starts,
    /// It has ended.
    Ended(CommandEnd),
}

/// The port that the init writes to. It reports the first end, and nothing after that.
pub struct StatusPort {
    line: Vec<u8>,
    reporter: Option<Reporter>,
}

impl StatusPort {
    /// A port that reports to `reporter`.
    pub fn new(reporter: Reporter) -> StatusPort {
        StatusPort { line: Vec::new(), reporter: Some(reporter) }
    }

    fn take(&mut self, byte: u8) {
        if byte != b'\n' {
            // A longer line is none of init's: it stays too long, and says nothing.
            if self.line.len() <= LINE_MAX {
                self.line.push(byte);
            }
            return;
        }
        let line = std::mem::take(&mut self.line);
        let Some(news) = news(&line) else { return };
        if let Some(reporter) = &self.reporter {
            let ended = matches!(news, CommandNews::Ended(_));
            reporter.report(MachineEvent::Command(news));
            if ended {
                self.reporter = None;
            }
        }
    }
}

/// What a line says; `None` for nothing that an init says.
fn news(line: &[u8]) -> Option<CommandNews> {
    let line = str::from_utf8(line).ok().filter(|line| line.len() <= LINE_MAX)?;
    if line == "ready" {
        return Some(CommandNews::Starts);
    }
    let (word, value) = line.split_once(' ')?;
    Some(CommandNews::Ended(match word {
        "exit" => CommandEnd::Exited(value.parse().ok()?),
        "signal" => CommandEnd::Signaled(value.parse().ok().filter(|signal| (1..128).contains(signal))?),
        "unstarted" => CommandEnd::Unstarted(value.parse().ok()?),
        "failed" => CommandEnd::Failed(value.chars().filter(|c| !c.is_control()).collect()),
        _ => return None,
    }))
}

impl ConsolePort for StatusPort {
    fn name(&self) -> Option<&'static str> {
        Some("hostel.status")
    }

    fn room(&mut self) -> usize {
        LINE_MAX
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.take(*byte));
    }

    fn has_input(&mut self) -> bool {
        false
    }

    fn read(&mut self, _bytes: &mut [u8]) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::rate::Rates;
    use crate::event_loop::Waker;

    #[test]
    fn the_init_tells_how_the_command_ended_once() {
        let (reporter, events) = Reporter::new(Waker::new().unwrap());
        let mut port = StatusPort::new(reporter);
        port.write(b"rea");
        port.write(b"dy\nexit 7\nexit 8\n");
        let told: Vec<_> = events
            .try_iter()
            .map(|event| match event {
                MachineEvent::Command(news) => news,
                _ => panic!("another event"),
            })
            .collect();
        assert_eq!(told, [CommandNews::Starts, CommandNews::Ended(CommandEnd::Exited(7))]);
    }

    #[test]
    fn sec48_whatever_a_guest_sends_no_more_than_a_line_is_kept() {
        let (reporter, events) = Reporter::new(Waker::new().unwrap());
        let mut port = StatusPort::new(reporter);
        for _ in 0..10_000 {
            port.write(&[b'x'; 100]);
        }
        assert!(port.line.len() <= LINE_MAX + 1 && port.line.capacity() <= 4 * LINE_MAX);
        port.write(b"\nexit 256\nexit\nexit x\nsignal 0\nsignal 200\n\xff\nstop 1\n\n");
        assert!(events.try_recv().is_err(), "nothing of that is an end");
        port.write(b"failed a\x1b[2J: error 19\n");
        let Ok(MachineEvent::Command(CommandNews::Ended(end))) = events.try_recv() else { panic!("no end") };
        assert_eq!(end, CommandEnd::Failed("a[2J: error 19".into()));
    }

    #[test]
    fn a_command_fits_or_is_refused() {
        assert_eq!(check_command(&["a".into(), "b".into()]), Ok(()));
        assert!(check_command(&vec!["a".to_owned(); 513]).unwrap_err().contains("512 of 65536 fit"));
        assert!(check_command(&["a".repeat(TEXT_MAX)]).is_err());
    }

    #[test]
    fn the_first_interface_behind_a_passt_is_set_up() {
        let net = |kind, mac| NetChoice { kind, mac, rates: Rates::default() };
        let switch = || net(NetKind::Switch("lan".into()), None);
        assert_eq!(network(&[switch()], "a"), None);
        let given = Some([2, 0, 0, 0, 0, 0x1f]);
        let text = network(&[switch(), net(NetKind::User(vec![]), given)], "a").unwrap();
        assert_eq!(text, "02:00:00:00:00:1f 10.0.2.15 255.255.255.0 10.0.2.2 10.0.2.3");
        let of = |name| network(&[net(NetKind::User(vec![]), None)], name).unwrap();
        assert!(of("a") == of("a") && of("a") != of("b"), "the name makes the address");
    }

    #[test]
    fn the_present_directory_is_kept_below_the_root() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(directory(Path::new("/")), here.to_str().unwrap());
        assert_eq!(directory(&here), "/");
        assert_eq!(directory(Path::new("/nowhere")), "/");
    }
}
