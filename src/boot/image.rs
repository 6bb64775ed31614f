//! An image's bytes, wherever they are: inside the binary, in memory, or in a file, which is read by position and only
//! where needed.
//!
//! A file may change while it is read. So headers are copied once, the copy is validated, and the loaders of
//! `linux-loader` see that copy again instead of the file's present bytes ([`ImageReader`]).

use super::error::{BootError, Problem};
use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

/// Bytes to boot, with a name for messages.
pub struct Image<'a> {
    name: String,
    source: Source<'a>,
    size: u64,
}

enum Source<'a> {
    Bytes(Cow<'a, [u8]>),
    File(File),
}

impl<'a> Image<'a> {
    /// An image in memory.
    pub fn from_bytes(name: &str, bytes: &'a [u8]) -> Image<'a> {
        Image { name: name.to_string(), source: Source::Bytes(Cow::Borrowed(bytes)), size: bytes.len() as u64 }
    }

    /// An image in memory of its own.
    pub fn from_vec(name: &str, bytes: Vec<u8>) -> Image<'static> {
        let size = bytes.len() as u64;
        Image { name: name.to_string(), source: Source::Bytes(Cow::Owned(bytes)), size }
    }

    /// A file that is open already, of `size` bytes.
    pub fn from_file(name: &str, file: File, size: u64) -> Image<'static> {
        Image { name: name.to_string(), source: Source::File(file), size }
    }

    /// Opens an image file.
    ///
    /// # Errors
    /// It is missing, may not be read, is not a regular file, or is empty.
    pub fn open(path: &Path) -> Result<Image<'static>, BootError> {
        let name = path.display().to_string();
        let failed = |problem: Problem| problem.of(&name);
        // A FIFO without a writer would block the open for ever.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = opened.map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => failed(Problem::Unreadable { path: name.clone(), copy: copy_name(path) }),
            _ => failed(Problem::Open(error)),
        })?;
        let metadata = file.metadata().map_err(|error| failed(Problem::Open(error)))?;
        let kind = metadata.file_type();
        match () {
            () if kind.is_dir() => Err(failed(Problem::NotAFile("a directory"))),
            () if kind.is_block_device() => Err(failed(Problem::NotAFile("a block device"))),
            () if !kind.is_file() => Err(failed(Problem::NotAFile("a device, pipe or socket"))),
            () if metadata.len() == 0 => Err(failed(Problem::Empty)),
            () => Ok(Image { name: name.clone(), source: Source::File(file), size: metadata.len() }),
        }
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file behind the image, where there is one.
    pub fn file(&self) -> Option<&File> {
        match &self.source {
            Source::Bytes(_) => None,
            Source::File(file) => Some(file),
        }
    }

    /// The bytes of an image in memory; none of a file.
    pub fn into_vec(self) -> Vec<u8> {
        match self.source {
            Source::Bytes(bytes) => bytes.into_owned(),
            Source::File(_) => Vec::new(),
        }
    }

    /// At most `size` bytes from `offset` on: fewer only where the image ends.
    ///
    /// # Errors
    /// The file cannot be read, or has become shorter.
    pub fn read(&self, offset: u64, size: u64) -> Result<Vec<u8>, Problem> {
        let start = offset.min(self.size);
        let size = size.min(self.size - start);
        match &self.source {
            Source::Bytes(source) => Ok(source[start as usize..][..size as usize].to_vec()),
            Source::File(file) => {
                let mut bytes = vec![0; usize::try_from(size).expect("x86-64 only")];
                file.read_exact_at(&mut bytes, start).map_err(|error| match error.kind() {
                    ErrorKind::UnexpectedEof => Problem::Changed,
                    _ => Problem::Read(error),
                })?;
                Ok(bytes)
            }
        }
    }
}

/// Where a readable copy of `path` could go.
fn copy_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("./{name}")
}

/// An image as the loaders of `linux-loader` read it: `head` first, then the image from `shift` bytes earlier on.
///
/// With a `shift` of 0 the head replaces the image's first bytes; with `head.len()` it stands before them.
pub struct ImageReader<'a> {
    /// Validated bytes.
    pub head: &'a [u8],
    /// Where the rest comes from.
    pub image: &'a Image<'a>,
    /// How much further on in this reader a byte of the image stands.
    pub shift: u64,
    /// Offset of the next byte.
    pub position: u64,
}

impl ImageReader<'_> {
    /// What of the head is still to be read.
    fn head_left(&self) -> &[u8] {
        self.head.get(self.position as usize..).unwrap_or_default()
    }

    fn image_offset(&self) -> u64 {
        self.position.saturating_sub(self.shift)
    }
}

impl Read for ImageReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match (self.head_left(), &self.image.source) {
            ([], Source::File(file)) => file.read_at(buffer, self.image_offset())?,
            ([], Source::Bytes(bytes)) => bytes.get(self.image_offset() as usize..).unwrap_or_default().read(buffer)?,
            (mut head, _) => head.read(buffer)?,
        };
        self.position += count as u64;
        Ok(count)
    }
}

impl ReadVolatile for ImageReader<'_> {
    fn read_volatile<B: BitmapSlice>(&mut self, buffer: &mut VolatileSlice<B>) -> Result<usize, VolatileMemoryError> {
        let count = match (self.head_left(), &self.image.source) {
            ([], Source::File(file)) => {
                let mut file = file;
                file.seek(SeekFrom::Start(self.image_offset())).map_err(VolatileMemoryError::IOError)?;
                file.read_volatile(buffer)?
            }
            ([], Source::Bytes(bytes)) => {
                bytes.get(self.image_offset() as usize..).unwrap_or_default().read_volatile(buffer)?
            }
            (mut head, _) => head.read_volatile(buffer)?,
        };
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for ImageReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => {
                self.image.size.checked_add(self.shift).and_then(|end| end.checked_add_signed(offset))
            }
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_ends_where_the_image_ends() {
        let image = Image::from_bytes("test", b"abcdef");
        assert_eq!(image.read(4, 100).unwrap(), b"ef");
        assert_eq!(image.read(u64::MAX, u64::MAX).unwrap(), b"");
    }

    #[test]
    fn the_head_stands_before_or_over_the_image() {
        let image = Image::from_bytes("test", b"abcdef");
        let mut text = String::new();
        ImageReader { head: b"123", image: &image, shift: 3, position: 0 }.read_to_string(&mut text).unwrap();
        ImageReader { head: b"123", image: &image, shift: 0, position: 0 }.read_to_string(&mut text).unwrap();
        assert_eq!(text, "123abcdef123def");
    }

    #[test]
    fn what_is_no_file_is_named() {
        for (path, what) in [("/", "a directory"), ("/dev/null", "a device"), ("/nowhere", "No such file")] {
            let error = Image::open(Path::new(path)).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with(path) && error.contains(what), "{error}");
        }
    }

    #[test]
    fn sec62_a_file_that_shrinks_is_an_error() {
        let path = std::env::temp_dir().join(format!("hostel-shrink-{}", std::process::id()));
        std::fs::write(&path, [1; 100]).unwrap();
        let image = Image::open(&path).unwrap();
        std::fs::write(&path, [1; 10]).unwrap();
        assert!(matches!(image.read(0, 100), Err(Problem::Changed)));
        std::fs::remove_file(path).unwrap();
    }
}
