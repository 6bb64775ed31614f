//! Portable Executable files: the headers, read once and validated.
//!
//! PE32+ programs for x86-64 with the console subsystem. Symbols, debug information, resources, signatures and checksums are
//! not looked at; the unwind tables are loaded as any section, and nothing unwinds by them.
//! Source: PE Format "COFF File Header", "Optional Header", "Section Table".

use super::bytes::Bytes;

/// Bytes of a page, and the least alignment of sections that is taken.
pub const PAGE: u64 = 4096;
/// Largest image in memory. Programs of many megabytes exist, such of a quarter of a gigabyte are none of ours.
pub const IMAGE_MAX: u64 = 256 << 20;
/// Largest file that is read: debug information is often several times the program.
pub const FILE_MAX: u64 = 256 << 20;
/// Most sections. The format's own limit for loaded images is 96.
const SECTIONS_MAX: usize = 96;
/// Directories that the format defines.
const DIRECTORIES: usize = 16;

const MACHINE_386: u16 = 0x14c;
const MACHINE_X86_64: u16 = 0x8664;
const MACHINE_ARM64: u16 = 0xaa64;
const MAGIC_PE32: u16 = 0x10b;
const MAGIC_PE32_PLUS: u16 = 0x20b;
const RELOCATIONS_STRIPPED: u16 = 0x0001;
const EXECUTABLE: u16 = 0x0002;
const IS_DLL: u16 = 0x2000;
const SUBSYSTEM_GRAPHICAL: u16 = 2;
const SUBSYSTEM_CONSOLE: u16 = 3;

/// Bytes of the COFF header, behind the signature.
const COFF_SIZE: u64 = 20;
/// Bytes of the optional header before its directories.
const OPTIONAL_SIZE: u64 = 112;
/// Bytes of a section's header.
const SECTION_SIZE: u64 = 40;

/// The directories that are read, by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directory {
    /// Functions of other libraries.
    Imports = 1,
    /// What to correct when the image does not lie where it was linked.
    Relocations = 5,
    /// Data that each thread has for itself.
    ThreadStorage = 9,
    /// Functions of other libraries, bound at the first call.
    DelayedImports = 13,
    /// The header of a program for .NET.
    CommonLanguageRuntime = 14,
}

/// Why a file is no program that can run here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PeError {
    #[error("not a Windows program: it does not begin with MZ")]
    NotPe,
    #[error("a program for DOS or 16-bit Windows (MZ without a PE header); of those, .COM programs run here")]
    Dos,
    #[error("a Windows program for {0}; only such for x86-64 run here")]
    OtherMachine(&'static str),
    #[error("a Windows {0}; only console programs run here")]
    OtherKind(&'static str),
    #[error("broken Windows program: {0}")]
    Malformed(String),
    #[error("it must lie at {linked:#x}, which Hostel needs itself, and it has no relocations to lie elsewhere")]
    NoPlace { linked: u64 },
}

/// What is wrong with a header.
pub(super) fn malformed<T>(what: impl Into<String>) -> Result<T, PeError> {
    Err(PeError::Malformed(what.into()))
}

/// What may be done with pages of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Read.
    pub read: bool,
    /// Written.
    pub write: bool,
    /// Executed.
    pub execute: bool,
}

impl Access {
    /// Data: read and written.
    pub const DATA: Access = Access { read: true, write: true, execute: false };
    /// Constants: read.
    pub const CONSTANT: Access = Access { read: true, write: false, execute: false };
    /// Code: read and executed.
    pub const CODE: Access = Access { read: true, write: false, execute: true };
}

/// A section: where its bytes are in the file, and where in memory, counted from the image's base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// First byte in memory, on a page boundary.
    pub start: u64,
    /// Bytes in memory, whole pages.
    pub size: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes in the file; at most `size`. The rest is zero.
    pub file_size: u64,
    /// What the program may do with it.
    pub access: Access,
}

/// A validated program.
#[derive(Clone, Debug)]
pub struct Pe<'a> {
    pub(super) file: &'a [u8],
    /// Where it was linked to lie.
    pub base: u64,
    /// Whether it may lie elsewhere.
    pub relocatable: bool,
    /// Bytes in memory, whole pages.
    pub size: u64,
    /// Bytes of the file that lie at the base.
    pub headers: u64,
    /// Where it begins, from the base.
    pub entry: u64,
    /// Bytes of stack it asks for.
    pub stack: u64,
    /// In the order of memory, apart from each other.
    pub sections: Vec<Section>,
    directories: [(u64, u64); DIRECTORIES],
}

/// Whether the first bytes of a file are those of a program of DOS or Windows.
pub fn is_mz(head: &[u8]) -> bool {
    head.starts_with(b"MZ")
}

impl<'a> Pe<'a> {
    /// Reads the headers of `file`.
    ///
    /// # Errors
    /// It is another kind of program, or contradicts itself or its size.
    pub fn parse(file: &'a [u8]) -> Result<Pe<'a>, PeError> {
        let bytes = Bytes(file);
        if !is_mz(file) {
            return Err(PeError::NotPe);
        }
        let header = bytes.u32(0x3c).map(u64::from).ok_or(PeError::Dos)?;
        if bytes.range(header, 4) != Some(b"PE\0\0") {
            return Err(PeError::Dos);
        }
        let coff = header + 4;
        let optional = coff + COFF_SIZE;
        let word = |offset| bytes.u16(offset).map_or_else(|| malformed("its headers lie beyond its end"), Ok);
        match word(coff)? {
            MACHINE_X86_64 => {}
            MACHINE_386 => return Err(PeError::OtherMachine("32-bit x86")),
            MACHINE_ARM64 => return Err(PeError::OtherMachine("ARM64")),
            _ => return Err(PeError::OtherMachine("another processor")),
        }
        let kind = word(coff + 18)?;
        match word(optional)? {
            MAGIC_PE32_PLUS => {}
            MAGIC_PE32 => return malformed("a 64-bit processor with a 32-bit optional header"),
            magic => return malformed(format!("its optional header has the unknown mark {magic:#x}")),
        }
        match word(optional + 68)? {
            _ if kind & IS_DLL != 0 => return Err(PeError::OtherKind("library")),
            _ if kind & EXECUTABLE == 0 => return Err(PeError::OtherKind("object file")),
            SUBSYSTEM_CONSOLE => {}
            SUBSYSTEM_GRAPHICAL => return Err(PeError::OtherKind("program with windows of its own")),
            _ => return Err(PeError::OtherKind("driver, EFI program or the like")),
        }
        let optional_size = u64::from(word(coff + 16)?);
        let mut pe = Pe::optional(file, optional, optional_size)?;
        pe.relocatable = kind & RELOCATIONS_STRIPPED == 0 && pe.directory(Directory::Relocations).is_some();
        pe.read_sections(optional + optional_size, word(coff + 2)?.into())?;
        if pe.directory(Directory::CommonLanguageRuntime).is_some() {
            return Err(PeError::OtherKind("program for .NET"));
        }
        if !pe
            .sections
            .iter()
            .any(|part| part.access.execute && (part.start..part.start + part.size).contains(&pe.entry))
        {
            return malformed(format!("its entry {:#x} lies in no section that may be executed", pe.entry));
        }
        Ok(pe)
    }

    /// What the optional header says, of which `size` bytes stand at `at`.
    fn optional(file: &'a [u8], at: u64, size: u64) -> Result<Pe<'a>, PeError> {
        let bytes = Bytes(file);
        let (u32_at, u64_at) = (|offset| bytes.u32(at + offset).map(u64::from), |offset| bytes.u64(at + offset));
        let fields =
            || Some((u64_at(24)?, u32_at(32)?, u32_at(56)?, u32_at(60)?, u32_at(16)?, u64_at(72)?, u32_at(108)?));
        let Some((base, align, image, headers, entry, stack, count)) = fields().filter(|_| size >= OPTIONAL_SIZE)
        else {
            return malformed("its optional header is cut off");
        };
        if base % 0x1_0000 != 0 || base.checked_add(IMAGE_MAX).is_none_or(|end| end > 1 << 47) {
            return malformed(format!("it is linked to lie at {base:#x}, which no program can"));
        }
        if !align.is_power_of_two() || align < PAGE {
            return malformed(format!("its sections are aligned to {align:#x} bytes, less than a page"));
        }
        if image == 0 || image > IMAGE_MAX || headers == 0 || headers > image {
            return malformed(format!("it has {image:#x} bytes, {headers:#x} of them headers"));
        }
        let mut directories = [(0, 0); DIRECTORIES];
        for (index, entry) in directories.iter_mut().enumerate().take(count.min(16) as usize) {
            let offset = OPTIONAL_SIZE + index as u64 * 8;
            let (Some(start), Some(length), true) = (u32_at(offset), u32_at(offset + 4), offset + 8 <= size) else {
                return malformed("its directories are cut off");
            };
            *entry = (start, length);
        }
        let size = image.next_multiple_of(PAGE);
        let headers = headers.min(file.len() as u64);
        Ok(Pe { file, base, relocatable: false, size, headers, entry, stack, sections: Vec::new(), directories })
    }

    /// Reads the section table at `at`.
    fn read_sections(&mut self, at: u64, count: usize) -> Result<(), PeError> {
        if count > SECTIONS_MAX {
            return malformed(format!("{count} sections, more than {SECTIONS_MAX}"));
        }
        let mut end = self.headers.next_multiple_of(PAGE);
        for index in 0..count as u64 {
            let header = Bytes(Bytes(self.file).range(at + index * SECTION_SIZE, SECTION_SIZE).unwrap_or_default());
            let field = |offset| header.u32(offset).map(u64::from);
            let fields = || Some((field(8)?, field(12)?, field(16)?, field(20)?, field(36)?));
            let Some((memory, start, file_size, offset, flags)) = fields() else {
                return malformed("its section table is cut off");
            };
            let size = if memory == 0 { file_size } else { memory }.next_multiple_of(PAGE);
            if size == 0 {
                continue;
            }
            if start % PAGE != 0 || start < end || start + size > self.size {
                return malformed(format!("section {index} at {start:#x} overlaps another or leaves the image"));
            }
            // A file may be padded to its own alignment beyond what memory holds.
            let file_size = file_size.min(size);
            if Bytes(self.file).range(offset, file_size).is_none() {
                return malformed(format!(
                    "section {index} has {file_size:#x} bytes at {offset:#x}, beyond the file's end"
                ));
            }
            let access = Access { execute: flags >> 29 & 1 == 1, read: flags >> 30 & 1 == 1, write: flags >> 31 == 1 };
            self.sections.push(Section { start, size, offset, file_size, access });
            end = start + size;
        }
        Ok(())
    }

    /// Where a directory lies, from the base, and its bytes; `None` where the program has none.
    pub fn directory(&self, directory: Directory) -> Option<(u64, u64)> {
        Some(self.directories[directory as usize]).filter(|(start, size)| *start != 0 && *size != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Program;
    use super::*;
    use proptest::prelude::*;

    fn refusal(file: &[u8]) -> String {
        Pe::parse(file).err().map_or(String::new(), |error| error.to_string())
    }

    #[test]
    fn the_headers_say_where_all_lies() {
        let file = Program::default().build();
        let pe = Pe::parse(&file).unwrap();
        assert_eq!((pe.base, pe.size, pe.entry, pe.relocatable), (0x1_4000_0000, 0x4000, 0x1000, true));
        let access = |section: &Section| (section.start, section.access.write, section.access.execute);
        assert_eq!(pe.sections.iter().map(access).collect::<Vec<_>>(), [(0x1000, false, true), (0x2000, true, false)]);
    }

    #[test]
    fn other_programs_are_named() {
        let changed = |at: usize, bytes: &[u8]| {
            let mut file = Program::default().build();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            refusal(&file)
        };
        let header = Program::HEADER;
        for (at, bytes, want) in [
            (0, &b"ZM"[..], "not a Windows program"),
            (header, b"NE", "without a PE header"),
            (header + 4, &[0x4c, 1], "for 32-bit x86"),
            (header + 4, &[0x64, 0xaa], "for ARM64"),
            (header + 22, &[0x22, 0x20], "a Windows library"),
            (header + 24 + 68, &[2, 0], "windows of its own"),
            (header + 24 + 68, &[10, 0], "EFI"),
            (header + 24, &[0x0b, 1], "32-bit optional header"),
            (header + 24 + 16, &[0, 0x20, 0, 0], "entry 0x2000 lies in no section"),
            (header + 24 + 24, &[1], "no program can"),
            (header + 24 + 32, &[0, 2, 0, 0], "aligned to 0x200 bytes"),
            (header + 24 + 56, &[0xff; 4], "it has 0xffffffff bytes"),
            (header + 24 + 112 + 8 * 14, &[1, 0, 0, 0, 1], ".NET"),
        ] {
            let error = changed(at, bytes);
            assert!(error.contains(want), "{error} / {want}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_refused_or_whole(changes in prop::collection::vec((0usize..0x400, any::<u8>()), 1..8), cut in 0usize..0x1000) {
            let mut file = Program::default().build();
            for (at, byte) in changes {
                file[at] = byte;
            }
            file.truncate(file.len().saturating_sub(cut / 4));
            if let Ok(pe) = Pe::parse(&file) {
                let mut end = pe.headers;
                for part in &pe.sections {
                    prop_assert!(part.start >= end && part.file_size <= part.size);
                    prop_assert!(part.offset + part.file_size <= file.len() as u64);
                    end = part.start + part.size;
                }
                prop_assert!(end <= pe.size && pe.size <= IMAGE_MAX && pe.headers <= file.len() as u64);
            }
        }
    }
}
