//! The file that an image in a format is in, as `imago` asks for one: nothing of it is read or written beyond a bound, wherever the
//! image's tables lead. They are data of who made the image; without the bound a single wrong word of them makes a file of petabytes.
//!
//! Left out are what `imago` does not use of an image that exists: another size, places that hold nothing any more, the name. The file is used
//! through the page cache, so bytes begin and end where they like. Sources: fallocate(2), ftruncate(2), lseek(2).

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::Storage;
use imago::storage::drivers::CommonStorageHelper;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, ftruncate, seek};
use rustix::io::{Errno, retry_on_intr};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What zeroes without bytes begin and end at a multiple of: no file system or device has larger blocks.
const ZERO_ALIGN: usize = 4096;

/// The file. One thread uses it at a time.
#[derive(Debug)]
pub struct Bounded {
    file: File,
    /// Nothing is read or written from this byte on.
    bytes_max: u64,
    helper: CommonStorageHelper,
}

impl Bounded {
    /// A file, of which nothing is used from byte `bytes_max` on.
    pub fn new(file: File, bytes_max: u64) -> Bounded {
        Bounded { file, bytes_max, helper: CommonStorageHelper::default() }
    }

    /// Where so many bytes end, if that is within the bound.
    fn end(&self, offset: u64, bytes: u64) -> io::Result<u64> {
        let end = offset.checked_add(bytes).filter(|end| *end <= self.bytes_max);
        end.ok_or_else(|| {
            let most = self.bytes_max;
            io::Error::other(format!(
                "tables of the image lead to byte {offset}, where even a full one has ended at {most}"
            ))
        })
    }
}

impl Storage for Bounded {
    fn zero_align(&self) -> usize {
        ZERO_ALIGN
    }

    fn size(&self) -> io::Result<u64> {
        // The size of a block device is not in its metadata.
        Ok(seek(&self.file, SeekFrom::End(0))?)
    }

    // The trait calls these unsafe for what `imago` must see to before: that no two writes overlap. Nothing in them relies on it.

    unsafe fn pure_readv(&self, buffers: IoVectorMut<'_>, mut offset: u64) -> io::Result<()> {
        self.end(offset, buffers.len())?;
        for mut buffer in buffers.into_inner() {
            let mut left = &mut buffer[..];
            while !left.is_empty() {
                match self.file.read_at(left, offset) {
                    // What follows the end is zeroes.
                    Ok(0) => {
                        offset += left.len() as u64;
                        left.fill(0);
                        break;
                    }
                    Ok(count) => {
                        offset += count as u64;
                        left = &mut left[count..];
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, buffers: IoVector<'_>, mut offset: u64) -> io::Result<()> {
        self.end(offset, buffers.len())?;
        for buffer in buffers.into_inner() {
            self.file.write_all_at(&buffer, offset)?;
            offset += buffer.len() as u64;
        }
        Ok(())
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let end = self.end(offset, bytes)?;
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| fallocate(&self.file, how, offset, bytes)) {
            Ok(()) => {}
            // Then they are written as bytes.
            Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::INVAL) => return Err(io::ErrorKind::Unsupported.into()),
            Err(error) => return Err(error.into()),
        }
        // A file ends where it did, whatever was made a hole behind that.
        if end > self.size()? {
            retry_on_intr(|| ftruncate(&self.file, end))?;
        }
        Ok(())
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }
}

impl fmt::Display for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a file of {} bytes at most", self.bytes_max)
    }
}
