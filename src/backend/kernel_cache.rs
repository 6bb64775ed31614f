//! Kernels that were unpacked before: one file each, named by its content, in the user's cache directory.
//!
//! An index leads from the file that the kernel came from (device, inode, size, times) to what is cached, so that neither is
//! read to find the other. Entries are never changed in place, for guests have them mapped: they are written under another
//! name and renamed, and the least recently used go when there are too many. The directory and its files must be this
//! user's alone; a file that is not, or is not as the index says, counts as missing.
//! Source: XDG Base Directory Specification 0.8 (`XDG_CACHE_HOME`).

use sha2::{Digest, Sha256};
use std::env;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Most bytes of kernels: a dozen of a distribution's.
const KERNELS_MAX: u64 = 1 << 30;
/// Most index entries: a machine with more kernel files than this unpacks some again.
const INDEX_MAX: u64 = 256;
/// Most bytes of one index entry: 64 digits, a size, and the headers.
const INDEX_ENTRY_MAX: u64 = 16 << 10;
/// A use is noted in the entry's time only when the time is older: it saves a write at nearly every start.
const USE_NOTED_EVERY: Duration = Duration::from_secs(3600);
/// A temporary file that nobody has written to for so long belongs to a process that died.
const TEMPORARY_AGE: Duration = Duration::from_secs(300);
/// A file's times move in steps of the kernel's tick, at most this long (`HZ` is 100 or more): within it, a change may not show.
const CLOCK_STEP: Duration = Duration::from_millis(20);

/// Ending of a kernel's file name.
const KERNEL: &str = "kernel";
/// Ending of an index entry's file name.
const INDEX: &str = "index";
/// Ending of a file that is being written.
const TEMPORARY: &str = "temporary";

/// The user's cache of unpacked kernels.
#[derive(Clone, Debug)]
pub struct KernelCache {
    directory: PathBuf,
}

/// A state of a file, as its metadata tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileKey(String);

/// A kernel from the cache.
#[derive(Debug)]
pub struct CachedKernel {
    /// Its bytes; nobody changes them.
    pub file: File,
    /// How many.
    pub size: u64,
    /// What was stored beside it.
    pub headers: Vec<u8>,
}

/// A kernel that is to be cached, once there is time for it.
#[derive(Debug)]
pub struct StoreJob {
    /// The cache.
    pub cache: KernelCache,
    /// The file that it came from.
    pub key: FileKey,
    /// Its bytes.
    pub kernel: Vec<u8>,
    /// Which of them are stored, in the order of the file that they are stored in; what is between them is zero there.
    pub pieces: Vec<Piece>,
    /// Bytes of that file.
    pub size: u64,
    /// What is stored beside it.
    pub headers: Vec<u8>,
}

/// Bytes of a kernel that stand together in the cache's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where in [`StoreJob::kernel`].
    pub from: Range<usize>,
    /// Where in the file.
    pub at: u64,
}

/// A kernel that could not be cached.
#[derive(Debug, thiserror::Error)]
#[error("cache the unpacked kernel in {}: {source}", .directory.display())]
pub struct CacheError {
    directory: PathBuf,
    source: io::Error,
}

impl FileKey {
    /// The state that `file` is in; `None` when it changed so recently that a further change might not show.
    ///
    /// # Errors
    /// The file's metadata cannot be read.
    pub fn of(file: &File) -> io::Result<Option<FileKey>> {
        let it = file.metadata()?;
        let seconds = Duration::from_secs(it.ctime().try_into().unwrap_or(0));
        let changed = SystemTime::UNIX_EPOCH + seconds + Duration::from_nanos(it.ctime_nsec().try_into().unwrap_or(0));
        let (device, inode, size) = (it.dev(), it.ino(), it.size());
        let times =
            [it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()].map(|time| format!("{time:x}")).join("-");
        Ok(is_settled(changed, SystemTime::now()).then(|| FileKey(format!("{device:x}-{inode:x}-{size:x}-{times}"))))
    }
}

impl KernelCache {
    /// The cache in the user's cache directory; `None` where the environment names none.
    pub fn of_user() -> Option<KernelCache> {
        let absolute = |path: PathBuf| path.is_absolute().then_some(path);
        let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).and_then(absolute);
        let home = || env::var_os("HOME").map(PathBuf::from).and_then(absolute).map(|home| home.join(".cache"));
        Some(KernelCache { directory: base.or_else(home)?.join("hostel/kernels") })
    }

    /// A cache in `directory`, which need not exist.
    pub fn at(directory: PathBuf) -> KernelCache {
        KernelCache { directory }
    }

    /// The kernel that came from a file in the state `key`, if it is cached.
    pub fn find(&self, key: &FileKey) -> Option<CachedKernel> {
        self.directory_is_ours().ok()?;
        let mut entry = Vec::with_capacity(INDEX_ENTRY_MAX as usize);
        let (index, _) = self.open_ours(&format!("{}.{INDEX}", key.0))?;
        index.take(INDEX_ENTRY_MAX).read_to_end(&mut entry).ok()?;
        let mut lines = entry.splitn(3, |byte| *byte == b'\n').map(str::from_utf8);
        let (hash, size) = (lines.next()?.ok()?, lines.next()?.ok()?.parse().ok()?);
        let headers = lines.next()?.ok()?.into();
        let is_hash = hash.len() == 64 && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
        let kernel = is_hash.then(|| self.open_ours(&format!("{hash}.{KERNEL}"))).flatten();
        let (file, metadata) = kernel.filter(|(_, metadata)| metadata.size() == size)?;
        note_use(&file, &metadata);
        Some(CachedKernel { file, size, headers })
    }

    /// Opens a file of the cache, if only this user may write it.
    fn open_ours(&self, name: &str) -> Option<(File, Metadata)> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(self.directory.join(name)).ok()?;
        let metadata = file.metadata().ok()?;
        (metadata.is_file() && is_ours(&metadata)).then_some((file, metadata))
    }

    fn directory_is_ours(&self) -> io::Result<()> {
        match is_ours(&fs::symlink_metadata(&self.directory)?) {
            true => Ok(()),
            false => Err(io::Error::other("others than this user may write to it")),
        }
    }

    fn store(&self, job: &StoreJob) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        self.directory_is_ours()?;
        self.remove_left_over()?;
        let (hash, size) = (job.hash(), job.size);
        let kernel = format!("{hash}.{KERNEL}");
        let cached = self.open_ours(&kernel);
        if cached.is_none_or(|(_, metadata)| metadata.size() != size) {
            self.write(&kernel, size, job.parts())?;
        }
        let entry = [format!("{hash}\n{size}\n").as_bytes(), &job.headers].concat();
        self.write(&format!("{}.{INDEX}", job.key.0), entry.len() as u64, [(0, entry.as_slice())])?;
        self.evict(KERNEL, KERNELS_MAX, Metadata::len)?;
        self.evict(INDEX, INDEX_MAX, |_| 1)
    }

    /// Writes `parts` of a file of `size` bytes under a temporary name, then gives it its own. It is not synced to the disk: after a crash
    /// of the host, a file whose bytes did not get there is shorter than the index says.
    fn write<'a>(&self, name: &str, size: u64, parts: impl IntoIterator<Item = (u64, &'a [u8])>) -> io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join(format!("{}-{number}.{TEMPORARY}", std::process::id()));
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).and_then(|file| {
            parts.into_iter().try_for_each(|(at, bytes)| file.write_all_at(bytes, at))?;
            file.set_len(size)?;
            fs::rename(&temporary, self.directory.join(name))
        });
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Removes the least recently used files with this ending, until what is left weighs at most `max`.
    fn evict(&self, ending: &str, max: u64, weight: impl Fn(&Metadata) -> u64) -> io::Result<()> {
        let mut files = self.files(ending)?;
        files.sort_by_key(|(_, metadata)| std::cmp::Reverse((metadata.mtime(), metadata.mtime_nsec())));
        let mut total = 0;
        for (path, metadata) in files {
            total += weight(&metadata);
            if total > max {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Removes what killed processes left half written.
    fn remove_left_over(&self) -> io::Result<()> {
        for (path, metadata) in self.files(TEMPORARY)? {
            if metadata.modified()?.elapsed().is_ok_and(|age| age > TEMPORARY_AGE) {
                // Another process may be at it too.
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    fn files(&self, ending: &str) -> io::Result<Vec<(PathBuf, Metadata)>> {
        let entries = fs::read_dir(&self.directory)?.filter_map(Result::ok);
        let named = entries.map(|entry| entry.path()).filter(|path| path.extension() == Some(OsStr::new(ending)));
        Ok(named.filter_map(|path| fs::symlink_metadata(&path).ok().map(|metadata| (path, metadata))).collect())
    }
}

impl StoreJob {
    /// Caches the kernel. It hashes and writes: tens of milliseconds that no start should wait for.
    ///
    /// # Errors
    /// The directory cannot be made or written to, or belongs to somebody else.
    pub fn run(&self) -> Result<(), CacheError> {
        let directory: &Path = &self.cache.directory;
        self.cache.store(self).map_err(|source| CacheError { directory: directory.to_path_buf(), source })
    }

    fn parts(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pieces.iter().map(|piece| (piece.at, &self.kernel[piece.from.clone()]))
    }

    /// SHA-256 of the file, zeros included, in hexadecimal.
    fn hash(&self) -> String {
        const ZEROS: [u8; 4096] = [0; 4096];
        let (mut hash, mut hashed) = (Sha256::new(), 0);
        for (at, bytes) in self.parts().chain([(self.size, [].as_slice())]) {
            while hashed < at {
                let zeros = &ZEROS[..(at - hashed).min(ZEROS.len() as u64) as usize];
                hash.update(zeros);
                hashed += zeros.len() as u64;
            }
            hash.update(bytes);
            hashed += bytes.len() as u64;
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whether a change after `now` gives a file that `changed` then another time.
fn is_settled(changed: SystemTime, now: SystemTime) -> bool {
    now.duration_since(changed).is_ok_and(|age| age > CLOCK_STEP)
}

/// Whether a file or directory is this user's, and nobody else may write to it.
fn is_ours(metadata: &Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0
}

/// Makes a kernel the most recently used, as far as that can be done.
fn note_use(file: &File, metadata: &Metadata) {
    if metadata.modified().is_ok_and(|time| time.elapsed().is_ok_and(|age| age > USE_NOTED_EVERY)) {
        let _ = file.set_modified(SystemTime::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A directory of a test's own, removed at its end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = env::temp_dir().join(format!("hostel-cache-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Scratch(path)
        }

        fn cache(&self) -> KernelCache {
            KernelCache::at(self.0.join("a/b"))
        }

        fn entries(&self, ending: &str) -> Vec<PathBuf> {
            self.cache().files(ending).unwrap().into_iter().map(|(path, _)| path).collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn key(name: &str) -> FileKey {
        FileKey(name.to_string())
    }

    fn job(cache: &KernelCache, name: &str, kernel: &[u8]) -> StoreJob {
        let (pieces, size) = (vec![Piece { from: 0..kernel.len(), at: 0 }], kernel.len() as u64);
        let (cache, key, kernel, headers) = (cache.clone(), key(name), kernel.to_vec(), b"head\ners".to_vec());
        StoreJob { cache, key, kernel, pieces, size, headers }
    }

    #[test]
    fn what_is_stored_is_found() {
        let scratch = Scratch::new("found");
        let cache = scratch.cache();
        assert!(cache.find(&key("k")).is_none());
        job(&cache, "k", b"kernel").run().unwrap();
        let mut found = cache.find(&key("k")).unwrap();
        let mut bytes = Vec::new();
        found.file.read_to_end(&mut bytes).unwrap();
        assert_eq!((bytes, found.size, found.headers), (b"kernel".to_vec(), 6, b"head\ners".to_vec()));
        assert!(cache.find(&key("other")).is_none());
        let sha256 = "6923dd1bc0460082c5d55a831908c24a282860b7f1cd6c2b79cf1bc8857c639c";
        assert_eq!(scratch.entries(KERNEL), [cache.directory.join(format!("{sha256}.kernel"))]);
        assert_eq!(fs::metadata(&cache.directory).unwrap().mode() & 0o777, 0o700);
        assert!(scratch.entries(TEMPORARY).is_empty());
    }

    #[test]
    fn between_pieces_and_behind_them_a_file_is_zero() {
        let scratch = Scratch::new("pieces");
        let cache = scratch.cache();
        let pieces = vec![Piece { from: 4..6, at: 1 }, Piece { from: 0..3, at: 9000 }];
        StoreJob { pieces, size: 12_288, ..job(&cache, "k", b"kernel") }.run().unwrap();
        let mut bytes = Vec::new();
        cache.find(&key("k")).unwrap().file.read_to_end(&mut bytes).unwrap();
        let mut expected = vec![0; 12_288];
        expected[1..3].copy_from_slice(b"el");
        expected[9000..9003].copy_from_slice(b"ker");
        assert_eq!(bytes, expected);
        let name = Sha256::digest(&expected).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(scratch.entries(KERNEL), [cache.directory.join(format!("{name}.kernel"))]);
    }

    #[test]
    fn equal_kernels_are_one_file() {
        let scratch = Scratch::new("equal");
        job(&scratch.cache(), "a", b"kernel").run().unwrap();
        job(&scratch.cache(), "b", b"kernel").run().unwrap();
        assert_eq!((scratch.entries(KERNEL).len(), scratch.entries(INDEX).len()), (1, 2));
    }

    #[test]
    fn a_damaged_entry_is_missing_and_rebuilt() {
        let scratch = Scratch::new("damaged");
        let cache = scratch.cache();
        let damage: [fn(&Scratch); 5] = [
            |scratch| fs::write(&scratch.entries(KERNEL)[0], b"kern").unwrap(),
            |scratch| fs::remove_file(&scratch.entries(KERNEL)[0]).unwrap(),
            |scratch| fs::write(&scratch.entries(INDEX)[0], b"../../../etc/passwd\n6\n").unwrap(),
            |scratch| fs::write(&scratch.entries(INDEX)[0], [0xff; 100]).unwrap(),
            |scratch| {
                fs::set_permissions(&scratch.entries(KERNEL)[0], fs::Permissions::from_mode(0o666)).unwrap();
            },
        ];
        for damage in damage {
            job(&cache, "k", b"kernel").run().unwrap();
            assert!(cache.find(&key("k")).is_some());
            damage(&scratch);
            assert!(cache.find(&key("k")).is_none());
        }
        job(&cache, "k", b"kernel").run().unwrap();
        assert!(cache.find(&key("k")).is_some());
    }

    #[test]
    fn links_and_others_directories_are_not_used() {
        let scratch = Scratch::new("links");
        let cache = scratch.cache();
        job(&cache, "k", b"kernel").run().unwrap();
        let kernel = scratch.entries(KERNEL).remove(0);
        fs::rename(&kernel, scratch.0.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(scratch.0.join("elsewhere"), &kernel).unwrap();
        assert!(cache.find(&key("k")).is_none());
        fs::set_permissions(&cache.directory, fs::Permissions::from_mode(0o777)).unwrap();
        let error = job(&cache, "l", b"kernel").run().unwrap_err().to_string();
        assert!(error.ends_with("a/b: others than this user may write to it"), "{error}");
    }

    #[test]
    fn the_least_recently_used_go() {
        let scratch = Scratch::new("evict");
        let cache = scratch.cache();
        for (name, kernel) in [("a", b"kernel a"), ("b", b"kernel b"), ("c", b"kernel c")] {
            job(&cache, name, kernel).run().unwrap();
        }
        let old = SystemTime::now() - Duration::from_secs(100_000);
        for (name, age) in [("a", 1), ("b", 3), ("c", 2)] {
            cache.find(&key(name)).unwrap().file.set_modified(old - Duration::from_secs(age)).unwrap();
        }
        cache.find(&key("b")).unwrap();
        cache.evict(KERNEL, 16, Metadata::len).unwrap();
        let left = ["a", "b", "c"].map(|name| cache.find(&key(name)).is_some());
        assert_eq!(left, [true, true, false], "b was used last, c before a");
        fs::write(cache.directory.join("1-1.temporary"), b"").unwrap();
        File::open(cache.directory.join("1-1.temporary")).unwrap().set_modified(old).unwrap();
        job(&cache, "a", b"kernel a").run().unwrap();
        assert!(scratch.entries(TEMPORARY).is_empty());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error() {
        let error = job(&KernelCache::at("/proc/hostel".into()), "k", b"kernel").run().unwrap_err().to_string();
        assert!(error.starts_with("cache the unpacked kernel in /proc/hostel: "), "{error}");
    }

    #[test]
    fn a_key_changes_with_the_file() {
        let old = File::open("/proc/self/exe").unwrap();
        let key = FileKey::of(&old).unwrap().unwrap();
        assert_eq!(FileKey::of(&old).unwrap(), Some(key.clone()));
        assert_ne!(FileKey::of(&File::open("/bin/sh").unwrap()).unwrap(), Some(key));
    }

    #[test]
    fn a_file_that_may_still_change_unseen_has_no_key() {
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        for (ms, settled) in [(0, false), (20, false), (21, true)] {
            assert_eq!(is_settled(changed, changed + Duration::from_millis(ms)), settled);
        }
        assert!(!is_settled(changed, changed - Duration::from_secs(1)), "a clock set back");
    }
}
