//! ELF notes: the PVH entry point, and whether the image is a Linux kernel.
//!
//! Sources: ELF gABI "Note Section"; Xen elfnote.h (`XEN_ELFNOTE_PHYS32_ENTRY`); Linux elfnote-lto.h, build-salt.h (the
//! notes of owner "Linux" that every kernel since 4.19 carries).

use serde::{Deserialize, Serialize};

/// Type of the note of owner "Xen" that holds the 32-bit physical entry point.
const PHYS32_ENTRY: u32 = 18;

/// What the notes of an image say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// The PVH entry point.
    pub pvh_entry: Option<u64>,
    /// Whether a note is Linux' own.
    pub linux: bool,
}

impl Notes {
    /// Reads the notes of one segment; `align` is 4, or 8 where the segment says so. Ends at the first that runs over the
    /// segment's end.
    pub fn read(&mut self, mut bytes: &[u8], align: usize) {
        while let Some(note) = Note::first(bytes, align) {
            match (note.owner, note.kind) {
                (b"Xen\0", PHYS32_ENTRY) => self.pvh_entry = little_endian(note.content),
                (b"Linux\0", _) => self.linux = true,
                _ => {}
            }
            bytes = note.rest;
        }
    }
}

/// A note, and what follows it.
struct Note<'a> {
    owner: &'a [u8],
    kind: u32,
    content: &'a [u8],
    rest: &'a [u8],
}

impl Note<'_> {
    /// The first note in `bytes`; `None` where it is cut off.
    fn first(bytes: &[u8], align: usize) -> Option<Note<'_>> {
        let word = |index: usize| Some(u32::from_le_bytes(*bytes.get(index * 4..)?.first_chunk()?));
        let (owner_size, content_size, kind) = (word(0)? as usize, word(1)? as usize, word(2)?);
        let content_start = (12 + owner_size).next_multiple_of(align);
        let content_end = content_start + content_size;
        let rest = bytes.get(content_end.next_multiple_of(align)..).unwrap_or_default();
        let (owner, content) = (bytes.get(12..12 + owner_size)?, bytes.get(content_start..content_end)?);
        Some(Note { owner, kind, content, rest })
    }
}

/// An address of 4 or 8 bytes: Linux writes its entry point as wide as its own pointers.
fn little_endian(bytes: &[u8]) -> Option<u64> {
    match bytes.len() {
        4 => Some(u32::from_le_bytes(bytes.try_into().ok()?).into()),
        8 => Some(u64::from_le_bytes(bytes.try_into().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(owner: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [owner.len() as u32, content.len() as u32, kind] {
            bytes.extend(word.to_le_bytes());
        }
        for part in [owner, content] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Notes {
        let mut notes = Notes::default();
        notes.read(bytes, 4);
        notes
    }

    #[test]
    fn the_entry_point_is_found_behind_other_notes() {
        let mut bytes = note(b"GNU\0", 3, &[7; 20]);
        bytes.extend(note(b"Linux\0", 0x101, &[0; 4]));
        bytes.extend(note(b"Xen\0", PHYS32_ENTRY, &0x100_0000u64.to_le_bytes()));
        assert_eq!(read(&bytes), Notes { pvh_entry: Some(0x100_0000), linux: true });
        assert_eq!(read(&note(b"Xen\0", PHYS32_ENTRY, &[1, 2, 3, 4])).pvh_entry, Some(0x0403_0201));
    }

    #[test]
    fn sec62_notes_that_run_over_the_end_are_not_read() {
        let whole = note(b"Xen\0", PHYS32_ENTRY, &[1, 2, 3, 4]);
        for size in 0..whole.len() {
            assert_eq!(read(&whole[..size]), Notes::default());
        }
        let mut huge = whole.clone();
        huge[0..8].copy_from_slice(&[0xff; 8]);
        assert_eq!(read(&huge), Notes::default());
        assert_eq!(read(&note(b"Xen\0", PHYS32_ENTRY, &[1])).pvh_entry, None);
    }
}
