//! The file system of the server: a tar archive on the disk, which is only read. `tar -cf disk.img -C site .` makes one.
//!
//! Pure: what a header says. Left out: links, directories, names above what http.rs takes, and the extensions of pax.
//! Source: POSIX.1-2017 `pax` "ustar Interchange Format".

use super::http::Name;

/// Bytes of a header, and what content is rounded up to.
pub const BLOCK: u64 = 512;

/// What a header begins.
#[derive(PartialEq, Eq, Debug)]
pub enum Header {
    /// Nothing: the archive has ended, or is none.
    End,
    /// A file of so many bytes, which follow.
    File(Name, u64),
    /// Something else, with so many bytes.
    Other(u64),
}

/// Reads a header.
pub fn header(block: &[u8; BLOCK as usize]) -> Header {
    let field = |at: usize, bytes: usize| block.get(at..at + bytes).unwrap_or_default();
    let sum = block.iter().enumerate().map(|(at, byte)| match at {
        // The sum is taken with spaces in its own place.
        148..156 => u64::from(b' '),
        _ => u64::from(*byte),
    });
    let (Some(bytes), Some(said)) = (octal(field(124, 12)), octal(field(148, 8))) else { return Header::End };
    if field(257, 5) != b"ustar" || sum.sum::<u64>() != said {
        return Header::End;
    }
    let name = text(field(0, 100));
    let name = name.strip_prefix(b"./").unwrap_or(name);
    // GNU tar says "ustar  " and keeps times where others have the front of a long name.
    let has_front = field(257, 6) == b"ustar\0" && field(345, 1) != [0];
    match (field(156, 1), Name::new(name)) {
        ([b'0' | 0], Some(name)) if !has_front => Header::File(name, bytes),
        _ => Header::Other(bytes),
    }
}

/// How far it is from a header to the next one, over so many bytes of content.
pub fn step(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK).saturating_add(BLOCK)
}

/// A number in octal digits, with spaces or zeroes around.
fn octal(field: &[u8]) -> Option<u64> {
    let digits = text(field).trim_ascii();
    let digit =
        |value: u64, digit: &u8| Some(value << 3 | u64::from(matches!(digit, b'0'..=b'7').then(|| digit - b'0')?));
    digits.iter().try_fold(0, digit)
}

/// What stands before the first zero.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}
