//! The flight recorder and the diagnoses around it: what a crash, a panic, a deadline and the prompt's `dump` show. And the
//! milestones of a run.
//!
//! Needs KVM.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::hostel;
use common::kvm;
use common::scratch::Scratch;
use common::session::Session;

/// Runs 64-bit code in ring 0 for at most `timeout`; returns the status and what Hostel says. `name` is the test's own.
fn run_code(name: &str, code: &[u8], timeout: &str) -> (i32, String) {
    let scratch = Scratch::new(name);
    let image = scratch.file("image", code);
    let run = hostel(&["run", &image, "--format", "flat64", "--timeout", timeout], "");
    (run.status, run.stderr)
}

/// Whether KVM kept the registers of a triple fault: on AMD it does not.
fn has_registers(said: &str) -> bool {
    !said.contains("These are the registers of a reset")
}

#[test]
fn a_crash_shows_the_last_exits_folded_with_registers_and_instructions() {
    if !kvm::available() {
        return;
    }
    let run = hostel(&["run", "crash"], "");
    assert_eq!(run.status, 14, "{run:?}");
    let said = &run.stderr;
    let exits = said.split_once(" exits, oldest first, in seconds before the end\n").expect(said).1;
    let first = exits.lines().next().unwrap();
    assert!(
        first.contains(" pio-write   COM1 FCR        0x1 ") && first.contains(" out dx, al (guest::serial::"),
        "{said}"
    );
    let text = exits.lines().find(|line| line.contains("\"#UD.\\n\"")).expect(said);
    assert!(
        text.contains(" COM1 THR ") && text.contains(" out dx, al (guest::serial::") && text.ends_with("  x 5"),
        "{said}"
    );
    assert!(exits.lines().last().unwrap().starts_with("     0.000000 shutdown"), "{said}");
    assert!(exits.lines().count() < 20, "strings are folded: {said}");
    if has_registers(said) {
        assert!(said.contains("; there is no handler: the IDT's limit 0x0 has no room for #UD.\n"), "{said}");
        assert!(said.contains("\n  > 0x") && said.contains("\n    PML4 0x"), "{said}");
    } else {
        assert!(said.contains("The last exit before it was made at rip 0x"), "{said}");
    }
}

#[test]
fn without_the_recorder_there_are_no_exits_to_show() {
    if !kvm::available() {
        return;
    }
    let run = hostel(&["run", "crash", "--no-recorder"], "");
    assert_eq!(run.status, 14, "{run:?}");
    assert!(run.stderr.contains("triple fault on vCPU 0") && !run.stderr.contains("exits, oldest first"), "{run:?}");
}

#[test]
fn a_traced_run_is_recorded_too() {
    if !kvm::available() {
        return;
    }
    let run = hostel(&["trace", "crash", "--output", "/dev/null"], "");
    assert!(run.status == 14 && run.stderr.contains(" exits, oldest first"), "{run:?}");
}

#[test]
fn a_panic_shows_the_panicking_code_and_the_exits() {
    if !kvm::available() {
        return;
    }
    let run = hostel(&["run", "panic"], "");
    assert_eq!(run.status, 12, "{run:?}");
    let said = run.stderr;
    assert!(said.contains("vCPU 0: the guest's kernel panicked at rip 0x"), "{said}");
    assert!(said.lines().last().unwrap().contains(" pvpanic EVENTS  0x1 "), "{said}");
}

#[test]
fn a_success_shows_nothing() {
    if !kvm::available() {
        return;
    }
    assert_eq!(hostel(&["run", "hello"], "").stderr, "");
}

#[test]
fn a_deadline_tells_a_loop_from_a_wait() {
    if !kvm::available() {
        return;
    }
    // nop; jmp to it
    let (status, said) = run_code("deadline", &[0x90, 0xeb, 0xfd], "300ms");
    assert!(status == 124 && said.contains(" looks it was in ") && said.contains("it spins there."), "{said}");
    // sti; hlt; jmp to it
    let (status, said) = run_code("deadline", &[0xfb, 0xf4, 0xeb, 0xfd], "300ms");
    assert_eq!(status, 124, "{said}");
    assert!(said.contains("  It is halted at 0x10001 with interrupts on, and waits for one.\n"), "{said}");
}

#[test]
fn causes_of_triple_faults_are_named() {
    if !kvm::available() {
        return;
    }
    let cases: [(&[u8], &str); 4] = [
        // mov rax, 1 << 40; jmp rax
        (
            b"\x48\xb8\0\0\0\0\0\x01\0\0\xff\xe0",
            "A jump, call or return to 0x10000000000, where nothing can be executed.",
        ),
        // mov rax, 1 << 40; mov [rax], al
        (
            b"\x48\xb8\0\0\0\0\0\x01\0\0\x88\x00",
            "` at 0x1000a touches memory: 0x10000000000 is not mapped (its PML4 entry",
        ),
        // xor esp, esp; push rax
        (b"\x31\xe4\x50", "The stack pointer is 0: what is pushed goes to the top of the address space."),
        // xor ecx, ecx; div ecx
        (b"\x31\xc9\xf7\xf1", "#DE: `div ecx` at 0x10002 divides by zero; there is no handler"),
    ];
    for (code, cause) in cases {
        let (status, said) = run_code("causes", code, "60s");
        assert_eq!(status, 14, "{said}");
        assert!(said.contains(cause) || !has_registers(&said), "{cause} is missing in: {said}");
    }
}

#[test]
fn dump_shows_a_running_guest() {
    if !kvm::available() {
        return;
    }
    let mut session = Session::on_terminal(&["run"]);
    session.wait_for("\n> ");
    session.type_in("\x01cdump\r");
    session.wait_for("vCPU 0: now at rip 0x");
    session.wait_for(" exits, oldest first, in seconds before the end");
    session.wait_for("COM1 THR");
    session.wait_for("(hostel) ");
    // The guest goes on.
    session.type_in("\rpoweroff\r");
    assert_eq!(session.end_on_terminal(), (0, true));
}

#[test]
fn milestones_are_told_in_the_order_of_time() {
    if !kvm::available() {
        return;
    }
    let run = hostel(&["trace", "--milestones", "shell"], "out 0x80 1\npoweroff\n");
    assert_eq!(run.status, 0, "{run:?}");
    let lines: Vec<&str> = run.stderr.lines().skip(1).collect();
    let names = ["process start", "memory", "image loaded", "KVM ready", "first entry", "first serial byte"];
    for (line, name) in lines.iter().zip(names) {
        assert!(line.contains(name), "{name}: {}", run.stderr);
    }
    assert!(lines.iter().any(|line| line.contains(" mark")), "{}", run.stderr);
    assert!(lines.last().unwrap().contains(" end"), "{}", run.stderr);
    let at_ms = |line: &&str| line.split_whitespace().next().unwrap().parse::<f64>().unwrap();
    assert!(lines.is_sorted_by_key(at_ms), "{}", run.stderr);
}
