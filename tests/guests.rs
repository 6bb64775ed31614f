//! Every sample guest: what it prints and how it ends, in one table; and that the documents about them are right.
//!
//! Needs KVM.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::hostel;
use common::kvm;
use hostel::boot::samples::{HELLO_FORMS, SAMPLES};
use regex_automata::hybrid::regex::Regex;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One run of `hostel run`.
struct Run {
    /// The sample guest, which `arguments` begin with unless it is the default.
    guest: &'static str,
    /// What follows `run`.
    arguments: &'static [&'static str],
    /// What is typed before stdin ends.
    input: &'static str,
    /// A pattern that the whole console matches.
    console: &'static str,
    /// The exit status.
    status: i32,
}

const RUNS: &[Run] = &[
    Run { guest: "hello", arguments: &["hello"], input: "", console: HELLO, status: 0 },
    Run { guest: "hello", arguments: &["hello", "--irqchip", "none"], input: "", console: HELLO, status: 0 },
    Run { guest: "hello", arguments: &["hello", "--irqchip", "full"], input: "", console: HELLO, status: 0 },
    Run { guest: "hello", arguments: &["hello", "--mem", "2M"], input: "", console: HELLO, status: 0 },
    Run {
        guest: "real",
        arguments: &["real"],
        input: "",
        console: "Hello from real mode: 16 bits, no privilege, no paging.\n\
            INT 0x40 went through the vector table at address 0x100.\n\
            0x07c0:0x0000 and 0x0000:0x7c00 are the same byte.\n\
            Halting with interrupts off.\n",
        status: 0,
    },
    Run {
        guest: "longmode",
        arguments: &["longmode"],
        input: "",
        console: "PVH enters in 32-bit protected mode, paging off.\n\
            Real mode: CR0.PE is 0, a segment register is an address divided by 16.\n\
            Protected mode: CR0.PE is 1, a segment register names a descriptor, 4 GiB in reach.\n\
            Paging: CR0.PG is 1, every address goes through the tables at CR3.\n\
            Compatibility mode: EFER.LMA is 1, but the code segment is still a 32-bit one.\n\
            64-bit mode: the code segment is a 64-bit one, and so are the registers.\n",
        status: 33,
    },
    Run {
        guest: "interrupts",
        arguments: &["interrupts"],
        input: "abc q not read",
        console: "(LAPIC timer: tick [123]\n){3}no PIT in this machine; --irqchip full has one\n\
            type something, q ends\nabc \nbye\n",
        status: 0,
    },
    Run {
        guest: "interrupts",
        arguments: &["interrupts", "--irqchip", "full"],
        input: "two\rlines",
        console: "(LAPIC timer: tick [123]\n){3}(PIT: tick [123]\n){3}type something, q ends\ntwo\nlines\nbye\n",
        status: 0,
    },
    Run {
        guest: "smp",
        arguments: &["smp"],
        input: "",
        console: "processor 0 runs, it started the guest\nprocessor 1 runs\n\
            processors: 2, increments by each: 100, counted under the lock: 200, atomically: 200\n",
        status: 0,
    },
    Run {
        guest: "smp",
        arguments: &["smp", "--cpus", "4"],
        input: "",
        console: "processor 0 runs, it started the guest\n(processor [123] runs\n){3}\
            processors: 4, increments by each: 100, counted under the lock: 400, atomically: 400\n",
        status: 0,
    },
    Run {
        guest: "smp",
        arguments: &["smp", "--cpus", "24"],
        input: "",
        console: "processor 0 runs, it started the guest\n(processor [12]?[0-9] runs\n){23}\
            processors: 24, increments by each: 100, counted under the lock: 2400, atomically: 2400\n",
        status: 0,
    },
    Run {
        guest: "smp",
        arguments: &["smp", "--cpus", "1", "--irqchip", "full"],
        input: "",
        console: "processor 0 runs, it started the guest\n\
            processors: 1, increments by each: 100, counted under the lock: 100, atomically: 100\n",
        status: 0,
    },
    Run {
        guest: "memory",
        arguments: &["memory", "--mem", "64M"],
        input: "",
        console: "0x0 to 0x9fbff: RAM, both ends keep what is written\n(0x.*: reserved\n)*\
            0x100000 to 0x3ffffff: RAM, both ends keep what is written\n(0x.*: reserved\n)*65151 KiB of RAM\n",
        status: 0,
    },
    Run {
        guest: "memory",
        arguments: &["memory", "--mem", "5G"],
        input: "",
        console: "(?s).*\n0x100000 to 0xbfffffff: RAM, both ends keep what is written\n.*\
            0x100000000 to 0x17fffffff: RAM, both ends keep what is written\n.* KiB of RAM\n",
        status: 0,
    },
    Run {
        guest: "faults",
        arguments: &["faults"],
        input: "",
        console: "division by zero: #DE, divide error\n\
            an instruction that does not exist: #UD, invalid opcode\n\
            an address that is none: #GP, general protection\n\
            a page that is not mapped: #PF, page fault at address 0x4000001000, error code 0x0\n\
            reading an MSR that is not there: #GP, general protection\n\
            writing it: #GP, general protection\n",
        status: 0,
    },
    Run {
        guest: "crash",
        arguments: &["crash"],
        input: "",
        console: "Forgetting where the handlers are, then raising #UD\\.\n",
        status: 14,
    },
    Run {
        guest: "panic",
        arguments: &["panic"],
        input: "",
        console: "About to panic.\nguest panicked at guest/bin/panic.rs:[0-9]+\n\
            nothing is wrong, this guest does it on purpose\n",
        status: 12,
    },
    Run {
        guest: "traps",
        arguments: &["traps", "--", "-ipi"],
        input: "",
        console: "pio: OUT and IN of 1, 2 and 4 bytes at a port without a device: right\n(.*: right\n){12}\
            mwait: .*\nvmcall: .*\n(.*: right\n){3}ipi: .*: not here\n",
        status: 0,
    },
    Run { guest: "traps", arguments: &["traps", "--", "cpuid"], input: "", console: "cpuid: .*: right\n", status: 0 },
    Run {
        guest: "trap-cost",
        arguments: &["trap-cost"],
        input: "",
        console: " *cycles  what .*\n( *[0-9]+  .*: (no exit|an exit to the kernel|an exit to user space)\n){13}",
        status: 0,
    },
    Run {
        guest: "virtio-blk",
        // The disk is this program itself, an ELF file.
        arguments: &["virtio-blk", "--transport", "mmio", "--disk", "/proc/self/exe,ro"],
        input: "",
        console: "the disk's sectors: [0-9]+\nsector 0 begins with 0x7f 0x45 0x4c 0x46 .*\nas text: .ELF\\.*\n",
        status: 0,
    },
    Run {
        guest: "virtio-blk",
        arguments: &["virtio-blk", "--transport", "mmio", "--disk", "/proc/self/exe,ro", "--", "1000000000"],
        input: "",
        console: "the disk's sectors: [0-9]+\nsector 1000000000 cannot be read: status 1\n",
        status: 3,
    },
    Run { guest: "virtio-blk", arguments: &["virtio-blk"], input: "", console: "no disk; .*\n", status: 3 },
    Run {
        guest: "disk-bench",
        arguments: &[
            "disk-bench",
            "--transport",
            "mmio",
            "--disk",
            "/proc/self/exe,ro",
            "--",
            "randread",
            "32",
            "4",
            "100",
        ],
        input: "",
        console: "randread depth 32 KiB 4: 100 requests in [0-9]+ cycles\n",
        status: 0,
    },
    Run {
        guest: "disk-bench",
        arguments: &["disk-bench", "--transport", "mmio", "--disk", "/proc/self/exe,ro", "--", "write", "1", "64", "9"],
        input: "",
        console: "a request failed\n",
        status: 3,
    },
    Run { guest: "disk-bench", arguments: &["disk-bench"], input: "", console: "no disk; .*\n", status: 3 },
    Run { guest: "net-bench", arguments: &["net-bench"], input: "", console: "no network device; .*\n", status: 3 },
    Run {
        guest: "virtio-net",
        arguments: &["virtio-net", "--transport", "mmio", "--net", "switch:guests", "--", "10.0.0.7"],
        input: "",
        console: "this is 10.0.0.7 and answers ARP and ping; end of input ends\n",
        status: 0,
    },
    Run { guest: "virtio-net", arguments: &["virtio-net"], input: "", console: "no network device; .*\n", status: 3 },
    Run { guest: "user", arguments: &["user"], input: "", console: USER, status: 0 },
    Run { guest: "sensitive", arguments: &["sensitive"], input: "", console: "(.*: right\n){5}", status: 0 },
    Run {
        guest: "monitor",
        arguments: &["monitor", "--", "nobody"],
        input: "",
        console: "no such guest; there are: hello user .*\n",
        status: 3,
    },
    Run {
        guest: "shell",
        arguments: &[],
        input: "helx\x7fp\nmem\npeek 0x100000\npeek 0x8000000000\nout 0x3ff 90\nin 0x3ff\nout 0xe9 33\nfly\nexit\npoweroff\n",
        console: "(?s)Hostel's sample kernel.*\n> helx\x08 \x08p\nhelp: this list\n.*> mem\n0x0 to 0x9fbff: RAM\n.*\
            > peek 0x100000\n0x100000: 0x4\n> peek 0x8000000000\n0x8000000000: #PF, page fault .*\n\
            > out 0x3ff 90\n> in 0x3ff\n0x5a\n> out 0xe9 33\n!> fly\nno such command; help lists them\n> exit\nusage: exit VALUE\n\
            > poweroff\n",
        status: 0,
    },
    Run {
        guest: "shell",
        arguments: &[],
        input: "cpuid\ncpuid 0x40000000\ntime\ntrap de\ntrap ud\ntrap gp\ntrap pf\n",
        console: "(?s)Hostel's sample kernel.*\n> cpuid\nvendor [ -~]{12}, hypervisor KVMKVMKVM\n.*\
            > cpuid 0x40000000\neax 0x4000.*, ebx 0x4b4d564b, .*> time\n20[0-9]{2}-[01][0-9]-[0-3][0-9] \
            [0-2][0-9]:[0-5][0-9]:[0-6][0-9] UTC, time stamp [0-9]+\n> trap de\n#DE, .*> trap ud\n#UD, .*\
            > trap gp\n#GP, .*> trap pf\n#PF, .*> \n",
        status: 0,
    },
    Run { guest: "shell", arguments: &["shell", "--", "exit", "5"], input: "", console: "", status: 11 },
    Run { guest: "shell", arguments: &["shell", "--", "exit", "0x145"], input: "", console: "", status: 0x45 << 1 | 1 },
    // Two programs that never give the processor away share one.
    Run {
        guest: "shell",
        arguments: &["shell", "--expect", "A[AB\\n]*B[AB\\n]*A[AB\\n]*B[AB\\n]*A", "--", "spin A & spin B"],
        input: "",
        console: "(?s)\\[1\\]\n[AB\n]*",
        status: 0,
    },
    Run {
        guest: "shell",
        arguments: &["--cpus", "2"],
        input: "spin A 1 & spin B 1 & ps\nwait\nlocks 5000\nvectors 1 & vectors 1\nwait\nps\n",
        console: "(?s)Hostel's.*\\[1\\]\n\\[2\\]\npid tid .*\n1 1 ready .* spin\n2 2 ready .* spin\n> wait\n(A\n|B\n){10}.*ended, status 0\n\
            > locks 5000\nwith the mutex 20000 of 20000, without [0-9]+\nhanded over 100 numbers, their sum is 5050\n\
            > vectors 1 & vectors 1\n\\[4\\]\na vector register changed 0 times\n.*\
            a vector register changed 0 times\n.*> ps\npid tid [a-z0-9 ]*\n> \n",
        status: 0,
    },
    // What is not a process's own: the process alone is ended.
    Run {
        guest: "shell",
        arguments: &[],
        input: "trespass kernel\ntrespass code\ntrespass port\ntrespass process\nlocks 100\n",
        console: "(?s)Hostel's.*> trespass kernel\nprocess 1 \\(trespass\\), thread 1: killed by #PF, reading from 0x100000, \
            the kernel's memory, at 0x80.*it was ended by exception 14\n> trespass code\nprocess 2 .* #PF, writing to 0x80.*, \
            which it may not, .*> trespass port\nprocess 3 .* #GP, .*> trespass process\n\
            a process has 0x5ec2e7 at 0x8100000000\n(and still has 0x5ec2e7 there\n)?\
            process 6 .* #PF, reading from 0x8100000000, which is not its memory, .*\n(and still has 0x5ec2e7 there\n)?\
            > locks 100\nwith the mutex 400 of 400.*> \n",
        status: 0,
    },
    Run {
        guest: "shell",
        arguments: &["--cpus", "3"],
        input: "hostile\nlocks 100\n",
        console: "(?s)Hostel's.*the kernel is well after 8 hostile processes\n> locks 100\nwith the mutex 400 of 400.*> \n",
        status: 0,
    },
    Run { guest: "shell", arguments: &["shell", "--", "reboot"], input: "", console: "", status: 0 },
    Run { guest: "shell", arguments: &["shell", "--", "halt"], input: "", console: "", status: 0 },
];

const USER: &str = "two programs, each in ring 3 and in an address space of its own\nprogram 1 starts\nprogram 2 starts\n\
    program 1 was interrupted 3 times; its word at 0x8000001010 is 1\nprogram 1 ends\n\
    program 2 was interrupted 8 times; its word at 0x8000001010 is 2\n\
    program 2 reads the kernel's memory: #PF there, error code 0x5; it is ended\nboth have ended, powering off\n";

const HELLO: &str = "Hello from a guest: 64-bit code in ring 0.\nNothing left to do, powering off.\n";

#[test]
fn every_guest_prints_and_ends_as_the_table_says() {
    if !kvm::available() {
        return;
    }
    for run in RUNS {
        let arguments: Vec<_> = ["run"].iter().chain(run.arguments).copied().collect();
        let finished = hostel(&arguments, run.input);
        let pattern = Regex::new(&format!("^(?:{})$", run.console)).expect("the table holds patterns");
        let matches = pattern.is_match(&mut pattern.create_cache(), &finished.stdout);
        assert!(matches, "{arguments:?} against {}: {finished:#?}", run.console);
        assert_eq!(finished.status, run.status, "{arguments:?}: {finished:#?}");
    }
}

#[test]
fn every_guest_has_a_row_here_and_in_the_readme() {
    let listed: BTreeSet<_> = SAMPLES.iter().map(|sample| sample.name).collect();
    let tested: BTreeSet<_> = RUNS.iter().map(|run| run.guest).collect();
    assert_eq!(listed, tested);
    for sample in SAMPLES {
        let row = format!("| [`{}`](bin/{0}.rs) | {} | {} |", sample.name, sample.shows, sample.ends);
        assert!(README.contains(&row), "guest/README.md lacks: {row}");
        assert_eq!(sample.source, format!("guest/bin/{}.rs", sample.name));
    }
}

/// What Hostel knows and the guest does not: an MSR that is nobody's is named, once for reading and once for writing.
#[test]
fn an_unknown_msr_is_named() {
    if !kvm::available() {
        return;
    }
    let finished = hostel(&["run", "faults"], "");
    assert!(finished.stderr.contains("0x12345678"), "{finished:#?}");
}

#[test]
fn every_form_of_hello_prints_the_same() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("forms");
    for (form, image) in HELLO_FORMS {
        let file = scratch.0.join(form);
        fs::write(&file, image).expect("the scratch directory takes a file");
        let mut arguments = vec!["run", file.to_str().expect("the path is text")];
        if *form == "flat64" {
            arguments.extend(["--format", "flat64"]); // nothing in the bytes tells it
        }
        let finished = hostel(&arguments, "");
        assert_eq!((finished.stdout.as_str(), finished.status), (HELLO, 0), "{form}: {finished:#?}");
    }
}

/// A jump to where a PC has its BIOS is how real-mode code reboots, and Linux without EFI.
#[test]
fn a_jump_to_the_bios_resets() {
    if !kvm::available() {
        return;
    }
    let scratch = Scratch::new("bios");
    let (image, result) = (scratch.0.join("image"), scratch.0.join("result"));
    fs::write(&image, [0xea, 0xf0, 0xff, 0x00, 0xf0]).expect("the scratch directory takes a file"); // jmp 0xf000:0xfff0
    let [image, result] = [&image, &result].map(|path| path.to_str().expect("the path is text"));
    let finished = hostel(&["run", image, "--format", "flat16", "--timeout", "30s", "--result", result], "");
    let result = fs::read_to_string(result).expect("the result was written");
    assert!(finished.status == 0 && result.contains("\"kind\": \"reset\""), "{finished:#?} {result}");
}

#[test]
fn the_minimal_monitor_shows_the_same_console() {
    if !kvm::available() {
        return;
    }
    let Some(minimal) = minimal() else {
        return kvm::skip("examples/minimal is not built here");
    };
    let output = Command::new(minimal).output().expect("the example can be started");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), hostel(&["run", "hello"], "").stdout);
    let exits = String::from_utf8_lossy(&output.stderr);
    assert!(exits.lines().filter(|line| line.starts_with("exit ")).count() > HELLO.len(), "{exits}");
}

/// The example beside the program under test: `cargo test` builds it, `cargo test --test guests` does not.
fn minimal() -> Option<PathBuf> {
    let minimal = Path::new(env!("CARGO_BIN_EXE_hostel")).with_file_name("examples").join("minimal");
    if !minimal.exists() {
        let built = Command::new(env::var_os("CARGO")?).args(["build", "--quiet", "--example", "minimal"]).status();
        assert!(built.is_ok_and(|status| status.success()), "examples/minimal.rs does not build");
    }
    minimal.exists().then_some(minimal)
}

#[test]
fn the_minimal_monitor_stays_minimal() {
    let source = include_str!("../examples/minimal.rs");
    assert!(source.lines().count() <= 200, "{} lines", source.lines().count());
    for name in ["kvm_bindings", "kvm_ioctls", "linux_loader", "vm_memory", "vmm_sys_util"] {
        assert!(source.contains(&format!("use {name}::")), "{name} is not used");
    }
    assert!(!source.contains("hostel::"), "chapter one comes without Hostel");
}

const README: &str = include_str!("../guest/README.md");

/// A directory of its own, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let directory = env::temp_dir().join(format!("hostel-guests-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("the directory for temporary files takes one more");
        Scratch(directory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory that stays is no failure of a guest.
        let _ = fs::remove_dir_all(&self.0);
    }
}
