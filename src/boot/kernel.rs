//! What an image is: told by its first bytes, in a fixed order, and its headers read once and validated.
//!
//! bzImage, ELF with a PVH note, Multiboot header, 64-bit ELF for the Linux entry, boot sector. The order matters: a Linux
//! kernel with a PVH note is also a 64-bit ELF, and a bzImage with an EFI stub ends its first sector with 55 AA.

use super::elf::{self, ElfImage};
use super::error::{BootError, Problem};
use super::format::{self, HEAD_SIZE, ImageFormat};
use super::image::Image;
use super::linux::LinuxImage;
use super::multiboot::{self, MultibootImage};
use super::unpacked::Unpacked;
use crate::backend::kernel_cache::{KernelCache, StoreJob};

/// An image that some loader takes, with what was read of it so far.
pub struct Kernel<'a> {
    image: &'a Image<'a>,
    headers: Headers,
}

/// The headers of what is entered.
pub(super) enum Headers {
    Pvh(ElfImage),
    Multiboot(MultibootImage),
    Linux64(ElfImage),
    Unpacked(Unpacked),
    BzImage(LinuxImage),
    Flat16,
    Flat64,
}

/// Who unpacks a bzImage.
#[derive(Clone, Copy, Debug)]
pub enum Unpack<'a> {
    /// The host, and the ELF file inside is booted, at the address that it is linked at.
    OnHost {
        /// Where kernels are that were unpacked before.
        cache: Option<&'a KernelCache>,
    },
    /// The image itself, in the guest. Only so KASLR moves the kernel.
    InGuest,
}

impl<'a> Kernel<'a> {
    /// Tells what `image` is, or holds it to be what `forced` says.
    ///
    /// # Errors
    /// No loader takes it; the error names what it seems to be and what is supported.
    pub fn identify(
        image: &'a Image<'a>,
        forced: Option<ImageFormat>,
        unpack: Unpack,
    ) -> Result<Kernel<'a>, BootError> {
        let headers = match forced {
            Some(ImageFormat::Flat16) => Ok(Headers::Flat16),
            Some(ImageFormat::Flat64) => Ok(Headers::Flat64),
            forced => Headers::read(image, unpack).and_then(|headers| match forced {
                Some(format) if headers.format() != format => Err(Problem::NotThatFormat(format)),
                _ => Ok(headers),
            }),
        };
        Ok(Kernel { image, headers: headers.map_err(|problem| problem.of(image.name()))? })
    }

    /// What the image is.
    pub fn format(&self) -> ImageFormat {
        self.headers.format()
    }

    /// What the image is and by which entry it is booted, in words.
    pub fn describe(&self) -> String {
        let format = self.format();
        match &self.headers {
            Headers::Pvh(_) => format!("{format}, entered by it"),
            Headers::Linux64(_) | Headers::Multiboot(_) | Headers::Flat16 | Headers::Flat64 => format.to_string(),
            Headers::BzImage(_) => format!("{format}, unpacks itself in the guest, 64-bit Linux entry"),
            Headers::Unpacked(kernel) => {
                let how = if kernel.cached_at.is_some() { "cached" } else { "just now" };
                let entry = if kernel.elf.notes.pvh_entry.is_some() { "PVH entry" } else { "64-bit Linux entry" };
                format!("{format}, unpacked by the host ({}, {how}), {entry}, no KASLR", kernel.compression)
            }
        }
    }

    /// Whether it is a Linux kernel: a bzImage, or an ELF file with notes of Linux'.
    pub fn is_linux(&self) -> bool {
        match &self.headers {
            Headers::Pvh(elf) | Headers::Linux64(elf) => elf.notes.linux,
            Headers::Unpacked(_) | Headers::BzImage(_) => true,
            Headers::Multiboot(_) | Headers::Flat16 | Headers::Flat64 => false,
        }
    }

    /// Whether it comes from the cache.
    pub fn is_cached(&self) -> bool {
        matches!(&self.headers, Headers::Unpacked(kernel) if kernel.cached_at.is_some())
    }

    /// The image's name.
    pub fn name(&self) -> &str {
        self.image.name()
    }

    /// What puts a kernel that was unpacked just now into `cache`. It holds the kernel's bytes: to be run after the first
    /// entry, on a thread of its own.
    pub fn into_store_job(self, cache: &KernelCache) -> Option<StoreJob> {
        match self.headers {
            Headers::Unpacked(kernel) => kernel.into_store_job(self.image, cache),
            _ => None,
        }
    }

    pub(super) fn image(&self) -> &Image<'a> {
        self.image
    }

    pub(super) fn headers(&self) -> &Headers {
        &self.headers
    }
}

impl Headers {
    fn read(image: &Image, unpack: Unpack) -> Result<Headers, Problem> {
        if let Unpack::OnHost { cache: Some(cache) } = unpack
            && let Some(unpacked) = Unpacked::find(image, cache)
        {
            return Ok(Headers::Unpacked(unpacked));
        }
        let head = image.read(0, HEAD_SIZE)?;
        if format::is_bzimage(&head) {
            Headers::read_bzimage(image, &head, unpack)
        } else {
            Headers::read_other(image, &head)
        }
    }

    fn read_bzimage(image: &Image, head: &[u8], unpack: Unpack) -> Result<Headers, Problem> {
        let malformed = |what| Problem::Malformed { format: "Linux bzImage", what };
        let linux = LinuxImage::parse(image, head).map_err(malformed)?;
        if let Unpack::OnHost { .. } = unpack
            && let Some(unpacked) = Unpacked::unpack(image, &linux)?
        {
            return Ok(Headers::Unpacked(unpacked));
        }
        if linux.has_64_bit_entry() {
            return Ok(Headers::BzImage(linux));
        }
        Err(malformed("it has no 64-bit entry".to_string()))
    }

    fn read_other(image: &Image, head: &[u8]) -> Result<Headers, Problem> {
        let elf = if elf::is_elf(head) { read_elf(image, head)? } else { None };
        if let Some(elf) = elf.as_ref().filter(|elf| elf.notes.pvh_entry.is_some()) {
            return Ok(Headers::Pvh(elf.clone()));
        }
        if let Some(offset) = multiboot::find_header(head)
            && let Some(kernel) = MultibootImage::parse(image, head, offset, elf.as_ref())?
        {
            return Ok(Headers::Multiboot(kernel));
        }
        match elf {
            Some(elf) if !elf.fixed => Err(Problem::Program("a dynamic or position-independent program")),
            Some(elf) if elf.class_64 => Ok(Headers::Linux64(elf)),
            None if format::is_boot_sector(head) => Ok(Headers::Flat16),
            None if format::is_windows_program(head) => Err(Problem::WindowsProgram),
            _ if elf::is_elf(head) => Err(Problem::Unsupported { found: elf::describe(head) }),
            _ => Err(Problem::Unsupported { found: format::describe(head).to_string() }),
        }
    }

    fn format(&self) -> ImageFormat {
        match self {
            Headers::Pvh(_) => ImageFormat::Pvh,
            Headers::Multiboot(_) => ImageFormat::Multiboot,
            Headers::Linux64(_) => ImageFormat::Linux64,
            Headers::Unpacked(_) | Headers::BzImage(_) => ImageFormat::BzImage,
            Headers::Flat16 => ImageFormat::Flat16,
            Headers::Flat64 => ImageFormat::Flat64,
        }
    }
}

fn read_elf(image: &Image, head: &[u8]) -> Result<Option<ElfImage>, Problem> {
    ElfImage::parse(image, head).map_err(|what| Problem::Malformed { format: "ELF file", what })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{boot, elf, segment};
    use super::super::load::BootRequest;
    use super::super::samples::HELLO_FORMS;
    use super::*;
    use crate::arch::layout::MIB;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_for_this_machine_is_named() {
        let changed = |offset: usize, byte: u8| {
            let mut file = elf(64, MIB, &[segment(MIB, 64, 64)], &[0x90; 64]);
            file[offset] = byte;
            file
        };
        for (bytes, want) in [
            (changed(18, 183), "a 64-bit ELF executable without PVH note or Multiboot header for aarch64"),
            (changed(5, 2), "a big-endian machine"),
            (changed(16, 1), "a 64-bit ELF object file for x86, which does not boot. Supported: Linux bzImage"),
            (changed(16, 3), "this is a dynamic or position-independent program for Linux, not a kernel"),
            (elf(32, MIB, &[segment(MIB, 64, 64)], &[0x90; 64]), "a 32-bit ELF executable without PVH"),
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

    proptest! {
        #[test]
        fn sec62_random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            for forced in [None, Some(ImageFormat::Flat16), Some(ImageFormat::Flat64), Some(ImageFormat::Pvh)] {
                let _ = boot(&bytes, forced, &BootRequest::default());
            }
        }
    }
}
