//! Files in memory, for tests of what answers programs of other systems than Linux.
//!
//! Sources: open(2), lseek(2).

use super::host_files::{FileKind, Files};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io::SeekFrom;
use std::time::Duration;

/// Files in memory, by their paths; 0 to 2 are the standard ones.
#[derive(Debug, Default)]
pub struct FakeFiles {
    /// What the paths lead to.
    pub files: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What standard input holds.
    pub input: Vec<u8>,
    /// What was written to 1 and 2.
    pub output: [Vec<u8>; 2],
    /// How long the program waited.
    pub slept: Duration,
    /// Path and position of what is open.
    pub open: BTreeMap<u32, (Vec<u8>, usize)>,
}

impl Files for FakeFiles {
    fn open(&mut self, path: &[u8], how: OFlags) -> Result<u32, Errno> {
        match self.files.get_mut(path) {
            Some(_) if how.contains(OFlags::CREATE | OFlags::EXCL) => return Err(Errno::EXIST),
            Some(content) if how.contains(OFlags::TRUNC) => content.clear(),
            None if how.contains(OFlags::CREATE) => {
                self.files.insert(path.to_vec(), Vec::new());
            }
            None => return Err(Errno::NOENT),
            Some(_) => {}
        }
        let number = (3..).find(|number| !self.open.contains_key(number)).expect("numbers do not end");
        self.open.insert(number, (path.to_vec(), 0));
        Ok(number)
    }

    fn read(&mut self, file: u32, bytes: &mut [u8]) -> Result<usize, Errno> {
        if file == 0 {
            let count = bytes.len().min(self.input.len());
            bytes[..count].copy_from_slice(&self.input.drain(..count).collect::<Vec<_>>());
            return Ok(count);
        }
        let (path, position) = self.open.get_mut(&file).ok_or(Errno::BADF)?;
        let rest = self.files.get(path).ok_or(Errno::BADF)?.get(*position..).unwrap_or_default();
        let count = bytes.len().min(rest.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        *position += count;
        Ok(count)
    }

    fn write(&mut self, file: u32, bytes: &[u8]) -> Result<usize, Errno> {
        if let 1 | 2 = file {
            self.output[file as usize - 1].extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        let (path, position) = self.open.get_mut(&file).ok_or(Errno::BADF)?;
        let content = self.files.get_mut(path).ok_or(Errno::BADF)?;
        content.resize(content.len().max(*position + bytes.len()), 0);
        content[*position..][..bytes.len()].copy_from_slice(bytes);
        *position += bytes.len();
        Ok(bytes.len())
    }

    fn seek(&mut self, file: u32, to: SeekFrom) -> Result<u64, Errno> {
        let (path, position) = self.open.get_mut(&file).ok_or(Errno::SPIPE)?;
        let end = self.files.get(path).ok_or(Errno::BADF)?.len() as u64;
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => end.checked_add_signed(offset),
            SeekFrom::Current(offset) => (*position as u64).checked_add_signed(offset),
        };
        *position = target.filter(|target| *target <= 1 << 20).ok_or(Errno::INVAL)? as usize;
        Ok(*position as u64)
    }

    fn cut(&mut self, file: u32, position: u64) -> Result<(), Errno> {
        let (path, _) = self.open.get(&file).ok_or(Errno::BADF)?;
        self.files.get_mut(path).ok_or(Errno::BADF)?.resize(position as usize, 0);
        Ok(())
    }

    fn kind(&self, file: u32) -> FileKind {
        if file < 3 { FileKind::Pipe } else { FileKind::Disk }
    }

    fn close(&mut self, file: u32) -> bool {
        self.open.remove(&file).is_some()
    }

    fn remove(&mut self, path: &[u8]) -> Result<(), Errno> {
        self.files.remove(path).map(|_| ()).ok_or(Errno::NOENT)
    }

    fn sleep(&mut self, time: Duration) {
        self.slept += time;
    }
}
