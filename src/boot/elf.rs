//! ELF files as kernels: the headers, read once and validated.
//!
//! Both classes, x86 only, program headers only: sections, symbols and relocations are not looked at.
//! Sources: ELF gABI "ELF Header", "Program Header"; x86-64 psABI; Xen pvh.pandoc.

use super::elf_note::Notes;
use super::error::Problem;
use super::image::Image;
use serde::{Deserialize, Serialize};

const MAGIC: &[u8] = b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXECUTABLE: u64 = 2;
const TYPE_SHARED: u64 = 3;
const MACHINE_386: u64 = 3;
const MACHINE_X86_64: u64 = 62;
const SEGMENT_LOAD: u64 = 1;
const SEGMENT_INTERPRETER: u64 = 3;
const SEGMENT_NOTE: u64 = 4;

/// Most program headers that are read. Linux has 5, Xen 2; a linker makes one a kind of section.
const PROGRAM_HEADERS_MAX: u64 = 128;
/// Most bytes that are read of one note segment. Linux' are under 1 KiB.
const NOTES_MAX: u64 = 64 << 10;

/// A validated ELF file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElfImage {
    /// Whether it is of the 64-bit class.
    pub class_64: bool,
    /// Whether it was linked for one address: neither dynamic nor position-independent.
    pub fixed: bool,
    /// What the notes say.
    pub notes: Notes,
    /// What is to be loaded, in the file's order.
    pub segments: Vec<ElfSegment>,
    entry: u64,
}

/// A `PT_LOAD` program header with bytes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElfSegment {
    /// Where its bytes stand in the file.
    pub offset: u64,
    /// How many; at most `memory_size`. The rest is zero.
    pub file_size: u64,
    /// Guest-physical address.
    pub gpa: u64,
    /// Linear address.
    pub gva: u64,
    /// Bytes in memory; not 0.
    pub memory_size: u64,
}

/// Whether the image begins as an ELF file.
pub fn is_elf(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// A header's fields, by their offsets in the two classes.
struct Fields<'a> {
    bytes: &'a [u8],
    class_64: bool,
}

impl Fields<'_> {
    /// The little-endian number of `size` bytes at `offset`; bytes after the end count as zero.
    fn number(&self, offset: usize, size: usize) -> u64 {
        let bytes = self.bytes.iter().skip(offset).take(size).rev();
        bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// A field that is as wide as an address: at `offset_32` in the 32-bit class, at `offset_64` in the other.
    fn address(&self, offset_32: usize, offset_64: usize) -> u64 {
        if self.class_64 { self.number(offset_64, 8) } else { self.number(offset_32, 4) }
    }

    /// A field of `size` bytes.
    fn field(&self, offset_32: usize, offset_64: usize, size: usize) -> u64 {
        self.number(if self.class_64 { offset_64 } else { offset_32 }, size)
    }
}

impl ElfImage {
    /// Reads the headers of `image`, whose first bytes are `head`, and the notes. `Ok(None)`: an ELF file, but not for this
    /// machine or not linked; [`describe`] names it.
    ///
    /// # Errors
    /// The headers contradict themselves or the file's size.
    pub fn parse(image: &Image, head: &[u8]) -> Result<Option<ElfImage>, String> {
        let header = Fields { bytes: head, class_64: head.get(4) == Some(&CLASS_64) };
        let kind = header.number(16, 2);
        let machine = [MACHINE_386, MACHINE_X86_64].contains(&header.number(18, 2));
        if head.get(5) != Some(&LITTLE_ENDIAN) || !machine || !matches!(kind, TYPE_EXECUTABLE | TYPE_SHARED) {
            return Ok(None);
        }
        let mut elf = ElfImage {
            class_64: header.class_64,
            fixed: kind == TYPE_EXECUTABLE,
            notes: Notes::default(),
            segments: Vec::new(),
            entry: header.address(24, 24),
        };
        let header_size = if header.class_64 { 56 } else { 32 };
        for bytes in program_headers(image, &header, header_size)?.chunks_exact(header_size as usize) {
            elf.add(image, &Fields { bytes, class_64: header.class_64 })?;
        }
        Ok(Some(elf))
    }

    /// Takes in what one program header says.
    fn add(&mut self, image: &Image, header: &Fields) -> Result<(), String> {
        let segment = ElfSegment {
            offset: header.address(4, 8),
            file_size: header.address(16, 32),
            gpa: header.address(12, 24),
            gva: header.address(8, 16),
            memory_size: header.address(20, 40),
        };
        let kind = header.number(0, 4);
        if matches!(kind, SEGMENT_LOAD | SEGMENT_NOTE)
            && segment.offset.checked_add(segment.file_size).is_none_or(|end| end > image.size())
        {
            let ElfSegment { offset, file_size, .. } = segment;
            return Err(format!("a segment has {file_size:#x} bytes at offset {offset:#x}, beyond the file's end"));
        }
        match kind {
            SEGMENT_LOAD if segment.file_size > segment.memory_size => {
                return Err(format!("the segment at {:#x} is larger in the file than in memory", segment.gpa));
            }
            SEGMENT_LOAD if segment.memory_size > 0 => self.segments.push(segment),
            SEGMENT_INTERPRETER => self.fixed = false,
            SEGMENT_NOTE => {
                let notes = image.read(segment.offset, segment.file_size.min(NOTES_MAX));
                let align = if header.address(28, 48) == 8 { 8 } else { 4 };
                self.notes.read(&notes.map_err(|error| error.to_string())?, align);
            }
            _ => {}
        }
        Ok(())
    }

    /// Makes the zeros at each segment's end such as need not be loaded, and cuts `file`, the ELF file itself, off behind what
    /// still must. A kernel's `.bss` is often in the file: a fourth of Debian's.
    pub fn drop_zeros(&mut self, file: &mut Vec<u8>) {
        let mut end = 0;
        for segment in &mut self.segments {
            let start = segment.offset as usize;
            let bytes = &file[start..start + segment.file_size as usize];
            let size = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            segment.file_size = size as u64;
            end = end.max(start + size);
        }
        file.truncate(end);
    }

    /// Whether every segment lies in a file of `size` bytes.
    pub fn is_within(&self, size: u64) -> bool {
        let within = |segment: &ElfSegment| {
            segment.file_size <= segment.memory_size
                && segment.offset.checked_add(segment.file_size).is_some_and(|end| end <= size)
        };
        self.segments.iter().all(within)
    }

    /// Guest-physical address of the ELF header's entry point. Kernels give it as a physical address, or as a linear
    /// address, which is translated as GRUB does.
    ///
    /// # Errors
    /// It lies in no segment.
    pub fn entry(&self) -> Result<u64, Problem> {
        let within = |start: u64, segment: &ElfSegment| {
            self.entry.checked_sub(start).filter(|offset| *offset < segment.memory_size)
        };
        let physical = self.segments.iter().find_map(|segment| Some(segment.gpa + within(segment.gpa, segment)?));
        let translated =
            || self.segments.iter().find_map(|segment| segment.gpa.checked_add(within(segment.gva, segment)?));
        physical.or_else(translated).ok_or(Problem::EntryOutside { entry: self.entry })
    }

    /// The entry point that the PVH note gives.
    ///
    /// # Errors
    /// It lies in no segment.
    pub fn pvh_entry(&self) -> Result<u64, Problem> {
        let entry = self.notes.pvh_entry.unwrap_or(0);
        let inside = |segment: &ElfSegment| entry >= segment.gpa && entry - segment.gpa < segment.memory_size;
        if self.segments.iter().any(inside) { Ok(entry) } else { Err(Problem::EntryOutside { entry }) }
    }
}

/// The table of program headers.
fn program_headers(image: &Image, header: &Fields, header_size: u64) -> Result<Vec<u8>, String> {
    let offset = header.address(28, 32);
    let count = header.field(44, 56, 2);
    if header.field(42, 54, 2) != header_size && count > 0 {
        return Err(format!("its program headers do not have {header_size} bytes"));
    }
    if count > PROGRAM_HEADERS_MAX {
        return Err(format!("{count} program headers, more than {PROGRAM_HEADERS_MAX}"));
    }
    let table = image.read(offset, count * header_size).map_err(|error| error.to_string())?;
    if (table.len() as u64) < count * header_size {
        return Err("the program headers lie beyond the file's end".to_string());
    }
    Ok(table)
}

/// What an ELF file is that boots by no protocol.
pub fn describe(head: &[u8]) -> String {
    let header = Fields { bytes: head, class_64: head.get(4) == Some(&CLASS_64) };
    let bits = if header.class_64 { 64 } else { 32 };
    let machine = match header.number(18, 2) {
        _ if head.get(5) != Some(&LITTLE_ENDIAN) => "a big-endian machine".to_string(),
        MACHINE_386 | MACHINE_X86_64 => "x86".to_string(),
        40 => "arm".to_string(),
        183 => "aarch64".to_string(),
        243 => "RISC-V".to_string(),
        other => format!("machine number {other}"),
    };
    let kind = match header.number(16, 2) {
        1 => "object file",
        TYPE_EXECUTABLE => "executable without PVH note or Multiboot header",
        TYPE_SHARED => "shared object",
        4 => "core dump",
        _ => "file",
    };
    format!("a {bits}-bit ELF {kind} for {machine}")
}
