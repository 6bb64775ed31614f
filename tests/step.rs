//! `hostel trace --step`: the instructions that a guest begins with, and what they changed.
//!
//! Needs KVM.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::hostel;
use common::kvm;
use common::scratch::Scratch;
use std::fs;

/// Lines with single spaces.
fn squeezed(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn the_first_steps_of_a_guest_lead_into_long_mode() {
    if !kvm::available() {
        return;
    }
    let finished = hostel(&["trace", "hello", "--step", "60"], "");
    assert_eq!(finished.status, 0, "{finished:#?}");
    assert!(finished.stdout.ends_with("powering off.\n"), "the run goes on: {finished:#?}");
    let lines = squeezed(&finished.stderr);
    assert_eq!(lines[0], "1 0 0x100018 pvh_start mov edi, ebx rdi=0x7000");
    assert_eq!(
        lines[13],
        "14 0 0x10005c enter_long_mode_with_stack+0x23 mov cr0, eax cr0=80010033 (PE MP ET NE WP PG) efer=500 (LME LMA)"
    );
    // Hardware takes MOV SS and the next instruction as one step (Intel SDM vol. 3A §6.8.3).
    assert!(lines[23..25].iter().any(|line| line.contains(" guest_main ")), "{lines:#?}");
    // What the instruction did outside stands before it, once.
    let after = |exit: &str| {
        let at = lines.iter().position(|line| line == exit).unwrap_or_else(|| panic!("no {exit} in {lines:#?}"));
        lines[at + 1].as_str()
    };
    assert!(after("0 exit pio-write COM1 FCR 0x1").ends_with("out dx, al"), "{lines:#?}");
    assert!(after("0 exit pio-read COM1 LSR 0x60").contains("in al, dx rax="), "{lines:#?}");
    let outs = lines.iter().filter(|line| line.ends_with("out dx, al")).count();
    assert_eq!(outs, lines.iter().filter(|line| line.contains("exit pio-write")).count(), "{lines:#?}");
    let last = lines.last().unwrap();
    assert!(last.starts_with("60 "), "{last}");
}

#[test]
fn steps_go_to_a_file_and_real_mode_is_decoded_as_such() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("step");
    let path = scratch.join("steps");
    let finished = hostel(&["trace", "real", "--step", "7", "--output", &path], "");
    assert_eq!((finished.status, finished.stderr.as_str()), (0, ""), "{finished:#?}");
    let lines = squeezed(&fs::read_to_string(path).unwrap());
    let shown =
        ["1 0 0x7c00 cli", "2 0 0x7c01 xor ax, ax rflags=46 (PF ZF)", "3 0 0x7c03 mov ds, ax", "4 0 0x7c05 mov ss, ax"];
    assert_eq!(lines[..4], shown);
    assert_eq!(lines.len(), 7);
}

#[test]
fn steps_replace_every_other_view() {
    for other in ["--json", "--summary", "--every"] {
        let refused = hostel(&["trace", "hello", "--step", "1", other], "");
        assert_eq!((refused.status, refused.stdout.as_str()), (2, ""), "{refused:#?}");
    }
    assert_eq!(hostel(&["trace", "hello", "--step", "0"], "").status, 2);
}
