//! Programs: static ELF files, checked before they are believed.
//!
//! Pages that nobody writes are mapped where they lie in the kernel's image, so all that run a program share them; of those that are
//! written each process gets copies, and what the file does not fill appears when it is touched.
//! Source: ELF gABI ch. 4 "ELF Header", ch. 5 "Program Header".

use guest::memory::{read16, read32, read64};

use super::abi::{Error, PAGE, USER_BASE};
use super::frames;
use super::space::{Access, MAP_BASE, Space};

/// "\x7fELF", 64 bits, little-endian, version 1; and an executable for x86-64.
const MAGIC: u64 = 0x0001_0102_464c_457f;
const MAGIC_MASK: u64 = 0x00ff_ffff_ffff_ffff;
const EXECUTABLE: u32 = 62 << 16 | 2;
/// Places in the header.
const TYPE: u64 = 16;
const ENTRY: u64 = 24;
const HEADERS: u64 = 32;
const HEADER_COUNT: u64 = 56;
const HEADER_BYTES: u64 = 56;
const FILE_HEADER_BYTES: u64 = 64;
/// Most program headers.
const HEADERS_MAX: u64 = 8;

/// A segment to load, and the flag of one that is written.
const LOAD: u32 = 1;
const WRITE: u32 = 1 << 1;

/// Puts a program into memory; where it begins.
pub fn load(image: &'static [u8], space: &Space) -> Result<u64, Error> {
    let (start, bytes) = (image.as_ptr() as u64, image.len() as u64);
    if bytes < FILE_HEADER_BYTES || read64(start) & MAGIC_MASK != MAGIC || read32(start + TYPE) != EXECUTABLE {
        return Err(Error::NoEntry);
    }
    let (entry, headers) = (read64(start + ENTRY), read64(start + HEADERS));
    let count = u64::from(read16(start + HEADER_COUNT));
    let end = count.checked_mul(HEADER_BYTES).and_then(|size| size.checked_add(headers));
    if count > HEADERS_MAX || end.is_none_or(|end| end > bytes) || !(USER_BASE..MAP_BASE).contains(&entry) {
        return Err(Error::NoEntry);
    }
    for index in 0..count {
        let header = start + headers + index * HEADER_BYTES;
        if read32(header) == LOAD {
            let segment = Segment {
                is_written: read32(header + 4) & WRITE != 0,
                offset: read64(header + 8),
                address: read64(header + 16),
                file_bytes: read64(header + 32),
                bytes: read64(header + 40),
            };
            segment.check(bytes)?;
            segment.load(start, bytes, space)?;
        }
    }
    Ok(entry)
}

/// What a program header says.
struct Segment {
    is_written: bool,
    offset: u64,
    address: u64,
    file_bytes: u64,
    bytes: u64,
}

impl Segment {
    /// Whole pages of the file at whole pages of the program's part of memory.
    fn check(&self, image_bytes: u64) -> Result<(), Error> {
        let file_end = self.offset.checked_add(self.file_bytes).filter(|&end| end <= image_bytes);
        let end = self.address.checked_add(self.bytes).filter(|&end| end <= MAP_BASE);
        let is_aligned = self.offset % PAGE == 0 && self.address % PAGE == 0;
        let is_right = file_end.is_some() && end.is_some() && is_aligned && self.address >= USER_BASE;
        if is_right && self.file_bytes <= self.bytes { Ok(()) } else { Err(Error::NoEntry) }
    }

    fn load(&self, image: u64, image_bytes: u64, space: &Space) -> Result<(), Error> {
        let filled = self.file_bytes.next_multiple_of(PAGE);
        for at in (0..filled).step_by(PAGE as usize) {
            let from = image + self.offset + at;
            // The page's rest may belong to something else: the next part of this file, but no other.
            let is_within = self.offset + at + PAGE <= image_bytes;
            let (frame, access) = match (self.is_written, is_within) {
                (false, true) => (from, Access::Code),
                (is_written, _) => {
                    let frame = space.frame()?;
                    frames::copy(frame, from, (self.file_bytes - at).min(PAGE));
                    (frame, if is_written { Access::Data } else { Access::Code })
                }
            };
            space.map(self.address + at, frame, access)?;
        }
        let end = self.address + self.bytes.next_multiple_of(PAGE);
        if end > self.address + filled {
            space.add_range(self.address + filled, end)?;
        }
        Ok(())
    }
}
