//! The FUSE protocol as far as a server needs it: numbers, what a request is read with, and what replies are written with.
//!
//! All fields are little-endian and naturally aligned, so a structure is read field by field in the order of its definition.
//! Of a protocol newer than [`MINOR`] nothing is used. Source: `fuse.h`.

use rustix::io::Errno;
use std::ffi::CStr;

/// The version that the server speaks, and the oldest that a client may: 7.31, the first for virtio.
pub const MAJOR: u32 = 7;
/// The newest minor version.
pub const MINOR: u32 = 38;
/// The oldest one.
pub const MINOR_MIN: u32 = 31;

/// The node of the shared directory itself.
pub const ROOT: u64 = 1;

/// Bytes of `struct fuse_in_header` and `struct fuse_out_header`.
pub const IN_HEADER: usize = 40;
/// Bytes of `struct fuse_out_header`.
pub const OUT_HEADER: usize = 16;
/// Bytes of `struct fuse_entry_out`.
pub const ENTRY_OUT: usize = 128;
/// Bytes of `struct fuse_attr_out`.
pub const ATTR_OUT: usize = 104;
/// Bytes of `struct fuse_open_out`.
pub const OPEN_OUT: usize = 16;
/// Bytes of `struct fuse_dirent` without the name.
pub const DIRENT: usize = 24;

/// Requests (`enum fuse_opcode`); those that are not here are answered with ENOSYS.
#[expect(missing_docs, reason = "the header's own names")]
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
    pub const TMPFILE: u32 = 51;
}

/// What client and server agree upon (flags of FUSE_INIT).
#[expect(missing_docs, reason = "the header's own names")]
pub mod init {
    pub const ASYNC_READ: u32 = 1 << 0;
    pub const ATOMIC_O_TRUNC: u32 = 1 << 3;
    pub const BIG_WRITES: u32 = 1 << 5;
    pub const AUTO_INVAL_DATA: u32 = 1 << 12;
    pub const DO_READDIRPLUS: u32 = 1 << 13;
    pub const READDIRPLUS_AUTO: u32 = 1 << 14;
    pub const ASYNC_DIO: u32 = 1 << 15;
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    pub const MAX_PAGES: u32 = 1 << 22;
    pub const CACHE_SYMLINKS: u32 = 1 << 23;
    pub const HANDLE_KILLPRIV_V2: u32 = 1 << 28;
}

/// What of a SETATTR is valid.
#[expect(missing_docs, reason = "the header's own names")]
pub mod setattr {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// Flag of GETATTR: by handle.
pub const GETATTR_FH: u32 = 1;
/// Flag of OPEN and CREATE: set-user-ID and set-group-ID end with the truncation.
pub const OPEN_KILL_SUIDGID: u32 = 1;
/// Flag of WRITE: set-user-ID and set-group-ID end with it.
pub const WRITE_KILL_SUIDGID: u32 = 4;
/// Flag of FSYNC: without metadata.
pub const FSYNC_DATA: u32 = 1;
/// Flag of an open file: the client may keep what it has of the content.
pub const KEEP_CACHE: u32 = 1 << 1;

/// `struct fuse_in_header`, as far as it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the header's own names")]
pub struct InHeader {
    pub len: u32,
    pub opcode: u32,
    pub unique: u64,
    pub nodeid: u64,
    pub uid: u32,
    pub gid: u32,
}

impl InHeader {
    /// The header in these bytes.
    pub fn parse(bytes: &[u8; IN_HEADER]) -> InHeader {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        InHeader { len: word(0), opcode: word(4), unique: long(8), nodeid: long(16), uid: word(24), gid: word(28) }
    }
}

/// What a request has behind its header, read from the front.
pub struct Arguments<'a>(&'a [u8]);

impl<'a> Arguments<'a> {
    /// Arguments in these bytes.
    pub fn new(bytes: &'a [u8]) -> Arguments<'a> {
        Arguments(bytes)
    }

    fn take(&mut self, size: usize) -> Result<&'a [u8], Errno> {
        let (taken, rest) = self.0.split_at_checked(size).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next 32-bit field.
    ///
    /// # Errors
    /// EINVAL: the request is too short for it.
    pub fn word(&mut self) -> Result<u32, Errno> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    /// The next 64-bit field.
    ///
    /// # Errors
    /// EINVAL: the request is too short for it.
    pub fn long(&mut self) -> Result<u64, Errno> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    /// The next so many fields of 32 bits.
    ///
    /// # Errors
    /// EINVAL: the request is too short for them.
    pub fn words<const N: usize>(&mut self) -> Result<[u32; N], Errno> {
        let mut words = [0; N];
        for word in &mut words {
            *word = self.word()?;
        }
        Ok(words)
    }

    /// Text up to its NUL.
    ///
    /// # Errors
    /// EINVAL: there is no NUL.
    pub fn text(&mut self) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = &self.0[text.count_bytes() + 1..];
        Ok(text)
    }

    /// The name of an entry of a directory: one component, never a path, never `.` or `..`.
    ///
    /// # Errors
    /// EINVAL: no such name; ENAMETOOLONG: more than 255 bytes.
    pub fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            bytes if bytes.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
            _ => Ok(name),
        }
    }

    /// All that is left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// The last argument has been read.
    ///
    /// # Errors
    /// EINVAL: bytes are left.
    pub fn end(&self) -> Result<(), Errno> {
        if self.0.is_empty() { Ok(()) } else { Err(Errno::INVAL) }
    }
}

/// Longest name of an entry (NAME_MAX in `limits.h`).
pub const NAME_MAX: usize = 255;

/// A structure of a reply, written field by field.
#[derive(Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    /// A structure that will have so many bytes: they need not be moved while it grows.
    pub fn of(size: usize) -> Fields {
        Fields(Vec::with_capacity(size))
    }

    /// Adds a 32-bit field.
    pub fn word(mut self, value: u32) -> Fields {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds a 64-bit field.
    pub fn long(mut self, value: u64) -> Fields {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds a structure.
    pub fn bytes(mut self, bytes: &[u8]) -> Fields {
        self.0.extend(bytes);
        self
    }

    /// Adds zeroes up to `size` bytes in all.
    pub fn zeroes_to(mut self, size: usize) -> Fields {
        self.0.resize(size, 0);
        self
    }

    /// What was written.
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_in_order_and_never_beyond_their_end() {
        let bytes = [&7u64.to_le_bytes()[..], &9u32.to_le_bytes(), b"name\0target\0", &[1, 2, 3]].concat();
        let mut arguments = Arguments::new(&bytes);
        assert_eq!((arguments.long(), arguments.word()), (Ok(7), Ok(9)));
        assert_eq!((arguments.name(), arguments.text()), (Ok(c"name"), Ok(c"target")));
        assert_eq!(
            (arguments.word(), arguments.text(), arguments.end()),
            (Err(Errno::INVAL), Err(Errno::INVAL), Err(Errno::INVAL))
        );
        assert_eq!(arguments.rest(), [1, 2, 3]);
    }

    #[test]
    fn sec58_names_are_one_component() {
        let name = |bytes: &[u8]| Arguments::new(bytes).name().map(|name| name.to_bytes().to_vec());
        for bad in [&b"\0"[..], b".\0", b"..\0", b"a/b\0", b"/\0", b"../x\0", b"no end", b""] {
            assert_eq!(name(bad), Err(Errno::INVAL), "{bad:?}");
        }
        let long = |size: usize| [&vec![b'n'; size][..], b"\0"].concat();
        assert_eq!((name(&long(256)), name(&long(4000))), (Err(Errno::NAMETOOLONG), Err(Errno::NAMETOOLONG)));
        assert_eq!(name(&long(255)).unwrap().len(), 255);
        assert_eq!((name(b"...\0"), name(b"\xff\\\0")), (Ok(b"...".to_vec()), Ok(b"\xff\\".to_vec())));
    }
}
