//! Puts an ELF image's segments into RAM, through `linux-loader`.
//!
//! The loader of `linux-loader` reads the headers again, knows only the 64-bit class, and trusts what it reads. So it is
//! given a header made here from the validated segments, and the file's bytes behind it. It leaves what has no bytes in the
//! file (`.bss`) alone: RAM is zero at this point. Source: ELF gABI "ELF Header", "Program Header".

use super::elf::ElfSegment;
use super::error::Problem;
use super::image::{Image, ImageReader};
use super::placement::Placement;
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::Elf;

/// Size of a 64-bit ELF header.
const HEADER_SIZE: usize = 64;
/// Size of a 64-bit program header.
const PROGRAM_HEADER_SIZE: usize = 56;

/// Bytes of the file and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    offset: u64,
    gpa: u64,
    size: u64,
}

/// Claims the room of `segments`, and copies their bytes from `image`.
///
/// # Errors
/// A segment is not RAM or overlaps what is there, or the file cannot be read.
pub fn copy(image: &Image, segments: &[ElfSegment], placement: &mut Placement) -> Result<(), Problem> {
    claim(segments, placement)?;
    let pieces: Vec<Piece> = segments
        .iter()
        .filter(|segment| segment.file_size > 0)
        .map(|segment| Piece { offset: segment.offset, gpa: segment.gpa, size: segment.file_size })
        .collect();
    copy_pieces(image, &pieces, placement)
}

fn claim(segments: &[ElfSegment], placement: &mut Placement) -> Result<(), Problem> {
    for (index, segment) in segments.iter().enumerate() {
        placement.claim(format!("ELF segment {index}"), segment.gpa, segment.memory_size)?;
    }
    Ok(())
}

fn copy_pieces(image: &Image, pieces: &[Piece], placement: &Placement) -> Result<(), Problem> {
    let head = header(pieces);
    let mut reader = ImageReader { head: &head, image, shift: head.len() as u64, position: 0 };
    match Elf::load(placement.ram().backend(), None, &mut reader, None) {
        Ok(_) => Ok(()),
        Err(source) => Err(Problem::Loader { what: "copy the ELF segments into RAM", source }),
    }
}

/// A 64-bit ELF header and program headers for `pieces` of a file that follows them.
fn header(pieces: &[Piece]) -> Vec<u8> {
    let size = HEADER_SIZE + pieces.len() * PROGRAM_HEADER_SIZE;
    let mut bytes = Vec::with_capacity(size);
    bytes.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0"); // 64-bit, little-endian, version 1
    for half in [2u16, 62] {
        bytes.extend(half.to_le_bytes()); // e_type: ET_EXEC; e_machine: EM_X86_64
    }
    bytes.extend(1u32.to_le_bytes()); // e_version
    for word in [0, HEADER_SIZE as u64, 0] {
        bytes.extend(word.to_le_bytes()); // e_entry, e_phoff, e_shoff
    }
    bytes.extend(0u32.to_le_bytes()); // e_flags
    let count = u16::try_from(pieces.len()).expect("capped by PROGRAM_HEADERS_MAX");
    for half in [HEADER_SIZE as u16, PROGRAM_HEADER_SIZE as u16, count, 0, 0, 0] {
        bytes.extend(half.to_le_bytes()); // e_ehsize, e_phentsize, e_phnum, sections: none
    }
    for piece in pieces {
        bytes.extend([1u32, 0].map(u32::to_le_bytes).as_flattened()); // p_type: PT_LOAD; p_flags
        for word in [piece.offset + size as u64, piece.gpa, piece.gpa, piece.size, piece.size, 0] {
            bytes.extend(word.to_le_bytes()); // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
        }
    }
    bytes
}
