//! The sample guests inside the binary: one row a guest.
//!
//! The build script compiles them from `guest/`; `guest/README.md` tells what each one teaches. An image is detected like a
//! file of the user's: ELF with a PVH note, or a 16-bit flat binary with a boot sector's signature.
//!
//! Guests that need no interrupts run with the split irqchip all the same: start to exit takes 3.7 ms with it, 4.4 ms with
//! none and 24 ms with all of it in the kernel (`benches/` repeats the comparison). The exception is `real`, which halts for
//! good: without a LAPIC in the kernel its HLT ends the run at once.

use crate::arch::irqchip::Irqchip;

/// A guest that `hostel run NAME` boots without any file.
pub struct Sample {
    /// What `run` calls it.
    pub name: &'static str,
    /// What it shows, in one line.
    pub shows: &'static str,
    /// How it ends, and with which exit status.
    pub ends: &'static str,
    /// The image.
    pub image: &'static [u8],
    /// The interrupt controllers that it runs with unless told otherwise: the cheapest that serve it.
    pub irqchip: Irqchip,
    /// Processors that it runs with unless told otherwise.
    pub cpus: u8,
    /// Its source in the repository.
    pub source: &'static str,
}

/// The image of this name that the build script has made: a static of its own, so that `link/release.ld` can put it behind what
/// each start reads.
macro_rules! image {
    ($name:literal) => {{
        static IMAGE: [u8; include_bytes!(concat!(env!("OUT_DIR"), "/", $name)).len()] =
            *include_bytes!(concat!(env!("OUT_DIR"), "/", $name));
        &IMAGE
    }};
}

/// Every sample guest, in the order in which `hostel guests` lists them.
pub static SAMPLES: &[Sample] = &[
    Sample {
        name: "hello",
        shows: "the smallest 64-bit guest: two lines on the serial port",
        ends: "powers off: 0",
        image: image!("hello"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/hello.rs",
    },
    Sample {
        name: "real",
        shows: "16-bit real mode, as a boot sector; a software interrupt",
        ends: "halts for good: 0",
        image: image!("real"),
        irqchip: Irqchip::None,
        cpus: 1,
        source: "guest/bin/real.rs",
    },
    Sample {
        name: "longmode",
        shows: "real mode, protected mode, paging, long mode, each step told",
        ends: "isa-debug-exit with 16: 33",
        image: image!("longmode"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/longmode.rs",
    },
    Sample {
        name: "interrupts",
        shows: "sleeps until the LAPIC timer, the PIT (--irqchip full) or a key interrupts; echoes keys",
        ends: "powers off on q or end of input: 0",
        image: image!("interrupts"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/interrupts.rs",
    },
    Sample {
        name: "smp",
        shows: "starts all processors, each tells its APIC id; a lock and an atomic counter",
        ends: "powers off: 0; something missing: 3",
        image: image!("smp"),
        irqchip: Irqchip::Split,
        cpus: 2,
        source: "guest/bin/smp.rs",
    },
    Sample {
        name: "memory",
        shows: "walks the memory map, touches both ends of each range of RAM",
        ends: "powers off: 0; RAM does not keep: 3",
        image: image!("memory"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/memory.rs",
    },
    Sample {
        name: "faults",
        shows: "takes #DE, #UD, #GP, #PF and an unknown MSR, and returns from each",
        ends: "powers off: 0; an exception missing: 3",
        image: image!("faults"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/faults.rs",
    },
    Sample {
        name: "crash",
        shows: "a triple fault on purpose, and Hostel's diagnosis of it",
        ends: "triple fault: 14",
        image: image!("crash"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/crash.rs",
    },
    Sample {
        name: "panic",
        shows: "a kernel that gives up, and tells so by pvpanic",
        ends: "guest panicked: 12",
        image: image!("panic"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/panic.rs",
    },
    Sample {
        name: "traps",
        shows: "the trap laboratory: each thing that may leave a guest, done and checked; see hostel trace traps",
        ends: "powers off: 0; a check fails: 3",
        image: image!("traps"),
        irqchip: Irqchip::Split,
        cpus: 2,
        source: "guest/bin/traps.rs",
    },
    Sample {
        name: "trap-cost",
        shows: "what a trap costs, measured from inside: cycles, and who answers",
        ends: "powers off: 0; time stands still: 3",
        image: image!("trap-cost"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/trap-cost.rs",
    },
    Sample {
        name: "virtio-blk",
        shows: "reads a sector of a disk by hand (--transport mmio --disk FILE)",
        ends: "powers off: 0; no disk, or not read: 3",
        image: image!("virtio-blk"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/virtio-blk.rs",
    },
    Sample {
        name: "disk-bench",
        shows: "how fast a disk is, measured from inside; and a writer made to be killed (--transport mmio --disk FILE)",
        ends: "powers off: 0; no disk, or a request fails: 3",
        image: image!("disk-bench"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/disk-bench.rs",
    },
    Sample {
        name: "net-bench",
        shows: "how fast frames go between two machines, measured from inside (--transport mmio --net switch:NAME)",
        ends: "powers off: 0; no device, or nothing comes: 3",
        image: image!("net-bench"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/net-bench.rs",
    },
    Sample {
        name: "virtio-net",
        shows: "answers ARP and ping by hand, or pings (--transport mmio --net switch:NAME)",
        ends: "powers off at end of input, or after three answers: 0; no device, or none: 3",
        image: image!("virtio-net"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/virtio-net.rs",
    },
    Sample {
        name: "user",
        shows: "two programs in ring 3 by turns, each in an address space of its own; SYSCALL and the LAPIC's timer",
        ends: "powers off: 0",
        image: image!("user"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/user.rs",
    },
    Sample {
        name: "sensitive",
        shows: "asks by instructions that do not trap in ring 3: wrong answers under a monitor that only traps",
        ends: "powers off: 0; an answer is wrong: 3",
        image: image!("sensitive"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/sensitive.rs",
    },
    Sample {
        name: "monitor",
        shows: "a VMM on the bare machine: runs two of these guests in ring 3, by trap and emulate",
        ends: "powers off: 0; no such guest: 3",
        image: image!("monitor"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/monitor.rs",
    },
    Sample {
        name: "shell",
        shows: "the default: a small kernel with a prompt, which runs ring-3 programs (help and programs list what there is)",
        ends: "powers off on poweroff or end of input: 0",
        image: image!("shell"),
        irqchip: Irqchip::Split,
        cpus: 1,
        source: "guest/bin/shell.rs",
    },
];

/// `hello` linked for each boot protocol: the protocol's name and the image. All print the same.
pub static HELLO_FORMS: &[(&str, &[u8])] = &[
    ("pvh", image!("hello")),
    ("linux64", image!("hello-linux64")),
    ("multiboot", image!("hello-multiboot")),
    ("flat16", image!("hello-flat16")),
    ("flat64", image!("hello-flat64")),
];

/// The sample guest that boots where no image is named.
pub const DEFAULT: &str = "shell";

/// The sample guest called `name`.
pub fn find(name: &str) -> Option<&'static Sample> {
    SAMPLES.iter().find(|sample| sample.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_found_by_its_name() {
        assert_eq!(find("hello").map(|sample| sample.source), Some("guest/bin/hello.rs"));
        assert!(find(DEFAULT).is_some());
        assert!(find("nobody").is_none());
    }

    #[test]
    fn the_16_bit_form_carries_a_boot_sector_signature() {
        let (_, image) = HELLO_FORMS[3];
        assert_eq!(image[510..512], [0x55, 0xaa]);
    }
}
