//! Compiles the sample guests under `guest/` with the compiler and the linker that build Hostel itself.
//!
//! A guest is a static program for no operating system: `no_std`, no start files, no red zone (an interrupt handler on the
//! same stack would overwrite it), its place in memory given by a linker script. `src/boot/samples.rs` embeds the images
//! from `OUT_DIR` and describes them; `guest/README.md` shows the same steps by hand.

#[allow(dead_code, reason = "the lab uses more of it")]
#[path = "guest/init/cpio.rs"]
mod cpio;

#[path = "examples/sandbox/compile.rs"]
mod sandbox_program;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// One image: what it is called, its source in `guest/bin`, the symbol it is entered at, and its shape.
struct Image {
    name: &'static str,
    source: &'static str,
    entry: &'static str,
    shape: Shape,
}

/// What the loader gets.
enum Shape {
    /// An ELF file, linked at this address.
    Elf(u64),
    /// The bytes from this address up.
    Flat(u64),
}

/// Where an ELF guest lies: above the first MiB and what the boot protocols keep there.
const ELF_BASE: u64 = 0x10_0000;
/// Where the monitor lies, out of the way of its guests: the window of `guest/monitor/machine.rs`.
const MONITOR_BASE: u64 = 128 << 20;
/// Where real mode reaches an ELF guest with segment 0, and no boot information lies.
const LOW_BASE: u64 = 0xa000;
/// Where a boot sector is loaded by custom, and where Hostel loads a flat 16-bit binary.
const FLAT16_BASE: u64 = 0x7c00;
/// Where Hostel loads a flat 64-bit binary.
const FLAT64_BASE: u64 = 0x1_0000;

/// Where the runtime of Windows programs lies in their memory: `RUNTIME` in `src/process/windows/layout.rs`.
const WINDOWS_RUNTIME_BASE: u64 = 0x7000_0000;

const fn image(name: &'static str, source: &'static str, entry: &'static str, shape: Shape) -> Image {
    Image { name, source, entry, shape }
}

const IMAGES: &[Image] = &[
    image("hello", "hello", "pvh_start", Shape::Elf(ELF_BASE)),
    image("hello-linux64", "hello", "linux64_start", Shape::Elf(ELF_BASE)),
    image("hello-multiboot", "hello", "multiboot_start", Shape::Elf(ELF_BASE)),
    image("hello-flat16", "hello", "flat16_start", Shape::Flat(FLAT16_BASE)),
    image("hello-flat64", "hello", "flat64_start", Shape::Flat(FLAT64_BASE)),
    image("real", "real", "real_start", Shape::Flat(FLAT16_BASE)),
    image("longmode", "longmode", "longmode_start", Shape::Elf(LOW_BASE)),
    image("memory", "memory", "pvh_start", Shape::Elf(ELF_BASE)),
    image("faults", "faults", "pvh_start", Shape::Elf(ELF_BASE)),
    image("crash", "crash", "pvh_start", Shape::Elf(ELF_BASE)),
    image("panic", "panic", "pvh_start", Shape::Elf(ELF_BASE)),
    image("smp", "smp", "pvh_start", Shape::Elf(ELF_BASE)),
    image("traps", "traps", "pvh_start", Shape::Elf(ELF_BASE)),
    image("trap-cost", "trap-cost", "pvh_start", Shape::Elf(ELF_BASE)),
    image("disk-bench", "disk-bench", "pvh_start", Shape::Elf(ELF_BASE)),
    image("net-bench", "net-bench", "pvh_start", Shape::Elf(ELF_BASE)),
    image("shell", "shell", "pvh_start", Shape::Elf(ELF_BASE)),
    image("interrupts", "interrupts", "pvh_start", Shape::Elf(ELF_BASE)),
    image("virtio-blk", "virtio-blk", "pvh_start", Shape::Elf(ELF_BASE)),
    image("virtio-net", "virtio-net", "pvh_start", Shape::Elf(ELF_BASE)),
    image("user", "user", "pvh_start", Shape::Elf(ELF_BASE)),
    image("sensitive", "sensitive", "pvh_start", Shape::Elf(ELF_BASE)),
];

/// The guest that runs guests: it embeds images of the others, so it is built when they are.
const MONITOR: Image = image("monitor", "monitor", "pvh_start", Shape::Elf(MONITOR_BASE));

/// Programs on the thread models, which are built for Linux too: tests hold the same code to its rules there.
const THREAD_PROGRAMS: [(&str, &str); 2] =
    [("threads", "guest/process/threads/main.rs"), ("race", "guest/process/race.rs")];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=Cargo.lock");
    for folder in ["asm", "bin", "crates", "init", "kernel", "lib", "link", "monitor", "process", "windows"] {
        println!("cargo:rerun-if-changed=guest/{folder}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));

    link_unwinder_statically();
    pack_relocations();
    gather_start();

    let library = out.join("libguest.rlib");
    let mut compile = rustc(Path::new("guest/lib/lib.rs"), &library);
    compile.args(["--crate-name", "guest", "--crate-type", "rlib"]);
    run(compile);
    build_crates(&out);
    build_processes(&out);

    thread::scope(|scope| {
        for image in IMAGES {
            let (out, library) = (&out, &library);
            scope.spawn(move || build(image, out, library));
        }
        scope.spawn(|| build_initramfs(&out));
        scope.spawn(|| build_sandbox_programs(&out));
        scope.spawn(|| build_thread_programs_for_linux(&out));
        scope.spawn(|| build_windows_runtime(&out));
    });
    build(&MONITOR, &out, &library);
}

/// Programs for the tests of sandboxes, which also run where there is no compiler. Hostel itself does without: where `cc` compiles no
/// C the file is empty, and the tests say so.
fn build_sandbox_programs(out: &Path) {
    for path in ["guest/sandbox", "examples/sandbox/compile.rs", "tests/sandbox"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let programs = [
        ("sandbox-c", sandbox_program::c("tests/sandbox/guest.c")),
        ("sandbox-rust", sandbox_program::rust("tests/sandbox/guest.rs")),
    ];
    for (name, program) in programs {
        let program = program.unwrap_or_else(|error| {
            println!("cargo:warning=no program for tests/sandbox.rs: {error}");
            Vec::new()
        });
        fs::write(out.join(name), program).expect("OUT_DIR can be written");
    }
}

/// Puts the unwinder, which the standard library names and a build that aborts on panic never calls, into Hostel itself: to
/// find and map `libgcc_s.so` takes longer than to parse the command line. Without the static library all stays as it is.
fn link_unwinder_statically() {
    let Ok(output) = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output() else { return };
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    let library = Path::new(answer.trim());
    // The compiler answers with the bare name when it has no such file.
    if let Some(directory) = library.parent().filter(|_| library.is_absolute()) {
        println!("cargo:rustc-link-search=native={}", directory.display());
        println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
    }
}

/// Has the table of addresses that a start must correct, because Hostel may lie anywhere, written as bitmaps (System V gABI
/// "Relative Relocation Table"): a hundredth of its size, and each start reads all of it. glibc knows them since 2.36.
fn pack_relocations() {
    let Ok(output) = Command::new("getconf").arg("GNU_LIBC_VERSION").output() else { return };
    let answer = String::from_utf8_lossy(&output.stdout);
    let version = answer.trim().strip_prefix("glibc 2.").and_then(|minor| minor.parse::<u32>().ok());
    let for_glibc = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|library| library == "gnu");
    if for_glibc && version.is_some_and(|minor| minor >= 36) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Has the linker bring together the code that each start of a release build runs, by `link/start.ld`, and leave out what unwinding
/// needs. Both linkers that a stable toolchain brings or finds (LLVM's and GNU's) know such scripts; who chose one that does not goes
/// without. A debug build would be linked for seconds.
fn gather_start() {
    println!("cargo:rerun-if-changed=link");
    let chosen = ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_LINKER"].map(|name| env::var(name).unwrap_or_default()).concat();
    let directory = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let released = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if released && !["mold", "gold", "wild"].iter().any(|linker| chosen.contains(linker)) {
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{directory}/link/start.ld");
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{directory}/link/release.ld");
    }
}

/// The compiler as every guest needs it, from `source` to the file `output`.
fn rustc(source: &Path, output: &Path) -> Command {
    let mut command = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    command.arg(source).arg("-o").arg(output).args(["--edition", "2024"]);
    for option in [
        "panic=abort",
        "opt-level=s",
        "codegen-units=1",
        "relocation-model=static",
        "no-redzone=yes",
        "no-vectorize-loops",
        "no-vectorize-slp",
        // Two numbers written one after the other would go through a vector register.
        "llvm-args=-combiner-store-merging=false",
        // Debuggers and traces name addresses by the symbols that stay.
        "strip=debuginfo",
    ] {
        command.args(["-C", option]);
    }
    command
}

/// Compiles and links one guest.
fn build(image: &Image, out: &Path, library: &Path) {
    let source = Path::new("guest/bin").join(image.source).with_extension("rs");
    let (Shape::Elf(base) | Shape::Flat(base)) = image.shape;
    let file = out.join(image.name);
    let mut command = rustc(&source, &file);
    command.arg("--extern").arg(format!("guest={}", library.display()));
    // The names of its functions stay: traces and diagnoses show them.
    command.args(["-C", "strip=debuginfo"]);
    link(command, base, image.entry);
    if let Shape::Flat(_) = image.shape {
        write_flat(&file, base);
    }
}

/// Links what `command` compiles for the address `base`.
fn link(mut command: Command, base: u64, entry: &str) {
    for argument in [
        "-nostartfiles -nostdlib -static -no-pie",
        "-Wl,--build-id=none,--gc-sections,-z,max-page-size=4096",
        &format!("-Wl,-T,guest/link/guest.ld,--defsym=base={base},-e,{entry}"),
    ] {
        command.args(["-C", &format!("link-args={argument}")]);
    }
    run(command);
}

/// Makes a linked file the bytes that it fills memory with.
fn write_flat(file: &Path, base: u64) {
    let elf = fs::read(file).expect("the linker wrote the image");
    fs::write(file, flatten(&elf, base)).expect("OUT_DIR is writable");
}

/// Compiles the part of the C runtime that lies in a Windows program's memory. Its table of names is its first byte.
fn build_windows_runtime(out: &Path) {
    let file = out.join("windows-runtime");
    link(rustc(Path::new("guest/windows/runtime.rs"), &file), WINDOWS_RUNTIME_BASE, "EXPORTS");
    write_flat(&file, WINDOWS_RUNTIME_BASE);
}

/// Where [`build_crates`] leaves its libraries.
fn crates_folder(out: &Path) -> PathBuf {
    out.join("crates").join(env::var("HOST").expect("cargo sets HOST")).join("guest")
}

/// Builds what ring-3 programs take from crates.io by a cargo within this one: with the same lock file, but flags of its own, and
/// a profile that does not depend on what Hostel is built for.
fn build_crates(out: &Path) {
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    cargo.args(["build", "--locked", "--quiet", "--package", "guest-crates", "--profile", "guest"]);
    cargo.arg("--target").arg(env::var_os("HOST").expect("cargo sets HOST"));
    cargo.arg("--target-dir").arg(out.join("crates"));
    // These are for Hostel: flags of its user, and clippy in front of the compiler.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "").env_remove("RUSTC_WORKSPACE_WRAPPER");
    run(cargo);
}

/// Compiles the ring-3 programs of the sample kernel to `process-NAME`: each file in `guest/process`, and each folder that has a
/// `main.rs`. The kernel embeds them.
fn build_processes(out: &Path) {
    for (name, source) in [("process", "guest/process/lib/lib.rs"), ("models", "guest/process/models/lib.rs")] {
        let mut compile = rustc_ring3(Path::new(source), &out.join(format!("lib{name}.rlib")));
        compile.args(["--crate-name", name, "--crate-type", "rlib", "--check-cfg", "cfg(linux)"]);
        run(with_libraries(compile, out));
    }
    thread::scope(|scope| {
        for entry in fs::read_dir("guest/process").expect("the repository has it") {
            let path = entry.expect("the folder can be read").path();
            let source = if path.is_dir() { path.join("main.rs") } else { path.clone() };
            if !source.exists() || source.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            scope.spawn(move || {
                let name = path.file_stem().expect("it has a name").to_string_lossy().into_owned();
                let mut command = rustc_ring3(&source, &out.join(format!("process-{name}")));
                command.args(["--crate-name", &name.replace('-', "_"), "-C", "strip=symbols"]);
                for argument in [
                    "-nostartfiles -nostdlib -static -no-pie",
                    "-Wl,--build-id=none,--gc-sections,-z,max-page-size=4096",
                    "-Wl,-T,guest/link/process.ld,-e,process_start",
                ] {
                    command.args(["-C", &format!("link-args={argument}")]);
                }
                run(with_libraries(command, out));
            });
        }
    });
}

/// Has `command` find the libraries of ring-3 programs, as far as they are built.
fn with_libraries(mut command: Command, out: &Path) -> Command {
    command.arg("-L").arg(out);
    for name in ["process", "models"] {
        command.arg("--extern").arg(name);
    }
    let crates = crates_folder(out);
    command.arg("-L").arg(format!("dependency={}", crates.join("deps").display()));
    command.arg("--extern").arg(format!("crates={}", crates.join("libguest_crates.rlib").display()));
    command
}

/// The compiler for ring 3: code that is native everywhere, so fast rather than small, and that finds all by its own address, for it
/// lies above what 32 bits reach.
fn rustc_ring3(source: &Path, output: &Path) -> Command {
    let mut command = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    command.arg(source).arg("-o").arg(output).args(["--edition", "2024"]);
    for option in ["panic=abort", "opt-level=2", "codegen-units=1", "relocation-model=pic"] {
        command.args(["-C", option]);
    }
    command
}

/// Compiles init, which is a Linux program, and packs it with what the kernel needs before init has mounted anything.
fn build_initramfs(out: &Path) {
    let init = out.join("init");
    let command = rustc(Path::new("guest/init/init.rs"), &init);
    run(for_linux(command));
    let mut archive = cpio::Archive::default();
    for directory in ["/dev", "/proc", "/sys"] {
        archive.directory(directory);
    }
    // Linux devices.txt: the console is character device 5:1.
    archive.character_device("/dev/console", 0o600, 5, 1);
    archive.file("/init", 0o755, &fs::read(&init).expect("the linker wrote init"));
    fs::write(out.join("initramfs"), archive.finish()).expect("OUT_DIR is writable");
}

/// What makes a static program for Linux of what `command` compiles, without a C library.
fn for_linux(mut command: Command) -> Command {
    command.args(["-C", "strip=symbols"]);
    for argument in [
        "-nostartfiles -nostdlib -static -no-pie",
        // As in the guests' linker script: the precompiled `core` names this function, nothing calls it.
        "-Wl,--build-id=none,--gc-sections,-z,max-page-size=4096,--defsym=rust_eh_personality=0,--strip-all",
    ] {
        command.args(["-C", &format!("link-args={argument}")]);
    }
    command
}

/// Compiles the thread models for Linux, and the programs on them.
fn build_thread_programs_for_linux(out: &Path) {
    let library = out.join("liblinux_models.rlib");
    let mut compile = rustc_ring3(Path::new("guest/process/models/lib.rs"), &library);
    compile.args(["--crate-name", "models", "--crate-type", "rlib", "--cfg", "linux"]);
    run(compile);
    for (program, source) in THREAD_PROGRAMS {
        let mut compile = rustc_ring3(Path::new(source), &out.join(format!("linux-{program}")));
        compile.args(["--crate-name", program]).arg("--extern").arg(format!("models={}", library.display()));
        run(for_linux(compile));
    }
}

/// Runs a compiler; the build fails with its messages if it does.
fn run(mut command: Command) {
    let result = command.output().expect("the compiler that runs this build can be started");
    let messages = String::from_utf8_lossy(&result.stderr);
    assert!(result.status.success(), "a guest does not compile: {command:?}\n{messages}");
    for line in messages.lines() {
        println!("cargo:warning={line}");
    }
}

/// The memory from `base` up as the segments of `elf` fill it (System V gABI "Program Header").
///
/// `ld --oformat=binary` would do, but GNU ld then keeps what no entry reaches.
fn flatten(elf: &[u8], base: u64) -> Vec<u8> {
    const PT_LOAD: u64 = 1;
    let number =
        |at: usize, bytes: usize| elf[at..at + bytes].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
    let (table, entry_bytes, entries) = (number(32, 8) as usize, number(54, 2) as usize, number(56, 2) as usize);
    let mut memory = Vec::new();
    for header in (0..entries).map(|i| table + i * entry_bytes).filter(|&at| number(at, 4) == PT_LOAD) {
        let (offset, file_bytes) = (number(header + 8, 8) as usize, number(header + 32, 8) as usize);
        let start = (number(header + 24, 8) - base) as usize;
        memory.resize(memory.len().max(start + number(header + 40, 8) as usize), 0);
        memory[start..start + file_bytes].copy_from_slice(&elf[offset..offset + file_bytes]);
    }
    memory
}
