//! Roots out of archives and layouts: whatever they hold, nothing outside the new directory is looked into or changed; what is refused is
//! refused with one line and leaves nothing; what is not has no more bytes and no deeper directories than it may, only files that an
//! ordinary user may make, and no name of a file that lies elsewhere. After some of it a good archive is unpacked as it is.

#![no_main]

use arbitrary::Arbitrary;
use hostel::backend::share::guise::Guise;
use hostel::backend::unpack::budget::{Budget, DEPTH_MAX};
use hostel::backend::unpack::error::UnpackError;
use hostel::backend::unpack::root::{Source, Unpacked, unpack};
use hostel_fuzz::confined::confine;
use hostel_fuzz::knob::{Damage, Knob, Magnitude};
use hostel_fuzz::tar_file::TarFile;
use hostel_fuzz::watched::Watched;
use libfuzzer_sys::fuzz_target;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, StatxFlags, openat, statx};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

/// Most bytes that are unpacked.
const BYTES: u64 = 1 << 17;
/// Most bytes of a refusal, besides the archive's path.
const LINE: usize = 4096;
/// Most layers.
const LAYERS: usize = 4;

#[derive(Arbitrary, Debug)]
struct Input {
    what: What,
    /// It is given up when that was asked for so often.
    stop: Knob<u8>,
    /// One time in sixteen a good archive follows.
    good: Knob<()>,
}

#[derive(Arbitrary, Debug)]
enum What {
    Archive(TarFile),
    Layout(Box<Layout>),
}

/// An OCI layout; what is `None` is right.
#[derive(Arbitrary, Debug)]
struct Layout {
    layers: Vec<(TarFile, Blob)>,
    command: Vec<String>,
    system: Knob<String>,
    platform: Knob<(String, String)>,
    reference: Knob<String>,
    configuration: Blob,
    manifest: Blob,
    /// An index between that of the layout and the manifest.
    nested: Knob<Blob>,
    /// The manifest so many times, each under another name.
    again: Knob<u8>,
    index: Damage,
}

/// What is wrong with a blob and its descriptor.
#[derive(Arbitrary, Debug)]
struct Blob {
    media_type: Knob<String>,
    digest: Knob<String>,
    size: Knob<Magnitude>,
    /// Before its digest is made, and after.
    content: Damage,
    stored: Damage,
}

/// What is kept from one input to the next.
struct Bench {
    /// Holds what is outside, where archives are unpacked, and the layout.
    base: Watched,
    /// Tells whether something outside was so much as opened.
    opened: OwnedFd,
    /// The archive, which is opened by its descriptor.
    archive: File,
    /// Directories to which links lead.
    elsewhere: Vec<Vec<u8>>,
    good: Vec<u8>,
}

fn fill(base: &Path) -> Vec<PathBuf> {
    let outside = base.join("outside");
    fs::create_dir_all(outside.join("a")).expect("it can be made");
    fs::create_dir_all(base.join("layout/blobs/sha256")).expect("it can be made");
    fs::create_dir(base.join("unpacked")).expect("it can be made");
    for name in ["b", "a/b"] {
        fs::write(outside.join(name), "as it was").expect("it can be written");
    }
    symlink("b", outside.join("c")).expect("it can be made");
    vec![outside.join("a"), outside]
}

impl Bench {
    fn new() -> Bench {
        let base = Watched::new("archive", fill);
        let opened = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("the host has inotify(7)");
        let outside = base.path().join("outside");
        for path in [&outside, &outside.join("a")] {
            inotify::add_watch(&opened, path, WatchFlags::OPEN | WatchFlags::ACCESS).expect("it is there");
        }
        let name = format!("/dev/shm/hostel-fuzz-archive-{}.tar", std::process::id());
        let archive = File::options().read(true).write(true).create_new(true).open(&name);
        let archive = archive.expect("the directory takes a file");
        fs::remove_file(name).expect("it is there");
        confine(base.path());
        let outside = outside.as_os_str().as_bytes().to_vec();
        let others = ["../../../outside", "/proc/self/cwd", "/proc/self/root", "../../../../../../.."];
        let elsewhere = others.iter().map(|path| path.as_bytes().to_vec());
        let elsewhere =
            elsewhere.map(|path| [&path[..], b"/"].concat()).chain([[&outside[..], b"/"].concat()]).collect();
        Bench { base, opened, archive, elsewhere, good: good() }
    }

    fn unpack_archive(&self, bytes: &[u8], stop: &dyn Fn() -> bool) -> Result<Unpacked, UnpackError> {
        self.archive.set_len(0).expect("it can be cut");
        self.archive.write_all_at(bytes, 0).expect("it can be written");
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.archive.as_raw_fd()));
        self.unpack(&path, Source::Archive, stop)
    }

    fn unpack(&self, path: &Path, source: Source, stop: &dyn Fn() -> bool) -> Result<Unpacked, UnpackError> {
        let parent = self.base.path().join("unpacked");
        let unpacked = unpack(path, source, &parent, &Budget::of(BYTES), stop);
        if let Err(error) = &unpacked {
            let text = error.to_string();
            assert!(!text.contains(char::is_control), "{text:?}");
            assert!(text.len() < LINE, "{} bytes", text.len());
            assert!(is_empty(&parent), "something is left");
        }
        unpacked
    }

    /// What was unpacked is as it may be, and goes.
    fn check(&self, unpacked: Unpacked) {
        let tree = openat(CWD, unpacked.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        let mut found = Found { guise: &unpacked.guise, bytes: 0, links: HashMap::new() };
        found.look(tree.expect("it is there"), 0);
        assert!(found.bytes <= BYTES, "{} bytes", found.bytes);
        assert!(found.links.values().all(|(links, seen)| links == seen), "a file has a name elsewhere");
        drop(unpacked);
        assert!(is_empty(&self.base.path().join("unpacked")), "something is left");
    }

    fn run(&self, input: Input) {
        let left = Cell::new(input.stop.0.map_or(u32::MAX, u32::from));
        let stop = || {
            left.set(left.get().saturating_sub(1));
            left.get() == 0
        };
        let unpacked = match input.what {
            What::Archive(archive) => self.unpack_archive(&archive.build(&self.elsewhere), &stop),
            What::Layout(layout) => {
                let path = self.base.path().join("layout");
                layout.write(&path, &self.elsewhere);
                self.unpack(&path, Source::Layout, &stop)
            }
        };
        if let Ok(unpacked) = unpacked {
            self.check(unpacked);
        }
        assert!(!self.base.has_changed(), "something outside has changed");
        assert!(rustix::io::read(&self.opened, &mut [0; 64]).is_err(), "something outside was opened");
        if input.good.0.is_some() {
            let good = self.unpack_archive(&self.good, &|| false).expect("it is good");
            let read = |name| fs::read(good.path().join(name)).expect("it is there");
            assert_eq!((read("a/b"), read("c/d")), (b"good".to_vec(), b"better".to_vec()));
        }
    }
}

/// What is found in a tree.
struct Found<'a> {
    guise: &'a Guise,
    bytes: u64,
    /// By a file's number: the names that it has, and those that were seen.
    links: HashMap<u64, (u32, u32)>,
}

impl Found<'_> {
    fn look(&mut self, directory: OwnedFd, depth: usize) {
        assert!(depth <= DEPTH_MAX, "it is too deep");
        let user = rustix::process::geteuid().as_raw();
        let names: Vec<_> = Dir::read_from(&directory).expect("it can be read").collect();
        for entry in names {
            let entry = entry.expect("it can be read");
            let name = entry.file_name();
            if let b"." | b".." = name.to_bytes() {
                continue;
            }
            let stat =
                statx(&directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).expect("it is there");
            let kind = FileType::from_raw_mode(stat.stx_mode.into());
            assert!(stat.stx_uid == user && (kind == FileType::Symlink || stat.stx_mode & 0o7000 == 0), "{stat:?}");
            let shown = FileType::from_raw_mode(self.guise.of(&stat).stx_mode.into());
            match kind {
                FileType::Directory => self.look(open(directory.as_fd(), name), depth + 1),
                FileType::RegularFile if shown == kind => {}
                FileType::RegularFile => assert!(stat.stx_size == 0, "a device has content"),
                FileType::Symlink | FileType::Fifo => assert_eq!(shown, kind),
                _ => panic!("{name:?} is {kind:?}"),
            }
            if kind != FileType::Directory {
                let (_, seen) = self.links.entry(stat.stx_ino).or_insert((stat.stx_nlink, 0));
                *seen += 1;
                if *seen == 1 && kind == FileType::RegularFile {
                    self.bytes += stat.stx_size;
                }
            }
        }
    }
}

fn open(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    openat(directory, name, flags, Mode::empty()).expect("its owner can read it")
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).expect("it is there").next().is_none()
}

impl Layout {
    /// Writes it in the place of the last one.
    fn write(self, path: &Path, elsewhere: &[Vec<u8>]) {
        let blobs = path.join("blobs/sha256");
        for blob in fs::read_dir(&blobs).expect("it is there") {
            fs::remove_file(blob.expect("it can be read").path()).expect("it is there");
        }
        let put = |blob: Blob, kind: &str, bytes: Vec<u8>| blob.put(&blobs, kind, bytes);
        let layer =
            |(tar, blob): (TarFile, Blob)| put(blob, "application/vnd.oci.image.layer.v1.tar", tar.build(elsewhere));
        let layers: Vec<_> = self.layers.into_iter().take(LAYERS).map(layer).collect();
        let configuration = json!({
            "architecture": "amd64", "os": self.system.or("linux".into()),
            "config": {"Cmd": self.command, "Env": self.command, "User": self.command.first()},
        });
        let kind = "application/vnd.oci.image.config.v1+json";
        let configuration = put(self.configuration, kind, configuration.to_string().into());
        let manifest = json!({"schemaVersion": 2, "config": configuration, "layers": layers});
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let mut manifest = put(self.manifest, kind, manifest.to_string().into());
        let (system, processor) = self.platform.or(("linux".into(), "amd64".into()));
        manifest["platform"] = json!({"os": system, "architecture": processor});
        if let Some(name) = self.reference.0 {
            manifest["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        let mut manifests = vec![manifest.clone()];
        for number in 0..self.again.0.unwrap_or(0) {
            manifest["digest"] = json!(format!("sha256:{number:064x}"));
            manifests.push(manifest.clone());
        }
        if let Some(blob) = self.nested.0 {
            let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
            manifests = vec![put(blob, "application/vnd.oci.image.index.v1+json", index.into())];
        }
        let mut index = json!({"schemaVersion": 2, "manifests": manifests}).to_string().into();
        self.index.apply(&mut index);
        fs::write(path.join("index.json"), index).expect("it can be written");
    }
}

impl Blob {
    /// Writes a blob, and returns its descriptor.
    fn put(self, blobs: &Path, kind: &str, mut bytes: Vec<u8>) -> Value {
        self.content.apply(&mut bytes);
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = self.digest.or(format!("sha256:{hash}"));
        let size = self.size.0.map_or(bytes.len() as u64, |size| size.0);
        self.stored.apply(&mut bytes);
        fs::write(blobs.join(hash), bytes).expect("it can be written");
        json!({"mediaType": self.media_type.or(kind.into()), "digest": digest, "size": size})
    }
}

/// An archive of a directory, a link to it, and a file in it by either.
fn good() -> Vec<u8> {
    hostel_fuzz::tar_file::archive(&[
        (b'5', b"a", b""),
        (b'0', b"a/b", b"good"),
        (b'2', b"c", b"a"),
        (b'0', b"c/d", b"better"),
    ])
}

thread_local! {
    static BENCH: Bench = Bench::new();
}

fuzz_target!(|input: Input| BENCH.with(|bench| bench.run(input)));
