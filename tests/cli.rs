//! The command line of `hostel run` as scripts and CI use it: exit statuses, deadlines, expectations, reports, several
//! machines at once. Most guests here are a few bytes of machine code, written where they are used.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, PROGRAM, finish, hostel};
use common::kvm;
use common::scratch::Scratch;
use common::session::Session;
use hostel::boot::samples::HELLO_FORMS;
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Pieces of machine code.
type Code<'a> = &'a [&'a [u8]];
/// Options of `hostel run`.
type Options<'a> = &'a [&'a str];

/// `jmp $`
const SPIN: &[u8] = b"\xeb\xfe";
/// `hlt`: the end of a machine without interrupts.
const HALT: &[u8] = b"\xf4";
/// `ud2`: without an IDT, a triple fault.
const CRASH: &[u8] = b"\x0f\x0b";
/// `mov edx, 0x505; mov al, 1; out dx, al`: pvpanic.
const PANIC: &[u8] = b"\xba\x05\x05\0\0\xb0\x01\xee";
/// `mov al, 0xfe; out 0x64, al`: the keyboard controller's reset.
const REBOOT: &[u8] = b"\xb0\xfe\xe6\x64";
/// `mov eax, 0xd0000000; jmp rax`: code where there is no memory, which no KVM can run.
const NOWHERE: &[u8] = b"\xb8\0\0\0\xd0\xff\xe0";

/// `mov edx, 0xf4; mov eax, VALUE; out dx, eax`: isa-debug-exit.
fn exit(value: u32) -> Vec<u8> {
    [&b"\xba\xf4\0\0\0\xb8"[..], &value.to_le_bytes(), b"\xef"].concat()
}

/// `mov edx, 0x3f8`, then `mov al, BYTE; out dx, al` for each byte.
fn print(text: &str) -> Vec<u8> {
    let bytes = text.bytes().flat_map(|byte| [0xb0, byte, 0xee]);
    b"\xba\xf8\x03\0\0".iter().copied().chain(bytes).collect()
}

/// Runs machine code in 64-bit mode on a machine without interrupts.
fn run(name: &str, code: Code, options: Options) -> Finished {
    let scratch = Scratch::new(name);
    let image = scratch.file("image", &code.concat());
    let fixed = ["run", &image, "--format", "flat64", "--irqchip", "none", "--mem", "16M"];
    hostel(&[&fixed[..], options].concat(), "")
}

#[test]
fn every_exit_status_is_produced_as_the_manual_says() {
    if !kvm::available() {
        return;
    }
    let bugs = print("BUG: it\n");
    let cases: &[(Code, Options, i32, &str)] = &[
        (&[HALT], &[], 0, ""),
        (&[REBOOT, SPIN], &[], 0, ""),
        (&[&exit(0)], &[], 1, "the guest ended with 0"),
        (&[&exit(3)], &[], 7, "the guest ended with 3"),
        (&[&exit(0x7f)], &[], 255, "the guest ended with 127"),
        (&[&exit(0x80)], &[], 1, "ended with 128 (0x80), of which the status holds the low seven bits"),
        (&[&exit(300)], &[], 89, "ended with 300 (0x12c)"),
        (&[&exit(300)], &["--ok-exit", "300"], 0, ""),
        (&[&exit(0)], &["--ok-exit", "0"], 0, ""),
        (&[&exit(44)], &["--ok-exit", "300"], 89, "the guest ended with 44"),
        (&[PANIC, SPIN], &[], 12, "panicked"),
        (&[CRASH], &[], 14, "triple fault"),
        (&[NOWHERE], &[], 16, "vCPU 0"),
        (&[HALT], &["--expect", "never"], 18, "expectation 1 of 1 is not met: never"),
        (&[&bugs, SPIN], &["--reject", "linux"], 20, r"rejected by `linux: \bBUG: `: BUG: it"),
        (&[SPIN], &["--timeout", "200ms"], 124, "the deadline passed"),
    ];
    for (number, (code, options, status, words)) in cases.iter().enumerate() {
        let finished = run(&format!("status-{number}"), code, options);
        assert_eq!(finished.status, *status, "{options:?}: {finished:#?}");
        assert!(finished.stderr.contains(words) && finished.stderr.is_empty() == words.is_empty(), "{finished:#?}");
    }
}

#[test]
fn where_two_ends_meet_the_worse_one_counts() {
    if !kvm::available() {
        return;
    }
    let (good, bad) = (print("good\n"), print("bad\n"));
    let expect = ["--expect", "never", "--timeout", "300ms"];
    let reject = ["--expect", "good", "--reject", "bad", "--wait-exit"];
    let cases: &[(Code, Options, i32)] = &[
        // --reject before a machine failure and before everything else
        (&[&good, &bad, CRASH], &reject, 20),
        (&[&good, &bad, &exit(0)], &reject, 20),
        (&[&bad, SPIN], &["--reject", "bad", "--expect", "bad"], 20),
        // a machine failure before an unmet expectation
        (&[&good, CRASH], &expect, 14),
        (&[&good, PANIC, SPIN], &expect, 12),
        // the deadline before an unmet expectation
        (&[&good, SPIN], &expect, 124),
        // an unmet expectation before the guest's own end
        (&[&good, &exit(0)], &["--expect", "never", "--ok-exit", "0"], 18),
        (&[&good, &exit(3)], &expect, 18),
        // met expectations before the guest's own end, unless that was waited for
        (&[&good, &exit(3)], &["--expect", "good"], 0),
        (&[&good, &exit(3)], &["--expect", "good", "--wait-exit"], 7),
        (&[&good, SPIN], &["--expect", "good"], 0),
        (&[&good, SPIN], &["--expect", "good", "--wait-exit", "--timeout", "300ms"], 124),
    ];
    for (number, (code, options, status)) in cases.iter().enumerate() {
        let finished = run(&format!("meet-{number}"), code, options);
        assert_eq!(finished.status, *status, "{options:?}: {finished:#?}");
    }
}

#[test]
fn expectations_see_prompts_and_neither_escape_sequences_nor_carriage_returns() {
    if !kvm::available() {
        return;
    }
    let prompt = print("\x1b[1mwel\x1b[0mcome\r\nlogin: ");
    let finished = run("prompt", &[&prompt, SPIN], &["--expect", "^welcome$", "--expect", "^login: $"]);
    assert_eq!((finished.status, finished.stderr.as_str()), (0, ""), "{finished:#?}");
    assert!(finished.stdout.contains("\x1b[1m"), "the console's own stream is as the guest sent it");
    let lines: Vec<_> = (1..=30).map(|number| print(&format!("line {number}\n"))).collect();
    let code: Vec<_> = lines.iter().map(Vec::as_slice).chain([HALT]).collect();
    let finished = run("lines", &code, &["--expect", "line 30", "--expect", "line 3"]);
    assert_eq!(finished.status, 18, "in order: the second comes behind the first");
    assert!(finished.stderr.contains("expectation 2 of 2 is not met: line 3\n"), "{finished:#?}");
    let shown: Vec<_> = finished.stderr.lines().filter_map(|line| line.strip_prefix("  | ")).collect();
    assert_eq!((shown.len(), shown.first(), shown.last()), (20, Some(&"line 11"), Some(&"line 30")));
}

#[test]
fn what_is_to_be_sent_is_typed_when_the_expectation_before_it_is_met() {
    if !kvm::available() {
        return;
    }
    let dialogue = ["--expect", "^> $", "--send", r"cpu\x69d\n", "--expect", "vendor", "--expect", "> $"];
    let last = ["--send", "poweroff\\n", "--timeout", "60", "--wait-exit"];
    let finished = hostel(&[&["run"][..], &dialogue, &last].concat(), "");
    assert_eq!((finished.status, finished.stderr.as_str()), (0, ""), "{finished:#?}");
    assert!(finished.stdout.contains("> cpuid\nvendor ") && finished.stdout.ends_with("> poweroff\n"), "{finished:#?}");
}

#[test]
fn a_deadline_shows_where_every_processor_is() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("deadline");
    let image = scratch.file("image", &[b"\x90", SPIN].concat());
    let map =
        scratch.file("System.map", b"0000000000010000 T start\n0000000000010001 T spin\n0000000000010003 T end\n");
    let options = ["--format", "flat64", "--timeout", "200ms", "--cpus", "2", "--symbols", &map, "--expect", "never"];
    let finished = hostel(&[&["run", &image][..], &options].concat(), "");
    assert_eq!(finished.status, 124);
    assert!(finished.stderr.starts_with("hostel: the deadline passed; expectation 1 of 1 is not met: never\n"));
    for words in ["vCPU 0: ", "at rip 0x10001", "spin", "jmp short", "[rsp+00]", "vCPU 1: "] {
        assert!(finished.stderr.contains(words), "{words}: {finished:#?}");
    }
    assert!(finished.elapsed > Duration::from_millis(200));
}

#[test]
fn a_halted_machine_ends_where_nothing_can_wake_it() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("halt");
    let [for_good, asleep] =
        [("for-good", b"\xfa\xf4"), ("asleep", b"\xfb\xf4")].map(|(name, code)| scratch.file(name, code));
    for irqchip in ["split", "full"] {
        let machine = ["--format", "flat64", "--irqchip", irqchip, "--timeout"];
        let finished = hostel(&[&["run", &for_good][..], &machine, &["60"]].concat(), "");
        assert_eq!((finished.status, finished.stderr.as_str()), (0, ""), "{irqchip}: {finished:#?}");
        assert!(finished.elapsed > Duration::from_secs(1), "it is looked at after a second without an exit");
        let finished = hostel(&[&["run", &asleep][..], &machine, &["1500ms"]].concat(), "");
        assert_eq!(finished.status, 124, "an interrupt could come: {finished:#?}");
    }
}

/// The JSON that `--result` leaves of a run.
fn result(name: &str, code: Code, options: Options) -> (Value, Finished) {
    let scratch = Scratch::new(name);
    let file = scratch.join("result.json");
    let finished = run(&format!("{name}-image"), code, &[options, &["--result", &file]].concat());
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}: {finished:#?}"));
    (serde_json::from_str(&text).expect("it is JSON"), finished)
}

#[test]
fn the_result_tells_all_ends_apart() {
    if !kvm::available() {
        return;
    }
    let hello = print("one\ntwo");
    let cases: &[(Code, Options, [&str; 2])] = &[
        (&[&hello, HALT], &[], ["guest", "halt"]),
        (&[&hello, REBOOT, SPIN], &[], ["guest", "reset"]),
        (&[&hello, &exit(300)], &[], ["guest", "debug-exit"]),
        (&[&hello, PANIC, SPIN], &[], ["guest", "panic"]),
        (&[&hello, CRASH], &[], ["guest", "triple-fault"]),
        (&[&hello, NOWHERE], &[], ["kvm", "kvm-failure"]),
        (&[&hello, SPIN], &["--expect", "two"], ["hostel", "expectations-met"]),
        (&[&hello, HALT], &["--expect", "three"], ["hostel", "expectation-unmet"]),
        (&[&hello, SPIN], &["--reject", "two"], ["hostel", "reject"]),
        (&[&hello, SPIN], &["--timeout", "200ms"], ["hostel", "deadline"]),
    ];
    for (number, (code, options, [by, kind])) in cases.iter().enumerate() {
        let (json, finished) = result(&format!("result-{number}"), code, options);
        assert_eq!((&json["ended_by"], &json["kind"]), (&Value::from(*by), &Value::from(*kind)), "{json:#}");
        assert_eq!(json["status"], finished.status, "{json:#}");
        assert_eq!(json["last_lines"], serde_json::json!(["one", "two"]), "{json:#}");
        assert_eq!(json["value"], if *kind == "debug-exit" { Value::from(300) } else { Value::Null });
        assert_eq!(json["rip"].is_string(), ["triple-fault", "kvm-failure"].contains(kind), "{json:#}");
    }
    // A shell's redirection is no file to replace.
    let scratch = Scratch::new("result-none");
    let all = scratch.join("all");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec \"$0\" run hello --result /dev/stdout >{all}"), PROGRAM]);
    assert_eq!(finish(command, "").status, 0);
    let all = fs::read_to_string(all).expect("a file");
    assert!(all.starts_with("Hello from a guest") && all.contains("powering off.\n{\n  \"image\""), "{all}");
    let file = scratch.join("result.json");
    assert_eq!(hostel(&["run", "/nowhere/at/all", "--result", &file], "").status, 10);
    let json: Value = serde_json::from_str(&fs::read_to_string(&file).expect("a file")).expect("it is JSON");
    assert_eq!((&json["kind"], &json["status"]), (&"host-error".into(), &10.into()), "{json:#}");
    assert!(json["detail"].as_str().is_some_and(|detail| detail.contains("No such file")), "{json:#}");
}

#[test]
fn a_report_has_a_case_for_each_expectation_and_one_for_the_run() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("report");
    let file = scratch.join("report.xml");
    let report = format!("junit:{file}");
    let hello = print("<one> & \"two\"\x1b[0m\n");
    let options = ["--expect", "<one>", "--expect", "three", "--reject", "four", "--report", &report];
    assert_eq!(run("report-image", &[&hello, HALT], &options).status, 18);
    let xml = fs::read_to_string(&file).expect("a file");
    assert!(
        xml.starts_with("<?xml ") && xml.contains("<testsuites") && xml.trim_end().ends_with("</testsuites>"),
        "{xml}"
    );
    assert_eq!((xml.matches("<testcase ").count(), xml.matches("<failure").count()), (4, 2), "{xml}");
    assert!(xml.contains("&lt;one&gt;") && xml.contains("three") && xml.contains("four"), "{xml}");
    assert!(!xml.contains('\x1b') && !xml.contains("<one>"), "{xml}");
    assert_eq!(run("report-image", &[&hello, HALT], &["--expect", "one", "--report", &report]).status, 0);
    let xml = fs::read_to_string(&file).expect("a file");
    assert_eq!((xml.matches("<testcase ").count(), xml.matches("<failure").count()), (2, 0), "{xml}");
}

#[test]
fn a_plan_is_printed_of_every_format_and_starts_nothing() {
    let scratch = Scratch::new("plan");
    for (form, bytes) in HELLO_FORMS {
        let image = scratch.file(form, bytes);
        let format = if *form == "flat64" { &["--format", "flat64"][..] } else { &[] };
        let finished = hostel(&[&["run", &image, "--dry-run"][..], format].concat(), "");
        assert_eq!((finished.status, finished.stderr.as_str()), (0, ""), "{form}: {finished:#?}");
        let bits = match *form {
            "flat16" => 16,
            "pvh" | "multiboot" => 32,
            _ => 64,
        };
        let state = format!("entry state of vCPU 0: {bits}-bit code\n");
        for words in ["memory map", "loaded", "devices", "COM1         ports 0x3f8-0x3ff", &state] {
            assert!(finished.stdout.contains(words), "{form}: {words}: {finished:#?}");
        }
    }
    let words = ["cmdline    quiet a=b --x\n", "vCPU 2 waits for INIT and SIPI\n", "APIC\n", "3 vCPU(s), 1536 MiB RAM"];
    let options = ["--cpus", "3", "--mem", "1.5G", "--cmdline", "quiet", "--dry-run", "--", "a=b", "--x"];
    let plan = hostel(&[&["run", "hello"][..], &options].concat(), "");
    assert!(plan.status == 2 && plan.stderr.contains("'1.5G'"), "{plan:#?}");
    let options = options.map(|word| if word == "1.5G" { "1536M" } else { word });
    let plan = hostel(&[&["run", "hello"][..], &options].concat(), "");
    for words in words {
        assert!(plan.stdout.contains(words), "{words}: {plan:#?}");
    }
}

#[test]
fn a_16_bit_binary_is_loaded_and_entered_where_it_is_told() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("flat16");
    // call $+3; pop ax; mov dx, 0xf4; out dx, ax: ends with the address behind the call
    let image = scratch.file("image", b"\xe8\0\0\x58\xba\xf4\0\xef\xf4");
    for (address, value) in [(&["--load-address", "0x9000"][..], "36867 (0x9003)"), (&[], "31747 (0x7c03)")] {
        let finished = hostel(&[&["run", &image, "--format", "flat16"][..], address].concat(), "");
        assert_eq!(finished.status, 3 << 1 | 1, "{finished:#?}");
        assert!(finished.stderr.contains(value), "{finished:#?}");
    }
}

#[test]
fn twenty_machines_at_once_do_not_see_each_other() {
    if !kvm::available() {
        return;
    }
    let start = |number: u32| {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--mem", "32M", "--", "exit", &number.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program can be started")
    };
    let children: Vec<_> = (1..=20).map(start).collect();
    for (number, child) in (1..).zip(children) {
        let output = child.wait_with_output().expect("a child can be waited for");
        assert_eq!(output.status.code(), Some(number << 1 | 1), "{output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(stderr, format!("hostel: the guest ended with {number}\n"));
    }
}

#[test]
fn two_machines_at_once_have_consoles_of_their_own() {
    if !kvm::available() {
        return;
    }
    let shell = || {
        let mut command = Command::new(PROGRAM);
        command.arg("run");
        Session::on_pipes(command)
    };
    let (mut one, mut two) = (shell(), shell());
    one.wait_for("> ");
    two.wait_for("> ");
    two.type_in("exit 2\n");
    one.type_in("exit 1\n");
    assert_eq!((one.end().0, two.end().0), (3, 5));
}

#[test]
fn help_and_version_go_to_standard_output() {
    for (arguments, words) in
        [(&["--help"][..], "hostel"), (&["run", "--help"], "--expect"), (&["--version"], "hostel 0.")]
    {
        let finished = hostel(arguments, "");
        assert_eq!((finished.status, finished.stderr.as_str()), (0, ""));
        assert!(finished.stdout.contains(words), "{finished:#?}");
        assert!(finished.stdout.lines().all(|line| line.len() <= 110), "{finished:#?}");
    }
    let mut narrow = Command::new(PROGRAM);
    narrow.args(["run", "-h"]).env("COLUMNS", "80");
    assert_eq!(finish(narrow, "").status, 0);
}

#[test]
fn an_error_that_nobody_reads_keeps_its_status() {
    for (arguments, status) in
        [(&["explain", "no-such-thing"][..], 2), (&["run", "--dry-run", "/no/such/file"], 10), (&["fly"], 2)]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = Command::new(PROGRAM).args(arguments).stderr(writer).status().unwrap();
        assert_eq!(ended.code(), Some(status), "{arguments:?}");
    }
}
