//! Little-endian numbers and texts at offsets that a hostile file names.
//!
//! Nothing here fails but by `None`, whatever the offset is.
//! Source: PE Format "General Concepts".

/// Bytes that are looked at by offset.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// `size` bytes from `offset` on.
    pub fn range(&self, offset: u64, size: u64) -> Option<&'a [u8]> {
        let end = usize::try_from(offset.checked_add(size)?).ok()?;
        self.0.get(usize::try_from(offset).ok()?..end)
    }

    fn array<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        self.range(offset, N as u64)?.try_into().ok()
    }

    /// A number of two bytes.
    pub fn u16(&self, offset: u64) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    /// A number of four bytes.
    pub fn u32(&self, offset: u64) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    /// A number of eight bytes.
    pub fn u64(&self, offset: u64) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }

    /// The text that ends with a zero byte, of at most `max` bytes; printable ASCII only, as names of functions and libraries
    /// are.
    pub fn name(&self, offset: u64, max: usize) -> Option<&'a str> {
        let tail = self.0.get(usize::try_from(offset).ok()?..)?;
        let name = &tail[..tail.iter().take(max + 1).position(|byte| *byte == 0)?];
        std::str::from_utf8(name).ok().filter(|name| name.bytes().all(|byte| byte.is_ascii_graphic()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_bytes_is_none() {
        let bytes = Bytes(b"\x01\x02\x03\x04name\0no end");
        assert_eq!((bytes.u16(0), bytes.u32(0)), (Some(0x201), Some(0x403_0201)));
        assert_eq!((bytes.u32(13), bytes.u64(u64::MAX), bytes.range(u64::MAX, 2)), (None, None, None));
        assert_eq!((bytes.name(4, 4), bytes.name(4, 3), bytes.name(9, 100)), (Some("name"), None, None));
    }
}
