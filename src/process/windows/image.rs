//! The program as it lies in memory: sections in place, addresses corrected, imports found.
//!
//! The image is laid out in memory of Hostel's, where each bound is checked once, and copied into the program's memory whole.
//! Leaves out delayed and forwarded imports; of relocations there is only the one that x86-64 has.
//! Sources: PE Format "The .reloc Section", "The .idata Section", "The .tls Section".

use super::bytes::Bytes;
use super::pe::{Directory, Pe, PeError, malformed};

/// Most functions that a program may import. A large C++ program has some hundred.
pub const IMPORTS_MAX: usize = 4096;
/// Most libraries.
const LIBRARIES_MAX: u64 = 64;
/// Longest name of a function or library. Names of C++ functions are long.
const NAME_MAX: usize = 512;
/// Largest data that each thread has for itself.
const THREAD_STORAGE_MAX: u64 = 1 << 20;

/// Kinds of relocations: none, which pads a block, and 64 bits.
const RELOCATE_NONE: u16 = 0;
const RELOCATE_64: u16 = 10;
/// Set in an import that has a number instead of a name.
const BY_ORDINAL: u64 = 1 << 63;

/// What a program imports: a function or a variable of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The library, as the program writes it.
    pub library: String,
    /// Which one.
    pub symbol: Symbol,
    /// Where its address goes, from the base.
    pub slot: u64,
}

/// How an import is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Symbol {
    /// By name.
    Name(String),
    /// By its number in the library.
    Ordinal(u16),
}

/// Data that each thread has for itself: addresses in the laid-out image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadStorage {
    /// What a thread's data begins as.
    pub template: Vec<u8>,
    /// Zeros behind it.
    pub zeros: u64,
    /// Address of the variable that takes the program's index, 0.
    pub index: u64,
    /// Address of a list of functions to be called before the entry, ended by 0; 0: none.
    pub callbacks: u64,
}

/// A program laid out to lie at `base`.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its first address.
    pub base: u64,
    /// All of it.
    pub bytes: Vec<u8>,
}

impl Image {
    /// Lays `pe` out for `base`.
    ///
    /// # Errors
    /// It cannot lie there, or its relocations are broken.
    pub fn lay_out(pe: &Pe, base: u64) -> Result<Image, PeError> {
        let mut bytes = vec![0; pe.size as usize];
        let mut copy = |start: u64, offset: u64, size: u64| {
            let from = Bytes(pe.file).range(offset, size).expect("the headers were validated against the file's size");
            bytes[start as usize..][..size as usize].copy_from_slice(from);
        };
        copy(0, 0, pe.headers);
        pe.sections.iter().for_each(|part| copy(part.start, part.offset, part.file_size));
        let mut image = Image { base, bytes };
        if base != pe.base {
            let Some(table) = pe.directory(Directory::Relocations).filter(|_| pe.relocatable) else {
                return Err(PeError::NoPlace { linked: pe.base });
            };
            image.relocate(table, base.wrapping_sub(pe.base))?;
        }
        Ok(image)
    }

    /// Adds `delta` to each address that the table names: blocks of a page's address, the block's size, and 16-bit entries
    /// of a kind and an offset.
    fn relocate(&mut self, (start, size): (u64, u64), delta: u64) -> Result<(), PeError> {
        let Some(table) = Bytes(&self.bytes).range(start, size).map(<[u8]>::to_vec) else {
            return malformed("its relocations lie outside the image");
        };
        let mut at = 0;
        while let (Some(page), Some(block)) = (Bytes(&table).u32(at), Bytes(&table).u32(at + 4)) {
            // Each block takes the walk on by 8 bytes at least.
            let entries = Bytes(&table).range(at + 8, u64::from(block).wrapping_sub(8));
            let Some(entries) = entries.filter(|_| block >= 8) else {
                return malformed(format!("a block of relocations has {block:#x} bytes"));
            };
            for entry in entries.as_chunks().0.iter().map(|entry| u16::from_le_bytes(*entry)) {
                let address = u64::from(page) + u64::from(entry & 0xfff);
                match entry >> 12 {
                    RELOCATE_NONE => {}
                    RELOCATE_64 => {
                        let Some(linked) = Bytes(&self.bytes).u64(address) else {
                            return malformed(format!("a relocation at {address:#x}, outside the image"));
                        };
                        self.write(address, linked.wrapping_add(delta));
                    }
                    kind => return malformed(format!("relocations of kind {kind}, which x86-64 does not have")),
                }
            }
            at += u64::from(block);
        }
        Ok(())
    }

    /// Writes a number of eight bytes that lies in the image.
    fn write(&mut self, offset: u64, value: u64) {
        self.bytes[offset as usize..][..8].copy_from_slice(&value.to_le_bytes());
    }

    /// Puts the address of what was imported into its slot.
    pub fn bind(&mut self, import: &Import, address: u64) {
        self.write(import.slot, address);
    }

    /// What the program imports.
    ///
    /// # Errors
    /// The tables are broken, too long, or name functions that are bound at the first call.
    pub fn imports(&self, pe: &Pe) -> Result<Vec<Import>, PeError> {
        let mut imports = Vec::new();
        if pe.directory(Directory::DelayedImports).is_some() {
            return malformed("it has imports that are bound at the first call, which is not supported");
        }
        let Some((start, _)) = pe.directory(Directory::Imports) else { return Ok(imports) };
        let bytes = Bytes(&self.bytes);
        for index in 0..=LIBRARIES_MAX {
            let field = |offset| bytes.u32(start + index * 20 + offset).map(u64::from);
            let (Some(names), Some(library), Some(slots)) = (field(0), field(12), field(16)) else {
                return malformed("its import table leaves the image");
            };
            if library == 0 {
                return Ok(imports);
            }
            let Some(library) = bytes.name(library, NAME_MAX) else {
                return malformed("the name of an imported library is none");
            };
            // Old linkers write the names into the slots alone.
            self.library(library, if names == 0 { slots } else { names }, slots, &mut imports)?;
        }
        malformed(format!("it imports from more than {LIBRARIES_MAX} libraries"))
    }

    /// The imports from one library: names and slots are two lists of the same length.
    fn library(&self, library: &str, names: u64, slots: u64, imports: &mut Vec<Import>) -> Result<(), PeError> {
        let bytes = Bytes(&self.bytes);
        for at in (0..).step_by(8) {
            let (Some(name), Some(_)) = (bytes.u64(names + at), bytes.u64(slots + at)) else {
                return malformed(format!("the list of imports from {library} leaves the image"));
            };
            if name == 0 {
                return Ok(());
            }
            if imports.len() == IMPORTS_MAX {
                return malformed(format!("more than {IMPORTS_MAX} imports"));
            }
            let symbol = if name & BY_ORDINAL != 0 {
                Symbol::Ordinal(name as u16)
            } else {
                // Two bytes of a hint stand before the name.
                match name.checked_add(2).and_then(|name| bytes.name(name, NAME_MAX)) {
                    Some(name) => Symbol::Name(name.to_string()),
                    None => return malformed(format!("the name of a function imported from {library} is none")),
                }
            };
            imports.push(Import { library: library.to_string(), symbol, slot: slots + at });
        }
        Ok(())
    }

    /// What the program says of data that each thread has for itself; its addresses are corrected like all others.
    ///
    /// # Errors
    /// It lies outside the image, or is larger than any that is right.
    pub fn thread_storage(&self, pe: &Pe) -> Result<Option<ThreadStorage>, PeError> {
        let Some((at, _)) = pe.directory(Directory::ThreadStorage) else { return Ok(None) };
        let bytes = Bytes(&self.bytes);
        let field = |offset| bytes.u64(at + offset);
        let fields = || Some((field(0)?, field(8)?, field(16)?, field(24)?, bytes.u32(at + 32)?));
        let Some((start, end, index, callbacks, zeros)) = fields() else {
            return malformed("its thread storage leaves the image");
        };
        let zeros = u64::from(zeros);
        let fits = |size: &u64| size.checked_add(zeros).is_some_and(|total| total <= THREAD_STORAGE_MAX);
        let size = end.checked_sub(start).filter(fits);
        let template = size.and_then(|size| bytes.range(start.checked_sub(self.base)?, size));
        let index_inside = index.checked_sub(self.base).is_some_and(|index| bytes.u32(index).is_some());
        let callbacks_inside =
            callbacks == 0 || callbacks.checked_sub(self.base).is_some_and(|list| bytes.u64(list).is_some());
        match template {
            Some(template) if index_inside && callbacks_inside => {
                Ok(Some(ThreadStorage { template: template.to_vec(), zeros, index, callbacks }))
            }
            _ => malformed("its thread storage lies outside the image or is too large"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Program;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_image_elsewhere_is_corrected() {
        let file = Program::default().build();
        let pe = Pe::parse(&file).unwrap();
        let data = |base| Bytes(&Image::lay_out(&pe, base).unwrap().bytes).u64(Program::POINTER).unwrap();
        assert_eq!(data(pe.base), pe.base + 0x2000);
        assert_eq!(data(0x2_0000_0000), 0x2_0000_2000);
        let mut fixed = pe.clone();
        fixed.relocatable = false;
        assert!(matches!(Image::lay_out(&fixed, 0x2_0000_0000), Err(PeError::NoPlace { linked: 0x1_4000_0000 })));
    }

    #[test]
    fn imports_come_by_name_and_by_number() {
        let file = Program::default().build();
        let pe = Pe::parse(&file).unwrap();
        let mut image = Image::lay_out(&pe, pe.base).unwrap();
        let imports = image.imports(&pe).unwrap();
        let symbols = imports.iter().map(|import| (import.library.as_str(), import.symbol.clone(), import.slot));
        assert_eq!(
            symbols.collect::<Vec<_>>(),
            [
                ("KERNEL32.dll", Symbol::Name("ExitProcess".to_string()), Program::SLOTS),
                ("KERNEL32.dll", Symbol::Ordinal(7), Program::SLOTS + 8),
            ]
        );
        image.bind(&imports[1], 0x1234);
        assert_eq!(Bytes(&image.bytes).u64(Program::SLOTS + 8), Some(0x1234));
    }

    #[test]
    fn thread_storage_is_told() {
        let file = Program::default().build();
        let pe = Pe::parse(&file).unwrap();
        let storage = Image::lay_out(&pe, 0x2_0000_0000).unwrap().thread_storage(&pe).unwrap().unwrap();
        assert_eq!((storage.template.as_slice(), storage.zeros), (&b"template"[..], 8));
        assert_eq!((storage.index, storage.callbacks), (0x2_0000_2000, 0));
    }

    #[test]
    fn thread_storage_of_any_size_is_refused() {
        let mut file = Program::default().build();
        let at = 0x600 + 0x40;
        for (start, end) in [(0, u64::MAX), (u64::MAX, 0), (0, 1), (0x1_4000_3fff, 0x1_4000_4001)] {
            file[at..at + 16].copy_from_slice(&[start, end].map(u64::to_le_bytes).concat());
            let pe = Pe::parse(&file).unwrap();
            assert!(Image::lay_out(&pe, pe.base).unwrap().thread_storage(&pe).is_err(), "{start:#x} {end:#x}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_image_is_refused_or_loaded(changes in prop::collection::vec((0usize..0x800, any::<u8>()), 1..6)) {
            let mut file = Program::default().build();
            for (at, byte) in changes {
                file[at] = byte;
            }
            let Ok(pe) = Pe::parse(&file) else { return Ok(()) };
            for base in [pe.base, 0x3_0000_0000] {
                let Ok(mut image) = Image::lay_out(&pe, base) else { continue };
                let _ = image.thread_storage(&pe);
                for import in image.imports(&pe).unwrap_or_default() {
                    image.bind(&import, 1);
                }
            }
        }
    }
}
