//! Memory and files for tests of the functions, without KVM.
//!
//! Source: Microsoft "Memory Protection Constants".

use super::call::Call;
use super::layout::{THREAD_BLOCK, VARIABLES, VARIABLES_SIZE};
use super::pe::{Access, PAGE};
use super::process::Process;
use super::user::{Fault, FileKind, Files, Memory};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io::SeekFrom;
use std::ops::Range;
use std::time::Duration;

/// Most pages that there are.
const PAGES_MAX: u64 = 2048;

/// Pages by their address.
#[derive(Debug, Default)]
pub struct FakeMemory {
    pages: BTreeMap<u64, (Access, Vec<u8>)>,
}

impl FakeMemory {
    /// What lies at an address.
    pub fn text_at(&self, address: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        self.read(address, &mut bytes).expect("the test put it there");
        bytes
    }
}

/// The pages that `size` bytes at `address` lie in: where each piece begins, and which of the bytes it is.
fn pieces(address: u64, size: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let start = address.wrapping_add(done as u64);
        let end = size.min(done + (PAGE - start % PAGE) as usize);
        let piece = (done < size).then_some((start, done..end));
        done = end;
        piece
    })
}

impl Memory for FakeMemory {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        for (start, part) in pieces(address, bytes.len()) {
            let page = self.pages.get(&(start - start % PAGE)).filter(|(access, _)| access.read);
            let content = &page.ok_or(Fault { address: start, write: false })?.1[(start % PAGE) as usize..];
            let size = part.len();
            bytes[part].copy_from_slice(&content[..size]);
        }
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        for (start, part) in pieces(address, bytes.len()) {
            let page = self.pages.get_mut(&(start - start % PAGE)).filter(|(access, _)| access.write);
            let content = &mut page.ok_or(Fault { address: start, write: true })?.1[(start % PAGE) as usize..];
            content[..part.len()].copy_from_slice(&bytes[part]);
        }
        Ok(())
    }

    fn map(&mut self, address: u64, size: u64, access: Access) -> bool {
        if size / PAGE + self.pages.len() as u64 > PAGES_MAX {
            return false;
        }
        for page in (address..address + size).step_by(PAGE as usize) {
            self.pages.insert(page, (access, vec![0; PAGE as usize]));
        }
        true
    }

    fn protect(&mut self, address: u64, size: u64, access: Access) {
        self.pages.range_mut(address..address + size).for_each(|(_, page)| page.0 = access);
    }

    fn unmap(&mut self, address: u64, size: u64) {
        self.pages.retain(|page, _| !(address..address + size).contains(page));
    }
}

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
        let rest = self.files[path].get(*position..).unwrap_or_default();
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
        let end = self.files[path].len() as u64;
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => end.checked_add_signed(offset),
            SeekFrom::Current(offset) => (*position as u64).checked_add_signed(offset),
        };
        *position = target.filter(|target| *target <= 1 << 20).ok_or(Errno::INVAL)? as usize;
        Ok(*position as u64)
    }

    fn kind(&self, file: u32) -> FileKind {
        if file < 3 { FileKind::Pipe } else { FileKind::Disk }
    }

    fn close(&mut self, file: u32) {
        self.open.remove(&file);
    }

    fn remove(&mut self, path: &[u8]) -> Result<(), Errno> {
        self.files.remove(path).map(|_| ()).ok_or(Errno::NOENT)
    }

    fn sleep(&mut self, time: Duration) {
        self.slept += time;
    }
}

/// A process with some memory, to call functions in.
pub struct Desk {
    /// Its memory.
    pub memory: FakeMemory,
    /// Its files.
    pub files: FakeFiles,
    /// The rest of it.
    pub process: Process,
}

impl Desk {
    /// Where memory lies that is not used yet.
    pub const SPACE: u64 = 0x10_0000;
    /// Its end.
    pub const SPACE_END: u64 = 0x11_0000;
    /// The stack pointer of calls.
    pub const STACK: u64 = 0x11_1000;

    /// A process whose variables are set up, with standard input as in `files`.
    pub fn with(files: FakeFiles) -> Desk {
        let mut memory = FakeMemory::default();
        for (start, size) in [
            (Desk::SPACE, Desk::SPACE_END - Desk::SPACE),
            (Desk::STACK, 0x1000),
            (VARIABLES, VARIABLES_SIZE),
            (THREAD_BLOCK, 2 * PAGE),
        ] {
            memory.map(start, size, Access::DATA);
        }
        let process = Process::new(&files);
        Desk { memory, files, process }
    }

    /// The same without any files.
    pub fn new() -> Desk {
        Desk::with(FakeFiles::default())
    }

    /// A call with these arguments.
    pub fn call(&mut self, registers: [u64; 4]) -> Call<'_> {
        let Desk { memory, files, process } = self;
        Call { process, memory, files, registers, stack: Desk::STACK }
    }

    /// Writes a text, and tells its address.
    pub fn text(&mut self, offset: u64, text: &str) -> u64 {
        let at = Desk::SPACE + offset;
        self.memory
            .write(at, text.as_bytes())
            .and_then(|()| self.memory.write(at + text.len() as u64, &[0]))
            .expect("there is room");
        at
    }
}
