//! The rules of the code base that can be counted: floors, file headers, the size of the core, the rooms of `unsafe`.
//!
//! Sources: ARCHITECTURE.md "Floors". The table below is the rule; the text explains it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Floor of each room: a file imports its own room or a lower floor, never sideways, never up.
const FLOORS: &[(u32, &[&str])] = &[
    (9, &["main", "cli"]),
    (7, &["embed"]),
    (6, &["machine", "process", "bench"]),
    (5, &["config", "debug", "doctor"]),
    (4, &["vcpu", "boot"]),
    (3, &["devices", "virtio"]),
    (2, &["kvm", "backend", "pci"]),
    (1, &["memory", "bus", "event_loop"]),
    (0, &["arch"]),
];

/// The core: what a reader must know to follow a guest from its image to its end.
const CORE: &[&str] = &[
    "arch/",
    "memory/",
    "bus/",
    "kvm/",
    "vcpu/",
    "devices/serial.rs",
    "devices/debug_exit.rs",
    "boot/flat.rs",
    "boot/elf.rs",
    "boot/linux.rs",
    "machine/build.rs",
    "machine/io.rs",
    "machine/cpus.rs",
    "machine/events.rs",
    "machine/lifecycle.rs",
];

/// Code lines that the core may have: neither blank, nor comment, nor test.
const CORE_LINES_MAX: usize = 5_000;

/// `unsafe` blocks, functions and impls in `src/`. Raise it only with the reason in the commit.
const UNSAFE_MAX: usize = 55;

/// Rooms and files that may hold `unsafe`: KVM, guest memory, and wrappers of single system calls.
const UNSAFE_ROOMS: &[&str] = &[
    "kvm/",
    "memory/",
    "backend/net_tap.rs",
    "backend/signals.rs",
    "backend/socket_options.rs",
    "backend/terminal.rs",
    "backend/block/bounded.rs",
    "backend/block/calls.rs",
    "backend/block/uring.rs",
    "doctor/syscalls.rs",
];

/// Rooms whose `mod.rs` forbids `unsafe` for all that is in them.
const SAFE_ROOMS: &[&str] =
    &["arch", "bus", "devices", "pci", "virtio", "boot", "vcpu", "machine", "process", "bench", "debug"];

/// The crates that the project is built on. Each is used for what it is there for.
const RUST_VMM: &[&str] = &["kvm_ioctls", "kvm_bindings", "vm_memory", "linux_loader", "vmm_sys_util"];

/// A file of `src/`: its path there, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The folder below `src/`, or the file itself where it stands in none.
    fn room(&self) -> &str {
        self.path.split_once('/').map_or(self.path.trim_end_matches(".rs"), |(room, _)| room)
    }

    /// The text without its tests, which stand at the end.
    fn without_tests(&self) -> &str {
        self.text.split_once("#[cfg(test)]\nmod tests").map_or(&self.text, |(code, _)| code)
    }

    fn code_lines(&self) -> usize {
        let code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
        self.without_tests().lines().filter(code).count()
    }

    /// Rooms that the file names as `crate::ROOM`.
    fn imports(&self) -> Vec<&str> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        self.code_text()
            .flat_map(|line| line.split("crate::").skip(1))
            .map(|rest| rest.split(|c| !is_name(c)).next().unwrap())
            .filter(|room| !room.is_empty())
            .collect()
    }

    /// Lines that are not comments.
    fn code_text(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter(|line| !line.trim_start().starts_with("//"))
    }
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files_below(&root, &mut paths);
    paths.sort();
    let source = |path: &PathBuf| Source {
        path: path.strip_prefix(&root).unwrap().to_str().unwrap().to_string(),
        text: fs::read_to_string(path).unwrap(),
    };
    paths.iter().map(source).collect()
}

/// Fails with all complaints at once.
fn assert_none(rule: &str, complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{rule}:\n  {}", complaints.join("\n  "));
}

#[test]
fn a_file_imports_its_own_room_or_a_lower_floor() {
    let floors: BTreeMap<&str, u32> =
        FLOORS.iter().flat_map(|(floor, rooms)| rooms.iter().map(|room| (*room, *floor))).collect();
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| source.path != "lib.rs") {
        let Some(own) = floors.get(source.room()) else {
            complaints.push(format!("{}: its room has no floor in the table", source.path));
            continue;
        };
        for room in source.imports().into_iter().filter(|room| *room != source.room()) {
            if floors.get(room).is_none_or(|floor| floor >= own) {
                complaints.push(format!("{} imports {room}", source.path));
            }
        }
    }
    assert_none("imports that go sideways or up", complaints);
}

#[test]
fn every_file_says_what_it_is() {
    let sources = sources();
    let mute = sources.iter().filter(|source| !source.text.starts_with("//! "));
    assert_none("files without a //! header", mute.map(|source| source.path.clone()).collect());
    // The words are put together here so that this file does not name them.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("unimple", "mented!"), concat!("to", "do!(")];
    let marked = sources.iter().filter(|source| marks.iter().any(|mark| source.text.contains(mark)));
    assert_none("files with work left over", marked.map(|source| source.path.clone()).collect());
}

/// What a header names behind "Source:" or "Sources:", up to the end of the paragraph, one citation a piece.
fn citations(text: &str) -> Vec<String> {
    let header = text.lines().take_while(|line| line.starts_with("//!"));
    let header: Vec<_> = header.map(|line| line.trim_start_matches("//!").trim()).collect();
    let paragraphs = header.split(|line| line.is_empty()).map(|lines| lines.join(" "));
    let cited = paragraphs.filter_map(|paragraph| {
        let (_, cited) = paragraph.split_once("Source: ").or_else(|| paragraph.split_once("Sources: "))?;
        let mut depth = 0; // of parentheses: a semicolon inside them separates nothing
        let separates = |c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            c == ';' && depth == 0
        };
        Some(cited.split(separates).map(|citation| citation.trim().to_owned()).collect::<Vec<_>>())
    });
    cited.flatten().collect()
}

/// Whether a citation names a manual page, such as poll(2).
fn is_manual_page(citation: &str) -> bool {
    (1..=8).any(|section| citation.contains(&format!("({section})")))
}

#[test]
fn every_source_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/sources.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let listed: Vec<_> = rows.flat_map(|cell| cell.trim_end_matches('`').split("`, `")).collect();
    let mut paths = vec![root.join("build.rs")];
    for folder in ["src", "guest", "examples", "benches"] {
        files_below(&root.join(folder), &mut paths);
    }
    let texts: Vec<_> = paths.iter().map(|path| (path.display(), fs::read_to_string(path).unwrap())).collect();
    let mut complaints = Vec::new();
    for (path, text) in &texts {
        for citation in citations(text) {
            if !is_manual_page(&citation) && !listed.iter().any(|name| citation.contains(name)) {
                complaints.push(format!("{path} cites {citation}"));
            }
            let words = citation.split([' ', '`', ',', ')', '/', '(']).map(|word| word.trim_end_matches(['.', ':']));
            let is_file =
                |word: &&str| [".rst", ".txt", ".pandoc", ".h", ".c", ".md"].iter().any(|end| word.ends_with(end));
            complaints.extend(
                words.filter(is_file).filter(|word| !page.contains(word)).map(|word| format!("{path} cites {word}")),
            );
        }
    }
    assert_none("sources that docs/sources.md does not list", complaints);
    let unused = listed
        .iter()
        .filter(|name| !name.starts_with("(2)"))
        .filter(|name| !texts.iter().any(|(_, text)| text.contains(**name)));
    assert_none("docs/sources.md lists what nothing cites", unused.map(|name| name.to_string()).collect());
}

#[test]
fn a_mod_file_holds_docs_and_mod_lines_only() {
    let allowed = |line: &str| {
        let line = line.trim();
        line.is_empty()
            || line.starts_with("//")
            || line.starts_with("#[")
            || line.starts_with("#![")
            || (line.trim_start_matches("pub ").starts_with("mod ") && line.ends_with(';'))
    };
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| source.path.ends_with("mod.rs")) {
        complaints
            .extend(source.text.lines().filter(|line| !allowed(line)).map(|line| format!("{}: {line}", source.path)));
    }
    assert_none("code in mod.rs", complaints);
}

#[test]
fn the_core_stays_small() {
    let sources = sources();
    let mut total = 0;
    for part in CORE {
        let files = sources.iter().filter(|source| source.path.starts_with(part));
        let lines: usize = files.map(Source::code_lines).sum();
        println!("{lines:6} {part}");
        assert!(lines > 0, "{part} is in the core's table and has no code");
        total += lines;
    }
    let all: usize = sources.iter().map(Source::code_lines).sum();
    println!("{total:6} the core, of {CORE_LINES_MAX} at most; {all} in all");
    assert!(total <= CORE_LINES_MAX, "the core has {total} code lines, {CORE_LINES_MAX} at most");
}

#[test]
fn the_reading_guide_passes_every_file_of_the_core() {
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reading-guide.md")).unwrap();
    let is_core = |source: &&Source| CORE.iter().any(|part| source.path.starts_with(part));
    let sources = sources();
    let files = sources.iter().filter(is_core).map(|source| &source.path).filter(|path| !path.ends_with("mod.rs"));
    let missed = files.filter(|path| !guide.contains(&format!("](../src/{path})")));
    assert_none("files of the core that docs/reading-guide.md passes over", missed.cloned().collect());
}

#[test]
fn each_rust_vmm_crate_is_used() {
    let sources = sources();
    for name in RUST_VMM {
        let users: Vec<_> = sources
            .iter()
            .filter(|source| source.code_text().any(|line| line.contains(&format!("{name}::"))))
            .map(|source| source.path.as_str())
            .collect();
        println!("{name}: {}", users.join(" "));
        assert!(!users.is_empty(), "{name} is used nowhere");
    }
}

#[test]
fn only_the_kvm_room_names_kvm_ioctls() {
    let named = |source: &&Source| source.room() != "kvm" && source.code_text().any(|line| line.contains("kvm_ioctls"));
    let sources = sources();
    assert_none("files that name kvm-ioctls", sources.iter().filter(named).map(|source| source.path.clone()).collect());
}

#[test]
fn unsafe_stays_in_its_rooms() {
    let mut total = 0;
    let mut complaints = Vec::new();
    for source in &sources() {
        let count: usize = source
            .code_text()
            .map(|line| {
                ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                    .iter()
                    .map(|kind| line.matches(kind).count())
                    .sum::<usize>()
            })
            .sum();
        if count > 0 {
            println!("{count:4} {}", source.path);
        }
        if count > 0 && !UNSAFE_ROOMS.iter().any(|room| source.path.starts_with(room)) {
            complaints.push(source.path.clone());
        }
        total += count;
    }
    println!("{total:4} unsafe blocks, functions and impls in all, of {UNSAFE_MAX} at most");
    assert_none("unsafe outside its rooms", complaints);
    assert!(total <= UNSAFE_MAX, "{total} uses of unsafe, {UNSAFE_MAX} at most");
}

#[test]
fn safe_rooms_forbid_unsafe() {
    let sources = sources();
    let open = SAFE_ROOMS.iter().filter(|room| {
        let path = format!("{room}/mod.rs");
        let source = sources.iter().find(|source| source.path == path);
        !source.is_some_and(|source| source.text.contains("#![forbid(unsafe_code)]"))
    });
    assert_none("rooms without forbid(unsafe_code)", open.map(|room| room.to_string()).collect());
}

#[test]
fn every_sample_guest_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed: Vec<_> = hostel::boot::samples::SAMPLES.iter().map(|sample| sample.source).collect();
    let readme = fs::read_to_string(root.join("guest/README.md")).unwrap();
    for sample in hostel::boot::samples::SAMPLES {
        assert!(root.join(sample.source).is_file(), "{} has no source {}", sample.name, sample.source);
        assert!(readme.contains(&format!("`{}`", sample.name)), "guest/README.md does not name {}", sample.name);
    }
    for entry in fs::read_dir(root.join("guest/bin")).unwrap() {
        let path = entry.unwrap().path();
        let source = format!("guest/bin/{}", path.file_name().unwrap().to_str().unwrap());
        let is_guest = path.extension().is_some_and(|extension| extension == "rs");
        assert!(!is_guest || listed.contains(&source.as_str()), "{source} is in no row of boot/samples.rs");
    }
}
