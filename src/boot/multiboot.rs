//! Multiboot 1: 32-bit protected mode without paging, EAX = magic, EBX = the information structure.
//!
//! The structure tells memory sizes and map, command line, one module (the initrd) and the loader's name. No symbols, drives,
//! APM or video information: a kernel that demands a video mode is refused. ELF files of both classes are loaded, and files
//! whose Multiboot header says itself where they go.
//! Source: Multiboot 0.6.96 §3.1 (header), §3.2 (machine state), §3.3 (boot information).

use super::elf::{ElfImage, ElfSegment};
use super::error::Problem;
use super::image::Image;
use super::placement::Placement;
use super::pvh::BootInfo;
use super::{elf_load, pvh};
use crate::arch::cpu_state::CpuState;
use crate::arch::layout::{HIGH_RAM, LOW_RAM_END, START_INFO, START_INFO_SIZE};

/// Bytes at the start of an image within which the header lies, on a multiple of 4 (§3.1.1).
const SEARCH_SIZE: usize = 8192;
/// First word of the header.
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// What EAX holds at entry.
const BOOT_MAGIC: u64 = 0x2bad_b002;

/// Header flag: modules on page boundaries. They always are.
const PAGE_ALIGN: u32 = 1 << 0;
/// Header flag: memory sizes wanted. They are always given.
const MEMORY_INFO: u32 = 1 << 1;
/// Header flag: the address fields are valid, and come before what an ELF header says.
const ADDRESSES: u32 = 1 << 16;
/// The flags that a loader must understand or refuse the image.
const MANDATORY: u32 = 0xffff;

/// Information flags: `mem_*`, `cmdline`, `mods_*`, `mmap_*`, `boot_loader_name` are valid.
const HAS_MEMORY: u32 = 1 << 0;
const HAS_CMDLINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MAP: u32 = 1 << 6;
const HAS_LOADER_NAME: u32 = 1 << 9;

/// Where the module list stands.
const MODULES: u64 = START_INFO + 0x80;
/// Where the loader's name stands.
const LOADER_NAME: u64 = START_INFO + 0x90;
/// Where the memory map stands.
const MEMORY_MAP: u64 = START_INFO + 0xa0;
/// The loader's name, NUL-terminated.
const NAME: &[u8] = b"hostel\0";

/// The BIOS data area, in which Xen looks for the end of low RAM (IBM PS/2 and PC BIOS Interface Technical Reference §3).
const BIOS_DATA: u64 = 0x400;
/// Bytes of it.
const BIOS_DATA_SIZE: u64 = 0x100;
/// Where in it the segment of the extended BIOS data area stands: what follows low RAM.
const EXTENDED_SEGMENT: u64 = BIOS_DATA + 0xe;
/// Where in it the size of low RAM stands, in KiB.
const LOW_RAM_KIB: u64 = BIOS_DATA + 0x13;

/// A kernel with a Multiboot header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MultibootImage {
    segments: Vec<ElfSegment>,
    entry: u64,
}

/// The first Multiboot header in `head`, the image's first bytes: its offset.
pub fn find_header(head: &[u8]) -> Option<usize> {
    let head = &head[..head.len().min(SEARCH_SIZE)];
    (0..head.len()).step_by(4).find(|offset| {
        let [magic, flags, checksum] = [0, 4, 8].map(|field| word(head, offset + field));
        magic == Some(HEADER_MAGIC)
            && flags
                .zip(checksum)
                .is_some_and(|(flags, checksum)| HEADER_MAGIC.wrapping_add(flags).wrapping_add(checksum) == 0)
    })
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

impl MultibootImage {
    /// Validates the header at `offset` of `head`; `elf` are the image's headers where it is an ELF file. `Ok(None)`: neither
    /// an ELF file nor one that says where it goes.
    ///
    /// # Errors
    /// The kernel demands what this machine does not have, or the header contradicts itself or the file's size.
    pub fn parse(
        image: &Image,
        head: &[u8],
        offset: usize,
        elf: Option<&ElfImage>,
    ) -> Result<Option<MultibootImage>, Problem> {
        let malformed = |what: &str| Problem::Malformed { format: "Multiboot header", what: what.to_string() };
        let field = |index: usize| word(head, offset + index * 4).ok_or_else(|| malformed("it is cut off"));
        let flags = field(1)?;
        let unknown = flags & MANDATORY & !(PAGE_ALIGN | MEMORY_INFO);
        match elf {
            _ if unknown != 0 => Err(Problem::MultibootFlags(unknown)),
            _ if flags & ADDRESSES != 0 => {
                let [header, load, load_end, bss_end, entry] = [field(3)?, field(4)?, field(5)?, field(6)?, field(7)?];
                let segment = placed(image.size(), offset as u64, [header, load, load_end, bss_end].map(u64::from));
                let segment =
                    segment.ok_or_else(|| malformed("its addresses contradict each other or the file's size"))?;
                let inside = u64::from(entry).checked_sub(segment.gpa).is_some_and(|entry| entry < segment.memory_size);
                if !inside {
                    return Err(Problem::EntryOutside { entry: entry.into() });
                }
                Ok(Some(MultibootImage { segments: vec![segment], entry: entry.into() }))
            }
            Some(elf) => Ok(Some(MultibootImage { segments: elf.segments.clone(), entry: elf.entry()? })),
            None => Ok(None),
        }
    }

    /// Copies the kernel into RAM and gives the state that enters it.
    ///
    /// # Errors
    /// It does not fit, or the file cannot be read.
    pub fn load(&self, image: &Image, placement: &mut Placement) -> Result<CpuState, Problem> {
        elf_load::copy(image, &self.segments, placement)?;
        let mut state = pvh::entry_state(placement, self.entry)?;
        state.regs.rax = BOOT_MAGIC;
        Ok(state)
    }
}

/// What the address fields of the header at `offset` say: where the file's bytes go (§3.1.3).
fn placed(file_size: u64, offset: u64, [header, load, load_end, bss_end]: [u64; 4]) -> Option<ElfSegment> {
    let file_offset = offset.checked_sub(header.checked_sub(load)?)?;
    let size = match load_end {
        0 => file_size.checked_sub(file_offset)?,
        end => end.checked_sub(load)?,
    };
    let memory_size = match bss_end {
        0 => size,
        end => end.checked_sub(load)?,
    };
    let valid = size > 0 && size <= memory_size && file_offset + size <= file_size;
    valid.then_some(ElfSegment { offset: file_offset, file_size: size, gpa: load, gva: load, memory_size })
}

/// Writes the information structure with its lists to [`START_INFO`], and what of a BIOS' data kernels of that time read.
///
/// # Errors
/// The room is taken.
pub fn write_info(placement: &mut Placement, info: &BootInfo) -> Result<(), Problem> {
    placement.claim("Multiboot information", START_INFO, START_INFO_SIZE)?;
    placement.claim("BIOS data area", BIOS_DATA, BIOS_DATA_SIZE)?;
    placement.ram().write(EXTENDED_SEGMENT, &((LOW_RAM_END >> 4) as u16).to_le_bytes())?;
    placement.ram().write(LOW_RAM_KIB, &((LOW_RAM_END >> 10) as u16).to_le_bytes())?;
    let low = |address: u64| u32::try_from(address).expect("everything for a 32-bit kernel lies below 4 GiB");
    let entries = placement.map().entries();
    let mut map = Vec::new();
    for entry in &entries {
        map.extend(20u32.to_le_bytes()); // bytes that follow in this entry
        map.extend([entry.range.start, entry.range.size].map(u64::to_le_bytes).as_flattened());
        map.extend(entry.kind.to_le_bytes());
    }
    let mut flags = HAS_MEMORY | HAS_MAP | HAS_LOADER_NAME;
    let mut fields = [0; 17];
    fields[1] = low(LOW_RAM_END) >> 10; // mem_lower, in KiB
    fields[2] = low(placement.map().low_end().saturating_sub(HIGH_RAM)) >> 10; // mem_upper, in KiB
    if let Some(cmdline) = info.cmdline {
        flags |= HAS_CMDLINE;
        fields[4] = low(cmdline);
    }
    if let Some(initrd) = info.initrd {
        flags |= HAS_MODULES;
        (fields[5], fields[6]) = (1, low(MODULES)); // mods_count, mods_addr
        let module = [low(initrd.start), low(initrd.end()), 0, 0]; // start, end, no string, reserved
        placement.ram().write(MODULES, module.map(u32::to_le_bytes).as_flattened())?;
    }
    (fields[11], fields[12]) = (map.len() as u32, low(MEMORY_MAP)); // mmap_length, mmap_addr
    fields[16] = low(LOADER_NAME);
    fields[0] = flags;
    placement.ram().write(START_INFO, fields.map(u32::to_le_bytes).as_flattened())?;
    placement.ram().write(LOADER_NAME, NAME)?;
    Ok(placement.ram().write(MEMORY_MAP, &map)?)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{CONTENT, RAM_SIZE, boot, elf, segment, word};
    use super::super::format::ImageFormat;
    use super::super::load::BootRequest;
    use super::*;
    use crate::arch::layout::{CMDLINE, MIB};
    use proptest::prelude::*;

    /// A Multiboot header with `flags`, then `more`.
    fn header(flags: u32, more: &[u32]) -> Vec<u8> {
        let checksum = 0u32.wrapping_sub(HEADER_MAGIC).wrapping_sub(flags);
        [HEADER_MAGIC, flags, checksum].iter().chain(more).flat_map(|word| word.to_le_bytes()).collect()
    }

    /// A 32-bit ELF kernel at 1 MiB whose Multiboot header has `flags`.
    fn kernel(flags: u32) -> Vec<u8> {
        let mut content = header(flags, &[]);
        content.resize(64, 0x90);
        elf(32, MIB + 12, &[segment(MIB, 64, 4096)], &content)
    }

    #[test]
    fn an_elf_kernel_is_entered_with_magic_and_information() {
        let initrd = Image::from_bytes("initrd", &[7; 5000]);
        let request = BootRequest { cmdline: "a=1", initrd: Some(&initrd), ..BootRequest::default() };
        let (loaded, ram) = boot(&kernel(PAGE_ALIGN | MEMORY_INFO), None, &request).unwrap();
        assert_eq!(loaded.state, {
            let mut state = CpuState::protected_mode(MIB + 12);
            (state.regs.rax, state.regs.rbx) = (0x2bad_b002, START_INFO);
            state
        });
        let field = |index: u64| u64::from(word(&ram, START_INFO + index * 4) as u32);
        assert_eq!(field(0), 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9);
        assert_eq!((field(1), field(2)), (639, 15 << 10), "KiB below 640 KiB and above 1 MiB");
        assert_eq!((field(4), word(&ram, CMDLINE) ^ u64::from_le_bytes(*b"kernel a")), (CMDLINE, 0));
        let modules = field(6);
        assert_eq!((field(5), word(&ram, modules) as u32 as u64), (1, RAM_SIZE - 8192));
        assert_eq!(word(&ram, modules + 4) as u32 as u64, RAM_SIZE - 8192 + 5000);
        assert_eq!((field(11), word(&ram, field(12)) as u32), (3 * 24, 20));
        assert_eq!([4, 12, 20].map(|at| word(&ram, field(12) + at)), [0, LOW_RAM_END, 20 << 32 | 1]);
        assert_eq!(word(&ram, field(16)).to_le_bytes(), *b"hostel\0\0");
        assert_eq!((word(&ram, 0x40e) as u16, word(&ram, 0x413) as u16), (0x9fc0, 639));
    }

    #[test]
    fn address_fields_place_a_file_that_is_no_elf() {
        let base = 2 * MIB as u32;
        // The header stands 16 bytes into the file, which is loaded from its first byte.
        let mut file = vec![0x90; 16];
        file.extend(header(ADDRESSES, &[base + 16, base, 0, base + 0x1000, base + 4]));
        let (loaded, ram) = boot(&file, None, &BootRequest::default()).unwrap();
        assert_eq!((loaded.state.regs.rip, word(&ram, base.into())), (u64::from(base) + 4, 0x9090_9090_9090_9090));
        let segment = loaded.segments.iter().find(|segment| segment.range.start == u64::from(base)).unwrap();
        assert_eq!(segment.range.size, 0x1000);
    }

    #[test]
    fn a_header_is_found_where_the_specification_allows_it() {
        let file = kernel(0);
        assert_eq!(find_header(&file), Some(CONTENT as usize));
        let mut late = vec![0; SEARCH_SIZE - 12];
        late.extend(header(0, &[]));
        assert_eq!(find_header(&late), Some(SEARCH_SIZE - 12));
        late.splice(0..0, [0; 4]);
        assert_eq!(find_header(&late), None);
        let mut unaligned = vec![0; 2];
        unaligned.extend(header(0, &[]));
        assert_eq!(find_header(&unaligned), None);
        let mut wrong_sum = header(0, &[]);
        wrong_sum[8] ^= 1;
        assert_eq!(find_header(&wrong_sum), None);
    }

    #[test]
    fn a_kernel_that_demands_a_video_mode_is_refused() {
        let error = boot(&kernel(1 << 2), None, &BootRequest::default()).err().unwrap();
        assert!(error.contains("demands what this machine does not have (flags 0x4;"), "{error}");
    }

    #[test]
    fn sec62_hostile_address_fields_are_refused() {
        let base = 2 * MIB as u32;
        for fields in [
            [base, base + 1, 0, 0, base],       // loaded from behind the header
            [base + 20, base, 0, 0, base],      // loaded from before the file
            [base, base, base - 1, 0, base],    // ends before it begins
            [base, base, base, 0, base],        // empty
            [base, base, base + 1000, 0, base], // longer than the file
            [base, base, 0, base + 8, base],    // bss ends within the data
            [base, base, 0, 0, base + 32],      // entered behind its end
            [base, base, 0, 0, base - 1],       // entered before its start
            [base, base, 0, u32::MAX, base],    // bss beyond RAM
            [START_INFO as u32, START_INFO as u32, 0, 0, START_INFO as u32], // over the information structure
            [u32::MAX, u32::MAX, 0, 0, u32::MAX], // at the end of 32 bits
        ] {
            let error = boot(&header(ADDRESSES, &fields), None, &BootRequest::default()).err();
            assert!(error.is_some(), "{fields:x?}");
        }
        assert!(boot(&header(ADDRESSES, &[base; 4]), None, &BootRequest::default()).is_err(), "cut off");
        assert!(boot(&header(0, &[base; 5]), Some(ImageFormat::Multiboot), &BootRequest::default()).is_err(), "no ELF");
    }

    proptest! {
        #[test]
        fn sec62_random_address_fields_never_panic(
            fields in prop::array::uniform5(prop_oneof![any::<u32>(), 0x10_0000u32..0x10_0100]),
            before in 0usize..8,
        ) {
            let mut file = vec![0; before * 4];
            file.extend(header(ADDRESSES, &fields));
            let _ = boot(&file, None, &BootRequest::default());
        }
    }
}
