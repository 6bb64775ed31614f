//! Archives and images as they are, and as nobody should make them: what becomes of them, and that nothing outside is touched.

use super::budget::{BYTES_MAX, Budget};
use super::error::{Fault, Problem};
use super::layout::ImageCommand;
use super::root::{Source, Unpacked, unpack};
use super::samples::{Is, Layout, Scratch, append, archive, gzip, header, xz, zstd};
use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags};
use serde_json::{Value, json};
use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use tar::{Builder, EntryType};

fn unpack_file(scratch: &Scratch, bytes: &[u8]) -> Result<Unpacked, Problem> {
    unpack_within(scratch, bytes, &Budget::new())
}

fn unpack_within(scratch: &Scratch, bytes: &[u8], budget: &Budget) -> Result<Unpacked, Problem> {
    let file = scratch.0.join("archive");
    fs::write(&file, bytes).unwrap();
    let parent = scratch.0.join("unpacked");
    fs::create_dir_all(&parent).unwrap();
    let unpacked = unpack(&file, Source::Archive, &parent, budget, &|| false);
    if unpacked.is_err() {
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 0, "nothing is left");
    }
    unpacked.map_err(|error| error.problem)
}

fn unpack_layout(scratch: &Scratch, layout: &Layout) -> Result<Unpacked, Problem> {
    unpack(&layout.path, Source::Layout, &scratch.0, &Budget::new(), &|| false).map_err(|error| error.problem)
}

/// What a file of the tree is shown as.
fn shown(unpacked: &Unpacked, path: &str) -> Statx {
    let path = unpacked.path().join(path);
    let stat = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).unwrap();
    unpacked.guise.of(&stat)
}

fn text(unpacked: &Unpacked, path: &str) -> String {
    fs::read_to_string(unpacked.path().join(path)).unwrap()
}

/// All paths below a directory, in order.
fn paths(unpacked: &Unpacked) -> Vec<String> {
    fn below(root: &Path, path: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            if path.symlink_metadata().unwrap().is_dir() {
                below(root, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    below(&unpacked.path(), &unpacked.path(), &mut found);
    found.sort();
    found
}

const ALL: &[(&str, Is<'_>)] = &[
    ("./", Is::Directory),
    ("usr/bin/", Is::Directory),
    ("bin", Is::Link("usr/bin")),
    ("/bin/sh", Is::File(b"a shell")),
    ("bin/bash", Is::HardLink("/bin/sh")),
    ("dev/null", Is::Character(1, 3)),
    ("run/pipe", Is::Fifo),
    ("out", Is::Link("../../../../etc")),
];

#[test]
fn what_an_archive_has_is_there_however_it_is_packed() {
    let plain = archive(ALL);
    for packed in
        [plain.clone(), gzip(&plain), zstd(&plain), xz(&plain), [gzip(&plain[..700]), gzip(&plain[700..])].concat()]
    {
        let scratch = Scratch::new();
        let unpacked = unpack_file(&scratch, &packed).unwrap();
        let there =
            ["bin", "dev", "dev/null", "out", "run", "run/pipe", "usr", "usr/bin", "usr/bin/bash", "usr/bin/sh"];
        assert_eq!(paths(&unpacked), there);
        assert_eq!(text(&unpacked, "usr/bin/bash"), "a shell");
        let stat = fs::metadata(unpacked.path().join("bin/sh")).unwrap();
        assert_eq!((stat.nlink(), stat.mtime(), stat.mode() & 0o7777), (2, 1_000_000_000, 0o644));
        assert_eq!(fs::read_link(unpacked.path().join("out")).unwrap(), Path::new("../../../../etc"));
        let null = shown(&unpacked, "dev/null");
        assert_eq!((null.stx_rdev_major, null.stx_rdev_minor), (1, 3));
        assert_eq!(FileType::from_raw_mode(null.stx_mode.into()), FileType::CharacterDevice);
        assert_eq!(unpacked.guise.kind(null.stx_ino), Some(FileType::CharacterDevice));
        let path = unpacked.path();
        drop(unpacked);
        assert!(!path.exists());
    }
}

#[test]
fn owners_and_permissions_are_shown_that_an_ordinary_user_cannot_give() {
    let mut builder = Builder::new(Vec::new());
    for (name, mode, uid) in [("plain", 0o644, 0), ("closed", 0, 0), ("program", 0o4755, 0), ("mail", 0o640, 8)] {
        let mut header = header(name, Is::File(b"x"), mode);
        header.set_uid(uid);
        header.set_gid(uid / 2);
        header.set_cksum();
        append(&mut builder, &header, Is::File(b"x"));
    }
    append(&mut builder, &header("shut", Is::Directory, 0o1000), Is::Directory);
    append(&mut builder, &header("shut/in", Is::File(b"x"), 0o600), Is::File(b"x"));
    let scratch = Scratch::new();
    let unpacked = unpack_file(&scratch, &builder.into_inner().unwrap()).unwrap();
    for (name, mode, uid, gid) in [
        ("plain", 0o644, 0, 0),
        ("closed", 0, 0, 0),
        ("program", 0o4755, 0, 0),
        ("mail", 0o640, 8, 4),
        ("shut", 0o1000, 0, 0),
        ("shut/in", 0o600, 0, 0),
    ] {
        let stat = shown(&unpacked, name);
        assert_eq!((stat.stx_mode & 0o7777, stat.stx_uid, stat.stx_gid), (mode, uid, gid), "{name}");
        let on_host = fs::metadata(unpacked.path().join(name)).unwrap();
        assert_eq!((on_host.mode() & 0o7000, on_host.uid()), (0, rustix::process::geteuid().as_raw()));
        assert!(on_host.mode() & 0o400 != 0, "{name} can be read");
    }
    assert_eq!(shown(&unpacked, "").stx_mode & 0o7777, 0o755, "the root, which nobody described");
}

#[test]
fn the_last_member_of_a_name_counts() {
    let mut members = vec![("a", Is::File(b"first")), ("d/e/f", Is::File(b"")), ("d", Is::File(b"no directory"))];
    members.extend(vec![("a", Is::File(b"again")); 1000]);
    members.extend([("l", Is::Link("a")), ("l", Is::File(b"not through the link")), ("d", Is::Directory)]);
    let scratch = Scratch::new();
    let unpacked = unpack_file(&scratch, &archive(&members)).unwrap();
    assert_eq!(paths(&unpacked), ["a", "d", "l"]);
    assert_eq!((text(&unpacked, "a"), text(&unpacked, "l")), ("again".into(), "not through the link".into()));
}

/// Members that would leave the tree: those that say so are refused, all others end up inside.
#[test]
fn nothing_leads_out_of_the_tree() {
    for bad in ["../x", "a/../../x", "/../x", "..", "a/.."] {
        let scratch = Scratch::new();
        let is_refused = |members: &[(&str, Is<'_>)]| {
            let problem = unpack_file(&scratch, &archive(members)).map(drop).unwrap_err();
            assert!(matches!(problem, Problem::Member { fault: Fault::LeadsUp, .. }), "{bad}: {problem}");
        };
        is_refused(&[(bad, Is::File(b"x"))]);
        is_refused(&[("a", Is::File(b"x")), ("b", Is::HardLink(bad))]);
    }
    let scratch = Scratch::new();
    let outside = scratch.0.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "as it was").unwrap();
    fs::set_permissions(outside.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let (outside_text, file_text) = (outside.to_str().unwrap(), format!("{}/file", outside.to_str().unwrap()));
    for target in [outside_text, "../../outside", "../../../../../../../../../..", "/proc/self/cwd", "/proc/self/root"]
    {
        for members in [
            &[("l", Is::Link(target)), ("l/file", Is::File(b"changed"))][..],
            &[("l", Is::Link(target)), ("m", Is::Link("l")), ("m/d/new", Is::File(b"changed"))],
            &[("l", Is::Link(target)), ("l/d", Is::Directory), ("l", Is::Directory), ("l/file", Is::Character(1, 1))],
            &[("l", Is::Link(&file_text)), ("l", Is::File(b"changed"))],
            &[("l", Is::Link(&file_text)), ("h", Is::HardLink("l")), ("h", Is::File(b"changed"))],
            &[("l", Is::Link(target)), ("h", Is::HardLink("l/file")), ("h", Is::File(b"changed"))],
        ] {
            // Some lead to nowhere in the tree, and are errors.
            let _ = unpack_file(&scratch, &archive(members));
            let kept = fs::metadata(outside.join("file")).unwrap();
            assert_eq!((kept.mode() & 0o7777, kept.nlink(), kept.len()), (0o600, 1, 9), "{target}");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{target}");
        }
    }
    // An absolute link is one of the tree's own root.
    let members = [("etc", Is::Directory), ("l", Is::Link("/etc")), ("l/file", Is::File(b"inside"))];
    assert_eq!(text(&unpack_file(&scratch, &archive(&members)).unwrap(), "etc/file"), "inside");
}

#[test]
fn broken_archives_are_told_apart() {
    let scratch = Scratch::new();
    let of = |bytes: &[u8]| unpack_file(&scratch, bytes).map(drop).unwrap_err();
    let good = archive(&[("file", Is::File(&[7; 2000]))]);
    assert!(matches!(of(b""), Problem::Empty));
    assert!(matches!(of(&[0; 1024]), Problem::Empty));
    assert!(matches!(of(&[b'x'; 2048]), Problem::NotAnArchive));
    let cut = of(&good[..1024]);
    assert!(matches!(cut, Problem::Member { fault: Fault::Truncated, .. }), "{cut}");
    for packed in [gzip(&good), zstd(&good), xz(&good)] {
        let cut = of(&packed[..packed.len() / 2]);
        assert!(matches!(cut, Problem::Read(_) | Problem::Member { .. } | Problem::Empty), "{cut}");
    }
    let mut wrong = good.clone();
    wrong.splice(0..0, archive(&[("first", Is::File(b"x"))])[..1024].iter().copied());
    wrong[1024 + 10] ^= 1;
    assert!(matches!(of(&wrong), Problem::Read(_)), "a header's sum");
    for (name, is, want) in [
        ("file", Is::HardLink("nowhere"), "hard link to what the archive does not have"),
        ("file", Is::HardLink("."), "no name of a file"),
        (".", Is::File(b"x"), "no name of a file"),
        ("a\x1b[2J", Is::HardLink(".."), "a\\x1b[2J: `..` leads out"),
    ] {
        let said = of(&archive(&[(name, is)])).to_string();
        assert!(said.contains(want), "{said}");
    }
    // A number that is none is told with what stands there.
    let mut odd = header("x", Is::File(b""), 0o644);
    odd.as_old_mut().uid = *b"0\x1b[2J\n1\0";
    odd.set_cksum();
    let said = of(&[&odd.as_bytes()[..], &[0; 1024]].concat()).to_string();
    assert!(said.contains("numeric field") && !said.contains(char::is_control), "{said:?}");
    let file_as_directory = of(&archive(&[("a", Is::File(b"x")), ("a/b", Is::File(b"x"))]));
    assert!(matches!(file_as_directory, Problem::Member { fault: Fault::Host(_), .. }), "{file_as_directory}");
    let mut unknown = header("x", Is::File(b""), 0o644);
    unknown.set_entry_type(EntryType::new(b'Q'));
    unknown.set_cksum();
    let mut builder = Builder::new(Vec::new());
    append(&mut builder, &unknown, Is::File(b""));
    assert!(matches!(of(&builder.into_inner().unwrap()), Problem::Member { fault: Fault::Kind('Q'), .. }));
}

#[test]
fn what_unpacks_without_end_is_ended() {
    let scratch = Scratch::new();
    // 8 MiB in a few KiB.
    let bomb = gzip(&archive(&[("zeroes", Is::File(&vec![0; 8 << 20]))]));
    assert!(bomb.len() < 100 << 10);
    let problem = unpack_within(&scratch, &bomb, &Budget::of(1 << 20)).map(drop).unwrap_err();
    assert!(matches!(problem, Problem::TooLarge), "{problem}");
    // A size that nothing has, and a hole that takes no byte.
    for sparse in [false, true] {
        let mut header = header("large", Is::File(b""), 0o644);
        header.set_size(if sparse { 0 } else { BYTES_MAX + 1 });
        if sparse {
            header.set_entry_type(EntryType::GNUSparse);
            let gnu = header.as_gnu_mut().unwrap();
            gnu.set_real_size(1 << 60);
            gnu.sparse[0].set_offset(1 << 60);
            gnu.sparse[0].set_length(0);
        }
        header.set_cksum();
        let mut builder = Builder::new(Vec::new());
        append(&mut builder, &header, Is::File(b""));
        let problem = unpack_file(&scratch, &builder.into_inner().unwrap()).map(drop).unwrap_err();
        assert!(matches!(problem, Problem::TooLarge | Problem::Read(_)), "{problem}");
    }
    // A name without end: it is not read into memory.
    let mut long = header("././@LongLink", Is::File(&vec![b'n'; 2 << 20]), 0o644);
    long.set_entry_type(EntryType::GNULongName);
    long.set_cksum();
    let mut builder = Builder::new(Vec::new());
    append(&mut builder, &long, Is::File(&vec![b'n'; 2 << 20]));
    append(&mut builder, &header("x", Is::File(b""), 0o644), Is::File(b""));
    let problem = unpack_file(&scratch, &builder.into_inner().unwrap()).map(drop).unwrap_err();
    assert!(matches!(problem, Problem::TooMuchSaid), "{problem}");
    // Directories in each other, through links that each go on where the last one ended.
    let step = "d/".repeat(40);
    let mut members = Vec::new();
    let names: Vec<_> = (0..10).map(|index| (format!("l{index}"), format!("l{index}/{step}"))).collect();
    for (link, deep) in &names {
        members.push((deep.clone(), None));
        members.push((format!("l{}", link[1..].parse::<u32>().unwrap() + 1), Some(deep.clone())));
    }
    let mut builder = Builder::new(Vec::new());
    for (name, target) in &members {
        let is = target.as_deref().map_or(Is::Directory, Is::Link);
        append(&mut builder, &header(name, is, 0o755), is);
    }
    let problem = unpack_file(&scratch, &builder.into_inner().unwrap()).map(drop).unwrap_err();
    assert!(matches!(problem, Problem::Member { fault: Fault::TooDeep, .. }), "{problem}");
}

#[test]
fn it_ends_when_somebody_wants_it_to() {
    let scratch = Scratch::new();
    let file = scratch.0.join("archive");
    fs::write(&file, archive(&[("a", Is::File(&[1; 1 << 20])), ("b", Is::Directory)])).unwrap();
    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 4
    };
    let error = unpack(&file, Source::Archive, &scratch.0, &Budget::new(), &stop).map(drop).unwrap_err();
    assert!(matches!(error.problem, Problem::Interrupted));
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1, "only the archive");
}

const LOWER: &[(&str, Is<'_>)] = &[
    ("etc/", Is::Directory),
    ("etc/a", Is::File(b"a of the lower")),
    ("etc/b", Is::File(b"b of the lower")),
    ("var/lib/x", Is::File(b"x")),
    ("var/lib/deep/y", Is::File(b"y")),
    ("opt", Is::Directory),
    ("opt/old", Is::File(b"old")),
    ("lib", Is::Link("var/lib")),
];
const UPPER: &[(&str, Is<'_>)] = &[
    ("etc/.wh.a", Is::File(b"")),
    ("etc/b", Is::File(b"b of the upper")),
    ("opt/new", Is::File(b"new")),
    ("opt/.wh..wh..opq", Is::File(b"")),
    ("var/lib/new/z", Is::File(b"z")),
    ("lib/.wh.x", Is::File(b"")),
    ("var/.wh..wh.plnk", Is::Directory),
    (".wh.nothing", Is::File(b"")),
    ("nowhere/.wh.x", Is::File(b"")),
];

fn no_command() -> Value {
    json!({})
}

#[test]
fn layers_hide_what_is_below_them_and_nothing_of_their_own() {
    let scratch = Scratch::new();
    let layout = Layout::new(&scratch.0.join("layout"));
    let again = archive(&[("etc/.wh.b", Is::File(b"")), ("etc/b", Is::File(b"third")), (".wh.var", Is::File(b""))]);
    let image = layout.image("amd64", no_command(), &[gzip(&archive(LOWER)), zstd(&archive(UPPER)), again]);
    layout.index(&[image]);
    let unpacked = unpack_layout(&scratch, &layout).unwrap();
    assert_eq!(paths(&unpacked), ["etc", "etc/b", "lib", "opt", "opt/new"]);
    assert_eq!(text(&unpacked, "etc/b"), "third");
    // Whatever the order in which a layer hides and adds.
    let upper = archive(&UPPER.iter().rev().copied().collect::<Vec<_>>());
    let layout = Layout::new(&scratch.0.join("reversed"));
    layout.index(&[layout.image("amd64", no_command(), &[archive(LOWER), gzip(&upper)])]);
    let unpacked = unpack_layout(&scratch, &layout).unwrap();
    let there = [
        "etc",
        "etc/b",
        "lib",
        "opt",
        "opt/new",
        "var",
        "var/lib",
        "var/lib/deep",
        "var/lib/deep/y",
        "var/lib/new",
        "var/lib/new/z",
    ];
    assert_eq!(paths(&unpacked), there);
}

#[test]
fn the_image_for_this_processor_is_found_with_its_command() {
    let scratch = Scratch::new();
    let layout = Layout::new(&scratch.0.join("layout"));
    let config = json!({
        "Entrypoint": ["/bin/entry"], "Cmd": ["serve", "all"], "Env": ["PATH=/bin", "A=b"], "WorkingDir": "/srv", "User": "web",
    });
    let ours = layout.image("amd64", config, &[archive(&[("ours", Is::File(b""))])]);
    let theirs = layout.image("arm64", no_command(), &[archive(&[("theirs", Is::File(b""))])]);
    let mut attestation = ours.clone();
    attestation["platform"] = json!({"architecture": "unknown", "os": "unknown"});
    let inner = layout.nested(&[theirs.clone(), ours.clone(), attestation, ours.clone()]);
    layout.index(&[layout.nested(&[inner])]);
    let unpacked = unpack_layout(&scratch, &layout).unwrap();
    assert_eq!(paths(&unpacked), ["ours"]);
    let words = ["/bin/entry", "serve", "all"].map(String::from).to_vec();
    let environment = ["PATH=/bin", "A=b"].map(String::from).to_vec();
    let command = ImageCommand { words, environment, directory: "/srv".into(), user: "web".into() };
    assert_eq!(unpacked.command, command);
    // One without a platform at its descriptor has it in its configuration.
    let bare = |mut image: Value| {
        image.as_object_mut().unwrap().remove("platform");
        layout.index(&[image]);
        unpack_layout(&scratch, &layout).map(drop)
    };
    bare(ours).unwrap();
    assert!(bare(theirs).unwrap_err().to_string().contains("for linux on arm64"));
}

#[test]
fn layouts_that_lie_are_told_apart() {
    let scratch = Scratch::new();
    let layout = Layout::new(&scratch.0.join("layout"));
    let layer = gzip(&archive(&[("a", Is::File(&[5; 9000]))]));
    let image = layout.image("amd64", no_command(), std::slice::from_ref(&layer));
    let problem = |manifests: &[Value]| {
        layout.index(manifests);
        unpack_layout(&scratch, &layout).map(drop).unwrap_err().to_string()
    };
    let with = |change: &dyn Fn(&mut Value)| {
        let mut image = image.clone();
        change(&mut image);
        problem(&[image])
    };
    assert!(problem(&[]).contains("no image"));
    assert!(problem(&[layout.image("arm64", no_command(), &[])]).contains("but for linux on arm64"));
    let another = layout.image("amd64", json!({"Cmd": ["x"]}), &[]);
    assert!(problem(&[image.clone(), another]).contains("2 images"));
    for bad in ["sha256:../../../../etc/passwd", "sha256:00", "sha512:00", "", &format!("sha256:{}", "A".repeat(64))] {
        assert!(with(&|image| image["digest"] = json!(bad)).contains("no digest by SHA-256"), "{bad}");
    }
    assert!(with(&|image| image["digest"] = json!(format!("sha256:{}", "0".repeat(64)))).contains("No such file"));
    assert!(with(&|image| image["size"] = json!(1)).contains("bytes, and 1 are said"));
    assert!(with(&|image| image["size"] = json!(1u64 << 40)).contains("a document of"));
    assert!(with(&|image| image["size"] = json!(-1)).contains("without digest or size"));
    assert!(with(&|image| *image = json!([])).contains("without digest or size"));
    // Whatever is said is told in a line that is no longer than one.
    let hostile = "line\nend\x1b[2J".repeat(1000);
    let of_platform = |image: &mut Value| image["platform"] = json!({"architecture": "amd64", "os": hostile});
    let named = (0..9).map(|number| {
        let mut image = image.clone();
        image["digest"] = json!(format!("sha256:{number:064}"));
        image["annotations"] = json!({"org.opencontainers.image.ref.name": hostile});
        image
    });
    for said in [
        with(&|image| image["digest"] = json!(hostile)),
        with(&|image| (image["digest"], image["size"]) = (json!(hostile), json!(1u64 << 40))),
        with(&of_platform),
        problem(&named.collect::<Vec<_>>()),
    ] {
        assert!(!said.contains(char::is_control) && said.len() < 2000, "{said:?}");
    }
    assert!(problem(&vec![image.clone(); 5000]).contains("more than 4096 images"));
    // An index that leads to itself cannot be made; one that leads to very many can.
    let mut index = layout.nested(&[]);
    for _ in 0..8 {
        index = layout.nested(&vec![index; 8]);
    }
    assert!(problem(&[index]).contains("more than 64 indexes"));
    let sealed = layout.blob("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", &layer);
    let manifest =
        json!({"config": layout.blob("", br#"{"architecture": "amd64", "os": "linux"}"#), "layers": [sealed]});
    assert!(problem(&[layout.blob("", manifest.to_string().as_bytes())]).contains("+encrypted\" is not known"));
    // A layer whose bytes are others of the same number: packed, it does not unpack, and it is its digest that is told.
    let descriptor = layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", &layer);
    let mut other = layer.clone();
    let middle = other.len() / 2;
    other[middle] ^= 0x55;
    fs::write(layout.place(&descriptor), &other).unwrap();
    let said = problem(std::slice::from_ref(&image));
    assert!(said.contains("another digest"), "{said}");
    fs::write(layout.path.join("index.json"), "{").unwrap();
    let said = unpack_layout(&scratch, &layout).map(drop).unwrap_err().to_string();
    assert!(said.contains("index.json: EOF while parsing"), "{said}");
}
