//! `hostel trace` from its command line: what is shown, where it goes, and how it ends.
//!
//! Needs KVM.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, PROGRAM, finish, hostel};
use common::kvm;
use common::scratch::Scratch;
use common::session::Session;
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};

const HELLO: &str = "Hello from a guest: 64-bit code in ring 0.\nNothing left to do, powering off.\n";

fn trace(arguments: &[&str]) -> Finished {
    hostel(&[&["trace"], arguments].concat(), "")
}

/// The objects of a trace as JSON, and the last one, which is the end.
fn objects(text: &str) -> (Vec<Value>, Value) {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let mut all: Vec<Value> = text.lines().map(parse).collect();
    let end = all.pop().expect("a trace has an end");
    (all, end)
}

#[test]
fn the_trace_goes_to_standard_error_and_the_guest_alone_to_standard_output() {
    if !kvm::available() {
        return;
    }
    let finished = trace(&["hello"]);
    assert_eq!((finished.status, finished.stdout.as_str()), (0, HELLO), "{finished:#?}");
    let lines: Vec<_> = finished.stderr.lines().collect();
    assert!(lines[0].starts_with("  time ms cpu exit"), "{finished:#?}");
    assert!(lines.iter().all(|line| line.chars().count() <= 120 && !line.contains('\x1b')), "{finished:#?}");
    for shown in [
        "0 pio-write  1 0x3fa COM1 FCR           0x01 ",
        "0 pio-read   1 0x3fd COM1 LSR           0x60 ",
        "0 pio-write  1 0x3f8 COM1 THR x 16      \"Hello from a gue\" ",
        "0 pio-write  1 0x600 ACPI SLEEP_CONTROL 0x34 ",
    ] {
        assert!(finished.stderr.contains(shown), "{shown}: {finished:#?}");
    }
    let sent = trace(&["hello", "--every", "--device", "com1", "--only", "pio-write"]);
    assert_eq!(sent.stderr.matches("COM1 THR").count(), HELLO.len(), "{sent:#?}");
    assert_eq!(sent.stderr.lines().count(), 1 + 1 + HELLO.len(), "a header, a line for FCR, and one for each byte");
}

#[test]
fn as_json_every_exit_is_an_object_with_its_instruction() {
    if !kvm::available() {
        return;
    }
    let finished = trace(&["hello", "--json"]);
    assert_eq!((finished.status, finished.stdout.as_str()), (0, HELLO));
    let (exits, end) = objects(&finished.stderr);
    assert_eq!((&end["end"], &end["dropped"]), (&"the guest powered off".into(), &0.into()));
    let sent: Vec<_> = exits.iter().filter(|exit| exit["register"] == "THR").collect();
    let bytes = sent.iter().map(|exit| exit["value"].as_str().expect("a number in hexadecimal"));
    let bytes: Vec<_> = bytes.map(|hex| u8::from_str_radix(&hex[2..], 16).expect("a byte")).collect();
    assert_eq!(String::from_utf8_lossy(&bytes), HELLO);
    for exit in &exits {
        let expected = if exit["exit"] == "pio-read" { "in al, dx" } else { "out dx, al" };
        assert_eq!((&exit["instruction"], &exit["vcpu"]), (&expected.into(), &0.into()), "{exit}");
        let function = if exit["device"] == "ACPI" { "guest::power::off+0x" } else { "guest::serial::write+0x" };
        assert!(exit["symbol"].as_str().is_some_and(|symbol| symbol.starts_with(function)), "{exit}");
    }
    assert!(sent.iter().all(|exit| exit["rip"] == sent[0]["rip"]), "they leave at one instruction");
    let times: Vec<_> = exits.iter().map(|exit| exit["at_ns"].as_u64().expect("a time")).collect();
    assert!(times.is_sorted() && end["at_ns"].as_u64() >= times.last().copied());
}

/// Where RIP stands after an exit depends on its kind and on the KVM; which instruction it was does not.
#[test]
fn the_instruction_of_each_exit_is_the_one_that_caused_it() {
    if !kvm::available() {
        return;
    }
    const CODE: &[(&[u8], u32, &str)] = &[
        (b"\xe6\x80", 1, "out 0x80, al"),
        (b"\xe4\x80", 1, "in al, 0x80"),
        (b"\xba\xff\x03\0\0", 0, "mov edx, 0x3ff"),
        (b"\xee", 1, "out dx, al"),
        (b"\xee", 1, "out dx, al"),
        (b"\xee", 1, "out dx, al"),
        (b"\xbe\0\0\x01\0", 0, "mov esi, 0x10000"),
        (b"\xb9\x03\0\0\0", 0, "mov ecx, 3"),
        (b"\xf3\x6e", 3, "rep outsb dx, [rsi]"),
        (b"\xbf\x10\0\xc0\xfe", 0, "mov edi, 0xfec00010"),
        (b"\xc7\x07\0\0\x01\0", 1, "mov dword ptr [rdi], 0x10000"),
        (b"\x8b\x07", 1, "mov eax, [rdi]"),
        (b"\x8b\x07", 1, "mov eax, [rdi]"),
        (b"\x89\x07", 1, "mov [rdi], eax"),
        (b"\x89\x47\0", 1, "mov [rdi], eax"),
        (b"\x66\xba\0\x06\xb0\x34", 0, "mov dx, 0x600; mov al, 0x34"),
        (b"\xee", 1, "out dx, al"),
    ];
    let scratch = Scratch::new("instructions");
    let image = scratch.file("image", &CODE.iter().flat_map(|(bytes, ..)| *bytes).copied().collect::<Vec<_>>());
    let finished = trace(&["--format", "flat64", "--irqchip", "split", "--json", &image]);
    assert_eq!(finished.status, 0, "{finished:#?}");
    let mut expected = Vec::new();
    let mut rip = 0x1_0000;
    for (bytes, exits, text) in CODE {
        expected.extend((0..*exits).map(|_| format!("{rip:#x} {text}")));
        rip += bytes.len();
    }
    let word = |exit: &Value, name: &str| exit[name].as_str().unwrap_or("none").to_owned();
    let (exits, _) = objects(&finished.stderr);
    let found: Vec<_> = exits.iter().map(|exit| word(exit, "rip") + " " + &word(exit, "instruction")).collect();
    assert_eq!(found, expected);
}

#[test]
fn the_elements_of_a_string_instruction_are_one_line_if_asked() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("strings");
    // mov edx, 0x3ff; mov esi, 0x10000; mov ecx, 3; rep outsb; out dx, al; out dx, al; mov dx, 0x600; mov al, 0x34; out dx, al
    let image = scratch
        .file("image", b"\xba\xff\x03\0\0\xbe\0\0\x01\0\xb9\x03\0\0\0\xf3\x6e\xee\xee\x66\xba\0\x06\xb0\x34\xee");
    let count = |options: &[&str], text: &str| {
        let finished = trace(&[&["--format", "flat64", &image], options].concat());
        assert_eq!(finished.status, 0, "{finished:#?}");
        finished.stderr.matches(text).count()
    };
    assert_eq!(count(&["--every"], "COM1 SCR "), 5);
    assert_eq!(count(&["--every", "--skip-strings"], "COM1 SCR "), 3);
    assert_eq!(count(&["--every", "--skip-strings"], "COM1 SCR x 3 "), 1);
    assert_eq!(count(&["--json", "--skip-strings"], "\"count\":3"), 1);
    assert_eq!(count(&["--json"], "\"SCR\""), 5);
}

#[test]
fn on_a_terminal_kinds_have_colours_and_the_console_stands_between() {
    if !kvm::available() || std::env::var_os("NO_COLOR").is_some() {
        return;
    }
    let mut session = Session::on_terminal(&["trace", "hello", "--device", "ACPI"]);
    session.wait_for("powering off.");
    session.wait_for("\x1b[34mpio-write\x1b[0m  1 0x600 ACPI SLEEP_CONTROL 0x34 ");
    assert_eq!(session.end_on_terminal(), (0, true));
}

#[test]
fn a_trace_goes_to_a_file_and_its_summary_to_standard_error() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("trace");
    let file = scratch.join("trace.jsonl");
    let finished = trace(&["hello", "--summary", "--output", &file]);
    assert_eq!((finished.status, finished.stdout.as_str()), (0, HELLO));
    for shown in [
        " exits in ",
        " exits reached Hostel",
        "\npio-write  COM1              78 ",
        "\nhottest instructions\n       77 ",
    ] {
        assert!(finished.stderr.contains(shown), "{shown}: {finished:#?}");
    }
    assert!(!finished.stderr.contains("time ms"), "{finished:#?}");
    let text = fs::read_to_string(&file).expect("the trace is there");
    assert!(text.starts_with("  time ms cpu exit") && text.contains("COM1 THR x 16"), "{text}");

    let finished = trace(&["hello", "--summary", "--json"]);
    let summary: Value = serde_json::from_str(&finished.stderr).expect("one object");
    assert_eq!(summary["exits"], 84, "{summary:#}");
    assert_eq!(summary["hottest"][0]["instruction"], "out dx, al", "{summary:#}");

    let finished = trace(&["hello", "--only", "mmio"]);
    assert_eq!(finished.stderr, "none of 84 exits is one of those asked for\n");
    let finished = trace(&["hello", "--vcpu", "1"]);
    assert_eq!((finished.status, finished.stdout.as_str()), (2, ""), "{finished:#?}");

    let nowhere = scratch.join("no/such/directory");
    let finished = trace(&["hello", "--golden", &nowhere, "--bless"]);
    assert_eq!(
        finished.stderr,
        format!("hostel: write the trace: {nowhere}: No such file or directory (os error 2)\n")
    );
    let finished = trace(&["hello", "--output", &nowhere]);
    assert_eq!((finished.status, finished.stdout.as_str()), (10, ""));
    assert_eq!(finished.stderr, format!("hostel: create {nowhere}: No such file or directory (os error 2)\n"));
    let full = trace(&["hello", "--output", "/dev/full"]);
    assert_eq!((full.status, full.stdout.as_str()), (10, HELLO), "{full:#?}");
    assert!(full.stderr.contains("write the trace: No space left on device"), "{full:#?}");
}

/// Names of calls as strace saw them, in the order of their begins.
fn calls_by_strace(text: &str) -> Vec<&str> {
    let call = |line| Some(str::split_once(line, "ioctl(")?.1.split_once(", ")?.1.split([',', ')']).next()?.trim());
    text.lines().filter_map(call).filter(|name| name.starts_with("KVM_")).collect()
}

/// Names of calls as the trace tells them, folded ones one by one.
fn calls_by_trace(text: &str) -> Vec<&str> {
    let mut calls = Vec::new();
    for line in text.lines().skip(1) {
        let words: Vec<_> = line.split_whitespace().collect();
        let count = if words[3] == "x" { words[4].parse().expect("a number") } else { 1 };
        calls.extend(std::iter::repeat_n(words[2], count).filter(|name| name.starts_with("KVM_")));
        calls.extend(line.split_once("; then ").map(|(_, then)| then.split(':').next().expect("a name")));
    }
    calls
}

#[test]
fn the_calls_of_kvm_are_all_told_in_their_order() {
    if !kvm::available() {
        return;
    }
    if Command::new("strace").arg("--version").stdout(Stdio::null()).status().is_err() {
        return kvm::skip("no strace to compare with");
    }
    let scratch = Scratch::new("strace");
    for guest in [&["hello"][..], &["hello", "--irqchip", "full"], &["real"], &["faults", "--msr", "all"]] {
        let file = scratch.join("calls");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-e", "trace=ioctl", "-o", &file, PROGRAM, "trace", "--kvm-calls"]).args(guest);
        let finished = finish(strace, "");
        assert_eq!(finished.status, 0, "{finished:#?}");
        let strace = fs::read_to_string(&file).expect("strace wrote it");
        let (seen, told) = (calls_by_strace(&strace), calls_by_trace(&finished.stderr));
        assert!(seen.len() > 15, "{strace}");
        assert_eq!(told, seen, "{}", finished.stderr);
    }
}

#[test]
fn the_calls_of_kvm_stand_on_standard_error_with_their_arguments() {
    if !kvm::available() {
        return;
    }
    let finished = trace(&["hello", "--mem", "128M", "--kvm-calls"]);
    assert_eq!((finished.status, finished.stdout.as_str()), (0, HELLO));
    assert!(finished.stderr.starts_with("  time ms on      call "), "{finished:#?}");
    for shown in ["KVM_GET_API_VERSION", " -> 12\n", " slot 0: RAM 0x0..0x8000000 (128 MiB) at 0x", "KVM_RUN x "] {
        assert!(finished.stderr.contains(shown), "{shown}: {finished:#?}");
    }
    assert!(finished.stderr.lines().count() <= 40, "{finished:#?}");
}

#[test]
fn filtered_registers_are_shown_and_their_accesses_still_work() {
    if !kvm::available() {
        return;
    }
    let plain = trace(&["faults"]);
    assert!(!plain.stderr.contains("EFER") && !plain.stderr.contains("0xc0000080"), "{plain:#?}");
    let filtered = trace(&["faults", "--only", "msr", "--msr", "efer,0x12345678"]);
    assert_eq!((filtered.status, &filtered.stdout), (plain.status, &plain.stdout), "{filtered:#?}");
    for shown in ["msr-write    MSR 0xc0000080 IA32_EFER", "msr-read     MSR 0x12345678           #GP"] {
        assert!(filtered.stderr.contains(shown), "{shown}: {filtered:#?}");
    }
}

#[test]
fn what_cannot_be_shown_is_a_usage_error_that_names_what_can() {
    for (option, word, named) in [
        ("--only", "ioctl", "pio-write, mmio-read"),
        ("--device", "COM9", "COM1, RTC"),
        ("--vcpu", "99", "0..64"),
        ("--msr", "0x830", "x2APIC"),
        ("--msr", "frob", "IA32_EFER"),
    ] {
        let finished = trace(&["hello", option, word]);
        assert_eq!((finished.status, finished.stdout.as_str()), (2, ""), "{finished:#?}");
        assert!(finished.stderr.contains(word) && finished.stderr.contains(named), "{finished:#?}");
    }
}
