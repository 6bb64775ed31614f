//! The file or block device behind a disk: opened, locked and measured.
//!
//! The content is never looked at: a guest that writes whatever header it likes still has the same raw disk at the next start.
//! A disk has the whole sectors of its file; bytes behind the last whole one are neither read nor written.
//! Sources: open(2) `O_DIRECT`, statx(2) `STATX_DIOALIGN`; fcntl(2) "Open file description locks (non-POSIX)"; open(2) `O_EXCL`.

use super::calls;
use super::engine::{Call, Store};
use super::qcow2::{self, Qcow2, Qcow2Error};
use rustix::fs::{AtFlags, StatxFlags, statx};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often a lock that somebody holds is tried, and how long to wait in between: half a second in all. The host takes the io_uring of
/// a process that was killed apart when the process is gone already, and it holds the file, and so the lock, until then.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Bytes of a sector, the unit of virtio disks (virtio 1.2 §5.2.4).
pub const SECTOR: u64 = 512;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// How a disk's file is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and written, by nobody else.
    Write,
    /// Read, and written by nobody.
    Read,
}

/// What a disk's file is: said by the user, for a guest may write whatever header it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskFormat {
    /// The bytes of the disk.
    #[default]
    Raw,
    /// An image of QEMU's.
    Qcow2,
}

/// A file that an image lies over: it has what the image does not have. Said by the user, too; what an image says of it is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub format: DiskFormat,
}

/// An open image.
pub struct Image {
    store: Store,
    direct: Option<Direct>,
    /// Whole sectors of it.
    pub sectors: u64,
}

/// The file a second time, past the page cache (O_DIRECT).
struct Direct {
    file: Arc<File>,
    /// What addresses in memory are multiples of, and what sizes and places in the file.
    memory: u64,
    offset: u64,
}

/// Why a disk cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file cannot be opened.
    #[error("open the disk {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A directory, a pipe, a terminal.
    #[error("the disk {} is neither a file nor a block device", .0.display())]
    NotADisk(PathBuf),
    /// Too small.
    #[error("the disk {} has {bytes} bytes: not one whole sector of {SECTOR}", path.display())]
    NoSector {
        /// The file.
        path: PathBuf,
        /// What it has.
        bytes: u64,
    },
    /// Somebody else uses it.
    #[error("the disk {} is in use, by another machine or as a file system: add ,ro everywhere, or ,overlay", .0.display())]
    InUse(PathBuf),
    /// The layer of an overlay.
    #[error("make the private layer of the disk {}: {source}", path.display())]
    Layer {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its content.
    #[error("the disk {} as qcow2: {source}", path.display())]
    Qcow2 {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Qcow2Error,
    },
    /// O_DIRECT.
    #[error("open the disk {} past the page cache, as ,direct asks: {source}", path.display())]
    Direct {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What moves its bytes.
    #[error("start what reads and writes disks: {0}")]
    Engine(io::Error),
}

impl Image {
    /// Opens and locks `path`.
    ///
    /// # Errors
    /// There is no such disk, or somebody else uses it in a way that does not go together.
    pub fn open(
        path: &Path,
        access: Access,
        format: DiskFormat,
        backing: Option<&Backing>,
        direct: bool,
    ) -> Result<Image, DiskError> {
        let writes = access == Access::Write;
        let (file, bytes) = open_locked(path, writes)?;
        let direct = direct.then(|| Direct::open(&file, writes)).transpose();
        let direct = direct.map_err(|source| DiskError::Direct { path: path.into(), source })?;
        let (store, bytes) = match format {
            DiskFormat::Raw => (Store::File(Arc::new(file)), bytes),
            DiskFormat::Qcow2 => {
                let backing = backing.map(|backing| {
                    let (file, bytes) = open_locked(&backing.path, false)?;
                    let layer = qcow2::layer(file, bytes, backing.format);
                    layer.map_err(|source| DiskError::Qcow2 { path: backing.path.clone(), source })
                });
                let image = Qcow2::open(&file, bytes, writes, backing.transpose()?);
                let image = image.map_err(|source| DiskError::Qcow2 { path: path.into(), source })?;
                let size = image.size();
                (Store::Qcow2(Arc::new(image)), size)
            }
        };
        match bytes / SECTOR {
            0 => Err(DiskError::NoSector { path: path.into(), bytes }),
            sectors => Ok(Image { store, direct, sectors }),
        }
    }

    /// Whether whole blocks go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// The file behind the page cache, if the disk's bytes are there as they are and reads go through it.
    pub fn cached(&self) -> Option<&File> {
        match &self.store {
            Store::File(file) if self.direct.is_none() => Some(file),
            _ => None,
        }
    }

    /// Where to a call at `offset` goes: past the page cache if it can.
    pub fn store_for(&self, call: &Call, offset: u64) -> Store {
        match (&self.direct, call) {
            (Some(direct), Call::Read(buffers) | Call::Write { buffers, .. })
                if offset.is_multiple_of(direct.offset) && buffers.are_aligned(direct.memory, direct.offset) =>
            {
                Store::File(direct.file.clone())
            }
            _ => self.store.clone(),
        }
    }
}

/// Opens and locks a file; and its bytes.
fn open_locked(path: &Path, writes: bool) -> Result<(File, u64), DiskError> {
    let failed = |source| DiskError::Open { path: path.into(), source };
    // Looked at before: opening a pipe would wait for its other end.
    let kind = std::fs::metadata(path).map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(DiskError::NotADisk(path.into()));
    }
    // A block device that is mounted, or part of a volume, is busy for who wants it exclusively (O_EXCL).
    let exclusive = if writes && kind.is_block_device() { libc::O_EXCL } else { 0 };
    let opened = OpenOptions::new().read(true).write(writes).custom_flags(exclusive).open(path);
    let locked = opened.and_then(|file| lock(&file, writes).map(|()| file));
    let mut file = locked.map_err(|source| match source.raw_os_error() {
        Some(libc::EBUSY | libc::EAGAIN) => DiskError::InUse(path.into()),
        _ => failed(source),
    })?;
    // The size of a block device is not in its metadata.
    let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
    Ok((file, bytes))
}

impl Direct {
    /// Opens the same file again, which is not looked for by its name.
    fn open(file: &File, writes: bool) -> io::Result<Direct> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let file = OpenOptions::new().read(true).write(writes).custom_flags(libc::O_DIRECT).open(path)?;
        let known = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
        let known = known.map(|known| (known.stx_dio_mem_align.into(), known.stx_dio_offset_align.into()));
        // Linux before 6.1 does not tell; a page serves everywhere.
        let (memory, offset) = known.filter(|(memory, offset)| *memory > 0 && *offset > 0).unwrap_or((PAGE, PAGE));
        Ok(Direct { file: Arc::new(file), memory, offset })
    }
}

/// Locks an open file, and waits a little for who is about to let it go.
fn lock(file: &File, exclusive: bool) -> io::Result<()> {
    for _ in 1..LOCK_TRIES {
        match calls::lock(file, exclusive) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => std::thread::sleep(LOCK_PAUSE),
            locked => return locked,
        }
    }
    calls::lock(file, exclusive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("hostel-image-{name}-{}", std::process::id()))
    }

    fn sectors_of(size: u64) -> Result<u64, DiskError> {
        let path = path(&format!("size-{size}"));
        File::create(&path).unwrap().set_len(size).unwrap();
        let image = Image::open(&path, Access::Write, DiskFormat::Raw, None, false);
        std::fs::remove_file(&path).unwrap();
        image.map(|image| image.sectors)
    }

    #[test]
    fn sec36_a_disk_has_the_whole_sectors_of_its_file() {
        for size in [0, 1, 511] {
            assert!(matches!(sectors_of(size), Err(DiskError::NoSector { bytes, .. }) if bytes == size), "{size}");
        }
        for (size, sectors) in [(512, 1), (513, 1), (1023, 1), (4095, 7), (4096, 8), (1 << 40, 1 << 31)] {
            assert_eq!(sectors_of(size).unwrap(), sectors, "{size}");
        }
    }

    #[test]
    fn a_second_writer_is_refused() {
        let path = path("lock");
        std::fs::write(&path, [0; 512]).unwrap();
        let open = |access| Image::open(&path, access, DiskFormat::Raw, None, false);
        let in_use = |access| matches!(open(access), Err(DiskError::InUse(_)));
        let writer = open(Access::Write).unwrap();
        assert!(in_use(Access::Write) && in_use(Access::Read));
        drop(writer);
        let readers = [open(Access::Read).unwrap(), open(Access::Read).unwrap()];
        assert!(in_use(Access::Write));
        drop(readers);
        assert!(open(Access::Write).is_ok());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let open = |path, access| Image::open(path, access, DiskFormat::Raw, None, false);
        assert!(matches!(open(Path::new("/"), Access::Read), Err(DiskError::NotADisk(_))));
        assert!(matches!(open(Path::new("/dev/null"), Access::Write), Err(DiskError::NotADisk(_))));
        assert!(matches!(open(Path::new("/none/such"), Access::Read), Err(DiskError::Open { .. })));
    }
}
