//! A sandbox's file: a static 64-bit ELF program, whose functions it says itself: records in the section `.hostel`, each a line of text
//! ended by a zero byte, `export NAME u64(u64, bytes)` or `import NAME bytes(i32)`. What has no record is not called.
//!
//! The whole file is in memory and read once. Everything in it is checked, and capped. Leaves out relocations: programs are linked for
//! their addresses. `boot/elf.rs` reads kernels, by physical addresses and without rights, sections and names.
//! Source: ELF gABI "ELF Header", "Sections", "Symbol Table", "Program Header".

use super::ring0::Part;
use super::signature::Signature;
use crate::memory::map::GuestRange;
use std::collections::HashMap;

/// Most program headers, sections and records; a program has a dozen of each.
const PROGRAM_HEADERS_MAX: usize = 64;
const SECTIONS_MAX: usize = 4096;
const RECORDS_MAX: usize = 4096;
/// Longest name of a function, in bytes.
const NAME_MAX: usize = 256;

const SEGMENT_LOAD: u64 = 1;
const SECTION_SYMBOLS: u64 = 2;
const FLAG_EXECUTABLE: u64 = 1;
const FLAG_WRITABLE: u64 = 2;
/// The section with records.
const RECORDS: &[u8] = b".hostel";

/// A program for a sandbox.
#[derive(Debug, Default)]
pub struct Program<'a> {
    /// What is loaded: bytes of the file, and where; the rest of a part is zero.
    pub parts: Vec<(Part, &'a [u8])>,
    /// Functions that the host can call, by name.
    pub exports: HashMap<String, Export>,
    /// Functions that the program calls of the host.
    pub imports: Vec<Import>,
}

/// A function that the host can call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Where it begins.
    pub address: u64,
    /// Its types.
    pub signature: Signature,
}

/// A function of the host that the program calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Address of its record, by which the program calls it.
    pub record: u64,
    /// Its name.
    pub name: String,
    /// Its types.
    pub signature: Signature,
}

/// A section header.
struct Section {
    name: usize,
    kind: u64,
    address: u64,
    offset: u64,
    size: u64,
    link: usize,
}

impl<'a> Program<'a> {
    /// Reads a program that is to lie in `room`.
    ///
    /// # Errors
    /// It is none, contradicts itself, or leaves the room; the text says how.
    pub fn read(file: &'a [u8], room: GuestRange) -> Result<Program<'a>, String> {
        let kind = (file.get(..6), number(file, 16, 2), number(file, 18, 2));
        match kind {
            (Some(b"\x7fELF\x02\x01"), 2, 62) => {}
            (Some(b"\x7fELF\x02\x01"), 3, 62) => {
                return Err("a position-independent program: link it with -static -no-pie".into());
            }
            _ => return Err("not a 64-bit ELF program for x86-64".into()),
        }
        let mut program = Program { parts: parts(file, room)?, ..Program::default() };
        let sections = sections(file)?;
        let names = number(file, 62, 2) as usize;
        let symbols = symbols(file, &sections);
        let is_records =
            |section: &&Section| sections.get(names).and_then(|names| text(file, names, section.name)) == Some(RECORDS);
        if let Some(section) = sections.iter().find(is_records) {
            program.add_records(bytes(file, section.offset, section.size)?, section.address, &symbols)?;
        }
        Ok(program)
    }

    /// Takes in the records of a section that stands at `address`.
    fn add_records(&mut self, section: &[u8], address: u64, symbols: &HashMap<&[u8], u64>) -> Result<(), String> {
        let mut offset = 0;
        for record in section.split(|byte| *byte == 0) {
            let at = address.wrapping_add(offset);
            offset += record.len() as u64 + 1;
            if record.is_empty() {
                continue;
            }
            let text = std::str::from_utf8(record).map_err(|_| "a record in .hostel is no text".to_owned())?;
            let mut words = text.splitn(3, ' ');
            let (kind, name) = (words.next(), words.next().unwrap_or_default());
            let signature = words.next().and_then(Signature::parse);
            let (Some(kind @ ("export" | "import")), Some(signature), 1..=NAME_MAX) = (kind, signature, name.len())
            else {
                return Err(format!("a record in .hostel is none: {text:?}"));
            };
            if self.exports.len() + self.imports.len() == RECORDS_MAX {
                return Err(format!("more than {RECORDS_MAX} records in .hostel"));
            }
            if kind == "import" {
                self.imports.push(Import { record: at, name: name.into(), signature });
                continue;
            }
            let address = *symbols.get(name.as_bytes()).ok_or_else(|| {
                format!("it exports {name}, and its symbol table has no such symbol: was it stripped?")
            })?;
            self.exports.insert(name.into(), Export { address, signature });
        }
        self.imports.sort_by_key(|import| import.record);
        Ok(())
    }
}

/// What is to be loaded.
fn parts(file: &[u8], room: GuestRange) -> Result<Vec<(Part, &[u8])>, String> {
    let (table, size, count) = (number(file, 32, 8), number(file, 54, 2), number(file, 56, 2) as usize);
    if size != 56 || count > PROGRAM_HEADERS_MAX {
        return Err(format!("{count} program headers of {size} bytes"));
    }
    let mut parts: Vec<(Part, &[u8])> = Vec::new();
    for header in bytes(file, table, count as u64 * size)?.chunks_exact(size as usize) {
        let (memory_size, start) = (number(header, 40, 8), number(header, 16, 8));
        if number(header, 0, 4) != SEGMENT_LOAD || memory_size == 0 {
            continue;
        }
        let content = bytes(file, number(header, 8, 8), number(header, 32, 8))?;
        let end = start.checked_add(memory_size).filter(|end| start >= room.start && *end <= room.end());
        let end = end.ok_or_else(|| {
            format!(
                "a segment of {memory_size:#x} bytes at {start:#x}: a sandbox of this size has {:#x} to {:#x}; \
                 link with guest/sandbox/sandbox.ld, or give it more memory",
                room.start,
                room.end()
            )
        })?;
        if content.len() as u64 > memory_size {
            return Err(format!("the segment at {start:#x} is larger in the file than in memory"));
        }
        if parts.iter().any(|(other, _)| start < other.range.end() && other.range.start < end) {
            return Err(format!("the segment at {start:#x} overlaps another"));
        }
        let flags = number(header, 4, 4);
        let (writable, executable) = (flags & FLAG_WRITABLE != 0, flags & FLAG_EXECUTABLE != 0);
        parts.push((Part { range: GuestRange { start, size: memory_size }, writable, executable }, content));
    }
    if parts.is_empty() { Err("nothing in it is to be loaded".into()) } else { Ok(parts) }
}

fn sections(file: &[u8]) -> Result<Vec<Section>, String> {
    let (table, size, count) = (number(file, 40, 8), number(file, 58, 2), number(file, 60, 2) as usize);
    if count == 0 {
        return Ok(Vec::new());
    }
    if size != 64 || count > SECTIONS_MAX {
        return Err(format!("{count} section headers of {size} bytes"));
    }
    let section = |header: &[u8]| Section {
        name: number(header, 0, 4) as usize,
        kind: number(header, 4, 4),
        address: number(header, 16, 8),
        offset: number(header, 24, 8),
        size: number(header, 32, 8),
        link: number(header, 40, 4) as usize,
    };
    Ok(bytes(file, table, count as u64 * size)?.chunks_exact(64).map(section).collect())
}

/// Addresses of the symbols that other files could use, by name.
fn symbols<'a>(file: &'a [u8], sections: &[Section]) -> HashMap<&'a [u8], u64> {
    let Some(table) = sections.iter().find(|section| section.kind == SECTION_SYMBOLS) else { return HashMap::new() };
    let Some(names) = sections.get(table.link) else { return HashMap::new() };
    let symbols = bytes(file, table.offset, table.size).unwrap_or_default().chunks_exact(24);
    // The binding is in the upper half of `st_info`; 0 is local.
    let global = symbols.filter(|symbol| symbol[4] >> 4 != 0 && number(symbol, 6, 2) != 0);
    global
        .filter_map(|symbol| Some((text(file, names, number(symbol, 0, 4) as usize)?, number(symbol, 8, 8))))
        .collect()
}

/// The text at `offset` of a string table.
fn text<'a>(file: &'a [u8], strings: &Section, offset: usize) -> Option<&'a [u8]> {
    let strings = bytes(file, strings.offset, strings.size).ok()?.get(offset..)?;
    // No longer name is looked for.
    let strings = &strings[..strings.len().min(NAME_MAX + 1)];
    Some(&strings[..strings.iter().position(|byte| *byte == 0)?])
}

fn bytes(file: &[u8], offset: u64, size: u64) -> Result<&[u8], String> {
    let range = || Some(usize::try_from(offset).ok()?..usize::try_from(offset.checked_add(size)?).ok()?);
    let found = range().and_then(|range| file.get(range));
    found.ok_or_else(|| format!("it has {size:#x} bytes at offset {offset:#x}, beyond its end"))
}

/// The little-endian number of `size` bytes at `offset`; bytes after the end count as zero.
fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
    bytes.iter().skip(offset).take(size).rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: GuestRange = GuestRange { start: 0x40_0000, size: 0x10_0000 };

    /// A program of one page with the section `.hostel`, which holds `records`, and the symbol `go` at 0x400010.
    fn program(records: &str) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64, 0);
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        let names = b"\0.hostel\0go\0";
        let (names_at, symbols_at) = (64 + 56, 64 + 56 + names.len());
        let records_at = symbols_at + 24;
        let sections_at = records_at + records.len();
        put(16, &[2, 0, 62, 0]);
        put(32, &64u64.to_le_bytes());
        put(40, &(sections_at as u64).to_le_bytes());
        put(54, &[56, 0, 1, 0, 64, 0, 4, 0, 1, 0]);
        for word in [1 | 5 << 32, 0, 0x40_0000, 0, 8, 0x1000, 0x1000u64] {
            file.extend(word.to_le_bytes());
        }
        file.extend(names);
        for word in [9 | 0x10 << 32 | 1 << 48, 0x40_0010, 0u64] {
            file.extend(word.to_le_bytes());
        }
        file.extend(records.as_bytes());
        for (name, kind, address, offset, size, link) in [
            (0, 0, 0, 0, 0, 0),
            (0, 3, 0, names_at, names.len(), 0),
            (0, 2, 0, symbols_at, 24, 1),
            (1, 1, 0x40_0100, records_at, records.len(), 0u64),
        ] {
            for word in [name | kind << 32, 0, address, offset as u64, size as u64, link, 0, 0] {
                file.extend(word.to_le_bytes());
            }
        }
        file
    }

    #[test]
    fn a_program_says_what_it_has_and_wants() {
        let file = program("export go u64(u64, bytes)\0\0import say void(text)\0");
        let program = Program::read(&file, ROOM).unwrap();
        assert_eq!(program.exports["go"].address, 0x40_0010);
        assert_eq!(program.exports["go"].signature.to_string(), "u64(u64, bytes)");
        let import = &program.imports[0];
        assert_eq!((import.record, import.name.as_str()), (0x40_0100 + 27, "say"));
        let (part, content) = program.parts[0];
        assert_eq!(
            (part.range, part.writable, part.executable),
            (GuestRange { start: 0x40_0000, size: 0x1000 }, false, true)
        );
        assert_eq!(content, &file[..8]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let refused = |file: &[u8]| Program::read(file, ROOM).unwrap_err();
        for (records, why) in [
            ("export gone u64()\0", "no such symbol"),
            ("export go f64()\0", "is none"),
            ("exports go u64()\0", "is none"),
            ("import  u64()\0", "is none"),
        ] {
            assert!(refused(&program(records)).contains(why), "{records}");
        }
        let mut file = program("");
        file[16] = 3;
        assert!(refused(&file).contains("-no-pie"));
        assert!(refused(b"#!/bin/sh\n").contains("not a 64-bit ELF program"));
        assert!(
            Program::read(&program(""), GuestRange { start: 0x40_0000, size: 0xfff }).unwrap_err().contains("0x400fff")
        );
    }

    #[test]
    fn hostile_files_are_refused_or_read_and_never_panic() {
        let good = program("export go u64(u64, bytes)\0import say void(text)\0");
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                if let Ok(program) = Program::read(&bad, ROOM) {
                    let inside = |part: &Part| part.range.start >= ROOM.start && part.range.end() <= ROOM.end();
                    assert!(
                        program
                            .parts
                            .iter()
                            .all(|(part, content)| { inside(part) && content.len() as u64 <= part.range.size })
                    );
                }
            }
            let _ = Program::read(&good[..at], ROOM);
        }
    }
}
