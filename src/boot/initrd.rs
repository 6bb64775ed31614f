//! The initrd: any file, put as high in RAM as the kernel can reach it.
//!
//! Linux decides what it is (cpio, compressed or not); PVH and Multiboot guests see a module.
//! Source: Linux boot.rst "Details of Header Fields" (`ramdisk_image`, `initrd_addr_max`).

use super::error::Problem;
use super::image::{Image, ImageReader};
use super::placement::Placement;
use crate::memory::map::GuestRange;
use vm_memory::{Bytes, GuestAddress};

/// Highest address that an initrd may reach where the kernel does not say: `initrd_addr_max` of Linux before 2.03, and all
/// that a 32-bit guest surely maps.
pub const ADDRESS_MAX: u64 = 0x37ff_ffff;

/// Copies `image` to the highest free room that ends at or below `address_max`, on a page boundary.
///
/// # Errors
/// There is no such room, or the file cannot be read.
pub fn load(image: &Image, address_max: u64, placement: &mut Placement) -> Result<GuestRange, Problem> {
    let size = image.size();
    let start = placement.claim_below("initrd", size, address_max.saturating_add(1))?;
    let mut reader = ImageReader { head: &[], image, shift: 0, position: 0 };
    let count = usize::try_from(size).expect("x86-64 only");
    let copied = placement.ram().backend().read_exact_volatile_from(GuestAddress(start), &mut reader, count);
    copied.map_err(|_| Problem::Changed)?;
    Ok(GuestRange { start, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::MIB;
    use crate::memory::map::MemoryMap;
    use crate::memory::ram::GuestRam;

    #[test]
    fn sec62_an_initrd_larger_than_ram_is_refused() {
        let map = MemoryMap::new(16 * MIB).unwrap();
        let ram = GuestRam::new(&map).unwrap();
        let bytes = vec![7; 16 << 20];
        let mut placement = Placement::new(&ram, &map);
        let refused = load(&Image::from_bytes("initrd", &bytes), u64::MAX, &mut placement);
        assert!(matches!(refused, Err(Problem::NoRoom { .. })), "{refused:?}");
        let loaded = load(&Image::from_bytes("initrd", &bytes[..100]), ADDRESS_MAX, &mut placement).unwrap();
        assert_eq!(loaded, GuestRange { start: 16 * MIB - 4096, size: 100 });
        assert_eq!(ram.read_u64(loaded.start + 92), Some(0x0707_0707_0707_0707));
    }
}
