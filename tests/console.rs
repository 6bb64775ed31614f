//! The interactive console and the ways out: keys, command prompt, signals, closed and stopped descriptors.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{PROGRAM, finish, hostel};
use common::kvm;
use common::scratch::Scratch;
use common::session::Session;
use rustix::process::Signal;
use rustix::termios::LocalModes;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// The prompt of the sample kernel's shell.
const GUEST: &str = "\n> ";
/// Hostel's own.
const PROMPT: &str = "(hostel) ";

/// The default guest on a terminal, at its prompt.
fn shell() -> Session {
    let mut shell = Session::on_terminal(&["run"]);
    shell.wait_for(GUEST);
    shell
}

#[test]
fn the_keys_are_named_and_work_and_the_terminal_is_raw_only_meanwhile() {
    if !kvm::available() {
        return;
    }
    let mut session = Session::on_terminal(&["run"]);
    session.wait_for("hostel: Ctrl-A x ends");
    session.wait_for(GUEST);
    assert!(!session.settings().local_modes.contains(LocalModes::ECHO));
    session.type_in("cpuid\r");
    session.wait_for("vendor ");
    session.wait_for(GUEST);
    session.type_in("\x01h");
    session.wait_for("Ctrl-A Ctrl-A  send one Ctrl-A");
    session.type_in("\x03\x1a\x1c\x13tim\x01ce\r");
    session.wait_for(PROMPT);
    session.wait_for("such command; 'help' lists them");
    session.type_in("\re\r");
    session.wait_for("time stamp");
    session.type_in("\x01x");
    assert_eq!(session.end_on_terminal(), (130, true));
}

#[test]
fn every_command_of_the_prompt_does_what_help_says() {
    if !kvm::available() {
        return;
    }
    let mut session = shell();
    session.type_in("\x01chelp\r");
    for name in ["help ", "regs ", "pause ", "resume ", "reset ", "powerdown ", "nmi ", "sysrq X ", "balloon ", "quit "]
    {
        session.wait_for(name);
    }
    session.wait_for(PROMPT);
    session.type_in("regs\r");
    session.wait_for("vCPU 0");
    session.wait_for("rip ");
    session.wait_for(PROMPT);
    // While the vCPU is paused, the guest answers nothing; what was typed for it comes afterwards.
    session.type_in("pause\r");
    session.wait_for(PROMPT);
    session.type_in("\rtime\r\x01cregs\r");
    session.wait_for("rip ");
    session.wait_for(PROMPT);
    session.type_in("resume\r");
    session.wait_for("time stamp");
    session.type_in("sysrq\r");
    session.wait_for("sysrq takes one key");
    session.wait_for(PROMPT);
    session.type_in("sysrq t\r");
    session.wait_for(PROMPT);
    // The key of the break is the first letter of a command.
    session.type_in("\rime\r");
    session.wait_for("time stamp");
    session.type_in("\x01cballoon\r");
    session.wait_for("this machine has no balloon: --balloon");
    session.wait_for(PROMPT);
    session.type_in("\r");
    // The sample kernel has no driver for the power button: nothing happens to it.
    session.type_in("\x01cpowerdown\r");
    session.wait_for(PROMPT);
    session.type_in("quit\r");
    assert_eq!(session.end_on_terminal(), (130, true));
}

#[test]
fn an_nmi_from_the_prompt_reaches_the_guest() {
    if !kvm::available() {
        return;
    }
    let mut session = shell();
    session.type_in("\x01cnmi\r");
    session.wait_for("vector 2 at");
    assert_eq!(session.end_on_terminal(), (12, true));
}

#[test]
fn reset_at_the_prompt_ends_like_a_reboot() {
    if !kvm::available() {
        return;
    }
    let mut session = shell();
    session.type_in("\x01creset\r");
    assert_eq!(session.end_on_terminal(), (0, true));
}

#[test]
fn control_d_at_the_guest_is_its_own_end() {
    if !kvm::available() {
        return;
    }
    let mut session = shell();
    session.type_in("\x04");
    assert_eq!(session.end_on_terminal(), (0, true));
}

#[test]
fn a_signal_at_any_time_ends_it_by_that_signal_with_the_terminal_restored() {
    if !kvm::available() {
        return;
    }
    signals_are_not_ignored();
    let signals = [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)];
    for round in 0..100u64 {
        let session = Session::on_terminal(&["run", "--mem", "32M"]);
        // Not to wait for something: the signal is to come at any moment of the start, or at the prompt.
        thread::sleep(Duration::from_micros(500 * round));
        let (signal, status) = signals[round as usize % signals.len()];
        session.signal(signal);
        assert_eq!(session.end_on_terminal(), (status, true), "after {} us", 500 * round);
    }
}

/// A signal that whoever started the tests ignores stays ignored, and these tests would wait for ever. `nohup` ignores SIGHUP, and `&` in
/// a script SIGINT.
fn signals_are_not_ignored() {
    let status = std::fs::read_to_string("/proc/self/status").expect("the host has /proc");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("proc_pid_status(5)");
    let ignored = u64::from_str_radix(ignored.trim(), 16).expect("a mask");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        assert_eq!(
            ignored >> (signal.as_raw() - 1) & 1,
            0,
            "{signal:?} is ignored: start the tests without nohup or &"
        );
    }
}

#[test]
fn a_signal_ends_also_who_writes_or_waits_for_a_reader() {
    if !kvm::available() {
        return;
    }
    signals_are_not_ignored();
    for signal in [Signal::INT, Signal::TERM] {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "interrupts"]);
        let mut session = Session::on_pipes(command);
        session.wait_for("q ends");
        session.signal(signal);
        let (status, _) = session.end();
        assert_eq!(status, 128 + signal.as_raw());
    }
}

#[test]
fn an_ignored_signal_stays_ignored() {
    if !kvm::available() {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP INT; exec \"$0\" run", PROGRAM]);
    let mut session = Session::on_pipes(command);
    session.wait_for("> ");
    session.signal(Signal::HUP);
    session.signal(Signal::INT);
    session.type_in("time\n");
    session.wait_for("time stamp");
    let (status, _) = session.end();
    assert_eq!(status, 0);
}

#[test]
fn stopped_and_continued_the_terminal_is_raw_again() {
    if !kvm::available() {
        return;
    }
    let mut session = shell();
    session.signal(Signal::STOP);
    session.signal(Signal::CONT);
    session.type_in("time\r");
    session.wait_for("time stamp");
    assert!(!session.settings().local_modes.contains(LocalModes::ECHO));
    session.type_in("poweroff\r");
    assert_eq!(session.end_on_terminal(), (0, true));
}

#[test]
fn standard_output_holds_the_guest_s_bytes_and_standard_error_nothing() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("stdout");
    let file = scratch.join("file");
    let output = fs::File::create(&file).expect("the directory takes a file");
    let run = Command::new(PROGRAM).args(["run", "hello"]).stdin(Stdio::null()).stdout(output).output();
    let run = run.expect("the program can be started");
    let hello = "Hello from a guest: 64-bit code in ring 0.\nNothing left to do, powering off.\n";
    assert_eq!(fs::read_to_string(&file).expect("it is there"), hello);
    assert_eq!((run.status.code(), run.stderr.as_slice()), (Some(0), &b""[..]));
    // Appending is the shell's business, and stays so.
    let both = format!("exec \"$0\" run hello >>{file}");
    finish(shell_command(&both), "");
    assert_eq!(fs::read_to_string(&file).expect("it is there"), hello.repeat(2));
}

#[test]
fn piped_input_reaches_the_guest_from_its_first_byte_to_its_end() {
    if !kvm::available() {
        return;
    }
    let run = hostel(&["run"], "help\ncpuid\npoweroff\n");
    assert!(run.stdout.contains("> help\nhelp: this list\n") && run.stdout.contains("> cpuid\nvendor "), "{run:#?}");
    assert_eq!((run.status, run.stderr.as_str()), (0, ""), "{run:#?}");
    // More than all buffers on the way hold, and no poweroff: the end of input is one.
    let many: String = (0..1000).map(|number| format!("peek {}\n", 4 * number)).collect();
    let run = hostel(&["run"], &many);
    let lines = || run.stdout.lines();
    let echoed: String = lines().filter_map(|line| line.strip_prefix("> ")).map(|line| format!("{line}\n")).collect();
    assert_eq!((run.status, lines().filter(|line| line.starts_with("0x")).count()), (0, 1000));
    assert_eq!(echoed.trim_end(), many.trim_end());
}

fn shell_command(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, PROGRAM]);
    command
}

#[test]
fn closed_descriptors_are_the_end_of_input_and_nowhere() {
    if !kvm::available() {
        return;
    }
    let status = |script: &str| finish(shell_command(script), "");
    let run = status("exec \"$0\" run <&-");
    assert!(run.status == 0 && run.stdout.ends_with("> \n") && run.stderr.is_empty(), "{run:#?}");
    for script in ["exec \"$0\" run hello >&-", "exec \"$0\" run hello <&- >&- 2>&-", "exec \"$0\" run hello 2>&-"] {
        let run = status(script);
        assert_eq!((run.status, run.stderr.as_str()), (0, ""), "{script}: {run:#?}");
    }
    assert_eq!(status("exec \"$0\" run crash 2>&-").status, 14);
    assert_eq!(status("exec \"$0\" run crash 2>/dev/full").status, 14);
    assert_eq!(status("exec \"$0\" run missing 2>&-").status, 10);
    let run = status("exec \"$0\" run hello >/dev/full");
    assert_eq!(
        (run.status, run.stderr.as_str()),
        (0, "hostel: 77 bytes of the console reached no reader\n"),
        "{run:#?}"
    );
}

#[test]
fn a_reader_that_left_does_not_end_the_guest() {
    if !kvm::available() {
        return;
    }
    // The reader is gone before the first byte: the shell opens the FIFO for both sides, and closes the reader's.
    let scratch = Scratch::new("reader");
    let fifo = scratch.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo can be started").success());
    let script = format!("exec 4<>{fifo} 5>{fifo} 4<&-; exec \"$0\" run -- exit 5 >&5");
    let run = finish(shell_command(&script), "");
    assert_eq!(run.status, 11, "{run:#?}");
    let script = format!("exec 4<>{fifo} 5>{fifo} 4<&-; exec \"$0\" run hello >&5");
    let run = finish(shell_command(&script), "");
    assert_eq!((run.status, run.stderr.as_str()), (0, "hostel: 77 bytes of the console reached no reader\n"));
}

#[test]
fn the_console_can_go_to_a_file_or_nowhere() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("file");
    let file = scratch.file("console", &[b'x'; 1000]);
    let run = hostel(&["run", "hello", "--console", &format!("file:{file}")], "not read");
    assert_eq!((run.status, run.stdout.as_str(), run.stderr.as_str()), (0, "", ""), "{run:#?}");
    assert_eq!(fs::read_to_string(&file).expect("it is there").len(), 77);
    let run = hostel(&["run", "hello", "--console", "none", "--expect", "powering off"], "");
    assert_eq!((run.status, run.stdout.as_str(), run.stderr.as_str()), (0, "", ""), "{run:#?}");
}

/// Types at the prompt of `shell` behind `user`, and powers it off.
fn power_off_through(mut user: impl Read + Write) {
    user.write_all(b"\ntime\n").expect("it takes input");
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("time stamp") {
        let mut more = [0; 256];
        let count = user.read(&mut more).expect("the guest answers");
        assert!(count > 0, "hung up after {:?}", String::from_utf8_lossy(&seen));
        seen.extend(&more[..count]);
    }
    user.write_all(b"poweroff\n").expect("it takes input");
}

/// A run without standard input, and the console's place that it tells.
fn console_elsewhere(console: &str) -> (Child, String) {
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--console", console]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = command.spawn().expect("the program can be started");
    let mut line = String::new();
    let stderr = run.stderr.as_mut().expect("it is piped");
    BufReader::new(stderr).read_line(&mut line).expect("it tells where");
    let place = line.trim_end().strip_prefix("hostel: the console is at ").expect(&line).to_owned();
    (run, place)
}

#[test]
fn a_console_behind_a_socket_or_a_pseudo_terminal_takes_one_user_after_the_other() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("peer");
    let path = scratch.join("console");
    let (mut run, place) = console_elsewhere(&format!("socket:{path}"));
    assert_eq!(place, path);
    drop(UnixStream::connect(&path).expect("it listens"));
    power_off_through(UnixStream::connect(&path).expect("it listens"));
    assert_eq!(run.wait().expect("it ends").code(), Some(0));
    assert!(!fs::exists(&path).expect("the directory is there"), "the socket is removed");

    let (mut run, place) = console_elsewhere("pty");
    for last in [false, true] {
        let user = fs::File::options().read(true).write(true).open(&place).expect("it is a terminal");
        if last {
            power_off_through(user);
        }
    }
    let mut stdout = String::new();
    run.stdout.take().expect("it is piped").read_to_string(&mut stdout).expect("it is text");
    assert_eq!((run.wait().expect("it ends").code(), stdout.as_str()), (Some(0), ""));
}
