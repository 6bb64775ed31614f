//! An unmodified distribution kernel as the guest, in the lab: as its bzImage and as the ELF inside it, to the user space of
//! the embedded initramfs and out again in every way that Linux ends a machine.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::hostel::{Finished, hostel};
use common::kvm::{lab_kernel, skip};
use common::lab_image::MEMTEST;
use common::scratch::Scratch;
use hostel::boot::payload::{Compression, UNPACKED_MAX};
use std::path::PathBuf;
use std::sync::{LazyLock, Once};
use std::time::Duration;

/// What the first line of a panic says (Linux kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing";
/// The one error that a kernel with PCI support logs on a machine without PCI (Linux arch/x86/pci/init.c).
const NO_PCI: &str = "PCI: Fatal: No config space access function found";

/// Boots the lab's kernel with these options and these commands of init behind the `--`.
fn boot(kernel: &str, options: &[&str], commands: &str) -> Finished {
    let words = format!("--cmdline=quiet -- {commands}");
    let mut arguments = vec!["run", kernel, "--timeout", "240s", &words];
    arguments.extend(options);
    let run = hostel(&arguments, "");
    println!("{options:?} {commands}: status {} after {:?}\n{}\n{}", run.status, run.elapsed, run.stdout, run.stderr);
    run
}

/// Boots to user space, looks around there and powers off.
fn reaches_user_space(kernel: &str, cpus: u32, memory_mib: u64) {
    let (cpus_text, memory) = (cpus.to_string(), format!("{memory_mib}M"));
    let run = boot(kernel, &["--cpus", &cpus_text, "--mem", &memory], "nproc mem \"dmesg err\" poweroff");
    assert_eq!(run.status, 0);
    let said: Vec<&str> = run.stdout.lines().map(str::trim_end).collect();
    assert!(said.contains(&cpus_text.as_str()), "nproc");
    let total =
        said.iter().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let total_mib = total.expect("/proc/meminfo") >> 10;
    // The kernel keeps its own image, the page array and its tables out of the total: some 40 MiB and 2 percent.
    assert!((memory_mib - 48 - memory_mib / 32..memory_mib).contains(&total_mib), "{total_mib} of {memory_mib} MiB");
    let errors: Vec<_> = said.iter().filter(|line| line.starts_with("<3>") && !line.ends_with(NO_PCI)).collect();
    assert!(errors.is_empty(), "errors in the kernel log: {errors:?}");
}

/// The kernel as distributions ship it.
fn bzimage(kernel: &str) -> String {
    kernel.to_owned()
}

/// The ELF that it holds, unpacked into a file (Linux boot.rst "payload_offset", "payload_length").
fn elf(kernel: &str) -> String {
    static FILE: LazyLock<PathBuf> = LazyLock::new(|| std::env::temp_dir().join("vmlinux"));
    static WRITTEN: Once = Once::new();
    WRITTEN.call_once(|| {
        let image = std::fs::read(kernel).expect("the lab has a kernel");
        let field = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().expect("four bytes")) as usize;
        // setup_sects at 0x1f1: sectors of 512 bytes behind the boot sector, then the protected-mode code.
        let payload = (usize::from(image[0x1f1]) + 1) * 512 + field(0x248);
        let payload = &image[payload..payload + field(0x24c)];
        let compression = Compression::of(payload).expect("distributions use what a decoder reads");
        let elf = compression.unpack(payload, UNPACKED_MAX as usize).expect("the kernel is whole");
        std::fs::write(&*FILE, elf).expect("the lab can write to /tmp");
    });
    FILE.to_str().expect("/tmp is text").to_owned()
}

macro_rules! user_space {
    ($($name:ident: $form:expr, $cpus:expr, $memory_mib:expr;)*) => { $(
        #[test]
        fn $name() {
            if let Some(kernel) = lab_kernel() {
                reaches_user_space(&$form(&kernel), $cpus, $memory_mib);
            }
        }
    )* };
}

user_space! {
    bzimage_1_cpu_256_mib: bzimage, 1, 256;
    bzimage_4_cpus_256_mib: bzimage, 4, 256;
    bzimage_1_cpu_5_gib: bzimage, 1, 5120;
    bzimage_4_cpus_5_gib: bzimage, 4, 5120;
    bzimage_24_cpus_1_gib: bzimage, 24, 1024;
    elf_1_cpu_256_mib: elf, 1, 256;
    elf_4_cpus_256_mib: elf, 4, 256;
    elf_1_cpu_5_gib: elf, 1, 5120;
    elf_4_cpus_5_gib: elf, 4, 5120;
}

#[test]
fn the_kernel_finds_no_fault_with_the_firmware() {
    let Some(kernel) = lab_kernel() else { return };
    let run = boot(&kernel, &["--cpus", "2"], "\"dmesg warn\" poweroff");
    assert_eq!(run.status, 0);
    for complaint in ["Firmware Bug", "ACPI Error", "ACPI BIOS", "ACPI Warning", "MP-BIOS", "WARNING:", "BUG:"] {
        assert!(!run.stdout.contains(complaint), "{complaint}");
    }
}

#[test]
fn reboot_and_halt_end_with_0() {
    let Some(kernel) = lab_kernel() else { return };
    for ending in ["reboot", "halt"] {
        for cpus in ["1", "4"] {
            assert_eq!(boot(&kernel, &["--cpus", cpus], ending).status, 0, "{ending} with {cpus} vCPUs");
        }
    }
}

/// What waits since before the guest's first instruction outlives the set-up of the kernel's driver, the end included.
#[test]
fn piped_input_and_its_end_reach_the_prompt() {
    let Some(kernel) = lab_kernel() else { return };
    for (input, answer) in [("", "hostel# "), ("nproc\n", "hostel# 1")] {
        let run = hostel(&["run", &kernel, "--timeout", "240s", "--cmdline", "quiet"], input);
        assert_eq!(run.status, 0, "{input:?}: {run:?}");
        assert!(run.stdout.contains(answer), "{input:?}: {run:?}");
    }
}

/// Typed at the prompt: each line when the one before has been answered.
#[test]
fn the_prompt_answers() {
    let Some(kernel) = lab_kernel() else { return };
    let talk = ["--expect", "hostel# ", "--send", r"nproc\n", "--expect", r"\n1\n", "--expect", "hostel# "];
    let end = ["--send", r"poweroff\n", "--wait-exit"];
    let run = boot(&kernel, &[talk.as_slice(), &end].concat(), "");
    assert_eq!(run.status, 0);
}

#[test]
fn a_panic_ends_with_12_within_a_second() {
    let Some(kernel) = lab_kernel() else { return };
    for words in ["", "panic=-1"] {
        let run = hostel(&["run", &kernel, "--no-initrd", "--timeout", "240s", "--cmdline", words], "");
        assert_eq!(run.status, 12, "{words:?}: {}", run.stderr);
        let panicked = run.seen(PANIC).expect("the panic stands on the console");
        // A busy host stretches the second as it stretched the boot, which takes less than ten.
        let limit = Duration::from_secs(1).max(panicked / 10);
        assert!(run.elapsed - panicked < limit, "{words:?}: {:?} after {panicked:?}", run.elapsed - panicked);
    }
}

/// The distribution has the drivers as modules; they come from its `/lib/modules`.
#[test]
fn the_embedded_initramfs_drives_the_devices() {
    let Some(kernel) = lab_kernel() else { return };
    let scratch = Scratch::new("modules");
    let disk = scratch.file("disk", &[0; 4096]);
    let looks = "\"ls /sys/block\" \"cat /sys/class/misc/hw_random/rng_current\" poweroff";
    for transport in ["pci", "mmio"] {
        let run = boot(&kernel, &["--rng", "--disk", &disk, "--transport", transport], looks);
        let said: Vec<&str> = run.stdout.lines().map(str::trim_end).collect();
        assert_eq!((run.status, said.contains(&"vda"), said.contains(&"virtio_rng.0")), (0, true, true));
    }
    let plan = hostel(&["run", &kernel, "--rng", "--dry-run"], "").stdout;
    assert!(plan.contains("modules in the initramfs, from /lib/modules/") && plan.contains(" virtio_rng\n"), "{plan}");
    let run = hostel(&["run", &kernel, "--rng", "--dry-run", "--modules", scratch.path().to_str().expect("text")], "");
    assert!(run.stderr.contains("only if they are built in. Looked in ") && run.stderr.contains("/usr/lib/modules/"));
}

/// The terminal's size shows on a terminal only; the kernel's messages stay on the serial port, where a panic is seen.
#[test]
fn a_virtio_console_is_the_console() {
    let Some(kernel) = lab_kernel() else { return };
    let talk = ["--expect", "hostel# ", "--send", r"nproc\n", "--expect", r"\n1\n", "--expect", "hostel# "];
    let run = boot(&kernel, &[&talk[..], &["--virtio-console", "--send", r"panic\n", "--wait-exit"]].concat(), "");
    assert_eq!(run.status, 12, "{}", run.stderr);
    assert!(run.stderr.contains("last lines of the serial port:") && run.stderr.contains(PANIC), "{}", run.stderr);
    let run = hostel(&["run", &kernel, "--virtio-console", "--cmdline=quiet", "--timeout", "240s"], "nproc\n");
    assert_eq!((run.status, run.stdout.contains("hostel# 1")), (0, true), "{run:?}");
}

/// memtest86+ has no paravirtual parts: it needs the interrupt controllers of a PC, and shows its screen cell by cell.
#[test]
fn memtest_shows_its_screen_over_serial() {
    if lab_kernel().is_none() {
        return;
    }
    if !std::path::Path::new(MEMTEST).exists() {
        return skip("this distribution's memtest86+ has no 64-bit image");
    }
    let machine = ["run", MEMTEST, "--irqchip", "full", "--no-initrd", "--mem", "64M", "--timeout", "240s"];
    let words = ["--cmdline", "console=ttyS0,115200 nosmp"];
    let screen = ["--expect", r"Memtest86\+", "--expect", "Pass", "--expect", "Test"];
    let run = hostel(&[machine.as_slice(), &words, &screen].concat(), "");
    assert_eq!(run.status, 0, "{run:#?}");
}

#[test]
fn a_panic_of_a_running_system_ends_with_12() {
    let Some(kernel) = lab_kernel() else { return };
    let run = boot(&kernel, &[], "panic");
    assert_eq!(run.status, 12);
}
