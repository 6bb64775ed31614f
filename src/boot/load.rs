//! From an image to a loaded machine: [`Kernel::identify`], then [`load`].
//!
//! Two steps, because the machine wants to know what it boots (a Linux kernel gets a default command line and an initramfs,
//! a boot sector another interrupt controller) before RAM exists.

use super::elf::{self, ElfImage};
use super::error::{BootError, Problem};
use super::format::{self, HEAD_SIZE, ImageFormat};
use super::image::Image;
use super::placement::{LoadedSegment, Placement};
use super::pvh::{self, BootInfo};
use super::{elf_load, flat, initrd, zero_page};
use crate::arch::cpu_state::CpuState;
use crate::arch::layout::{CMDLINE, CMDLINE_SIZE, FLAT16_ENTRY};
use crate::memory::map::MemoryMap;
use crate::memory::ram::GuestRam;
use linux_loader::loader::{Cmdline, load_cmdline};
use vm_memory::GuestAddress;

/// An image that some loader takes, with what was read of it so far.
pub struct Kernel<'a> {
    image: &'a Image<'a>,
    headers: Headers,
}

/// The headers of an image, read once and validated.
enum Headers {
    Pvh(ElfImage),
    Linux64(ElfImage),
    Flat16,
    Flat64,
}

/// What is loaded besides the kernel.
#[derive(Clone, Copy, Default)]
pub struct BootRequest<'a> {
    /// The command line, final; empty for none.
    pub cmdline: &'a str,
    /// The initrd.
    pub initrd: Option<&'a Image<'a>>,
    /// Address of the RSDP.
    pub rsdp: Option<u64>,
    /// Where a flat 16-bit image goes; 0x7c00 unless told otherwise.
    pub load_address: Option<u64>,
}

/// A loaded machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The state in which the first vCPU starts.
    pub state: CpuState,
    /// What lies where in RAM, ascending.
    pub segments: Vec<LoadedSegment>,
}

impl<'a> Kernel<'a> {
    /// Tells what `image` is, or holds it to be what `forced` says.
    ///
    /// # Errors
    /// No loader takes it; the error names what it seems to be and what is supported.
    pub fn identify(image: &'a Image<'a>, forced: Option<ImageFormat>) -> Result<Kernel<'a>, BootError> {
        let headers = match forced {
            Some(ImageFormat::Flat16) => Ok(Headers::Flat16),
            Some(ImageFormat::Flat64) => Ok(Headers::Flat64),
            Some(format) => Headers::read(image).and_then(|headers| match headers.format() == format {
                true => Ok(headers),
                false => Err(Problem::NotThatFormat(format)),
            }),
            None => Headers::read(image),
        };
        Ok(Kernel { image, headers: headers.map_err(|problem| problem.of(image.name()))? })
    }

    /// How the image is loaded and entered.
    pub fn format(&self) -> ImageFormat {
        self.headers.format()
    }

    /// Whether it is a Linux kernel: a bzImage, or an ELF file with notes of Linux'.
    pub fn is_linux(&self) -> bool {
        match &self.headers {
            Headers::Pvh(elf) | Headers::Linux64(elf) => elf.notes.linux,
            Headers::Flat16 | Headers::Flat64 => false,
        }
    }
}

impl Headers {
    fn read(image: &Image) -> Result<Headers, Problem> {
        let head = image.read(0, HEAD_SIZE)?;
        if elf::is_elf(&head) {
            return Headers::read_elf(image, &head);
        }
        if format::is_boot_sector(&head) {
            return Ok(Headers::Flat16);
        }
        Err(Problem::Unsupported { found: format::describe(&head).to_string() })
    }

    fn read_elf(image: &Image, head: &[u8]) -> Result<Headers, Problem> {
        let unsupported = || Problem::Unsupported { found: elf::describe(head) };
        let parsed = ElfImage::parse(image, head).map_err(|what| Problem::Malformed { format: "ELF file", what })?;
        let elf = parsed.ok_or_else(unsupported)?;
        match () {
            () if elf.notes.pvh_entry.is_some() => Ok(Headers::Pvh(elf)),
            () if !elf.fixed => Err(Problem::Program("a dynamic or position-independent program")),
            () if elf.class_64 => Ok(Headers::Linux64(elf)),
            () => Err(unsupported()),
        }
    }

    fn format(&self) -> ImageFormat {
        match self {
            Headers::Pvh(_) => ImageFormat::Pvh,
            Headers::Linux64(_) => ImageFormat::Linux64,
            Headers::Flat16 => ImageFormat::Flat16,
            Headers::Flat64 => ImageFormat::Flat64,
        }
    }
}

/// Loads `kernel` and all it needs into `ram`, which is fresh and which `map` describes.
///
/// # Errors
/// Something does not fit, overlaps, or cannot be read; the error names the image.
pub fn load(kernel: &Kernel, request: &BootRequest, ram: &GuestRam, map: &MemoryMap) -> Result<Loaded, BootError> {
    let mut placement = Placement::new(ram, map);
    let state = match &kernel.headers {
        Headers::Flat16 => load_flat16(kernel, request, &mut placement),
        headers => load_with_info(kernel.image, headers, request, &mut placement),
    };
    let state = state.map_err(|(image, problem)| problem.of(image))?;
    Ok(Loaded { state, segments: placement.into_segments() })
}

/// A problem with the image of this name.
type Named<'a> = (&'a str, Problem);

fn load_flat16<'a>(
    kernel: &Kernel<'a>,
    request: &BootRequest,
    placement: &mut Placement,
) -> Result<CpuState, Named<'a>> {
    let name = kernel.image.name();
    let no_place = |what| (name, Problem::NoPlaceFor { format: ImageFormat::Flat16, what });
    if request.initrd.is_some() {
        return Err(no_place("an initrd"));
    }
    if !request.cmdline.is_empty() {
        return Err(no_place("a command line"));
    }
    let address = request.load_address.unwrap_or(FLAT16_ENTRY);
    flat::load_16(kernel.image, address, placement).map_err(|problem| (name, problem))
}

/// The formats that are told of command line, initrd and memory map: kernel first, so that the initrd goes around it.
fn load_with_info<'a>(
    image: &'a Image,
    headers: &Headers,
    request: &BootRequest<'a>,
    placement: &mut Placement,
) -> Result<CpuState, Named<'a>> {
    let of_image = |problem| (image.name(), problem);
    let state = match headers {
        Headers::Pvh(elf) => {
            copy_elf(image, elf, placement).and_then(|()| pvh::entry_state(placement, elf.pvh_entry()?))
        }
        Headers::Linux64(elf) => {
            copy_elf(image, elf, placement).and_then(|()| zero_page::entry_state(placement, elf.entry()?))
        }
        Headers::Flat16 | Headers::Flat64 => flat::load_64(image, placement),
    };
    let state = state.map_err(of_image)?;
    let cmdline = write_cmdline(request.cmdline, placement).map_err(of_image)?;
    let initrd = match request.initrd {
        Some(file) => {
            Some(initrd::load(file, initrd::ADDRESS_MAX, placement).map_err(|problem| (file.name(), problem))?)
        }
        None => None,
    };
    let info = BootInfo { cmdline, initrd, rsdp: request.rsdp };
    let told = match headers {
        Headers::Linux64(_) => zero_page::write(placement, zero_page::plain_setup_header(), &info),
        _ => pvh::write_start_info(placement, &info),
    };
    told.map_err(of_image)?;
    Ok(state)
}

fn copy_elf(image: &Image, elf: &ElfImage, placement: &mut Placement) -> Result<(), Problem> {
    elf_load::copy(image, &elf.segments, placement)
}

/// Writes the command line to [`CMDLINE`]; an empty one is none.
fn write_cmdline(text: &str, placement: &mut Placement) -> Result<Option<u64>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let max = CMDLINE_SIZE as usize - 1;
    if text.len() > max {
        return Err(Problem::CmdlineTooLong { size: text.len(), max });
    }
    let what = "write the command line";
    let mut cmdline = Cmdline::new(CMDLINE_SIZE as usize).expect("the capacity is not 0");
    cmdline.insert_str(text).map_err(Problem::Cmdline)?;
    placement.claim("command line", CMDLINE, text.len() as u64 + 1)?;
    load_cmdline(placement.ram().backend(), GuestAddress(CMDLINE), &cmdline)
        .map_err(|source| Problem::Loader { what, source })?;
    Ok(Some(CMDLINE))
}

#[cfg(test)]
mod tests {
    use super::super::elf_fixture::{self, Header, build};
    use super::super::samples::HELLO_FORMS;
    use super::*;
    use crate::arch::cpu_state::{BOOT_CS, CR0_PG};
    use crate::arch::layout::{BOOT_GDT, BOOT_PML4, FLAT64_ENTRY, HIGH_RAM, MIB, START_INFO, ZERO_PAGE};
    use proptest::prelude::*;

    /// Loads `bytes` into 16 MiB of RAM.
    fn boot(bytes: &[u8], forced: Option<ImageFormat>, request: &BootRequest) -> Result<(Loaded, GuestRam), String> {
        let image = Image::from_bytes("test", bytes);
        let kernel = Kernel::identify(&image, forced).map_err(|error| error.to_string())?;
        let map = MemoryMap::new(16 * MIB).unwrap();
        let ram = GuestRam::new(&map).unwrap();
        let loaded = load(&kernel, request, &ram, &map).map_err(|error| error.to_string())?;
        Ok((loaded, ram))
    }

    fn boot_elf(bits: u32, entry: u64, headers: &[Header], content: &[u8]) -> Result<(Loaded, GuestRam), String> {
        boot(&build(bits, entry, headers, content), None, &BootRequest::default())
    }

    fn word(ram: &GuestRam, gpa: u64) -> u64 {
        ram.read_u64(gpa).unwrap()
    }

    #[test]
    fn every_form_of_hello_is_told_and_loaded() {
        for (form, format, entry) in [
            ("pvh", ImageFormat::Pvh, None),
            ("linux64", ImageFormat::Linux64, None),
            ("flat16", ImageFormat::Flat16, Some(FLAT16_ENTRY)),
        ] {
            let (_, bytes) = HELLO_FORMS.iter().find(|(name, _)| *name == form).unwrap();
            let image = Image::from_bytes(form, bytes);
            let kernel = Kernel::identify(&image, None).unwrap();
            assert_eq!((kernel.format(), kernel.is_linux()), (format, false));
            let (loaded, ram) = boot(bytes, None, &BootRequest::default()).unwrap();
            let rip = loaded.state.regs.rip;
            assert!(entry.map_or(rip >= HIGH_RAM, |entry| entry == rip), "{form}: {rip:#x}");
            assert_ne!(word(&ram, rip), 0);
        }
    }

    #[test]
    fn pvh_hands_over_start_info_with_all_lists() {
        let (_, bytes) = HELLO_FORMS[0];
        let initrd = Image::from_bytes("initrd", b"12345678");
        let request = BootRequest { cmdline: "a=1 b", initrd: Some(&initrd), rsdp: Some(0xe_0000), load_address: None };
        let (loaded, ram) = boot(bytes, None, &request).unwrap();
        assert_eq!(loaded.state.regs.rbx, START_INFO);
        assert_eq!((loaded.state.cs.selector, loaded.state.cr0 & CR0_PG), (BOOT_CS, 0));
        assert_eq!(word(&ram, START_INFO), 1 << 32 | 0x336e_c578);
        assert_eq!(word(&ram, START_INFO + 8), 1 << 32, "one module");
        let modules = word(&ram, START_INFO + 16);
        assert_eq!((word(&ram, modules), word(&ram, modules + 8)), (16 * MIB - 4096, 8));
        assert_eq!(word(&ram, 16 * MIB - 4096).to_le_bytes(), *b"12345678");
        assert_eq!(word(&ram, word(&ram, START_INFO + 24)).to_le_bytes(), *b"a=1 b\0\0\0");
        assert_eq!(word(&ram, START_INFO + 32), 0xe_0000);
        let map = word(&ram, START_INFO + 40);
        assert_eq!([0, 8, 16].map(|offset| word(&ram, map + offset)), [0, crate::arch::layout::LOW_RAM_END, 1]);
        assert_eq!(word(&ram, START_INFO + 48), 3, "entries");
    }

    #[test]
    fn the_linux_entry_hands_over_boot_params() {
        let (_, bytes) = HELLO_FORMS[1];
        let initrd = Image::from_bytes("initrd", &[9; 5000]);
        let request = BootRequest { cmdline: "quiet", initrd: Some(&initrd), rsdp: Some(0xe_0000), load_address: None };
        let (loaded, ram) = boot(bytes, None, &request).unwrap();
        assert_eq!((loaded.state.regs.rsi, loaded.state.cr3), (ZERO_PAGE, BOOT_PML4));
        assert_eq!(word(&ram, BOOT_PML4 + 2 * 4096 + 8), 0x20_0083, "the second 2 MiB page");
        assert_eq!(word(&ram, BOOT_GDT + 0x10), 0x00af_9b00_0000_ffff);
        assert_eq!(word(&ram, ZERO_PAGE + 0x70), 0xe_0000, "acpi_rsdp_addr");
        assert_eq!(word(&ram, ZERO_PAGE + 0x1e8) as u8, 3, "e820_entries");
        assert_eq!(word(&ram, ZERO_PAGE + 0x202) as u32, 0x5372_6448, "HdrS");
        assert_eq!(word(&ram, ZERO_PAGE + 0x218), 5000 << 32 | (16 * MIB - 8192), "ramdisk_image, ramdisk_size");
        assert_eq!(word(&ram, ZERO_PAGE + 0x228) as u32, CMDLINE as u32, "cmd_line_ptr");
        assert_eq!(word(&ram, ZERO_PAGE + 0x2d0 + 20 * 2), MIB, "the third range");
    }

    #[test]
    fn flat_images_are_entered_at_their_first_byte() {
        let (loaded, ram) = boot(b"\xf4", Some(ImageFormat::Flat64), &BootRequest::default()).unwrap();
        let regs = loaded.state.regs;
        assert_eq!((regs.rip, regs.rdi, regs.rsp), (FLAT64_ENTRY, START_INFO, 0x1_0000));
        assert_eq!(word(&ram, FLAT64_ENTRY), 0xf4);
        for (address, segment, offset) in [(None, 0, 0x7c00), (Some(0x600), 0, 0x600), (Some(0x1_2345), 0x1234, 5)] {
            let request = BootRequest { load_address: address, ..BootRequest::default() };
            let (loaded, ram) = boot(b"\xf4", Some(ImageFormat::Flat16), &request).unwrap();
            assert_eq!((loaded.state.cs.selector, loaded.state.regs.rip), (segment, offset));
            assert_eq!(word(&ram, loaded.state.linear_rip()), 0xf4);
            assert_eq!(loaded.segments.len(), 1);
        }
    }

    #[test]
    fn sec62_flat_images_that_do_not_fit_are_refused() {
        let big = vec![0x90; 1 << 20];
        for format in [ImageFormat::Flat16, ImageFormat::Flat64] {
            let error = boot(&big, Some(format), &BootRequest::default()).err().unwrap();
            assert!(error.contains("does not fit"), "{error}");
        }
        for address in [0x9_fc00, 0xf_ffff, u64::MAX] {
            let request = BootRequest { load_address: Some(address), ..BootRequest::default() };
            assert!(boot(&big[..1], Some(ImageFormat::Flat16), &request).is_err());
        }
        let request = BootRequest { cmdline: "x", ..BootRequest::default() };
        let error = boot(&big[..1], Some(ImageFormat::Flat16), &request).err().unwrap();
        assert_eq!(error, "test: flat 16-bit binary has no place for a command line");
    }

    #[test]
    fn bss_is_zero_and_claimed() {
        let (loaded, ram) = boot_elf(64, MIB, &[elf_fixture::load(MIB, 16, 0x3000)], &[0xaa; 64]).unwrap();
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
        let headers = [elf_fixture::load(MIB, 36, 36), elf_fixture::note(16, 20)];
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
        let load = elf_fixture::load;
        let past_end = Header { offset: u64::MAX - 1, ..load(MIB, 16, 16) };
        for (headers, entry, want) in [
            (vec![load(MIB, 65, 65)], MIB, "beyond the file's end"),
            (vec![load(MIB, u64::MAX, u64::MAX)], MIB, "beyond the file's end"),
            (vec![past_end], MIB, "beyond the file's end"),
            (vec![load(MIB, 16, 8)], MIB, "larger in the file than in memory"),
            (vec![load(15 * MIB, 16, 2 * MIB)], 15 * MIB, "not free guest RAM"),
            (vec![load(1 << 40, 16, 16)], 1 << 40, "not free guest RAM"),
            (vec![load(u64::MAX - 8, 8, 8)], u64::MAX - 8, "not free guest RAM"),
            (vec![load(u64::MAX, 8, 8)], u64::MAX, "not free guest RAM"),
            (vec![load(MIB, 8, u64::MAX)], MIB, "not free guest RAM"),
            (vec![load(0xa_0000, 8, 8)], 0xa_0000, "not free guest RAM"),
            (vec![load(MIB, 16, 16), load(MIB + 8, 16, 16)], MIB, "overlaps ELF segment 0"),
            (vec![load(0x2000, 16, 16)], 0x2000, "overlaps ELF segment 0"),
            (vec![load(ZERO_PAGE, 16, 16)], ZERO_PAGE, "overlaps ELF segment 0"),
            (vec![load(MIB, 16, 16)], MIB + 16, "entry point 0x100010 lies in none"),
            (vec![load(MIB, 16, 16)], u64::MAX, "lies in none"),
            (vec![], MIB, "lies in none"),
            (vec![load(MIB, 1, 1); 129], MIB, "129 program headers"),
        ] {
            let error = boot_elf(64, entry, &headers, &[0x90; 64]).err().unwrap_or_default();
            assert!(error.starts_with("test: ") && error.contains(want), "{error:?} instead of {want:?}");
        }
    }

    #[test]
    fn sec62_truncated_elf_files_are_refused() {
        let whole = build(64, MIB, &[elf_fixture::load(MIB, 64, 64)], &[0x90; 64]);
        for size in 0..whole.len() {
            assert!(boot(&whole[..size], None, &BootRequest::default()).is_err(), "{size}");
        }
    }

    #[test]
    fn what_is_not_for_this_machine_is_named() {
        let elf = |offset: usize, byte: u8| {
            let mut file = build(64, MIB, &[elf_fixture::load(MIB, 64, 64)], &[0x90; 64]);
            file[offset] = byte;
            file
        };
        for (bytes, want) in [
            (elf(18, 183), "a 64-bit ELF executable without PVH note or Multiboot header for aarch64"),
            (elf(5, 2), "a big-endian machine"),
            (elf(16, 1), "a 64-bit ELF object file for x86, which does not boot. Supported: Linux bzImage"),
            (elf(16, 3), "this is a dynamic or position-independent program for Linux, not a kernel"),
            (build(32, MIB, &[elf_fixture::load(MIB, 64, 64)], &[0x90; 64]), "a 32-bit ELF executable without PVH"),
            (b"\x1f\x8b\x08".to_vec(), "a gzip file, which does not boot"),
        ] {
            let error = boot(&bytes, None, &BootRequest::default()).err().unwrap();
            assert!(error.contains(want), "{error}");
        }
        let error = boot(b"MZ", Some(ImageFormat::Pvh), &BootRequest::default()).err().unwrap();
        assert!(error.contains("a PE/EFI program"), "{error}");
        let error = boot(HELLO_FORMS[0].1, Some(ImageFormat::Linux64), &BootRequest::default()).err().unwrap();
        assert_eq!(error, "test: forced to be 64-bit ELF for the Linux entry, which it is not");
    }

    #[test]
    fn sec62_command_lines_are_bounded() {
        let boot = |text: &str| boot(HELLO_FORMS[0].1, None, &BootRequest { cmdline: text, ..BootRequest::default() });
        assert!(boot(&"x".repeat(2047)).is_ok());
        let error = boot(&"x".repeat(2048)).err().unwrap();
        assert_eq!(error, "test: the command line has 2048 bytes, at most 2047 fit");
        for text in ["a\0b", "a\nb", "\u{e4}"] {
            assert!(boot(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn sec62_random_elf_headers_never_panic(
            bits in prop_oneof![Just(32u32), Just(64)],
            changes in prop::collection::vec((0usize..400, any::<u8>()), 1..20),
        ) {
            let headers = [elf_fixture::load(MIB, 32, 64), elf_fixture::note(0, 32), elf_fixture::load(2 * MIB, 8, 8)];
            let mut file = build(bits, MIB, &headers, &[1; 64]);
            for (offset, byte) in changes {
                file[offset] = byte;
            }
            let _ = boot(&file, None, &BootRequest::default());
        }

        #[test]
        fn sec62_random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            for forced in [None, Some(ImageFormat::Flat16), Some(ImageFormat::Flat64), Some(ImageFormat::Pvh)] {
                let _ = boot(&bytes, forced, &BootRequest::default());
            }
        }
    }
}
