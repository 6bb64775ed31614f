//! bzImage: Linux' own format, a setup header before a kernel that unpacks itself.
//!
//! Two ways to boot one. The payload is unpacked here and the ELF file in it is booted (`kernel.rs`); or the image is loaded
//! as it is and entered at its own 64-bit entry, which unpacks the kernel in the guest and may move it (KASLR). The 16-bit
//! and 32-bit entries are left out: the first needs a BIOS, and no kernel since 3.8 needs the second.
//! Source: Linux boot.rst "The Real-Mode Kernel Header", "64-bit Boot Protocol".

use super::error::Problem;
use super::image::{Image, ImageReader};
use super::payload::{Compression, UNPACKED_MAX};
use super::placement::Placement;
use crate::arch::layout::HIGH_RAM;
use linux_loader::loader::KernelLoader;
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::bzimage::BzImage;
use vm_memory::{ByteValued, GuestAddress};

/// Where the setup header begins in the image.
const HEADER_START: usize = 0x1f1;
/// Where the header's own size stands: the second byte of the jump over it, counted from 0x202.
const HEADER_JUMP: usize = 0x201;
/// Oldest boot protocol with the payload's place in the header.
const VERSION_PAYLOAD: u16 = 0x208;
/// Oldest boot protocol with a 64-bit entry.
const VERSION_64: u16 = 0x20c;
/// `loadflags`: the kernel goes to 1 MiB or above (a zImage's does not).
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry.
const XLF_KERNEL_64: u16 = 1;
/// Where the 64-bit entry lies, from the start of the loaded kernel.
const ENTRY_64: u64 = 0x200;
/// Size of a sector: `setup_sects` counts them.
const SECTOR: u64 = 512;

/// The validated headers of a bzImage.
#[derive(Clone, Debug, PartialEq)]
pub struct LinuxImage {
    header: setup_header,
    /// The file up to the header's end, as it was when it was validated.
    head: Vec<u8>,
    /// Where the protected-mode kernel begins in the file.
    kernel_offset: u64,
    /// Bytes of it.
    kernel_size: u64,
}

impl LinuxImage {
    /// Validates the setup header of `image`, whose first bytes are `head`.
    ///
    /// # Errors
    /// It contradicts the file's size, or is of a kind or age that nothing here boots.
    pub fn parse(image: &Image, head: &[u8]) -> Result<LinuxImage, String> {
        // What a shorter header of an older kernel does not have is zero.
        let end = head.get(HEADER_JUMP).map_or(0, |jump| 0x202 + usize::from(*jump));
        let bytes = head.get(HEADER_START..end).ok_or("its setup header is cut off")?;
        let mut header = setup_header::default();
        let known = bytes.len().min(size_of::<setup_header>());
        header.as_mut_slice()[..known].copy_from_slice(&bytes[..known]);

        let version = header.version;
        if version < VERSION_PAYLOAD {
            let (major, minor) = (version >> 8, version & 0xff);
            return Err(format!("boot protocol {major}.{minor:02}; Linux 2.6.26 and later have 2.08 or more"));
        }
        if header.loadflags & LOADED_HIGH == 0 {
            return Err("a zImage, which loads below 1 MiB".to_string());
        }
        let sectors = if header.setup_sects == 0 { 4 } else { header.setup_sects };
        let kernel_offset = (u64::from(sectors) + 1) * SECTOR;
        let kernel_size = image.size().checked_sub(kernel_offset).filter(|size| *size > 0);
        let kernel_size = kernel_size.ok_or("its setup code fills the whole file")?;
        if u64::from(header.payload_offset) + u64::from(header.payload_length) > kernel_size {
            return Err("its payload lies beyond the file's end".to_string());
        }
        let head = head[..end].to_vec();
        Ok(LinuxImage { header, head, kernel_offset, kernel_size })
    }

    /// The setup header.
    pub fn header(&self) -> setup_header {
        self.header
    }

    /// Whether the image can be entered as it is.
    pub fn has_64_bit_entry(&self) -> bool {
        let promised = self.header.version >= VERSION_64 && self.header.xloadflags & XLF_KERNEL_64 != 0;
        promised && self.kernel_size > ENTRY_64
    }

    /// Reads and unpacks the payload; `Ok(None)` where there is none or no decoder reads it.
    ///
    /// # Errors
    /// The file cannot be read, or the payload is broken or larger than the kernel says that it needs.
    pub fn unpack(&self, image: &Image) -> Result<Option<(Compression, Vec<u8>)>, Problem> {
        let start = self.kernel_offset + u64::from(self.header.payload_offset);
        let size = self.header.payload_length;
        let magic = image.read(start, Compression::MAGIC_SIZE.min(size.into()))?;
        let Some(compression) = Compression::of(&magic) else { return Ok(None) };
        // The image's own decompressor unpacks in place, so neither form of a kernel takes more than `init_size`.
        let max = self.header.init_size.min(UNPACKED_MAX);
        if size > max {
            let what = format!("its payload of {size} bytes is larger than the {max} that the kernel may take");
            return Err(Problem::Malformed { format: "Linux bzImage", what });
        }
        let unpacked = compression.unpack(&image.read(start, size.into())?, max as usize);
        let broken =
            |error| Problem::Malformed { format: "Linux bzImage", what: format!("its {compression} payload: {error}") };
        Ok(Some((compression, unpacked.map_err(broken)?)))
    }

    /// Loads the kernel as it is, with the room that it unpacks itself in; gives the address of its 64-bit entry.
    ///
    /// # Errors
    /// There is no such room, or the file cannot be read.
    pub fn load(&self, image: &Image, placement: &mut Placement) -> Result<u64, Problem> {
        let start = self.claim_room(placement)?;
        let mut reader = ImageReader { head: &self.head, image, shift: 0, position: 0 };
        BzImage::load(placement.ram().backend(), Some(GuestAddress(start)), &mut reader, None)
            .map_err(|source| Problem::Loader { what: "copy the kernel into RAM", source })?;
        Ok(start + ENTRY_64)
    }

    /// Claims `init_size` bytes at the preferred address, or as low as a relocatable kernel may go.
    fn claim_room(&self, placement: &mut Placement) -> Result<u64, Problem> {
        let what = "kernel, with the room that it unpacks in";
        let size = self.kernel_size.max(self.header.init_size.into());
        let preferred = self.header.pref_address;
        let refused = match placement.claim(what, preferred, size) {
            Ok(()) => return Ok(preferred),
            Err(problem) => problem,
        };
        let alignment = u64::from(self.header.kernel_alignment);
        if self.header.relocatable_kernel == 0 || !alignment.is_power_of_two() {
            return Err(refused);
        }
        let lowest = HIGH_RAM.next_multiple_of(alignment);
        placement.claim(what, lowest, size).map_err(|_| refused)?;
        Ok(lowest)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{
        KERNEL_OFFSET, PAYLOAD_OFFSET, RAM_SIZE, boot, boot_kernel, bzimage, elf, segment, word,
    };
    use super::super::format::ImageFormat;
    use super::super::kernel::{Kernel, Unpack};
    use super::super::load::{BootRequest, Loaded};
    use super::*;
    use crate::arch::cpu_state::CpuState;
    use crate::arch::layout::{MIB, ZERO_PAGE};
    use crate::memory::ram::GuestRam;
    use flate2::{Compression as Level, write::GzEncoder};
    use proptest::prelude::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// A kernel at 2 MiB, as an ELF file.
    fn vmlinux() -> Vec<u8> {
        elf(64, 2 * MIB, &[segment(2 * MIB, 64, 4096)], &[0x90; 64])
    }

    fn boot_in_guest(bytes: &[u8], request: &BootRequest) -> Result<(Loaded, GuestRam), String> {
        let image = Image::from_bytes("test", bytes);
        let kernel = Kernel::identify(&image, None, Unpack::InGuest).map_err(|error| error.to_string())?;
        assert!(kernel.is_linux() && kernel.format() == ImageFormat::BzImage);
        boot_kernel(&kernel, request)
    }

    #[test]
    fn the_kernel_inside_is_booted() {
        for payload in [vmlinux(), gzip(&vmlinux())] {
            let (loaded, ram) = boot(&bzimage(&payload), None, &BootRequest::default()).unwrap();
            assert_eq!(loaded.state.regs.rip, 2 * MIB);
            assert_eq!(loaded.state.regs.rsi, ZERO_PAGE);
            assert_eq!(word(&ram, 2 * MIB), 0x9090_9090_9090_9090);
            assert_eq!(word(&ram, ZERO_PAGE + 0x258), 4 * MIB, "the bzImage's own setup header is handed over");
        }
    }

    #[test]
    fn an_image_is_entered_by_itself_where_it_must_be() {
        let file = bzimage(b"BZh9 no decoder reads it");
        for booted in [boot_in_guest(&file, &BootRequest::default()), boot(&file, None, &BootRequest::default())] {
            let (loaded, ram) = booted.unwrap();
            let entry = 4 * MIB + 0x200;
            assert_eq!(loaded.state, {
                let mut state = CpuState::long_mode(entry);
                state.regs.rsi = ZERO_PAGE;
                state
            });
            assert_eq!(word(&ram, entry), 0xcccc_cccc_cccc_cccc);
            assert_eq!(word(&ram, 4 * MIB + PAYLOAD_OFFSET as u64).to_le_bytes(), *b"BZh9 no ");
            let kernel = loaded.segments.iter().find(|segment| segment.range.start == 4 * MIB).unwrap();
            assert_eq!(kernel.range.size, MIB, "init_size");
        }
    }

    #[test]
    fn a_relocatable_kernel_goes_where_there_is_room() {
        let mut file = bzimage(b"");
        file[0x260..0x264].copy_from_slice(&(13 * MIB as u32).to_le_bytes());
        assert_eq!(boot_in_guest(&file, &BootRequest::default()).unwrap().0.state.regs.rip, 2 * MIB + 0x200);
        file[0x234] = 0;
        let error = boot_in_guest(&file, &BootRequest::default()).err().unwrap();
        assert!(error.contains("needs 13631488 bytes at 0x400000, which is not free guest RAM"), "{error}");
    }

    #[test]
    fn the_initrd_goes_around_the_kernel() {
        let mut file = bzimage(b"");
        file[0x258..0x260].copy_from_slice(&(RAM_SIZE - MIB).to_le_bytes());
        let initrd = Image::from_bytes("initrd", &[7; 4096]);
        let request = BootRequest { initrd: Some(&initrd), ..BootRequest::default() };
        let (_, ram) = boot_in_guest(&file, &request).unwrap();
        assert_eq!(word(&ram, ZERO_PAGE + 0x218), 4096 << 32 | (RAM_SIZE - MIB - 4096));
        file[0x22c..0x230].copy_from_slice(&0x2f_ffffu32.to_le_bytes());
        let (_, ram) = boot_in_guest(&file, &request).unwrap();
        assert_eq!(word(&ram, ZERO_PAGE + 0x218), 4096 << 32 | (3 * MIB - 4096), "below initrd_addr_max");
    }

    #[test]
    fn sec62_hostile_setup_headers_are_refused() {
        let changes: [(usize, &[u8], &str); 9] = [
            (0x201, &[0], "boot protocol 0.00"),
            (0x206, &[0x07, 0x02], "boot protocol 2.07"),
            (0x206, &[0xff, 0x00], "boot protocol 0.255"),
            (0x211, &[0], "a zImage"),
            (0x1f1, &[255], "its setup code fills the whole file"),
            (0x248, &[0xff; 4], "its payload lies beyond the file's end"),
            (0x24c, &[0xff; 4], "its payload lies beyond the file's end"),
            (0x236, &[0], "it has no 64-bit entry"),
            (0x206, &[0x0b, 0x02], "it has no 64-bit entry"),
        ];
        for (offset, bytes, want) in changes {
            let mut file = bzimage(b"payload");
            file[offset..offset + bytes.len()].copy_from_slice(bytes);
            let error = boot(&file, None, &BootRequest::default()).err().unwrap_or_default();
            assert!(error.contains(want), "{error:?} instead of {want:?}");
        }
        for (offset, bytes) in [(0x258, &[0xff; 8][..]), (0x260, &[0xff; 4]), (0x230, &[0; 4])] {
            let mut file = bzimage(b"payload");
            file[0x260..0x264].fill(0xff);
            file[offset..offset + bytes.len()].copy_from_slice(bytes);
            let error = boot_in_guest(&file, &BootRequest::default()).err().unwrap_or_default();
            assert!(error.contains("not free guest RAM"), "{error:?}");
        }
    }

    #[test]
    fn sec62_hostile_payloads_are_refused() {
        let bomb = gzip(&vec![0; 2 << 20]);
        let mut broken = gzip(&vmlinux());
        broken[20] ^= 0xff;
        let mut large = bzimage(&vmlinux());
        large[0x260..0x264].copy_from_slice(&100u32.to_le_bytes());
        let error = boot(&large, None, &BootRequest::default()).err().unwrap();
        assert!(error.contains("larger than the 100 that the kernel may take"), "{error}");
        for (payload, want) in [(bomb, "it unpacks to more than 1048576 bytes"), (broken, "broken Linux bzImage")] {
            let error = boot(&bzimage(&payload), None, &BootRequest::default()).err().unwrap();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn sec62_truncated_bzimages_are_refused() {
        let whole = bzimage(&gzip(&vmlinux()));
        for size in (0..KERNEL_OFFSET).chain([KERNEL_OFFSET, KERNEL_OFFSET + 1, whole.len() - 1]) {
            // Cut behind 55 AA, it is a boot sector: that is not wrong, only not Linux.
            let booted = boot(&whole[..size], None, &BootRequest::default());
            assert!(booted.is_err() || (512..0x206).contains(&size), "{size}");
        }
    }

    #[test]
    fn sec62_an_image_that_ends_before_its_entry_is_refused() {
        let mut file = bzimage(b"");
        file[0x248..0x24c].fill(0); // no payload
        let entry = KERNEL_OFFSET + 0x200;
        let error = boot_in_guest(&file[..=entry], &BootRequest::default()).err();
        assert_eq!(error, None, "one byte of code is enough");
        for size in [KERNEL_OFFSET + 1, entry] {
            let error = boot(&file[..size], None, &BootRequest::default()).err().unwrap_or_default();
            assert!(error.contains("it has no 64-bit entry"), "{error}");
        }
    }

    #[test]
    fn a_kernels_own_limit_of_the_command_line_holds() {
        let request = |cmdline| BootRequest { cmdline, ..BootRequest::default() };
        let (exact, long) = ("x".repeat(255), "x".repeat(256));
        assert!(boot_in_guest(&bzimage(b""), &request(&exact)).is_ok());
        let error = boot_in_guest(&bzimage(b""), &request(&long)).err().unwrap();
        assert_eq!(error, "test: the command line has 256 bytes, at most 255 fit");
    }

    proptest! {
        #[test]
        fn sec62_random_setup_headers_never_panic(
            changes in prop::collection::vec((0x1f1usize..0x26c, any::<u8>()), 1..12),
        ) {
            let mut file = bzimage(&gzip(&vmlinux()));
            for (offset, byte) in changes {
                file[offset] = byte;
            }
            let initrd = Image::from_bytes("initrd", &[7; 100]);
            let request = BootRequest { cmdline: "a", initrd: Some(&initrd), ..BootRequest::default() };
            let _ = boot(&file, None, &request);
            let image = Image::from_bytes("test", &file);
            if let Ok(kernel) = Kernel::identify(&image, None, Unpack::InGuest) {
                let _ = boot_kernel(&kernel, &request);
            }
        }
    }
}
