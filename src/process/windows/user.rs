//! What the functions need of the process VM below besides files ([`crate::process::host_files`]): the program's memory.
//!
//! A trait, so that the functions are tested, and fuzzed, without KVM. An address that the program hands over may be anything: what
//! is not there is a [`Fault`], a value.
//! Source: Microsoft "Memory Protection Constants".

use super::pe::Access;

/// An address of the program's at which what was asked for cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The first such address.
    pub address: u64,
    /// Whether it was to be written.
    pub write: bool,
}

/// The program's memory.
pub trait Memory {
    /// Reads all of `bytes`, as the program may.
    ///
    /// # Errors
    /// A page is missing or may not be read.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault>;

    /// Writes all of `bytes`, as the program may.
    ///
    /// # Errors
    /// A page is missing or may not be written; what lies before it may have been written.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault>;

    /// Makes whole pages of zeros, which are not there yet; false: there is no memory left.
    fn map(&mut self, address: u64, size: u64, access: Access) -> bool;

    /// Changes what may be done with whole pages, which are there.
    fn protect(&mut self, address: u64, size: u64, access: Access);

    /// Takes whole pages away.
    fn unmap(&mut self, address: u64, size: u64);
}

/// Numbers and texts of the program's memory.
impl dyn Memory + '_ {
    /// A number of four bytes.
    ///
    /// # Errors
    /// See [`Memory::read`].
    pub fn u32(&self, address: u64) -> Result<u32, Fault> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// A number of eight bytes.
    ///
    /// # Errors
    /// See [`Memory::read`].
    pub fn u64(&self, address: u64) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The text at `address` up to its zero byte, cut off at `max` bytes.
    ///
    /// # Errors
    /// A page is missing before the end.
    pub fn text(&self, address: u64, max: usize) -> Result<Vec<u8>, Fault> {
        let mut text = Vec::new();
        let mut chunk = [0; 256];
        while text.len() < max {
            let at = address.wrapping_add(text.len() as u64);
            // No chunk reaches into a page before the text does.
            let size = (256 - at % 256).min((max - text.len()) as u64) as usize;
            self.read(at, &mut chunk[..size])?;
            match chunk[..size].iter().position(|byte| *byte == 0) {
                Some(end) => {
                    text.extend_from_slice(&chunk[..end]);
                    break;
                }
                None => text.extend_from_slice(&chunk[..size]),
            }
        }
        Ok(text)
    }

    /// The text of 16-bit units at `address` up to its zero, cut off at `max` units.
    ///
    /// # Errors
    /// A page is missing before the end.
    pub fn wide_text(&self, address: u64, max: usize) -> Result<Vec<u16>, Fault> {
        let mut text = Vec::new();
        while text.len() < max {
            let mut unit = [0; 2];
            self.read(address.wrapping_add(text.len() as u64 * 2), &mut unit)?;
            match u16::from_le_bytes(unit) {
                0 => break,
                unit => text.push(unit),
            }
        }
        Ok(text)
    }
}
