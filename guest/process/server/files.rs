//! The files of the disk: found in a table that is read once, opened each by a descriptor of its own.

use process::abi::{DISK, Error};
use process::call::{self, Result};
use process::print;

use crate::archive::{BLOCK, Header, header, step};
use crate::http::Name;
use crate::memory;

/// Most files.
const FILES_MAX: usize = 512;

/// The table.
#[derive(Clone, Copy)]
pub struct Files(&'static [(Name, Place)]);

/// Where a file lies on the disk.
#[derive(Clone, Copy)]
struct Place {
    at: u64,
    bytes: u64,
}

/// An open file. It must be closed.
pub struct File {
    descriptor: u64,
    place: Place,
}

impl Files {
    /// Reads the table: one read of the disk for each file. Without a disk there are none.
    pub fn read() -> Option<Files> {
        let list = memory::slice(FILES_MAX, || (Name::EMPTY, Place { at: 0, bytes: 0 }))?;
        let Ok(disk) = call::open(DISK) else { return Some(Files(&[])) };
        let end = call::size(disk).unwrap_or(0);
        let (mut at, mut count) = (0u64, 0);
        let mut block = [0; BLOCK as usize];
        while call::read(disk, &mut block, at) == Ok(BLOCK as usize) {
            let bytes = match header(&block) {
                Header::End => break,
                Header::Other(bytes) => bytes,
                Header::File(name, bytes) => {
                    // What an archive says of itself does not lead beyond the disk.
                    let place = Place { at: at + BLOCK, bytes: bytes.min(end.saturating_sub(at + BLOCK)) };
                    let Some(slot) = list.get_mut(count) else { break };
                    *slot = (name, place);
                    count += 1;
                    bytes
                }
            };
            let Some(next) = at.checked_add(step(bytes)) else { break };
            at = next;
        }
        let _ = call::close(disk);
        print!("server: {count} files\n");
        list.get(..count).map(Files)
    }

    /// Opens a file. [`Error::NoEntry`]: there is none; [`Error::NoMemory`]: too many are open.
    pub fn open(&self, name: &Name) -> Result<File> {
        let (_, place) = self.0.iter().find(|(other, _)| other == name).ok_or(Error::NoEntry)?;
        Ok(File { descriptor: call::open(DISK)?, place: *place })
    }
}

impl File {
    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        self.place.bytes
    }

    /// What to wait for after [`File::try_read`].
    pub fn descriptor(&self) -> u64 {
        self.descriptor
    }

    /// Reads from `at` on; the thread sleeps until the disk has answered.
    pub fn read(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        let (room, offset) = self.room(buffer, at);
        call::read(self.descriptor, room, offset)
    }

    /// As [`File::read`], but has the disk begin and gives [`Error::Again`] where that would sleep.
    pub fn try_read(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        let (room, offset) = self.room(buffer, at);
        call::try_read(self.descriptor, room, offset)
    }

    fn room<'a>(&self, buffer: &'a mut [u8], at: u64) -> (&'a mut [u8], u64) {
        let bytes = self.place.bytes.saturating_sub(at).min(buffer.len() as u64) as usize;
        (buffer.get_mut(..bytes).unwrap_or_default(), self.place.at.saturating_add(at))
    }

    /// Gives its descriptor back.
    pub fn close(self) {
        let _ = call::close(self.descriptor);
    }
}
