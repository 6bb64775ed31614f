//! Memory for tests of the functions, without KVM.
//!
//! Source: Microsoft "Memory Protection Constants".

use super::call::Call;
use super::layout::{THREAD_BLOCK, VARIABLES, VARIABLES_SIZE};
use super::pe::{Access, PAGE};
use super::process::Process;
use super::user::{Fault, Memory};
use crate::process::fake_files::FakeFiles;
use std::collections::BTreeMap;
use std::ops::Range;

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
