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
use std::fs::File;

/// Size of a 64-bit ELF header.
const HEADER_SIZE: usize = 64;
/// Size of a 64-bit program header.
const PROGRAM_HEADER_SIZE: usize = 56;

/// Claims the room of `segments`, and copies their bytes from `image`.
///
/// # Errors
/// A segment is not RAM or overlaps what is there, or the file cannot be read.
pub fn copy(image: &Image, segments: &[ElfSegment], placement: &mut Placement) -> Result<(), Problem> {
    claim(segments, placement)?;
    let head = header(segments);
    let mut reader = ImageReader { head: &head, image, shift: head.len() as u64, position: 0 };
    match Elf::load(placement.ram().backend(), None, &mut reader, None) {
        Ok(_) => Ok(()),
        Err(source) => Err(Problem::Loader { what: "copy the ELF segments into RAM", source }),
    }
}

/// Claims the room of `segments`, and maps `size` bytes of `file` from `base` on: RAM as the segments leave it, in a file that nobody
/// changes.
///
/// # Errors
/// A segment is not RAM or overlaps what is there, or the host refuses the mapping.
pub fn map(
    file: &File,
    base: u64,
    size: u64,
    segments: &[ElfSegment],
    placement: &mut Placement,
) -> Result<(), Problem> {
    claim(segments, placement)?;
    Ok(placement.ram().map_file(base, file, size)?)
}

fn claim(segments: &[ElfSegment], placement: &mut Placement) -> Result<(), Problem> {
    for (index, segment) in segments.iter().enumerate() {
        placement.claim(format!("ELF segment {index}"), segment.gpa, segment.memory_size)?;
    }
    Ok(())
}

/// A 64-bit ELF header and program headers for those of `segments` that have bytes in the file, which follows them.
fn header(segments: &[ElfSegment]) -> Vec<u8> {
    let loaded = segments.iter().filter(|segment| segment.file_size > 0);
    let count = loaded.clone().count();
    let size = HEADER_SIZE + count * PROGRAM_HEADER_SIZE;
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
    let count = u16::try_from(count).expect("PROGRAM_HEADERS_MAX caps the segments");
    for half in [HEADER_SIZE as u16, PROGRAM_HEADER_SIZE as u16, count, 0, 0, 0] {
        bytes.extend(half.to_le_bytes()); // e_ehsize, e_phentsize, e_phnum, sections: none
    }
    for ElfSegment { offset, file_size, gpa, .. } in loaded {
        bytes.extend([1u32, 0].map(u32::to_le_bytes).as_flattened()); // p_type: PT_LOAD; p_flags
        for word in [offset + size as u64, *gpa, *gpa, *file_size, *file_size, 0] {
            bytes.extend(word.to_le_bytes()); // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Header, boot, elf, note, segment, word};
    use super::super::load::{BootRequest, Loaded};
    use crate::arch::cpu_state::CpuState;
    use crate::arch::layout::{MIB, START_INFO, ZERO_PAGE};
    use crate::memory::ram::GuestRam;
    use proptest::prelude::*;

    fn boot_elf(bits: u32, entry: u64, headers: &[Header], content: &[u8]) -> Result<(Loaded, GuestRam), String> {
        boot(&elf(bits, entry, headers, content), None, &BootRequest::default())
    }

    #[test]
    fn bss_is_zero_and_claimed() {
        let (loaded, ram) = boot_elf(64, MIB, &[segment(MIB, 16, 0x3000)], &[0xaa; 64]).unwrap();
        assert_eq!(word(&ram, MIB + 8), u64::MAX / 255 * 0xaa);
        assert_eq!(word(&ram, MIB + 16), 0);
        let elf = loaded.segments.iter().find(|segment| segment.what == "ELF segment 0").unwrap();
        assert_eq!((elf.range.start, elf.range.size), (MIB, 0x3000));
    }

    #[test]
    fn a_32_bit_elf_with_a_pvh_note_is_loaded() {
        let mut content = vec![0x90; 16];
        content.extend([4u32, 4, 18].map(u32::to_le_bytes).as_flattened());
        content.extend(b"Xen\0");
        content.extend((MIB as u32 + 4).to_le_bytes());
        let headers = [segment(MIB, 36, 36), note(16, 20)];
        let (loaded, ram) = boot_elf(32, 0, &headers, &content).unwrap();
        assert_eq!(loaded.state, {
            let mut state = CpuState::protected_mode(MIB + 4);
            state.regs.rbx = START_INFO;
            state
        });
        assert_eq!(word(&ram, MIB), 0x9090_9090_9090_9090);
    }

    #[test]
    fn sec62_hostile_elf_headers_are_refused() {
        let past_end = Header { offset: u64::MAX - 1, ..segment(MIB, 16, 16) };
        for (headers, entry, want) in [
            (vec![segment(MIB, 65, 65)], MIB, "beyond the file's end"),
            (vec![segment(MIB, u64::MAX, u64::MAX)], MIB, "beyond the file's end"),
            (vec![past_end], MIB, "beyond the file's end"),
            (vec![segment(MIB, 16, 8)], MIB, "larger in the file than in memory"),
            (vec![segment(15 * MIB, 16, 2 * MIB)], 15 * MIB, "not free guest RAM"),
            (vec![segment(1 << 40, 16, 16)], 1 << 40, "not free guest RAM"),
            (vec![segment(u64::MAX - 8, 8, 8)], u64::MAX - 8, "not free guest RAM"),
            (vec![segment(u64::MAX, 8, 8)], u64::MAX, "not free guest RAM"),
            (vec![segment(MIB, 8, u64::MAX)], MIB, "not free guest RAM"),
            (vec![segment(0xa_0000, 8, 8)], 0xa_0000, "not free guest RAM"),
            (vec![segment(MIB, 16, 16), segment(MIB + 8, 16, 16)], MIB, "overlaps ELF segment 0"),
            (vec![segment(0x2000, 16, 16)], 0x2000, "overlaps ELF segment 0"),
            (vec![segment(ZERO_PAGE, 16, 16)], ZERO_PAGE, "overlaps ELF segment 0"),
            (vec![segment(MIB, 16, 16)], MIB + 16, "entry point 0x100010 lies in none"),
            (vec![segment(MIB, 16, 16)], u64::MAX, "lies in none"),
            (vec![], MIB, "lies in none"),
            (vec![segment(MIB, 1, 1); 129], MIB, "129 program headers"),
        ] {
            let error = boot_elf(64, entry, &headers, &[0x90; 64]).err().unwrap_or_default();
            assert!(error.starts_with("test: ") && error.contains(want), "{error:?} instead of {want:?}");
        }
    }

    #[test]
    fn sec62_truncated_elf_files_are_refused() {
        let whole = elf(64, MIB, &[segment(MIB, 64, 64)], &[0x90; 64]);
        for size in 0..whole.len() {
            assert!(boot(&whole[..size], None, &BootRequest::default()).is_err(), "{size}");
        }
    }

    proptest! {
        #[test]
        fn sec62_random_elf_headers_never_panic(
            bits in prop_oneof![Just(32u32), Just(64)],
            changes in prop::collection::vec((0usize..400, any::<u8>()), 1..20),
        ) {
            let headers = [segment(MIB, 32, 64), note(0, 32), segment(2 * MIB, 8, 8)];
            let mut file = elf(bits, MIB, &headers, &[1; 64]);
            for (offset, byte) in changes {
                file[offset] = byte;
            }
            let _ = boot(&file, None, &BootRequest::default());
        }
    }
}
