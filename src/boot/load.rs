//! Loads a kernel and all that goes with it into RAM, and says in which state the first vCPU starts.
//!
//! The kernel first, so that the initrd goes around it; then the command line, the initrd, and what tells the guest of them.

use super::elf::ElfImage;
use super::error::{BootError, Problem};
use super::format::ImageFormat;
use super::image::Image;
use super::kernel::{Headers, Kernel};
use super::placement::{LoadedSegment, Placement};
use super::pvh::{self, BootInfo};
use super::{elf_load, flat, initrd, multiboot, zero_page};
use crate::arch::cpu_state::CpuState;
use crate::arch::layout::{CMDLINE, CMDLINE_SIZE, FLAT16_ENTRY, HOLE_END};
use crate::memory::map::MemoryMap;
use crate::memory::ram::GuestRam;
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{Cmdline, load_cmdline};
use vm_memory::GuestAddress;

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
    /// How a kernel from the cache comes into RAM.
    pub pages: Pages,
}

/// How a kernel from the cache comes into RAM; any other image is copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Mapped from the page cache, which many machines share. Measured with Debian's kernel: the guest's first instruction comes
    /// forward by the whole copy, two orders of magnitude, and user space is reached as soon as with a copy, for what a page's
    /// first use then costs is what copying it would have.
    #[default]
    Mapped,
    /// Copied, into huge pages where the host has some.
    Copied,
}

/// A loaded machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The state in which the first vCPU starts.
    pub state: CpuState,
    /// What lies where in RAM, ascending.
    pub segments: Vec<LoadedSegment>,
}

/// Loads `kernel` and all it needs into `ram`, which is fresh and which `map` describes.
///
/// # Errors
/// Something does not fit, overlaps, or cannot be read; the error names the image.
pub fn load(kernel: &Kernel, request: &BootRequest, ram: &GuestRam, map: &MemoryMap) -> Result<Loaded, BootError> {
    let mut placement = Placement::new(ram, map);
    let of_kernel = |problem: Problem| problem.of(kernel.name());
    if let Headers::Flat16 = kernel.headers() {
        let state = load_flat16(kernel, request, &mut placement).map_err(of_kernel)?;
        return Ok(Loaded { state, segments: placement.into_segments() });
    }
    if request.load_address.is_some() {
        return Err(of_kernel(Problem::NoPlaceFor { format: kernel.format(), what: "--load-address" }));
    }
    let state = load_kernel(kernel, request.pages, &mut placement).map_err(of_kernel)?;
    check_reach(&state).map_err(of_kernel)?;
    let cmdline = write_cmdline(kernel.headers(), request.cmdline, &mut placement).map_err(of_kernel)?;
    let address_max = initrd_address_max(kernel.headers());
    let load_initrd = |file: &Image| initrd::load(file, address_max, &mut placement).map_err(|it| it.of(file.name()));
    let initrd = request.initrd.map(load_initrd).transpose()?;
    let info = BootInfo { cmdline, initrd, rsdp: request.rsdp };
    let told = match (kernel.headers(), setup_header(kernel.headers())) {
        (_, Some(header)) => zero_page::write(&mut placement, header, &info),
        (Headers::Multiboot(_), None) => multiboot::write_info(&mut placement, &info),
        (_, None) => pvh::write_start_info(&mut placement, &info),
    };
    told.map_err(of_kernel)?;
    Ok(Loaded { state, segments: placement.into_segments() })
}

fn load_flat16(kernel: &Kernel, request: &BootRequest, placement: &mut Placement) -> Result<CpuState, Problem> {
    let no_place = |what| Err(Problem::NoPlaceFor { format: ImageFormat::Flat16, what });
    if request.initrd.is_some() {
        return no_place("an initrd");
    }
    if !request.cmdline.is_empty() {
        return no_place("a command line");
    }
    flat::load_16(kernel.image(), request.load_address.unwrap_or(FLAT16_ENTRY), placement)
}

/// Puts the kernel itself into RAM and gives the state that enters it.
fn load_kernel(kernel: &Kernel, pages: Pages, placement: &mut Placement) -> Result<CpuState, Problem> {
    let image = kernel.image();
    match kernel.headers() {
        Headers::Pvh(elf) | Headers::Linux64(elf) => {
            elf_load::copy(image, &elf.segments, placement)?;
            enter_elf(elf, placement)
        }
        Headers::Unpacked(kernel) => {
            let (image, segments) = (&kernel.image, &kernel.elf.segments);
            match (image.file(), kernel.cached_at) {
                (Some(file), Some(base)) if pages == Pages::Mapped => {
                    elf_load::map(file, base, image.size(), segments, placement)?;
                }
                _ => elf_load::copy(image, segments, placement)?,
            }
            enter_elf(&kernel.elf, placement)
        }
        Headers::BzImage(linux) => {
            let entry = linux.load(image, placement)?;
            zero_page::entry_state(placement, entry)
        }
        Headers::Multiboot(kernel) => kernel.load(image, placement),
        Headers::Flat16 | Headers::Flat64 => flat::load_64(image, placement),
    }
}

/// Whether the state reaches its entry: 32-bit modes and the boot page tables both end at 4 GiB.
fn check_reach(state: &CpuState) -> Result<(), Problem> {
    let entry = state.regs.rip;
    if entry < HOLE_END { Ok(()) } else { Err(Problem::EntryTooHigh { entry }) }
}

fn enter_elf(elf: &ElfImage, placement: &mut Placement) -> Result<CpuState, Problem> {
    match elf.notes.pvh_entry {
        Some(_) => pvh::entry_state(placement, elf.pvh_entry()?),
        None => zero_page::entry_state(placement, elf.entry()?),
    }
}

/// The setup header that a kernel gets back in `boot_params`; `None` where it is entered by another protocol than Linux'.
fn setup_header(headers: &Headers) -> Option<setup_header> {
    match headers {
        Headers::BzImage(linux) => Some(linux.header()),
        Headers::Linux64(_) => Some(zero_page::plain_setup_header()),
        Headers::Unpacked(kernel) => kernel.elf.notes.pvh_entry.is_none().then_some(kernel.setup_header),
        Headers::Pvh(_) | Headers::Multiboot(_) | Headers::Flat16 | Headers::Flat64 => None,
    }
}

/// Highest address that the initrd may reach. A kernel that does not say, and may be a 32-bit Linux, gets it in what such a
/// kernel maps.
fn initrd_address_max(headers: &Headers) -> u64 {
    match headers {
        Headers::BzImage(linux) => linux.header().initrd_addr_max.into(),
        Headers::Unpacked(kernel) => kernel.setup_header.initrd_addr_max.into(),
        Headers::Linux64(_) => u64::MAX,
        Headers::Pvh(elf) if elf.class_64 => u64::MAX,
        Headers::Pvh(_) | Headers::Multiboot(_) | Headers::Flat16 | Headers::Flat64 => initrd::ADDRESS_MAX,
    }
}

/// Writes the command line to [`CMDLINE`]; an empty one is none. In Multiboot's, by custom, the first word is the kernel's
/// name (so does GRUB, and Xen skips it).
fn write_cmdline(headers: &Headers, text: &str, placement: &mut Placement) -> Result<Option<u64>, Problem> {
    let text = match headers {
        _ if text.is_empty() => return Ok(None),
        Headers::Multiboot(_) => format!("kernel {text}"),
        _ => text.to_string(),
    };
    let room = CMDLINE_SIZE as usize - 1;
    let max = setup_header(headers).map_or(room, |header| room.min(header.cmdline_size as usize));
    if text.len() > max {
        return Err(Problem::CmdlineTooLong { size: text.len(), max });
    }
    let mut cmdline = Cmdline::new(CMDLINE_SIZE as usize).expect("the capacity is not 0");
    cmdline.insert_str(&text).map_err(Problem::Cmdline)?;
    placement.claim("command line", CMDLINE, text.len() as u64 + 1)?;
    load_cmdline(placement.ram().backend(), GuestAddress(CMDLINE), &cmdline)
        .map_err(|source| Problem::Loader { what: "write the command line", source })?;
    Ok(Some(CMDLINE))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{RAM_SIZE, boot, elf, note, segment, word};
    use super::super::kernel::Unpack;
    use super::super::samples::HELLO_FORMS;
    use super::*;
    use crate::arch::cpu_state::{BOOT_CS, CR0_PG};
    use crate::arch::layout::{
        BOOT_GDT, BOOT_PML4, FLAT64_ENTRY, GIB, HIGH_RAM, LOW_RAM_END, MIB, START_INFO, ZERO_PAGE,
    };

    #[test]
    fn every_form_of_hello_is_told_and_loaded() {
        for (form, format, entry) in [
            ("pvh", ImageFormat::Pvh, None),
            ("linux64", ImageFormat::Linux64, None),
            ("multiboot", ImageFormat::Multiboot, None),
            ("flat16", ImageFormat::Flat16, Some(FLAT16_ENTRY)),
        ] {
            let (_, bytes) = HELLO_FORMS.iter().find(|(name, _)| *name == form).unwrap();
            let image = Image::from_bytes(form, bytes);
            let kernel = Kernel::identify(&image, None, Unpack::OnHost { cache: None }).unwrap();
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
        let request =
            BootRequest { cmdline: "a=1 b", initrd: Some(&initrd), rsdp: Some(0xe_0000), ..BootRequest::default() };
        let (loaded, ram) = boot(bytes, None, &request).unwrap();
        assert_eq!(loaded.state.regs.rbx, START_INFO);
        assert_eq!((loaded.state.cs.selector, loaded.state.cr0 & CR0_PG), (BOOT_CS, 0));
        assert_eq!(word(&ram, START_INFO), 1 << 32 | 0x336e_c578);
        assert_eq!(word(&ram, START_INFO + 8), 1 << 32, "one module");
        let modules = word(&ram, START_INFO + 16);
        assert_eq!((word(&ram, modules), word(&ram, modules + 8)), (RAM_SIZE - 4096, 8));
        assert_eq!(word(&ram, RAM_SIZE - 4096).to_le_bytes(), *b"12345678");
        assert_eq!(word(&ram, word(&ram, START_INFO + 24)).to_le_bytes(), *b"a=1 b\0\0\0");
        assert_eq!(word(&ram, START_INFO + 32), 0xe_0000);
        let map = word(&ram, START_INFO + 40);
        assert_eq!([0, 8, 16].map(|offset| word(&ram, map + offset)), [0, LOW_RAM_END, 1]);
        assert_eq!(word(&ram, START_INFO + 48), 3, "entries");
    }

    #[test]
    fn the_linux_entry_hands_over_boot_params() {
        let (_, bytes) = HELLO_FORMS[1];
        let initrd = Image::from_bytes("initrd", &[9; 5000]);
        let request =
            BootRequest { cmdline: "quiet", initrd: Some(&initrd), rsdp: Some(0xe_0000), ..BootRequest::default() };
        let (loaded, ram) = boot(bytes, None, &request).unwrap();
        assert_eq!((loaded.state.regs.rsi, loaded.state.cr3), (ZERO_PAGE, BOOT_PML4));
        assert_eq!(word(&ram, BOOT_PML4 + 2 * 4096 + 8), 0x20_0083, "the second 2 MiB page");
        assert_eq!(word(&ram, BOOT_GDT + 0x10), 0x00af_9b00_0000_ffff);
        assert_eq!(word(&ram, ZERO_PAGE + 0x70), 0xe_0000, "acpi_rsdp_addr");
        assert_eq!(word(&ram, ZERO_PAGE + 0x1e8) as u8, 3, "e820_entries");
        assert_eq!(word(&ram, ZERO_PAGE + 0x202) as u32, 0x5372_6448, "HdrS");
        assert_eq!(word(&ram, ZERO_PAGE + 0x218), 5000 << 32 | (RAM_SIZE - 8192), "ramdisk_image, ramdisk_size");
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
    fn sec62_an_entry_beyond_what_its_mode_reaches_is_refused() {
        let high = HOLE_END + MIB;
        let map = MemoryMap::new(5 * GIB).unwrap();
        let ram = GuestRam::new(&map).unwrap();
        let mut with_note = vec![0x90; 16];
        with_note.extend([4u32, 8, 18].map(u32::to_le_bytes).as_flattened());
        with_note.extend(b"Xen\0");
        with_note.extend(high.to_le_bytes());
        for content in [&with_note, &vec![0x90; 40]] {
            let file = elf(64, high, &[segment(high, 40, 40), note(16, 24)], content);
            let image = Image::from_bytes("test", &file);
            let kernel = Kernel::identify(&image, None, Unpack::InGuest).unwrap();
            let error = load(&kernel, &BootRequest::default(), &ram, &map).unwrap_err().to_string();
            assert!(error.starts_with("test: its entry point 0x100100000 lies beyond 4 GiB"), "{error}");
        }
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
}
