//! The ELF file that a bzImage held: unpacked just now, or cached when it was unpacked before.
//!
//! What is cached is RAM as its segments leave it, in one piece, so that one mapping loads it; and beside it what is known of its headers,
//! so that a cached kernel is neither read nor parsed before.

use super::elf::{self, ElfImage, ElfSegment};
use super::error::Problem;
use super::format::HEAD_SIZE;
use super::image::Image;
use super::linux::LinuxImage;
use super::payload::Compression;
use crate::arch::layout::{HIGH_RAM, MIB, PAGE_SIZE};
use crate::backend::kernel_cache::{FileKey, KernelCache, Piece, StoreJob};
use linux_loader::loader::bootparam::setup_header;
use serde::{Deserialize, Serialize};
use vm_memory::ByteValued;

/// What messages call the kernel inside a bzImage.
const NAME: &str = "the kernel inside";
/// Most zeros between two segments that a cached file is to hold. Linux has its at 2 MiB.
const GAP_MAX: u64 = 4 * MIB;

/// A kernel without its wrapping.
pub struct Unpacked {
    /// The ELF file, as far as it is loaded, or the cached file.
    pub image: Image<'static>,
    /// Its headers.
    pub elf: ElfImage,
    /// The setup header of the image that it was in.
    pub setup_header: setup_header,
    /// How it was compressed.
    pub compression: Compression,
    /// Of a file from the cache, which nobody changes: the guest-physical page that it begins with.
    pub cached_at: Option<u64>,
    /// The state of the bzImage's file before it was read.
    origin: Option<FileKey>,
}

/// What is cached beside the file.
#[derive(Serialize, Deserialize)]
struct CachedHeaders {
    base: u64,
    elf: ElfImage,
    setup_header: Vec<u8>,
    compression: Compression,
}

impl Unpacked {
    /// The kernel in the bzImage `image`, if it was unpacked before and the file has not changed since.
    pub fn find(image: &Image, cache: &KernelCache) -> Option<Unpacked> {
        let key = file_key(image)?;
        let cached = cache.find(&key)?;
        let headers: CachedHeaders = serde_json::from_slice(&cached.headers).ok()?;
        let mut setup_header = setup_header::default();
        let CachedHeaders { base, elf, compression, .. } = headers;
        let in_place = |segment: &ElfSegment| segment.gpa.checked_sub(base) == Some(segment.offset);
        let whole = headers.setup_header.len() == setup_header.as_slice().len()
            && elf.is_within(cached.size)
            && [base, cached.size].iter().all(|place| place.is_multiple_of(PAGE_SIZE))
            && elf.segments.iter().all(in_place);
        whole.then(|| {
            setup_header.as_mut_slice().copy_from_slice(&headers.setup_header);
            let image = Image::from_file(NAME, cached.file, cached.size);
            Unpacked { image, elf, setup_header, compression, cached_at: Some(base), origin: Some(key) }
        })
    }

    /// Unpacks the kernel in the bzImage `image`; `Ok(None)` where no decoder reads it, or it is no ELF file that can be
    /// entered by itself.
    ///
    /// # Errors
    /// The image cannot be read, or is broken.
    pub fn unpack(image: &Image, linux: &LinuxImage) -> Result<Option<Unpacked>, Problem> {
        let origin = file_key(image);
        let Some((compression, bytes)) = linux.unpack(image)? else { return Ok(None) };
        let unpacked = Image::from_vec(NAME, bytes);
        let head = unpacked.read(0, HEAD_SIZE)?;
        let parsed = if elf::is_elf(&head) { ElfImage::parse(&unpacked, &head) } else { Ok(None) };
        let malformed = |what| Problem::Malformed { format: "ELF file in the bzImage", what };
        let Some(mut elf) = parsed.map_err(malformed)? else { return Ok(None) };
        if elf.notes.pvh_entry.is_none() && !elf.class_64 {
            return Ok(None);
        }
        let mut bytes = unpacked.into_vec();
        elf.drop_zeros(&mut bytes);
        let image = Image::from_vec(NAME, bytes);
        Ok(Some(Unpacked { image, elf, setup_header: linux.header(), compression, cached_at: None, origin }))
    }

    /// What caches this kernel, which came from the bzImage `image`; nothing where it is cached, or where the file is not as
    /// it was before it was read.
    pub fn into_store_job(self, image: &Image, cache: &KernelCache) -> Option<StoreJob> {
        let key = self.origin.filter(|key| self.cached_at.is_none() && file_key(image).as_ref() == Some(key))?;
        let mut elf = self.elf;
        let (base, pieces) = lay_out(&mut elf.segments)?;
        let end = pieces.last().map_or(0, |piece| piece.at + piece.from.len() as u64);
        let setup_header = self.setup_header.as_slice().to_vec();
        let headers = CachedHeaders { base, elf, setup_header, compression: self.compression };
        let headers = serde_json::to_vec(&headers).expect("numbers and lists of them");
        let (cache, kernel, size) = (cache.clone(), self.image.into_vec(), end.next_multiple_of(PAGE_SIZE));
        Some(StoreJob { cache, key, kernel, pieces, size, headers })
    }
}

/// Gives `segments` the places of a file that is RAM from the first one's page on, and tells which page that is and what goes there
/// from the ELF file. `None` where they do not lie one close behind the other, above what else a guest finds in its RAM.
fn lay_out(segments: &mut [ElfSegment]) -> Option<(u64, Vec<Piece>)> {
    let base = segments.first()?.gpa / PAGE_SIZE * PAGE_SIZE;
    let (mut end, mut pieces) = (base.max(HIGH_RAM), Vec::new());
    for segment in segments {
        if segment.gpa.checked_sub(end)? > GAP_MAX {
            return None;
        }
        end = segment.gpa.checked_add(segment.file_size)?;
        let from = segment.offset as usize..(segment.offset + segment.file_size) as usize;
        segment.offset = segment.gpa - base;
        pieces.push(Piece { from, at: segment.offset });
    }
    Some((base, pieces))
}

/// The state of an image's file; `None` where there is none, or it may be changing.
fn file_key(image: &Image) -> Option<FileKey> {
    image.file().and_then(|file| FileKey::of(file).ok())?
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{CONTENT, Header, boot_kernel, bzimage, elf, segment, word};
    use super::super::kernel::{Kernel, Unpack};
    use super::super::load::{BootRequest, Pages};
    use super::*;
    use crate::arch::layout::MIB;
    use std::fs;
    use std::path::PathBuf;

    /// A kernel whose segment begins and ends within a page and has zeros at its end, as a bzImage file.
    fn write_bzimage(directory: &PathBuf) -> PathBuf {
        let content: Vec<u8> = (0..5 * 512u64).flat_map(|number| (number + 1).to_le_bytes()).chain([0; 4096]).collect();
        let offset = CONTENT + 0x800;
        let header = Header { offset, ..segment(2 * MIB + 0x800, 5 * 4096, 8 * 4096) };
        let _ = fs::remove_dir_all(directory);
        fs::create_dir(directory).unwrap();
        let path = directory.join("vmlinuz");
        fs::write(&path, bzimage(&elf(64, 2 * MIB + 0x800, &[header], &content))).unwrap();
        path
    }

    #[test]
    fn a_kernel_that_was_unpacked_before_comes_from_the_cache() {
        let directory = std::env::temp_dir().join(format!("hostel-unpacked-{}", std::process::id()));
        let path = write_bzimage(&directory);
        let cache = KernelCache::at(directory.join("cache"));
        let unpack = Unpack::OnHost { cache: Some(&cache) };
        let image = Image::open(&path).unwrap();
        while file_key(&image).is_none() {} // until the file is older than a clock step

        let fresh = Kernel::identify(&image, None, unpack).unwrap();
        assert!(fresh.describe().contains("just now"));
        let (expected, expected_ram) = boot_kernel(&fresh, &BootRequest::default()).unwrap();
        fresh.into_store_job(&cache).unwrap().run().unwrap();
        assert!(Kernel::identify(&image, None, Unpack::InGuest).unwrap().into_store_job(&cache).is_none());

        for pages in [Pages::Mapped, Pages::Copied] {
            let cached = Kernel::identify(&image, None, unpack).unwrap();
            assert!(cached.describe().contains("uncompressed, cached"));
            let (loaded, ram) = boot_kernel(&cached, &BootRequest { pages, ..BootRequest::default() }).unwrap();
            assert_eq!(loaded, expected);
            for gpa in (2 * MIB..2 * MIB + 9 * 4096).step_by(8) {
                assert_eq!(word(&ram, gpa), word(&expected_ram, gpa), "{pages:?} {gpa:#x}");
            }
            assert!(cached.into_store_job(&cache).is_none());
        }

        let other = KernelCache::at(directory.join("other"));
        let uncached = Kernel::identify(&image, None, Unpack::OnHost { cache: Some(&other) }).unwrap();
        image.file().unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert!(uncached.into_store_job(&other).is_none(), "the file changed after it was read");
        fs::remove_dir_all(directory).unwrap();
    }

    fn at(gpa: u64, offset: u64, file_size: u64) -> ElfSegment {
        ElfSegment { offset, file_size, gpa, gva: 0, memory_size: file_size + 4096 }
    }

    #[test]
    fn a_cached_file_has_its_segments_where_ram_has_them() {
        let mut segments = [at(2 * MIB + 0x10, 0x200, 0x30), at(2 * MIB + 0x40, 0x900, 8), at(4 * MIB, 0x300, 100)];
        let (base, pieces) = lay_out(&mut segments).unwrap();
        assert_eq!(base, 2 * MIB);
        assert_eq!(segments.map(|segment| segment.offset), [0x10, 0x40, 2 * MIB]);
        let piece = |from, at| Piece { from, at };
        assert_eq!(pieces, [piece(0x200..0x230, 0x10), piece(0x900..0x908, 0x40), piece(0x300..0x364, 2 * MIB)]);
    }

    #[test]
    fn segments_that_no_such_file_can_hold_are_not_cached() {
        for mut segments in [
            vec![],
            vec![at(0x9000, 0, 100)],
            vec![at(MIB, 0, 100), at(MIB + 100 + GAP_MAX + 1, 100, 100)],
            vec![at(2 * MIB, 0, 100), at(MIB, 100, 100)],
            vec![at(MIB, 0, 100), at(u64::MAX, 100, 100)],
        ] {
            assert_eq!(lay_out(&mut segments), None, "{segments:?}");
        }
    }

    #[test]
    fn zeros_at_the_end_of_a_segment_are_dropped() {
        let mut content = vec![0; 100];
        content[9] = 1;
        let mut file = elf(64, MIB, &[segment(MIB, 100, 200)], &content);
        let image = Image::from_bytes("test", &file);
        let mut parsed = ElfImage::parse(&image, &file).unwrap().unwrap();
        parsed.drop_zeros(&mut file);
        assert_eq!((parsed.segments[0].file_size, parsed.segments[0].memory_size), (10, 200));
        assert_eq!(file.len() as u64, CONTENT + 10);
        assert!(parsed.is_within(CONTENT + 10) && !parsed.is_within(CONTENT + 9));
    }

    #[test]
    fn sec62_headers_that_leave_the_cached_file_are_not_used() {
        let file = elf(64, MIB, &[segment(MIB, 100, 200)], &[1; 100]);
        let mut parsed = ElfImage::parse(&Image::from_bytes("test", &file), &file).unwrap().unwrap();
        parsed.segments[0].offset = u64::MAX;
        assert!(!parsed.is_within(u64::MAX));
    }
}
