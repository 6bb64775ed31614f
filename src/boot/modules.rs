//! The modules of a Linux kernel: where they are, and which ones a driver needs.
//!
//! A kernel's version is in the header of its bzImage, or stands in its banner. With it the directory `lib/modules/VERSION` is
//! found; `modules.dep` lists what is in it, and where that is missing (depmod writes it, so an unpacked package has none) the
//! directory is walked. What a module depends on, it says itself. Left out: soft dependencies, aliases, parameters.
//! Sources: Linux boot.rst "kernel_version"; modules.dep(5); modinfo(8); modules.builtin of depmod(8).

use super::error::Problem;
use super::format::{self, HEAD_SIZE};
use super::image::Image;
use super::payload::Compression;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::str;

/// Where the header of a bzImage has the place of the version, counted from [`VERSION_BASE`].
const VERSION_FIELD: usize = 0x20e;
/// What that place counts from.
const VERSION_BASE: u64 = 0x200;
/// The longest version of a kernel: a field of utsname (uname(2)).
const VERSION_MAX: usize = 64;
/// What stands before the version in the banner.
const BANNER: &[u8] = b"Linux version ";
/// How much of an image is searched for the banner at a time.
const SEARCH_STEP: u64 = 1 << 20;

/// Bytes that a module may have, unpacked. Debian's largest is a tenth of it.
const MODULE_MAX: usize = 64 << 20;
/// Modules that are taken at most.
const MODULES_MAX: usize = 64;
/// Directories below each other, and files, that are looked at where there is no list.
const DEPTH_MAX: usize = 12;
const FILES_MAX: usize = 100_000;

/// The version of the Linux kernel in `image`; `None` where it does not say one that can name a directory.
///
/// # Errors
/// The image cannot be read.
pub fn version(image: &Image) -> Result<Option<String>, Problem> {
    let head = image.read(0, HEAD_SIZE)?;
    if format::is_bzimage(&head) {
        let field = head.get(VERSION_FIELD..VERSION_FIELD + 2).unwrap_or_default();
        let place = field.first_chunk().map_or(0, |place| u16::from_le_bytes(*place));
        let text = image.read(VERSION_BASE + u64::from(place), VERSION_MAX as u64 + 1)?;
        return Ok(first_word(&text).filter(|_| place != 0));
    }
    let mut offset = 0;
    while offset < image.size() {
        let bytes = image.read(offset, SEARCH_STEP + (BANNER.len() + VERSION_MAX + 1) as u64)?;
        let banner = bytes.windows(BANNER.len()).position(|window| window == BANNER);
        if let Some(version) = banner.and_then(|at| first_word(&bytes[at + BANNER.len()..])) {
            return Ok(Some(version));
        }
        offset += SEARCH_STEP;
    }
    Ok(None)
}

/// The version that `text` begins with, if it can be the name of a directory and nothing else.
fn first_word(text: &[u8]) -> Option<String> {
    let is_of_it = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_+~".contains(byte);
    let end = text.iter().position(|byte| !is_of_it(byte))?;
    let word = str::from_utf8(&text[..end]).expect("ASCII");
    (word.len() <= VERSION_MAX && word.starts_with(|c: char| c.is_ascii_digit())).then(|| word.to_owned())
}

/// The directory of a kernel's modules.
pub struct ModuleDirectory {
    path: PathBuf,
    /// What its files must lie in, whatever their links say; an absolute path without links.
    within: Option<PathBuf>,
    /// Name, with `_` for `-`, and file.
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

/// A module, unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with `_` for `-`.
    pub name: String,
    /// The ELF file.
    pub bytes: Vec<u8>,
}

impl ModuleDirectory {
    /// The first of `places` that is a directory of modules. Of one below `root` only files are taken that lie there: who filled that
    /// directory does not choose what of the host is read.
    pub fn find(places: &[PathBuf], root: Option<&Path>) -> Option<ModuleDirectory> {
        let path = places.iter().find(|place| is_of_modules(place))?.clone();
        let within = root.filter(|root| path.starts_with(root)).map(fs::canonicalize).transpose().ok()?;
        let listed = |name| fs::read_to_string(path.join(name)).ok();
        let mut files = BTreeMap::new();
        match listed("modules.dep") {
            Some(list) => {
                let names = list.lines().filter_map(|line| line.split(':').next()).take(FILES_MAX).map(Path::new);
                // A list that leads out of its directory lists no modules.
                let inside = |file: &&Path| file.components().all(|part| matches!(part, Component::Normal(_)));
                files.extend(names.filter(inside).filter_map(|file| Some((name_of(file)?, path.join(file)))));
            }
            None => walk(&path.join("kernel"), DEPTH_MAX, &mut files),
        }
        let built_in = listed("modules.builtin").unwrap_or_default();
        let built_in = built_in.lines().filter_map(|line| name_of(Path::new(line))).collect();
        Some(ModuleDirectory { path, within, files, built_in })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The modules of these names with all that they depend on, in the order in which they are to be loaded, and the names of those
    /// that are neither here nor in the kernel itself.
    ///
    /// # Errors
    /// A file cannot be read, or is no module.
    pub fn collect(&self, names: &[&str]) -> Result<(Vec<Module>, Vec<String>), ModuleError> {
        let mut found = Collected { seen: BTreeSet::new(), modules: Vec::new(), missing: Vec::new() };
        names.iter().try_for_each(|name| self.add(name, &mut found))?;
        Ok((found.modules, found.missing))
    }

    fn add(&self, name: &str, found: &mut Collected) -> Result<(), ModuleError> {
        let name = name.replace('-', "_");
        if found.seen.len() == MODULES_MAX || !found.seen.insert(name.clone()) || self.built_in.contains(&name) {
            return Ok(());
        }
        let Some(file) = self.files.get(&name) else {
            found.missing.push(name);
            return Ok(());
        };
        let bytes = read(file, self.within.as_deref()).map_err(|source| ModuleError { file: file.clone(), source })?;
        for dependency in depends(&bytes) {
            self.add(&dependency, found)?;
        }
        found.modules.push(Module { name, bytes });
        Ok(())
    }
}

struct Collected {
    seen: BTreeSet<String>,
    modules: Vec<Module>,
    missing: Vec<String>,
}

/// A module that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("read the module {}: {source}", file.display())]
pub struct ModuleError {
    file: PathBuf,
    source: io::Error,
}

fn is_of_modules(place: &Path) -> bool {
    ["modules.dep", "modules.builtin", "kernel"].iter().any(|name| place.join(name).exists())
}

/// The name of the module in a file such as `kernel/fs/fuse/fuse.ko.xz`.
fn name_of(file: &Path) -> Option<String> {
    let (name, _) = file.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

/// Finds the modules below `directory`; links to directories are not followed.
fn walk(directory: &Path, depth: usize, files: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten().take(FILES_MAX) {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 0 {
                walk(&path, depth - 1, files);
            }
        } else if files.len() < FILES_MAX {
            files.extend(name_of(&path).map(|name| (name, path)));
        }
    }
}

fn read(file: &Path, within: Option<&Path>) -> io::Result<Vec<u8>> {
    let broken = |what: &str| io::Error::new(ErrorKind::InvalidData, what);
    // A FIFO without a writer would block the open for ever.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file)?;
    if let Some(within) = within {
        // Where the open file is, which no link changes any more (proc(5), /proc/pid/fd).
        let place = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        if !place.starts_with(within) {
            return Err(broken("a link leads out of the directory of --root"));
        }
    }
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MODULE_MAX as u64 {
        return Err(broken("not a file of a module's size"));
    }
    let mut packed = Vec::new();
    file.by_ref().take(MODULE_MAX as u64).read_to_end(&mut packed)?;
    let compression = Compression::of(&packed).ok_or_else(|| broken("neither an ELF file nor a compressed one"))?;
    let bytes = compression.unpack(&packed, MODULE_MAX)?;
    // ELF gABI "ELF Header": a relocatable file is of type 1.
    if bytes.starts_with(b"\x7fELF") && bytes.get(16..18) == Some(&[1, 0]) {
        Ok(bytes)
    } else {
        Err(broken("not a relocatable ELF file"))
    }
}

/// The names in the `depends=` string of a module's `.modinfo` section.
fn depends(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(start) = module.windows(FIELD.len()).position(|window| window == FIELD) else { return Vec::new() };
    let value = module[start + FIELD.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{bzimage, elf};
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// What passes for a module that depends on others.
    fn module(depends: &str) -> Vec<u8> {
        let mut bytes = elf(64, 0, &[], format!("license=GPL\0depends={depends}\0name=x\0").as_bytes());
        bytes[16] = 1;
        bytes
    }

    fn directory(name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("hostel-modules-{name}-{}", std::process::id()));
        for (file, bytes) in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        root
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn modules_come_with_what_they_need_in_order_listed_or_not() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&module("virtio_ring,virtio")).unwrap();
        let packed = packed.finish().unwrap();
        let files: [(&str, &[u8]); 4] = [
            ("kernel/drivers/block/virtio-blk.ko.gz", &packed),
            ("kernel/drivers/virtio/virtio.ko", &module("")),
            ("kernel/drivers/virtio/virtio_ring.ko", &module("virtio")),
            ("modules.builtin", b"kernel/fs/fuse/fuse.ko\n"),
        ];
        let listed = b"kernel/drivers/block/virtio-blk.ko.gz: kernel/drivers/virtio/virtio.ko\n\
            kernel/drivers/virtio/virtio.ko:\nkernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko\n";
        for (name, list) in [("walked", None), ("listed", Some(&listed[..]))] {
            let root = directory(name, &files);
            list.into_iter().for_each(|list| fs::write(root.join("modules.dep"), list).unwrap());
            let found = ModuleDirectory::find(&["/nowhere".into(), root.clone()], None).unwrap();
            let (modules, missing) = found.collect(&["virtio_blk", "fuse", "virtio-net", "virtio_blk"]).unwrap();
            assert_eq!(names(&modules), ["virtio", "virtio_ring", "virtio_blk"], "{name}");
            assert_eq!((missing, found.path()), (vec!["virtio_net".to_owned()], root.as_path()));
            fs::remove_dir_all(root).unwrap();
        }
        assert!(ModuleDirectory::find(&["/nowhere".into()], None).is_none());
    }

    #[test]
    fn a_kernel_tells_its_version() {
        let mut file = bzimage(b"payload");
        let told = |bytes: &[u8]| version(&Image::from_bytes("test", bytes)).unwrap();
        assert_eq!(told(&file), None, "no place is none");
        file[VERSION_FIELD..VERSION_FIELD + 2].copy_from_slice(&0x100u16.to_le_bytes());
        file[0x300..0x320].copy_from_slice(b"6.1.0-9-amd64 (builder) #1 SMP\0\0");
        assert_eq!(told(&file).as_deref(), Some("6.1.0-9-amd64"));
        file[VERSION_FIELD..VERSION_FIELD + 2].copy_from_slice(&[0xff; 2]);
        assert_eq!(told(&file), None, "beyond the end");
        let banner = b"%s version %s\0Linux version 6.12.3+ (me) #2";
        for before in [0, SEARCH_STEP as usize - 4, SEARCH_STEP as usize + 9] {
            assert_eq!(told(&[vec![0; before], banner.to_vec()].concat()).as_deref(), Some("6.12.3+"), "{before}");
        }
        assert_eq!(told(b"\x7fELF"), None);
    }

    #[test]
    fn sec33_a_version_is_no_path() {
        for text in ["../../etc", "/etc", "..", "6.1/../../x", "", "6.1"] {
            assert_eq!(first_word(text.as_bytes()).filter(|word| word.contains('/') || word.contains("..")), None);
        }
        assert_eq!(first_word(b"6.1/../../x "), Some("6.1".to_owned()));
        assert_eq!(first_word(format!("6{} ", "1".repeat(VERSION_MAX)).as_bytes()), None);
    }

    #[test]
    fn sec34_a_list_does_not_lead_out_of_its_directory() {
        let root = directory("escape", &[("modules.dep", b"../../secret.ko:\n/etc/passwd.ko:\n"), ("x.ko", b"text")]);
        let found = ModuleDirectory::find(std::slice::from_ref(&root), None).unwrap();
        assert_eq!(found.collect(&["secret", "passwd"]).unwrap().1, ["secret", "passwd"]);
        fs::write(root.join("modules.dep"), "x.ko:\n").unwrap();
        let found = ModuleDirectory::find(std::slice::from_ref(&root), None).unwrap();
        let error = found.collect(&["x"]).unwrap_err().to_string();
        assert!(error.ends_with("x.ko: neither an ELF file nor a compressed one"), "{error}");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn sec34_links_do_not_lead_out_of_the_root() {
        let outside = directory("outside", &[("secret.ko", &module(""))]);
        let root = directory("root", &[("lib/modules/6.1/kernel/a.ko", &module(""))]);
        let place = root.join("lib/modules/6.1");
        std::os::unix::fs::symlink(outside.join("secret.ko"), place.join("kernel/b.ko")).unwrap();
        std::os::unix::fs::symlink("a.ko", place.join("kernel/c.ko")).unwrap();
        let found = |root: Option<&Path>| ModuleDirectory::find(std::slice::from_ref(&place), root).unwrap();
        assert_eq!(names(&found(Some(&root)).collect(&["a", "c"]).unwrap().0), ["a", "c"]);
        let error = found(Some(&root)).collect(&["b"]).unwrap_err().to_string();
        assert!(error.ends_with("b.ko: a link leads out of the directory of --root"), "{error}");
        assert_eq!(names(&found(None).collect(&["b"]).unwrap().0), ["b"], "the user's own place may have links");
        fs::remove_dir_all(outside).unwrap();
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn modules_that_need_each_other_end() {
        let root = directory("loop", &[("kernel/a.ko", &module("b")), ("kernel/b.ko", &module("a"))]);
        let found = ModuleDirectory::find(std::slice::from_ref(&root), None).unwrap();
        assert_eq!(names(&found.collect(&["a"]).unwrap().0), ["b", "a"]);
        fs::remove_dir_all(root).unwrap();
    }

    proptest! {
        #[test]
        fn sec62_random_images_have_a_version_or_none(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut file = bzimage(b"payload");
            let room = file.len().min(bytes.len());
            file[0x20e..room.max(0x20e)].copy_from_slice(&bytes[0x20e.min(room)..room]);
            for version in [version(&Image::from_bytes("test", &bytes)), version(&Image::from_bytes("test", &file))] {
                prop_assert!(version.unwrap().is_none_or(|version| !version.contains('/')));
            }
        }
    }
}
