//! The command line: verbs and where they lead. Options of `run` are fields of [`RunConfig`].

use crate::backend::balloon;
use crate::backend::net_switch::is_name;
use crate::bench::report::Part;
use crate::config::{IrqchipChoice, ReportChoice, RunConfig, ScriptStep, TraceConfig};
use crate::machine::{console, root, trace_shown, virtio};
use crate::process::options::ExecConfig;
use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Hosted virtual machine monitor for Linux KVM: boots guests, tests them, and explains what it does
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110, after_help = EXIT_STATUS)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What Hostel can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Boot a sample guest or an image file
    #[command(after_help = format!("{EXAMPLES}\n\n{EXIT_STATUS}"))]
    Run(Box<RunConfig>),
    /// Run, and print every exit of the guest: what trapped, where, and how it was answered
    #[command(after_help = TRACE_EXAMPLES)]
    Trace(Box<TraceConfig>),
    /// Run a program for Linux, or a console program for Windows, on a vCPU without a kernel: its system or library calls are trapped and
    /// answered by Hostel
    #[command(after_help = EXEC_EXAMPLES)]
    Exec(Box<ExecConfig>),
    /// List the sample guests inside this program
    Guests,
    /// Tell why an exit or an instruction traps, who decides, and who answers; without a name, list all
    Explain {
        /// An exit kind, an instruction or an exception: mmio-write, out, hlt, cpuid, triple fault
        name: Vec<String>,
        /// Print all of it as a page (docs/exits.md)
        #[arg(long, conflicts_with = "name")]
        markdown: bool,
    },
    /// Tell what this host offers, measured, and how to repair what is missing
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure what Hostel costs here: phases of a start, exits by kind, memory beside the guest's own
    Bench {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Measure one part only
        #[arg(long, value_name = "PART", value_enum)]
        only: Option<Part>,
    },
    /// Be the switch behind --net switch:NAME until its last machine leaves; the first machine starts it by itself
    Switch {
        /// Its name
        #[arg(value_parser = switch_name)]
        name: String,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page (roff): hostel man | man -l -
    Man,
}

const EXAMPLES: &str = "\
Examples:
  hostel run                                    the sample kernel's prompt; Ctrl-A h names Hostel's keys
  hostel run smp --cpus 4                       a sample guest on four vCPUs
  hostel run /boot/vmlinuz -- cpus poweroff     Linux, with the initramfs inside Hostel
  hostel run /boot/vmlinuz --root / -- make test
                                                a command on another kernel, with this system's files
  hostel run kernel.elf --expect 'tests passed' --reject linux --timeout 30s";

const EXEC_EXAMPLES: &str = "\
Examples:
  hostel exec /bin/ls -l /                      a program, with this system's files to read
  hostel exec --trace /bin/ls /                 each system call, as strace prints it
  hostel exec sort.exe <names.txt               a console program for Windows
  hostel exec hello.com                         a program for DOS
  hostel exec --root DIR --allow-write /bin/sh -c 'date >now'
                                                below a directory of its own, which it may change

The status is the program's own; 128 + N when signal N ended it, 127 when it is not
there, 126 when it cannot be executed, 125 when Hostel or the machine failed, 124
when the deadline passed. Ctrl-C ends it; a program that handles SIGINT gets the
first, and the second within a second ends it all the same.";

const TRACE_EXAMPLES: &str = "\
Examples:
  hostel trace hello                            a line an exit, like ones folded, on standard error
  hostel trace --every --device COM1 hello      each access to the serial port
  hostel trace --summary smp --cpus 4           counts, percentiles and the hottest instructions
  hostel trace --json --output exits.json hello an object an exit, in a file

The columns: milliseconds since the start; vCPU; kind of the exit; bytes;
address and register; value, and characters beside it; microseconds in the
guest before it; microseconds until it was answered; the instruction.";

const EXIT_STATUS: &str = "\
Exit status of run:
    0  the guest powered off, rebooted or halted for good; or every --expect was met
       With --root, the command's own; 128 + N when signal N ended it, 127 when it
       is not there, and 125 when Hostel or the machine failed.
  odd  the guest's own value v (isa-debug-exit), as (v << 1) | 1
    2  usage                         18  an --expect, --golden or --budget was not met
   10  bad image, or host error      20  a --reject matched
   12  the guest's kernel panicked  124  the deadline passed
   14  triple fault                 130  ended by Ctrl-A x
   16  KVM could not go on          134  a bug of Hostel
SIGINT, SIGTERM and SIGHUP end it by the same signal.";

impl Cli {
    /// Parses the program's own arguments; prints help and errors, and ends the process, where that is what they ask for.
    pub fn from_arguments() -> Cli {
        let parsed = match Cli::plain_run(std::env::args_os()) {
            Some(cli) => Ok(cli),
            None => Cli::parse_matches(Cli::command().get_matches()),
        };
        parsed.unwrap_or_else(|error| error.exit())
    }

    /// A start waits for the command line, so `hostel run` with options in order is parsed without a look at the other verbs
    /// and their options. `None` is all else, help and mistakes included.
    fn plain_run(mut arguments: impl Iterator<Item = OsString>) -> Option<Cli> {
        arguments.nth(1).filter(|verb| verb == "run")?;
        let command = Command::new("run").no_binary_name(true).disable_help_flag(true);
        let mut matches = RunConfig::augment_args(command).try_get_matches_from(arguments).ok()?;
        let script = script(&matches);
        let mut config = Box::new(RunConfig::from_arg_matches_mut(&mut matches).ok()?);
        config.console.script = script;
        config.settle();
        check("run", &config).ok()?;
        Some(Cli { verb: Verb::Run(config) })
    }

    fn parse_matches(matches: ArgMatches) -> Result<Cli, clap::Error> {
        let mut cli = Cli::from_arg_matches(&matches)?;
        let config = match &mut cli.verb {
            Verb::Run(config) => config,
            Verb::Trace(config) => &mut config.run,
            _ => return Ok(cli),
        };
        if let Some((verb, options)) = matches.subcommand() {
            config.console.script = script(options);
            config.settle();
            check(verb, config)?;
        }
        if let Verb::Trace(trace) = &cli.verb {
            trace_shown::filter(trace).map_err(|error| mistake("trace", ErrorKind::InvalidValue, error))?;
            if let Some(path) = written_twice(trace) {
                let text = format!("{} is to be written by two options", path.display());
                return Err(mistake("trace", ErrorKind::ArgumentConflict, text));
            }
        }
        Ok(cli)
    }
}

/// An error of `verb`'s options, with its usage.
fn mistake(verb: &str, kind: ErrorKind, text: impl Display) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    command.find_subcommand_mut(verb).expect("a verb that was parsed").error(kind, text)
}

/// A file that two options of a trace write. What is in /dev may be (`/dev/null`).
fn written_twice(trace: &TraceConfig) -> Option<&Path> {
    let reports = trace.run.ends.report.iter().map(|(ReportChoice::Html(path) | ReportChoice::Junit(path))| path);
    let single = [&trace.output, &trace.export, &trace.golden, &trace.run.ends.result];
    let mut paths: Vec<&Path> = single.into_iter().flatten().chain(reports).map(PathBuf::as_path).collect();
    paths.sort_unstable();
    paths.windows(2).find(|pair| pair[0] == pair[1] && !pair[0].starts_with("/dev")).map(|pair| pair[0])
}

fn switch_name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.into()) } else { Err("a switch's name has 1 to 32 letters, digits, - or _".into()) }
}

/// `--expect` and `--send` in the order in which they were typed.
fn script(run: &ArgMatches) -> Vec<ScriptStep> {
    let steps = |id: &str, step: fn(String) -> ScriptStep| {
        let indices = run.indices_of(id).into_iter().flatten();
        let values = run.get_many::<String>(id).into_iter().flatten();
        indices.zip(values.map(|value| step(value.clone()))).collect::<Vec<_>>()
    };
    let mut all = steps("expect", ScriptStep::Expect);
    all.extend(steps("send", ScriptStep::Send));
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, step)| step).collect()
}

/// What no single option can tell.
fn check(verb: &str, config: &RunConfig) -> Result<(), clap::Error> {
    let wrong = |text: &str| Err(mistake(verb, ErrorKind::ArgumentConflict, text));
    if matches!(config.console.script.first(), Some(ScriptStep::Send(_))) {
        return wrong("--send types when the --expect before it has matched: put an --expect first");
    }
    if config.ends.wait_exit && config.console.expect.is_empty() {
        return wrong("--wait-exit changes what the last --expect does: there is none");
    }
    if config.machine.irqchip == Some(IrqchipChoice::None) && config.machine.cpus > Some(1) {
        return wrong("--irqchip none leaves one vCPU: nothing could start the others");
    }
    if config.root.is_some() {
        root::check_command(&config.args).map_err(|error| mistake(verb, ErrorKind::TooManyValues, error))?;
    }
    let (devices, most) = (virtio::names(&config.devices).len(), virtio::most(config.devices.transport));
    if devices > most {
        return wrong(&format!("{devices} virtio devices: this transport has room for {most}"));
    }
    if let Some(size) = config.devices.balloon {
        balloon::check(size, config.machine.mem.size())
            .map_err(|error| mistake(verb, ErrorKind::ValueValidation, error))?;
    }
    let mut tags: Vec<_> = config.devices.tags().collect();
    tags.sort_unstable();
    if let Some(pair) = tags.windows(2).find(|pair| pair[0] == pair[1]) {
        return wrong(&format!("two shares have the tag {}: the guest could not tell them apart", pair[0]));
    }
    if !config.console.script.is_empty() || !config.console.reject.is_empty() {
        console::watcher(config, false).map_err(|error| mistake(verb, ErrorKind::ValueValidation, error))?;
    }
    Ok(())
}

/// The completion script for `shell`.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hostel", &mut script);
    script
}

/// The manual page, with a section for each verb.
///
/// # Errors
/// The page cannot be made.
pub fn manual() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    // Its lines are laid out by hand: roff is not to fill them.
    let mut page = String::from_utf8_lossy(&page).replace(".SH EXTRA\n", ".SH \"EXIT STATUS\"\n.nf\n").into_bytes();
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        page.extend(format!(".SH \"HOSTEL {}\"\n", verb.get_name().to_uppercase()).bytes());
        let verb = clap_mangen::Man::new(verb.clone());
        verb.render_description_section(&mut page)?;
        verb.render_options_section(&mut page)?;
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        let all = ["hostel"].iter().chain(arguments);
        Cli::parse_matches(Cli::command().try_get_matches_from(all)?)
    }

    fn run(arguments: &[&str]) -> Box<RunConfig> {
        let arguments: Vec<_> = ["run"].iter().chain(arguments).copied().collect();
        match parse(&arguments).unwrap().verb {
            Verb::Run(config) => config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_plain_run_is_parsed_alike_without_the_other_verbs() {
        let all = |words: &'static str| ["hostel"].into_iter().chain(words.split(' '));
        let plain = |words| Cli::plain_run(all(words).map(OsString::from));
        for words in ["run", "run smp --cpus 4 --mem 1G", "run --expect a --send b --timeout 3s f -- x -y", "run run"] {
            let whole = parse(&words.split(' ').collect::<Vec<_>>()).unwrap();
            assert_eq!(format!("{:?}", plain(words).unwrap()), format!("{whole:?}"));
        }
        for words in ["guests", "run -h", "run --help", "run --cpus 0", "run a b", "run --send x", "-h", "trace hello"]
        {
            assert!(plain(words).is_none(), "{words}");
        }
    }

    #[test]
    fn the_dialogue_keeps_its_order() {
        let config = run(&["--expect", "a", "--send", "b", "--expect", "c", "--expect", "d", "--send", "e"]);
        let expect = |text: &str| ScriptStep::Expect(text.into());
        let send = |text: &str| ScriptStep::Send(text.into());
        assert_eq!(config.console.script, [expect("a"), send("b"), expect("c"), expect("d"), send("e")]);
    }

    #[test]
    fn arguments_for_the_guest_follow_two_dashes() {
        let config = run(&["smp", "--cpus", "4", "--", "--quiet", "x"]);
        assert_eq!(config.args, ["--quiet", "x"]);
        assert_eq!(config.machine.cpus, Some(4));
    }

    #[test]
    fn bad_options_are_usage_errors() {
        for bad in [
            &["run", "--cpus", "0"][..],
            &["run", "--cpus", "65"],
            &["run", "--mem", "0"],
            &["run", "--frobnicate"],
            &["run", "--send", "x"],
            &["run", "--wait-exit"],
            &["run", "--initrd", "x", "--no-initrd"],
            &["run", "--timeout", "0"],
            &["trace", "--only", "ioctl"],
            &["trace", "--device", "COM9"],
            &["trace", "--vcpu", "64"],
            &["trace", "--step", "1", "--explain"],
            &["trace", "--export", "a", "--report", "html:a"],
            &["run", "--disk", "a,rw"],
            &["run", "--balloon", "512M"],
            &["run", "--balloon", "much"],
            &[["run", "--transport=mmio"].as_slice(), &["--disk=a"; 9]].concat(),
            &["fly"],
            &[],
        ] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
    }

    #[test]
    fn the_manual_and_the_completions_know_every_option() {
        let page = manual().unwrap();
        let page = String::from_utf8(page).unwrap().replace("\\-", "-");
        assert!(page.contains(".SH \"EXIT STATUS\"\n.nf\n"), "a table that is not filled");
        let script = String::from_utf8(completions(Shell::Bash)).unwrap();
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        for option in run.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(page.contains(&format!("--{option}")), "{option}");
            assert!(script.contains(&format!("--{option}")), "{option}");
        }
    }
}
