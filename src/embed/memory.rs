//! A sandbox's memory: as it was loaded, what was written since, and the ways of values between guest and host, all of them checked
//! copies.
//!
//! What the host passes goes to the buffer, one thing behind the other: the bytes of a call's arguments stay until it returns, those
//! of a host function's result until the guest calls the next one. What the guest passes may lie anywhere in its own memory.

use super::elf::Program;
use super::error::CallError;
use super::ring0::{GUEST, Map};
use crate::arch::layout::PAGE_SIZE;
use crate::memory::dirty::PageSet;
use crate::memory::map::GuestRange;
use crate::memory::ram::{GuestRam, RamError};
use std::collections::HashMap;
use std::sync::Arc;

/// Most bytes that are taken from the guest at once: 16 MiB.
const TAKEN_MAX: u64 = 16 << 20;
/// The alignment of what is passed.
const ALIGN: u64 = 16;

const ZEROES: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];

/// The guest's memory.
pub struct Memory {
    ram: Arc<GuestRam>,
    map: Map,
    /// What was written since the guest was loaded: by the host, and as far as it was asked for, by the guest.
    written: PageSet,
    /// The guest's pages as they were loaded, by address; others are zero.
    loaded: HashMap<u64, Box<[u8]>>,
    /// Bytes of the buffer that are in use.
    passed: u64,
}

impl Memory {
    /// Loads `program` and what stands around it into `ram`.
    ///
    /// # Errors
    /// The ranges are no RAM.
    pub fn load(ram: Arc<GuestRam>, map: Map, program: &Program) -> Result<Memory, RamError> {
        let parts: Vec<_> = program.parts.iter().map(|(part, _)| *part).collect();
        let mut loaded = HashMap::new();
        let contents = program.parts.iter().map(|(part, content)| (part.range.start, *content));
        let tables = map.tables(&parts);
        for (gpa, bytes) in contents.chain(tables.iter().map(|(gpa, bytes)| (*gpa, &bytes[..]))) {
            ram.write(gpa, bytes)?;
            let pages = (gpa & !(PAGE_SIZE - 1)..gpa + bytes.len() as u64).step_by(PAGE_SIZE as usize);
            loaded.extend(pages.filter(|page| *page >= GUEST).map(|page| (page, Box::default())));
        }
        for (page, content) in &mut loaded {
            let mut bytes = ZEROES;
            ram.read(*page, &mut bytes)?;
            *content = bytes.into();
        }
        Ok(Memory { ram, map, written: PageSet::new(map.guest), loaded, passed: 0 })
    }

    /// Where its parts lie.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// What was written, to be added to.
    pub fn written(&mut self) -> &mut PageSet {
        &mut self.written
    }

    /// Makes all pages that were written what they were when they were loaded, and says how many these were.
    ///
    /// # Errors
    /// A page is no RAM.
    pub fn restore(&mut self) -> Result<u64, RamError> {
        let (ram, loaded, mut result) = (&self.ram, &self.loaded, Ok(()));
        let count = self.written.drain(|page| {
            let content = loaded.get(&page).map_or(&ZEROES[..], |content| content);
            result = std::mem::replace(&mut result, Ok(())).and_then(|()| ram.write(page, content));
        });
        result.map(|()| count)
    }

    /// Bytes of the buffer that are in use.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Frees what was passed behind the first `bytes`.
    pub fn free_behind(&mut self, bytes: u64) {
        self.passed = bytes;
    }

    /// Passes bytes to the guest: where they are and how many.
    ///
    /// # Errors
    /// The buffer has no room for them.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<[u64; 2], CallError> {
        let (size, room) = (bytes.len() as u64, self.map.buffer.size - self.passed);
        if size > room {
            return Err(CallError::TooLarge { size, room });
        }
        let address = self.map.buffer.start + self.passed;
        self.write(address, bytes)?;
        self.passed = (self.passed + size).next_multiple_of(ALIGN).min(self.map.buffer.size);
        Ok([address, size])
    }

    /// Takes bytes that the guest passes.
    ///
    /// # Errors
    /// They are not in its memory, or too many.
    pub fn take(&self, address: u64, size: u64) -> Result<Vec<u8>, CallError> {
        let not_its = CallError::Pointer { address, size };
        if size == 0 {
            return Ok(Vec::new());
        }
        if size > TAKEN_MAX || !self.is_guests(address, size) {
            return Err(not_its);
        }
        let mut bytes = vec![0; size as usize];
        self.ram.read(address, &mut bytes).map_err(|_| not_its)?;
        Ok(bytes)
    }

    /// Writes the word at `address` of the guest's memory, unless it is there already.
    ///
    /// # Errors
    /// It is not in the guest's memory.
    pub fn put_word(&mut self, address: u64, word: u64) -> Result<(), CallError> {
        if !self.is_guests(address, 8) {
            return Err(CallError::Pointer { address, size: 8 });
        }
        if self.ram.read_u64(address) == Some(word) {
            return Ok(());
        }
        self.write(address, &word.to_le_bytes())
    }

    /// A word of ring 0's memory.
    pub fn ring0_word(&self, address: u64) -> u64 {
        self.ram.read_u64(address).unwrap_or(0)
    }

    fn is_guests(&self, address: u64, size: u64) -> bool {
        let end = address.checked_add(size);
        address >= self.map.guest.start && end.is_some_and(|end| end <= self.map.guest.end())
    }

    /// Writes bytes whose place is the guest's.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), CallError> {
        let size = bytes.len() as u64;
        self.ram.write(address, bytes).map_err(|_| CallError::Pointer { address, size })?;
        if size > 0 {
            self.written.insert(GuestRange { start: address, size });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embed::ring0::{BUFFER_SIZE, MEMORY_MIN, Part};
    use crate::memory::map::MemoryMap;

    fn memory() -> Memory {
        let ram = GuestRam::new(&MemoryMap::divided(GUEST + MEMORY_MIN, GUEST).unwrap()).unwrap();
        let range = GuestRange { start: GUEST, size: 0x1800 };
        let parts = vec![(Part { range, writable: true, executable: false }, &[7u8; 0x1001][..])];
        let program = Program { parts, ..Program::default() };
        Memory::load(Arc::new(ram), Map::new(MEMORY_MIN, GUEST + 0x1800).unwrap(), &program).unwrap()
    }

    #[test]
    fn what_was_written_becomes_what_was_loaded() {
        let mut memory = memory();
        memory.write(GUEST + 0xfff, &[1, 2]).unwrap();
        memory.write(GUEST + 0x5000, &[3]).unwrap();
        assert_eq!(memory.take(GUEST + 0xfff, 2).unwrap(), [1, 2]);
        assert_eq!(memory.restore().unwrap(), 3);
        assert_eq!(memory.take(GUEST + 0xfff, 3).unwrap(), [7, 7, 0]);
        assert_eq!(memory.take(GUEST + 0x5000, 1).unwrap(), [0]);
        assert_eq!(memory.restore().unwrap(), 0);
    }

    #[test]
    fn a_word_that_is_there_is_not_written() {
        let mut memory = memory();
        let slot = memory.map.return_slot();
        memory.put_word(slot, super::super::ring0::RETURN).unwrap();
        assert_eq!(memory.restore().unwrap(), 0);
        memory.put_word(slot, 1).unwrap();
        assert_eq!(memory.restore().unwrap(), 1);
        assert_eq!(memory.ram.read_u64(slot), Some(super::super::ring0::RETURN));
    }

    #[test]
    fn sec15_the_guest_passes_its_own_memory_and_no_other() {
        let mut memory = memory();
        let end = memory.map.guest.end();
        for (address, size) in [
            (GUEST - 1, 1),
            (0x5000, 8),
            (end - 1, 2),
            (end, 1),
            (GUEST, MEMORY_MIN + 1),
            (u64::MAX, 1),
            (u64::MAX - 7, 16),
            (GUEST, u64::MAX),
        ] {
            assert!(matches!(memory.take(address, size), Err(CallError::Pointer { .. })), "{address:#x}");
            assert!(
                size == 1
                    || memory.put_word(address.wrapping_add(size).wrapping_sub(8), 0).is_err()
                    || address == GUEST
            );
        }
        assert!(memory.take(end - 1, 1).is_ok());
        assert!(memory.take(u64::MAX, 0).unwrap().is_empty(), "nothing is anywhere");
        assert!(memory.put_word(end - 7, 0).is_err() && memory.put_word(end - 8, 0).is_ok());
    }

    #[test]
    fn the_buffer_holds_what_fits() {
        let mut memory = memory();
        let [first, _] = memory.pass(b"abc").unwrap();
        let [second, size] = memory.pass(b"defg").unwrap();
        assert_eq!((second, size), (first + 16, 4));
        assert_eq!(memory.take(first, 20).unwrap()[..3], *b"abc");
        let whole = vec![0; BUFFER_SIZE as usize];
        assert!(matches!(memory.pass(&whole), Err(CallError::TooLarge { room, .. }) if room == BUFFER_SIZE - 32));
        memory.free_behind(0);
        assert_eq!(memory.pass(&whole).unwrap(), [first, BUFFER_SIZE]);
        assert!(memory.pass(b"x").is_err() && memory.pass(b"").is_ok());
    }
}
