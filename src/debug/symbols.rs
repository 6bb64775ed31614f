//! Names for code addresses, from an ELF file's symbol table or from a kernel's `System.map`.
//!
//! Only code is named, Rust's functions by their paths. Everything read is validated and capped, because the file may be the guest's own image. Leaves out
//! debug information and relocated kernels (KASLR).
//! Sources: ELF gABI "Sections", "Symbol Table"; nm(1) for `System.map`.

use crate::boot::elf::is_elf;
use crate::boot::error::{BootError, Problem};
use crate::boot::image::Image;

/// Most bytes of a symbol table, its strings, or a `System.map`. A distribution kernel has 5 MiB of them; one with every
/// driver built in, 20.
const TABLE_BYTES_MAX: u64 = 128 << 20;

/// Most section headers that are read; the gABI's 16-bit count with its reserved top.
const SECTIONS_MAX: u64 = 0xff00;

/// Farthest from its symbol that an address still belongs to it. Linux's largest function is under 64 KiB.
const SPAN_MAX: u64 = 1 << 20;

/// Longest name shown, and longest one that is read as a mangled name.
const NAME_MAX: usize = 120;
const MANGLED_MAX: usize = 1024;

/// Code addresses and their names.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// Ascending by address: address, and where its name begins in `names`; code ends where a name is empty.
    entries: Vec<(u64, u32)>,
    /// Names, each ended by a zero byte.
    names: Vec<u8>,
}

impl Symbols {
    /// The symbols of `image`: an ELF file with a symbol table, or a `System.map`.
    ///
    /// # Errors
    /// It is neither, has no code symbols, or cannot be read.
    pub fn read(image: &Image) -> Result<Symbols, BootError> {
        let malformed = |what: &str| Problem::Malformed { format: "symbol file", what: what.to_owned() };
        let read = || {
            let symbols = if is_elf(&image.read(0, 4)?) {
                Elf::open(image)?.and_then(|elf| elf.symbols().transpose()).transpose()?
            } else {
                Some(system_map(&image.read(0, TABLE_BYTES_MAX)?))
            };
            symbols.filter(|symbols| !symbols.entries.is_empty()).ok_or_else(|| malformed("no symbols of code in it"))
        };
        read().map_err(|problem| problem.of(image.name()))
    }

    /// The symbols that an image brings along: those of an ELF file. None where it is another kind of image, or has none.
    pub fn of_image(image: &Image) -> Symbols {
        let is_elf = image.read(0, 4).is_ok_and(|magic| is_elf(&magic));
        if is_elf { Symbols::read(image).unwrap_or_default() } else { Symbols::default() }
    }

    /// The symbol at or before `address`, and how far before.
    pub fn find(&self, address: u64) -> Option<(String, u64)> {
        let at = self.entries.partition_point(|entry| entry.0 <= address).checked_sub(1)?;
        let (start, name) = self.entries[at];
        let offset = address - start;
        let name = self.names.get(name as usize..)?.split(|&byte| byte == 0).next()?;
        let name = String::from_utf8_lossy(&name[..name.len().min(MANGLED_MAX)]);
        if name.is_empty() {
            return None;
        }
        // Without the hash that a Rust name ends with.
        let name = format!("{:#}", rustc_demangle::demangle(&name));
        (offset < SPAN_MAX).then(|| (name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect(), offset))
    }

    /// `address` as `name+0x12`, if it is known.
    pub fn describe(&self, address: u64) -> Option<String> {
        self.find(address).map(|(name, offset)| if offset == 0 { name } else { format!("{name}+{offset:#x}") })
    }

    fn sorted(mut entries: Vec<(u64, u32)>, names: Vec<u8>) -> Symbols {
        // Stable: of several names of one address, the file's last one is found.
        entries.sort_by_key(|entry| entry.0);
        Symbols { entries, names }
    }
}

/// `ffffffff81000000 T _text`, a line a symbol; code is of the types T and W, local ones in lower case (nm(1)).
fn system_map(text: &[u8]) -> Symbols {
    let (mut entries, mut names) = (Vec::new(), Vec::new());
    for line in text.split(|&byte| byte == b'\n') {
        let mut words = line.splitn(3, |&byte| byte == b' ');
        let (Some(address), Some(b"t" | b"T" | b"w" | b"W"), Some(name)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let address = std::str::from_utf8(address).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        if let Some(address) = address {
            entries.push((address, u32::try_from(names.len()).expect("at most TABLE_BYTES_MAX")));
            names.extend(name);
            names.push(0);
        }
    }
    Symbols::sorted(entries, names)
}

/// An ELF file's sections.
struct Elf<'a> {
    image: &'a Image<'a>,
    class_64: bool,
    sections: Vec<Section>,
}

#[derive(Clone, Copy)]
struct Section {
    kind: u64,
    flags: u64,
    address: u64,
    offset: u64,
    size: u64,
    link: u64,
}

const SECTION_SYMBOLS: u64 = 2;
const FLAG_EXECUTABLE: u64 = 4;

impl<'a> Elf<'a> {
    /// `None` if it has no section headers that make sense.
    fn open(image: &'a Image<'a>) -> Result<Option<Elf<'a>>, Problem> {
        const CLASS_64: u8 = 2;
        let head = image.read(0, 64)?;
        let class_64 = head.get(4) == Some(&CLASS_64);
        let (table, entry_size, count, expected_size) = if class_64 {
            (number(&head, 40, 8), number(&head, 58, 2), number(&head, 60, 2), 64)
        } else {
            (number(&head, 32, 4), number(&head, 46, 2), number(&head, 48, 2), 40)
        };
        if entry_size != expected_size || count > SECTIONS_MAX {
            return Ok(None);
        }
        let headers = image.read(table, count * entry_size)?;
        let section = |header: &[u8]| {
            let word = |at_32, at_64| if class_64 { number(header, at_64, 8) } else { number(header, at_32, 4) };
            Section {
                kind: number(header, 4, 4),
                flags: word(8, 8),
                address: word(12, 16),
                offset: word(16, 24),
                size: word(20, 32),
                link: number(header, if class_64 { 40 } else { 24 }, 4),
            }
        };
        let sections = headers.chunks_exact(expected_size as usize).map(section).collect();
        Ok(Some(Elf { image, class_64, sections }))
    }

    /// The code symbols; `None` without a symbol table.
    fn symbols(&self) -> Result<Option<Symbols>, Problem> {
        let Some(table) = self.sections.iter().find(|section| section.kind == SECTION_SYMBOLS) else { return Ok(None) };
        let Some(strings) = self.sections.get(table.link as usize) else { return Ok(None) };
        let names = self.image.read(strings.offset, strings.size.min(TABLE_BYTES_MAX))?;
        let table = self.image.read(table.offset, table.size.min(TABLE_BYTES_MAX))?;
        let is_code = |section: u64| {
            self.sections.get(section as usize).is_some_and(|section| section.flags & FLAG_EXECUTABLE != 0)
        };
        let entry = |symbol: &[u8]| {
            let (address, section) = if self.class_64 {
                (number(symbol, 8, 8), number(symbol, 6, 2))
            } else {
                (number(symbol, 4, 4), number(symbol, 14, 2))
            };
            let name = number(symbol, 0, 4) as u32;
            let named = names.get(name as usize).is_some_and(|&first| first != 0);
            (named && is_code(section)).then_some((address, name))
        };
        // Offset 0 of a string table is the empty name. Before the symbols: one that begins where a section ends stays known.
        let code = self.sections.iter().filter(|section| section.flags & FLAG_EXECUTABLE != 0);
        let ends = code.map(|section| (section.address.saturating_add(section.size), 0));
        let symbols = table.chunks_exact(if self.class_64 { 24 } else { 16 }).filter_map(entry);
        let (entries, ends): (Vec<_>, Vec<_>) = (symbols.collect(), ends.collect());
        if entries.is_empty() {
            return Ok(None);
        }
        Ok(Some(Symbols::sorted([ends, entries].concat(), names)))
    }
}

/// The little-endian number of `size` bytes at `offset`; bytes after the end count as zero.
fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
    bytes.iter().skip(offset).take(size).rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000080 t early_\u{1b}[2Jhelper
ffffffff82000000 D some_data
ffffffff81000040 W weak_one
nonsense
ffffffff810000zz T bad
";

    #[test]
    fn a_system_map_names_code() {
        let symbols = Symbols::read(&Image::from_bytes("System.map", MAP.as_bytes())).unwrap();
        assert_eq!(symbols.describe(0xffff_ffff_8100_0000).unwrap(), "_text");
        assert_eq!(symbols.describe(0xffff_ffff_8100_007f).unwrap(), "weak_one+0x3f");
        assert_eq!(symbols.describe(0xffff_ffff_8100_0081).unwrap(), "early_[2Jhelper+0x1", "nothing a terminal obeys");
        assert_eq!(symbols.describe(0xffff_ffff_8200_0000), None, "too far from code");
        assert_eq!(symbols.describe(0x1000), None);
        assert_eq!(Symbols::default().describe(0), None);
    }

    #[test]
    fn an_image_that_is_no_elf_file_brings_no_symbols_along() {
        let text = Symbols::of_image(&Image::from_bytes("a bzImage", MAP.as_bytes()));
        assert_eq!(text.describe(0xffff_ffff_8100_0000), None, "whatever its bytes look like");
    }

    #[test]
    fn functions_of_rust_have_their_paths() {
        let map = b"0000000000001000 t _ZN5guest6serial5write17h0123456789abcdefE\n";
        let symbols = Symbols::read(&Image::from_bytes("System.map", map)).unwrap();
        assert_eq!(symbols.describe(0x1044).unwrap(), "guest::serial::write+0x44");
        let hostile = format!("0000000000001000 T _ZN{}E\n", "1a".repeat(100_000));
        let symbols = Symbols::read(&Image::from_bytes("System.map", hostile.as_bytes())).unwrap();
        assert!(symbols.describe(0x1000).unwrap().len() <= NAME_MAX);
    }

    #[test]
    fn an_elf_file_names_code_in_both_classes() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let symbols = Symbols::read(&Image::from_bytes("this test", &own)).unwrap();
        let main = symbols.entries.iter().filter_map(|entry| symbols.find(entry.0)).find(|symbol| symbol.0 == "main");
        assert_eq!(main.unwrap().1, 0);
        let symbols = Symbols::read(&Image::from_bytes("small", &small_elf_32())).unwrap();
        assert_eq!(symbols.describe(0x10_0004).unwrap(), "go+0x4");
        assert_eq!(symbols.describe(0x10_0010), None, "behind the code");
        assert_eq!(symbols.describe(0x20_0000), None, "data has no name here");
    }

    /// 32-bit: null section, `.text`, the symbol table, its strings; two symbols, in `.text` and in none.
    fn small_elf_32() -> Vec<u8> {
        let mut file = b"\x7fELF\x01\x01\x01".to_vec();
        file.resize(52, 0);
        file[32] = 52;
        file[46] = 40;
        file[48] = 4;
        let mut section = |kind: u32, flags: u32, offset: u32, size: u32, link: u32| {
            let address = if flags == 4 { 0x10_0000 } else { 0 };
            for word in [0, kind, flags, address, offset, size, link, 0, 0, 0] {
                file.extend(word.to_le_bytes());
            }
        };
        section(0, 0, 0, 0, 0);
        section(1, 4, 0, 16, 0);
        section(2, 0, 52 + 160, 32, 3);
        section(3, 0, 52 + 160 + 32, 9, 0);
        for (name, value, section) in [(1u32, 0x10_0000u32, 1u16), (4, 0x20_0000, 0)] {
            file.extend(name.to_le_bytes());
            file.extend(value.to_le_bytes());
            file.extend([0; 6]);
            file.extend(section.to_le_bytes());
        }
        file.extend(b"\0go\0data\0");
        file
    }

    #[test]
    fn hostile_files_are_refused_or_cut_and_never_panic() {
        let refused = |bytes: &[u8]| Symbols::read(&Image::from_bytes("bad", bytes)).unwrap_err().to_string();
        assert!(refused(b"").contains("bad: broken symbol file"));
        assert!(refused(b"\x7fELF").contains("no symbols"));
        let good = small_elf_32();
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                if let Ok(symbols) = Symbols::read(&Image::from_bytes("bad", &bad)) {
                    symbols.describe(0x10_0004);
                    symbols.describe(u64::MAX);
                }
            }
            let _ = Symbols::read(&Image::from_bytes("cut", &good[..at]));
        }
    }
}
