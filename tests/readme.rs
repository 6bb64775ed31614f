//! The documents do what they say: each command in them is run and what it prints compared, each link leads somewhere, and
//! tables that repeat the code are held against it.
//!
//! A fenced block of `sh` is a script, which must succeed. A block of `console` is a session: behind `$ ` stands a command,
//! behind the prompt of the sample kernel what is typed into it, and the rest is what the terminal shows. There `...` stands
//! for any text, and alone on a line for any lines. A status other than 0 is asked for by `$ echo $?`. The blocks of one
//! document share a directory. A block marked `lab` runs in the lab only; in one marked `figures`, times and addresses of code may
//! be others; one marked `no-test: REASON` does not run. A block of `rust` names a file, in which its lines stand in this order.
//!
//! Needs KVM.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use clap::CommandFactory;
use common::kvm;
use hostel::arch::irqchip::Irqchip;
use hostel::backend::block::disk::DiskOptions;
use hostel::backend::rate::Rates;
use hostel::backend::share::server::Rights;
use hostel::cli::Cli;
use hostel::config::{DevicesConfig, DiskChoice, NetChoice, NetKind, ShareChoice, TransportChoice};
use hostel::machine::devices;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The document that the lab needs: there is no repository in it.
const README: &str = include_str!("../README.md");

/// What the documents call the program: its path, and the command that builds it before it runs.
const BUILD_AND_RUN: &str = "cargo run --release -- ";
/// What the documents call a distribution's kernel.
const KERNEL: &str = "/boot/vmlinuz";
/// The sample kernel's prompt.
const PROMPT: &str = "> ";
/// Digits of an address in a sample guest: 0x1000dd.
const CODE_DIGITS: usize = 6;
/// Any text, or any lines.
const ANYTHING: &str = "...";

/// A document, by its path in the repository.
struct Document {
    path: String,
    text: String,
}

/// Every document; in the lab the one with blocks for it.
fn documents() -> Vec<Document> {
    if in_lab() {
        return vec![Document { path: "README.md".to_owned(), text: README.to_owned() }];
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "guest/README.md"].map(String::from).to_vec();
    for entry in fs::read_dir(root.join("docs")).expect("the folder is there") {
        paths.push(format!("docs/{}", entry.expect("it can be listed").file_name().display()));
    }
    let read = |path: String| Document { text: fs::read_to_string(root.join(&path)).expect("it is text"), path };
    paths.into_iter().filter(|path| path.ends_with(".md")).map(read).collect()
}

/// A fenced block.
struct Block<'a> {
    document: &'a str,
    line: usize,
    language: &'a str,
    mark: &'a str,
    lines: Vec<&'a str>,
}

impl Document {
    fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open = false;
        for (index, line) in self.text.lines().enumerate() {
            match line.strip_prefix("```") {
                Some(_) if open => open = false,
                Some(info) => {
                    let (language, mark) = info.split_once(' ').unwrap_or((info, ""));
                    blocks.push(Block { document: &self.path, line: index + 1, language, mark, lines: Vec::new() });
                    open = true;
                }
                None if open => blocks.last_mut().expect("a block is open").lines.push(line),
                None => {}
            }
        }
        assert!(!open, "{}: a block has no end", self.path);
        blocks
    }
}

/// A command, what is typed into it, and what a terminal shows then.
#[derive(Default)]
struct Step<'a> {
    command: String,
    input: String,
    shown: Vec<&'a str>,
}

impl<'a> Block<'a> {
    fn steps(&self) -> Vec<Step<'a>> {
        match self.language {
            "sh" => vec![Step {
                command: format!("set -e\n{}", self.lines.join("\n")),
                shown: vec![ANYTHING],
                ..Step::default()
            }],
            "console" => self.session(),
            _ => Vec::new(),
        }
    }

    fn session(&self) -> Vec<Step<'a>> {
        let mut steps: Vec<Step> = Vec::new();
        for &line in &self.lines {
            if let Some(command) = line.strip_prefix("$ ") {
                steps.push(Step { command: command.to_owned(), ..Step::default() });
                continue;
            }
            let step = steps.last_mut().unwrap_or_else(|| panic!("{}: no command before {line}", self.place()));
            if let Some(typed) = line.strip_prefix(PROMPT) {
                step.input += &format!("{typed}\n");
            }
            step.shown.push(line);
        }
        steps
    }

    fn place(&self) -> String {
        format!("{}:{}", self.document, self.line)
    }

    /// Holds quoted code against the file that it is from.
    fn compare(&self, file: &str) {
        let text =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("a file of the repository");
        let mut lines = text.lines();
        for quoted in self.lines.iter().filter(|line| line.trim() != ANYTHING) {
            assert!(lines.any(|line| line.trim() == quoted.trim()), "{}: {file} lacks, there: {quoted}", self.place());
        }
    }

    /// Runs the block's commands in `directory` and compares.
    fn run(&self, directory: &Path) {
        let steps = self.steps();
        let mut status = 0;
        for (index, step) in steps.iter().enumerate() {
            let place = format!("{}: {}", self.place(), step.command);
            let (output, ended) = shell(step, status, directory);
            let same = if self.mark == "figures" {
                shows(&figureless(step.shown.iter().copied()), &figureless(output.iter().map(String::as_str)))
            } else {
                shows(&step.shown, &output)
            };
            assert!(same, "{place}\nshows, with status {ended}:\n{}", output.join("\n"));
            let asked = steps.get(index + 1).is_some_and(|next| next.command == "echo $?");
            assert!(ended == 0 || asked, "{place}\nended with {ended}:\n{}", output.join("\n"));
            status = ended;
        }
    }
}

/// The lines that a terminal shows of `step`, and its status. `before` is the status of the command before it.
fn shell(step: &Step, before: i32, directory: &Path) -> (Vec<String>, i32) {
    let program = Path::new(env!("CARGO_BIN_EXE_hostel"));
    let programs = program.parent().expect("a program lies in a directory").display();
    let kernel = env::var("HOSTEL_LAB_KERNEL").unwrap_or(KERNEL.into());
    let command = step.command.replace(BUILD_AND_RUN, "hostel ").replace(KERNEL, &kernel);
    fs::write(directory.join(".typed"), &step.input).expect("the directory takes a file");
    let input = File::open(directory.join(".typed")).expect("and gives it back");
    let output = File::create(directory.join(".shown")).expect("the directory takes another");
    let status = Command::new("sh")
        .args(["-c", &format!("(exit {before})\n{command}")])
        .current_dir(directory)
        .env("PATH", format!("{programs}:{}", env::var("PATH").expect("there is a PATH")))
        .env("XDG_CACHE_HOME", directory)
        .stdin(input)
        .stderr(Stdio::from(output.try_clone().expect("descriptors are not that few")))
        .stdout(output)
        .status()
        .expect("sh can be started");
    let shown = fs::read(directory.join(".shown")).expect("the file is there");
    let shown = String::from_utf8_lossy(&shown).into_owned();
    let lines = shown.lines().map(|line| line.trim_end().replace('\r', "")).collect();
    (lines, status.code().expect("no signal ends the shell"))
}

/// Whether `actual` is what the document shows.
fn shows(document: &[impl AsRef<str>], actual: &[String]) -> bool {
    match document {
        [] => actual.is_empty(),
        [line, rest @ ..] if line.as_ref() == ANYTHING => {
            (0..=actual.len()).any(|skipped| shows(rest, &actual[skipped..]))
        }
        [line, rest @ ..] => {
            actual.split_first().is_some_and(|(first, others)| matches(line.as_ref(), first) && shows(rest, others))
        }
    }
}

/// Whether `actual` is the line `document`, in which dots stand for any text.
fn matches(document: &str, actual: &str) -> bool {
    match document.split_once(ANYTHING) {
        None => document.trim_end() == actual,
        Some((start, rest)) => {
            let Some(actual) = actual.strip_prefix(start) else { return false };
            let ends = actual.char_indices().map(|(at, _)| at).chain([actual.len()]);
            ends.into_iter().any(|at| matches(rest, &actual[at..]))
        }
    }
}

/// Lines without what differs from run to run and from compiler to compiler: times, addresses of code, and the spaces that
/// align them.
fn figureless<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let word = |word: &str| match word.split_once("+0x") {
        Some((symbol, _)) => format!("{symbol}+0x"),
        None if word.contains('.') && word.parse::<f64>().is_ok() => "0.0".to_owned(),
        None if word.strip_prefix("0x").is_some_and(|digits| digits.len() == CODE_DIGITS) => "0x".to_owned(),
        None => word.to_owned(),
    };
    lines.map(|line| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn figures_are_those_of_a_run() {
    let first = figureless(["  1.5   0 out 1 0x3f8  0x48 'H'   17.6  0x1000dd write+0x41 out dx, al"].into_iter());
    let second = figureless([" 94.719 0 out 1 0x3f8  0x48 'H'    0.8  0x1000ff write+0x9 out dx, al"].into_iter());
    assert_eq!(first, second);
    assert_eq!(first, ["0.0 0 out 1 0x3f8 0x48 'H' 0.0 0x write+0x out dx, al"]);
}

#[test]
fn dots_stand_for_any_text() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(shows(&["a", "...", "d ... f"], &lines("a\nb\nc\nd e f")));
    assert!(shows(&["a", "..."], &lines("a")));
    assert!(!shows(&["a", "...", "d ... f"], &lines("a\nb\nc\nd e")));
    assert!(!shows(&["a"], &lines("a\nb")));
    assert!(!shows(&["a", "b"], &lines("a")));
}

#[test]
fn every_command_does_what_the_document_shows() {
    if !kvm::available() {
        return;
    }
    let in_lab = in_lab();
    for document in documents() {
        let scratch = Scratch::new(&document.path);
        for block in document.blocks() {
            let place = block.place();
            match block.mark {
                _ if in_lab && block.mark != "lab" => {} // the machine around the lab runs it, with a compiler at hand
                "" | "figures" => block.run(&scratch.0),
                file if block.language == "rust" => block.compare(file),
                "lab" if in_lab || kvm::lab_kernel().is_some() => block.run(&scratch.0),
                "lab" => {}
                mark => assert!(mark.starts_with("no-test: "), "{place}: what is {mark:?}?"),
            }
        }
    }
}

#[test]
fn every_link_leads_to_a_file() {
    if in_lab() {
        return; // which has no repository
    }
    for Document { path, text } in documents() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(&path);
        let folder = file.parent().expect("a document lies in a folder");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http")) {
            let target = target.split('#').next().expect("a split has a first part");
            assert!(folder.join(target).exists(), "{path} links to {target}");
        }
    }
}

#[test]
fn every_device_has_its_row() {
    let disk = || DiskChoice { path: "a.img".into(), options: DiskOptions::default(), id: None };
    let none = || DevicesConfig {
        disk: Vec::new(),
        net: Vec::new(),
        pcap: None,
        rng: false,
        virtio_console: false,
        vsock: None,
        balloon: None,
        share: Vec::new(),
        transport: TransportChoice::Mmio,
    };
    // The places of virtio devices are those of the first.
    let configs = [
        DevicesConfig { rng: true, transport: TransportChoice::Pci, ..none() },
        DevicesConfig { rng: true, ..none() },
        DevicesConfig { virtio_console: true, ..none() },
        DevicesConfig { balloon: Some(0), ..none() },
        DevicesConfig { disk: vec![disk()], ..none() },
        DevicesConfig { vsock: Some("vm.sock".into()), ..none() },
        DevicesConfig {
            net: vec![NetChoice { kind: NetKind::Tap("tap0".into()), mac: None, rates: Rates::default() }],
            ..none()
        },
        DevicesConfig { share: vec![ShareChoice { path: ".".into(), tag: None, rights: Rights::Read }], ..none() },
    ];
    for node in configs.iter().flat_map(|config| devices::nodes(Irqchip::Split, config)) {
        let row = README.lines().find(|line| line.starts_with(&format!("| `{}` |", node.name)));
        let row = row.unwrap_or_else(|| panic!("README.md has no row for {}", node.name));
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let first = node.ports.map_or(node.mmio.map_or(0, |(base, _)| base), |(first, _)| first.into());
        assert!(cells[2].contains(&format!("{first:#x}")), "{row}");
        assert_eq!(cells[3], node.irq.map_or(String::new(), |irq| irq.to_string()), "{row}");
    }
}

/// Both ways: the README names each option of `run`, and no document names an option that no verb has.
#[test]
fn options_are_those_of_the_command_line() {
    let command = Cli::command();
    let verbs = || command.get_subcommands();
    let known: Vec<_> = verbs().flat_map(|verb| verb.get_arguments()).filter_map(|option| option.get_long()).collect();
    let run = command.find_subcommand("run").expect("the verb is there");
    let missing = |name: &&str| !README.contains(&format!("`--{name}"));
    let unnamed: Vec<_> = run.get_arguments().filter_map(|option| option.get_long()).filter(missing).collect();
    assert!(unnamed.is_empty(), "README.md does not name {unnamed:?}");
    for Document { path, text } in documents() {
        for named in text.split("`--").skip(1).filter_map(|rest| rest.split(['`', ' ']).next()) {
            assert!(named.is_empty() || known.contains(&named), "{path}: there is no --{named}");
        }
    }
}

fn in_lab() -> bool {
    env::var_os("HOSTEL_LAB_KERNEL").is_some()
}

/// A directory of its own, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(document: &str) -> Scratch {
        let name = format!("hostel-readme-{}-{}", document.replace('/', "-"), std::process::id());
        let directory = env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("the directory for temporary files takes one more");
        Scratch(directory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory that stays is no failure of a document.
        let _ = fs::remove_dir_all(&self.0);
    }
}
